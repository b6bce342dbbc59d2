//! sip

pub mod transaction;
