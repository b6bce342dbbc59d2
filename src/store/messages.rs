//! The message store and the conversation history (SPEC §2.5): two shelves of objects of one shape.

use super::content::{self, Cut, Sha256Hex};
use super::engine::Engine;
use super::failure::Failure;
use crate::base::id::{Aor, MessageId};
use crate::base::time::UnixMillis;
use crate::participating::storage::{ContentFile, Direction, MessageObject, Outcome, Reply, Shelf};
use bytes::Bytes;
use rusqlite::types::FromSqlError;
use rusqlite::{OptionalExtension, Row};
use std::borrow::Cow;

/// SQL text with the shelf's table in the gaps: a constant, so that the statement cache finds it without formatting.
macro_rules! on_shelf {
    ($shelf:expr, $before:literal $(, $after:literal)+) => {
        match $shelf {
            Shelf::Messages => concat!($before $(, "messages", $after)+),
            Shelf::History => concat!($before $(, "history", $after)+),
        }
    };
}

/// What of a body stands in its object's row.
#[derive(Default)]
struct StoredBody<'a> {
    body: Cow<'a, [u8]>,
    /// The media type of `body` where it is not the object's.
    stored_type: Option<String>,
    /// What is in files.
    cuts: Vec<Cut>,
}

impl Engine {
    /// Keeps an object, once: the same user, IMDN-Message-ID and direction again change nothing.
    pub(super) fn keep(&mut self, shelf: Shelf, object: &MessageObject) -> Result<Reply, Failure> {
        if let Some(id) = self.find_object(shelf, object)? {
            return Ok(Reply::Kept { id, created: false });
        }
        self.refuse_when_space_is_low()?;
        let row = match &object.content {
            Some(file) => match (file.spool, Sha256Hex::from_name(&file.sha256)) {
                (Some(spool), Some(sha256)) if file.len <= self.content_threshold as u64 => {
                    StoredBody { body: self.content.absorb(spool, &sha256)?.into(), ..StoredBody::default() }
                }
                _ => self.keep_file(object, file)?,
            },
            None => self.keep_body(object)?,
        };
        let size = object.content.as_ref().map_or(object.body.len() as u64, |file| file.len);
        let cuts = (!row.cuts.is_empty()).then(|| serde_json::to_string(&row.cuts).expect("numbers and text are JSON"));
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
                size as i64,
                &*object.content_type,
                row.stored_type,
                cuts,
                &*object.head,
                &*row.body,
            ))?;
        self.ledger.kept(shelf);
        Ok(Reply::Kept { id, created: true })
    }

    /// Takes large parts out of a body.
    fn keep_body<'a>(&mut self, object: &'a MessageObject) -> Result<StoredBody<'a>, Failure> {
        let Some(short) = content::shorten(&object.content_type, &object.body, self.content_threshold) else {
            return Ok(StoredBody { body: Cow::Borrowed(&object.body), ..StoredBody::default() });
        };
        for (cut, bytes) in short.cuts.iter().zip(&short.contents) {
            self.content.put(&cut.sha256, bytes)?;
            self.refer(&cut.sha256, bytes.len() as u64)?;
        }
        Ok(StoredBody { body: short.stored.into(), stored_type: short.stored_type, cuts: short.cuts })
    }

    /// Takes a body that is a finished file of the spool.
    fn keep_file(&mut self, object: &MessageObject, file: &ContentFile) -> Result<StoredBody<'static>, Failure> {
        let len = usize::try_from(file.len).map_err(|_| Failure::Damaged("a file larger than memory"))?;
        let sha256 = self.claim(file)?;
        let whole = content::whole(&object.content_type, sha256, len);
        Ok(StoredBody { body: whole.stored.into(), stored_type: Some(whole.stored_type), cuts: vec![whole.cut] })
    }

    /// Notes what became of a message in the history. One that is not there is no fault: not everybody records. What a
    /// device has taken stays delivered, whatever becomes of the same message sent again.
    pub(super) fn set_outcome(
        &mut self,
        user: &Aor,
        imdn_message_id: &str,
        direction: Direction,
        outcome: Outcome,
    ) -> Result<Reply, Failure> {
        self.connection
            .prepare_cached(
                "UPDATE history SET outcome = ?4
                 WHERE user = ?1 AND imdn_message_id = ?2 AND direction = ?3 AND outcome <> 'delivered'",
            )?
            .execute((user.as_str(), imdn_message_id, direction_text(direction), outcome_text(outcome)))?;
        Ok(Reply::Done)
    }

    /// A user's objects without their bodies, newest first.
    pub(super) fn list_objects(&self, shelf: Shelf, user: &Aor, limit: u16) -> Result<Reply, Failure> {
        // The index that makes objects unique has a user's ids together: the newest are picked there, before any row is
        // read. An index of its own for this would halve what the shelf takes in a second.
        let objects = self
            .connection
            .prepare_cached(on_shelf!(
                shelf,
                "SELECT id, user, peer, imdn_message_id, conversation_id, contribution_id, direction, outcome, at,
                 content_type, head, x'', size FROM ",
                " WHERE id IN (SELECT id FROM ",
                " WHERE user = ?1 ORDER BY id DESC LIMIT ?2) ORDER BY id DESC"
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
                 content_type, head, body, size, cuts FROM ",
                " WHERE user = ?1 AND id = ?2"
            ))?
            .query_row((user.as_str(), id.0 as i64), |row| Ok((object(row)?, row.get::<_, Option<String>>(13)?)))
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
            self.release(cut.sha256)?;
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
            .query_row((object.user.as_str(), &*object.imdn_message_id, direction_text(object.direction)), |row| {
                row.get(0)
            })
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
        content: None,
        body_len: u64::try_from(row.get::<_, i64>(12)?).unwrap_or(0),
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

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Rig, aor, object, one, spooled};
    use super::*;
    use crate::participating::storage::{Answer, Command, Levels, SpoolId};

    fn keep(shelf: Shelf, object: &MessageObject) -> Command {
        Command::Keep { shelf, object: Box::new(object.clone()) }
    }

    fn kept(answer: &Answer) -> (MessageId, bool) {
        match answer {
            Ok(Reply::Kept { id, created }) => (*id, *created),
            other => panic!("not kept: {other:?}"),
        }
    }

    fn objects(rig: &mut Rig, command: Command) -> Vec<MessageObject> {
        match one(&mut rig.engine, command) {
            Ok(Reply::Objects(objects)) => objects,
            other => panic!("not objects: {other:?}"),
        }
    }

    fn read(rig: &mut Rig, shelf: Shelf, id: MessageId) -> Vec<MessageObject> {
        objects(rig, Command::ReadObject { shelf, user: aor("bob"), id })
    }

    #[test]
    fn the_same_object_is_kept_once_per_shelf_and_direction() {
        let mut rig = fixture::rig();
        let received = object("bob", "m1", b"hello");
        let sent = MessageObject { direction: Direction::Sent, ..(*received).clone() };
        let again = MessageObject { body: Bytes::from_static(b"others"), body_len: 6, ..(*received).clone() };
        let answers = rig.engine.commit(&[
            keep(Shelf::History, &received),
            keep(Shelf::History, &again),
            keep(Shelf::History, &sent),
            keep(Shelf::Messages, &received),
            Command::Keep { shelf: Shelf::History, object: object("ann", "m1", b"hello") },
        ]);
        let kept: Vec<_> = answers.iter().map(kept).collect();
        assert_eq!(kept.iter().map(|kept| kept.1).collect::<Vec<_>>(), [true, false, true, true, true]);
        assert_eq!(kept[0].0, kept[1].0);
        let mut rig = rig.restart();
        assert_eq!(self::kept(&one(&mut rig.engine, keep(Shelf::History, &again))), (kept[0].0, false));
        assert_eq!(read(&mut rig, Shelf::History, kept[0].0)[0].body, "hello", "nothing was changed");
        let levels = Levels { messages: 1, history: 3, ..Levels::default() };
        assert_eq!(one(&mut rig.engine, Command::Levels), Ok(Reply::Levels(levels)));
    }

    #[test]
    fn an_object_comes_back_as_it_was_given() {
        let mut rig = fixture::rig();
        let mut object = object("bob", "m1", b"hello");
        object.id = kept(&one(&mut rig.engine, keep(Shelf::Messages, &object))).0;
        assert_eq!(read(&mut rig, Shelf::Messages, object.id), [*object.clone()]);
        assert_eq!(read(&mut rig, Shelf::History, object.id), [], "the other shelf");
        let user = aor("ann");
        let foreign = Command::ReadObject { shelf: Shelf::Messages, user, id: object.id };
        assert_eq!(objects(&mut rig, foreign), [], "another user's");
    }

    #[test]
    fn a_list_is_newest_first_without_bodies() {
        let mut rig = fixture::rig();
        for n in 0..5 {
            assert!(one(&mut rig.engine, keep(Shelf::History, &object("bob", &format!("m{n}"), b"hello"))).is_ok());
            assert!(one(&mut rig.engine, keep(Shelf::History, &object("ann", &format!("m{n}"), b"hello"))).is_ok());
        }
        let list = objects(&mut rig, Command::ListObjects { shelf: Shelf::History, user: aor("bob"), limit: 3 });
        let names: Vec<_> = list.iter().map(|object| &*object.imdn_message_id).collect();
        assert_eq!(names, ["m4", "m3", "m2"]);
        assert!(list.iter().all(|object| object.body.is_empty() && object.body_len == 5 && !object.head.is_empty()));
    }

    #[test]
    fn an_outcome_changes_the_history_of_one_user_in_one_direction() {
        let mut rig = fixture::rig();
        let received = object("bob", "m1", b"hello");
        let sent = MessageObject { direction: Direction::Sent, ..(*received).clone() };
        let set = |id: &str, outcome| Command::SetOutcome {
            user: aor("bob"),
            imdn_message_id: id.into(),
            direction: Direction::Received,
            outcome,
        };
        let mut outcomes = Vec::new();
        use Outcome::{Deferred, Delivered, Failed, Interworked, Pending, Stored};
        for outcome in [Pending, Failed, Deferred, Interworked, Stored, Delivered] {
            let answers = rig.engine.commit(&[
                keep(Shelf::History, &received),
                keep(Shelf::History, &sent),
                keep(Shelf::Messages, &received),
                set("m1", outcome),
                set("nobody-recorded-this", outcome),
            ]);
            assert_eq!((&answers[3], &answers[4]), (&Ok(Reply::Done), &Ok(Reply::Done)));
            for (shelf, answer) in [(Shelf::History, 0), (Shelf::History, 1), (Shelf::Messages, 2)] {
                outcomes.push(read(&mut rig, shelf, kept(&answers[answer]).0)[0].outcome);
            }
            assert_eq!(std::mem::take(&mut outcomes), [outcome, Pending, Pending]);
        }
        let answers = rig.engine.commit(&[set("m1", Failed), keep(Shelf::History, &received)]);
        let id = kept(&answers[1]).0;
        assert_eq!(read(&mut rig, Shelf::History, id)[0].outcome, Delivered, "a device has it, whatever comes later");
    }

    #[test]
    fn a_large_part_is_a_file_and_the_body_still_comes_back_byte_for_byte() {
        let mut rig = fixture::rig();
        let large = "x".repeat(5_000);
        let body = format!("From: <im:a@x>\r\n\r\nContent-Type: image/png\r\n\r\n{large}");
        let mut given = object("bob", "m1", body.as_bytes());
        given.content_type = "message/cpim".into();
        given.id = kept(&one(&mut rig.engine, keep(Shelf::Messages, &given))).0;
        assert_eq!(rig.content_files(), 1);
        let (stored, size): (Vec<u8>, i64) = rig
            .engine
            .connection
            .query_row("SELECT body, size FROM messages", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        let stored = String::from_utf8(stored).unwrap();
        assert!(stored.contains("message/external-body; access-type=URL; URL=\"content:"), "{stored}");
        assert!(stored.contains("Content-Type: image/png\r\n") && !stored.contains(&large));
        assert_eq!(size, body.len() as i64);
        let mut rig = rig.restart();
        assert_eq!(read(&mut rig, Shelf::Messages, given.id), [*given]);
    }

    #[test]
    fn a_file_goes_with_the_last_object_that_refers_to_it() {
        let mut rig = fixture::rig();
        let large = vec![b'x'; 5_000];
        let keeps = [
            keep(Shelf::Messages, &object("bob", "m1", &large)),
            keep(Shelf::Messages, &object("bob", "m1", &large)),
            keep(Shelf::History, &object("bob", "m1", &large)),
        ];
        let ids: Vec<_> = rig.engine.commit(&keeps).iter().map(|answer| kept(answer).0).collect();
        assert_eq!(rig.content_files(), 1);
        let remove = |shelf, id| Command::RemoveObject { shelf, user: aor("bob"), id };
        assert_eq!(one(&mut rig.engine, remove(Shelf::Messages, ids[0])), Ok(Reply::Done));
        assert_eq!(one(&mut rig.engine, remove(Shelf::Messages, ids[0])), Ok(Reply::Done), "gone already");
        assert_eq!(rig.content_files(), 1);
        assert_eq!(read(&mut rig, Shelf::History, ids[2])[0].body, large);

        // Removed and kept again in one commit: the file stays.
        let answers = rig.engine.commit(&[remove(Shelf::History, ids[2]), keeps[0].clone()]);
        let id = kept(&answers[1]).0;
        assert_eq!(rig.content_files(), 1);
        assert_eq!(read(&mut rig, Shelf::Messages, id)[0].body, large);

        assert_eq!(one(&mut rig.engine, remove(Shelf::Messages, id)), Ok(Reply::Done));
        assert_eq!(rig.content_files(), 0);
        assert_eq!(one(&mut rig.engine, Command::Levels), Ok(Reply::Levels(Levels::default())));
    }

    #[test]
    fn a_lost_file_is_a_fault_and_not_another_body() {
        let mut rig = fixture::rig();
        let id = kept(&one(&mut rig.engine, keep(Shelf::Messages, &object("bob", "m1", &[b'x'; 5_000])))).0;
        let content = rig.directory.path().join("content");
        for entry in std::fs::read_dir(content).unwrap() {
            std::fs::write(entry.unwrap().path(), [b'y'; 5_000]).unwrap();
        }
        let answer = one(&mut rig.engine, Command::ReadObject { shelf: Shelf::Messages, user: aor("bob"), id });
        assert_eq!(answer, Err(crate::participating::storage::Fault::Broken));
        assert!(!rig.engine.broken, "reading does not say that the store cannot commit");
    }

    #[test]
    fn an_object_whose_body_was_spooled_comes_back_byte_for_byte() {
        let mut rig = fixture::rig();
        // One of them is small enough for the row.
        for (n, len) in [(1, 5_000), (2, 300)] {
            let body: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let mut given = object("bob", &format!("m{n}"), b"");
            given.content = Some(spooled(&rig, SpoolId(n), &body));
            given.content_type = "message/cpim".into();
            given.body_len = len as u64;
            given.id = kept(&one(&mut rig.engine, keep(Shelf::Messages, &given))).0;
            let expected = MessageObject { content: None, body: Bytes::from(body), ..*given };
            assert_eq!(read(&mut rig, Shelf::Messages, expected.id), [expected]);
        }
        assert_eq!(rig.content_files(), 1);
        let list = objects(&mut rig, Command::ListObjects { shelf: Shelf::Messages, user: aor("bob"), limit: 9 });
        assert_eq!(list.iter().map(|object| object.body_len).collect::<Vec<_>>(), [300, 5_000]);
        let stored: String = rig
            .engine
            .connection
            .query_row("SELECT stored_type FROM messages WHERE stored_type IS NOT NULL", [], |row| row.get(0))
            .unwrap();
        assert!(stored.starts_with("message/external-body; access-type=URL; URL=\"content:"), "{stored}");
        let mut rig = rig.restart();
        let remove = |id| Command::RemoveObject { shelf: Shelf::Messages, user: aor("bob"), id };
        for object in list {
            assert_eq!(one(&mut rig.engine, remove(object.id)), Ok(Reply::Done));
        }
        assert_eq!(rig.content_files(), 0);
    }

    #[test]
    fn a_message_that_was_deferred_and_recorded_is_one_file() {
        let mut rig = fixture::rig();
        let body = [b'x'; 5_000];
        let mut recorded = object("bob", "m1", b"");
        recorded.content = Some(spooled(&rig, SpoolId(1), &body));
        let content = spooled(&rig, SpoolId(2), &body);
        let answers = rig.engine.commit(&[keep(Shelf::History, &recorded), fixture::large_deferral("bob", 1, content)]);
        assert_eq!(rig.content_files(), 1);
        let id = fixture::deferred_id(&answers[1]);
        let settlement = crate::participating::storage::Settlement::Remove;
        assert!(one(&mut rig.engine, Command::Settle { user: aor("bob"), id, settlement }).is_ok());
        assert_eq!(read(&mut rig, Shelf::History, kept(&answers[0]).0)[0].body, &body[..]);
    }

    #[test]
    fn the_same_object_again_leaves_the_spooled_file_to_be_discarded() {
        let mut rig = fixture::rig();
        let mut given = object("bob", "m1", b"");
        given.content = Some(spooled(&rig, SpoolId(1), &[b'x'; 5_000]));
        assert!(kept(&one(&mut rig.engine, keep(Shelf::Messages, &given))).1);
        given.content = Some(spooled(&rig, SpoolId(2), &[b'x'; 5_000]));
        assert!(!kept(&one(&mut rig.engine, keep(Shelf::Messages, &given))).1);
        assert_eq!(rig.content_files(), 2, "the second spooled file is nobody's");
    }

    #[test]
    fn an_object_may_refer_to_what_a_deferred_message_brought() {
        let mut rig = fixture::rig();
        let content = spooled(&rig, SpoolId(1), b"a large message");
        let id = fixture::deferred_id(&one(&mut rig.engine, fixture::large_deferral("bob", 1, content.clone())));
        let mut recorded = object("bob", "m1", b"");
        recorded.content = Some(ContentFile { spool: None, ..content.clone() });
        let kept = kept(&one(&mut rig.engine, keep(Shelf::History, &recorded))).0;
        let settlement = crate::participating::storage::Settlement::Remove;
        assert!(one(&mut rig.engine, Command::Settle { user: aor("bob"), id, settlement }).is_ok());
        assert_eq!(read(&mut rig, Shelf::History, kept)[0].body, "a large message");
        recorded.imdn_message_id = "m2".into();
        recorded.content = Some(ContentFile { spool: None, sha256: "0".repeat(64).into(), ..content });
        let answer = one(&mut rig.engine, keep(Shelf::History, &recorded));
        assert_eq!(answer, Err(crate::participating::storage::Fault::Broken), "there is no such file");
        assert_eq!(read(&mut rig, Shelf::History, kept).len(), 1, "and the others are as they were");
    }
}
