//! Cores with both legs of large message mode: SIP over a bad network, MSRP over breaking connections, store and spool.

pub mod sip;
pub mod spool;
pub mod world;
