//! The words the relay shares with whoever opens its sessions: plans that go in, events that come out.

use crate::base::slots::SlotId;
use bytes::Bytes;
use std::net::SocketAddr;

/// Names a session of one relay.
pub type SessionId = SlotId;

/// One of a session's two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The sender of the message.
    Originating,
    /// Its receiver.
    Terminating,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Originating, Self::Terminating];

    /// The opposite side. RFC 4975 §5.1.
    pub const fn other(self) -> Self {
        match self {
            Self::Originating => Self::Terminating,
            Self::Terminating => Self::Originating,
        }
    }

    /// The side as an index into tables of two. RFC 4975 §5.1.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Who opens the connection of a side: our part in it (RFC 6135).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// This appliance connects.
    Active,
    /// The peer connects.
    #[default]
    Passive,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Chunks of the originating side go on to the terminating side.
    Bridge {
        /// Bodies also come out as [`Event::Piece`], for the history.
        record: bool,
    },
    /// Only the originating side exists: bodies come out as [`Event::Piece`] and are acknowledged here.
    Spool,
    /// Only the terminating side exists: a message that is supplied in pieces goes there.
    Source,
}

/// What [`super::relay::Relay::open`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct OpenPlan {
    /// What the session is for.
    pub purpose: Purpose,
    /// Per side, the listening address that its own URI names: an index into the settings' listeners.
    pub listeners: [u8; 2],
    /// Largest message.
    pub size_max: u64,
}

/// What one side's SDP said.
#[derive(Clone, Copy, Debug)]
pub struct LegPlan<'a> {
    /// Value of the peer's `a=path`.
    pub peer_path: &'a [u8],
    /// Our part in opening the connection.
    pub role: Role,
    /// Where to connect when active: up to two addresses, tried in order.
    pub connect_to: &'a [SocketAddr],
    /// Media types that this peer's messages may have, separated by blanks; empty means any.
    pub accept_types: &'a [u8],
}

/// A message that this appliance sends itself.
#[derive(Clone, Copy, Debug)]
pub struct SourceMessage<'a> {
    /// Its Message-ID.
    pub message_id: &'a str,
    /// Its Content-Type.
    pub content_type: &'a str,
    /// Its length.
    pub total: u64,
    /// Bytes the receiver has already.
    pub offset: u64,
}

/// Why a session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No connection to the peer could be opened.
    Connect,
    /// No connection was joined to the session in time.
    Bind,
    /// The peer's connection ended.
    Closed,
    /// A chunk got no response in time.
    Silence,
    /// Nothing passed for too long.
    Idle,
    /// The peer broke the rules in a way that leaves nothing to go on with.
    Protocol,
}

/// What the relay has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection was joined to a side.
    Bound {
        /// The session.
        id: SessionId,
        /// The side.
        side: Side,
    },
    /// Part of a body (spool, and bridges that record).
    Piece {
        /// The session.
        id: SessionId,
        /// Its place in the message, from 0.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Spool: all bytes were handed out and [`super::relay::Relay::committed`] is awaited. Bridge: the receiver has
    /// acknowledged the last chunk, or it was sent as one that is not acknowledged.
    Complete {
        /// The session.
        id: SessionId,
        /// The message's Message-ID.
        message_id: Box<[u8]>,
        /// Its Content-Type.
        content_type: Box<[u8]>,
        /// Its length.
        total: u64,
    },
    /// What was handed out of this message is void.
    Aborted {
        /// The session.
        id: SessionId,
    },
    /// Source: [`super::relay::Relay::supply`] is awaited with exactly these bytes.
    Wanted {
        /// The session.
        id: SessionId,
        /// Place in the message, from 0.
        offset: u64,
        /// How many.
        len: u32,
    },
    /// Source: every chunk was acknowledged, or one was not.
    Sent {
        /// The session.
        id: SessionId,
        /// 200, or the first other status; 408 when the receiver is silent.
        status: u16,
    },
    /// The session cannot go on; SIP ends it.
    Lost {
        /// The session.
        id: SessionId,
        /// The side where it happened.
        side: Side,
        /// Why.
        why: Why,
    },
}

/// How full the relay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Sessions.
    pub sessions: usize,
    /// Connections.
    pub connections: usize,
    /// Bytes waiting to leave or in the kernel's hands.
    pub egress_len: usize,
}

/// What happened since the counts were last taken; names as in the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// SEND chunks passed on or taken.
    pub chunks: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Responses passed back.
    pub responses: u64,
    /// Responses generated here.
    pub own_responses: u64,
    /// REPORT requests passed on or generated.
    pub reports: u64,
    /// Requests answered with an error of our own.
    pub refused: u64,
    /// Connections closed because chunk boundaries were lost.
    pub unframed: u64,
    /// Chunks that got no response in time.
    pub timeouts: u64,
    /// Times a sender was not read from because its receiver is slow.
    pub paused: u64,
    /// Messages of bridges whose last chunk the receiver acknowledged, or that need no acknowledgement.
    pub delivered: u64,
    /// Messages of bridges that were aborted, refused or broken off.
    pub aborted: u64,
}
