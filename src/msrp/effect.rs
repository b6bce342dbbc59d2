//! What the relay asks of the shard that owns the connections.

use crate::base::id::ConnId;
use std::net::SocketAddr;

/// Names one attempt to open a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectTicket(pub u64);

/// Something to do to MSRP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaEffect {
    /// Opens a connection. The answer is `on_connected` or `on_connect_failed` with the ticket.
    Connect {
        /// Comes back with the answer.
        ticket: ConnectTicket,
        /// Where.
        to: SocketAddr,
        /// Index into `msrp.listen`: the interface to connect from.
        listener: u8,
    },
    /// Gives an attempt up; it is not answered any more.
    Abandon(ConnectTicket),
    /// Lets what waits to leave leave, for a short while, then closes. Nothing more is heard of the connection.
    Close(ConnId),
    /// Stops reading, so that TCP stops the sender. What was read already may still arrive.
    Pause(ConnId),
    /// Reads again.
    Resume(ConnId),
}
