//! A shard's SIP transactions: matching, retransmission and timers around the machines of `sip::transaction`.
//!
//! The table knows nothing of CPM: it says whether a request is new, and whose a response is.

use super::effect::{Effect, Socket, StreamTarget};
use super::input::{Source, Transport};
use crate::base::id::{ShardId, Ticket};
use crate::base::limits::{CLIENT_TRANSACTION_COUNT_MAX, SERVER_TRANSACTION_COUNT_MAX};
use crate::base::rng::Rng;
use crate::base::slots::{SlotId, Slots};
use crate::base::time::Instant;
use crate::base::timer_wheel::TimerWheel;
use crate::metrics::counters::ShardMetrics;
use crate::metrics::names::Counter;
use crate::sip::header::via::Via;
use crate::sip::message::{Envelope, Message};
use crate::sip::scan::{Name, Scan};
use crate::sip::transaction::invite_client::State as InviteState;
use crate::sip::transaction::invite_server::State as InviteServerState;
use crate::sip::transaction::{
    Action, InviteClient, InviteServer, NonInviteClient, NonInviteServer, Reliability, Send as SendWhat, T1, Tell,
};
use crate::sip::transport::{ViaStamp, exceeds_datagram, response_address};
use crate::sip::write::line;
use bytes::Bytes;
use foldhash::fast::FixedState;
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

/// A server transaction.
pub type ServerId = SlotId;
/// A client transaction.
pub type ClientId = SlotId;

/// What a [`Ticket`] of a core stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nobody: the answer only counts.
    Nobody,
    /// A client transaction.
    Client(ClientId),
    /// A message or registration in progress.
    Job(SlotId),
    /// A user whose deferred messages are being delivered.
    Delivery(SlotId),
    /// The sweep of expired messages.
    Sweep,
    /// A session in large message mode.
    Session(SlotId),
    /// A large message on its way into a file.
    Spool(SlotId),
    /// The word that such a file is discarded, which is answered only when there was no room for it.
    Discard(SlotId),
    /// A piece of a deferred large message on its way to a device.
    Source(SlotId),
}

impl Waiting {
    /// Packs it.
    pub fn ticket(self) -> Ticket {
        let (kind, id) = match self {
            Self::Nobody => (0, SlotId::default()),
            Self::Client(id) => (1, id),
            Self::Job(id) => (2, id),
            Self::Delivery(id) => (3, id),
            Self::Sweep => (4, SlotId::default()),
            Self::Session(id) => (5, id),
            Self::Spool(id) => (6, id),
            Self::Discard(id) => (7, id),
            Self::Source(id) => (8, id),
        };
        Ticket(kind << 60 | u64::from(id.generation) << 32 | u64::from(id.slot))
    }

    /// Unpacks it.
    pub fn of(ticket: Ticket) -> Self {
        let id = SlotId { slot: ticket.0 as u32, generation: (ticket.0 >> 32) as u32 & ((1 << 28) - 1) };
        match ticket.0 >> 60 {
            1 => Self::Client(id),
            2 => Self::Job(id),
            3 => Self::Delivery(id),
            4 => Self::Sweep,
            5 => Self::Session(id),
            6 => Self::Spool(id),
            7 => Self::Discard(id),
            8 => Self::Source(id),
            _ => Self::Nobody,
        }
    }
}

/// The way back to whoever sent a request.
#[derive(Clone, Copy, Debug)]
pub struct ReplyPath {
    /// Where the request came from.
    pub source: Source,
    /// Where a datagram, or a new connection, goes.
    pub to: SocketAddr,
    /// What the request's topmost Via gains.
    pub stamp: ViaStamp,
}

impl ReplyPath {
    /// Reads it from the topmost Via. RFC 3261 §18.2.
    pub fn of(via: &Via<'_>, source: Source) -> Self {
        let to = match source.transport {
            Transport::Udp => response_address(via, source.peer),
            // The source port of a connection takes no other: RFC 3581 is about datagrams.
            Transport::Tcp => response_address(&Via { rport: None, ..*via }, source.peer),
        };
        Self { source, to, stamp: ViaStamp::of(via, source.peer) }
    }

    fn reliability(&self) -> Reliability {
        match self.source.transport {
            Transport::Udp => Reliability::Unreliable,
            Transport::Tcp => Reliability::Reliable,
        }
    }

    /// The effect that sends a response.
    pub fn send(&self, bytes: Bytes) -> Effect {
        match self.source.conn {
            None => {
                Effect::SendDatagram { socket: self.source.socket, listener: self.source.listener, to: self.to, bytes }
            }
            Some((shard, conn)) => Effect::SendStream {
                to: StreamTarget::Connection { shard, conn, fallback: self.to },
                listener: self.source.listener,
                bytes,
                ticket: None,
            },
        }
    }
}

/// What makes a request one: the key of RFC 3261 §17.2.3, hashed with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKey(u128);

impl ServerKey {
    /// What tables place it by.
    const fn hash(self) -> u64 {
        self.0 as u64
    }
}

/// Whether a request is new to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is, and this is its transaction.
    New(ServerId),
    /// The same request came on another path before (RFC 3261 §8.2.2.2); this transaction answers it.
    Merged(ServerId),
    /// No room, and nothing completed that could go.
    Full,
}

enum ServerMachine {
    NonInvite(NonInviteServer),
    Invite(InviteServer),
}

impl ServerMachine {
    /// True for an INVITE that has its 2xx: the machine only absorbs repetitions until Timer L.
    fn is_accepted(&self) -> bool {
        matches!(self, Self::Invite(machine) if machine.state() == InviteServerState::Accepted)
    }

    /// True when a machine that has answered waits for nothing but the end of its linger.
    fn lingers(&self) -> bool {
        matches!(self, Self::NonInvite(_)) || self.is_accepted()
    }
}

/// What works on the answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Job(SlotId),
    Session(SlotId),
}

struct Server {
    key: ServerKey,
    merged: Option<u64>,
    machine: ServerMachine,
    path: ReplyPath,
    /// What works on the answer.
    work: Option<Work>,
    response: Bytes,
    started: Instant,
    completed: bool,
    /// When the wheel looks at the transaction next.
    armed: Option<Instant>,
}

/// Whose a client transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A message being forwarded.
    Job(SlotId),
    /// An attempt to deliver a deferred message.
    Delivery {
        /// The user's delivery.
        id: SlotId,
        /// Which attempt: a branch that is answered when the next message is under way speaks of its own attempt only.
        round: u32,
    },
    /// A request of a session in large message mode.
    Leg {
        /// The session.
        session: SlotId,
        /// Which of its legs.
        leg: u8,
        /// What it asks.
        request: LegRequest,
    },
    /// A request of an attempt to deliver a deferred large message.
    Origination {
        /// The user's delivery.
        id: SlotId,
        /// Which attempt.
        round: u32,
        /// Which of its legs.
        leg: u8,
        /// What it asks.
        request: LegRequest,
    },
    /// A request of our own that nobody waits for: a notification, a CANCEL.
    Notice,
}

/// What a request of a leg asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegRequest {
    /// The INVITE that makes the dialog.
    Invite,
    /// An INVITE within the dialog.
    Reinvite,
    /// UPDATE.
    Update,
    /// PRACK.
    Prack,
    /// BYE.
    Bye,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The transport it leaves over.
    pub transport: Transport,
    /// The address.
    pub to: SocketAddr,
    /// Index of the listening address it leaves from.
    pub listener: u8,
    /// It left over a stream for its size alone, and goes as a datagram if no stream can be had (RFC 3261 §18.1.1).
    pub sized_up: bool,
}

enum ClientMachine {
    NonInvite(NonInviteClient),
    Invite(InviteClient),
}

/// Whether an INVITE is to be called back. RFC 3261 §9.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cancelling {
    /// No.
    #[default]
    No,
    /// As soon as a provisional response shows that it has arrived.
    Wanted,
    /// The CANCEL is this transaction; without a final response by then the INVITE is given up.
    Sent(ClientId, Instant),
}

struct Client {
    nonce: u64,
    machine: Option<ClientMachine>,
    cancelling: Cancelling,
    owner: Owner,
    destination: Destination,
    request: Bytes,
    started: Instant,
    /// It has its final response and only absorbs repetitions.
    answered: bool,
    /// When the wheel looks at the transaction next.
    armed: Option<Instant>,
}

/// What a client transaction has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A provisional response.
    Provisional,
    /// A 2xx response to INVITE, each time it comes: the ACK is the transaction user's (RFC 3261 §13.2.2.4).
    Success,
    /// The final response; of an INVITE, one that is not a 2xx.
    Final,
    /// No final response in 64·T1.
    TimedOut,
    /// The request could not be sent.
    Unsendable,
}

/// What a timer has to say to the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A client transaction came to its end.
    Client(ClientId, Owner, Verdict),
    /// A request has gone unanswered for so long that a 100 is due (RFC 4320 §4.1).
    TryingDue(ServerId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    Server(ServerId),
    Client(ClientId),
}

/// The table.
pub struct Transactions {
    shard: ShardId,
    seeds: [FixedState; 2],
    servers: Slots<Server>,
    /// Slots of server transactions by their key, which is a hash already. The keys themselves stand in the slots, so
    /// that the table stays small.
    by_key: HashTable<u32>,
    /// The same by what a merged request has in common with the first.
    by_merged: HashTable<u32>,
    /// Server transactions that linger after their final response, oldest first, each with the end of its linger. All
    /// linger equally long, so a queue is their timer: they need no place on the wheel.
    completed: VecDeque<(ServerId, Instant)>,
    clients: Slots<Client>,
    /// The same of client transactions, which only absorb repeated responses.
    absorbing: VecDeque<(ClientId, Instant)>,
    /// The same of INVITE client transactions that have a 2xx, which linger longer (Timer M).
    accepted: VecDeque<(ClientId, Instant)>,
    wheel: TimerWheel<Timed>,
    metrics: Arc<ShardMetrics>,
}

/// How long a completed server transaction lingers: Timers H and J. RFC 3261 §17.2.
const LINGER: std::time::Duration = T1.saturating_mul(64);

/// Bytes of a branch of ours: cookie, mark, shard, slot, nonce, loop mark.
const BRANCH_LEN: usize = 9 + 4 + 8 + 16 + 8;
const BRANCH_PREFIX: &[u8] = b"z9hG4bKrp";

/// A branch of ours, read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnBranch {
    /// The shard whose transaction it names.
    pub shard: ShardId,
    slot: u32,
    nonce: u64,
    /// The hash of what must differ for the request to be no loop.
    pub loop_mark: u32,
}

impl OwnBranch {
    /// Every branch of ours in a Via field, wherever it stands.
    pub fn find_all(value: &[u8]) -> impl Iterator<Item = Self> {
        memchr::memchr_iter(BRANCH_PREFIX[0], value).filter_map(move |at| Self::parse(value.get(at..at + BRANCH_LEN)?))
    }

    /// Reads a branch; `None` if it is not of our making.
    pub fn parse(branch: &[u8]) -> Option<Self> {
        let hex = branch.strip_prefix(BRANCH_PREFIX)?;
        if branch.len() != BRANCH_LEN || !hex.is_ascii() {
            return None;
        }
        let hex = std::str::from_utf8(hex).ok()?;
        Some(Self {
            shard: ShardId(u16::from_str_radix(&hex[..4], 16).ok()?),
            slot: u32::from_str_radix(&hex[4..12], 16).ok()?,
            nonce: u64::from_str_radix(&hex[12..28], 16).ok()?,
            loop_mark: u32::from_str_radix(&hex[28..], 16).ok()?,
        })
    }
}

impl Transactions {
    /// An empty table.
    pub fn new(shard: ShardId, seed: u64, now: Instant, metrics: Arc<ShardMetrics>) -> Self {
        Self {
            shard,
            seeds: [FixedState::with_seed(seed), FixedState::with_seed(seed.rotate_left(32) ^ 0x5bd1_e995)],
            servers: Slots::new(SERVER_TRANSACTION_COUNT_MAX),
            // At their full size from the start: growing one of them would stop the shard for milliseconds.
            by_key: HashTable::with_capacity(SERVER_TRANSACTION_COUNT_MAX),
            by_merged: HashTable::with_capacity(SERVER_TRANSACTION_COUNT_MAX),
            completed: VecDeque::with_capacity(SERVER_TRANSACTION_COUNT_MAX),
            clients: Slots::new(CLIENT_TRANSACTION_COUNT_MAX),
            absorbing: VecDeque::with_capacity(CLIENT_TRANSACTION_COUNT_MAX),
            accepted: VecDeque::new(),
            wheel: TimerWheel::new(now),
            metrics,
        }
    }

    /// True when no request can be sent.
    pub fn is_full(&self) -> bool {
        self.clients.is_full()
    }

    /// Server and client transactions in the table.
    pub fn counts(&self) -> (usize, usize) {
        (self.servers.len(), self.clients.len())
    }

    fn hash(&self, parts: &[&[u8]]) -> u128 {
        let [a, b] = &self.seeds;
        let (mut a, mut b) = (a.build_hasher(), b.build_hasher());
        for part in parts {
            a.write(part);
            a.write_usize(part.len());
            b.write(part);
            b.write_usize(part.len());
        }
        u128::from(a.finish()) << 64 | u128::from(b.finish())
    }

    fn hash_once(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.seeds[0].build_hasher();
        for part in parts {
            hasher.write(part);
            hasher.write_usize(part.len());
        }
        hasher.finish()
    }

    /// The key of a request; an ACK has the key of its INVITE. RFC 3261 §17.2.3.
    pub fn key(&self, message: &Message<'_>, envelope: &Envelope<'_>, method: &[u8]) -> ServerKey {
        let method = if method == b"ACK" { b"INVITE" } else { method };
        let via = &envelope.via;
        let port = via.port.unwrap_or(crate::sip::transport::DEFAULT_PORT).to_be_bytes();
        if via.has_magic_cookie() {
            let mut host = [0u8; 64];
            let len = via.host.len().min(host.len());
            host[..len].copy_from_slice(&via.host[..len]);
            host[..len].make_ascii_lowercase();
            return ServerKey(self.hash(&[via.branch.unwrap_or_default(), &host[..len], &port, method]));
        }
        // RFC 2543 matching: Request-URI, From tag, Call-ID, CSeq number and the whole topmost Via.
        ServerKey(self.hash(&[
            message.request_uri().unwrap_or_default(),
            envelope.from_tag,
            envelope.call_id,
            &envelope.cseq.to_be_bytes(),
            via.text,
            method,
        ]))
    }

    /// A tag that is the same for every answer to one request. RFC 3261 §8.2.6.2 (stateless servers need this).
    pub fn to_tag(&self, key: ServerKey) -> [u8; 16] {
        let number = (key.0 >> 64) as u64 ^ (key.0 as u64).rotate_left(17);
        std::array::from_fn(|at| HEX_DIGITS[(number >> (60 - 4 * at) & 15) as usize])
    }

    /// The transaction that a request belongs to.
    pub fn find(&self, key: ServerKey) -> Option<ServerId> {
        let is_it = |slot: &u32| self.servers.at(*slot).is_some_and(|(_, server)| server.key == key);
        let slot = self.by_key.find(key.hash(), is_it)?;
        self.servers.at(*slot).map(|(id, _)| id)
    }

    /// Takes a repeated request: the last response leaves again. RFC 3261 §17.2.
    pub fn on_repeat(&mut self, id: ServerId, now: Instant, out: &mut VecDeque<Effect>) {
        self.drive_server(id, out, |machine| match machine {
            ServerMachine::NonInvite(machine) => machine.on_request(now),
            ServerMachine::Invite(machine) => machine.on_request(now),
        });
    }

    /// Takes an ACK for a final response to an INVITE. RFC 3261 §17.2.1.
    pub fn on_ack(&mut self, id: ServerId, now: Instant, out: &mut VecDeque<Effect>) {
        self.drive_server(id, out, |machine| match machine {
            ServerMachine::NonInvite(_) => Action::default(),
            ServerMachine::Invite(machine) => machine.on_ack(now),
        });
    }

    /// Has the wheel look at a request that was not answered at once.
    pub fn watch(&mut self, id: ServerId) {
        self.arm(Timed::Server(id));
    }

    /// Makes a transaction for a new request. Whoever takes it calls [`Self::watch`] when it leaves it unanswered.
    pub fn admit(
        &mut self,
        key: ServerKey,
        message: &Message<'_>,
        envelope: &Envelope<'_>,
        path: ReplyPath,
        now: Instant,
    ) -> Admission {
        debug_assert!(self.find(key).is_none(), "only a new request is admitted");
        let method = message.method().unwrap_or_default();
        // RFC 3261 §8.2.2.2; the Request-URI is part of it, since a fork to two users we serve is no merge.
        let merged = (envelope.to_tag.is_none() && method != b"CANCEL").then(|| {
            self.hash_once(&[
                envelope.from_tag,
                envelope.call_id,
                &envelope.cseq.to_be_bytes(),
                method,
                message.request_uri().unwrap_or_default(),
            ])
        });
        let is_merged = merged.is_some_and(|hash| {
            let is_it = |slot: &u32| self.servers.at(*slot).is_some_and(|(_, server)| server.merged == Some(hash));
            self.by_merged.find(hash, is_it).is_some()
        });
        let machine = if method == b"INVITE" {
            ServerMachine::Invite(InviteServer::new(path.reliability()).with_trying(now))
        } else {
            ServerMachine::NonInvite(NonInviteServer::new(path.reliability()).with_trying(now))
        };
        let server = Server {
            key,
            merged: merged.filter(|_| !is_merged),
            machine,
            path,
            work: None,
            response: Bytes::new(),
            started: now,
            completed: false,
            armed: None,
        };
        if self.servers.is_full() && !self.evict_completed() {
            return Admission::Full;
        }
        let merged = server.merged;
        let Some(id) = self.servers.insert(server) else { return Admission::Full };
        let servers = &self.servers;
        let key_of = |slot: &u32| servers.at(*slot).map_or(0, |(_, server)| server.key.hash());
        self.by_key.insert_unique(key.hash(), id.slot, key_of);
        if let Some(hash) = merged {
            let merged_of = |slot: &u32| servers.at(*slot).and_then(|(_, server)| server.merged).unwrap_or_default();
            self.by_merged.insert_unique(hash, id.slot, merged_of);
        }
        if is_merged { Admission::Merged(id) } else { Admission::New(id) }
    }

    /// Makes room by ending the oldest completed transaction before its linger is over.
    fn evict_completed(&mut self) -> bool {
        while let Some((id, _)) = self.completed.pop_front() {
            if self.servers.get(id).is_some() {
                self.remove_server(id);
                self.metrics.count(Counter::TransactionEvicted);
                return true;
            }
        }
        false
    }

    /// Makes room by ending the oldest client transaction that has its answer: repeats of it become stray responses.
    fn evict_absorbing(&mut self) -> bool {
        while let Some((id, _)) = self.absorbing.pop_front().or_else(|| self.accepted.pop_front()) {
            if self.clients.remove(id).is_some() {
                self.metrics.count(Counter::TransactionEvicted);
                return true;
            }
        }
        false
    }

    /// The way back of a transaction.
    pub fn path(&self, id: ServerId) -> Option<ReplyPath> {
        self.servers.get(id).map(|server| server.path)
    }

    /// Notes what works on the answer to a transaction.
    pub fn set_job(&mut self, id: ServerId, job: SlotId) {
        if let Some(server) = self.servers.get_mut(id) {
            server.work = Some(Work::Job(job));
        }
    }

    /// What works on the answer to a transaction.
    pub fn job_of(&self, id: ServerId) -> Option<SlotId> {
        match self.servers.get(id)?.work? {
            Work::Job(job) => Some(job),
            Work::Session(_) => None,
        }
    }

    /// Notes the session that a transaction belongs to.
    pub fn set_session(&mut self, id: ServerId, session: SlotId) {
        if let Some(server) = self.servers.get_mut(id) {
            server.work = Some(Work::Session(session));
        }
    }

    /// The session that a transaction belongs to.
    pub fn session_of(&self, id: ServerId) -> Option<SlotId> {
        match self.servers.get(id)?.work? {
            Work::Session(session) => Some(session),
            Work::Job(_) => None,
        }
    }

    /// The request that a client transaction still keeps, as it was sent.
    pub fn request_of(&self, id: ClientId) -> Option<&Bytes> {
        self.clients.get(id).map(|client| &client.request).filter(|request| !request.is_empty())
    }

    /// The key of a transaction.
    pub fn key_of(&self, id: ServerId) -> Option<ServerKey> {
        self.servers.get(id).map(|server| server.key)
    }

    /// When a transaction's request came.
    pub fn started(&self, id: ServerId) -> Option<Instant> {
        self.servers.get(id).map(|server| server.started)
    }

    /// Sends a response through a transaction. RFC 3261 §17.2.
    pub fn respond(&mut self, id: ServerId, status: u16, bytes: Bytes, now: Instant, out: &mut VecDeque<Effect>) {
        let Some(server) = self.servers.get_mut(id) else { return };
        self.metrics.response_sent(status);
        let action = match &mut server.machine {
            ServerMachine::NonInvite(machine) => machine.on_send_response(status, now),
            ServerMachine::Invite(machine) => machine.on_send_response(status, now),
        };
        if action.send == SendWhat::Response {
            // A 2xx to an INVITE is repeated by whoever gave it (RFC 6026 §7.1), and a stream loses nothing.
            let is_kept = !action.terminated && !server.machine.is_accepted();
            server.response = if is_kept { bytes.clone() } else { Bytes::new() };
            out.push_back(server.path.send(bytes));
        }
        if action.terminated {
            self.remove_server(id);
        }
        if status >= 200
            && let Some(server) = self.servers.get_mut(id)
            && !std::mem::replace(&mut server.completed, true)
        {
            // Timer J, or the longest that an INVITE's failure waits for its ACK (Timer H).
            self.completed.push_back((id, now + LINGER));
        }
        self.arm(Timed::Server(id));
    }

    /// Ends a transaction that will never be answered (RFC 4320 §4.1 forbids a late 408).
    pub fn abandon(&mut self, id: ServerId) {
        self.remove_server(id);
    }

    fn drive_server(
        &mut self,
        id: ServerId,
        out: &mut VecDeque<Effect>,
        drive: impl FnOnce(&mut ServerMachine) -> Action,
    ) -> Tell {
        let Some(server) = self.servers.get_mut(id) else { return Tell::Nothing };
        let action = drive(&mut server.machine);
        if action.send == SendWhat::Response && !server.response.is_empty() {
            out.push_back(server.path.send(server.response.clone()));
        }
        if action.terminated {
            self.remove_server(id);
        }
        action.tell
    }

    fn remove_server(&mut self, id: ServerId) {
        let Some(server) = self.servers.remove(id) else { return };
        if let Ok(entry) = self.by_key.find_entry(server.key.hash(), |slot| *slot == id.slot) {
            entry.remove();
        }
        if let Some(hash) = server.merged
            && let Ok(entry) = self.by_merged.find_entry(hash, |slot| *slot == id.slot)
        {
            entry.remove();
        }
        while self.completed.front().is_some_and(|(front, _)| self.servers.get(*front).is_none()) {
            self.completed.pop_front();
        }
    }

    /// Reserves a client transaction, so that its branch can be written into the request.
    pub fn reserve(&mut self, owner: Owner, destination: Destination, rng: &mut Rng, now: Instant) -> Option<ClientId> {
        if self.clients.is_full() && !self.evict_absorbing() {
            return None;
        }
        let nonce = rng.next_u64();
        self.clients.insert(Client {
            nonce,
            machine: None,
            cancelling: Cancelling::No,
            owner,
            destination,
            request: Bytes::new(),
            started: now,
            answered: false,
            armed: None,
        })
    }

    /// Writes the Via of a reserved client transaction: own address and branch.
    pub fn write_via(&self, id: ClientId, own: &str, loop_mark: u32, out: &mut Vec<u8>) {
        let Some(client) = self.clients.get(id) else { return };
        self.write_branch(id.slot, client.nonce, client.destination.transport, own, loop_mark, out);
    }

    /// Writes the Via of a request that has no transaction: an ACK for a 2xx. RFC 3261 §13.2.2.4.
    pub fn write_ack_via(&self, transport: Transport, own: &str, loop_mark: u32, rng: &mut Rng, out: &mut Vec<u8>) {
        self.write_branch(u32::MAX, rng.next_u64(), transport, own, loop_mark, out);
    }

    fn write_branch(&self, slot: u32, nonce: u64, transport: Transport, own: &str, loop_mark: u32, out: &mut Vec<u8>) {
        let transport = match transport {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
        };
        out.extend_from_slice(b"SIP/2.0/");
        out.extend_from_slice(transport.as_bytes());
        out.push(b' ');
        out.extend_from_slice(own.as_bytes());
        out.extend_from_slice(b";branch=");
        out.extend_from_slice(BRANCH_PREFIX);
        push_hex(out, u64::from(self.shard.0), 4);
        push_hex(out, u64::from(slot), 8);
        push_hex(out, nonce, 16);
        push_hex(out, u64::from(loop_mark), 8);
    }

    /// Sends the request of a reserved client transaction. RFC 3261 §17.1.1, §17.1.2.
    ///
    /// A request too large for a datagram leaves over a stream, and its Via says so (RFC 3261 §18.1.1).
    pub fn launch(
        &mut self,
        id: ClientId,
        request: &mut [u8],
        path_mtu: usize,
        now: Instant,
        out: &mut VecDeque<Effect>,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        debug_assert!(client.machine.is_none(), "a transaction is launched once");
        if client.destination.transport == Transport::Udp && exceeds_datagram(request.len(), path_mtu) {
            client.destination.transport = Transport::Tcp;
            client.destination.sized_up = true;
            rename_transport(request, *b"TCP");
        }
        client.request = Bytes::copy_from_slice(request);
        self.start(id, now, out);
    }

    fn start(&mut self, id: ClientId, now: Instant, out: &mut VecDeque<Effect>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let reliability = reliability(client.destination.transport);
        client.machine = Some(match client.request.starts_with(b"INVITE ") {
            true => ClientMachine::Invite(InviteClient::new(reliability, now)),
            false => ClientMachine::NonInvite(NonInviteClient::new(reliability, now)),
        });
        client.started = now;
        out.push_back(client.send(id));
        self.arm(Timed::Client(id));
    }

    /// Whose transaction a branch names.
    pub fn owner(&self, branch: OwnBranch) -> Option<Owner> {
        let (_, client) = self.clients.at(branch.slot)?;
        (client.nonce == branch.nonce).then_some(client.owner)
    }

    /// Takes a response: whose it is and what it means. RFC 3261 §17.1.3.
    pub fn on_response(
        &mut self,
        branch: OwnBranch,
        response: &Message<'_>,
        envelope: &Envelope<'_>,
        now: Instant,
        out: &mut VecDeque<Effect>,
    ) -> Option<(ClientId, Owner, Verdict, Instant)> {
        let status = response.status()?;
        let (mut id, mut client) = self.clients.at(branch.slot)?;
        if client.nonce != branch.nonce {
            return None;
        }
        if let (ClientMachine::Invite(_), b"CANCEL") = (client.machine.as_ref()?, envelope.cseq_method) {
            // A CANCEL has its INVITE's branch (RFC 3261 §9.1).
            let Cancelling::Sent(cancel, _) = client.cancelling else { return None };
            id = cancel;
            client = self.clients.get(id)?;
        }
        let (owner, started) = (client.owner, client.started);
        if matches!(client.machine, Some(ClientMachine::Invite(_))) && status >= 300 {
            // What the machine may send from here on is an ACK.
            let client = self.clients.get_mut(id)?;
            if client.request.starts_with(b"INVITE ")
                && let Some(ack) = kindred(&client.request, "ACK", response.value(Name::To))
            {
                client.request = Bytes::from(ack);
            }
        }
        let tell = self.drive_client(id, out, |machine| match machine {
            ClientMachine::NonInvite(machine) => machine.on_response(status, now),
            ClientMachine::Invite(machine) => machine.on_response(status, now),
        })?;
        self.arm(Timed::Client(id));
        if tell == Tell::Provisional
            && self.clients.get(id).is_some_and(|client| client.cancelling == Cancelling::Wanted)
        {
            self.send_cancel(id, now, out);
        }
        Some((id, owner, verdict(tell)?, started))
    }

    /// Calls an INVITE back: at once when its receiver has shown itself, otherwise as soon as it does. RFC 3261 §9.1.
    pub fn cancel(&mut self, id: ClientId, now: Instant, out: &mut VecDeque<Effect>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let Some(ClientMachine::Invite(machine)) = &client.machine else { return };
        if client.cancelling != Cancelling::No {
            return;
        }
        match machine.state() {
            InviteState::Calling => client.cancelling = Cancelling::Wanted,
            InviteState::Proceeding => self.send_cancel(id, now, out),
            // It has its final response: there is nothing to call back.
            InviteState::Completed | InviteState::Accepted | InviteState::Terminated => {}
        }
    }

    fn send_cancel(&mut self, id: ClientId, now: Instant, out: &mut VecDeque<Effect>) {
        let Some(client) = self.clients.get(id) else { return };
        let (destination, nonce) = (client.destination, client.nonce);
        let Some(request) = kindred(&client.request, "CANCEL", None) else { return };
        if self.clients.is_full() {
            self.evict_absorbing();
        }
        let cancel = self.clients.insert(Client {
            nonce,
            machine: None,
            cancelling: Cancelling::No,
            owner: Owner::Notice,
            destination,
            request: Bytes::from(request),
            started: now,
            answered: false,
            armed: None,
        });
        if let Some(client) = self.clients.get_mut(id) {
            // Without room for the CANCEL the INVITE is given up all the same, when nothing can be expected of it any more.
            client.cancelling = Cancelling::Sent(cancel.unwrap_or_default(), now + LINGER);
        }
        self.arm(Timed::Client(id));
        if let Some(cancel) = cancel {
            self.start(cancel, now, out);
        }
    }

    /// Takes the news that a request could not be sent; it leaves as a datagram if only its size had put it on a stream.
    pub fn on_unsendable(
        &mut self,
        id: ClientId,
        now: Instant,
        out: &mut VecDeque<Effect>,
    ) -> Option<(Owner, Verdict)> {
        let client = self.clients.get_mut(id)?;
        if client.destination.sized_up && client.destination.transport == Transport::Tcp {
            client.destination.transport = Transport::Udp;
            let mut request = client.request.to_vec();
            rename_transport(&mut request, *b"UDP");
            client.request = Bytes::from(request);
            self.start(id, now, out);
            return None;
        }
        let owner = client.owner;
        let tell = self.drive_client(id, out, |machine| match machine {
            ClientMachine::NonInvite(machine) => machine.on_transport_error(),
            ClientMachine::Invite(machine) => machine.on_transport_error(),
        })?;
        Some((owner, verdict(tell)?))
    }

    /// Gives a reserved transaction up before its launch.
    pub fn release(&mut self, id: ClientId) {
        self.clients.remove(id);
    }

    fn drive_client(
        &mut self,
        id: ClientId,
        out: &mut VecDeque<Effect>,
        drive: impl FnOnce(&mut ClientMachine) -> Action,
    ) -> Option<Tell> {
        let client = self.clients.get_mut(id)?;
        let machine = client.machine.as_mut()?;
        let action = drive(machine);
        let end = match machine {
            ClientMachine::NonInvite(machine) => machine.poll_timeout(),
            ClientMachine::Invite(machine) => machine.poll_timeout(),
        };
        let end = end.map(|(end, _)| end);
        let is_invite = matches!(machine, ClientMachine::Invite(_));
        if matches!(action.send, SendWhat::Request | SendWhat::Ack) {
            out.push_back(client.send(id));
        }
        match action.tell {
            // What is left of the transaction only absorbs repeated responses: the request is done. An INVITE that
            // failed keeps its ACK.
            Tell::Final if !is_invite => {
                client.request = Bytes::new();
                if let Some(end) = end.filter(|_| !action.terminated) {
                    client.answered = true;
                    self.absorbing.push_back((id, end));
                }
            }
            Tell::Success => {
                client.request = Bytes::new();
                if let Some(end) = end.filter(|_| !std::mem::replace(&mut client.answered, true)) {
                    self.accepted.push_back((id, end));
                }
            }
            _ => {}
        }
        if action.terminated {
            self.clients.remove(id);
            for queue in [&mut self.absorbing, &mut self.accepted] {
                while queue.front().is_some_and(|(front, _)| self.clients.get(*front).is_none()) {
                    queue.pop_front();
                }
            }
        }
        Some(action.tell)
    }

    /// Sees to it that the wheel looks at a transaction by its next deadline. An earlier look that is already due to
    /// happen is enough: it re-arms.
    fn arm(&mut self, timed: Timed) {
        if self.lingers(timed) {
            return;
        }
        let Some(deadline) = self.deadline(timed) else { return };
        let armed = match timed {
            Timed::Server(id) => self.servers.get_mut(id).map(|server| &mut server.armed),
            Timed::Client(id) => self.clients.get_mut(id).map(|client| &mut client.armed),
        };
        let Some(armed) = armed else { return };
        if armed.is_none_or(|look| look > deadline) {
            *armed = Some(deadline);
            self.wheel.insert(deadline, timed);
        }
    }

    /// True for a transaction whose last timer is its place in a queue.
    fn lingers(&self, timed: Timed) -> bool {
        match timed {
            Timed::Server(id) => {
                self.servers.get(id).is_some_and(|server| server.completed && server.machine.lingers())
            }
            Timed::Client(id) => self.clients.get(id).is_some_and(|client| client.answered),
        }
    }

    /// The transaction whose linger ends next, when it is over.
    fn pop_lingered(&mut self, now: Instant) -> Option<Timed> {
        if self.completed.front().is_some_and(|(_, end)| *end <= now) {
            return self.completed.pop_front().map(|(id, _)| Timed::Server(id));
        }
        if self.absorbing.front().is_some_and(|(_, end)| *end <= now) {
            return self.absorbing.pop_front().map(|(id, _)| Timed::Client(id));
        }
        if self.accepted.front().is_some_and(|(_, end)| *end <= now) {
            return self.accepted.pop_front().map(|(id, _)| Timed::Client(id));
        }
        None
    }

    fn disarm(&mut self, timed: Timed) {
        match timed {
            Timed::Server(id) => self.servers.get_mut(id).map(|server| server.armed = None),
            Timed::Client(id) => self.clients.get_mut(id).map(|client| client.armed = None),
        };
    }

    fn deadline(&self, timed: Timed) -> Option<Instant> {
        let due = match timed {
            Timed::Server(id) => match &self.servers.get(id)?.machine {
                ServerMachine::NonInvite(machine) => machine.poll_timeout(),
                ServerMachine::Invite(machine) => machine.poll_timeout(),
            },
            Timed::Client(id) => {
                let client = self.clients.get(id)?;
                let due = match client.machine.as_ref()? {
                    ClientMachine::NonInvite(machine) => machine.poll_timeout(),
                    ClientMachine::Invite(machine) => machine.poll_timeout(),
                };
                return match (client.given_up_at(), due) {
                    (Some(at), Some((deadline, _))) => Some(at.min(deadline)),
                    (at, due) => at.or(due.map(|(deadline, _)| deadline)),
                };
            }
        };
        due.map(|(deadline, _)| deadline)
    }

    /// When the next timer may be due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let completed = self.completed.front().map(|(_, end)| *end);
        let absorbing = self.absorbing.front().map(|(_, end)| *end);
        let accepted = self.accepted.front().map(|(_, end)| *end);
        [self.wheel.next_deadline(), completed, absorbing, accepted].into_iter().flatten().min()
    }

    /// Fires one due timer; true while there may be more. What the core has to know is put into `news`.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut VecDeque<Effect>, news: &mut Option<News>) -> bool {
        let Some(timed) = self.pop_lingered(now).or_else(|| self.wheel.pop_due(now)) else { return false };
        self.disarm(timed);
        // Entries are never taken off the wheel: one that came too early, because its machine moved on, is put back.
        match self.deadline(timed) {
            None => return true,
            Some(deadline) if deadline > now => {
                self.arm(timed);
                return true;
            }
            Some(_) => {}
        }
        match timed {
            Timed::Server(id) => {
                let tell = self.drive_server(id, out, |machine| match machine {
                    ServerMachine::NonInvite(machine) => machine.handle_timeout(now),
                    ServerMachine::Invite(machine) => machine.handle_timeout(now),
                });
                if tell == Tell::TryingDue {
                    *news = Some(News::TryingDue(id));
                }
            }
            Timed::Client(id) => {
                let owner = self.clients.get(id).map(|client| client.owner);
                if self.clients.get(id).and_then(Client::given_up_at).is_some_and(|at| at <= now) {
                    // RFC 3261 §9.1: the INVITE counts as called back.
                    self.clients.remove(id);
                    *news = owner.map(|owner| News::Client(id, owner, Verdict::TimedOut));
                    return true;
                }
                let tell = self.drive_client(id, out, |machine| match machine {
                    ClientMachine::NonInvite(machine) => machine.handle_timeout(now),
                    ClientMachine::Invite(machine) => machine.handle_timeout(now),
                });
                if let (Some(owner), Some(verdict)) = (owner, tell.and_then(verdict)) {
                    *news = Some(News::Client(id, owner, verdict));
                }
            }
        }
        self.arm(timed);
        true
    }

    /// Hash of what must differ between two visits of one request, or it loops. RFC 3261 §16.6 step 8.
    pub fn loop_mark(&self, message: &Message<'_>, envelope: &Envelope<'_>, route: &[u8]) -> u32 {
        let (uri, to_tag) = (message.request_uri().unwrap_or_default(), envelope.to_tag.unwrap_or_default());
        self.loop_mark_of([uri, envelope.from_tag, to_tag, envelope.call_id], envelope.cseq, route)
    }

    /// The same from Request-URI, From tag, To tag and Call-ID: of a request that is about to be written.
    pub fn loop_mark_of(&self, [uri, from_tag, to_tag, call_id]: [&[u8]; 4], cseq: u32, route: &[u8]) -> u32 {
        // Zero marks requests of our own.
        (self.hash_once(&[uri, from_tag, to_tag, call_id, &cseq.to_be_bytes(), route]) as u32).max(1)
    }

    /// The shard that owns a request: every request of one Call-ID goes to one shard. DESIGN §4.
    pub fn owner_of(&self, call_id: &[u8], shard_count: u16) -> ShardId {
        let mut hasher = self.seeds[0].build_hasher();
        hasher.write(call_id);
        ShardId(((u128::from(hasher.finish()) * u128::from(shard_count)) >> 64) as u16)
    }

    /// A hash for rare uses, such as generated message ids.
    pub fn digest(&self, parts: &[&[u8]]) -> u128 {
        self.hash(parts)
    }
}

impl Client {
    /// When an INVITE that was called back is given up: as long as its final response is missing.
    fn given_up_at(&self) -> Option<Instant> {
        match (&self.machine, self.cancelling) {
            (Some(ClientMachine::Invite(machine)), Cancelling::Sent(_, at))
                if matches!(machine.state(), InviteState::Calling | InviteState::Proceeding) =>
            {
                Some(at)
            }
            _ => None,
        }
    }

    fn send(&self, id: ClientId) -> Effect {
        let Destination { transport, to, listener, .. } = self.destination;
        match transport {
            Transport::Udp => Effect::SendDatagram { socket: Socket::Own, listener, to, bytes: self.request.clone() },
            Transport::Tcp => Effect::SendStream {
                to: StreamTarget::Peer(to),
                listener,
                bytes: self.request.clone(),
                ticket: Some(Waiting::Client(id).ticket()),
            },
        }
    }
}

/// The ACK or CANCEL that belongs to an INVITE of ours: the same Request-URI, topmost Via, Route, From, Call-ID and CSeq
/// number; To as in the response, where there is one. RFC 3261 §9.1, §17.1.1.3.
fn kindred(invite: &[u8], method: &str, to: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut scan = Scan::default();
    scan.scan(invite).ok()?;
    let message = Message { bytes: invite, scan: &scan };
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(message.request_uri()?);
    out.extend_from_slice(b" SIP/2.0\r\n");
    line(&mut out, "Via", message.elements(Name::Via).next()?);
    out.extend_from_slice(b"Max-Forwards: 70\r\n");
    for field in message.fields(Name::Route) {
        line(&mut out, "Route", field.value.of(invite));
    }
    line(&mut out, "From", message.value(Name::From)?);
    line(&mut out, "To", to.or_else(|| message.value(Name::To))?);
    line(&mut out, "Call-ID", message.value(Name::CallId)?);
    let (cseq, _) = crate::sip::header::cseq::parse(message.value(Name::CSeq)?)?;
    let _ = write!(out, "CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n");
    Some(out)
}

/// Changes the transport that the topmost Via, ours, names; it is the first to name one.
fn rename_transport(request: &mut [u8], transport: [u8; 3]) {
    const BEFORE: &[u8] = b"\r\nVia: SIP/2.0/";
    if let Some(at) = memchr::memmem::find(request, BEFORE) {
        request[at + BEFORE.len()..][..3].copy_from_slice(&transport);
    }
}

fn reliability(transport: Transport) -> Reliability {
    match transport {
        Transport::Udp => Reliability::Unreliable,
        Transport::Tcp => Reliability::Reliable,
    }
}

fn verdict(tell: Tell) -> Option<Verdict> {
    Some(match tell {
        Tell::Provisional => Verdict::Provisional,
        Tell::Success => Verdict::Success,
        Tell::Final => Verdict::Final,
        Tell::TimedOut => Verdict::TimedOut,
        Tell::TransportError => Verdict::Unsendable,
        _ => return None,
    })
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes the last digits of a number in hexadecimal form.
pub(super) fn push_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for place in (0..digits).rev() {
        out.push(HEX_DIGITS[(value >> (4 * place) & 15) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const PEER: &str = "192.0.2.9:5070";

    struct Bench {
        transactions: Transactions,
        out: VecDeque<Effect>,
        rng: Rng,
    }

    impl Bench {
        fn new() -> Self {
            let transactions = Transactions::new(ShardId(0), 7, Instant(0), Arc::default());
            Self { transactions, out: VecDeque::new(), rng: Rng::from_u64(1) }
        }

        fn invite(&mut self, transport: Transport) -> ClientId {
            let to = PEER.parse().unwrap();
            let destination = Destination { transport, to, listener: 0, sized_up: false };
            let owner = Owner::Leg { session: SlotId::default(), leg: 0, request: LegRequest::Invite };
            let id = self.transactions.reserve(owner, destination, &mut self.rng, Instant(0)).unwrap();
            let mut via = Vec::new();
            self.transactions.write_via(id, "192.0.2.1:5080", 9, &mut via);
            let via = String::from_utf8(via).unwrap();
            let request = format!(
                "INVITE sip:bob@home.example SIP/2.0\r\nVia: {via}\r\nRoute: <sip:s@cscf.example;lr>\r\n\
                 From: <sip:a@x>;tag=f\r\nTo: <sip:bob@home.example>\r\nCall-ID: c@pf\r\nCSeq: 7 INVITE\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            self.transactions.launch(id, &mut request.into_bytes(), 1500, Instant(0), &mut self.out);
            id
        }

        fn sent(&mut self) -> Vec<String> {
            self.out
                .drain(..)
                .map(|effect| match effect {
                    Effect::SendDatagram { bytes, .. } | Effect::SendStream { bytes, .. } => {
                        String::from_utf8(bytes.to_vec()).unwrap()
                    }
                    other => panic!("{other:?}"),
                })
                .collect()
        }

        /// Answers a request that was sent.
        fn answer(&mut self, request: &str, status: u16, at: u64) -> Option<Verdict> {
            let line = |name: &str| {
                let start = request.find(&format!("\r\n{name}: ")).unwrap() + 2;
                &request[start..start + request[start..].find("\r\n").unwrap()]
            };
            let response = format!(
                "SIP/2.0 {status} X\r\n{}\r\n{}\r\n{};tag=t\r\n{}\r\n{}\r\nContent-Length: 0\r\n\r\n",
                line("Via"),
                line("From"),
                line("To"),
                line("Call-ID"),
                line("CSeq")
            );
            let mut scan = Scan::default();
            scan.scan(response.as_bytes()).unwrap();
            let message = Message { bytes: response.as_bytes(), scan: &scan };
            let envelope = message.check_response().unwrap();
            let branch = envelope.via.branch.and_then(OwnBranch::parse).unwrap();
            let now = Instant(0) + Duration::from_millis(at);
            self.transactions
                .on_response(branch, &message, &envelope, now, &mut self.out)
                .map(|(_, _, verdict, _)| verdict)
        }

        fn wait(&mut self, until: u64) -> Vec<Verdict> {
            let mut told = Vec::new();
            let now = Instant(0) + Duration::from_millis(until);
            loop {
                let mut news = None;
                if !self.transactions.handle_timeout(now, &mut self.out, &mut news) {
                    return told;
                }
                if let Some(News::Client(_, _, verdict)) = news {
                    told.push(verdict);
                }
            }
        }
    }

    #[test]
    fn a_failed_invite_is_acknowledged_each_time_with_its_own_via_and_the_responses_to() {
        let mut bench = Bench::new();
        bench.invite(Transport::Udp);
        let invite = bench.sent().remove(0);
        assert_eq!(bench.answer(&invite, 486, 10), Some(Verdict::Final));
        let first = bench.sent();
        let via = invite.lines().find(|line| line.starts_with("Via: ")).unwrap();
        assert!(first[0].starts_with("ACK sip:bob@home.example SIP/2.0\r\n"), "{first:?}");
        for part in
            [via, "Route: <sip:s@cscf.example;lr>\r\n", "To: <sip:bob@home.example>;tag=t\r\n", "CSeq: 7 ACK\r\n"]
        {
            assert!(first[0].contains(part), "{part} in {}", first[0]);
        }
        assert_eq!(bench.answer(&invite, 486, 600), None, "told once");
        assert_eq!(bench.sent(), first);
    }

    #[test]
    fn a_cancel_waits_for_a_provisional_response_and_shares_the_invites_branch() {
        let mut bench = Bench::new();
        let id = bench.invite(Transport::Udp);
        let invite = bench.sent().remove(0);
        bench.transactions.cancel(id, Instant(5), &mut bench.out);
        assert!(bench.sent().is_empty(), "nobody is known to have the INVITE");
        assert_eq!(bench.answer(&invite, 180, 10), Some(Verdict::Provisional));
        let cancel = bench.sent().remove(0);
        assert!(cancel.starts_with("CANCEL sip:bob@home.example SIP/2.0\r\n") && cancel.contains("CSeq: 7 CANCEL\r\n"));
        assert!(cancel.contains("To: <sip:bob@home.example>\r\n"), "To as in the INVITE");
        assert_eq!(bench.answer(&cancel, 200, 20), Some(Verdict::Final), "of the CANCEL");
        assert_eq!(bench.answer(&invite, 487, 30), Some(Verdict::Final));
        assert!(bench.sent()[0].starts_with("ACK "));
        bench.wait(40_000);
        assert_eq!(bench.transactions.counts(), (0, 0));
    }

    #[test]
    fn an_invite_that_was_called_back_in_vain_is_given_up() {
        let mut bench = Bench::new();
        let id = bench.invite(Transport::Tcp);
        let invite = bench.sent().remove(0);
        bench.answer(&invite, 180, 10);
        bench.transactions.cancel(id, Instant(0) + Duration::from_millis(20), &mut bench.out);
        let cancel = bench.sent().remove(0);
        bench.answer(&cancel, 200, 30);
        assert_eq!(bench.wait(32_000), []);
        assert_eq!(bench.wait(32_100), [Verdict::TimedOut]);
        assert_eq!(bench.transactions.counts(), (0, 0));
    }

    #[test]
    fn every_success_is_told_and_a_cancel_after_it_does_nothing() {
        let mut bench = Bench::new();
        let id = bench.invite(Transport::Udp);
        let invite = bench.sent().remove(0);
        assert_eq!(bench.answer(&invite, 200, 10), Some(Verdict::Success));
        assert_eq!(bench.answer(&invite, 200, 500), Some(Verdict::Success));
        bench.transactions.cancel(id, Instant(0) + Duration::from_millis(600), &mut bench.out);
        assert!(bench.sent().is_empty());
        bench.wait(33_000);
        assert_eq!(bench.transactions.counts(), (0, 0));
    }

    #[test]
    fn an_invite_that_has_its_2xx_keeps_no_response_and_ends_by_its_place_in_a_queue() {
        let mut bench = Bench::new();
        let text = "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bKx\r\nFrom: <sip:a@x>;tag=f\r\n\
                    To: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\n";
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        let message = Message { bytes: text.as_bytes(), scan: &scan };
        let envelope = message.check_request().unwrap();
        let source = Source {
            transport: Transport::Udp,
            peer: PEER.parse().unwrap(),
            listener: 0,
            socket: Socket::WellKnown,
            conn: None,
        };
        let path = ReplyPath::of(&envelope.via, source);
        let key = bench.transactions.key(&message, &envelope, b"INVITE");
        let Admission::New(id) = bench.transactions.admit(key, &message, &envelope, path, Instant(0)) else {
            panic!("it is new");
        };
        for (status, kept) in [(180, true), (200, false)] {
            let answer = Bytes::from(format!("SIP/2.0 {status} X\r\n\r\n"));
            bench.transactions.respond(id, status, answer, Instant(0), &mut bench.out);
            assert_eq!(bench.sent().len(), 1, "{status}");
            assert_eq!(!bench.transactions.servers.get(id).unwrap().response.is_empty(), kept, "{status}");
        }
        bench.transactions.on_repeat(id, Instant(0), &mut bench.out);
        assert!(bench.sent().is_empty(), "the transaction user repeats it");
        bench.wait(31_999);
        assert_eq!((bench.transactions.counts(), bench.transactions.wheel.len()), ((1, 0), 0), "no place on the wheel");
        bench.wait(32_000);
        assert_eq!(bench.transactions.counts(), (0, 0));
    }

    #[test]
    fn invites_that_have_their_2xx_make_room_for_new_requests() {
        let mut bench = Bench::new();
        for _ in 0..CLIENT_TRANSACTION_COUNT_MAX {
            bench.invite(Transport::Tcp);
            let invite = bench.sent().remove(0);
            assert_eq!(bench.answer(&invite, 200, 10), Some(Verdict::Success));
        }
        assert!(bench.transactions.is_full());
        bench.invite(Transport::Tcp);
        assert_eq!(bench.sent().len(), 1);
        assert_eq!(bench.transactions.counts().1, CLIENT_TRANSACTION_COUNT_MAX);
    }
}
