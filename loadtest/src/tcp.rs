//! Streams: non-blocking, framed by Content-Length, one write for everything queued on a connection.

use crate::template::{content_len, head_len};
use crate::wire::Peer;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

/// Bytes read by one system call.
const READ_LEN: usize = 128 * 1024;

/// A set of connections, opened by this side or accepted.
pub struct TcpSide {
    addr: SocketAddr,
    listener: Option<TcpListener>,
    connections: Vec<Connection>,
    /// Connections that were opened at the start.
    first_count: usize,
    scratch: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    ingress: Vec<u8>,
    egress: Vec<u8>,
    is_open: bool,
    /// Whom this side has opened it to.
    opened_to: Option<SocketAddr>,
}

impl Connection {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, ingress: Vec::new(), egress: Vec::new(), is_open: true, opened_to: None })
    }

    fn open(to: SocketAddr) -> io::Result<Self> {
        Ok(Self { opened_to: Some(to), ..Self::new(TcpStream::connect(to)?)? })
    }
}

impl TcpSide {
    /// Accepts connections here.
    pub fn listen(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            addr: listener.local_addr()?,
            listener: Some(listener),
            connections: Vec::new(),
            first_count: 0,
            scratch: vec![0; READ_LEN],
        })
    }

    /// Opens connections to the target.
    pub fn connect(target: SocketAddr, count: u16) -> io::Result<Self> {
        let connections: Vec<Connection> = (0..count).map(|_| Connection::open(target)).collect::<io::Result<_>>()?;
        let first = connections.first().ok_or(ErrorKind::InvalidInput)?;
        Ok(Self {
            addr: first.stream.local_addr()?,
            listener: None,
            first_count: connections.len(),
            connections,
            scratch: vec![0; READ_LEN],
        })
    }

    /// The listening address, or that of the first connection.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections that were opened at the start, closed ones included.
    pub fn connection_count(&self) -> usize {
        self.first_count
    }

    /// A connection that was opened to this address; opened when there is none.
    pub fn connection_to(&mut self, addr: SocketAddr) -> io::Result<usize> {
        let known = |one: &Connection| one.is_open && one.opened_to == Some(addr);
        if let Some(index) = self.connections.iter().position(known) {
            return Ok(index);
        }
        self.connections.push(Connection::open(addr)?);
        Ok(self.connections.len() - 1)
    }

    /// Everything to poll.
    pub fn descriptors(&self, into: &mut Vec<(RawFd, bool)>) {
        into.extend(self.listener.iter().map(|listener| (listener.as_raw_fd(), false)));
        let open = self.connections.iter().filter(|connection| connection.is_open);
        into.extend(open.map(|connection| (connection.stream.as_raw_fd(), !connection.egress.is_empty())));
    }

    /// Puts a message behind what is queued on a connection.
    pub fn queue(&mut self, bytes: &[u8], index: usize) {
        if self.connections[index].is_open {
            self.connections[index].egress.extend_from_slice(bytes);
        }
    }

    /// True when some connection has more to send.
    pub fn has_queued(&self) -> bool {
        self.connections.iter().any(|connection| !connection.egress.is_empty())
    }

    /// Writes what each connection takes.
    pub fn flush(&mut self) -> io::Result<()> {
        for connection in self.connections.iter_mut().filter(|connection| !connection.egress.is_empty()) {
            let mut written = 0;
            while written < connection.egress.len() {
                match connection.stream.write(&connection.egress[written..]) {
                    Ok(len) => written += len,
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                    Err(_) => {
                        connection.is_open = false;
                        written = connection.egress.len();
                    }
                }
            }
            connection.egress.drain(..written);
        }
        Ok(())
    }

    /// Hands every complete message to `take`.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8], Peer)) -> io::Result<usize> {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => self.connections.push(Connection::new(stream)?),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let mut total = 0;
        for (index, connection) in self.connections.iter_mut().enumerate().filter(|(_, one)| one.is_open) {
            match connection.stream.read(&mut self.scratch) {
                Ok(0) => connection.is_open = false,
                Ok(len) => connection.ingress.extend_from_slice(&self.scratch[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
                Err(_) => connection.is_open = false,
            }
            let mut taken = 0;
            while let Some(message_len) = message_len(&connection.ingress[taken..]) {
                take(&connection.ingress[taken..taken + message_len], Peer::Connection(index));
                taken += message_len;
                total += 1;
            }
            connection.ingress.drain(..taken);
        }
        Ok(total)
    }
}

/// The length of the message at the start of a stream, once it is complete.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let head = head_len(bytes)?;
    let len = head + content_len(&bytes[..head])?;
    (bytes.len() >= len).then_some(len)
}
