//! ringpost: the OMA CPM Participating Function of the terminating user.
//!
//! Rooms in dependency order; a room imports only rooms of a lower level:
//!
//! | level | rooms | subject |
//! | --- | --- | --- |
//! | 0 | [`base`] | words every room shares: time, handles, bounds, mailboxes |
//! | 1 | [`metrics`], [`sip`], [`sdp`], [`msrp`], [`cpim`] | counters; SIP; session descriptions; MSRP; message bodies |
//! | 2 | [`participating`] | what CPM says: policy, preferences, pager and large message mode, deferral |
//! | 3 | [`store`], [`documents`], [`config`], [`uring`] | disk, XML, settings, kernel |
//! | 4 | [`control`], [`shard`] | subscribers and who changes them; a per-core worker: ring in, cores, ring out |
//! | 5 | [`admin`] | XCAP root, admin API, metrics over HTTP |
//! | 6 | [`appliance`] | everything started and stopped in order |
//! | 7 | [`demo`] | the main job in one command |
//! | - | [`testing`] | models and fuzz entry points; nothing of the product imports it |
//!
//! `ARCHITECTURE.md` draws the map and follows one datagram through it.

#![deny(unsafe_code)]

pub mod base;
pub mod cpim;
pub mod metrics;
pub mod msrp;
pub mod participating;
pub mod sdp;
pub mod sip;
pub mod store;

pub mod config;
pub mod control;
pub mod documents;
pub mod uring;

pub mod shard;

pub mod admin;

pub mod appliance;

pub mod demo;

pub mod testing;
