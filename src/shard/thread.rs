//! A shard's thread: pinned, with a ring of its own.

use super::core::Core;
use super::doors::Doors;
use super::event_loop::Shard;
use super::{ListenerSockets, MediaListener, clock};
use crate::base::id::ShardId;
use crate::base::limits::{DATAGRAM_SEND_COUNT_MAX, MSRP_CONNECTION_COUNT_MAX, SIP_MESSAGE_LEN_MAX, STREAM_COUNT_MAX};
use crate::base::time::Now;
use crate::metrics::counters::ShardMetrics;
use crate::participating::input::ControlMailbox;
use crate::participating::storage::{SpoolMailbox, StoreMailbox};
use crate::uring::buffers::BufferPlan;
use crate::uring::ring::{DATAGRAM_PREFIX_LEN, Ring, RingPlan};
use crate::uring::shared::SharedPlan;
use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// Everything a shard starts with.
pub struct Plan {
    /// Which one it is.
    pub shard: ShardId,
    /// The CPU to stay on; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// Its sockets, in the order of `sip.listen`.
    pub listeners: Vec<ListenerSockets>,
    /// Its MSRP sockets, in the order of `msrp.listen`.
    pub media_listeners: Vec<MediaListener>,
    /// The mailboxes of all shards.
    pub doors: Arc<Doors>,
    /// The durable store.
    pub store: Arc<StoreMailbox>,
    /// The files of large messages.
    pub spool: Arc<SpoolMailbox>,
    /// The control plane.
    pub control: Arc<ControlMailbox>,
    /// What it counts.
    pub metrics: Arc<ShardMetrics>,
}

/// A running shard.
pub struct ShardThread {
    shard: ShardId,
    doors: Arc<Doors>,
    handle: JoinHandle<()>,
}

/// Starts a shard. Its core is made on its thread, so that memory is near its CPU.
pub fn spawn<C: Core>(plan: Plan, make_core: impl FnOnce(Now) -> C + Send + 'static) -> io::Result<ShardThread> {
    let (shard, doors) = (plan.shard, plan.doors.clone());
    let (started, outcome) = mpsc::sync_channel(1);
    let handle = std::thread::Builder::new().name(format!("shard-{}", shard.0)).spawn(move || {
        let _guard = AbortOnPanic;
        if let Some(cpu) = plan.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
        {
            tracing::warn!(shard = plan.shard.0, cpu, "the shard's thread could not be pinned");
        }
        // The ring belongs to the thread that makes it.
        let ring = match Ring::new(RING) {
            Ok(ring) => ring,
            Err(error) => return drop(started.send(Err(error))),
        };
        let core = make_core(clock::now());
        let mut shard = Shard::new(plan, ring, core);
        let _ = started.send(Ok(()));
        drop(started);
        shard.run();
    })?;
    match outcome.recv() {
        Ok(Ok(())) => Ok(ShardThread { shard, doors, handle }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the shard's thread ended before it had started")),
    }
}

impl ShardThread {
    /// Which shard it is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Asks the shard to end: no new connections or datagrams; what others still answer and what is being sent leaves
    /// for a short while.
    pub fn ask_to_stop(&self) {
        self.doors.stop(self.shard);
    }

    /// Ends the shard and waits for it.
    pub fn stop(self) {
        self.ask_to_stop();
        self.join();
    }

    /// Waits until the shard has ended.
    pub fn join(self) {
        self.handle.join().expect("a panic on a shard's thread aborts the process");
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The message has been printed already.
            std::process::abort();
        }
    }
}

const RING: RingPlan = RingPlan {
    submission_count: 512,
    completion_count: 4096,
    datagrams: BufferPlan { count: 128, len: DATAGRAM_BUFFER_LEN, stride: odd_lines(DATAGRAM_BUFFER_LEN) },
    streams: BufferPlan { count: 128, len: STREAM_BUFFER_LEN, stride: odd_lines(STREAM_BUFFER_LEN) },
    media: [
        SharedPlan {
            buffers: BufferPlan { count: 64, len: MEDIA_BUFFER_LEN, stride: odd_lines(MEDIA_BUFFER_LEN) },
            offered_count: 16,
            incremental: true,
        },
        SharedPlan {
            buffers: BufferPlan { count: 256, len: STREAM_BUFFER_LEN * 2, stride: odd_lines(STREAM_BUFFER_LEN * 2) },
            offered_count: 128,
            incremental: false,
        },
    ],
    media_burst_len: 2 * MEDIA_BUFFER_LEN as u32,
    datagram_send_count_max: DATAGRAM_SEND_COUNT_MAX,
    stream_send_count_max: STREAM_COUNT_MAX + MSRP_CONNECTION_COUNT_MAX,
};

/// Any datagram fits; a small one touches only the first lines.
const DATAGRAM_BUFFER_LEN: usize = DATAGRAM_PREFIX_LEN + SIP_MESSAGE_LEN_MAX;
const STREAM_BUFFER_LEN: usize = 4096;
/// Many small receives fit, and one large one.
const MEDIA_BUFFER_LEN: usize = 64 * 1024;

/// The length rounded up to an odd number of cache lines: the starts of consecutive buffers visit every cache set.
const fn odd_lines(len: usize) -> usize {
    const LINE: usize = 64;
    (len.div_ceil(LINE) | 1) * LINE
}

const _: () = assert!(odd_lines(STREAM_BUFFER_LEN) == 65 * 64);
const _: () = assert!(!odd_lines(DATAGRAM_BUFFER_LEN).is_multiple_of(4096));
