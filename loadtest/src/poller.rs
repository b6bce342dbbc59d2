//! Readiness of many descriptors (epoll), level-triggered.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Descriptors of one turn.
const EVENTS_MAX: usize = 512;

/// An epoll instance.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The token it was added with.
    pub token: u64,
    /// Something can be read, or the peer is gone.
    pub read: bool,
    /// Something can be written.
    pub write: bool,
}

impl Poller {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes a flag and returns a new descriptor or an error.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just returned by the kernel and nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX] })
    }

    /// Watches a descriptor for reading.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, libc::EPOLLIN)
    }

    /// Watches it for writing, too, or no longer.
    pub fn watch_writing(&self, fd: RawFd, token: u64, writing: bool) -> io::Result<()> {
        let events = if writing { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        self.control(libc::EPOLL_CTL_MOD, fd, token, events)
    }

    /// The instance itself, which can be watched by another poll.
    pub fn descriptor(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: `event` lives through the call; the kernel checks both descriptors.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &mut event) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits at most so long; no time at all means not to sleep.
    pub fn wait(&mut self, longest: Duration, into: &mut Vec<Ready>) -> io::Result<()> {
        into.clear();
        // Rounding up: a wait of half a millisecond must not become a busy loop.
        let millis = longest.as_nanos().div_ceil(1_000_000).min(1_000) as i32;
        // SAFETY: `events` is a live array of as many entries as is said.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), self.events.len() as i32, millis)
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        let gone = libc::EPOLLHUP | libc::EPOLLERR | libc::EPOLLRDHUP;
        into.extend(self.events[..count as usize].iter().map(|event| Ready {
            token: event.u64,
            read: event.events & (libc::EPOLLIN | gone) as u32 != 0,
            write: event.events & libc::EPOLLOUT as u32 != 0,
        }));
        Ok(())
    }
}

/// Lets this process, and what it starts from here on, hold so many descriptors; returns how many it may hold, which is
/// less where the hard limit is lower and not ours to raise.
pub fn raise_descriptor_limit(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes to the one live structure that it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    let fallback = libc::rlimit { rlim_cur: wanted.min(limit.rlim_max), rlim_max: limit.rlim_max };
    for attempt in [raised, fallback] {
        // SAFETY: the call reads the one live structure that it is given.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &attempt) } == 0 {
            return Ok(attempt.rlim_cur);
        }
    }
    Err(io::Error::last_os_error())
}

/// The same where less will not do.
pub fn need_descriptors(wanted: u64) -> Result<(), String> {
    match raise_descriptor_limit(wanted) {
        Ok(limit) if limit >= wanted => Ok(()),
        Ok(limit) => Err(format!("{wanted} descriptors are needed, {limit} are allowed (ulimit -Hn)")),
        Err(error) => Err(format!("limit of descriptors: {error}")),
    }
}
