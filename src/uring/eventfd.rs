//! An eventfd: how another thread wakes a ring that waits.

use crate::base::mailbox::Wake;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::sync::Arc;

/// A counter that the kernel lets one thread wait for and any thread raise.
#[derive(Clone)]
pub struct EventFd(Arc<File>);

impl EventFd {
    /// A counter at zero.
    pub fn new() -> io::Result<Self> {
        // SAFETY: `eventfd` takes no pointers; the descriptor it returns is ours alone.
        let file = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(fd)
        };
        Ok(Self(Arc::new(file)))
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Wake for EventFd {
    fn wake(&self) {
        // Fails only when the counter is about to overflow, and then the reader is as good as woken.
        let _ = (&*self.0).write(&1u64.to_ne_bytes());
    }
}
