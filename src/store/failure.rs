//! Why a command could not be executed, and the only place where that becomes a [`Fault`].

use crate::participating::storage::Fault;
use rusqlite::ErrorCode;
use std::fmt;
use std::io;

/// What went wrong, before anybody outside the room hears of it.
#[derive(Debug)]
pub(super) enum Failure {
    /// Decided before anything was written.
    Refused(Fault),
    /// The database.
    Sql(rusqlite::Error),
    /// A file of the content store.
    Io(io::Error),
    /// What was read back is not what was stored.
    Damaged(&'static str),
}

impl Failure {
    /// What the asker is told.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Refused(fault) => *fault,
            Self::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => Fault::DiskFull,
            Self::Io(error) if is_full(error) => Fault::DiskFull,
            Self::Sql(_) | Self::Io(_) | Self::Damaged(_) => Fault::Broken,
        }
    }

    /// False for refusals that are the store's ordinary business.
    pub(super) fn is_trouble(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(fault) => write!(f, "refused: {fault:?}"),
            // Only the code's text: the message of some errors quotes values, and those may be a subscriber's.
            Self::Sql(rusqlite::Error::SqliteFailure(error, _)) => write!(f, "database: {error}"),
            Self::Sql(error) => write!(f, "database: {error}"),
            Self::Io(error) => write!(f, "content store: {error}"),
            Self::Damaged(what) => write!(f, "damaged: {what}"),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
