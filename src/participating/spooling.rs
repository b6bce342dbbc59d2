//! Large messages that are kept: on their way from the relay through the spool into the store (SPEC LM-ed2, LM-A7, §2.5).
//!
//! `Spools` is the machine: pieces, answers and ends go in, what is to be done comes out as `Ask`s. It knows neither
//! SIP nor the relay; the second half of this file makes rows and objects of finished files and carries the asks out.

use super::content::Facts;
use super::core::{Core, CoreTimer};
use super::effect::Effect;
use super::facts::{self, LARGE_SERVICE, Originator, Service};
use super::large::SpoolTask;
use super::large_decide::Errand;
use super::objects::object;
use super::storage::{
    Answer, Command, ContentFile, Fault, MessageObject, Outcome, Reply, Shelf, SpoolCommand, SpoolId, SpoolReply,
};
use super::subscriber::Directory;
use super::transactions::Waiting;
use crate::base::id::{Aor, ShardId};
use crate::base::limits::{HISTORY_WINDOW_LEN, LARGE_SESSION_COUNT_MAX, SHARD_COUNT_MAX};
use crate::base::slots::{SlotId, Slots};
use crate::base::time::Now;
use crate::cpim::imdn::{self, Report};
use crate::cpim::message::{self as cpim, Cpim};
use crate::cpim::mime::MediaType;
use crate::metrics::names::Counter;
use crate::msrp::news::SessionId;
use bytes::Bytes;
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::time::Duration;

/// Something that the machine wants done.
#[derive(Debug, PartialEq)]
pub(super) enum Ask {
    /// A command to the spool; its answer belongs to the file.
    Spool(SlotId, SpoolCommand),
    /// The file is of no use to anybody any more, unless the store has taken it over.
    Discard(SlotId),
    /// So many bytes of a session are on disk.
    Written(SessionId, usize),
    /// The sender of a session's message gets its answer.
    Committed(SessionId, Result<(), u16>),
    /// The file is whole and durable: the store is asked to take it over.
    Commit {
        /// The file.
        id: SlotId,
        /// What the spool says of it.
        file: ContentFile,
        /// Its first bytes.
        head: Bytes,
    },
    /// A message will be missing in a history.
    HistoryLost,
    /// A message that was to be kept will not be.
    BrokenOff,
}

/// A session whose messages are kept.
struct Session {
    errand: Errand,
    request: Bytes,
    user: Aor,
    /// The message that is coming in.
    receiving: Option<SlotId>,
    /// What is left of the message that is coming in is of no use: the sender was told with this status.
    void: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Receiving,
    Finishing,
    Committing,
}

/// One message on its way into a file.
pub(super) struct Spooled {
    session: SessionId,
    /// What it is kept for. In the history nobody waits for it, and nothing may slow it down.
    pub(super) errand: Errand,
    /// The INVITE, as received.
    pub(super) request: Bytes,
    /// Whose message it is.
    pub(super) user: Aor,
    /// Bytes that the spool has not confirmed.
    unwritten: usize,
    step: Step,
    /// The Message-ID of MSRP.
    message_id: Box<str>,
    /// The sender asked to be told that the message is kept: about this IMDN-Message-ID and DateTime.
    notice: Option<(Box<str>, Box<str>)>,
}

/// The messages of one shard that are being kept.
pub(super) struct Spools {
    shard: ShardId,
    files: Slots<Spooled>,
    sessions: HashMap<SessionId, Session>,
    asks: VecDeque<Ask>,
    /// Files that the spool had no room to hear about.
    undiscarded: VecDeque<SlotId>,
}

impl Spools {
    /// Nothing is kept yet.
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            files: Slots::new(LARGE_SESSION_COUNT_MAX),
            sessions: HashMap::new(),
            asks: VecDeque::new(),
            undiscarded: VecDeque::new(),
        }
    }

    /// The messages of this session are to be kept. `request` is its INVITE.
    pub(super) fn begin(&mut self, session: SessionId, errand: Errand, request: Bytes, user: Aor) {
        let known = self.sessions.insert(session, Session { errand, request, user, receiving: None, void: None });
        debug_assert!(known.is_none(), "a session has one errand");
    }

    /// True if messages of this session are kept.
    pub(super) fn knows(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Takes part of a message, at its place from 0.
    pub(super) fn on_piece(&mut self, session: SessionId, offset: u64, bytes: Bytes) {
        let len = bytes.len();
        let Some(receiving) = self.receive(session) else {
            if self.sessions.get(&session).is_some_and(|known| known.errand != Errand::History) {
                // What nobody wants must not keep the sender from hearing so.
                self.asks.push_back(Ask::Written(session, len));
            }
            return;
        };
        let Some(file) = self.files.get_mut(receiving) else { return };
        file.unwritten += len;
        if file.errand == Errand::History && file.unwritten > HISTORY_WINDOW_LEN {
            // The disk is slower than the receiver.
            self.fail(receiving, Fault::Busy);
            return;
        }
        let spool = spool_id(self.shard, receiving);
        self.asks.push_back(Ask::Spool(receiving, SpoolCommand::Write { spool, offset, bytes }));
    }

    /// Every byte of a message was handed out.
    pub(super) fn on_complete(&mut self, session: SessionId, message_id: &[u8], content_type: &[u8], total: u64) {
        // A message without a body had no piece.
        let receiving = self.receive(session);
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.receiving = None;
        if let Some(status) = known.void.take() {
            if known.errand != Errand::History {
                self.asks.push_back(Ask::Committed(session, Err(status)));
            }
            return;
        }
        let Some(receiving) = receiving else { return };
        let Some(file) = self.files.get_mut(receiving) else { return };
        file.step = Step::Finishing;
        file.message_id = String::from_utf8_lossy(message_id).into();
        let content_type = if content_type.is_empty() { cpim::MEDIA_TYPE.as_bytes() } else { content_type };
        let content_type = String::from_utf8_lossy(content_type).into();
        let spool = spool_id(self.shard, receiving);
        self.asks.push_back(Ask::Spool(receiving, SpoolCommand::Finish { spool, len: total, content_type }));
    }

    /// What was handed out of a message is void.
    pub(super) fn on_aborted(&mut self, session: SessionId) {
        let Some(known) = self.sessions.get_mut(&session) else { return };
        known.void = None;
        if let Some(receiving) = known.receiving.take()
            && self.files.remove(receiving).is_some()
        {
            self.asks.push_back(Ask::Discard(receiving));
        }
    }

    /// The session is over. A message that is whole is kept all the same: its sender may have missed the answer, and the
    /// message's own id lets the recipient tell.
    pub(super) fn end(&mut self, session: SessionId) {
        let receiving = self.sessions.remove(&session).and_then(|known| known.receiving);
        let Some(receiving) = receiving else { return };
        if let Some(file) = self.files.remove(receiving) {
            self.asks.push_back(Ask::Discard(receiving));
            if file.errand != Errand::History {
                self.asks.push_back(Ask::BrokenOff);
            }
        }
    }

    /// The spool has answered for a file.
    pub(super) fn on_spool_answer(&mut self, id: SlotId, answer: Result<SpoolReply, Fault>) {
        let Some(file) = self.files.get_mut(id) else { return };
        match (answer, file.step) {
            (Ok(SpoolReply::Written(len)), _) => {
                debug_assert!(len <= file.unwritten, "what was written was posted");
                file.unwritten = file.unwritten.saturating_sub(len);
                if file.errand != Errand::History {
                    self.asks.push_back(Ask::Written(file.session, len));
                }
            }
            (Ok(SpoolReply::Finished { file: finished, head }), Step::Finishing) => {
                file.step = Step::Committing;
                self.asks.push_back(Ask::Commit { id, file: *finished, head });
            }
            (Ok(_), step) => debug_assert!(false, "an answer that a file in {step:?} did not ask for"),
            (Err(fault), Step::Receiving | Step::Finishing) => self.fail(id, fault),
            // An answer from before: the file was finished meanwhile.
            (Err(_), Step::Committing) => {}
        }
    }

    /// The store has answered for a file: true in `outcome` if it took the file over. Gives back what was kept, if it was.
    pub(super) fn on_stored(&mut self, id: SlotId, outcome: Result<bool, Fault>) -> Option<Spooled> {
        let file = self.files.get(id)?;
        debug_assert_eq!(file.step, Step::Committing, "only a finished file is offered to the store");
        match outcome {
            Ok(taken) => {
                if !taken {
                    self.asks.push_back(Ask::Discard(id));
                }
                let file = self.files.remove(id)?;
                if file.errand != Errand::History {
                    self.asks.push_back(Ask::Committed(file.session, Ok(())));
                }
                Some(file)
            }
            Err(fault) => {
                self.fail(id, fault);
                None
            }
        }
    }

    /// The spool had no room for the word that a file is discarded: it is told later. True if a timer has to be set.
    pub(super) fn on_discard_refused(&mut self, id: SlotId) -> bool {
        self.undiscarded.push_back(id);
        self.undiscarded.len() == 1
    }

    /// Tells it again.
    pub(super) fn discard_again(&mut self) {
        self.asks.extend(self.undiscarded.drain(..).map(Ask::Discard));
    }

    /// The next thing to do.
    pub(super) fn poll_ask(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }

    /// Sessions of which a whole message waits for the disk, and its sender for the answer.
    pub(super) fn committing(&self) -> impl Iterator<Item = SessionId> {
        let waiting = self.files.iter().filter(|file| file.step != Step::Receiving && file.errand != Errand::History);
        waiting.map(|file| file.session)
    }

    /// True when no whole message waits for the disk.
    pub(super) fn is_settled(&self) -> bool {
        self.files.iter().all(|file| file.step == Step::Receiving)
    }

    /// Sessions whose messages are kept, and messages under way.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.files.len())
    }

    /// What is known of a file.
    pub(super) fn file_mut(&mut self, id: SlotId) -> Option<&mut Spooled> {
        self.files.get_mut(id)
    }

    /// Gives up on a file.
    pub(super) fn fail(&mut self, id: SlotId, fault: Fault) {
        let Some(file) = self.files.remove(id) else { return };
        self.asks.push_back(Ask::Discard(id));
        let status = status_of(fault);
        if let Some(known) = self.sessions.get_mut(&file.session).filter(|known| known.receiving == Some(id)) {
            known.receiving = None;
            known.void = Some(status);
        }
        match file.errand {
            Errand::History => self.asks.push_back(Ask::HistoryLost),
            Errand::Defer { .. } | Errand::Store => {
                self.asks.extend([Ask::Committed(file.session, Err(status)), Ask::BrokenOff]);
            }
        }
    }

    /// The file that a session's message goes to, begun if there is none; `None` when the message is of no use.
    fn receive(&mut self, session: SessionId) -> Option<SlotId> {
        let known = self.sessions.get_mut(&session).filter(|known| known.void.is_none())?;
        if known.receiving.is_some() {
            return known.receiving;
        }
        let file = Spooled {
            session,
            errand: known.errand,
            request: known.request.clone(),
            user: known.user.clone(),
            unwritten: 0,
            step: Step::Receiving,
            message_id: Box::default(),
            notice: None,
        };
        match self.files.insert(file) {
            Some(id) => {
                known.receiving = Some(id);
                self.asks.push_back(Ask::Spool(id, SpoolCommand::Open(spool_id(self.shard, id))));
                Some(id)
            }
            None => {
                // The relay hears of it when the message is whole.
                known.void = Some(status_of(Fault::Busy));
                self.asks.push_back(match known.errand {
                    Errand::History => Ask::HistoryLost,
                    Errand::Defer { .. } | Errand::Store => Ask::BrokenOff,
                });
                None
            }
        }
    }
}

/// The only place where a fault becomes an MSRP status. RFC 4975 §10.
///
/// A full queue asks the sender to stop sending this message (413); a disk that is full, busy or broken is a hop that did
/// not do its part in time (408), which says that another attempt may succeed. 403 would say that it never will.
const fn status_of(fault: Fault) -> u16 {
    match fault {
        Fault::QuotaExceeded => 413,
        Fault::Busy | Fault::DiskFull | Fault::Broken => 408,
    }
}

/// The spool's name of a file: shard, slot and generation, so that no two files of a process have one.
fn spool_id(shard: ShardId, id: SlotId) -> SpoolId {
    SpoolId(u64::from(shard.0) << 44 | u64::from(id.generation) << 16 | u64::from(id.slot))
}

const _: () = assert!(LARGE_SESSION_COUNT_MAX <= 1 << 16 && SHARD_COUNT_MAX <= 1 << 16);
/// When the spool is told again what it had no room for.
const DISCARD_AGAIN: Duration = Duration::from_millis(200);

impl<D: Directory> Core<D> {
    /// The relay handed out part of a session's message.
    pub(super) fn on_spool_piece(&mut self, id: SlotId, media: SessionId, offset: u64, bytes: Bytes, now: Now) {
        self.begin_spool(id, media);
        self.spools.on_piece(media, offset, bytes);
        self.hear_spools(now);
    }

    /// The relay handed out every byte of it.
    pub(super) fn on_spool_complete(
        &mut self,
        id: SlotId,
        media: SessionId,
        message_id: &[u8],
        content_type: &[u8],
        total: u64,
        now: Now,
    ) {
        self.begin_spool(id, media);
        self.spools.on_complete(media, message_id, content_type, total);
        self.hear_spools(now);
    }

    /// What the relay handed out of a message is void.
    pub(super) fn on_spool_aborted(&mut self, media: SessionId, now: Now) {
        self.spools.on_aborted(media);
        self.hear_spools(now);
    }

    /// The MSRP session is over, whether its messages were kept or not.
    pub(super) fn end_spool(&mut self, media: SessionId, now: Now) {
        self.spools.end(media);
        self.hear_spools(now);
    }

    /// A session's first piece: from here on it is known what its messages are kept for.
    fn begin_spool(&mut self, id: SlotId, media: SessionId) {
        let task = self.large.sessions.get(id).and_then(|session| session.task.as_deref());
        if let Some(SpoolTask { request, user, errand }) = task.filter(|_| !self.spools.knows(media)) {
            self.spools.begin(media, *errand, request.clone(), user.clone());
        }
    }

    /// The spool has answered for a file.
    pub(super) fn on_spool_answer(&mut self, id: SlotId, answer: Result<SpoolReply, Fault>, now: Now) {
        if let Err(fault) = &answer {
            self.metrics.count(if *fault == Fault::Busy { Counter::SpoolBusy } else { Counter::SpoolFailed });
        }
        self.spools.on_spool_answer(id, answer);
        self.hear_spools(now);
    }

    /// The spool had no room to hear that a file is discarded.
    pub(super) fn on_discard_refused(&mut self, id: SlotId, now: Now) {
        self.metrics.count(Counter::SpoolBusy);
        if self.spools.on_discard_refused(id) {
            self.wheel.insert(now.at + DISCARD_AGAIN, CoreTimer::Discard);
        }
    }

    /// It may have room again.
    pub(super) fn on_discard_again(&mut self, now: Now) {
        self.spools.discard_again();
        self.hear_spools(now);
    }

    /// The store has answered for a finished file.
    pub(super) fn on_spool_stored(&mut self, id: SlotId, answer: Answer, now: Now) {
        let outcome = match answer {
            Ok(Reply::Deferred(_)) => Ok(true),
            Ok(Reply::Kept { created, .. }) => Ok(created),
            Ok(_) => Err(Fault::Broken),
            Err(fault) => Err(fault),
        };
        let kept = self.spools.on_stored(id, outcome);
        self.hear_spools(now);
        let Some(Spooled { errand, request, user, notice, .. }) = kept else { return };
        if errand == Errand::History {
            self.metrics.count(Counter::HistoryRecorded);
            return;
        }
        if let Some((message_id, date_time)) = notice {
            self.with_request(&request, |core, view| {
                core.send_notice_of(Report::Stored, view, &message_id, &date_time, user.as_str(), now);
            });
        }
        // The user may have come while the message was on its way to the disk.
        if matches!(errand, Errand::Defer { .. }) && self.is_reachable(user.as_str(), now) {
            self.announce_ready(user, now);
        }
    }

    fn hear_spools(&mut self, now: Now) {
        while let Some(ask) = self.spools.poll_ask() {
            match ask {
                Ask::Spool(id, command) => {
                    self.effects.push_back(Effect::Spool { ticket: Waiting::Spool(id).ticket(), command });
                }
                Ask::Discard(id) => {
                    let command = SpoolCommand::Discard(spool_id(self.shard, id));
                    self.effects.push_back(Effect::Spool { ticket: Waiting::Discard(id).ticket(), command });
                }
                Ask::Written(session, len) => self.relay.written(session, len),
                Ask::Committed(session, outcome) => {
                    if outcome.is_ok() {
                        self.metrics.count(Counter::LargeKept);
                    }
                    self.relay.committed(session, outcome, now.at);
                }
                Ask::Commit { id, file, head } => self.commit_spooled(id, file, &head, now),
                Ask::HistoryLost => self.metrics.count(Counter::HistoryFailed),
                Ask::BrokenOff => self.metrics.count(Counter::LargeAborted),
            }
        }
    }

    /// Asks the store to take a finished file over, as what it is kept for.
    fn commit_spooled(&mut self, id: SlotId, mut file: ContentFile, head: &[u8], now: Now) {
        let Some(spooled) = self.spools.file_mut(id) else { return };
        let (errand, request, user) = (spooled.errand, spooled.request.clone(), spooled.user.clone());
        let message_id = std::mem::take(&mut spooled.message_id);
        let content = facts_of_head(&file.content_type, head);
        file.imdn_message_id = content.imdn_message_id().unwrap_or_default().into();
        file.date_time = content.date_time().unwrap_or_default().into();
        if content.wants_stored_notice() && !file.imdn_message_id.is_empty() {
            spooled.notice = Some((file.imdn_message_id.clone(), file.date_time.clone()));
        }
        let command = self.with_request(&request, |core, view| match errand {
            Errand::Defer { age_max_seconds } => {
                let originator = core.large_originator(view);
                let mut message = core.deferred_message(
                    view,
                    request.clone(),
                    user.clone(),
                    &originator,
                    content,
                    age_max_seconds,
                    now.wall,
                );
                message.content = Some(file);
                Command::Defer { message: Box::new(message), quota: core.settings.deferred_quota }
            }
            Errand::Store | Errand::History => {
                // Several messages of one session may come without an id of their own.
                let own = match content.imdn_message_id() {
                    Some(id) => id.into(),
                    None => format!("{}-{message_id}", core.message_id(view, content)),
                };
                let (shelf, outcome) = match errand {
                    Errand::History => (Shelf::History, Outcome::Delivered),
                    _ => (Shelf::Messages, Outcome::Stored),
                };
                let object = core.large_object(view, &request, file, &user, &own, outcome, now);
                Command::Keep { shelf, object: Box::new(object) }
            }
        });
        match command {
            Some(command) => {
                self.effects.push_back(Effect::Store { ticket: Waiting::Spool(id).ticket(), command });
            }
            None => {
                debug_assert!(false, "an INVITE that was accepted reads again");
                self.spools.fail(id, Fault::Broken);
            }
        }
    }

    /// Who sent the message of an INVITE in large message mode.
    pub(super) fn large_originator(&self, view: &crate::sip::message::Message<'_>) -> Originator {
        let service = facts::service(view, &self.settings.cpm_tags);
        let service = match &service {
            Service::Cpm(text) => text.as_str(),
            _ => LARGE_SERVICE,
        };
        Originator::of(view, service, self.settings.identity_from_header).unwrap_or_default()
    }

    /// The object of a message whose body is a file.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn large_object(
        &self,
        view: &crate::sip::message::Message<'_>,
        request: &Bytes,
        file: ContentFile,
        user: &Aor,
        imdn_message_id: &str,
        outcome: Outcome,
        now: Now,
    ) -> MessageObject {
        let originator = self.large_originator(view);
        let making = self.making(view, &originator, user.as_str(), imdn_message_id, outcome, now.wall);
        MessageObject {
            content_type: file.content_type.clone(),
            body: Bytes::new(),
            body_len: file.len,
            content: Some(file),
            ..object(view, request, making)
        }
    }
}

/// What the beginning of a message says of it.
fn facts_of_head<'a>(content_type: &str, head: &'a [u8]) -> Facts<'a> {
    let is_cpim = MediaType::parse(content_type.as_bytes()).is_some_and(|media| media.is(cpim::MEDIA_TYPE));
    // Headers that are longer than the head that is looked at say nothing.
    let found = if is_cpim { Cpim::parse(head).ok() } else { None };
    Facts { is_cpim, is_imdn: found.is_some_and(|cpim| imdn::is_imdn(&cpim)), cpim: found }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SlotId { slot: 7, generation: 3 };
    const DEFER: Errand = Errand::Defer { age_max_seconds: None };
    const FILE: SlotId = SlotId { slot: 0, generation: 0 };

    fn spools(errand: Errand) -> Spools {
        let mut spools = Spools::new(ShardId(2));
        spools.begin(SESSION, errand, Bytes::from_static(b"INVITE"), Aor::from_canonical("sip:bob@home.example"));
        spools
    }

    fn asks(spools: &mut Spools) -> Vec<Ask> {
        std::iter::from_fn(|| spools.poll_ask()).collect()
    }

    fn id() -> SpoolId {
        spool_id(ShardId(2), FILE)
    }

    fn write(offset: u64, bytes: &'static [u8]) -> Ask {
        Ask::Spool(FILE, SpoolCommand::Write { spool: id(), offset, bytes: Bytes::from_static(bytes) })
    }

    fn finish(len: u64) -> Ask {
        Ask::Spool(FILE, SpoolCommand::Finish { spool: id(), len, content_type: "message/cpim".into() })
    }

    fn finished(len: u64) -> ContentFile {
        ContentFile { spool: Some(id()), len, content_type: "message/cpim".into(), ..ContentFile::default() }
    }

    /// A message up to the store's answer.
    fn until_commit(spools: &mut Spools) {
        spools.on_piece(SESSION, 0, Bytes::from_static(b"abc"));
        spools.on_complete(SESSION, b"m1", b"message/cpim", 3);
        spools.on_spool_answer(FILE, Ok(SpoolReply::Written(3)));
        spools.on_spool_answer(
            FILE,
            Ok(SpoolReply::Finished { file: finished(3).into(), head: Bytes::from_static(b"abc") }),
        );
    }

    #[test]
    fn a_deferred_message_is_acknowledged_after_its_commit_and_not_before() {
        let mut spools = spools(DEFER);
        spools.on_piece(SESSION, 0, Bytes::from_static(b"abc"));
        spools.on_piece(SESSION, 3, Bytes::from_static(b"de"));
        let open = Ask::Spool(FILE, SpoolCommand::Open(id()));
        assert_eq!(asks(&mut spools), [open, write(0, b"abc"), write(3, b"de")]);
        spools.on_spool_answer(FILE, Ok(SpoolReply::Written(3)));
        assert_eq!(asks(&mut spools), [Ask::Written(SESSION, 3)]);
        spools.on_complete(SESSION, b"m1", b"message/cpim", 5);
        assert_eq!(asks(&mut spools), [finish(5)]);
        assert!(!spools.is_settled());
        spools.on_spool_answer(FILE, Ok(SpoolReply::Written(2)));
        let head = Bytes::from_static(b"abcde");
        spools.on_spool_answer(FILE, Ok(SpoolReply::Finished { file: finished(5).into(), head: head.clone() }));
        assert_eq!(asks(&mut spools), [Ask::Written(SESSION, 2), Ask::Commit { id: FILE, file: finished(5), head }]);
        assert!(spools.on_stored(FILE, Ok(true)).is_some());
        assert_eq!(asks(&mut spools), [Ask::Committed(SESSION, Ok(()))]);
        assert!(spools.is_settled());
        spools.end(SESSION);
        assert_eq!((asks(&mut spools), spools.counts()), (vec![], (0, 0)));
    }

    #[test]
    fn a_message_without_a_body_is_a_message() {
        let mut spools = spools(Errand::Store);
        spools.on_complete(SESSION, b"m1", b"", 0);
        assert_eq!(asks(&mut spools), [Ask::Spool(FILE, SpoolCommand::Open(id())), finish(0)]);
    }

    #[test]
    fn each_fault_has_its_status_and_leaves_no_file() {
        for (fault, status) in
            [(Fault::QuotaExceeded, 413), (Fault::DiskFull, 408), (Fault::Busy, 408), (Fault::Broken, 408)]
        {
            let mut spools = spools(DEFER);
            until_commit(&mut spools);
            asks(&mut spools);
            assert!(spools.on_stored(FILE, Err(fault)).is_none());
            let refused = Ask::Committed(SESSION, Err(status));
            assert_eq!(asks(&mut spools), [Ask::Discard(FILE), refused, Ask::BrokenOff]);
            assert_eq!(spools.counts(), (1, 0));
        }
    }

    #[test]
    fn what_comes_after_a_failed_write_flows_off_and_the_next_message_is_taken() {
        let mut spools = spools(Errand::Store);
        spools.on_piece(SESSION, 0, Bytes::from_static(b"abc"));
        spools.on_piece(SESSION, 3, Bytes::from_static(b"def"));
        asks(&mut spools);
        spools.on_spool_answer(FILE, Err(Fault::DiskFull));
        let refused = Ask::Committed(SESSION, Err(408));
        assert_eq!(asks(&mut spools), [Ask::Discard(FILE), refused, Ask::BrokenOff]);
        spools.on_spool_answer(FILE, Err(Fault::DiskFull));
        spools.on_piece(SESSION, 6, Bytes::from_static(b"ghi"));
        assert_eq!(asks(&mut spools), [Ask::Written(SESSION, 3)]);
        spools.on_complete(SESSION, b"m1", b"message/cpim", 9);
        assert_eq!(asks(&mut spools), [Ask::Committed(SESSION, Err(408))]);
        spools.on_piece(SESSION, 0, Bytes::from_static(b"x"));
        let again = SlotId { slot: 0, generation: 1 };
        assert!(
            matches!(&asks(&mut spools)[..], [Ask::Spool(id, SpoolCommand::Open(_)), Ask::Spool(..)] if *id == again)
        );
    }

    #[test]
    fn what_is_aborted_or_broken_off_is_discarded_and_what_is_whole_is_kept() {
        let mut spools = spools(DEFER);
        spools.on_piece(SESSION, 0, Bytes::from_static(b"abc"));
        asks(&mut spools);
        spools.on_aborted(SESSION);
        assert_eq!(asks(&mut spools), [Ask::Discard(FILE)]);
        spools.on_spool_answer(FILE, Ok(SpoolReply::Written(3)));
        assert_eq!(asks(&mut spools), [], "an answer to something that is gone");
        spools.on_piece(SESSION, 0, Bytes::from_static(b"abc"));
        asks(&mut spools);
        spools.end(SESSION);
        assert!(matches!(&asks(&mut spools)[..], [Ask::Discard(_), Ask::BrokenOff]));

        let mut spools = self::spools(DEFER);
        until_commit(&mut spools);
        asks(&mut spools);
        spools.end(SESSION);
        assert_eq!(asks(&mut spools), []);
        assert!(spools.on_stored(FILE, Ok(true)).is_some());
    }

    #[test]
    fn a_recording_never_slows_the_message_down_and_is_given_up_when_the_disk_cannot_follow() {
        let mut spools = spools(Errand::History);
        let piece = Bytes::from(vec![b'x'; 1 << 20]);
        let fits = HISTORY_WINDOW_LEN >> 20;
        for at in 0..fits as u64 {
            spools.on_piece(SESSION, at << 20, piece.clone());
        }
        assert_eq!(asks(&mut spools).len(), 1 + fits);
        spools.on_spool_answer(FILE, Ok(SpoolReply::Written(1 << 20)));
        spools.on_piece(SESSION, (fits as u64) << 20, piece.clone());
        assert_eq!(asks(&mut spools).len(), 1, "the disk follows, and the relay hears nothing of it");
        spools.on_piece(SESSION, (fits as u64 + 1) << 20, piece.clone());
        assert_eq!(asks(&mut spools), [Ask::Discard(FILE), Ask::HistoryLost]);
        spools.on_piece(SESSION, (fits as u64 + 2) << 20, piece);
        spools.on_complete(SESSION, b"m1", b"message/cpim", (fits as u64 + 3) << 20);
        assert_eq!(asks(&mut spools), [], "lost once");
    }

    #[test]
    fn an_object_that_was_there_leaves_its_file_to_be_discarded() {
        let mut spools = spools(Errand::History);
        until_commit(&mut spools);
        asks(&mut spools);
        assert!(spools.on_stored(FILE, Ok(false)).is_some());
        assert_eq!(asks(&mut spools), [Ask::Discard(FILE)]);
    }

    #[test]
    fn a_discard_that_found_no_room_is_repeated() {
        let mut spools = spools(DEFER);
        assert!(spools.on_discard_refused(FILE));
        assert!(!spools.on_discard_refused(FILE), "one timer is enough");
        spools.discard_again();
        assert_eq!(asks(&mut spools), [Ask::Discard(FILE), Ask::Discard(FILE)]);
        assert!(spools.on_discard_refused(FILE));
    }

    #[test]
    fn no_two_files_have_one_name() {
        let ids = [
            spool_id(ShardId(0), SlotId { slot: 1, generation: 0 }),
            spool_id(ShardId(1), SlotId { slot: 0, generation: 0 }),
            spool_id(ShardId(0), SlotId { slot: 0, generation: 1 }),
            spool_id(ShardId(255), SlotId { slot: 0xffff, generation: (1 << 28) - 1 }),
        ];
        let unique: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
    }

    #[test]
    fn the_head_of_a_message_tells_what_its_sender_asks_for() {
        let head = b"From: <sip:a@x>\r\nNS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: i1\r\n\
            DateTime: 2026-01-01T00:00:00Z\r\nimdn.Disposition-Notification: negative-delivery, processing\r\n\r\n\
            Content-Type: image/png\r\n\r\nabc";
        let facts = facts_of_head("Message/CPIM", head);
        assert_eq!((facts.imdn_message_id(), facts.date_time()), (Some("i1"), Some("2026-01-01T00:00:00Z")));
        assert!(facts.wants_failure_notice() && facts.wants_stored_notice());
        assert_eq!(facts_of_head("text/plain", head), Facts::default());
        assert_eq!(facts_of_head("message/cpim", &head[..40]).imdn_message_id(), None);
    }

    /// The core around the machine.
    mod glue {
        use super::*;
        use crate::participating::devices::Device;
        use crate::participating::input::Input;
        use crate::participating::subscriber::Subscriber;
        use crate::testing::directory::MapDirectory;
        use crate::testing::scene::{after, core, device, settings};

        /// The session in large message mode: only its first piece would ask for it.
        const NOBODY: SlotId = SlotId { slot: 0, generation: 0 };
        const BOB: &str = "sip:bob@home.example";
        const HEAD: &str = "From: <sip:alice@a.example>\r\nNS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: i1\r\n\
            DateTime: 2026-01-01T00:00:00Z\r\nimdn.Disposition-Notification: negative-delivery, processing\r\n\r\n\
            Content-Type: image/png\r\n\r\nabc";

        fn invite() -> Bytes {
            Bytes::from_static(
                b"INVITE sip:bob@home.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKx\r\n\
                  From: <sip:alice@a.example>;tag=a\r\nTo: <sip:bob@home.example>\r\nCall-ID: c1\r\nCSeq: 1 INVITE\r\n\
                  P-Asserted-Identity: <sip:alice@a.example>\r\nConversation-ID: conv\r\nSubject: hello\r\n\
                  Expires: 60\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n",
            )
        }

        fn now() -> Now {
            after(Duration::from_secs(1))
        }

        fn rig(errand: Errand, devices: Vec<Device>) -> Core<MapDirectory> {
            let directory = MapDirectory::default();
            directory.publish(BOB, Subscriber { devices: devices.into(), ..Subscriber::default() });
            let mut core = core(settings(0, 1), 0, directory, 1, now());
            core.spools.begin(SESSION, errand, invite(), Aor::from_canonical(BOB));
            core
        }

        /// Lets the message through up to the command to the store.
        fn command(core: &mut Core<MapDirectory>) -> (SlotId, Command) {
            core.on_spool_piece(NOBODY, SESSION, 0, Bytes::from_static(HEAD.as_bytes()), now());
            core.on_spool_complete(NOBODY, SESSION, b"m1", b"message/cpim", HEAD.len() as u64, now());
            let id = SlotId { slot: 0, generation: 0 };
            let spooled: Vec<_> = std::iter::from_fn(|| core.poll_effect()).collect();
            assert_eq!(spooled.len(), 3, "{spooled:?}");
            for effect in &spooled {
                assert!(matches!(effect, Effect::Spool { ticket, .. } if *ticket == Waiting::Spool(id).ticket()));
            }
            let file = ContentFile {
                spool: Some(spool_id(ShardId(0), id)),
                sha256: "0".repeat(64).into(),
                len: HEAD.len() as u64,
                content_type: "message/cpim".into(),
                ..ContentFile::default()
            };
            let ticket = Waiting::Spool(id).ticket();
            let answer = Ok(SpoolReply::Finished { file: file.into(), head: Bytes::from_static(HEAD.as_bytes()) });
            core.handle_input(Input::Spool { ticket, answer }, now());
            match core.poll_effect() {
                Some(Effect::Store { ticket, command }) => {
                    assert_eq!(Waiting::of(ticket), Waiting::Spool(id));
                    (id, command)
                }
                other => panic!("the store is asked, not {other:?}"),
            }
        }

        fn answer(core: &mut Core<MapDirectory>, id: SlotId, answer: Answer) -> Vec<String> {
            let ticket = Waiting::Spool(id).ticket();
            core.handle_input(Input::Store { ticket, answer }, now());
            std::iter::from_fn(|| core.poll_effect())
                .map(|effect| match effect {
                    Effect::SendDatagram { bytes, .. } => String::from_utf8(bytes.to_vec()).unwrap(),
                    other => format!("{other:?}"),
                })
                .collect()
        }

        #[test]
        fn a_deferred_large_message_is_the_invite_with_its_content_and_expires_as_it_says() {
            let mut core = rig(DEFER, Vec::new());
            let (id, command) = command(&mut core);
            let Command::Defer { message, .. } = command else { panic!("not a deferral: {command:?}") };
            assert_eq!((message.request.clone(), &*message.originator), (invite(), "sip:alice@a.example"));
            assert_eq!((message.user.as_str(), message.accepted), (BOB, now().wall));
            assert_eq!(message.expires, now().wall.plus_seconds(60));
            assert!(message.wants_failure_notice);
            let content = message.content.unwrap();
            assert_eq!((&*content.imdn_message_id, &*content.date_time), ("i1", "2026-01-01T00:00:00Z"));
            assert!(!core.is_settled());
            let sent = answer(&mut core, id, Ok(Reply::Deferred(crate::base::id::MessageId(9))));
            assert!(core.is_settled());
            assert_eq!(sent.len(), 1, "{sent:?}");
            assert!(sent[0].starts_with("MESSAGE sip:alice@a.example SIP/2.0\r\n"), "{sent:?}");
            assert!(sent[0].contains("<processing-notification><status><stored/>"), "{sent:?}");
            assert!(sent[0].contains("<message-id>i1</message-id>"), "{sent:?}");
        }

        #[test]
        fn a_user_who_came_meanwhile_is_served_at_once() {
            let mut core = rig(DEFER, vec![device("urn:uuid:1")]);
            let (id, _) = command(&mut core);
            let sent = answer(&mut core, id, Ok(Reply::Deferred(crate::base::id::MessageId(9))));
            assert!(sent.iter().any(|effect| effect.contains("PeekDeferred")), "{sent:?}");
        }

        #[test]
        fn a_stored_or_recorded_message_is_an_object_with_the_headers_of_its_invite() {
            for (errand, shelf, outcome) in [
                (Errand::Store, Shelf::Messages, Outcome::Stored),
                (Errand::History, Shelf::History, Outcome::Delivered),
            ] {
                let mut core = rig(errand, Vec::new());
                let (id, command) = command(&mut core);
                let Command::Keep { shelf: at, object } = command else { panic!("not kept: {command:?}") };
                assert_eq!((at, object.outcome, &*object.imdn_message_id), (shelf, outcome, "i1"));
                assert_eq!((object.body.len(), object.body_len), (0, HEAD.len() as u64));
                assert_eq!((&*object.content_type, object.content.is_some()), ("message/cpim", true));
                let head = String::from_utf8(object.head.to_vec()).unwrap();
                for line in ["Subject: hello\r\n", "oma.cpm.largemsg\r\n", "IMDN-Message-ID: i1\r\n"] {
                    assert!(head.contains(line), "{head}");
                }
                let kept = Reply::Kept { id: crate::base::id::MessageId(9), created: true };
                let sent = answer(&mut core, id, Ok(kept));
                assert_eq!(sent.len(), usize::from(errand == Errand::Store), "{sent:?}");
            }
        }

        #[test]
        fn a_refused_file_is_discarded_until_the_spool_has_heard_it() {
            let mut core = rig(DEFER, Vec::new());
            let (id, _) = command(&mut core);
            let sent = answer(&mut core, id, Err(Fault::QuotaExceeded));
            assert_eq!(sent.len(), 1, "{sent:?}");
            assert!(sent[0].contains("Discard"), "{sent:?}");
            let ticket = Waiting::Discard(id).ticket();
            core.handle_input(Input::Spool { ticket, answer: Err(Fault::Busy) }, now());
            assert!(core.poll_effect().is_none());
            core.handle_timeout(after(Duration::from_secs(2)));
            assert!(matches!(
                core.poll_effect(),
                Some(Effect::Spool { command: SpoolCommand::Discard(spool), .. }) if spool == spool_id(ShardId(0), id)
            ));
        }
    }
}
