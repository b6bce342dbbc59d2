//! Every bound of the system, with compile-time checks between them.

/// Largest SIP message taken from a stream, and the largest UDP payload.
pub const SIP_MESSAGE_LEN_MAX: usize = 65_535;
/// Largest header section of a SIP message.
pub const SIP_HEAD_LEN_MAX: usize = 65_535;
/// Header lines of a SIP message.
pub const SIP_HEADER_COUNT_MAX: usize = 256;
/// A stream that starts a message and does not finish it within this many seconds is closed.
pub const STREAM_MESSAGE_SECONDS_MAX: u64 = 30;
/// Stream connections of one shard.
pub const STREAM_COUNT_MAX: usize = 65_536;
/// Bytes waiting to be sent on one stream; over it the connection's messages are refused.
pub const STREAM_EGRESS_LEN_MAX: usize = 4 << 20;
/// Bytes waiting to be sent on all streams of one shard; over it the streams that add to a backlog are closed.
pub const SHARD_EGRESS_LEN_MAX: usize = 256 << 20;
/// Bytes of incomplete messages on all streams of one shard; over it the streams that add to them are closed.
pub const SHARD_PARTIAL_LEN_MAX: usize = 256 << 20;
/// Datagrams of one shard that the kernel has not taken yet; over it they are dropped, as the network might.
pub const DATAGRAM_SEND_COUNT_MAX: usize = 8_192;
/// Completions taken in one turn of a shard.
pub const TURN_COMPLETIONS_MAX: usize = 512;
/// Items taken from a shard's mailbox in one turn.
pub const TURN_MAIL_MAX: usize = 256;
/// Effects carried out in one turn of a shard; the rest waits for the next.
pub const TURN_EFFECTS_MAX: usize = 16_384;
/// Server transactions of one shard, lingering ones included.
pub const SERVER_TRANSACTION_COUNT_MAX: usize = 1 << 17;
/// Client transactions of one shard.
pub const CLIENT_TRANSACTION_COUNT_MAX: usize = 1 << 16;
/// Devices one request is forked to.
pub const FORK_COUNT_MAX: usize = 16;
/// Devices kept for one subscriber.
pub const DEVICE_COUNT_MAX: usize = 32;
/// Items in a shard's mailbox.
pub const SHARD_MAILBOX_LEN: usize = 16_384;
/// Items in the store's mailbox.
pub const STORE_MAILBOX_LEN: usize = 16_384;
/// Items in the control thread's mailbox.
pub const CONTROL_MAILBOX_LEN: usize = 16_384;
/// Rows of one durable commit.
pub const COMMIT_ROWS_MAX: usize = 512;
/// Bytes of an XML document (SPEC §2.2).
pub const DOCUMENT_LEN_MAX: usize = 256 * 1024;
/// Depth of an XML document (SPEC §2.2).
pub const DOCUMENT_DEPTH_MAX: usize = 32;
/// Rules of an access policy (SPEC §2.2).
pub const RULE_COUNT_MAX: usize = 1_000;
/// Nodes of an XML document: elements, texts, comments.
pub const DOCUMENT_NODE_COUNT_MAX: usize = 65_536;
/// Attributes of one XML element, namespace declarations included.
pub const ELEMENT_ATTRIBUTE_COUNT_MAX: usize = 64;
/// Namespace declarations of an XML element and its ancestors together.
pub const NAMESPACE_COUNT_MAX: usize = 32;
/// Resource lists that one external list leads to, itself included.
pub const EXTERNAL_LIST_COUNT_MAX: usize = 64;
/// Members of one external list.
pub const LIST_MEMBER_COUNT_MAX: usize = 65_536;
/// Nested multipart levels of a body.
pub const MULTIPART_DEPTH_MAX: usize = 8;
/// Parts of a multipart body, all levels together.
pub const MULTIPART_PART_COUNT_MAX: usize = 64;
/// Header lines of a CPIM message or of one body part.
pub const BODY_HEADER_COUNT_MAX: usize = 64;
/// Characters of a multipart boundary (RFC 2046 §5.1.1).
pub const MULTIPART_BOUNDARY_LEN_MAX: usize = 70;
/// Shards of one appliance.
pub const SHARD_COUNT_MAX: usize = 256;

const _: () = assert!(SIP_HEAD_LEN_MAX <= SIP_MESSAGE_LEN_MAX);
const _: () = assert!(STREAM_EGRESS_LEN_MAX >= 2 * SIP_MESSAGE_LEN_MAX);
const _: () = assert!(SHARD_EGRESS_LEN_MAX >= STREAM_EGRESS_LEN_MAX);
const _: () = assert!(STREAM_COUNT_MAX < 1 << 24, "a ring's tokens have 24 bits for the slot");
const _: () = assert!(FORK_COUNT_MAX <= DEVICE_COUNT_MAX);
const _: () = assert!(COMMIT_ROWS_MAX <= STORE_MAILBOX_LEN);
const _: () = assert!(CLIENT_TRANSACTION_COUNT_MAX <= u32::MAX as usize);
/// Users whose deferred messages one shard has in hand or in line.
pub const DELIVERY_USER_COUNT_MAX: usize = 1 << 20;
/// Users one shard delivers to at the same time.
pub const DELIVERY_ACTIVE_MAX: usize = 1_024;
/// MSRP sessions of one shard, spooled and originated ones included.
pub const MSRP_SESSION_COUNT_MAX: usize = 1 << 16;
/// MSRP connections of one shard.
pub const MSRP_CONNECTION_COUNT_MAX: usize = 1 << 17;
/// Head of an MSRP chunk, start line to blank line (SPEC §4.1).
pub const MSRP_HEAD_LEN_MAX: usize = 8 * 1024;
/// URIs of one MSRP path (SPEC §4.1).
pub const MSRP_PATH_COUNT_MAX: usize = 10;
/// Chunks of one MSRP session that wait for their responses; over it the sender is not read from.
pub const MSRP_PENDING_COUNT_MAX: usize = 1_024;
/// Bytes waiting to leave on one MSRP connection over which those who fill it are not read from.
pub const MSRP_EGRESS_HIGH: usize = 256 * 1024;
/// Bytes waiting to leave on one MSRP connection under which they are read from again.
pub const MSRP_EGRESS_LOW: usize = 64 * 1024;
/// Bytes of one message on their way to the spool over which its sender is not read from.
pub const SPOOL_WINDOW_LEN: usize = 1 << 20;
/// Bytes of one message on their way to the history over which its recording is given up: it must not slow the transfer.
pub const HISTORY_WINDOW_LEN: usize = 16 << 20;
/// Items in the spool's mailbox.
pub const SPOOL_MAILBOX_LEN: usize = 16_384;
/// Commands that the spool has taken from its mailbox and not answered; over it they wait in the mailbox.
pub const SPOOL_JOB_COUNT_MAX: usize = 16_384;
/// Files that the spool writes at the same time.
pub const SPOOL_FILE_COUNT_MAX: usize = 1_024;
/// Disk operations of the spool under way at the same time; each read has a file open meanwhile.
pub const SPOOL_OPERATION_COUNT_MAX: usize = 128;
/// Longest piece read from a file of the content store at once.
pub const SPOOL_READ_LEN_MAX: usize = 1 << 20;
/// Sessions of large message mode of one shard between INVITE and the end of the last transaction.
pub const LARGE_SESSION_COUNT_MAX: usize = 1 << 16;
/// Early dialogs of one session that its originating side hears of.
pub const EARLY_DIALOG_COUNT_MAX: usize = 16;
/// URIs of one route set.
pub const ROUTE_COUNT_MAX: usize = 16;
/// Bytes that one dialog keeps: Call-ID, addresses, remote target and routes.
pub const DIALOG_LEN_MAX: usize = 16 * 1024;
/// Media lines of one SDP description.
pub const SDP_MEDIA_COUNT_MAX: usize = 16;
/// Bytes of one SDP description.
pub const SDP_LEN_MAX: usize = 16 * 1024;

const _: () = assert!(MSRP_EGRESS_LOW < MSRP_EGRESS_HIGH);
const _: () = assert!(MSRP_CONNECTION_COUNT_MAX < 1 << 24, "a ring's tokens have 24 bits for the slot");
