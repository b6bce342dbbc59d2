//! Commands in, one durable transaction, answers out. No thread, no queue: the writer drives it, tests drive it too.

use super::content::{ContentStore, Sha256Hex};
use super::failure::Failure;
use super::ids::Ids;
use super::ledger::{Ledger, Mark};
use super::schema;
use crate::base::id::NodeId;
use crate::participating::storage::{Answer, Command, Fault, Levels, Reply, Settlement};
use rusqlite::Connection;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

/// The opened database with what the store knows about it.
pub(super) struct Engine {
    pub(super) connection: Connection,
    pub(super) ledger: Ledger,
    pub(super) ids: Ids,
    pub(super) content: ContentStore,
    pub(super) content_threshold: usize,
    pub(super) node: NodeId,
    pub(super) space: Space,
    /// The last transaction that had something to write did not become durable.
    pub(super) broken: bool,
    /// Transactions that failed.
    pub(super) failure_count: u64,
}

/// The high-water mark of the disk.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) directories: Vec<PathBuf>,
    pub(super) free_min: u64,
    /// What the last look said; taken once a transaction.
    pub(super) is_low: bool,
}

/// What ended an attempt at a transaction before its commit succeeded. Nothing of it happened.
enum Setback {
    /// The command at this index took the whole transaction down.
    Command(usize, Fault),
    /// The transaction could not begin or not become durable.
    Transaction(Fault),
}

impl Engine {
    /// Executes commands in order in one transaction and makes it durable. One answer for each, in order.
    ///
    /// A command that fails leaves the others alone. If the transaction fails, every command that writes is told so, and
    /// the others read what was there before.
    pub(super) fn commit(&mut self, commands: &[Command]) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = vec![None; commands.len()];
        self.space.look();
        for setback_count in 1.. {
            let Err(setback) = self.attempt(commands, &mut answers) else { break };
            let fault = match setback {
                Setback::Command(index, fault) => {
                    answers[index] = Some(Err(fault));
                    fault
                }
                Setback::Transaction(fault) => {
                    refuse(commands, &mut answers, fault, writes);
                    fault
                }
            };
            if setback_count >= SETBACK_COUNT_MAX {
                // Commands take transactions down one after the other: enough.
                refuse(commands, &mut answers, fault, writes);
            }
            if setback_count > SETBACK_COUNT_MAX {
                refuse(commands, &mut answers, fault, |_| true);
                break;
            }
        }
        answers.into_iter().map(|answer| answer.expect("an attempt that succeeds answers all")).collect()
    }

    /// Pages in the log since it was last moved into the database.
    pub(super) fn log_page_count(&self) -> usize {
        LOG_PAGE_COUNT.get()
    }

    /// Moves the log into the database. Nothing is lost if it fails: the log stays and grows.
    pub(super) fn checkpoint(&self) {
        let outcome = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, bool>(0));
        LOG_PAGE_COUNT.set(0);
        if let Err(error) = outcome {
            tracing::warn!(%error, "store: a checkpoint failed");
        }
    }

    /// Counts the log's pages. On the thread that commits.
    pub(super) fn watch_log(&self) {
        self.connection.wal_hook(Some(|_, page_count| {
            LOG_PAGE_COUNT.set(usize::try_from(page_count).unwrap_or(0));
            Ok(())
        }));
    }

    /// Ends in order: the log goes into the database, and the next start is exact about ids.
    pub(super) fn close(self) {
        let last = self.ids.last() as i64;
        let written =
            self.connection.execute("UPDATE numbers SET value = ?2 WHERE name = ?1", (schema::ID_CEILING, last));
        if let Err(error) = written {
            tracing::warn!(%error, "store: the last id could not be written");
        }
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "store: the last checkpoint failed");
        }
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(%error, "store: the database could not be closed");
        }
    }

    /// True if the disk takes a write: how a broken store finds out that it is well again while nobody asks for anything.
    pub(super) fn probe(&mut self) -> bool {
        debug_assert!(self.broken, "a store that is well needs no probe");
        let outcome = self
            .connection
            .execute_batch("BEGIN IMMEDIATE")
            .and_then(|()| self.write_id_ceiling())
            .and_then(|()| self.connection.execute_batch("COMMIT"));
        match outcome {
            Ok(()) => {
                self.ids.committed();
                self.broken = false;
            }
            Err(_) => self.undo_all(self.ledger.mark()),
        }
        !self.broken
    }

    /// One transaction over the commands that have no answer yet. On success all have one.
    fn attempt(&mut self, commands: &[Command], answers: &mut [Option<Answer>]) -> Result<(), Setback> {
        debug_assert!(self.connection.is_autocommit(), "transactions do not nest");
        let start = self.ledger.mark();
        let has_writes = commands.iter().zip(&*answers).any(|(command, answer)| answer.is_none() && writes(command));
        let begin = if has_writes { "BEGIN IMMEDIATE" } else { "BEGIN" };
        if let Err(error) = self.execute(begin) {
            return Err(self.setback(start, has_writes, &error.into()));
        }

        let mut tentative: Vec<Option<Answer>> = Vec::with_capacity(commands.len());
        for (index, command) in commands.iter().enumerate() {
            if answers[index].is_some() {
                tentative.push(None);
                continue;
            }
            let answer = self.execute_apart(command);
            if self.connection.is_autocommit() {
                // SQLite gave up the whole transaction, not only this statement: it does for some failures of the disk.
                self.undo_all(start);
                self.broken |= has_writes;
                self.failure_count += 1;
                return Err(Setback::Command(index, answer.err().unwrap_or(Fault::Broken)));
            }
            tentative.push(Some(answer));
        }

        let sealed = self.content.seal().map_err(Failure::from);
        let outcome = sealed.and_then(|()| {
            if has_writes {
                self.write_id_ceiling()?;
            }
            Ok(self.execute("COMMIT")?)
        });
        if let Err(failure) = outcome {
            return Err(self.setback(start, has_writes, &failure));
        }

        self.ledger.committed();
        self.ids.committed();
        self.broken &= !has_writes;
        self.content.committed();
        self.clear_content();
        for (answer, tentative) in answers.iter_mut().zip(tentative) {
            *answer = answer.take().or(tentative);
        }
        Ok(())
    }

    /// Executes one command so that its failure, or its panic, leaves no trace of it and all of the others.
    fn execute_apart(&mut self, command: &Command) -> Answer {
        let before = self.ledger.mark();
        let claimed_before = self.content.claimed_count();
        let apart = self.needs_savepoint(command);
        let outcome = if apart { self.execute("SAVEPOINT command") } else { Ok(()) };
        let outcome = outcome.map_err(Failure::from).and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| self.dispatch(command)))
                .unwrap_or(Err(Failure::Damaged("a panic while a command was executed")))
        });
        let outcome = match outcome {
            Ok(reply) if apart => self.execute("RELEASE command").map(|()| reply).map_err(Failure::from),
            outcome => outcome,
        };
        outcome.map_err(|failure| {
            self.ledger.undo_to(before);
            self.content.undo_to(claimed_before);
            if failure.is_trouble() {
                tracing::warn!(%failure, command = kind(command), "store: a command failed");
                // Without a savepoint a command is one statement, and SQLite undoes a statement that fails. After a panic
                // that is not sure: the transaction goes.
                let undone = if apart {
                    self.execute("ROLLBACK TO command").and_then(|()| self.execute("RELEASE command")).is_ok()
                } else {
                    !matches!(failure, Failure::Damaged(_))
                };
                if !undone && !self.connection.is_autocommit() {
                    self.roll_back();
                }
            } else if apart && self.execute("RELEASE command").is_err() {
                self.roll_back();
            }
            failure.fault()
        })
    }

    fn dispatch(&mut self, command: &Command) -> Result<Reply, Failure> {
        match command {
            Command::Defer { message, quota } => self.defer(message, *quota),
            Command::PeekDeferred { user, limit } => self.peek_deferred(user, *limit),
            Command::Settle { user, id, settlement } => self.settle(user, *id, *settlement),
            Command::SweepExpired { now, limit } => self.sweep_expired(*now, *limit),
            Command::Keep { shelf, object } => self.keep(*shelf, object),
            Command::SetOutcome { user, imdn_message_id, direction, outcome } => {
                self.set_outcome(user, imdn_message_id, *direction, *outcome)
            }
            Command::ListObjects { shelf, user, limit } => self.list_objects(*shelf, user, *limit),
            Command::ReadObject { shelf, user, id } => self.read_object(*shelf, user, *id),
            Command::RemoveObject { shelf, user, id } => self.remove_object(*shelf, user, *id),
            Command::PutDevices { user, devices } => self.put_devices(user, devices),
            Command::PutAvailability { user, availability } => self.put_availability(user, *availability),
            Command::PutDocument(document) => self.put_document(document),
            Command::DeleteDocument { auid, user, name } => self.delete_document(auid, user, name),
            Command::Levels => Ok(Reply::Levels(Levels { fault: self.fault(), ..self.ledger.levels() })),
        }
    }

    /// Refuses what only adds to the disk once it is above its high-water mark.
    pub(super) fn refuse_when_space_is_low(&self) -> Result<(), Failure> {
        if self.space.is_low { Err(Failure::Refused(Fault::DiskFull)) } else { Ok(()) }
    }

    /// Why nothing more is taken. Reading still works then: the health page has to be told.
    fn fault(&self) -> Option<Fault> {
        match (self.broken, self.space.is_low) {
            (true, _) => Some(Fault::Broken),
            (false, true) => Some(Fault::DiskFull),
            (false, false) => None,
        }
    }

    /// Writes the ceiling of ids where it must rise; to a broken store always, so that the commit shows what the disk does.
    fn write_id_ceiling(&mut self) -> rusqlite::Result<()> {
        let raised = if self.broken { Some(self.ids.raise_anyway()) } else { self.ids.raise() };
        let Some(ceiling) = raised else { return Ok(()) };
        self.connection
            .prepare_cached("INSERT INTO numbers (name, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2")?
            .execute((schema::ID_CEILING, ceiling as i64))?;
        Ok(())
    }

    /// Nothing of the transaction happened, and what the store knows says so.
    fn setback(&mut self, start: Mark, has_writes: bool, failure: &Failure) -> Setback {
        tracing::error!(%failure, "store: a transaction failed");
        self.undo_all(start);
        self.broken |= has_writes;
        self.failure_count += 1;
        Setback::Transaction(failure.fault())
    }

    fn undo_all(&mut self, start: Mark) {
        self.roll_back();
        self.ledger.undo_to(start);
        self.ids.undone();
        self.content.undo_to(0);
        self.clear_content();
    }

    fn roll_back(&self) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "store: a rollback failed");
        }
    }

    fn clear_content(&mut self) {
        let connection = &self.connection;
        // A file is kept if nobody knows.
        self.content.clear_unreferenced(|sha256| {
            connection
                .prepare_cached("SELECT 1 FROM contents WHERE sha256 = ?1")
                .and_then(|mut statement| statement.exists([sha256.as_str()]))
                .unwrap_or(true)
        });
    }

    /// True for commands that are several statements.
    fn needs_savepoint(&self, command: &Command) -> bool {
        match command {
            Command::SweepExpired { .. } | Command::Keep { .. } | Command::RemoveObject { .. } => true,
            Command::Defer { message, .. } => message.content.is_some(),
            Command::Settle { user, id, settlement: Settlement::Remove } => self.ledger.has_content(user, *id),
            _ => false,
        }
    }

    /// Counts one more reference to a file of the content store.
    pub(super) fn refer(&self, sha256: &Sha256Hex, len: u64) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "INSERT INTO contents (sha256, size, reference_count) VALUES (?1, ?2, 1)
                 ON CONFLICT DO UPDATE SET reference_count = reference_count + 1",
            )?
            .execute((sha256.as_str(), len as i64))?;
        Ok(())
    }

    /// Counts one reference less; the file goes with the last one.
    pub(super) fn release(&mut self, sha256: Sha256Hex) -> Result<(), Failure> {
        let last = self
            .connection
            .prepare_cached("DELETE FROM contents WHERE sha256 = ?1 AND reference_count = 1")?
            .execute([sha256.as_str()])?;
        if last == 0 {
            self.connection
                .prepare_cached("UPDATE contents SET reference_count = reference_count - 1 WHERE sha256 = ?1")?
                .execute([sha256.as_str()])?;
        } else {
            self.content.released(sha256);
        }
        Ok(())
    }

    fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(sql)?.execute([]).map(drop)
    }
}

impl Space {
    /// Looks at the disk: a system call of a microsecond, once a transaction.
    fn look(&mut self) {
        let was_low = self.is_low;
        self.is_low = self.directories.iter().any(|directory| match rustix::fs::statvfs(directory) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize) < self.free_min,
            // Whatever is wrong shows when something is written.
            Err(_) => false,
        });
        if self.is_low && !was_low {
            tracing::warn!(free_min = self.free_min, "store: the disk is above its high-water mark");
        }
    }
}

thread_local! {
    /// SQLite's hook takes no state of its own, and there is one writer thread to a store.
    static LOG_PAGE_COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Gives the same answer to all commands of a kind that have none.
fn refuse(commands: &[Command], answers: &mut [Option<Answer>], fault: Fault, which: impl Fn(&Command) -> bool) {
    for (command, answer) in commands.iter().zip(answers) {
        if answer.is_none() && which(command) {
            *answer = Some(Err(fault));
        }
    }
}

/// True for commands that change something.
fn writes(command: &Command) -> bool {
    !matches!(
        command,
        Command::PeekDeferred { .. } | Command::ListObjects { .. } | Command::ReadObject { .. } | Command::Levels
    )
}

/// A command's name, for logs.
fn kind(command: &Command) -> &'static str {
    match command {
        Command::Defer { .. } => "defer",
        Command::PeekDeferred { .. } => "peek-deferred",
        Command::Settle { .. } => "settle",
        Command::SweepExpired { .. } => "sweep-expired",
        Command::Keep { .. } => "keep",
        Command::SetOutcome { .. } => "set-outcome",
        Command::ListObjects { .. } => "list-objects",
        Command::ReadObject { .. } => "read-object",
        Command::RemoveObject { .. } => "remove-object",
        Command::PutDevices { .. } => "put-devices",
        Command::PutAvailability { .. } => "put-availability",
        Command::PutDocument(_) => "put-document",
        Command::DeleteDocument { .. } => "delete-document",
        Command::Levels => "levels",
    }
}

/// Commands that may take a transaction down before all others that write are refused.
const SETBACK_COUNT_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, Rig, aor, deferral, object, one, queue, sequence};
    use super::*;
    use crate::participating::storage::Shelf;

    fn peek(user: &str) -> Command {
        Command::PeekDeferred { user: aor(user), limit: u16::MAX }
    }

    fn requests(rig: &mut Rig, user: &str) -> Vec<u64> {
        queue(&mut rig.engine, peek(user)).into_iter().map(sequence).collect()
    }

    /// What the books say, which must be what the tables say.
    fn levels(rig: &mut Rig) -> Levels {
        let Ok(Reply::Levels(levels)) = one(&mut rig.engine, Command::Levels) else { panic!("levels are read") };
        let count = |table: &str| {
            let sql = format!("SELECT count(*) FROM {table}");
            rig.engine.connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap() as u64
        };
        let counts = [count("deferred"), count("messages"), count("history"), count("documents")];
        assert_eq!(counts, [levels.deferred, levels.messages, levels.history, levels.documents]);
        levels
    }

    /// Makes every commit fail that defers something, and only the commit.
    fn break_commits(rig: &Rig) {
        let sql = "PRAGMA foreign_keys = ON;
            CREATE TABLE parent (id INTEGER PRIMARY KEY);
            CREATE TABLE child (parent REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
            CREATE TRIGGER breaker AFTER INSERT ON deferred BEGIN INSERT INTO child VALUES (1); END;
            CREATE TRIGGER breaker_of_probes AFTER UPDATE ON numbers BEGIN INSERT INTO child VALUES (1); END;";
        rig.engine.connection.execute_batch(sql).unwrap();
    }

    fn mend_commits(rig: &Rig) {
        rig.engine.connection.execute_batch("DROP TRIGGER breaker; DROP TRIGGER breaker_of_probes").unwrap();
    }

    #[test]
    fn a_failed_commit_is_never_answered_as_a_success() {
        let mut rig = fixture::rig();
        let first = fixture::deferred_id(&one(&mut rig.engine, deferral("bob", 0)));
        let before = levels(&mut rig);
        break_commits(&rig);
        let answers = rig.engine.commit(&[
            deferral("bob", 1),
            peek("bob"),
            Command::Settle { user: aor("bob"), id: first, settlement: Settlement::Remove },
            Command::Keep { shelf: Shelf::Messages, object: object("bob", "m1", &[b'x'; 5_000]) },
            Command::PutDevices { user: aor("bob"), devices: Vec::new() },
            Command::Levels,
        ]);
        for write in [0, 2, 3, 4] {
            assert_eq!(answers[write], Err(Fault::Broken), "command {write}");
        }
        assert!(matches!(&answers[1], Ok(Reply::Queue(queue)) if queue.len() == 1 && queue[0].id == first));
        let after = Levels { fault: Some(Fault::Broken), ..before };
        assert_eq!(answers[5], Ok(Reply::Levels(after)), "reading shows what was there before, and the trouble");
        assert_eq!(rig.content_files(), 0, "the file went with the object that was to refer to it");
        assert!(rig.engine.broken);

        assert!(matches!(one(&mut rig.engine, peek("bob")), Ok(Reply::Queue(_))));
        assert!(rig.engine.broken, "reading is no sign that commits succeed");
        assert!(!rig.engine.probe());
        mend_commits(&rig);
        assert!(one(&mut rig.engine, deferral("bob", 2)).is_ok());
        assert!(!rig.engine.broken);
        let mut rig = rig.restart();
        assert_eq!(requests(&mut rig, "bob"), [0, 2]);
        assert_eq!(rig.image.devices, []);
    }

    #[test]
    fn a_store_finds_out_by_itself_that_commits_succeed_again() {
        let mut rig = fixture::rig();
        assert!(one(&mut rig.engine, deferral("bob", 0)).is_ok());
        break_commits(&rig);
        assert_eq!(one(&mut rig.engine, deferral("bob", 1)), Err(Fault::Broken));
        assert!(!rig.engine.probe() && rig.engine.broken);
        assert_eq!(levels(&mut rig).fault, Some(Fault::Broken), "the health page hears of it");
        mend_commits(&rig);
        assert!(rig.engine.probe() && !rig.engine.broken);
        assert_eq!((levels(&mut rig).deferred, levels(&mut rig).fault), (1, None));
    }

    #[test]
    fn a_command_that_takes_the_transaction_down_leaves_the_others_alone() {
        let mut rig = fixture::rig();
        let sql = "CREATE TRIGGER poison BEFORE INSERT ON deferred WHEN NEW.user LIKE '%poison%'
            BEGIN SELECT RAISE(ROLLBACK, 'poison'); END";
        rig.engine.connection.execute_batch(sql).unwrap();
        let large = Command::Keep { shelf: Shelf::Messages, object: object("bob", "m1", &[b'x'; 5_000]) };
        let answers = rig.engine.commit(&[deferral("bob", 1), large, deferral("poison", 2), deferral("bob", 3)]);
        assert!(answers[0].is_ok() && answers[1].is_ok() && answers[3].is_ok(), "{answers:?}");
        assert_eq!(answers[2], Err(Fault::Broken));
        assert!(!rig.engine.broken, "the commit without it succeeded");
        assert_eq!(rig.content_files(), 1);
        assert_eq!(levels(&mut rig).deferred, 2);
        let mut rig = rig.restart();
        assert_eq!(requests(&mut rig, "bob"), [1, 3]);
    }

    #[test]
    fn many_commands_that_take_transactions_down_are_given_up_together() {
        let mut rig = fixture::rig();
        let sql = "CREATE TRIGGER poison BEFORE INSERT ON deferred BEGIN SELECT RAISE(ROLLBACK, 'poison'); END";
        rig.engine.connection.execute_batch(sql).unwrap();
        let mut commands: Vec<_> = (0..50).map(|n| deferral("bob", n)).collect();
        commands.push(peek("bob"));
        let answers = rig.engine.commit(&commands);
        assert!(answers[..50].iter().all(|answer| *answer == Err(Fault::Broken)));
        assert_eq!(answers[50], Ok(Reply::Queue(Vec::new())));
        assert!(rig.engine.failure_count <= 1 + SETBACK_COUNT_MAX as u64);
    }

    #[test]
    fn a_statement_that_fails_leaves_the_others_alone() {
        let mut rig = fixture::rig();
        let sql = "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.user LIKE '%poison%'
            BEGIN SELECT RAISE(ABORT, 'poison'); END";
        rig.engine.connection.execute_batch(sql).unwrap();
        let keep =
            |user: &str, fill| Command::Keep { shelf: Shelf::Messages, object: object(user, "m1", &[fill; 5_000]) };
        let answers =
            rig.engine.commit(&[keep("bob", b'a'), keep("poison", b'b'), keep("poison", b'a'), keep("ann", b'a')]);
        assert!(answers[0].is_ok() && answers[3].is_ok(), "{answers:?}");
        assert_eq!((&answers[1], &answers[2]), (&Err(Fault::Broken), &Err(Fault::Broken)));
        assert_eq!(rig.engine.failure_count, 0, "one transaction was enough");
        assert_eq!(rig.content_files(), 1);
        let references: i64 =
            rig.engine.connection.query_row("SELECT sum(reference_count) FROM contents", [], |row| row.get(0)).unwrap();
        assert_eq!(references, 2);
        assert_eq!(levels(&mut rig).messages, 2);
    }

    #[test]
    fn a_panic_in_a_command_leaves_the_others_alone() {
        let mut rig = fixture::rig();
        assert!(one(&mut rig.engine, deferral("bob", 1)).is_ok());
        let sql = "CREATE TRIGGER poison BEFORE DELETE ON deferred BEGIN SELECT RAISE(IGNORE); END";
        rig.engine.connection.execute_batch(sql).unwrap();
        let sweep = Command::SweepExpired { now: crate::base::time::UnixMillis(i64::MAX), limit: 10 };
        let answers = rig.engine.commit(&[deferral("bob", 2), sweep, deferral("bob", 3)]);
        assert!(answers[0].is_ok() && answers[2].is_ok(), "{answers:?}");
        assert_eq!(answers[1], Err(Fault::Broken), "a row that will not go");
        assert_eq!(requests(&mut rig, "bob"), [1, 2, 3]);
        levels(&mut rig);
    }

    #[test]
    fn a_database_that_cannot_grow_says_so_and_keeps_what_it_acknowledged() {
        let mut rig = fixture::rig();
        let pages: i64 = rig.engine.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        rig.engine
            .connection
            .query_row(&format!("PRAGMA max_page_count = {}", pages + 12), [], |row| row.get::<_, i64>(0))
            .unwrap();
        let mut acknowledged = Vec::new();
        let mut refused = 0;
        for batch in 0..8 {
            let commands: Vec<_> = (0..10).map(|n| deferral("bob", batch * 10 + n)).collect();
            for (answer, n) in rig.engine.commit(&commands).into_iter().zip(0..) {
                match answer {
                    Ok(Reply::Deferred(_)) => acknowledged.push(batch * 10 + n),
                    Err(Fault::DiskFull) => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(refused > 0 && !acknowledged.is_empty());
        assert_eq!(levels(&mut rig).deferred, acknowledged.len() as u64);
        let mut rig = rig.restart();
        assert_eq!(requests(&mut rig, "bob"), acknowledged);
    }

    #[test]
    fn above_the_high_water_mark_nothing_is_added_and_everything_else_goes_on() {
        let mut rig = fixture::rig();
        let id = fixture::deferred_id(&one(&mut rig.engine, deferral("bob", 1)));
        rig.engine.space.free_min = u64::MAX;
        let answers = rig.engine.commit(&[
            deferral("bob", 2),
            Command::Keep { shelf: Shelf::History, object: object("bob", "m1", b"x") },
            Command::PutDevices { user: aor("bob"), devices: Vec::new() },
            Command::Settle { user: aor("bob"), id, settlement: Settlement::Remove },
        ]);
        assert_eq!((&answers[0], &answers[1]), (&Err(Fault::DiskFull), &Err(Fault::DiskFull)));
        assert_eq!((&answers[2], &answers[3]), (&Ok(Reply::Done), &Ok(Reply::Done)));
        rig.engine.space.free_min = 1;
        assert!(one(&mut rig.engine, deferral("bob", 2)).is_ok());
    }

    #[test]
    fn an_empty_commit_is_no_commit() {
        let mut rig = fixture::rig();
        assert_eq!(rig.engine.commit(&[]), []);
    }
}
