//! Replays the fuzz corpora, the project's torture messages and, where it is at hand, RFC 4475 through every target.

use ringpost::testing::fuzz::TARGETS;
use std::path::{Path, PathBuf};

#[test]
fn every_corpus_replays() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, target) in TARGETS {
        let files = files_of(&root.join("fuzz/corpus").join(name));
        assert!(!files.is_empty(), "the target {name} has a corpus");
        for file in files {
            replay(name, target, &file);
        }
    }
}

#[test]
fn torture_messages_break_no_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = files_of(&root.join("tests/torture"));
    assert!(files.len() > 50, "the project's torture messages are there");
    files.extend(files_of(&root.join("tests/torture/msrp")));
    let outside =
        ["../shared/torture/rfc4475", "../../shared/torture/rfc4475"].map(|folder| files_of(&root.join(folder)));
    let outside = outside.concat();
    if outside.is_empty() {
        eprintln!("SKIPPED: RFC 4475 messages are not beside the project");
    }
    files.extend(outside);
    for file in files {
        for (name, target) in TARGETS {
            replay(name, target, &file);
        }
    }
}

fn replay(name: &str, target: fn(&[u8]), file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let outcome = std::panic::catch_unwind(|| target(&bytes));
    assert!(outcome.is_ok(), "the target {name} fails on {}", file.display());
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}
