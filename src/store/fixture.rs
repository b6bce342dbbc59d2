//! What the room's tests share: a store in a directory of its own, and things to put into it.

use super::content::Sha256Hex;
use super::engine::Engine;
use super::open::{Image, Locks, Options, Store};
use crate::base::id::{Aor, MessageId, NodeId};
use crate::base::time::UnixMillis;
use crate::participating::storage::{
    Answer, Command, ContentFile, DeferredMessage, Direction, MessageObject, Outcome, Quota, Reply, SpoolId,
};
use bytes::Bytes;
use std::path::Path;
use tempfile::TempDir;

/// An opened store without a thread.
pub(super) struct Rig {
    pub(super) engine: Engine,
    pub(super) image: Image,
    pub(super) directory: TempDir,
    _locks: Locks,
}

pub(super) fn rig() -> Rig {
    rig_in(tempfile::tempdir().unwrap())
}

fn rig_in(directory: TempDir) -> Rig {
    let (store, image) = Store::open(options(directory.path())).unwrap();
    Rig { engine: store.engine, image, directory, _locks: store.locks }
}

impl Rig {
    /// Closes nothing in order, opens again.
    pub(super) fn restart(self) -> Rig {
        let Rig { engine, directory, _locks, .. } = self;
        drop((engine, _locks));
        rig_in(directory)
    }

    /// Files of the content store.
    pub(super) fn content_files(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("content"))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name() != "lock")
            .count()
    }
}

pub(super) fn options(directory: &Path) -> Options {
    Options {
        data_dir: directory.join("data"),
        content_dir: directory.join("content"),
        content_threshold: 1_000,
        node: NodeId(7),
        disk_free_min: 0,
    }
}

pub(super) fn aor(user: &str) -> Aor {
    Aor::from_canonical(&format!("sip:{user}@home.example"))
}

/// A request that says which one it is, and whose every byte depends on it.
pub(super) fn request(sequence: u64) -> Bytes {
    let start = format!("MESSAGE {sequence:012} ");
    let fill = (0..800u64).map(|at| b'a' + ((sequence.wrapping_mul(31) + at) % 26) as u8);
    start.bytes().chain(fill).collect()
}

/// Which request a message carries; panics if it is not one of ours to the last byte.
pub(super) fn sequence(message: DeferredMessage) -> u64 {
    let text = std::str::from_utf8(&message.request).unwrap();
    let sequence = text.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(message.request, request(sequence), "byte for byte");
    sequence
}

pub(super) fn deferral(user: &str, sequence: u64) -> Command {
    let accepted = UnixMillis(1_700_000_000_000);
    Command::Defer {
        message: Box::new(DeferredMessage {
            id: MessageId(0),
            user: aor(user),
            originator: "sip:alice@away.example".into(),
            accepted,
            expires: accepted.plus_seconds(3_600),
            attempts: 0,
            not_before: UnixMillis(0),
            wants_failure_notice: false,
            request: request(sequence),
            content: None,
        }),
        quota: Quota { count: 1_000_000, bytes: u64::MAX },
    }
}

pub(super) fn object(user: &str, imdn_message_id: &str, body: &[u8]) -> Box<MessageObject> {
    Box::new(MessageObject {
        id: MessageId(0),
        user: aor(user),
        peer: "sip:alice@away.example".into(),
        imdn_message_id: imdn_message_id.into(),
        conversation_id: "conversation".into(),
        contribution_id: "contribution".into(),
        direction: Direction::Received,
        outcome: Outcome::Pending,
        at: UnixMillis(1_700_000_000_000),
        head: Bytes::from_static(b"From: <sip:alice@away.example>\r\n"),
        content_type: "text/plain;charset=UTF-8".into(),
        body: Bytes::copy_from_slice(body),
        content: None,
        body_len: body.len() as u64,
    })
}

/// Puts a finished file of the spool into the content store's directory.
pub(super) fn spooled(rig: &Rig, spool: SpoolId, bytes: &[u8]) -> ContentFile {
    std::fs::write(rig.directory.path().join("content").join(spool.file_name()), bytes).unwrap();
    ContentFile {
        spool: Some(spool),
        sha256: Sha256Hex::of(bytes).as_str().into(),
        len: bytes.len() as u64,
        content_type: "message/cpim".into(),
        imdn_message_id: format!("id-{}", spool.0).into(),
        date_time: "2026-01-01T00:00:00Z".into(),
    }
}

/// A deferral of a message in large message mode.
pub(super) fn large_deferral(user: &str, sequence: u64, content: ContentFile) -> Command {
    let Command::Defer { mut message, quota } = deferral(user, sequence) else { unreachable!() };
    message.content = Some(content);
    Command::Defer { message, quota }
}

/// Executes one command.
pub(super) fn one(engine: &mut Engine, command: Command) -> Answer {
    engine.commit(&[command]).remove(0)
}

/// Executes one command whose answer is deferred messages.
pub(super) fn queue(engine: &mut Engine, command: Command) -> Vec<DeferredMessage> {
    match one(engine, command) {
        Ok(Reply::Queue(queue)) => queue,
        other => panic!("not a queue: {other:?}"),
    }
}

pub(super) fn deferred_id(answer: &Answer) -> MessageId {
    match answer {
        Ok(Reply::Deferred(id)) => *id,
        other => panic!("not deferred: {other:?}"),
    }
}
