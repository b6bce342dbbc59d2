//! From a directory to a store that can be started, and what a restart reads back.

use super::content::{ContentStore, Sha256Hex};
use super::engine::{Engine, Space};
use super::failure::Failure;
use super::ids::Ids;
use super::ledger::{Ledger, Size};
use super::{schema, subscribers};
use crate::base::id::{Aor, MessageId, NodeId};
use crate::participating::devices::Device;
use crate::participating::preferences::Availability;
use crate::participating::storage::Document;
use rusqlite::Connection;
use std::collections::HashSet;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the store lives and how it behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database's directory; created if it is not there.
    pub data_dir: PathBuf,
    /// The content store's directory; created if it is not there.
    pub content_dir: PathBuf,
    /// MIME parts larger than this many bytes go to the content store.
    pub content_threshold: usize,
    /// Written into every row.
    pub node: NodeId,
    /// With less free space than this many bytes nothing more is deferred or kept.
    pub disk_free_min: u64,
}

/// What a restart reads back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Every user that ever registered, with the devices of today; some have none.
    pub devices: Vec<(Aor, Vec<Device>)>,
    /// What the admin API set.
    pub availability: Vec<(Aor, Availability)>,
    /// Every XCAP document.
    pub documents: Vec<Document>,
    /// Users with something in their deferred queue, in alphabetical order.
    pub users_with_deferred: Vec<Aor>,
}

/// Why a store cannot be opened, as one line for an operator.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    reason: String,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store {}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for OpenError {}

/// An opened database, not yet running.
pub struct Store {
    pub(super) engine: Engine,
    pub(super) locks: Locks,
}

/// Held as long as the store is: a second process must not write the same rows or clear the same files away.
pub(super) struct Locks {
    _held: Vec<File>,
}

impl Store {
    /// Opens or creates a store, brings its tables up to date and reads back what a restart needs.
    ///
    /// Whatever was acknowledged before a crash is there: SQLite replays its log when the file is opened.
    pub fn open(options: Options) -> Result<(Self, Image), OpenError> {
        let Options { data_dir, content_dir, content_threshold, node, disk_free_min } = options;
        create_directory(&data_dir)?;
        create_directory(&content_dir)?;
        let mut held = vec![lock(&data_dir)?];
        if !same_directory(&data_dir, &content_dir) {
            held.push(lock(&content_dir)?);
        }

        let path = data_dir.join(DATABASE_NAME);
        let failed = |failure: Failure| OpenError { path: path.clone(), reason: failure.to_string() };
        let connection = open_database(&path)?;
        let (ledger, ids) = read_books(&connection).map_err(failed)?;
        let image = read_image(&connection, &ledger).map_err(failed)?;
        let known = read_content_names(&connection).map_err(failed)?;
        let content = ContentStore::open(&content_dir, |sha256| known.contains(sha256))
            .map_err(|error| OpenError { path: content_dir.clone(), reason: error.to_string() })?;

        let space = Space { directories: vec![data_dir, content_dir], free_min: disk_free_min, is_low: false };
        let engine = Engine {
            connection,
            ledger,
            ids,
            content,
            content_threshold,
            node,
            space,
            broken: false,
            failure_count: 0,
        };
        Ok((Self { engine, locks: Locks { _held: held } }, image))
    }
}

fn open_database(path: &Path) -> Result<Connection, OpenError> {
    let failed = |error: rusqlite::Error| OpenError {
        path: path.to_owned(),
        reason: match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => "not a database".to_owned(),
            Some(rusqlite::ErrorCode::DatabaseBusy) => "in use by another process".to_owned(),
            _ => error.to_string(),
        },
    };
    // SQLite would let everybody read it, in a directory that was made by somebody else; its log takes the same mode.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| OpenError { path: path.to_owned(), reason: error.to_string() })?;
    let mut connection = Connection::open(path).map_err(failed)?;
    schema::configure(&connection).map_err(failed)?;
    schema::migrate(&mut connection).map_err(failed)?.map_err(|version| OpenError {
        path: path.to_owned(),
        reason: format!("its tables have version {version}, which this program does not know"),
    })?;
    Ok(connection)
}

/// Adds up what the tables hold, once; from here on it is kept in memory.
fn read_books(connection: &Connection) -> Result<(Ledger, Ids), Failure> {
    let mut ledger = Ledger::default();
    let with_content: HashSet<i64> = connection
        .prepare("SELECT id FROM deferred_contents")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    // The outline answers this alone; no request is read.
    let mut statement =
        connection.prepare("SELECT id, user, size FROM deferred INDEXED BY deferred_outline ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut last = 0;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        last = id as u64;
        let user = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let len = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
        ledger.open_deferred(user, MessageId(last), Size { len, has_content: with_content.contains(&id) });
    }
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|number| number as u64);
    ledger.open_counts(
        number("SELECT count(*) FROM messages")?,
        number("SELECT count(*) FROM history")?,
        number("SELECT count(*) FROM documents")?,
    );
    let ceiling = connection
        .prepare("SELECT value FROM numbers WHERE name = ?1")?
        .query_map([schema::ID_CEILING], |row| row.get::<_, i64>(0))?
        .next()
        .transpose()?
        .unwrap_or(0);
    Ok((ledger, Ids::above(last.max(ceiling as u64))))
}

fn read_image(connection: &Connection, ledger: &Ledger) -> Result<Image, Failure> {
    let mut users_with_deferred: Vec<_> = ledger.users().cloned().collect();
    users_with_deferred.sort_unstable();
    Ok(Image {
        devices: subscribers::read_devices(connection)?,
        availability: subscribers::read_availability(connection)?,
        documents: subscribers::read_documents(connection)?,
        users_with_deferred,
    })
}

fn read_content_names(connection: &Connection) -> Result<HashSet<Sha256Hex>, Failure> {
    let mut statement = connection.prepare("SELECT sha256 FROM contents")?;
    let mut rows = statement.query([])?;
    let mut names = HashSet::new();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        names.insert(Sha256Hex::from_name(name).ok_or(Failure::Damaged("a content without a hash for a name"))?);
    }
    Ok(names)
}

/// Creates a directory that only this user enters: it holds other people's messages.
fn create_directory(path: &Path) -> Result<(), OpenError> {
    let failed = |error: std::io::Error| OpenError { path: path.to_owned(), reason: error.to_string() };
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    // A power cut must not take the new name away together with what is acknowledged inside.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK_NAME);
    let failed = |reason: String| OpenError { path: directory.to_owned(), reason };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A predecessor on its way out holds it a moment longer, and so does a child it has forked until that execs.
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL_INTERVAL),
            Err(TryLockError::WouldBlock) => return Err(failed("in use by another process".to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(format!("cannot be locked: {error}"))),
        }
    }
}

fn same_directory(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

const DATABASE_NAME: &str = "ringpost.db";
const LOCK_NAME: &str = "lock";
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, deferral, one, options};
    use super::*;
    use crate::base::time::UnixMillis;
    use crate::participating::storage::{Command, Settlement};

    fn refusal(options: Options) -> String {
        match Store::open(options) {
            Ok(_) => panic!("the store opened"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_second_store_on_the_same_directory_is_refused() {
        let rig = fixture::rig();
        let path = rig.directory.path();
        assert_eq!(refusal(options(path)), format!("store {}: in use by another process", path.join("data").display()));
        let other_data = Options { data_dir: path.join("other"), ..options(path) };
        assert_eq!(refusal(other_data), format!("store {}: in use by another process", path.join("content").display()));
        let rig = rig.restart();
        assert!(rig.image.devices.is_empty(), "the lock goes with the store");
    }

    #[test]
    fn one_directory_may_hold_both() {
        let directory = tempfile::tempdir().unwrap();
        let both = Options { content_dir: directory.path().join("data"), ..options(directory.path()) };
        for _ in 0..2 {
            let (mut store, _) = Store::open(both.clone()).unwrap();
            let object = fixture::object("bob", "m1", &[b'x'; 5_000]);
            let keep = Command::Keep { shelf: crate::participating::storage::Shelf::Messages, object };
            assert!(one(&mut store.engine, keep).is_ok());
        }
    }

    #[test]
    fn what_cannot_be_opened_is_one_clear_line() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let database = data.join(DATABASE_NAME);
        std::fs::write(&database, "this is no database, however long it may be".repeat(200)).unwrap();
        assert_eq!(refusal(options(directory.path())), format!("store {}: not a database", database.display()));

        std::fs::remove_file(&database).unwrap();
        Connection::open(&database).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert_eq!(
            refusal(options(directory.path())),
            format!("store {}: its tables have version 99, which this program does not know", database.display())
        );

        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let line = refusal(Options { data_dir: file.join("data"), ..options(directory.path()) });
        assert!(line.starts_with(&format!("store {}: ", file.join("data").display())) && !line.contains('\n'));
    }

    #[test]
    fn ids_grow_over_a_restart_even_if_the_rows_are_gone_and_the_clock_went_back() {
        let mut rig = fixture::rig();
        let id = fixture::deferred_id(&one(&mut rig.engine, deferral("bob", 1)));
        let user = fixture::aor("bob");
        assert!(one(&mut rig.engine, Command::Settle { user, id, settlement: Settlement::Remove }).is_ok());
        let mut rig = rig.restart();
        let Command::Defer { mut message, quota } = deferral("bob", 2) else { unreachable!() };
        message.accepted = UnixMillis(5);
        assert!(fixture::deferred_id(&one(&mut rig.engine, Command::Defer { message, quota })) > id);
    }

    #[test]
    fn every_commit_reaches_the_disk() {
        let rig = fixture::rig();
        let pragma = |name: &str| {
            let value =
                rig.engine.connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
            value.unwrap()
        };
        assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
        assert_eq!(pragma("synchronous"), 2.into(), "FULL");
    }

    #[test]
    fn a_new_directory_and_the_database_are_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let rig = fixture::rig();
        for directory in ["data", "content"] {
            let mode = std::fs::metadata(rig.directory.path().join(directory)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{directory}");
        }
        // An operator's own directory may be open to all.
        let database = rig.directory.path().join("data").join(DATABASE_NAME);
        assert_eq!(std::fs::metadata(database).unwrap().permissions().mode() & 0o077, 0);
    }
}
