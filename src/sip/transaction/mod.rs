//! The four transaction machines of RFC 3261 §17 as RFC 6026 amends them.
//!
//! A machine knows its state and its timers and nothing else: no message, no address, no table. Whoever holds it feeds
//! it what happens and does what the returned [`Action`] says, with the request or response that it keeps itself.
//! Each machine has one transition function, `State::next`, laid beside the figure by a golden file in
//! `tests/golden/`.
//!
//! Specifications: RFC 3261 §17, RFC 6026, RFC 4320.

pub mod invite_client;
pub mod invite_server;
pub mod non_invite_client;
pub mod non_invite_server;
pub mod timer;

pub use invite_client::InviteClient;
pub use invite_server::InviteServer;
pub use non_invite_client::NonInviteClient;
pub use non_invite_server::NonInviteServer;
pub use timer::{T1, T2, T4, Timers};

/// Whether the transport delivers by itself what it takes: a reliable one needs no retransmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reliability {
    /// A datagram: UDP.
    Unreliable,
    /// A stream: TCP, TLS.
    Reliable,
}

/// What the holder of a machine does now: sends, tells the transaction user, then lets the machine go if it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Action {
    /// To the transport.
    pub send: Send,
    /// To the transaction user.
    pub tell: Tell,
    /// The machine has reached Terminated: its slot is free.
    pub terminated: bool,
}

/// What goes to the transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Send {
    /// Nothing.
    #[default]
    Nothing,
    /// The client's request once more.
    Request,
    /// The response just given, or the last one once more.
    Response,
    /// An ACK for the final response just received (RFC 3261 §17.1.1.3).
    Ack,
}

/// What the transaction user hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tell {
    /// Nothing.
    #[default]
    Nothing,
    /// A provisional response: pass it up.
    Provisional,
    /// A 2xx response to INVITE, one of several if the INVITE forked: pass it up; the transaction user sends the ACK.
    Success,
    /// The final response (of an INVITE: 300-699): pass it up.
    Final,
    /// An ACK for a 2xx response: pass it up.
    Ack,
    /// No final response came in time, or no ACK for one. A proxy answers this with 408 only for INVITE, and not at
    /// all for other methods: the client has given up as well (RFC 4320 §4.2).
    TimedOut,
    /// The transport could not deliver.
    TransportError,
    /// The request is still unanswered and a 100 is due: RFC 3261 §17.2.1 for INVITE, RFC 4320 §4.1 for the rest.
    TryingDue,
}

impl Action {
    /// Nothing to do.
    pub const NONE: Self = Self { send: Send::Nothing, tell: Tell::Nothing, terminated: false };

    const fn send(send: Send) -> Self {
        Self { send, ..Self::NONE }
    }

    const fn tell(tell: Tell) -> Self {
        Self { tell, ..Self::NONE }
    }

    const fn and_tell(mut self, tell: Tell) -> Self {
        self.tell = tell;
        self
    }

    const fn ended(mut self, terminated: bool) -> Self {
        self.terminated = terminated;
        self
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod histories;
