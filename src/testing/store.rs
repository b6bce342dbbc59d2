//! The durable store as a model: every command executed exactly, in memory.

use crate::base::id::{Aor, MessageId};
use crate::participating::storage::{
    Answer, Command, DeferredMessage, Document, Fault, Levels, MessageObject, Outcome, Quota, Reply, Settlement, Shelf,
};
use std::collections::BTreeMap;

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    /// The deferred queue, in order of acceptance.
    pub deferred: BTreeMap<MessageId, DeferredMessage>,
    /// Message store objects.
    pub messages: Vec<MessageObject>,
    /// History objects.
    pub history: Vec<MessageObject>,
    /// XCAP documents.
    pub documents: Vec<Document>,
    last_id: u64,
}

impl ModelStore {
    /// Executes one command.
    pub fn execute(&mut self, command: Command) -> Answer {
        match command {
            Command::Defer { message, quota } => self.defer(*message, quota),
            Command::PeekDeferred { user, limit } => {
                let queue = self.deferred.values().filter(|message| message.user == user);
                Ok(Reply::Queue(queue.take(usize::from(limit)).cloned().collect()))
            }
            Command::Settle { user, id, settlement } => {
                if self.deferred.get(&id).is_some_and(|message| message.user == user) {
                    self.settle(id, settlement);
                }
                Ok(Reply::Done)
            }
            Command::SweepExpired { now, limit } => {
                let expired: Vec<MessageId> = self
                    .deferred
                    .values()
                    .filter(|message| message.expires <= now)
                    .map(|message| message.id)
                    .take(usize::from(limit))
                    .collect();
                let count = expired.len() as u64;
                let removed = expired.iter().filter_map(|id| self.deferred.remove(id));
                let told = |message: &DeferredMessage| message.wants_failure_notice || message.attempts > 0;
                Ok(Reply::Swept { count, told: removed.filter(told).collect() })
            }
            Command::Keep { shelf, object } => Ok(self.keep(shelf, *object)),
            Command::SetOutcome { user, imdn_message_id, direction, outcome } => {
                for object in &mut self.history {
                    if object.user == user
                        && object.imdn_message_id == imdn_message_id
                        && object.direction == direction
                        && object.outcome != Outcome::Delivered
                    {
                        object.outcome = outcome;
                    }
                }
                Ok(Reply::Done)
            }
            Command::ListObjects { shelf, user, limit } => {
                let objects = self.shelf(shelf).iter().rev().filter(|object| object.user == user);
                Ok(Reply::Objects(objects.take(usize::from(limit)).cloned().collect()))
            }
            Command::ReadObject { shelf, user, id } => {
                let object = self.shelf(shelf).iter().find(|object| object.user == user && object.id == id);
                Ok(Reply::Objects(object.cloned().into_iter().collect()))
            }
            Command::RemoveObject { shelf, user, id } => {
                self.shelf(shelf).retain(|object| object.user != user || object.id != id);
                Ok(Reply::Done)
            }
            Command::PutDocument(document) => {
                let same = |known: &Document| {
                    known.auid == document.auid && known.user == document.user && known.name == document.name
                };
                self.documents.retain(|known| !same(known));
                self.documents.push(*document);
                Ok(Reply::Done)
            }
            Command::DeleteDocument { auid, user, name } => {
                self.documents.retain(|known| known.auid != auid || known.user != user || known.name != name);
                Ok(Reply::Done)
            }
            Command::PutDevices { .. } | Command::PutAvailability { .. } => Ok(Reply::Done),
            Command::Levels => Ok(Reply::Levels(Levels {
                deferred: self.deferred.len() as u64,
                deferred_bytes: self.deferred.values().map(size).sum(),
                messages: self.messages.len() as u64,
                history: self.history.len() as u64,
                documents: self.documents.len() as u64,
                fault: None,
            })),
        }
    }

    /// Users with deferred messages: a restart announces them to their home shards.
    pub fn users_with_deferred(&self) -> Vec<Aor> {
        let mut users: Vec<Aor> = self.deferred.values().map(|message| message.user.clone()).collect();
        users.sort();
        users.dedup();
        users
    }

    fn defer(&mut self, mut message: DeferredMessage, quota: Quota) -> Answer {
        let mine = self.deferred.values().filter(|known| known.user == message.user);
        let (count, bytes) = mine.fold((1, size(&message)), |(n, sum), known| (n + 1, sum + size(known)));
        if count > quota.count || bytes > quota.bytes {
            return Err(Fault::QuotaExceeded);
        }
        message.id = self.next_id();
        if let Some(content) = &mut message.content {
            content.spool = None;
        }
        let id = message.id;
        self.deferred.insert(id, message);
        Ok(Reply::Deferred(id))
    }

    fn settle(&mut self, id: MessageId, settlement: Settlement) {
        match settlement {
            Settlement::Remove => {
                self.deferred.remove(&id);
            }
            Settlement::Retry { attempts, not_before } => {
                if let Some(message) = self.deferred.get_mut(&id) {
                    message.attempts = attempts;
                    message.not_before = not_before;
                }
            }
        }
    }

    fn keep(&mut self, shelf: Shelf, mut object: MessageObject) -> Reply {
        let known = self.shelf(shelf).iter().find(|known| {
            known.user == object.user
                && known.imdn_message_id == object.imdn_message_id
                && known.direction == object.direction
        });
        if let Some(known) = known {
            return Reply::Kept { id: known.id, created: false };
        }
        object.id = self.next_id();
        if let Some(content) = object.content.take() {
            // The model has no files: what was in one is known by its length alone.
            object.body_len = content.len;
        }
        let id = object.id;
        self.shelf(shelf).push(object);
        Reply::Kept { id, created: true }
    }

    fn shelf(&mut self, shelf: Shelf) -> &mut Vec<MessageObject> {
        match shelf {
            Shelf::Messages => &mut self.messages,
            Shelf::History => &mut self.history,
        }
    }

    fn next_id(&mut self) -> MessageId {
        self.last_id += 1;
        MessageId(self.last_id)
    }
}

/// What a deferred message counts for in its user's quota.
fn size(message: &DeferredMessage) -> u64 {
    message.request.len() as u64 + message.content.as_ref().map_or(0, |content| content.len)
}
