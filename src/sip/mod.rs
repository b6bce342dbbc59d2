//! sip

pub mod framing;
