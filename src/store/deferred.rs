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
        let len = message.request.len() as u64;
        if !self.ledger.fits(&message.user, len, quota) {
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
        self.ledger.deferred(&message.user, len);
        Ok(Reply::Deferred(id))
    }

    /// The oldest messages of a user, whether their time has come or not.
    pub(super) fn peek_deferred(&self, user: &Aor, limit: u16) -> Result<Reply, Failure> {
        if self.ledger.usage(user).count == 0 {
            return Ok(Reply::Queue(Vec::new()));
        }
        let queue = self
            .connection
            .prepare_cached(
                "SELECT id, user, originator, accepted, expires, attempts, not_before, failure_notice, request
                 FROM deferred WHERE user = ?1 ORDER BY id LIMIT ?2",
            )?
            .query_map((user.as_str(), limit), message)?
            .collect::<Result<_, _>>()?;
        Ok(Reply::Queue(queue))
    }

    /// Removes a message, or notes when it may be tried again. One that is gone already is settled.
    pub(super) fn settle(&mut self, user: &Aor, id: MessageId, settlement: Settlement) -> Result<Reply, Failure> {
        match settlement {
            Settlement::Remove => {
                let len: Option<i64> = self
                    .connection
                    .prepare_cached("DELETE FROM deferred WHERE id = ?1 AND user = ?2 RETURNING size")?
                    .query_row((id.0 as i64, user.as_str()), |row| row.get(0))
                    .optional()?;
                if let Some(len) = len {
                    self.ledger.removed(user, len as u64);
                }
            }
            Settlement::Retry { attempts, not_before } => {
                self.connection
                    .prepare_cached("UPDATE deferred SET attempts = ?3, not_before = ?4 WHERE id = ?1 AND user = ?2")?
                    .execute((id.0 as i64, user.as_str(), attempts, not_before.0))?;
            }
        }
        Ok(Reply::Done)
    }

    /// Removes messages whose time is over, the longest expired first; gives back those whose senders want to know.
    pub(super) fn sweep_expired(&mut self, now: UnixMillis, limit: u16) -> Result<Reply, Failure> {
        // The request is not read, which is most of the work, for those nobody will be told about.
        let mut statement = self.connection.prepare_cached(
            "SELECT id, user, originator, accepted, expires, attempts, not_before, failure_notice,
                    CASE WHEN failure_notice THEN request ELSE x'' END, size
             FROM deferred WHERE expires <= ?1 ORDER BY expires, id LIMIT ?2",
        )?;
        let expired: Vec<(DeferredMessage, i64)> = statement
            .query_map((now.0, limit), |row| Ok((message(row)?, row.get(9)?)))?
            .collect::<Result<_, _>>()?;
        drop(statement);
        let mut noticed = Vec::new();
        for (message, len) in expired {
            let rows = self
                .connection
                .prepare_cached("DELETE FROM deferred WHERE id = ?1")?
                .execute([message.id.0 as i64])?;
            assert_eq!(rows, 1, "what was just read is there");
            self.ledger.removed(&message.user, len as u64);
            if message.wants_failure_notice {
                noticed.push(message);
            }
        }
        Ok(Reply::Queue(noticed))
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
    })
}
