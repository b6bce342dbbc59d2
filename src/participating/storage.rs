//! What the participating function asks of the durable store, as plain values. The store executes; it decides nothing.

use super::devices::Device;
use super::preferences::Availability;
use crate::base::id::{Aor, MessageId, ShardId, Ticket};
use crate::base::mailbox::Mailbox;
use crate::base::time::UnixMillis;
use bytes::Bytes;

/// A message waiting for its recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeferredMessage {
    /// Given by the store on [`Command::Defer`]; zero before.
    pub id: MessageId,
    /// The recipient.
    pub user: Aor,
    /// The sender's canonical address, or `anonymous`.
    pub originator: Box<str>,
    /// When it was accepted.
    pub accepted: UnixMillis,
    /// When it stops being worth delivering.
    pub expires: UnixMillis,
    /// Delivery attempts so far.
    pub attempts: u32,
    /// Not to be tried again before this moment.
    pub not_before: UnixMillis,
    /// The sender asked for a notification of failed delivery (`negative-delivery`).
    pub wants_failure_notice: bool,
    /// The SIP request as received, byte for byte.
    pub request: Bytes,
    /// The message of an INVITE in large message mode, which came over MSRP; `None` for a MESSAGE.
    pub content: Option<ContentFile>,
}

/// A file that the spool is writing or has written; unique for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpoolId(pub u64);

impl SpoolId {
    /// The file's name in the content store's directory until the store takes it over.
    pub fn file_name(self) -> String {
        format!("{SPOOL_FILE_PREFIX}{:016x}", self.0)
    }
}

/// What the names of spooled files begin with: whatever is left of them when the appliance starts belongs to nobody.
pub const SPOOL_FILE_PREFIX: &str = ".spool-";

/// A whole message in a file of the content store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentFile {
    /// The spool's finished file that the store takes over, in a command; `None` in the store's answers, and in a command
    /// for what is in the content store already.
    pub spool: Option<SpoolId>,
    /// The lower-case hexadecimal SHA-256 of its bytes: its name in the content store.
    pub sha256: Box<str>,
    /// Its length.
    pub len: u64,
    /// Its media type, `message/cpim` with parameters.
    pub content_type: Box<str>,
    /// Its Message-ID in the IMDN namespace; empty where it has none, and as long as nobody has looked.
    pub imdn_message_id: Box<str>,
    /// Its DateTime header; empty likewise.
    pub date_time: Box<str>,
}

/// A command to the spool, which writes and reads files of the content store. Commands of one [`SpoolId`] are carried
/// out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolCommand {
    /// Begins a file. Not answered unless it fails.
    Open(SpoolId),
    /// Writes bytes at an offset; the last writer of a byte wins. Answer: [`SpoolReply::Written`].
    Write {
        /// The file.
        spool: SpoolId,
        /// Where, from 0.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Makes the file durable and hashes it. Answer: [`SpoolReply::Finished`].
    Finish {
        /// The file.
        spool: SpoolId,
        /// How long it must be.
        len: u64,
        /// Its media type.
        content_type: Box<str>,
    },
    /// Forgets a file, finished or not, unless the store has taken it over. Not answered.
    Discard(SpoolId),
    /// Reads from a file of the content store. Answer: [`SpoolReply::Bytes`].
    Read {
        /// The file's SHA-256.
        sha256: Box<str>,
        /// Where, from 0.
        offset: u64,
        /// How much; less comes only at the end of the file.
        len: u32,
    },
}

/// What the spool answers when a command succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpoolReply {
    /// So many bytes were written.
    Written(usize),
    /// The file is durable under its temporary name, for the store to take over.
    Finished {
        /// The file.
        file: Box<ContentFile>,
        /// Its first bytes, as far as CPIM headers reach.
        head: Bytes,
    },
    /// What was read.
    Bytes(Bytes),
}

/// A command to the spool and the shard that waits for its answer.
#[derive(Debug)]
pub struct SpoolJob {
    /// The shard that asks.
    pub shard: ShardId,
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// What to do.
    pub command: SpoolCommand,
}

/// The spool's door for shards. Full is [`Fault::Busy`].
pub type SpoolMailbox = Mailbox<SpoolJob>;

/// Bytes of a finished file that [`SpoolReply::Finished`] brings along.
pub const SPOOL_HEAD_LEN: usize = 8 * 1024;

/// Where an object of the message store or history came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received by the user.
    Received,
    /// Sent by the user.
    Sent,
}

/// What became of a recorded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not known yet.
    Pending,
    /// A device took it.
    Delivered,
    /// No device took it.
    Failed,
    /// It waits in the deferred queue.
    Deferred,
    /// It left through the interworking function.
    Interworked,
    /// It was put into the message store instead of being delivered.
    Stored,
}

/// A message object, as the message store and the conversation history keep it (SPEC §2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageObject {
    /// Given by the store; zero before.
    pub id: MessageId,
    /// Whose object it is.
    pub user: Aor,
    /// The other side's canonical address, or `anonymous`.
    pub peer: Box<str>,
    /// With `user` and `direction`, what makes the object one: the same message is kept once.
    pub imdn_message_id: Box<str>,
    /// The conversation, empty if the message names none.
    pub conversation_id: Box<str>,
    /// The contribution, empty if the message names none.
    pub contribution_id: Box<str>,
    /// Which way it went.
    pub direction: Direction,
    /// What became of it.
    pub outcome: Outcome,
    /// When it was taken.
    pub at: UnixMillis,
    /// The object's header lines (`Name: value` CRLF), From to Message-Direction, without Content-Type.
    pub head: Bytes,
    /// The body's media type, parameters included.
    pub content_type: Box<str>,
    /// The body, byte for byte; empty in a list, and in a command where it is in `content`.
    pub body: Bytes,
    /// The body's file, in a command that keeps a large message; `None` in answers.
    pub content: Option<ContentFile>,
    /// How long the body is, also where it is left out.
    pub body_len: u64,
}

/// Which of the two object stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// The user's message store (PM-4a-iii).
    Messages,
    /// The user's conversation history (PM-5, SPEC §2.5).
    History,
}

/// How a deferred message leaves the queue or stays in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Removes it: delivered, refused for good, or expired.
    Remove,
    /// Keeps it for a later attempt.
    Retry {
        /// Attempts made so far.
        attempts: u32,
        /// Not before this moment.
        not_before: UnixMillis,
    },
}

/// The bounds of one user's deferred queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Messages.
    pub count: u32,
    /// Bytes of their requests and contents.
    pub bytes: u64,
}

/// One XML document of the appliance's own XCAP root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The application usage, such as `org.openmobilealliance.access-rules`.
    pub auid: Box<str>,
    /// The user whose document it is.
    pub user: Aor,
    /// The document's name below the user, such as `access-rules`.
    pub name: Box<str>,
    /// The entity tag, without quotes.
    pub etag: Box<str>,
    /// The document as it was PUT.
    pub body: Bytes,
}

/// A command to the store. Every command is answered once.
#[derive(Clone, Debug)]
pub enum Command {
    /// Puts a message at the end of its user's deferred queue. Answer: [`Reply::Deferred`] after the durable commit.
    Defer {
        /// The message.
        message: Box<DeferredMessage>,
        /// The user's quota; over it the answer is [`Fault::QuotaExceeded`].
        quota: Quota,
    },
    /// Reads the oldest messages of a user's queue, in order. Answer: [`Reply::Queue`].
    PeekDeferred {
        /// The user.
        user: Aor,
        /// How many at most.
        limit: u16,
    },
    /// Settles a message. Answer: [`Reply::Done`], also when it was gone already.
    Settle {
        /// The user.
        user: Aor,
        /// The message.
        id: MessageId,
        /// What becomes of it.
        settlement: Settlement,
    },
    /// Removes messages that expired before `now`. Answer: [`Reply::Swept`].
    SweepExpired {
        /// The moment.
        now: UnixMillis,
        /// How many at most.
        limit: u16,
    },
    /// Keeps an object. The same object again changes nothing. Answer: [`Reply::Kept`] after the durable commit.
    Keep {
        /// Where.
        shelf: Shelf,
        /// What.
        object: Box<MessageObject>,
    },
    /// Updates what became of a history object; one that is delivered stays so. Answer: [`Reply::Done`].
    SetOutcome {
        /// The user.
        user: Aor,
        /// The object's IMDN-Message-ID.
        imdn_message_id: Box<str>,
        /// Which way it went.
        direction: Direction,
        /// What became of it.
        outcome: Outcome,
    },
    /// Lists a user's objects without bodies, newest first. Answer: [`Reply::Objects`].
    ListObjects {
        /// Where.
        shelf: Shelf,
        /// The user.
        user: Aor,
        /// How many at most.
        limit: u16,
    },
    /// Reads one object, with its body. Answer: [`Reply::Objects`] with one or none.
    ReadObject {
        /// Where.
        shelf: Shelf,
        /// The user.
        user: Aor,
        /// The object.
        id: MessageId,
    },
    /// Removes an object. Answer: [`Reply::Done`], also when it was gone already.
    RemoveObject {
        /// Where.
        shelf: Shelf,
        /// The user.
        user: Aor,
        /// The object.
        id: MessageId,
    },
    /// Replaces a user's devices. Answer: [`Reply::Done`] after the durable commit.
    PutDevices {
        /// The user.
        user: Aor,
        /// All the user's devices; none removes the registration but the user stays known.
        devices: Vec<Device>,
    },
    /// Replaces what the admin API says of a user's availability; `None` leaves it to the document. Answer: `Done`.
    PutAvailability {
        /// The user.
        user: Aor,
        /// The availability.
        availability: Option<Availability>,
    },
    /// Creates or replaces a document. Answer: [`Reply::Done`] after the durable commit.
    PutDocument(Box<Document>),
    /// Removes a document. Answer: [`Reply::Done`].
    DeleteDocument {
        /// The application usage.
        auid: Box<str>,
        /// The user.
        user: Aor,
        /// The name.
        name: Box<str>,
    },
    /// Counts for the metrics page, the fault for the health page. Answer: [`Reply::Levels`].
    Levels,
}

/// Rows in the store, and how it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Deferred messages.
    pub deferred: u64,
    /// Bytes of deferred requests and contents.
    pub deferred_bytes: u64,
    /// Message store objects.
    pub messages: u64,
    /// History objects.
    pub history: u64,
    /// Documents.
    pub documents: u64,
    /// What a message to be deferred would be refused with, if it would.
    pub fault: Option<Fault>,
}

/// What the store answers when a command succeeds.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing more to say.
    Done,
    /// The message is durable under this id.
    Deferred(MessageId),
    /// The object is durable; `created` is false when it was there before.
    Kept {
        /// The object.
        id: MessageId,
        /// False when it was there before.
        created: bool,
    },
    /// Deferred messages, oldest first.
    Queue(Vec<DeferredMessage>),
    /// Expired messages are gone.
    Swept {
        /// How many.
        count: u64,
        /// Those among them whose senders want a failure notice, or that were tried before.
        told: Vec<DeferredMessage>,
    },
    /// Message objects.
    Objects(Vec<MessageObject>),
    /// Row counts.
    Levels(Levels),
}

/// Why a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The user's deferred queue is full.
    QuotaExceeded,
    /// The store's queue is full: more work than the disk takes.
    Busy,
    /// The disk is full or above its high-water mark.
    DiskFull,
    /// The disk or the database failed.
    Broken,
}

/// A command's outcome.
pub type Answer = Result<Reply, Fault>;

/// Who hears the answer to a command.
pub enum ReplyTo {
    /// A shard's core, as [`super::input::Input::Store`].
    Shard(ShardId, Ticket),
    /// Anyone else; called on the store's thread, must not block.
    Call(Box<dyn FnOnce(Answer) + Send>),
}

/// A command and who hears its answer.
pub struct Job {
    /// What to do.
    pub command: Command,
    /// Whom to tell.
    pub reply: ReplyTo,
}

/// The store's door: a bounded queue. Full is [`Fault::Busy`].
pub type StoreMailbox = Mailbox<Job>;
