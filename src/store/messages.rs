//! The message store and the conversation history (SPEC §2.5): two shelves of objects of one shape.

use super::content::{self, Cut};
use super::engine::Engine;
use super::failure::Failure;
use crate::base::id::{Aor, MessageId};
use crate::base::time::UnixMillis;
use crate::participating::storage::{Direction, MessageObject, Outcome, Reply, Shelf};
use bytes::Bytes;
use rusqlite::types::FromSqlError;
use rusqlite::{OptionalExtension, Row};

/// SQL text with the shelf's table in the gap: a constant, so that the statement cache finds it without formatting.
macro_rules! on_shelf {
    ($shelf:expr, $before:literal, $after:literal) => {
        match $shelf {
            Shelf::Messages => concat!($before, "messages", $after),
            Shelf::History => concat!($before, "history", $after),
        }
    };
}

impl Engine {
    /// Keeps an object, once: the same user, IMDN-Message-ID and direction again change nothing.
    pub(super) fn keep(&mut self, shelf: Shelf, object: &MessageObject) -> Result<Reply, Failure> {
        if let Some(id) = self.find_object(shelf, object)? {
            return Ok(Reply::Kept { id, created: false });
        }
        self.refuse_when_space_is_low()?;
        let short = content::shorten(&object.content_type, &object.body, self.content_threshold);
        let mut cuts_text = None;
        if let Some(short) = &short {
            for (cut, bytes) in short.cuts.iter().zip(&short.contents) {
                self.content.put(&cut.sha256, bytes)?;
                self.connection
                    .prepare_cached(
                        "INSERT INTO contents (sha256, size, reference_count) VALUES (?1, ?2, 1)
                         ON CONFLICT DO UPDATE SET reference_count = reference_count + 1",
                    )?
                    .execute((cut.sha256.as_str(), bytes.len() as i64))?;
            }
            cuts_text = Some(serde_json::to_string(&short.cuts).expect("numbers and text are JSON"));
        }
        let id = self.ids.next(object.at);
        self.connection
            .prepare_cached(on_shelf!(
                shelf,
                "INSERT INTO ",
                " (user, id, peer, imdn_message_id, conversation_id, contribution_id, direction, outcome, at, node, size,
                 content_type, stored_type, cuts, head, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
            ))?
            .execute((
                object.user.as_str(),
                id.0 as i64,
                &*object.peer,
                &*object.imdn_message_id,
                &*object.conversation_id,
                &*object.contribution_id,
                direction_text(object.direction),
                outcome_text(object.outcome),
                object.at.0,
                self.node.0,
                object.body.len() as i64,
                &*object.content_type,
                short.as_ref().and_then(|short| short.stored_type.as_deref()),
                cuts_text,
                &*object.head,
                short.as_ref().map_or(&*object.body, |short| &short.stored),
            ))?;
        self.ledger.kept(shelf);
        Ok(Reply::Kept { id, created: true })
    }

    /// Notes what became of a message in the history. One that is not there is no fault: not everybody records.
    pub(super) fn set_outcome(
        &mut self,
        user: &Aor,
        imdn_message_id: &str,
        direction: Direction,
        outcome: Outcome,
    ) -> Result<Reply, Failure> {
        self.connection
            .prepare_cached(
                "UPDATE history SET outcome = ?4 WHERE user = ?1 AND imdn_message_id = ?2 AND direction = ?3",
            )?
            .execute((user.as_str(), imdn_message_id, direction_text(direction), outcome_text(outcome)))?;
        Ok(Reply::Done)
    }

    /// A user's objects without their bodies, newest first.
    pub(super) fn list_objects(&self, shelf: Shelf, user: &Aor, limit: u16) -> Result<Reply, Failure> {
        let objects = self
            .connection
            .prepare_cached(on_shelf!(
                shelf,
                "SELECT id, user, peer, imdn_message_id, conversation_id, contribution_id, direction, outcome, at,
                 content_type, head, x'' FROM ",
                " WHERE user = ?1 ORDER BY id DESC LIMIT ?2"
            ))?
            .query_map((user.as_str(), limit), object)?
            .collect::<Result<_, _>>()?;
        Ok(Reply::Objects(objects))
    }

    /// One object with its body as it came.
    pub(super) fn read_object(&self, shelf: Shelf, user: &Aor, id: MessageId) -> Result<Reply, Failure> {
        let found = self
            .connection
            .prepare_cached(on_shelf!(
                shelf,
                "SELECT id, user, peer, imdn_message_id, conversation_id, contribution_id, direction, outcome, at,
                 content_type, head, body, cuts FROM ",
                " WHERE user = ?1 AND id = ?2"
            ))?
            .query_row((user.as_str(), id.0 as i64), |row| Ok((object(row)?, row.get::<_, Option<String>>(12)?)))
            .optional()?;
        let Some((mut object, cuts)) = found else { return Ok(Reply::Objects(Vec::new())) };
        if let Some(cuts) = cuts {
            let body = content::restore(&object.body, &parse_cuts(&cuts)?, |cut| self.content.read(cut))?;
            object.body = Bytes::from(body);
        }
        Ok(Reply::Objects(vec![object]))
    }

    /// Removes an object, and with the last object that refers to it a file of the content store.
    pub(super) fn remove_object(&mut self, shelf: Shelf, user: &Aor, id: MessageId) -> Result<Reply, Failure> {
        let cuts: Option<Option<String>> = self
            .connection
            .prepare_cached(on_shelf!(shelf, "DELETE FROM ", " WHERE user = ?1 AND id = ?2 RETURNING cuts"))?
            .query_row((user.as_str(), id.0 as i64), |row| row.get(0))
            .optional()?;
        let Some(cuts) = cuts else { return Ok(Reply::Done) };
        self.ledger.discarded(shelf);
        for cut in cuts.as_deref().map(parse_cuts).transpose()?.unwrap_or_default() {
            let sha256 = cut.sha256.as_str();
            let last = self
                .connection
                .prepare_cached("DELETE FROM contents WHERE sha256 = ?1 AND reference_count = 1")?
                .execute([sha256])?;
            if last == 0 {
                self.connection
                    .prepare_cached("UPDATE contents SET reference_count = reference_count - 1 WHERE sha256 = ?1")?
                    .execute([sha256])?;
            } else {
                self.content.released(cut.sha256);
            }
        }
        Ok(Reply::Done)
    }

    fn find_object(&self, shelf: Shelf, object: &MessageObject) -> Result<Option<MessageId>, Failure> {
        let id: Option<i64> = self
            .connection
            .prepare_cached(on_shelf!(
                shelf,
                "SELECT id FROM ",
                " WHERE user = ?1 AND imdn_message_id = ?2 AND direction = ?3"
            ))?
            .query_row(
                (object.user.as_str(), &*object.imdn_message_id, direction_text(object.direction)),
                |row| row.get(0),
            )
            .optional()?;
        Ok(id.map(|id| MessageId(id as u64)))
    }
}

fn parse_cuts(text: &str) -> Result<Vec<Cut>, Failure> {
    serde_json::from_str(text).map_err(|_| Failure::Damaged("a list of cuts is not what was written"))
}

fn object(row: &Row<'_>) -> rusqlite::Result<MessageObject> {
    Ok(MessageObject {
        id: MessageId(row.get::<_, i64>(0)? as u64),
        user: Aor::from_canonical(row.get_ref(1)?.as_str()?),
        peer: row.get(2)?,
        imdn_message_id: row.get(3)?,
        conversation_id: row.get(4)?,
        contribution_id: row.get(5)?,
        direction: direction(row.get_ref(6)?.as_str()?)?,
        outcome: outcome(row.get_ref(7)?.as_str()?)?,
        at: UnixMillis(row.get(8)?),
        content_type: row.get(9)?,
        head: Bytes::copy_from_slice(row.get_ref(10)?.as_blob()?),
        body: Bytes::copy_from_slice(row.get_ref(11)?.as_blob()?),
    })
}

fn direction_text(direction: Direction) -> &'static str {
    match direction {
        Direction::Received => "received",
        Direction::Sent => "sent",
    }
}

fn direction(text: &str) -> Result<Direction, FromSqlError> {
    [Direction::Received, Direction::Sent]
        .into_iter()
        .find(|direction| direction_text(*direction) == text)
        .ok_or(FromSqlError::InvalidType)
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Pending => "pending",
        Outcome::Delivered => "delivered",
        Outcome::Failed => "failed",
        Outcome::Deferred => "deferred",
        Outcome::Interworked => "interworked",
        Outcome::Stored => "stored",
    }
}

fn outcome(text: &str) -> Result<Outcome, FromSqlError> {
    use Outcome::{Deferred, Delivered, Failed, Interworked, Pending, Stored};
    [Pending, Delivered, Failed, Deferred, Interworked, Stored]
        .into_iter()
        .find(|outcome| outcome_text(*outcome) == text)
        .ok_or(FromSqlError::InvalidType)
}
