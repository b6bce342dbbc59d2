//! sip

pub mod uri;
