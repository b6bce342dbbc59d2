//! The appliance from its user's side: the real binary, real sockets, SIP endpoints with a codec of their own.
//!
//! No test looks inside. Absence ("nothing is forwarded") is proven by a later message that must be the first to
//! arrive on the same path, never by waiting.

#[path = "../support/mod.rs"]
mod support;

mod acceptance;
mod deferral;
mod disk;
mod durability;
mod forking;
mod interworking;
mod large_acceptance;
mod large_bad_input;
mod large_msrp;
mod large_setup;
mod large_sip;
mod large_spool;
mod large_stage;
mod large_timers;
mod large_tools;
mod large_wire;
mod operation;
mod registration;
mod sharding;
mod sip_rules;
mod stage;
mod tools;
mod torture;
mod transport;
mod xcap;
