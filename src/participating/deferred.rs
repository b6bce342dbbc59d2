//! Deferred delivery: the home shard sends a user's waiting messages when the user can be reached (SPEC §2.4).
//!
//! One machine per user that has something to be delivered: messages in order of acceptance, one in flight at a time,
//! all users together at the configured pace. What a crash interrupts is sent again; the message's own id lets the
//! client tell.

use super::core::{Core, CoreTimer, OWN_REQUEST_MARK};
use super::decide::{self, PAGER};
use super::effect::Effect;
use super::facts::{self, LARGE_SERVICE, Originator, PAGER_SERVICE, Service};
use super::large_decide::LARGE;
use super::objects::{http_date, object, system_time};
use super::originate::Origination;
use super::policy::PolicyRequest;
use super::settings::Settings;
use super::storage::{Answer, Command, ContentFile, DeferredMessage, Outcome, Reply, Settlement, Shelf};
use super::subscriber::Directory;
use super::transactions::{Owner, Verdict, Waiting};
use crate::base::id::{Aor, MessageId};
use crate::base::limits::{DELIVERY_ACTIVE_MAX, DELIVERY_USER_COUNT_MAX};
use crate::base::slots::{SlotId, Slots};
use crate::base::time::{Instant, Now, UnixMillis};
use crate::cpim::imdn::{Notification, Original, Report, notify};
use crate::metrics::names::Counter;
use crate::sip::header::address::Address;
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::uri::Uri;
use crate::sip::write::line;
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

/// Messages read from the queue at once.
const PEEK_LIMIT: u16 = 8;
/// Expired messages removed at once.
const SWEEP_LIMIT: u16 = 2_048;
/// First wait after a failed attempt; it doubles from attempt to attempt.
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(3600);
/// How far sending may run ahead of an even pace: timers tick in milliseconds.
const PACE_AHEAD: Duration = Duration::from_millis(10);
/// Fields of the stored request that the delivered one has of its own, or that belonged to the first way.
const OWN_FIELDS: [Name; 14] = [
    Name::Via,
    Name::MaxForwards,
    Name::Route,
    Name::RecordRoute,
    Name::From,
    Name::To,
    Name::CallId,
    Name::CSeq,
    Name::Contact,
    Name::Expires,
    Name::ContentLength,
    Name::PServedUser,
    Name::PPreferredIdentity,
    Name::PPreferredService,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// In line for its turn.
    Queued,
    /// The store is reading the queue.
    Peeking,
    /// The history record is on its way to the disk.
    Recording,
    /// Final responses are awaited.
    Sending,
    /// The store is removing the message that was in hand: until it has, the queue is not read again, or the message
    /// would be sent once more.
    Settling,
    /// The store could not remove it and is asked again later.
    Unsettled,
    /// The next attempt is due later.
    Backoff,
}

struct Delivery {
    user: Aor,
    step: Step,
    /// Messages read, oldest first; the first one is in hand.
    queue: VecDeque<DeferredMessage>,
    /// The user became reachable again meanwhile: what failed is tried at once.
    again: bool,
    /// Attempts so far, of all messages.
    round: u32,
    pending: u8,
    best: Option<u16>,
    record: Option<Box<str>>,
    /// The message to be removed.
    settling: MessageId,
    /// When a wait is over; timers of earlier waits may still be on the wheel.
    due: Instant,
    /// The attempt under way, of a large message.
    origination: Option<SlotId>,
    /// How far an earlier attempt of a large message came.
    progress: Option<Progress>,
}

/// How far a large message has come at a device, in memory only: after a restart it begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// The message.
    pub(super) message: MessageId,
    /// The device: its Contact.
    pub(super) target: Box<[u8]>,
    /// Bytes from the beginning that it has acknowledged.
    pub(super) acknowledged: u64,
}

/// The users whose deferred messages are being delivered by this shard.
pub(super) struct Deliveries {
    slots: Slots<Delivery>,
    /// Attempts to deliver large messages.
    pub(super) originations: Slots<Origination>,
    by_user: HashMap<Aor, SlotId>,
    /// Users in line.
    line: VecDeque<SlotId>,
    /// Users past the line and not in back-off.
    active: usize,
    /// When the next message is due if they went out evenly; sending may run ahead of it by [`PACE_AHEAD`].
    next_send: Instant,
    interval: Duration,
    pace_armed: bool,
    /// The line is being served further up the stack.
    serving: bool,
    /// Nothing more is sent: what is in a device's hands is waited for, so that it is not sent again after a restart.
    stopping: bool,
}

impl Deliveries {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            slots: Slots::new(DELIVERY_USER_COUNT_MAX),
            originations: Slots::new(DELIVERY_ACTIVE_MAX),
            by_user: HashMap::new(),
            line: VecDeque::new(),
            active: 0,
            next_send: now,
            interval: Duration::from_secs(1) / settings.deferred_pace.max(1),
            pace_armed: false,
            serving: false,
            stopping: false,
        }
    }

    /// Puts a user in line. One with messages in hand goes first, so that only a few users' messages are in memory.
    fn queue_up(&mut self, id: SlotId) {
        let Some(delivery) = self.slots.get_mut(id) else { return };
        delivery.step = Step::Queued;
        if delivery.queue.is_empty() { self.line.push_back(id) } else { self.line.push_front(id) }
    }

    fn may_send(&self, now: Instant) -> bool {
        self.next_send <= now + PACE_AHEAD
    }

    fn spend_pace(&mut self, now: Instant) {
        self.next_send = self.next_send.max(now) + self.interval;
    }

    /// Lets nobody out of the line any more.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Users being served and users in line.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.active, self.line.len())
    }

    pub(super) fn is_consistent(&self) -> bool {
        self.slots.len() == self.by_user.len()
            && self.line.len() <= DELIVERY_USER_COUNT_MAX
            && self.originations.len() <= self.active
    }

    /// The attempt under way for a user.
    pub(super) fn origination_of(&self, id: SlotId) -> Option<SlotId> {
        self.slots.get(id)?.origination
    }

    /// The same, if it still is this one.
    pub(super) fn origination(&self, id: SlotId, round: u32) -> Option<SlotId> {
        self.slots.get(id).filter(|delivery| delivery.round == round)?.origination
    }

    /// Notes the attempt under way for a user, and until when it may wait for an answer.
    pub(super) fn set_origination(&mut self, id: SlotId, origination: Option<SlotId>, due: Instant) {
        if let Some(delivery) = self.slots.get_mut(id) {
            delivery.origination = origination;
            delivery.due = due;
        }
    }

    /// How far the last attempt for a user came.
    pub(super) fn progress(&self, id: SlotId) -> Option<&Progress> {
        self.slots.get(id)?.progress.as_ref()
    }

    /// Notes how far an attempt came.
    pub(super) fn set_progress(&mut self, id: SlotId, progress: Option<Progress>) {
        if let Some(delivery) = self.slots.get_mut(id) {
            delivery.progress = progress;
        }
    }
}

impl<D: Directory> Core<D> {
    /// A user of whom this shard is the home can be reached.
    pub(super) fn on_subscriber_ready(&mut self, user: Aor, now: Now) {
        if let Some(id) = self.deliveries.by_user.get(&user).copied() {
            if let Some(delivery) = self.deliveries.slots.get_mut(id) {
                delivery.again = true;
                if delivery.step == Step::Backoff {
                    self.deliveries.queue_up(id);
                }
            }
        } else {
            let delivery = Delivery {
                user: user.clone(),
                step: Step::Queued,
                queue: VecDeque::new(),
                again: false,
                round: 0,
                pending: 0,
                best: None,
                record: None,
                settling: MessageId::default(),
                due: now.at,
                origination: None,
                progress: None,
            };
            // Full: the messages stay in the store, and the user's next registration brings them up again.
            let Some(id) = self.deliveries.slots.insert(delivery) else { return };
            self.deliveries.by_user.insert(user, id);
            self.deliveries.line.push_back(id);
        }
        self.serve_line(now);
    }

    /// Lets users out of the line while there is room.
    fn serve_line(&mut self, now: Now) {
        // A user that is done at once lets the next one out: from the loop that is running, not from a deeper one.
        if std::mem::replace(&mut self.deliveries.serving, true) {
            return;
        }
        while self.deliveries.active < DELIVERY_ACTIVE_MAX && !self.deliveries.stopping {
            if self.deliveries.line.is_empty() {
                break;
            }
            if !self.deliveries.may_send(now.at) {
                self.arm_pace();
                break;
            }
            let Some(id) = self.deliveries.line.pop_front() else { break };
            if self.deliveries.slots.get(id).is_some_and(|delivery| delivery.step == Step::Queued) {
                self.deliveries.active += 1;
                self.next_message(id, now);
            }
        }
        self.deliveries.serving = false;
    }

    fn arm_pace(&mut self) {
        if !self.deliveries.pace_armed {
            self.deliveries.pace_armed = true;
            let due = Instant(self.deliveries.next_send.0.saturating_sub(PACE_AHEAD.as_nanos() as u64));
            self.wheel.insert(due, CoreTimer::Pace);
        }
    }

    pub(super) fn on_pace(&mut self, now: Now) {
        self.deliveries.pace_armed = false;
        self.serve_line(now);
    }

    pub(super) fn on_delivery_timer(&mut self, id: SlotId, now: Now) {
        let Some(delivery) = self.deliveries.slots.get_mut(id).filter(|delivery| delivery.due <= now.at) else {
            return;
        };
        match delivery.step {
            Step::Backoff => self.deliveries.queue_up(id),
            Step::Unsettled => {
                self.deliveries.active += 1;
                self.remove_settled(id);
            }
            Step::Sending if delivery.origination.is_some() => self.on_origination_timeout(id, now),
            _ => {}
        }
        self.serve_line(now);
    }

    /// Lets a user wait, without messages in memory: the store has them.
    fn back_off(&mut self, id: SlotId, step: Step, wait: Duration, now: Now) {
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        debug_assert!(matches!(step, Step::Backoff | Step::Unsettled), "a step that a timer ends");
        delivery.step = step;
        delivery.queue.clear();
        delivery.due = now.at + wait;
        self.deliveries.active -= 1;
        self.wheel.insert(now.at + wait, CoreTimer::Delivery(id));
        self.serve_line(now);
    }

    /// Goes on with a user's oldest message, reading the queue when none is at hand.
    fn next_message(&mut self, id: SlotId, now: Now) {
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        let user = delivery.user.clone();
        let Some(message) = delivery.queue.front().cloned() else {
            delivery.step = Step::Peeking;
            delivery.again = false;
            let command = Command::PeekDeferred { user, limit: PEEK_LIMIT };
            self.effects.push_back(Effect::Store { ticket: Waiting::Delivery(id).ticket(), command });
            return;
        };
        if self.deliveries.next_send > now.at + PACE_AHEAD || self.deliveries.stopping {
            self.deliveries.active -= 1;
            self.deliveries.queue_up(id);
            self.arm_pace();
            return;
        }
        if !self.is_reachable(user.as_str(), now) {
            self.end_delivery(id, now);
            return;
        }
        if message.expires <= now.wall {
            self.metrics.count(Counter::DeferredExpired);
            self.end_record(&message);
            self.drop_first(id, true, now);
            return;
        }
        let request = message.request.clone();
        let Some(check) = self.with_request(&request, |core, view| core.check_again(&user, view, now)) else {
            // A row that cannot be read any more helps nobody.
            self.metrics.count(Counter::DeferredRefused);
            self.drop_first(id, false, now);
            return;
        };
        if check.blocked {
            // The sender was blocked meanwhile: dropped silently (SPEC §2.4).
            self.metrics.count(Counter::DeferredBlocked);
            self.end_record(&message);
            self.drop_first(id, false, now);
            return;
        }
        if check.record {
            self.record_first(id, &user, &message, now);
        } else {
            self.send_first(id, now);
        }
    }

    /// PM-1 and PM-5 once more, as things stand at delivery.
    fn check_again(&self, user: &Aor, view: &Message<'_>, now: Now) -> Check {
        let (usual, media) =
            if view.method() == Some(b"INVITE") { (LARGE_SERVICE, LARGE) } else { (PAGER_SERVICE, PAGER) };
        let service = facts::service(view, &self.settings.cpm_tags);
        let service = match &service {
            Service::Cpm(text) => text.as_str(),
            _ => usual,
        };
        let originator = Originator::of(view, service, self.settings.identity_from_header).unwrap_or_default();
        let addresses: SmallVec<[&str; 3]> = originator.addresses.iter().map(|aor| aor.as_str()).collect();
        let request = PolicyRequest {
            originator: &addresses,
            anonymous: facts::is_anonymous(view),
            service,
            media,
            at: now.wall,
        };
        self.directory.read(user.as_str(), |subscriber| Check {
            blocked: subscriber.and_then(|known| known.policy.as_ref()).is_some_and(|policy| policy.rejects(&request)),
            record: subscriber.and_then(|known| known.profile.as_ref()).is_some_and(|profile| profile.records_history),
        })
    }

    fn record_first(&mut self, id: SlotId, user: &Aor, message: &DeferredMessage, now: Now) {
        let request = &message.request;
        let made = self.with_request(request, |core, view| {
            if let Some(content) = &message.content {
                let message_id = core.deferred_id(view, message);
                let file = ContentFile { spool: None, ..content.clone() };
                let object = core.large_object(view, request, file, user, &message_id, Outcome::Pending, now);
                return (Box::new(object), message_id);
            }
            let service = facts::service(view, &core.settings.cpm_tags);
            let service = match &service {
                Service::Cpm(text) => text.as_str(),
                _ => PAGER_SERVICE,
            };
            let originator = Originator::of(view, service, core.settings.identity_from_header).unwrap_or_default();
            let message_id = core.message_id(view, core.content_facts(view));
            let making = core.making(view, &originator, user.as_str(), &message_id, Outcome::Pending, now.wall);
            (Box::new(object(view, request, making)), message_id.clone())
        });
        let (Some((object, message_id)), Some(delivery)) = (made, self.deliveries.slots.get_mut(id)) else { return };
        delivery.step = Step::Recording;
        delivery.record = Some(message_id);
        let command = Command::Keep { shelf: Shelf::History, object };
        self.effects.push_back(Effect::Store { ticket: Waiting::Delivery(id).ticket(), command });
    }

    /// The message's own id, as it stands in the history.
    fn deferred_id(&self, view: &Message<'_>, message: &DeferredMessage) -> Box<str> {
        match &message.content {
            Some(content) if !content.imdn_message_id.is_empty() => content.imdn_message_id.clone(),
            _ => self.message_id(view, self.content_facts(view)),
        }
    }

    /// Sends the message in hand: a request of our own with the sender's words (SPEC §2.4).
    fn send_first(&mut self, id: SlotId, now: Now) {
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        let (Some(message), user) = (delivery.queue.front().cloned(), delivery.user.clone()) else { return };
        delivery.round = delivery.round.wrapping_add(1);
        let round = delivery.round;
        let settings = std::sync::Arc::clone(&self.settings);
        let instances = self.directory.read(user.as_str(), |subscriber| {
            subscriber.map(|known| decide::instances(known, &settings, now.wall)).unwrap_or_default()
        });
        if message.content.is_some() {
            delivery.step = Step::Sending;
            delivery.pending = 0;
            delivery.best = None;
            self.deliveries.spend_pace(now.at);
            self.originate_large(id, round, &message, &instances, now);
            return;
        }
        let branches = instances.len().max(1);
        let call_id = format!("{:016x}{:016x}@{}", self.rng.next_u64(), self.rng.next_u64(), settings.host);
        let from_tag = format!("{:016x}", self.rng.next_u64());
        let mut sent = 0;
        for index in 0..branches {
            let instance = instances.get(index).map(|instance| &**instance);
            let launched = self.with_request(&message.request, |core, view| {
                core.send_request(
                    Owner::Delivery { id, round },
                    settings.core.hop,
                    OWN_REQUEST_MARK,
                    now,
                    |out, via| {
                        let own =
                            OwnRequest { via, call_id: &call_id, from_tag: &from_tag, instance, message: &message };
                        write_delivery(out, view, &own, now.wall);
                    },
                )
            });
            sent += u8::from(launched.flatten().is_some());
        }
        self.deliveries.spend_pace(now.at);
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        delivery.step = Step::Sending;
        delivery.pending = sent;
        delivery.best = None;
        if sent == 0 {
            self.settle_attempt(id, None, now);
        }
    }

    /// What became of one attempt's branch.
    pub(super) fn on_attempt(&mut self, id: SlotId, round: u32, verdict: Verdict, status: Option<u16>, now: Now) {
        let delivery = self.deliveries.slots.get_mut(id);
        let Some(delivery) = delivery.filter(|delivery| delivery.step == Step::Sending && delivery.round == round)
        else {
            return;
        };
        match (verdict, status) {
            (Verdict::Provisional, _) => return,
            (Verdict::Final, Some(status)) => {
                let better = delivery.best.is_none_or(|best| delivery_rank(status) < delivery_rank(best));
                if better {
                    delivery.best = Some(status);
                }
            }
            _ => {}
        }
        delivery.pending = delivery.pending.saturating_sub(1);
        if delivery.pending == 0 || delivery.best.is_some_and(|status| (200..300).contains(&status)) {
            let best = delivery.best;
            self.settle_attempt(id, best, now);
        }
    }

    /// SPEC §2.4, *result*: 2xx removes, a permanent error drops and tells the sender, the rest waits.
    pub(super) fn settle_attempt(&mut self, id: SlotId, status: Option<u16>, now: Now) {
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        let user = delivery.user.clone();
        let record = delivery.record.take();
        let has_expired = delivery.queue.front().is_none_or(|message| message.expires <= now.wall);
        let delivered = status.is_some_and(|status| (200..300).contains(&status));
        if let Some(message_id) = record {
            let outcome = match status {
                Some(200..300) => Outcome::Delivered,
                Some(status) if is_permanent(status) => Outcome::Failed,
                // It may have left the queue during the attempt.
                _ if has_expired => Outcome::Failed,
                _ => Outcome::Deferred,
            };
            self.set_outcome(user.clone(), message_id, outcome);
        }
        if delivered {
            self.metrics.count(Counter::DeferredDelivered);
            self.drop_first(id, false, now);
            return;
        }
        if status.is_some_and(is_permanent) {
            self.metrics.count(Counter::DeferredRefused);
            self.drop_first(id, true, now);
            return;
        }
        self.metrics.count(Counter::DeferredRetried);
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        let Some(first) = delivery.queue.front_mut() else { return };
        first.attempts = first.attempts.saturating_add(1);
        let wait = BACKOFF_FIRST.saturating_mul(1 << (first.attempts - 1).min(16)).min(BACKOFF_MAX);
        first.not_before = now.wall.plus_seconds(i64::try_from(wait.as_secs()).unwrap_or(i64::from(u16::MAX)));
        let settlement = Settlement::Retry { attempts: first.attempts, not_before: first.not_before };
        let command = Command::Settle { user, id: first.id, settlement };
        let at_once = std::mem::take(&mut delivery.again);
        delivery.queue.clear();
        self.effects.push_back(Effect::Store { ticket: Waiting::Nobody.ticket(), command });
        if at_once {
            self.deliveries.active -= 1;
            self.deliveries.queue_up(id);
            self.serve_line(now);
        } else {
            self.back_off(id, Step::Backoff, wait, now);
        }
    }

    /// Removes the message in hand from the queue; once it is gone, the user goes on.
    fn drop_first(&mut self, id: SlotId, tell_sender: bool, now: Now) {
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        let Some(message) = delivery.queue.pop_front() else { return };
        delivery.settling = message.id;
        self.remove_settled(id);
        if tell_sender && message.wants_failure_notice {
            self.tell_sender(&message, now);
        }
    }

    fn remove_settled(&mut self, id: SlotId) {
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        delivery.step = Step::Settling;
        let settlement = Settlement::Remove;
        let command = Command::Settle { user: delivery.user.clone(), id: delivery.settling, settlement };
        self.effects.push_back(Effect::Store { ticket: Waiting::Delivery(id).ticket(), command });
    }

    fn end_delivery(&mut self, id: SlotId, now: Now) {
        if let Some(delivery) = self.deliveries.slots.remove(id) {
            debug_assert!(
                !matches!(delivery.step, Step::Backoff | Step::Unsettled),
                "only a user past the line is let go"
            );
            self.deliveries.by_user.remove(&delivery.user);
            self.deliveries.active -= 1;
        }
        self.serve_line(now);
    }

    /// The store has answered for a user.
    pub(super) fn on_delivery_answer(&mut self, id: SlotId, answer: Answer, now: Now) {
        let Some(delivery) = self.deliveries.slots.get_mut(id) else { return };
        match (delivery.step, answer) {
            (Step::Peeking, Ok(Reply::Queue(messages))) if messages.is_empty() => {
                if delivery.again {
                    self.next_message(id, now);
                } else {
                    self.end_delivery(id, now);
                }
            }
            (Step::Peeking, Ok(Reply::Queue(messages))) => {
                delivery.queue = messages.into();
                self.next_message(id, now);
            }
            // The disk may come back before the user's next registration does.
            (Step::Peeking, _) => self.back_off(id, Step::Backoff, BACKOFF_FIRST, now),
            (Step::Settling, Ok(_)) => {
                self.deliveries.active -= 1;
                self.deliveries.queue_up(id);
                self.serve_line(now);
            }
            (Step::Settling, Err(_)) => self.back_off(id, Step::Unsettled, BACKOFF_FIRST, now),
            (Step::Recording, answer) => {
                let recorded = answer.is_ok();
                if !recorded {
                    delivery.record = None;
                }
                self.metrics.count(if recorded { Counter::HistoryRecorded } else { Counter::HistoryFailed });
                self.send_first(id, now);
            }
            _ => {}
        }
    }

    /// Removes expired messages, the work of shard 0 alone.
    pub(super) fn on_sweep(&mut self, now: Now) {
        let command = Command::SweepExpired { now: now.wall, limit: SWEEP_LIMIT };
        self.effects.push_back(Effect::Store { ticket: Waiting::Sweep.ticket(), command });
        self.schedule_sweep(now);
    }

    /// Tells the senders of removed messages, where they asked for it, and the history of those that were tried.
    pub(super) fn on_swept(&mut self, answer: Answer, now: Now) {
        let Ok(Reply::Swept { count, told }) = answer else { return };
        self.metrics.add(Counter::DeferredExpired, count);
        for message in told {
            self.end_record(&message);
            if message.wants_failure_notice {
                self.tell_sender(&message, now);
            }
        }
    }

    /// Says in the history, where an earlier attempt left a record, that the message leaves the queue undelivered.
    fn end_record(&mut self, message: &DeferredMessage) {
        if message.attempts == 0 {
            return;
        }
        let id = self.with_request(&message.request, |core, view| core.deferred_id(view, message));
        if let Some(id) = id {
            self.set_outcome(message.user.clone(), id, Outcome::Failed);
        }
    }

    fn tell_sender(&mut self, message: &DeferredMessage, now: Now) {
        let user = message.user.clone();
        self.with_request(&message.request, |core, view| match &message.content {
            Some(content) if content.imdn_message_id.is_empty() => {}
            Some(content) => {
                let (id, date_time) = (&content.imdn_message_id, &content.date_time);
                core.send_notice_of(Report::Failed, view, id, date_time, user.as_str(), now);
            }
            None => core.send_notice(Report::Failed, view, user.as_str(), now),
        });
    }

    /// Originates a notification towards the sender of a message (SPEC §2.8, RFC 5438 §8).
    pub(super) fn send_notice(&mut self, report: Report, message: &Message<'_>, user: &str, now: Now) {
        let content = self.content_facts(message);
        let Some(message_id) = content.imdn_message_id().filter(|_| !content.is_imdn) else { return };
        self.send_notice_of(report, message, message_id, content.date_time().unwrap_or_default(), user, now);
    }

    /// The same about a message whose content is not in the request at hand, and which is no notification itself. A
    /// `date_time` of none is empty.
    pub(super) fn send_notice_of(
        &mut self,
        report: Report,
        message: &Message<'_>,
        message_id: &str,
        date_time: &str,
        user: &str,
        now: Now,
    ) {
        let asserted = message.address(Name::PAssertedIdentity).or_else(|| message.address(Name::From));
        let Some(sender) = asserted.and_then(|sender| std::str::from_utf8(sender.uri).ok()) else { return };
        if !Uri::parse(sender.as_bytes()).is_ok_and(|uri| facts::is_routable(&uri)) {
            return;
        }
        let sent = format_rfc3339(now.wall);
        let notice_id = format!("{:016x}{:016x}", self.rng.next_u64(), self.rng.next_u64());
        let original = Original {
            message_id,
            date_time: if date_time.is_empty() { &sent } else { date_time },
            recipient: user,
            original_recipient: user,
        };
        let notification = Notification { from: user, to: sender, message_id: &notice_id, date_time: &sent };
        let body = notify(report, &original, &notification);
        let call_id = format!("{:016x}@{}", self.rng.next_u64(), self.settings.host);
        let tag = format!("{:016x}", self.rng.next_u64());
        let hop = self.settings.core.hop;
        let launched = self.send_request(Owner::Notice, hop, OWN_REQUEST_MARK, now, |out, via| {
            let _ = write!(out, "MESSAGE {sender} SIP/2.0\r\n");
            line(out, "Via", via);
            let _ = write!(
                out,
                "Max-Forwards: 70\r\nFrom: <{user}>;tag={tag}\r\nTo: <{sender}>\r\nCall-ID: {call_id}\r\n\
                 CSeq: 1 MESSAGE\r\nP-Asserted-Identity: <{user}>\r\n"
            );
            // The notification goes where the message's service goes (SPEC §2.8).
            for (name, label) in [
                (Name::PAssertedService, "P-Asserted-Service"),
                (Name::AcceptContact, "Accept-Contact"),
                (Name::ConversationId, "Conversation-ID"),
                (Name::ContributionId, "Contribution-ID"),
            ] {
                for field in message.fields(name) {
                    line(out, label, field.value.of(message.bytes));
                }
            }
            let _ = write!(
                out,
                "Date: {}\r\nContent-Type: message/cpim\r\nContent-Length: {}\r\n\r\n",
                http_date(now.wall),
                body.len()
            );
            out.extend_from_slice(&body);
        });
        if launched.is_some() {
            self.metrics.count(Counter::NoticeSent);
        }
    }
}

struct Check {
    blocked: bool,
    record: bool,
}

struct OwnRequest<'a> {
    via: &'a [u8],
    call_id: &'a str,
    from_tag: &'a str,
    instance: Option<&'a str>,
    message: &'a DeferredMessage,
}

/// Writes the request that delivers a deferred message: new Call-ID, branch and tag; the sender's From, To, asserted
/// identity, Date and CPM headers; the body byte for byte; what is left of its time as Expires.
fn write_delivery(out: &mut Vec<u8>, stored: &Message<'_>, own: &OwnRequest<'_>, now: UnixMillis) {
    out.extend_from_slice(b"MESSAGE ");
    out.extend_from_slice(stored.request_uri().unwrap_or_default());
    out.extend_from_slice(b" SIP/2.0\r\n");
    line(out, "Via", own.via);
    out.extend_from_slice(b"Max-Forwards: 70\r\n");
    for (name, tag) in [(Name::From, Some(own.from_tag)), (Name::To, None)] {
        let value = stored.value(name).unwrap_or_default();
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        // Display name and URI as they were; the tags were of the first transaction.
        let uri = Address::parse(value).map_or(value, |address| address.uri);
        let start = uri.as_ptr() as usize - value.as_ptr() as usize;
        out.extend_from_slice(&value[..start + uri.len()]);
        if value[..start].trim_ascii_end().ends_with(b"<") {
            out.push(b'>');
        }
        if let Some(tag) = tag {
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(tag.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    let _ = write!(out, "Call-ID: {}\r\nCSeq: 1 MESSAGE\r\n", own.call_id);
    for field in &stored.scan.fields {
        if !OWN_FIELDS.contains(&field.name) {
            out.extend_from_slice(field.line.of(stored.bytes));
        }
    }
    if stored.value(Name::Date).is_none() {
        let _ = write!(out, "Date: {}\r\n", httpdate::fmt_http_date(system_time(own.message.accepted)));
    }
    if let Some(instance) = own.instance {
        let _ = write!(out, "Accept-Contact: *;+sip.instance=\"<{instance}>\";require;explicit\r\n");
    }
    let left = (own.message.expires.0 - now.0).max(0) / 1000;
    let _ = write!(out, "Expires: {left}\r\nContent-Length: {}\r\n\r\n", stored.body().len());
    out.extend_from_slice(stored.body());
}

/// True when another attempt would bring the same answer.
fn is_permanent(status: u16) -> bool {
    match status {
        // Timing, absence, business and overload pass.
        408 | 410 | 429 | 480 | 481 | 486 | 487 | 491 => false,
        // A 5xx is the server's trouble, unless it says that it never will.
        501 | 505 | 513 => true,
        500..=599 => false,
        _ => true,
    }
}

/// Order of branches' answers: success, then what may pass, then what will not.
pub(super) fn delivery_rank(status: u16) -> u8 {
    match status {
        200..=299 => 0,
        status if !is_permanent(status) => 1,
        _ => 2,
    }
}

fn format_rfc3339(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map(|at| at.to_string()).unwrap_or_default()
}
