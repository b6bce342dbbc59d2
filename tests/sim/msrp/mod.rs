//! Peers that speak MSRP, the TCP between them and the appliance, and histories of a relay alone.

pub mod codec;
pub mod peers;
pub mod wire;
pub mod world;
