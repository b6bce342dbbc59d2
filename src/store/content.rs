//! The content store: large parts as files named by their SHA-256, and bodies that refer to them.
//!
//! A stored body carries, where a large part was, what any MIME reader understands: `message/external-body` with
//! `access-type=URL` (RFC 2017 §3), around the part's own header lines (RFC 2046 §5.2.3). A [`Cut`] per part remembers
//! what was put in and taken out, so that the original comes back byte for byte.

use super::failure::Failure;
use super::mime;
use crate::participating::storage::{SPOOL_FILE_PREFIX, SpoolId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The lower-case hexadecimal SHA-256 of a file's bytes: its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Sha256Hex(Box<str>);

impl Sha256Hex {
    /// The name of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(bytes) {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Self(text.into())
    }

    /// A file name, if it is the name of content.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        let hex = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        hex.then(|| Self(name.into()))
    }

    /// The text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One large part that is not in the stored body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cut {
    /// Where the reference was put into the stored body, and its length.
    put_at: usize,
    put_len: usize,
    /// Where in the stored body the content was taken out, and its length.
    taken_at: usize,
    taken_len: usize,
    /// Whose file it is in.
    pub(super) sha256: Sha256Hex,
}

/// A body with its large parts in files of their own.
#[derive(Debug)]
pub(super) struct Shortened<'a> {
    /// What stands in the row.
    pub(super) stored: Vec<u8>,
    /// The media type of `stored` where it is not the object's.
    pub(super) stored_type: Option<String>,
    /// What was taken out, in order.
    pub(super) cuts: Vec<Cut>,
    /// The bytes of each cut.
    pub(super) contents: Vec<&'a [u8]>,
}

/// What stands in the row of a body that is a file as a whole.
#[derive(Debug)]
pub(super) struct Whole {
    /// The reference's content: the body's own header lines.
    pub(super) stored: Vec<u8>,
    /// The media type that refers to the file.
    pub(super) stored_type: String,
    /// What was taken out: everything.
    pub(super) cut: Cut,
}

/// Refers to a body that is a file already.
pub(super) fn whole(content_type: &str, sha256: Sha256Hex, len: usize) -> Whole {
    let stored = format!("Content-Type: {content_type}\r\nContent-ID: <{}@content.invalid>\r\n\r\n", sha256.as_str());
    let stored = stored.into_bytes();
    let stored_type = reference(&sha256, len);
    let cut = Cut { put_at: 0, put_len: stored.len(), taken_at: stored.len(), taken_len: len, sha256 };
    Whole { stored, stored_type, cut }
}

/// Takes parts larger than `threshold` out of a body; `None` if it has none and is no larger itself.
///
/// A body that is too large though none of its parts is, leaves as a whole.
pub(super) fn shorten<'a>(content_type: &str, body: &'a [u8], threshold: usize) -> Option<Shortened<'a>> {
    if body.len() <= threshold {
        return None; // No part is larger than the whole.
    }
    let mut parts = mime::leaves(content_type, body).unwrap_or_default();
    parts.retain(|part| part.content.len() > threshold);
    let taken: usize = parts.iter().map(|part| part.content.len()).sum();
    if parts.is_empty() || body.len() - taken > threshold {
        parts = vec![mime::Leaf { head: None, content: 0..body.len() }];
    }

    let mut short = Shortened { stored: Vec::new(), stored_type: None, cuts: Vec::new(), contents: Vec::new() };
    let mut copied = 0;
    for part in parts {
        let content = &body[part.content.clone()];
        let sha256 = Sha256Hex::of(content);
        let head = part.head.unwrap_or(0..0);
        short.stored.extend_from_slice(&body[copied..head.start]);
        let put_at = short.stored.len();
        let reference = reference(&sha256, content.len());
        let content_id = format!("Content-ID: <{}@content.invalid>\r\n", sha256.as_str());
        if head.is_empty() {
            short.stored.extend_from_slice(format!("Content-Type: {content_type}\r\n{content_id}\r\n").as_bytes());
            short.stored_type = Some(reference);
        } else {
            short.stored.extend_from_slice(format!("Content-Type: {reference}\r\n\r\n").as_bytes());
            // RFC 2046 §5.2.3 wants one in the header lines of the part that is elsewhere.
            if mime::field(&String::from_utf8_lossy(&body[head.clone()]), "content-id").is_none() {
                short.stored.extend_from_slice(content_id.as_bytes());
            }
        }
        let put_len = short.stored.len() - put_at;
        short.stored.extend_from_slice(&body[head]);
        short.cuts.push(Cut { put_at, put_len, taken_at: short.stored.len(), taken_len: content.len(), sha256 });
        short.contents.push(content);
        copied = part.content.end;
    }
    short.stored.extend_from_slice(&body[copied..]);
    Some(short)
}

/// The media type that refers to a file. RFC 2017 §3.
fn reference(sha256: &Sha256Hex, len: usize) -> String {
    format!("message/external-body; access-type=URL; URL=\"content:{}\"; size={len}", sha256.as_str())
}

/// The original body of a stored one.
pub(super) fn restore(
    stored: &[u8],
    cuts: &[Cut],
    mut read: impl FnMut(&Cut) -> Result<Vec<u8>, Failure>,
) -> Result<Vec<u8>, Failure> {
    let taken: usize = cuts.iter().map(|cut| cut.taken_len).sum();
    let mut body = Vec::with_capacity(stored.len() + taken);
    let mut copied = 0;
    for cut in cuts {
        let piece = |range: Range<usize>| stored.get(range).ok_or(Failure::Damaged("a cut outside its body"));
        body.extend_from_slice(piece(copied..cut.put_at)?);
        body.extend_from_slice(piece(cut.put_at + cut.put_len..cut.taken_at)?);
        body.extend_from_slice(&read(cut)?);
        copied = cut.taken_at;
    }
    body.extend_from_slice(stored.get(copied..).ok_or(Failure::Damaged("a cut outside its body"))?);
    Ok(body)
}

/// The files. Which of them are referred to, and how often, is the database's business.
#[derive(Debug)]
pub(super) struct ContentStore {
    directory: PathBuf,
    handle: File,
    /// Names may have appeared in the directory that a power cut would take away.
    unsynced: bool,
    /// Files whose references this transaction changed: looked at when it has ended.
    touched: HashSet<Sha256Hex>,
    /// Files of the spool that this transaction has given a second name.
    claimed: Vec<PathBuf>,
}

impl ContentStore {
    /// Opens the directory, and clears away files that no object refers to: a crash between file and commit leaves them.
    pub(super) fn open(directory: &Path, is_known: impl Fn(&Sha256Hex) -> bool) -> io::Result<Self> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let unfinished = name.starts_with(TEMPORARY_PREFIX) || name.starts_with(SPOOL_FILE_PREFIX);
            if unfinished || Sha256Hex::from_name(name).is_some_and(|sha256| !is_known(&sha256)) {
                fs::remove_file(entry.path())?;
            }
        }
        let handle = File::open(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            handle,
            unsynced: false,
            touched: HashSet::new(),
            claimed: Vec::new(),
        })
    }

    /// Makes sure the bytes are in their file. The name is durable after [`ContentStore::seal`].
    pub(super) fn put(&mut self, sha256: &Sha256Hex, bytes: &[u8]) -> io::Result<()> {
        self.touched.insert(sha256.clone());
        self.unsynced = true;
        let path = self.directory.join(sha256.as_str());
        if fs::metadata(&path).is_ok_and(|file| file.len() == bytes.len() as u64) {
            return Ok(());
        }
        let temporary = self.directory.join(format!("{TEMPORARY_PREFIX}{}", sha256.as_str()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, &path)
        })();
        if written.is_err() {
            // The first error is the one worth telling; what is left over goes at the next start.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Takes a finished file of the spool over. The name is durable after [`ContentStore::seal`].
    ///
    /// The file gets a second name and keeps its first one until the commit: what takes the transaction down, or another
    /// attempt at it, finds everything as it was.
    pub(super) fn claim(&mut self, spool: SpoolId, sha256: &Sha256Hex, len: u64) -> io::Result<()> {
        self.touched.insert(sha256.clone());
        self.unsynced = true;
        let spooled = self.directory.join(spool.file_name());
        let path = self.directory.join(sha256.as_str());
        if fs::metadata(&spooled)?.len() != len {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a spooled file is not as long as it was"));
        }
        match fs::hard_link(&spooled, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::metadata(&path)?.len() != len {
                    // Whatever stands there is not what its name says.
                    let temporary = self.directory.join(format!("{TEMPORARY_PREFIX}{}", sha256.as_str()));
                    fs::hard_link(&spooled, &temporary)?;
                    fs::rename(&temporary, &path)?;
                }
            }
            linked => linked?,
        }
        self.claimed.push(spooled);
        Ok(())
    }

    /// Reads a finished file of the spool that is small enough for a row. It goes with the commit.
    pub(super) fn absorb(&mut self, spool: SpoolId, sha256: &Sha256Hex) -> Result<Vec<u8>, Failure> {
        let spooled = self.directory.join(spool.file_name());
        let bytes = fs::read(&spooled)?;
        if Sha256Hex::of(&bytes) != *sha256 {
            return Err(Failure::Damaged("a spooled file is not what its hash says"));
        }
        self.claimed.push(spooled);
        Ok(bytes)
    }

    /// The transaction is durable: files that were taken over lose their first names.
    pub(super) fn committed(&mut self) {
        for spooled in self.claimed.drain(..) {
            match fs::remove_file(&spooled) {
                Ok(()) => {}
                // Two commands of one transaction took the same file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It costs a name until the next start, no more.
                Err(error) => tracing::warn!(%error, "content store: cannot remove the name of a spooled file"),
            }
        }
    }

    /// Files taken over in this transaction so far.
    pub(super) fn claimed_count(&self) -> usize {
        self.claimed.len()
    }

    /// Those taken over since came to nothing: they keep their first names.
    pub(super) fn undo_to(&mut self, claimed_count: usize) {
        self.claimed.truncate(claimed_count);
    }

    /// An object that referred to this file is going.
    pub(super) fn released(&mut self, sha256: Sha256Hex) {
        self.touched.insert(sha256);
    }

    /// Makes new names durable. Before the commit that refers to them.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.handle.sync_all()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Reads a file back, and makes sure it is what was written.
    pub(super) fn read(&self, cut: &Cut) -> Result<Vec<u8>, Failure> {
        let bytes = fs::read(self.directory.join(cut.sha256.as_str()))?;
        if bytes.len() != cut.taken_len || Sha256Hex::of(&bytes) != cut.sha256 {
            return Err(Failure::Damaged("a file of the content store is not what its name says"));
        }
        Ok(bytes)
    }

    /// After the transaction, however it ended: removes those of its files that nothing refers to.
    pub(super) fn clear_unreferenced(&mut self, is_referenced: impl Fn(&Sha256Hex) -> bool) {
        self.unsynced = false;
        for sha256 in self.touched.drain() {
            if is_referenced(&sha256) {
                continue;
            }
            match fs::remove_file(self.directory.join(sha256.as_str())) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It costs space until the next start, no more.
                Err(error) => tracing::warn!(%error, "content store: cannot remove an unreferenced file"),
            }
        }
    }
}

const TEMPORARY_PREFIX: &str = ".tmp-";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(content_type: &str, body: &[u8], threshold: usize) -> Shortened<'static> {
        let short = shorten(content_type, body, threshold).expect("the body is large");
        let mut contents = short.contents.iter();
        let restored = restore(&short.stored, &short.cuts, |cut| {
            let bytes = contents.next().expect("a content per cut");
            assert_eq!(Sha256Hex::of(bytes), cut.sha256);
            Ok(bytes.to_vec())
        });
        assert_eq!(restored.unwrap(), body);
        Shortened { contents: Vec::new(), ..short }
    }

    #[test]
    fn a_body_within_the_threshold_stays() {
        assert!(shorten("text/plain", b"12345678", 8).is_none());
    }

    #[test]
    fn a_large_plain_body_becomes_a_reference_around_its_media_type() {
        let short = round_trip("image/png", b"123456789", 8);
        let sha256 = Sha256Hex::of(b"123456789");
        let sha256 = sha256.as_str();
        assert_eq!(
            short.stored_type.as_deref(),
            Some(&*format!("message/external-body; access-type=URL; URL=\"content:{sha256}\"; size=9"))
        );
        let expected = format!("Content-Type: image/png\r\nContent-ID: <{sha256}@content.invalid>\r\n\r\n");
        assert_eq!(short.stored, expected.as_bytes());
    }

    #[test]
    fn a_large_part_inside_cpim_becomes_a_reference_around_its_header_lines() {
        let large = "x".repeat(300);
        let start = "From: <im:a@x>\r\n\r\n";
        let head = "Content-Type: text/plain\r\nContent-ID: <1@x>\r\n\r\n";
        let short = round_trip("message/cpim", format!("{start}{head}{large}").as_bytes(), 200);
        let sha256 = Sha256Hex::of(large.as_bytes());
        let reference = format!(
            "Content-Type: message/external-body; access-type=URL; URL=\"content:{}\"; size=300\r\n\r\n",
            sha256.as_str()
        );
        assert_eq!(short.stored_type, None, "the body is still CPIM");
        assert_eq!(short.stored, format!("{start}{reference}{head}").as_bytes());
    }

    #[test]
    fn only_the_large_parts_of_a_multipart_leave() {
        let large = "x".repeat(300);
        let body = format!("--b\r\n\r\nsmall\r\n--b\r\n\r\n{large}\r\n--b\r\nA: b\r\n\r\n{large}\r\n--b--\r\n");
        let short = round_trip("multipart/mixed; boundary=b", body.as_bytes(), 200);
        assert_eq!(short.cuts.len(), 2);
        assert_eq!(short.cuts[0].sha256, short.cuts[1].sha256, "the same bytes are one file");
        let stored = String::from_utf8(short.stored).unwrap();
        assert!(stored.contains("small") && !stored.contains(&large));
    }

    #[test]
    fn many_small_parts_that_are_large_together_leave_as_a_whole() {
        let body = "--b\r\n\r\nxxxxxxxxxxxxxxxx\r\n".repeat(20);
        let short = round_trip("multipart/mixed; boundary=b", body.as_bytes(), 200);
        assert_eq!(short.cuts.len(), 1);
        assert!(short.stored_type.is_some());
    }

    #[test]
    fn a_file_is_written_once_and_checked_when_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = ContentStore::open(directory.path(), |_| true).unwrap();
        let cut = shorten("a/b", b"hello", 1).unwrap().cuts.remove(0);
        store.put(&cut.sha256, b"hello").unwrap();
        store.put(&cut.sha256, b"hello").unwrap();
        store.seal().unwrap();
        assert_eq!(store.read(&cut).unwrap(), b"hello");
        fs::write(directory.path().join(cut.sha256.as_str()), b"hullo").unwrap();
        assert!(matches!(store.read(&cut), Err(Failure::Damaged(_))));
        store.clear_unreferenced(|_| false);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_start_clears_away_what_nothing_refers_to_and_leaves_strange_files_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (known, orphan) = (Sha256Hex::of(b"known"), Sha256Hex::of(b"orphan"));
        for name in [known.as_str(), orphan.as_str(), ".tmp-abc", "README"] {
            fs::write(directory.path().join(name), b"x").unwrap();
        }
        ContentStore::open(directory.path(), |sha256| *sha256 == known).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left.len(), 2);
        assert!(left.contains(&known.as_str().into()) && left.contains(&"README".into()));
    }

    proptest! {
        #[test]
        fn any_body_comes_back_byte_for_byte(
            body in "(--b|\r\n|\n|content-type: message/cpim\r\n|content-type: multipart/x;boundary=c\r\n|[x-z]{0,30}|--c){5,60}",
            threshold in 0usize..40,
        ) {
            for content_type in ["multipart/mixed; boundary=b", "message/cpim", "text/plain"] {
                if body.len() > threshold {
                    round_trip(content_type, body.as_bytes(), threshold);
                }
            }
        }
    }
}
