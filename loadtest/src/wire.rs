//! One face for datagrams and streams.

use crate::cli::Transport;
use crate::tcp::TcpSide;
use crate::udp::UdpSide;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::time::Duration;

/// Where a message came from, and where its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A datagram's address.
    Addr(SocketAddr),
    /// A connection of this side.
    Connection(usize),
}

/// One side of the generator: sender or core.
pub enum Side {
    /// Datagrams.
    Udp(UdpSide),
    /// Streams.
    Tcp(TcpSide),
}

impl Side {
    /// The core: listens here.
    pub fn listen(transport: Transport, at: SocketAddr) -> io::Result<Self> {
        Ok(match transport {
            Transport::Udp => Self::Udp(UdpSide::bind(at)?),
            Transport::Tcp => Self::Tcp(TcpSide::listen(at)?),
        })
    }

    /// The sender: talks to this address.
    pub fn connect(transport: Transport, target: SocketAddr, connections: u16) -> io::Result<Self> {
        Ok(match transport {
            Transport::Udp => Self::Udp(UdpSide::bind(SocketAddr::new(target.ip(), 0))?),
            Transport::Tcp => Self::Tcp(TcpSide::connect(target, connections)?),
        })
    }

    /// Its own address.
    pub fn addr(&self) -> SocketAddr {
        match self {
            Self::Udp(side) => side.addr(),
            Self::Tcp(side) => side.addr(),
        }
    }

    /// Puts a message into the next batch.
    pub fn queue(&mut self, bytes: &[u8], to: Peer) {
        match (self, to) {
            (Self::Udp(side), Peer::Addr(addr)) => side.queue(bytes, addr),
            (Self::Tcp(side), Peer::Connection(index)) => side.queue(bytes, index),
            _ => unreachable!("a side's peers are of its transport"),
        }
    }

    /// The peer for a sender's message number: the target, or one of the connections.
    pub fn peer_for(&self, number: u64, target: SocketAddr) -> Peer {
        match self {
            Self::Udp(_) => Peer::Addr(target),
            Self::Tcp(side) => Peer::Connection((number % side.connection_count().max(1) as u64) as usize),
        }
    }

    /// The peer at an address; over TCP the connection to it, opened when there is none.
    pub fn peer_at(&mut self, addr: SocketAddr) -> Option<Peer> {
        match self {
            Self::Udp(_) => Some(Peer::Addr(addr)),
            Self::Tcp(side) => side.connection_to(addr).ok().map(Peer::Connection),
        }
    }

    /// Sends what is queued, as far as the kernel takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Udp(side) => side.flush(),
            Self::Tcp(side) => side.flush(),
        }
    }

    /// True when the kernel has not taken everything.
    pub fn has_queued(&self) -> bool {
        match self {
            Self::Udp(side) => side.has_queued(),
            Self::Tcp(side) => side.has_queued(),
        }
    }

    /// Hands every message that has arrived to `take`; returns how many.
    pub fn receive(&mut self, take: impl FnMut(&[u8], Peer)) -> io::Result<usize> {
        match self {
            Self::Udp(side) => side.receive(take),
            Self::Tcp(side) => side.receive(take),
        }
    }

    /// The descriptors that become readable when something arrives, each with whether it waits to write.
    fn descriptors(&self, into: &mut Vec<(RawFd, bool)>) {
        match self {
            Self::Udp(side) => into.push((side.descriptor(), side.has_queued())),
            Self::Tcp(side) => side.descriptors(into),
        }
    }
}

/// Sleeps until something arrives at either side or the time is over.
pub fn wait(sides: [&Side; 2], longest: Duration) -> io::Result<()> {
    wait_also(sides, None, longest)
}

/// The same with one more descriptor.
pub fn wait_also(sides: [&Side; 2], more: Option<RawFd>, longest: Duration) -> io::Result<()> {
    let mut descriptors = Vec::with_capacity(8);
    descriptors.extend(more.map(|fd| (fd, false)));
    for side in sides {
        side.descriptors(&mut descriptors);
    }
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|(fd, writes)| libc::pollfd {
            fd: *fd,
            events: if *writes { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN },
            revents: 0,
        })
        .collect();
    let timeout = libc::timespec { tv_sec: longest.as_secs().min(1) as _, tv_nsec: longest.subsec_nanos() as _ };
    // SAFETY: `polled` is a live array of as many pollfd as its length says, `timeout` outlives the call, and a null
    // signal mask is allowed.
    let result = unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &timeout, std::ptr::null()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}
