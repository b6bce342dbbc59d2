//! What the operator decides about MSRP (SPEC §8).

use std::net::SocketAddr;

/// Who answers a chunk (`msrp.ack`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The receiver: the sender's 200 follows the receiver's (SPEC LM-M2).
    #[default]
    EndToEnd,
    /// This appliance, at the chunk's end; a later failure becomes a REPORT.
    HopByHop,
}

/// How `a=path` is written, and so what a From-Path holds (`msrp.path_mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathMode {
    /// Own URI before the other side's.
    #[default]
    Prepend,
    /// Own URI alone.
    Replace,
}

/// Settings of one shard's relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// The shard's own MSRP addresses as peers reach them, in the order of `msrp.listen`.
    pub listeners: Vec<SocketAddr>,
    /// Who answers a chunk.
    pub acknowledgement: Acknowledgement,
    /// How paths are written.
    pub path_mode: PathMode,
}
