//! Everything that can happen to the participating function besides a message on its own sockets.

use super::devices::RegistrationChange;
use super::effect::Socket;
use super::storage;
use crate::base::id::{Aor, ConnId, ShardId, Ticket};
use crate::base::mailbox::Mailbox;
use bytes::Bytes;
use std::net::SocketAddr;

/// How a SIP message travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// Where a SIP message came from, and so where its response goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// How it came.
    pub transport: Transport,
    /// The packet's source address.
    pub peer: SocketAddr,
    /// Which of the configured listening addresses took it (index into `sip.listen`).
    pub listener: u8,
    /// For datagrams, which of that address's sockets: a response leaves from there (RFC 3581 §4).
    pub socket: Socket,
    /// For streams, the connection and the shard that owns it.
    pub conn: Option<(ShardId, ConnId)>,
}

/// Everything that other threads tell a shard's core.
#[derive(Debug)]
pub enum Input {
    /// A SIP message that another shard received and this one owns.
    Handover {
        /// The whole message.
        message: Bytes,
        /// Where it came from.
        source: Source,
    },
    /// The store answers a command.
    Store {
        /// Who asked.
        ticket: Ticket,
        /// What came of it.
        answer: storage::Answer,
    },
    /// The spool answers a command.
    Spool {
        /// Who asked.
        ticket: Ticket,
        /// What came of it.
        answer: Result<storage::SpoolReply, storage::Fault>,
    },
    /// The control plane answers a command.
    Control {
        /// Who asked.
        ticket: Ticket,
        /// What came of it.
        answer: ControlAnswer,
    },
    /// A subscriber of whom this shard is the home can be reached and may have deferred messages.
    SubscriberReady(Aor),
    /// Another shard's mailbox had no room for what this shard posted to it.
    Returned {
        /// The shard that it was for.
        to: ShardId,
        /// What was posted.
        input: Box<Input>,
    },
    /// What was sent on a stream could not be delivered to the peer.
    StreamFailed {
        /// The ticket of the send.
        ticket: Ticket,
    },
}

/// What the control plane is asked.
#[derive(Debug)]
pub enum ControlCommand {
    /// A third-party REGISTER changed a subscriber's devices.
    Register(RegistrationChange),
    /// A host name of a Route or next hop needs addresses.
    Resolve {
        /// The name.
        host: Box<str>,
        /// The port to put on every address found.
        port: u16,
    },
}

/// What the control plane answers.
#[derive(Debug, Clone)]
pub enum ControlAnswer {
    /// The registration is durable and visible to every shard.
    Registered,
    /// The registration could not be made durable.
    NotRegistered(storage::Fault),
    /// The addresses of a name, best first; empty when there is none.
    Resolved(Vec<SocketAddr>),
}

/// A command to the control plane and the shard that waits for its answer ([`Input::Control`]).
#[derive(Debug)]
pub struct ControlJob {
    /// The shard that asks.
    pub shard: ShardId,
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// What to do.
    pub command: ControlCommand,
}

/// The control plane's door for shards.
pub type ControlMailbox = Mailbox<ControlJob>;

/// The shards, as other threads see them.
pub trait Shards: Send + Sync {
    /// How many there are.
    fn count(&self) -> u16;
    /// Gives a shard's core an input, or gives it back when the shard's mailbox is full.
    fn try_post(&self, to: ShardId, input: Input) -> Result<(), Input>;
}
