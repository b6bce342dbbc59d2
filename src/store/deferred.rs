//! The deferred queue (SPEC §2.4): first in, first out for each user, bounded by the user's quota.

use super::content::Sha256Hex;
use super::engine::Engine;
use super::failure::Failure;
use super::ledger::Size;
use crate::base::id::{Aor, MessageId};
use crate::base::time::UnixMillis;
use crate::participating::storage::{ContentFile, DeferredMessage, Fault, Quota, Reply, Settlement};
use bytes::Bytes;
use rusqlite::{OptionalExtension, Row};
use std::io::ErrorKind;

impl Engine {
    /// Puts a message at the end of its user's queue.
    pub(super) fn defer(&mut self, message: &DeferredMessage, quota: Quota) -> Result<Reply, Failure> {
        let content_len = message.content.as_ref().map_or(0, |content| content.len);
        let len = content_len.saturating_add(message.request.len() as u64);
        if i64::try_from(len).is_err() || !self.ledger.fits(&message.user, len, quota) {
            return Err(Failure::Refused(Fault::QuotaExceeded));
        }
        self.refuse_when_space_is_low()?;
        let id = self.ids.next(message.accepted);
        if let Some(content) = &message.content {
            self.take_over(id, content)?;
        }
        let rows = self
            .connection
            .prepare_cached(
                "INSERT INTO deferred (id, user, size, originator, accepted, expires, attempts, not_before, failure_notice,
                 node, request) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute((
                id.0 as i64,
                message.user.as_str(),
                len as i64,
                &*message.originator,
                message.accepted.0,
                message.expires.0,
                message.attempts,
                message.not_before.0,
                message.wants_failure_notice,
                self.node.0,
                &*message.request,
            ))?;
        assert_eq!(rows, 1, "an id is given once");
        self.ledger.deferred(&message.user, id, Size { len, has_content: message.content.is_some() });
        Ok(Reply::Deferred(id))
    }

    /// Makes a finished file of the spool the content of a message.
    fn take_over(&mut self, id: MessageId, content: &ContentFile) -> Result<(), Failure> {
        let sha256 = self.claim(content)?;
        self.connection
            .prepare_cached(
                "INSERT INTO deferred_contents (id, sha256, size, content_type, imdn_message_id, date_time)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                id.0 as i64,
                sha256.as_str(),
                content.len as i64,
                &*content.content_type,
                &*content.imdn_message_id,
                &*content.date_time,
            ))?;
        Ok(())
    }

    /// Takes a finished file of the spool into the content store, with one reference; or refers once more to what is
    /// there.
    pub(super) fn claim(&mut self, content: &ContentFile) -> Result<Sha256Hex, Failure> {
        let sha256 = Sha256Hex::from_name(&content.sha256)
            .ok_or(Failure::Io(std::io::Error::new(ErrorKind::InvalidInput, "a content without a hash for a name")))?;
        match content.spool {
            Some(spool) => self.content.claim(spool, &sha256, content.len)?,
            None => {
                let mut known = self.connection.prepare_cached("SELECT 1 FROM contents WHERE sha256 = ?1")?;
                if !known.exists([sha256.as_str()])? {
                    return Err(Failure::Io(ErrorKind::NotFound.into()));
                }
            }
        }
        self.refer(&sha256, content.len)?;
        Ok(sha256)
    }

    /// The content of a message that has some.
    fn content_of(&self, user: &Aor, id: MessageId) -> Result<Option<ContentFile>, Failure> {
        if !self.ledger.has_content(user, id) {
            return Ok(None);
        }
        let content = self
            .connection
            .prepare_cached(
                "SELECT sha256, size, content_type, imdn_message_id, date_time FROM deferred_contents WHERE id = ?1",
            )?
            .query_row([id.0 as i64], |row| {
                Ok(ContentFile {
                    spool: None,
                    sha256: row.get(0)?,
                    len: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                    content_type: row.get(2)?,
                    imdn_message_id: row.get(3)?,
                    date_time: row.get(4)?,
                })
            })
            .optional()?;
        Ok(content)
    }

    /// Lets the content of a message go, before the books forget it.
    fn drop_content(&mut self, user: &Aor, id: MessageId) -> Result<(), Failure> {
        if !self.ledger.has_content(user, id) {
            return Ok(());
        }
        let sha256: Option<String> = self
            .connection
            .prepare_cached("DELETE FROM deferred_contents WHERE id = ?1 RETURNING sha256")?
            .query_row([id.0 as i64], |row| row.get(0))
            .optional()?;
        match sha256 {
            Some(name) => {
                let sha256 = Sha256Hex::from_name(&name);
                self.release(sha256.ok_or(Failure::Damaged("a content without a hash for a name"))?)
            }
            None => Ok(()),
        }
    }

    /// The oldest messages of a user, whether their time has come or not.
    pub(super) fn peek_deferred(&self, user: &Aor, limit: u16) -> Result<Reply, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, user, originator, accepted, expires, attempts, not_before, failure_notice, request
             FROM deferred WHERE id = ?1",
        )?;
        let mut queue = Vec::new();
        for id in self.ledger.queue(user).take(usize::from(limit)) {
            // A row that somebody removed by hand is not worth a user's whole queue.
            let Some(mut message) = statement.query_row([id.0 as i64], message).optional()? else { continue };
            message.content = self.content_of(user, id)?;
            queue.push(message);
        }
        Ok(Reply::Queue(queue))
    }

    /// Removes a message, or notes when it may be tried again. One that is gone already is settled.
    pub(super) fn settle(&mut self, user: &Aor, id: MessageId, settlement: Settlement) -> Result<Reply, Failure> {
        if !self.ledger.has(user, id) {
            return Ok(Reply::Done);
        }
        match settlement {
            Settlement::Remove => {
                self.connection.prepare_cached("DELETE FROM deferred WHERE id = ?1")?.execute([id.0 as i64])?;
                self.drop_content(user, id)?;
                self.ledger.removed(user, id);
            }
            Settlement::Retry { attempts, not_before } => {
                self.connection
                    .prepare_cached("UPDATE deferred SET attempts = ?2, not_before = ?3 WHERE id = ?1")?
                    .execute((id.0 as i64, attempts, not_before.0))?;
            }
        }
        Ok(Reply::Done)
    }

    /// Removes messages whose time is over, the longest expired first; gives back those whose end somebody asks about:
    /// the sender, or the history of one that was tried before.
    pub(super) fn sweep_expired(&mut self, now: UnixMillis, limit: u16) -> Result<Reply, Failure> {
        // The request is not read, which is most of the work, for those nobody will be told about.
        let mut statement = self.connection.prepare_cached(
            "SELECT id, user, originator, accepted, expires, attempts, not_before, failure_notice,
                    CASE WHEN failure_notice OR attempts > 0 THEN request ELSE x'' END
             FROM deferred WHERE expires <= ?1 ORDER BY expires, id LIMIT ?2",
        )?;
        let expired: Vec<DeferredMessage> = statement.query_map((now.0, limit), message)?.collect::<Result<_, _>>()?;
        drop(statement);
        let count = expired.len() as u64;
        let mut told = Vec::new();
        for mut message in expired {
            message.content = self.content_of(&message.user, message.id)?;
            let rows =
                self.connection.prepare_cached("DELETE FROM deferred WHERE id = ?1")?.execute([message.id.0 as i64])?;
            assert_eq!(rows, 1, "what was just read is there");
            self.drop_content(&message.user, message.id)?;
            self.ledger.removed(&message.user, message.id);
            if message.wants_failure_notice || message.attempts > 0 {
                told.push(message);
            }
        }
        Ok(Reply::Swept { count, told })
    }
}

fn message(row: &Row<'_>) -> rusqlite::Result<DeferredMessage> {
    Ok(DeferredMessage {
        id: MessageId(row.get::<_, i64>(0)? as u64),
        user: Aor::from_canonical(row.get_ref(1)?.as_str()?),
        originator: row.get(2)?,
        accepted: UnixMillis(row.get(3)?),
        expires: UnixMillis(row.get(4)?),
        attempts: row.get(5)?,
        not_before: UnixMillis(row.get(6)?),
        wants_failure_notice: row.get(7)?,
        request: Bytes::copy_from_slice(row.get_ref(8)?.as_blob()?),
        content: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Rig, aor, deferral, large_deferral, one, queue, spooled};
    use crate::base::id::MessageId;
    use crate::base::time::UnixMillis;
    use crate::participating::storage::{Command, ContentFile, Fault, Levels, Quota, Reply, Settlement, SpoolId};

    fn peek(user: &str, limit: u16) -> Command {
        Command::PeekDeferred { user: aor(user), limit }
    }

    #[test]
    fn a_queue_is_first_in_first_out_for_each_user() {
        let mut rig = fixture::rig();
        let commands: Vec<_> = (0..20).map(|n| deferral(["bob", "ann"][n % 2], n as u64)).collect();
        let answers = rig.engine.commit(&commands);
        let ids: Vec<_> = answers.iter().map(fixture::deferred_id).collect();
        assert!(ids.is_sorted_by(|one, next| one < next), "ids grow in order of acceptance");
        let requests = |messages: Vec<_>| messages.into_iter().map(fixture::sequence).collect::<Vec<_>>();
        assert_eq!(requests(queue(&mut rig.engine, peek("bob", 3))), [0, 2, 4]);
        assert_eq!(requests(queue(&mut rig.engine, peek("ann", 100))), [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
        assert_eq!(queue(&mut rig.engine, peek("eve", 3)), []);
    }

    #[test]
    fn a_message_comes_back_as_it_was_given() {
        let mut rig = fixture::rig();
        let Command::Defer { mut message, quota } = deferral("bob", 7) else { unreachable!() };
        message.wants_failure_notice = true;
        message.not_before = UnixMillis(i64::MAX);
        let answer = one(&mut rig.engine, Command::Defer { message: message.clone(), quota });
        message.id = fixture::deferred_id(&answer);
        assert_eq!(queue(&mut rig.engine, peek("bob", 1)), [*message], "also one whose time has not come");
    }

    #[test]
    fn reads_see_the_writes_before_them_in_the_same_commit() {
        let mut rig = fixture::rig();
        let answers = rig.engine.commit(&[peek("bob", 9), deferral("bob", 1), peek("bob", 9)]);
        assert_eq!(answers[0], Ok(Reply::Queue(Vec::new())));
        assert!(matches!(&answers[2], Ok(Reply::Queue(queue)) if queue.len() == 1));
    }

    #[test]
    fn a_quota_refuses_one_user_and_leaves_the_others_alone() {
        let mut rig = fixture::rig();
        let with = |user: &str, n, count, bytes| {
            let Command::Defer { message, .. } = deferral(user, n) else { unreachable!() };
            Command::Defer { message, quota: Quota { count, bytes } }
        };
        let len = fixture::request(0).len() as u64;
        let answers = rig.engine.commit(&[
            with("bob", 0, 1, u64::MAX),
            with("bob", 1, 1, u64::MAX),
            with("ann", 2, 10, 2 * len),
            with("ann", 3, 10, 2 * len),
            with("ann", 4, 10, 2 * len),
        ]);
        assert!(answers[0].is_ok() && answers[2].is_ok() && answers[3].is_ok());
        assert_eq!((&answers[1], &answers[4]), (&Err(Fault::QuotaExceeded), &Err(Fault::QuotaExceeded)));

        let mut rig = rig.restart();
        assert_eq!(one(&mut rig.engine, with("bob", 5, 1, u64::MAX)), Err(Fault::QuotaExceeded), "after a restart too");
        let id = queue(&mut rig.engine, peek("bob", 1))[0].id;
        let remove = Command::Settle { user: aor("bob"), id, settlement: Settlement::Remove };
        let answers = rig.engine.commit(&[remove, with("bob", 6, 1, u64::MAX)]);
        assert!(answers[1].is_ok(), "room is made in order");
    }

    #[test]
    fn settling_removes_or_postpones_and_what_is_gone_is_settled() {
        let mut rig = fixture::rig();
        let answers = rig.engine.commit(&[deferral("bob", 0), deferral("bob", 1)]);
        let ids: Vec<_> = answers.iter().map(fixture::deferred_id).collect();
        let settle = |user: &str, id, settlement| Command::Settle { user: aor(user), id, settlement };
        let retry = Settlement::Retry { attempts: 3, not_before: UnixMillis(99) };
        let answers = rig.engine.commit(&[
            settle("bob", ids[0], Settlement::Remove),
            settle("bob", ids[0], Settlement::Remove),
            settle("bob", ids[0], retry),
            settle("bob", ids[1], retry),
            settle("ann", ids[1], Settlement::Remove),
            settle("bob", MessageId(u64::MAX), Settlement::Remove),
        ]);
        assert!(answers.iter().all(|answer| *answer == Ok(Reply::Done)));
        let mut rig = rig.restart();
        let left = queue(&mut rig.engine, peek("bob", 9));
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].id, left[0].attempts, left[0].not_before), (ids[1], 3, UnixMillis(99)));
    }

    #[test]
    fn a_sweep_removes_what_expired_and_tells_of_those_somebody_asks_about() {
        let mut rig = fixture::rig();
        let commands: Vec<_> = (0..10)
            .map(|n| {
                let Command::Defer { mut message, quota } = deferral("bob", n) else { unreachable!() };
                message.expires = UnixMillis(1_000 - n as i64);
                message.wants_failure_notice = n % 2 == 0 && n != 4;
                message.attempts = u32::from(n == 4);
                Command::Defer { message, quota }
            })
            .collect();
        rig.engine.commit(&commands);
        let mut sweep = |now, limit| match one(&mut rig.engine, Command::SweepExpired { now: UnixMillis(now), limit }) {
            Ok(Reply::Swept { count, told }) => (count, told.into_iter().map(fixture::sequence).collect::<Vec<_>>()),
            other => panic!("a sweep is answered with what it swept, not {other:?}"),
        };
        assert_eq!(sweep(990, 100), (0, vec![]), "nothing has expired");
        assert_eq!(sweep(993, 2), (2, vec![8]), "the longest expired first, no more than asked for");
        assert_eq!(sweep(993, 100), (1, vec![]), "9, 8 and 7 are gone, nobody asks about 7");
        assert_eq!(sweep(1_000, 100), (7, vec![6, 4, 2, 0]));
        assert_eq!(one(&mut rig.engine, Command::Levels), Ok(Reply::Levels(Levels::default())));
        assert_eq!(queue(&mut rig.engine, peek("bob", 9)), []);
    }

    #[test]
    fn a_row_removed_by_hand_does_not_stop_the_queue() {
        let mut rig = fixture::rig();
        let answers = rig.engine.commit(&[deferral("bob", 0), deferral("bob", 1)]);
        let id = fixture::deferred_id(&answers[0]);
        rig.engine.connection.execute("DELETE FROM deferred WHERE id = ?1", [id.0 as i64]).unwrap();
        assert_eq!(queue(&mut rig.engine, peek("bob", 9)).len(), 1);
        let remove = Command::Settle { user: aor("bob"), id, settlement: Settlement::Remove };
        assert_eq!(one(&mut rig.engine, remove), Ok(Reply::Done));
    }

    /// The content store's files, by name, without its lock.
    fn names(rig: &Rig) -> Vec<String> {
        let entries = std::fs::read_dir(rig.directory.path().join("content")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "lock").collect()
    }

    fn remove(user: &str, id: MessageId) -> Command {
        Command::Settle { user: aor(user), id, settlement: Settlement::Remove }
    }

    #[test]
    fn the_content_of_a_large_message_is_taken_over_with_it_and_goes_with_it() {
        let mut rig = fixture::rig();
        let content = spooled(&rig, SpoolId(1), b"a large message");
        let id = fixture::deferred_id(&one(&mut rig.engine, large_deferral("bob", 1, content.clone())));
        assert_eq!(names(&rig), [&*content.sha256]);
        let small = fixture::deferred_id(&one(&mut rig.engine, deferral("bob", 2)));
        let mut rig = rig.restart();
        assert_eq!(names(&rig), [&*content.sha256]);
        let waiting = queue(&mut rig.engine, peek("bob", 9));
        assert_eq!(waiting.iter().map(|message| message.id).collect::<Vec<_>>(), [id, small]);
        assert_eq!(waiting[0].content, Some(ContentFile { spool: None, ..content.clone() }));
        assert_eq!(waiting[1].content, None);
        let len = 2 * fixture::request(0).len() as u64 + content.len;
        let levels = Levels { deferred: 2, deferred_bytes: len, ..Levels::default() };
        assert_eq!(one(&mut rig.engine, Command::Levels), Ok(Reply::Levels(levels)));

        let retry = Settlement::Retry { attempts: 1, not_before: UnixMillis(9) };
        assert!(one(&mut rig.engine, Command::Settle { user: aor("bob"), id, settlement: retry }).is_ok());
        assert_eq!(names(&rig).len(), 1, "it stays for the next attempt");
        assert_eq!(one(&mut rig.engine, remove("bob", id)), Ok(Reply::Done));
        assert_eq!(names(&rig), [""; 0]);
        assert_eq!(one(&mut rig.engine, remove("bob", id)), Ok(Reply::Done), "gone already");
        let rows: i64 = rig
            .engine
            .connection
            .query_row("SELECT (SELECT count(*) FROM deferred_contents) + (SELECT count(*) FROM contents)", [], |row| {
                row.get(0)
            })
            .unwrap();
        assert_eq!(rows, 0);
    }

    #[test]
    fn the_same_content_for_two_users_is_one_file_until_both_are_done() {
        let mut rig = fixture::rig();
        let first = spooled(&rig, SpoolId(1), b"the same");
        let second = spooled(&rig, SpoolId(2), b"the same");
        let answers = rig.engine.commit(&[large_deferral("bob", 1, first), large_deferral("ann", 2, second)]);
        let ids: Vec<_> = answers.iter().map(fixture::deferred_id).collect();
        assert_eq!(names(&rig).len(), 1);
        assert_eq!(one(&mut rig.engine, remove("bob", ids[0])), Ok(Reply::Done));
        assert_eq!(names(&rig).len(), 1);
        let mut rig = rig.restart();
        let sweep = Command::SweepExpired { now: UnixMillis(i64::MAX), limit: 10 };
        assert_eq!(one(&mut rig.engine, sweep), Ok(Reply::Swept { count: 1, told: Vec::new() }));
        assert_eq!(names(&rig), [""; 0]);
    }

    #[test]
    fn a_quota_counts_the_content() {
        let mut rig = fixture::rig();
        let content = spooled(&rig, SpoolId(1), &[b'x'; 500]);
        let Command::Defer { message, .. } = large_deferral("bob", 1, content) else { unreachable!() };
        let quota = Quota { count: 9, bytes: message.request.len() as u64 + 499 };
        let refused = one(&mut rig.engine, Command::Defer { message: message.clone(), quota });
        assert_eq!(refused, Err(Fault::QuotaExceeded));
        assert_eq!(names(&rig), [SpoolId(1).file_name()], "it is left for its owner to discard");
        let quota = Quota { bytes: quota.bytes + 1, ..quota };
        assert!(one(&mut rig.engine, Command::Defer { message, quota }).is_ok());
    }

    #[test]
    fn a_deferral_that_comes_to_nothing_leaves_the_spooled_file_as_it_was() {
        let mut rig = fixture::rig();
        let sql = "CREATE TRIGGER poison BEFORE INSERT ON deferred WHEN NEW.user LIKE '%poison%'
            BEGIN SELECT RAISE(ROLLBACK, 'poison'); END;
            CREATE TRIGGER venom BEFORE INSERT ON deferred WHEN NEW.user LIKE '%venom%'
            BEGIN SELECT RAISE(ABORT, 'venom'); END";
        rig.engine.connection.execute_batch(sql).unwrap();
        let contents: Vec<_> = (0..4).map(|n| spooled(&rig, SpoolId(n), format!("message {n}").as_bytes())).collect();
        // The transaction goes down once and is tried again without the one that took it down.
        let answers = rig.engine.commit(&[
            large_deferral("bob", 0, contents[0].clone()),
            large_deferral("poison", 1, contents[1].clone()),
            large_deferral("venom", 2, contents[2].clone()),
            large_deferral("bob", 3, ContentFile { len: 99, ..contents[3].clone() }),
        ]);
        assert!(answers[0].is_ok());
        assert_eq!(answers[1..], [Err(Fault::Broken), Err(Fault::Broken), Err(Fault::Broken)]);
        let mut left = names(&rig);
        left.sort();
        let mut expected: Vec<_> = (1..4).map(|n| SpoolId(n).file_name()).collect();
        expected.push(contents[0].sha256.to_string());
        assert_eq!(left, expected);
        let references: i64 =
            rig.engine.connection.query_row("SELECT sum(reference_count) FROM contents", [], |row| row.get(0)).unwrap();
        assert_eq!(references, 1);
        let rig = rig.restart();
        assert_eq!(names(&rig), [&*contents[0].sha256], "what nobody took over is cleared away");
    }

    #[test]
    fn a_crash_between_commit_and_the_loss_of_the_first_name_leaves_one_name() {
        let mut rig = fixture::rig();
        let content = spooled(&rig, SpoolId(1), b"a large message");
        assert!(one(&mut rig.engine, large_deferral("bob", 1, content.clone())).is_ok());
        let path = rig.directory.path().join("content");
        std::fs::hard_link(path.join(&*content.sha256), path.join(SpoolId(1).file_name())).unwrap();
        let mut rig = rig.restart();
        assert_eq!(names(&rig), [&*content.sha256]);
        assert_eq!(std::fs::read(path.join(&*content.sha256)).unwrap(), b"a large message");
        assert_eq!(queue(&mut rig.engine, peek("bob", 1)).len(), 1);
    }

    #[test]
    fn a_file_under_the_right_name_with_the_wrong_length_is_replaced() {
        let mut rig = fixture::rig();
        let content = spooled(&rig, SpoolId(1), b"a large message");
        let path = rig.directory.path().join("content").join(&*content.sha256);
        std::fs::write(&path, b"half").unwrap();
        assert!(one(&mut rig.engine, large_deferral("bob", 1, content)).is_ok());
        assert_eq!(std::fs::read(&path).unwrap(), b"a large message");
        assert_eq!(names(&rig).len(), 1);
    }
}
