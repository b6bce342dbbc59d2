//! Datagrams in batches: one system call moves up to [`BATCH`] of them.

use crate::wire::Peer;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

/// Datagrams of one system call.
const BATCH: usize = 128;
/// Longest datagram taken.
const DATAGRAM_LEN_MAX: usize = 9216;
/// Socket buffers: a burst must not be lost before the loop comes round.
const SOCKET_BUFFER_LEN: usize = 32 << 20;

/// A UDP socket with queues.
pub struct UdpSide {
    socket: Socket,
    addr: SocketAddr,
    /// Bytes of queued datagrams, one behind the other.
    arena: Vec<u8>,
    queued: Vec<(std::ops::Range<usize>, SockAddr)>,
    /// Queued datagrams that have left already.
    sent: usize,
    inbox: Box<Inbox>,
}

/// Where received datagrams land.
struct Inbox {
    buffers: Vec<[u8; DATAGRAM_LEN_MAX]>,
    names: Vec<libc::sockaddr_storage>,
}

impl UdpSide {
    /// A socket on this address.
    pub fn bind(at: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        for set in [Socket::set_recv_buffer_size, Socket::set_send_buffer_size] {
            // The kernel's own limit may be lower.
            let _ = set(&socket, SOCKET_BUFFER_LEN);
        }
        force_buffers(&socket);
        socket.bind(&at.into())?;
        socket.set_nonblocking(true)?;
        let addr = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        // SAFETY: sockaddr_storage is plain data, for which all zero bytes are a valid (unspecified) value.
        let name = unsafe { MaybeUninit::<libc::sockaddr_storage>::zeroed().assume_init() };
        let inbox = Inbox { buffers: vec![[0; DATAGRAM_LEN_MAX]; BATCH], names: vec![name; BATCH] };
        Ok(Self { socket, addr, arena: Vec::new(), queued: Vec::new(), sent: 0, inbox: Box::new(inbox) })
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Puts a datagram into the next batch.
    pub fn queue(&mut self, bytes: &[u8], to: SocketAddr) {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        self.queued.push((start..self.arena.len(), to.into()));
    }

    /// True when some have not left.
    pub fn has_queued(&self) -> bool {
        self.sent < self.queued.len()
    }

    /// Sends until everything has left or the socket is full.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.has_queued() {
            let batch = &self.queued[self.sent..self.queued.len().min(self.sent + BATCH)];
            let mut pieces: Vec<libc::iovec> = batch
                .iter()
                .map(|(range, _)| libc::iovec {
                    iov_base: self.arena[range.clone()].as_ptr().cast_mut().cast(),
                    iov_len: range.len(),
                })
                .collect();
            let mut headers: Vec<libc::mmsghdr> = batch
                .iter()
                .zip(&mut pieces)
                .map(|((_, to), piece)| {
                    // SAFETY: mmsghdr is plain data, for which all zero bytes are a valid (empty) value.
                    let mut header = unsafe { MaybeUninit::<libc::mmsghdr>::zeroed().assume_init() };
                    header.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
                    header.msg_hdr.msg_namelen = to.len();
                    header.msg_hdr.msg_iov = piece;
                    header.msg_hdr.msg_iovlen = 1;
                    header
                })
                .collect();
            // SAFETY: every header points at an iovec in `pieces` and an address in `self.queued`; those point into
            // `self.arena`. All of them outlive the call, and sendmmsg writes only to `msg_len`.
            let count = unsafe {
                libc::sendmmsg(
                    self.descriptor(),
                    headers.as_mut_ptr(),
                    headers.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if count < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return Ok(()),
                    // An ICMP error of an earlier datagram: the next call sends on.
                    io::ErrorKind::ConnectionRefused => continue,
                    _ => return Err(error),
                }
            }
            self.sent += count as usize;
        }
        self.arena.clear();
        self.queued.clear();
        self.sent = 0;
        Ok(())
    }

    /// Hands every datagram that has arrived to `take`.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8], Peer)) -> io::Result<usize> {
        let mut total = 0;
        loop {
            let inbox = &mut *self.inbox;
            let mut pieces: Vec<libc::iovec> = inbox
                .buffers
                .iter_mut()
                .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
                .collect();
            let mut headers: Vec<libc::mmsghdr> = inbox
                .names
                .iter_mut()
                .zip(&mut pieces)
                .map(|(name, piece)| {
                    // SAFETY: mmsghdr is plain data, for which all zero bytes are a valid (empty) value.
                    let mut header = unsafe { MaybeUninit::<libc::mmsghdr>::zeroed().assume_init() };
                    header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
                    header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                    header.msg_hdr.msg_iov = piece;
                    header.msg_hdr.msg_iovlen = 1;
                    header
                })
                .collect();
            // SAFETY: every header points at an iovec in `pieces` and a name in `inbox.names`; the iovecs point at
            // distinct buffers of `inbox.buffers` with their true lengths. All outlive the call; no time-out is given.
            let count = unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    headers.len() as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            if count < 0 {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(total),
                    io::ErrorKind::ConnectionRefused => continue,
                    _ => Err(error),
                };
            }
            for (index, header) in headers.iter().take(count as usize).enumerate() {
                let bytes = &inbox.buffers[index][..header.msg_len as usize];
                if let Some(from) = socket_addr(&inbox.names[index]) {
                    take(bytes, Peer::Addr(from));
                }
            }
            total += count as usize;
            if (count as usize) < BATCH {
                return Ok(total);
            }
        }
    }
}

/// Root may exceed the kernel's limit on socket buffers.
fn force_buffers(socket: &Socket) {
    let len = SOCKET_BUFFER_LEN as libc::c_int;
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        // SAFETY: the option takes an int, whose address and size are given; a refusal is only a return value.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                std::ptr::from_ref(&len).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            );
        }
    }
}

fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of the family it names, and sockaddr_storage is large and aligned
            // enough for a sockaddr_in.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = std::net::Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for a sockaddr_in6.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            Some(SocketAddr::from((std::net::Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port))))
        }
        _ => None,
    }
}
