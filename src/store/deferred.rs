//! The deferred queue (SPEC §2.4): first in, first out for each user, bounded by the user's quota.

use super::engine::Engine;
use super::failure::Failure;
use crate::base::id::{Aor, MessageId};
use crate::base::time::UnixMillis;
use crate::participating::storage::{DeferredMessage, Fault, Quota, Reply, Settlement};
use bytes::Bytes;
use rusqlite::{OptionalExtension, Row};

impl Engine {
    /// Puts a message at the end of its user's queue.
    pub(super) fn defer(&mut self, message: &DeferredMessage, quota: Quota) -> Result<Reply, Failure> {
        let Ok(len) = u32::try_from(message.request.len()) else {
            return Err(Failure::Refused(Fault::QuotaExceeded));
        };
        if !self.ledger.fits(&message.user, message.request.len(), quota) {
            return Err(Failure::Refused(Fault::QuotaExceeded));
        }
        self.refuse_when_space_is_low()?;
        let id = self.ids.next(message.accepted);
        let rows = self
            .connection
            .prepare_cached(
                "INSERT INTO deferred (id, user, size, originator, accepted, expires, attempts, not_before, failure_notice,
                 node, request) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute((
                id.0 as i64,
                message.user.as_str(),
                len,
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
        self.ledger.deferred(&message.user, id, len);
        Ok(Reply::Deferred(id))
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
            queue.extend(statement.query_row([id.0 as i64], message).optional()?);
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
        for message in expired {
            let rows =
                self.connection.prepare_cached("DELETE FROM deferred WHERE id = ?1")?.execute([message.id.0 as i64])?;
            assert_eq!(rows, 1, "what was just read is there");
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
    use super::super::fixture::{self, aor, deferral, one, queue};
    use crate::base::id::MessageId;
    use crate::base::time::UnixMillis;
    use crate::participating::storage::{Command, Fault, Levels, Quota, Reply, Settlement};

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
}
