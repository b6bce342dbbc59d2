//! The spool and the content store as a model: files in memory.

use bytes::Bytes;
use ringpost::participating::storage::{ContentFile, Fault, SPOOL_HEAD_LEN, SpoolCommand, SpoolId, SpoolReply};
use std::collections::{BTreeMap, HashMap};

/// All files.
#[derive(Default)]
pub struct SpoolModel {
    /// Files that nobody has taken over.
    pub files: HashMap<SpoolId, Vec<u8>>,
    /// Files of the content store, by their names.
    pub content: BTreeMap<Box<str>, Vec<u8>>,
}

impl SpoolModel {
    /// Carries a command out; `None` when there is no answer.
    pub fn execute(&mut self, command: SpoolCommand) -> Option<Result<SpoolReply, Fault>> {
        match command {
            SpoolCommand::Open(id) => {
                let known = self.files.insert(id, Vec::new());
                assert!(known.is_none(), "{id:?} is opened twice");
                None
            }
            SpoolCommand::Write { spool, offset, bytes } => {
                let Some(file) = self.files.get_mut(&spool) else { return Some(Err(Fault::Broken)) };
                let end = offset as usize + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[offset as usize..end].copy_from_slice(&bytes);
                Some(Ok(SpoolReply::Written(bytes.len())))
            }
            SpoolCommand::Finish { spool, len, content_type } => {
                let Some(file) = self.files.get(&spool).filter(|file| file.len() as u64 == len) else {
                    return Some(Err(Fault::Broken));
                };
                let head = Bytes::copy_from_slice(&file[..file.len().min(SPOOL_HEAD_LEN)]);
                let file =
                    ContentFile { spool: Some(spool), sha256: name(file), len, content_type, ..ContentFile::default() };
                Some(Ok(SpoolReply::Finished { file: Box::new(file), head }))
            }
            SpoolCommand::Discard(id) => {
                self.files.remove(&id);
                None
            }
            SpoolCommand::Read { sha256, offset, len } => Some(match self.content.get(&sha256) {
                Some(file) => {
                    let start = (offset as usize).min(file.len());
                    let end = (start + len as usize).min(file.len());
                    Ok(SpoolReply::Bytes(Bytes::copy_from_slice(&file[start..end])))
                }
                None => Err(Fault::Broken),
            }),
        }
    }

    /// The store takes a finished file over.
    pub fn take_over(&mut self, file: &ContentFile) -> &[u8] {
        let id = file.spool.expect("a new file comes from the spool");
        let bytes = self.files.remove(&id).expect("the file is there");
        assert_eq!((name(&bytes), bytes.len() as u64), (file.sha256.clone(), file.len), "as it was finished");
        self.content.entry(file.sha256.clone()).or_insert(bytes)
    }
}

/// Stands for a SHA-256.
fn name(bytes: &[u8]) -> Box<str> {
    let mut text = String::new();
    for salt in 0..4u64 {
        let hash = bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325 ^ salt, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        text.push_str(&format!("{hash:016x}"));
    }
    text.into()
}
