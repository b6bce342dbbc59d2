//! Everything the participating function may ask for.

use super::input::{ControlCommand, Input, Transport};
use super::storage::{Command, SpoolCommand};
use crate::base::id::{ConnId, ShardId, Ticket};
use crate::msrp::effect::MediaEffect;
use bytes::Bytes;
use std::net::SocketAddr;

/// Which UDP socket a datagram leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The listening address that all shards share.
    WellKnown,
    /// The shard's own port, named in the Via and Contact that it writes.
    Own,
}

/// Where stream bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamTarget {
    /// Back over the connection a request came on; when that is gone, a new one to `fallback` (RFC 3261 §18.2.2).
    Connection {
        /// The shard that owns the connection.
        shard: ShardId,
        /// The connection.
        conn: ConnId,
        /// Where to connect when it is gone.
        fallback: SocketAddr,
    },
    /// An outgoing connection to this peer, an open one if there is one.
    Peer(SocketAddr),
}

/// One thing to do. The answer, where there is one, arrives as a later [`Input`] with the same ticket.
#[derive(Debug)]
pub enum Effect {
    /// Sends a datagram.
    SendDatagram {
        /// The socket it leaves from.
        socket: Socket,
        /// Index into `sip.listen`: the address family and interface.
        listener: u8,
        /// The destination.
        to: SocketAddr,
        /// The payload.
        bytes: Bytes,
    },
    /// Sends bytes on a stream; a failure comes back as [`Input::StreamFailed`] when there is a ticket.
    SendStream {
        /// The destination.
        to: StreamTarget,
        /// Index into `sip.listen`: the interface to connect from.
        listener: u8,
        /// One whole SIP message.
        bytes: Bytes,
        /// Whom to tell of a failure.
        ticket: Option<Ticket>,
    },
    /// Asks the durable store.
    Store {
        /// Comes back with the answer.
        ticket: Ticket,
        /// What to do.
        command: Command,
    },
    /// Asks the control plane.
    Control {
        /// Comes back with the answer.
        ticket: Ticket,
        /// What to do.
        command: ControlCommand,
    },
    /// Asks the spool.
    Spool {
        /// Comes back with the answer, where there is one.
        ticket: Ticket,
        /// What to do.
        command: SpoolCommand,
    },
    /// Does something to MSRP connections.
    Media(MediaEffect),
    /// Gives an input to another shard.
    Post {
        /// The shard.
        to: ShardId,
        /// The input.
        input: Input,
    },
}

/// How a next hop is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Transport asked for by the URI; `None` leaves the choice to the message's size.
    pub transport: Option<Transport>,
    /// The address.
    pub addr: SocketAddr,
}
