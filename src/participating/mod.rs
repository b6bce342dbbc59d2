//! The CPM Participating Function of the terminating user, sans-IO.
//!
//! Owns what CPM says: access policy, preferences, device choice, pager mode, deferral. Refuses to know sockets,
//! disks, XML and clocks: everything that happens arrives as a call or an [`input::Input`], everything it wants leaves
//! as an [`effect::Effect`].

pub mod b2bua;
pub mod content;
pub mod core;
pub mod decide;
pub mod deferred;
pub mod devices;
pub mod effect;
pub mod facts;
pub mod input;
pub mod large;
pub mod large_body;
pub mod large_decide;
pub mod large_dialog;
#[cfg(test)]
mod large_dialog_tests;
pub mod large_end;
pub mod large_media;
pub mod large_ringing;
#[cfg(test)]
mod large_scene;
#[cfg(test)]
mod large_tests;
#[cfg(test)]
mod large_wire_tests;
pub mod leg;
pub mod media;
pub mod objects;
pub mod originate;
pub mod pager;
pub mod policy;
pub mod preferences;
pub mod registration;
pub mod settings;
pub mod spooling;
pub mod storage;
pub mod subscriber;
pub mod transactions;
