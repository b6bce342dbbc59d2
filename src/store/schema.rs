//! Tables, their versions, and how an older file becomes a newer one.

use rusqlite::Connection;

/// What the database is set to before anything else: settings that hold for this connection.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // Only an empty file takes a page size. Half the index entries of a 4 KiB page would be gone with smaller ones.
    connection.pragma_update(None, "page_size", PAGE_LEN)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Every commit reaches the disk before it is answered.
    connection.pragma_update(None, "synchronous", "full")?;
    // The writer moves the log into the database itself, after the answers are out.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LEN_KEPT)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    // An operator's tool may hold the database for a moment.
    connection.busy_timeout(std::time::Duration::from_secs(2))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Brings the tables to the newest version. `Ok(Err(version))` if the file is newer than this program.
pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<Result<(), i64>> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let Some(pending) = usize::try_from(version).ok().and_then(|done| MIGRATIONS.get(done..)) else {
        return Ok(Err(version));
    };
    for (sql, next) in pending.iter().zip(version + 1..) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", next)?;
        transaction.commit()?;
    }
    Ok(Ok(()))
}

/// The name of the one number in table `numbers`: no id given out is above it.
pub(super) const ID_CEILING: &str = "id_ceiling";

const PAGE_LEN: i64 = 4096;
/// What the log file shrinks to when it was longer.
const WAL_LEN_KEPT: i64 = 64 << 20;
/// The page cache.
const CACHE_KIB: i64 = 64 << 10;

/// Entry `n` takes a file from version `n` to `n + 1`. Entries are only ever added.
const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2];

/// Tables of messages grow at their ends: ids grow with time, so the rows of one commit share pages whoever they are for.
/// Whatever is clustered or indexed by user touches a page of its own for every row of a commit, and pages are what a
/// commit costs: an index by user on `deferred`, or objects clustered by user, took two thirds of the rate in the bench
/// `store_commit`. So who has what in the queue is kept in memory, and the outline is read once at the start; objects
/// have one index by user, which makes them unique and finds a user's newest.
const VERSION_1: &str = "
CREATE TABLE numbers (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE deferred (
    id             INTEGER PRIMARY KEY,
    user           TEXT NOT NULL,
    size           INTEGER NOT NULL,
    originator     TEXT NOT NULL,
    accepted       INTEGER NOT NULL,
    expires        INTEGER NOT NULL,
    attempts       INTEGER NOT NULL,
    not_before     INTEGER NOT NULL,
    failure_notice INTEGER NOT NULL,
    node           INTEGER NOT NULL,
    request        BLOB NOT NULL
);
CREATE INDEX deferred_outline ON deferred (id, user, size);
CREATE INDEX deferred_by_expiry ON deferred (expires);

CREATE TABLE messages (
    id              INTEGER PRIMARY KEY,
    user            TEXT NOT NULL,
    peer            TEXT NOT NULL,
    imdn_message_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    contribution_id TEXT NOT NULL,
    direction       TEXT NOT NULL,
    outcome         TEXT NOT NULL,
    at              INTEGER NOT NULL,
    node            INTEGER NOT NULL,
    size            INTEGER NOT NULL,
    content_type    TEXT NOT NULL,
    stored_type     TEXT,
    cuts            TEXT,
    head            BLOB NOT NULL,
    body            BLOB NOT NULL
);
CREATE UNIQUE INDEX messages_once ON messages (user, imdn_message_id, direction);

CREATE TABLE history (
    id              INTEGER PRIMARY KEY,
    user            TEXT NOT NULL,
    peer            TEXT NOT NULL,
    imdn_message_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    contribution_id TEXT NOT NULL,
    direction       TEXT NOT NULL,
    outcome         TEXT NOT NULL,
    at              INTEGER NOT NULL,
    node            INTEGER NOT NULL,
    size            INTEGER NOT NULL,
    content_type    TEXT NOT NULL,
    stored_type     TEXT,
    cuts            TEXT,
    head            BLOB NOT NULL,
    body            BLOB NOT NULL
);
CREATE UNIQUE INDEX history_once ON history (user, imdn_message_id, direction);

CREATE TABLE contents (
    sha256          TEXT PRIMARY KEY,
    size            INTEGER NOT NULL,
    reference_count INTEGER NOT NULL CHECK (reference_count > 0)
) WITHOUT ROWID;

CREATE TABLE documents (
    user TEXT NOT NULL,
    auid TEXT NOT NULL,
    name TEXT NOT NULL,
    etag TEXT NOT NULL,
    node INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (user, auid, name)
) WITHOUT ROWID;

CREATE TABLE users (
    user    TEXT PRIMARY KEY,
    node    INTEGER NOT NULL,
    devices TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE availability (
    user  TEXT PRIMARY KEY,
    node  INTEGER NOT NULL,
    state TEXT NOT NULL
) WITHOUT ROWID;
";

/// Messages of large message mode in the deferred queue: their content is a file. A table of its own, so that the rows of
/// all others stay as they are.
const VERSION_2: &str = "
CREATE TABLE deferred_contents (
    id              INTEGER PRIMARY KEY,
    sha256          TEXT NOT NULL,
    size            INTEGER NOT NULL,
    content_type    TEXT NOT NULL,
    imdn_message_id TEXT NOT NULL,
    date_time       TEXT NOT NULL
);
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_file_gets_every_version_and_a_current_file_none() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert_eq!(migrate(&mut connection), Ok(Ok(())));
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, MIGRATIONS.len() as i64);
        assert_eq!(migrate(&mut connection), Ok(Ok(())));
    }

    #[test]
    fn a_file_of_the_first_version_keeps_its_rows() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(VERSION_1).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection.execute_batch("INSERT INTO deferred VALUES (1, 'u', 2, 'o', 0, 0, 0, 0, 0, 0, x'3132')").unwrap();
        assert_eq!(migrate(&mut connection), Ok(Ok(())));
        let sum = "SELECT (SELECT count(*) FROM deferred) + (SELECT count(*) FROM deferred_contents)";
        assert_eq!(connection.query_row(sum, [], |row| row.get(0)), Ok(1));
    }

    #[test]
    fn a_file_from_a_newer_program_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert_eq!(migrate(&mut connection), Ok(Err(99)));
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 0);
    }
}
