//! The spool: large messages on their way into the content store, and out of it again.
//!
//! A file is written as its bytes arrive, under a name of its own, until it is whole, hashed and durable; then the store
//! takes it over in the commit that refers to it. Commands of one file are carried out in order, those of many files side
//! by side. The bytes in memory are those that the shards have under way: each of them keeps a window per message.

use super::plane::ControlSignal;
use crate::base::id::{ShardId, Ticket};
use crate::base::limits::{SPOOL_JOB_COUNT_MAX, SPOOL_OPERATION_COUNT_MAX, SPOOL_READ_LEN_MAX};
use crate::participating::input::{Input, Shards};
use crate::participating::storage::{
    ContentFile, Fault, SPOOL_HEAD_LEN, SpoolCommand, SpoolId, SpoolJob, SpoolMailbox, SpoolReply,
};
use bytes::Bytes;
use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio_uring::buf::BoundedBuf as _;
use tokio_uring::fs::{File, OpenOptions};

/// What the spool works with.
#[derive(Clone)]
pub struct Spool {
    /// Where shards post commands.
    pub mailbox: Arc<SpoolMailbox>,
    /// What that mailbox was made with, and nothing else: it wakes one reader.
    pub signal: ControlSignal,
    /// Who is answered.
    pub shards: Arc<dyn Shards>,
    /// The content store's directory.
    pub directory: PathBuf,
    /// With less free space than this many bytes no file is begun.
    pub disk_free_min: u64,
    /// Files written at the same time.
    pub file_count_max: usize,
}

impl Spool {
    /// Starts serving. Called once, inside a tokio-uring runtime; ends with it.
    ///
    /// What an earlier process left of its files is the store's to clear away, which has the directory's lock.
    pub fn start(self) {
        let service = Service {
            spool: self,
            lanes: RefCell::default(),
            job_count: Cell::new(0),
            file_count: Cell::new(0),
            job_ended: Notify::new(),
            operations: Semaphore::new(SPOOL_OPERATION_COUNT_MAX),
        };
        tokio_uring::spawn(Rc::new(service).take_jobs());
    }
}

struct Service {
    spool: Spool,
    /// Files with commands under way, or begun and not finished.
    lanes: RefCell<HashMap<SpoolId, UnboundedSender<SpoolJob>, RandomState>>,
    /// Commands taken and not answered: the bound of all lanes together.
    job_count: Cell<usize>,
    /// Files being written.
    file_count: Cell<usize>,
    job_ended: Notify,
    operations: Semaphore,
}

/// A file between its first command and its last.
enum Lane {
    /// There is none, or nothing more is written to it.
    Closed(Fault),
    Open(Box<Writing>),
}

struct Writing {
    file: File,
    hasher: Sha256,
    /// So many bytes from the start have been hashed while they were written.
    hashed_len: u64,
    /// Every byte came once and in order, so that the hash is the file's.
    in_order: bool,
    /// The end of the last byte written.
    end: u64,
}

impl Service {
    async fn take_jobs(self: Rc<Self>) {
        let mailbox = self.spool.mailbox.clone();
        loop {
            for _ in 0..JOBS_PER_YIELD {
                if self.job_count.get() >= SPOOL_JOB_COUNT_MAX {
                    break;
                }
                let Some(job) = mailbox.take() else { break };
                self.job_count.set(self.job_count.get() + 1);
                self.begin(job);
            }
            if self.job_count.get() >= SPOOL_JOB_COUNT_MAX {
                self.job_ended.notified().await;
            } else if mailbox.prepare_sleep() {
                self.spool.signal.0.notified().await;
                mailbox.awake();
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    fn begin(self: &Rc<Self>, job: SpoolJob) {
        let id = match job.command {
            SpoolCommand::Open(id) | SpoolCommand::Discard(id) => id,
            SpoolCommand::Write { spool, .. } | SpoolCommand::Finish { spool, .. } => spool,
            SpoolCommand::Read { sha256, offset, len } => {
                let service = self.clone();
                tokio_uring::spawn(async move {
                    let outcome = service.read(&sha256, offset, len).await;
                    let reply = outcome.map(SpoolReply::Bytes).map_err(fault_of);
                    service.answer(job.shard, job.ticket, reply).await;
                    service.end_job();
                });
                return;
            }
        };
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry(id).or_insert_with(|| {
            let (lane, jobs) = unbounded_channel();
            tokio_uring::spawn(self.clone().serve(id, jobs));
            lane
        });
        // A lane is taken out of the table before its task ends.
        debug_assert!(!lane.is_closed(), "a lane in the table is served");
        let _ = lane.send(job);
    }

    /// Carries out the commands of one file, in order.
    async fn serve(self: Rc<Self>, id: SpoolId, mut jobs: UnboundedReceiver<SpoolJob>) {
        let mut lane = Lane::Closed(Fault::Broken);
        let mut ahead = None;
        loop {
            let next = match ahead.take().or_else(|| jobs.try_recv().ok()) {
                Some(job) => Some(job),
                None if matches!(lane, Lane::Open(_)) => jobs.recv().await,
                None => None,
            };
            let Some(SpoolJob { shard, ticket, command }) = next else {
                // Nothing happens between the look at the queue and this: a command that comes later has a new lane.
                self.lanes.borrow_mut().remove(&id);
                return;
            };
            match command {
                SpoolCommand::Open(_) => {
                    if let Err(fault) = self.open(id, &mut lane).await {
                        self.answer(shard, ticket, Err(fault)).await;
                    }
                }
                SpoolCommand::Write { offset, bytes, .. } => {
                    let mut written = vec![(shard, ticket, bytes.len())];
                    let bytes = gather(offset, bytes, &mut jobs, &mut ahead, &mut written);
                    let outcome = self.write(&mut lane, offset, bytes).await;
                    for (shard, ticket, len) in written {
                        self.answer(shard, ticket, outcome.map(|()| SpoolReply::Written(len))).await;
                        self.end_job();
                    }
                    continue;
                }
                SpoolCommand::Finish { len, content_type, .. } => {
                    let reply = self.finish(id, &mut lane, len, content_type).await;
                    self.answer(shard, ticket, reply).await;
                }
                SpoolCommand::Discard(_) => self.discard(id, &mut lane).await,
                SpoolCommand::Read { .. } => debug_assert!(false, "reading takes no lane"),
            }
            self.end_job();
        }
    }

    async fn open(&self, id: SpoolId, lane: &mut Lane) -> Result<(), Fault> {
        if matches!(lane, Lane::Open(_)) {
            debug_assert!(false, "a file is begun once");
            return Err(Fault::Broken);
        }
        // Counted before the disk is asked: others may ask meanwhile.
        self.file_count.set(self.file_count.get() + 1);
        let opened = if self.file_count.get() > self.spool.file_count_max {
            Err(Fault::Busy)
        } else if self.space_is_low() {
            Err(Fault::DiskFull)
        } else {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            self.operate(options.open(self.path(id))).await.map_err(fault_of)
        };
        match opened {
            Ok(file) => {
                let writing = Writing { file, hasher: Sha256::new(), hashed_len: 0, in_order: true, end: 0 };
                *lane = Lane::Open(Box::new(writing));
                Ok(())
            }
            Err(fault) => {
                self.file_count.set(self.file_count.get() - 1);
                *lane = Lane::Closed(fault);
                Err(fault)
            }
        }
    }

    async fn write(&self, lane: &mut Lane, offset: u64, bytes: Bytes) -> Result<(), Fault> {
        let writing = match lane {
            Lane::Closed(fault) => return Err(*fault),
            Lane::Open(writing) => writing,
        };
        let (outcome, bytes) = self.operate(writing.file.write_all_at(bytes, offset)).await;
        match outcome {
            Ok(()) => {
                writing.note(offset, &bytes);
                Ok(())
            }
            Err(error) => Err(self.fail(lane, error).await),
        }
    }

    async fn finish(
        &self,
        id: SpoolId,
        lane: &mut Lane,
        len: u64,
        content_type: Box<str>,
    ) -> Result<SpoolReply, Fault> {
        let writing = match lane {
            Lane::Closed(fault) => return Err(*fault),
            Lane::Open(writing) => writing,
        };
        match self.seal(writing, len).await {
            Ok((sha256, head)) => {
                // What follows is the store's, or a Discard: neither needs the file open.
                self.close(lane, Fault::Broken).await;
                let file = ContentFile { spool: Some(id), sha256, len, content_type, ..ContentFile::default() };
                Ok(SpoolReply::Finished { file: Box::new(file), head })
            }
            Err(error) => Err(self.fail(lane, error).await),
        }
    }

    /// Makes a file durable and names it.
    async fn seal(&self, writing: &mut Writing, len: u64) -> io::Result<(Box<str>, Bytes)> {
        if writing.end != len {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is not as long as it said"));
        }
        self.operate(writing.file.sync_data()).await?;
        let head = self.read_piece(&writing.file, 0, SPOOL_HEAD_LEN).await?;
        let digest = if writing.in_order && writing.hashed_len == len {
            std::mem::take(&mut writing.hasher).finalize()
        } else {
            let mut hasher = Sha256::new();
            let mut at = 0;
            while at < len {
                let piece = self.read_piece(&writing.file, at, HASH_PIECE_LEN).await?;
                if piece.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                hasher.update(&piece);
                at += piece.len() as u64;
            }
            hasher.finalize()
        };
        let mut sha256 = String::with_capacity(64);
        for byte in digest {
            write!(sha256, "{byte:02x}").expect("writing to a String cannot fail");
        }
        Ok((sha256.into(), Bytes::from(head)))
    }

    async fn discard(&self, id: SpoolId, lane: &mut Lane) {
        self.close(lane, Fault::Broken).await;
        match self.operate(tokio_uring::fs::remove_file(self.path(id))).await {
            Ok(()) => {}
            // It was never begun, or the store has taken it over.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It costs space until the next start, no more.
            Err(error) => tracing::warn!(%error, "spool: cannot remove a discarded file"),
        }
    }

    async fn read(&self, sha256: &str, offset: u64, len: u32) -> io::Result<Bytes> {
        let is_name = sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let len = len as usize;
        if !is_name || len > SPOOL_READ_LEN_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = self.operate(File::open(self.spool.directory.join(sha256))).await?;
        let piece = self.read_piece(&file, offset, len).await;
        file.close().await?;
        piece.map(Bytes::from)
    }

    /// Reads up to `len` bytes; less comes only at the end of the file.
    async fn read_piece(&self, file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut piece = Vec::with_capacity(len);
        while piece.len() < len {
            let start = piece.len();
            let (outcome, slice) = self.operate(file.read_at(piece.slice(start..len), offset + start as u64)).await;
            piece = slice.into_inner();
            if outcome? == 0 {
                break;
            }
        }
        Ok(piece)
    }

    /// Notes that a file cannot be gone on with. It stays until it is discarded.
    async fn fail(&self, lane: &mut Lane, error: io::Error) -> Fault {
        tracing::warn!(%error, "spool: a large message cannot be written");
        let fault = fault_of(error);
        self.close(lane, fault).await;
        fault
    }

    async fn close(&self, lane: &mut Lane, after: Fault) {
        if let Lane::Open(writing) = std::mem::replace(lane, Lane::Closed(after)) {
            self.file_count.set(self.file_count.get() - 1);
            if let Err(error) = writing.file.close().await {
                tracing::warn!(%error, "spool: a file could not be closed");
            }
        }
    }

    /// Waits for a disk operation, and before it for room among those under way.
    async fn operate<T>(&self, operation: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let _room = self.operations.acquire().await;
        operation.await
    }

    fn path(&self, id: SpoolId) -> PathBuf {
        self.spool.directory.join(id.file_name())
    }

    fn space_is_low(&self) -> bool {
        match rustix::fs::statvfs(&self.spool.directory) {
            Ok(disk) => disk.f_bavail.saturating_mul(disk.f_frsize) < self.spool.disk_free_min,
            // Whatever is wrong shows when something is written.
            Err(_) => false,
        }
    }

    /// Answers a shard, later if its mailbox is full; what concerns other files goes on meanwhile.
    async fn answer(&self, shard: ShardId, ticket: Ticket, answer: Result<SpoolReply, Fault>) {
        let mut input = Input::Spool { ticket, answer };
        while let Err(back) = self.spool.shards.try_post(shard, input) {
            input = back;
            tokio::time::sleep(ROOM_WAIT).await;
        }
    }

    fn end_job(&self) {
        let before = self.job_count.get();
        debug_assert!(before > 0, "a job ends once");
        self.job_count.set(before - 1);
        if before >= SPOOL_JOB_COUNT_MAX {
            self.job_ended.notify_one();
        }
    }
}

impl Writing {
    /// Follows what was written.
    fn note(&mut self, offset: u64, bytes: &[u8]) {
        if self.in_order && offset == self.hashed_len {
            self.hasher.update(bytes);
            self.hashed_len += bytes.len() as u64;
        } else {
            self.in_order = false;
        }
        self.end = self.end.max(offset + bytes.len() as u64);
    }
}

/// Puts small pieces that wait behind one another together, so that small chunks do not cost a disk operation each.
fn gather(
    offset: u64,
    first: Bytes,
    jobs: &mut UnboundedReceiver<SpoolJob>,
    ahead: &mut Option<SpoolJob>,
    written: &mut Vec<(ShardId, Ticket, usize)>,
) -> Bytes {
    debug_assert!(ahead.is_none(), "the command taken ahead comes first");
    let mut gathered = Vec::new();
    let mut len = first.len();
    while len < GATHER_LEN_MAX && first.len() < GATHER_PIECE_LEN_MAX {
        match jobs.try_recv() {
            Ok(SpoolJob { shard, ticket, command: SpoolCommand::Write { offset: next, bytes, .. } })
                if next == offset + len as u64 && bytes.len() < GATHER_PIECE_LEN_MAX =>
            {
                if gathered.is_empty() {
                    gathered.extend_from_slice(&first);
                }
                gathered.extend_from_slice(&bytes);
                len += bytes.len();
                written.push((shard, ticket, bytes.len()));
            }
            Ok(other) => {
                *ahead = Some(other);
                break;
            }
            Err(_) => break,
        }
    }
    if gathered.is_empty() { first } else { Bytes::from(gathered) }
}

/// The only place where a failure of the disk becomes a [`Fault`].
fn fault_of(error: io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Fault::DiskFull,
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => Fault::Busy,
        _ => Fault::Broken,
    }
}

/// Commands taken before others on the thread get their turn.
const JOBS_PER_YIELD: usize = 64;
/// How long an answer waits for room in a shard's mailbox before it is tried again.
const ROOM_WAIT: Duration = Duration::from_millis(1);
/// How much of a file is read at once to be hashed.
const HASH_PIECE_LEN: usize = 256 * 1024;
/// Pieces shorter than this are put together.
const GATHER_PIECE_LEN_MAX: usize = 16 * 1024;
/// Bytes put together at once.
const GATHER_LEN_MAX: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::SPOOL_MAILBOX_LEN;
    use crate::base::mailbox::Mailbox;
    use std::collections::VecDeque;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Mutex;

    /// Two shards with room for a given number of inputs each.
    struct Shelf {
        room: Mutex<[usize; 2]>,
        told: Mutex<VecDeque<(u64, Result<SpoolReply, Fault>)>>,
    }

    impl Shards for Shelf {
        fn count(&self) -> u16 {
            2
        }

        fn try_post(&self, to: ShardId, input: Input) -> Result<(), Input> {
            let mut room = self.room.lock().unwrap();
            let room = &mut room[to.index()];
            if *room == 0 {
                return Err(input);
            }
            *room -= 1;
            match input {
                Input::Spool { ticket, answer } => self.told.lock().unwrap().push_back((ticket.0, answer)),
                other => panic!("unexpected {other:?}"),
            }
            Ok(())
        }
    }

    struct Bench {
        directory: tempfile::TempDir,
        spool: Spool,
        shelf: Arc<Shelf>,
        next: Cell<u64>,
    }

    const ID: SpoolId = SpoolId(7);
    const FILES: usize = 4;

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let shelf = Arc::new(Shelf { room: Mutex::new([usize::MAX; 2]), told: Mutex::default() });
            let signal = ControlSignal::default();
            let spool = Spool {
                mailbox: Arc::new(Mailbox::new(SPOOL_MAILBOX_LEN, Box::new(signal.clone()))),
                signal,
                shards: shelf.clone(),
                directory: directory.path().to_owned(),
                disk_free_min: 0,
                file_count_max: FILES,
            };
            Self { directory, spool, shelf, next: Cell::new(0) }
        }

        fn run<F: Future>(&self, test: impl FnOnce() -> F) -> F::Output {
            tokio_uring::start(async {
                self.spool.clone().start();
                tokio::time::timeout(Duration::from_secs(60), test()).await.expect("the test ends in time")
            })
        }

        fn post_from(&self, shard: u16, command: SpoolCommand) -> u64 {
            self.next.set(self.next.get() + 1);
            let job = SpoolJob { shard: ShardId(shard), ticket: Ticket(self.next.get()), command };
            self.spool.mailbox.try_post(job).unwrap();
            self.next.get()
        }

        fn post(&self, command: SpoolCommand) -> u64 {
            self.post_from(0, command)
        }

        async fn next_answer(&self) -> (u64, Result<SpoolReply, Fault>) {
            loop {
                if let Some(told) = self.shelf.told.lock().unwrap().pop_front() {
                    return told;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }

        async fn ask(&self, command: SpoolCommand) -> Result<SpoolReply, Fault> {
            let ticket = self.post(command);
            let (answered, answer) = self.next_answer().await;
            assert_eq!(answered, ticket, "answers come in order");
            answer
        }

        fn names(&self) -> Vec<String> {
            let names = std::fs::read_dir(self.directory.path()).unwrap();
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }

        /// Waits until there are so many files.
        async fn until(&self, count: usize) {
            while self.names().len() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    fn write(spool: SpoolId, offset: u64, bytes: &[u8]) -> SpoolCommand {
        SpoolCommand::Write { spool, offset, bytes: Bytes::copy_from_slice(bytes) }
    }

    fn finish(spool: SpoolId, len: u64) -> SpoolCommand {
        SpoolCommand::Finish { spool, len, content_type: "message/cpim".into() }
    }

    fn hash(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 % 251) as u8).collect()
    }

    fn finished(answer: Result<SpoolReply, Fault>) -> (ContentFile, Bytes) {
        match answer {
            Ok(SpoolReply::Finished { file, head }) => (*file, head),
            other => panic!("not finished: {other:?}"),
        }
    }

    #[test]
    fn a_message_in_order_becomes_a_durable_file_named_by_its_hash() {
        let bench = Bench::new();
        bench.run(|| async {
            let whole = pattern(300_000);
            bench.post(SpoolCommand::Open(ID));
            for (at, piece) in whole.chunks(10_000).enumerate() {
                let answer = bench.ask(write(ID, at as u64 * 10_000, piece)).await;
                assert_eq!(answer, Ok(SpoolReply::Written(piece.len())));
            }
            let (file, head) = finished(bench.ask(finish(ID, whole.len() as u64)).await);
            assert_eq!((&*file.sha256, file.len, file.spool), (&*hash(&whole), whole.len() as u64, Some(ID)));
            assert_eq!(&*file.content_type, "message/cpim");
            assert_eq!(head, whole[..SPOOL_HEAD_LEN]);
            let path = bench.directory.path().join(ID.file_name());
            assert_eq!(std::fs::read(&path).unwrap(), whole);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        });
    }

    #[test]
    fn small_pieces_that_wait_are_written_together_and_answered_one_by_one() {
        let bench = Bench::new();
        bench.run(|| async {
            let whole = pattern(5_000);
            bench.post(SpoolCommand::Open(ID));
            let tickets: Vec<u64> = whole
                .chunks(100)
                .enumerate()
                .map(|(at, piece)| bench.post(write(ID, at as u64 * 100, piece)))
                .collect();
            let last = bench.post(finish(ID, 5_000));
            for ticket in tickets {
                assert_eq!(bench.next_answer().await, (ticket, Ok(SpoolReply::Written(100))));
            }
            let (ticket, answer) = bench.next_answer().await;
            assert_eq!((ticket, &*finished(answer).0.sha256), (last, &*hash(&whole)));
        });
    }

    #[test]
    fn pieces_out_of_order_and_over_one_another_are_hashed_as_the_file_stands() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.post(SpoolCommand::Open(ID));
            for (offset, bytes) in [(4, &b"efgh"[..]), (0, b"abcd"), (2, b"XY"), (8, b"i")] {
                assert!(bench.ask(write(ID, offset, bytes)).await.is_ok());
            }
            let (file, head) = finished(bench.ask(finish(ID, 9)).await);
            assert_eq!(head, "abXYefghi", "the last writer of a byte wins");
            assert_eq!(&*file.sha256, hash(b"abXYefghi"));
            // An empty message is a message.
            bench.post(SpoolCommand::Open(SpoolId(8)));
            let (file, head) = finished(bench.ask(finish(SpoolId(8), 0)).await);
            assert_eq!((&*file.sha256, head.len()), (&*hash(b""), 0));
        });
    }

    #[test]
    fn a_message_of_another_length_than_it_said_is_refused() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.post(SpoolCommand::Open(ID));
            assert!(bench.ask(write(ID, 0, b"abc")).await.is_ok());
            assert_eq!(bench.ask(finish(ID, 4)).await, Err(Fault::Broken));
            assert_eq!(bench.ask(write(ID, 3, b"d")).await, Err(Fault::Broken), "it cannot be gone on with");
            bench.post(SpoolCommand::Discard(ID));
            bench.until(0).await;
        });
    }

    #[test]
    fn a_discarded_file_is_gone_finished_or_not() {
        let bench = Bench::new();
        bench.run(|| async {
            for (id, finishes) in [(ID, false), (SpoolId(8), true)] {
                bench.post(SpoolCommand::Open(id));
                assert!(bench.ask(write(id, 0, b"abc")).await.is_ok());
                if finishes {
                    finished(bench.ask(finish(id, 3)).await);
                }
                assert_eq!(bench.names(), [id.file_name()]);
                bench.post(SpoolCommand::Discard(id));
                bench.until(0).await;
            }
            bench.post(SpoolCommand::Discard(SpoolId(99)));
            assert_eq!(bench.ask(write(SpoolId(99), 0, b"a")).await, Err(Fault::Broken), "it was never begun");
        });
    }

    #[test]
    fn a_file_of_the_content_store_is_read_in_pieces_to_its_end() {
        let bench = Bench::new();
        bench.run(|| async {
            let whole = pattern(10_000);
            let name = hash(&whole);
            std::fs::write(bench.directory.path().join(&name), &whole).unwrap();
            let read = |offset, len| SpoolCommand::Read { sha256: name.as_str().into(), offset, len };
            assert_eq!(bench.ask(read(0, 4_096)).await, Ok(SpoolReply::Bytes(Bytes::copy_from_slice(&whole[..4_096]))));
            assert_eq!(
                bench.ask(read(8_192, 4_096)).await,
                Ok(SpoolReply::Bytes(Bytes::copy_from_slice(&whole[8_192..])))
            );
            assert_eq!(bench.ask(read(10_000, 1)).await, Ok(SpoolReply::Bytes(Bytes::new())));
            for name in [hash(b"nobody"), "../passwd".to_owned()] {
                let read = SpoolCommand::Read { sha256: name.into(), offset: 0, len: 1 };
                assert_eq!(bench.ask(read).await, Err(Fault::Broken));
            }
        });
    }

    #[test]
    fn nothing_is_begun_on_a_full_disk_or_beyond_the_bound_of_files() {
        let mut bench = Bench::new();
        bench.run(|| async {
            for id in 0..FILES as u64 {
                bench.post(SpoolCommand::Open(SpoolId(id)));
            }
            assert_eq!(bench.ask(SpoolCommand::Open(SpoolId(99))).await, Err(Fault::Busy));
            bench.until(FILES).await;
            bench.post(SpoolCommand::Discard(SpoolId(3)));
            bench.until(FILES - 1).await;
            bench.post(SpoolCommand::Open(SpoolId(99)));
            assert_eq!(bench.ask(write(SpoolId(99), 0, b"a")).await, Ok(SpoolReply::Written(1)));
        });
        bench = Bench::new();
        bench.spool.disk_free_min = u64::MAX;
        bench.run(|| async {
            assert_eq!(bench.ask(SpoolCommand::Open(ID)).await, Err(Fault::DiskFull));
        });
        assert!(bench.names().is_empty());
    }

    #[test]
    fn a_shard_that_is_behind_holds_up_neither_the_other_nor_its_own_answers_order() {
        let bench = Bench::new();
        bench.shelf.room.lock().unwrap()[0] = 0;
        bench.run(|| async {
            bench.post(SpoolCommand::Open(ID));
            let slow: Vec<u64> = (0..3).map(|at| bench.post(write(ID, at, b"a"))).collect();
            bench.post_from(1, SpoolCommand::Open(SpoolId(8)));
            let other = bench.post_from(1, write(SpoolId(8), 0, b"abc"));
            assert_eq!(bench.next_answer().await, (other, Ok(SpoolReply::Written(3))));
            bench.shelf.room.lock().unwrap()[0] = usize::MAX;
            for ticket in slow {
                assert_eq!(bench.next_answer().await, (ticket, Ok(SpoolReply::Written(1))));
            }
        });
    }
}
