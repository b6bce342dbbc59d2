//! What is acknowledged is on disk: a child process that defers messages is killed, or runs out of room, and its store
//! is opened again. The child is this test binary, told by its environment to be one.

use super::fixture::{self, aor, deferral, options, sequence};
use super::{Answers, Store, StoreMetrics, mailbox};
use crate::base::id::{ShardId, Ticket};
use crate::participating::storage::{Answer, Command, Job, Reply, ReplyTo};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

struct Nobody;

impl Answers for Nobody {
    fn answer(&self, _: ShardId, _: Ticket, _: Answer) {
        unreachable!("the child asks by calls");
    }
}

#[test]
fn a_child_process_defers_messages_when_it_is_told_to() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let (store, _) = Store::open(options(&directory)).unwrap();
    let (mailbox, waker) = mailbox();
    let thread = store.start(mailbox.clone(), waker, Box::new(Nobody), Arc::<StoreMetrics>::default()).unwrap();
    let (answered, answers) = crossbeam::channel::bounded(IN_FLIGHT);
    for n in first..first + COUNT {
        if n >= first + IN_FLIGHT as u64 {
            answers.recv().unwrap();
        }
        let answered = answered.clone();
        let say = move |answer: Answer| {
            let mut out = std::io::stdout().lock();
            // The harness may have left a line unfinished.
            match answer {
                Ok(Reply::Deferred(id)) => writeln!(out, "\nacknowledged {n} {}", id.0).unwrap(),
                other => writeln!(out, "\nrefused {n} {other:?}").unwrap(),
            }
            out.flush().unwrap();
            answered.send(()).unwrap();
        };
        let command = deferral(USERS[(n % 3) as usize], n);
        assert!(mailbox.try_post(Job { command, reply: ReplyTo::Call(Box::new(say)) }).is_ok());
    }
    (0..IN_FLIGHT).for_each(|_| answers.recv().unwrap());
    thread.stop();
}

#[test]
fn every_acknowledged_message_survives_a_kill_and_nothing_appears_that_was_not_sent() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = HashMap::new();
    for round in 0..3 {
        let mut child = child(directory.path(), round * COUNT, "exec \"$0\" \"$@\"");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = acknowledged.len() + 1_000;
        while acknowledged.len() < enough {
            let line = lines.next().expect("the child goes on until it is killed").unwrap();
            acknowledged.extend(parse(&line, "acknowledged"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, it said. The last line may be half a line.
        let mut rest: Vec<_> = lines.map_while(Result::ok).collect();
        rest.pop();
        acknowledged.extend(rest.iter().filter_map(|line| parse(line, "acknowledged")));

        let found = read_back(directory.path());
        for (n, id) in &acknowledged {
            assert_eq!(found.get(n), Some(id), "message {n} was acknowledged");
        }
        let sent_at_most = acknowledged.len() + (round as usize + 1) * (IN_FLIGHT + 1);
        assert!(found.len() <= sent_at_most, "{} messages of at most {sent_at_most}", found.len());
    }
}

#[test]
fn a_store_whose_files_cannot_grow_refuses_and_keeps_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    // Writing beyond the limit is an error and no signal.
    let mut child = child(directory.path(), 0, "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"");
    let lines: Vec<_> = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    let acknowledged: HashMap<_, _> = lines.iter().filter_map(|line| parse(line, "acknowledged")).collect();
    let refused: HashSet<u64> =
        lines.iter().filter_map(|line| line.strip_prefix("refused ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(acknowledged.len() + refused.len(), COUNT as usize, "every message was answered once");
    assert!(!acknowledged.is_empty() && !refused.is_empty());
    let found = read_back(directory.path());
    assert_eq!(found, acknowledged, "what was refused is not there, everything else is");
}

/// The messages of a closed store, by what they say of themselves, in the order they were sent.
fn read_back(directory: &Path) -> HashMap<u64, u64> {
    let (mut store, _) = Store::open(options(directory)).unwrap();
    let mut found = HashMap::new();
    for user in USERS {
        let peek = Command::PeekDeferred { user: aor(user), limit: u16::MAX };
        let queue = fixture::queue(&mut store.engine, peek);
        let messages: Vec<_> = queue.into_iter().map(|message| (message.id.0, sequence(message))).collect();
        assert!(messages.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1), "first in, first out");
        for (id, n) in messages {
            assert_eq!(USERS[(n % 3) as usize], user);
            assert_eq!(found.insert(n, id), None, "message {n} is there once");
        }
    }
    found
}

fn parse(line: &str, word: &str) -> Option<(u64, u64)> {
    let (n, id) = line.strip_prefix(word)?.trim().split_once(' ')?;
    Some((n.parse().ok()?, id.parse().ok()?))
}

fn child(directory: &Path, first: u64, script: &str) -> Child {
    std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

const CHILD: &str = "store::durability::a_child_process_defers_messages_when_it_is_told_to";
const DIRECTORY: &str = "RINGPOST_TEST_STORE_DIRECTORY";
const FIRST: &str = "RINGPOST_TEST_STORE_FIRST";
const USERS: [&str; 3] = ["bob", "ann", "eve"];
const IN_FLIGHT: usize = 64;
/// Messages of one child, if it lives: enough that it does not end by itself before it is killed.
const COUNT: u64 = 8_000;
