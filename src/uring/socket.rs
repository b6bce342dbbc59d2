//! Listening sockets: one set per shard, and the program that spreads datagrams over the shards; sockets that connect.

use crate::base::id::ShardId;
use crate::base::limits::SHARD_COUNT_MAX;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

/// The sockets of one shard for one address of `sip.listen`.
#[derive(Debug)]
pub struct ListenerSockets {
    /// The address all shards share.
    pub well_known: SocketAddr,
    /// The shard's own address.
    pub own: SocketAddr,
    /// This shard's share of the well-known UDP port.
    pub udp_well_known: UdpSocket,
    /// The shard's own UDP port.
    pub udp_own: UdpSocket,
    /// This shard's share of the well-known TCP port.
    pub tcp_well_known: TcpListener,
    /// The shard's own TCP port.
    pub tcp_own: TcpListener,
    /// The own sockets are those of an earlier listener with the same IP address, which also receives from them.
    pub own_is_shared: bool,
}

/// The MSRP socket of one shard for one address of `msrp.listen`.
#[derive(Debug)]
pub struct MediaListener {
    /// Where it listens, with its real port.
    pub addr: SocketAddr,
    /// Connections taken from it have their options from here.
    pub socket: TcpListener,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// What was tried there.
    pub transport: &'static str,
    /// The kernel's answer.
    pub error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = self.error.to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default();
        let transport = if self.transport == "udp" { "" } else { " over TCP" };
        write!(f, "{}{transport}: {reason}", self.addr)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Binds every listening socket of every shard.
///
/// Port 0 leaves a well-known port to the kernel; UDP and TCP get the same number. Shard *n* also owns port
/// `shard_port + n` on each IP address, or one of the kernel's choice when `shard_port` is 0.
pub fn bind(listen: &[SocketAddr], shard_port: u16, shard_count: u16) -> Result<Vec<Vec<ListenerSockets>>, BindError> {
    assert!(shard_count > 0 && usize::from(shard_count) <= SHARD_COUNT_MAX, "the configuration bounds the shards");
    assert!(listen.len() <= usize::from(u8::MAX), "the configuration bounds the listeners");
    raise_file_limit();
    let mut shards: Vec<Vec<ListenerSockets>> = (0..shard_count).map(|_| Vec::new()).collect();
    for &addr in listen {
        let well_known = bind_well_known(addr, shard_count)?;
        for (index, (sockets, (well_known, udp_well_known, tcp_well_known))) in
            shards.iter_mut().zip(well_known).enumerate()
        {
            let own = match sockets.iter().find(|earlier| earlier.own.ip() == addr.ip()) {
                Some(earlier) => clone_own(earlier)?,
                None => bind_own(addr, shard_port, ShardId(index as u16))?,
            };
            let own_is_shared = sockets.iter().any(|earlier| earlier.own == own.0);
            sockets.push(ListenerSockets {
                well_known,
                own: own.0,
                udp_well_known,
                udp_own: own.1,
                tcp_well_known,
                tcp_own: own.2,
                own_is_shared,
            });
        }
    }
    Ok(shards)
}

/// Binds every MSRP socket of every shard: shard *n* listens on port + *n* of each address, or on one of the kernel's
/// choice where the port is 0.
pub fn bind_media(listen: &[SocketAddr], shard_count: u16) -> Result<Vec<Vec<MediaListener>>, BindError> {
    assert!(shard_count > 0 && usize::from(shard_count) <= SHARD_COUNT_MAX, "the configuration bounds the shards");
    assert!(listen.len() <= usize::from(u8::MAX), "the configuration bounds the listeners");
    (0..shard_count).map(|shard| listen.iter().map(|first| bind_media_one(*first, shard)).collect()).collect()
}

fn bind_media_one(first: SocketAddr, shard: u16) -> Result<MediaListener, BindError> {
    let port = if first.port() == 0 { Some(0) } else { first.port().checked_add(shard) };
    let Some(port) = port else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "the port leaves no room for all shards");
        return Err(BindError { addr: first, transport: "tcp", error });
    };
    let wanted = SocketAddr::new(first.ip(), port);
    let mut attempt = 0;
    loop {
        let bound = tcp(wanted, Sharing::Alone).and_then(|socket| {
            let fault = |error| BindError { addr: wanted, transport: "tcp", error };
            keep_alive(&socket).map_err(fault)?;
            Ok(MediaListener { addr: socket.local_addr().map_err(fault)?, socket })
        });
        match bound {
            Err(error) if error.is_predecessors(wanted, &mut attempt) => {}
            other => return other,
        }
    }
}

/// Has the kernel find out whether a silent peer is still there. Connections inherit it from their listener.
pub fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE_TIME))
}

/// How many bytes the peer of a TCP connection has acknowledged so far; `None` when the kernel does not say.
pub fn acknowledged_len(socket: impl AsFd) -> Option<u64> {
    // SAFETY: `tcp_info` holds integers only, for which all bits zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the structure, and says in `len` how many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    let known = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();
    (result == 0 && len as usize >= known).then_some(info.tcpi_bytes_acked)
}

/// A socket for an outgoing connection from a listener's interface.
pub fn outgoing_stream(local: SocketAddr, peer: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if !local.ip().is_unspecified() && local.is_ipv4() == peer.is_ipv4() {
        // The port is chosen at connect time, per peer: otherwise each connection would take one from all peers.
        // Best effort: without it there are only fewer connections.
        let _ = set_option(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1i32);
        socket.bind(&SockAddr::from(SocketAddr::new(local.ip(), 0)))?;
    }
    Ok(socket)
}

type Pair = (SocketAddr, UdpSocket, TcpListener);

fn bind_well_known(addr: SocketAddr, shard_count: u16) -> Result<Vec<Pair>, BindError> {
    let mut attempt = 0;
    let pairs = loop {
        match bind_group(addr, shard_count) {
            // The kernel chose a number for UDP that something else has for TCP.
            Err(error) if addr.port() == 0 && attempt < PORT_ATTEMPTS && error.in_use() => attempt += 1,
            Err(error) if error.is_predecessors(addr, &mut attempt) => {}
            other => break other?,
        }
    };
    if shard_count > 1
        && let Err(error) = spread(&pairs[0].1, shard_count)
    {
        tracing::warn!(
            addr = %pairs[0].0,
            %error,
            "datagrams are spread by source address and port only: a single peer may load one shard"
        );
    }
    Ok(pairs)
}

fn bind_group(addr: SocketAddr, shard_count: u16) -> Result<Vec<Pair>, BindError> {
    // Sharing a port is meant for our own shards. Another process that shares too must not go unnoticed, and the kernel
    // must not choose its port: to a socket that shares, it gives one that others of the same user share already.
    let alone = udp(addr, Sharing::Alone)?;
    let mut addr = local_addr(&alone, addr)?;
    drop((alone, tcp(addr, Sharing::Alone)?));
    let mut pairs = Vec::with_capacity(usize::from(shard_count));
    for _ in 0..shard_count {
        let udp = udp(addr, Sharing::Shards)?;
        addr = local_addr(&udp, addr)?;
        let tcp = tcp(addr, Sharing::Shards)?;
        pairs.push((addr, udp, tcp));
    }
    Ok(pairs)
}

fn bind_own(listen: SocketAddr, shard_port: u16, shard: ShardId) -> Result<Pair, BindError> {
    let port = if shard_port == 0 { Some(0) } else { shard_port.checked_add(shard.0) };
    let Some(port) = port else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "sip.shard_port leaves no room for all shards");
        return Err(BindError { addr: SocketAddr::new(listen.ip(), shard_port), transport: "udp", error });
    };
    let wanted = SocketAddr::new(listen.ip(), port);
    let mut attempt = 0;
    loop {
        let bound = udp(wanted, Sharing::Alone).and_then(|udp| {
            let addr = local_addr(&udp, wanted)?;
            Ok((addr, udp, tcp(addr, Sharing::Alone)?))
        });
        match bound {
            Err(error) if port == 0 && attempt < PORT_ATTEMPTS && error.in_use() => attempt += 1,
            Err(error) if error.is_predecessors(wanted, &mut attempt) => {}
            other => return other,
        }
    }
}

fn clone_own(earlier: &ListenerSockets) -> Result<Pair, BindError> {
    let fault = |transport| move |error| BindError { addr: earlier.own, transport, error };
    let udp = earlier.udp_own.try_clone().map_err(fault("udp"))?;
    let tcp = earlier.tcp_own.try_clone().map_err(fault("tcp"))?;
    Ok((earlier.own, udp, tcp))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Shards,
}

fn udp(addr: SocketAddr, sharing: Sharing) -> Result<UdpSocket, BindError> {
    let open = || {
        let socket = open(addr, Type::DGRAM, Protocol::UDP, sharing)?;
        socket.bind(&SockAddr::from(addr))?;
        // Best effort: beyond the system's bound only a privileged process may go.
        let wanted = RECEIVE_BUFFER_LEN as libc::c_int;
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &wanted).is_err() {
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_LEN);
        }
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &wanted).is_err() {
            let _ = socket.set_send_buffer_size(RECEIVE_BUFFER_LEN);
        }
        Ok(UdpSocket::from(socket))
    };
    open().map_err(|error| BindError { addr, transport: "udp", error })
}

fn tcp(addr: SocketAddr, sharing: Sharing) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = open(addr, Type::STREAM, Protocol::TCP, sharing)?;
        // A restart must not wait for connections of the last run.
        socket.set_reuse_address(true)?;
        // Accepted connections inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SockAddr::from(addr))?;
        socket.listen(LISTEN_BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|error| BindError { addr, transport: "tcp", error })
}

fn open(addr: SocketAddr, kind: Type, protocol: Protocol, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if sharing == Sharing::Shards {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

fn local_addr(socket: &UdpSocket, addr: SocketAddr) -> Result<SocketAddr, BindError> {
    socket.local_addr().map_err(|error| BindError { addr, transport: "udp", error })
}

impl BindError {
    fn in_use(&self) -> bool {
        self.error.kind() == io::ErrorKind::AddrInUse
    }

    /// Waits a little for a port that may still be our predecessor's, true until the patience is over: a ring keeps
    /// its sockets for a moment after its process was killed.
    fn is_predecessors(&self, addr: SocketAddr, attempt: &mut u32) -> bool {
        if addr.port() == 0 || !self.in_use() || *attempt >= PREDECESSOR_ATTEMPTS {
            return false;
        }
        *attempt += 1;
        std::thread::sleep(PREDECESSOR_WAIT);
        true
    }
}

/// Makes the kernel choose one of the sockets that share a port at random for each datagram.
///
/// The usual choice, a hash over addresses and ports, sends everything from one peer to one shard.
fn spread(socket: &UdpSocket, shard_count: u16) -> io::Result<()> {
    let step = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    // A = random; A = A mod shards; return A.
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, u32::from(shard_count)),
        step(libc::BPF_RET | BPF_A, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// "Return the accumulator", which the bindings leave out.
const BPF_A: u32 = 0x10;

fn set_option<T>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel copies `size_of::<T>()` bytes from the value before the call returns; a filter program is
    // copied from the array that it points to, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Raises the bound on open files to what the system allows: every stream is one.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a valid structure and touch nothing else. Best effort: with the old bound fewer streams fit.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max.min(FILE_COUNT_MAX);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Silence after which a peer of a media connection is probed (SPEC §4.6).
const KEEP_ALIVE_TIME: std::time::Duration = std::time::Duration::from_secs(60);
const PREDECESSOR_ATTEMPTS: u32 = 100;
const PREDECESSOR_WAIT: std::time::Duration = std::time::Duration::from_millis(20);
const PORT_ATTEMPTS: u32 = 32;
const LISTEN_BACKLOG: i32 = 4096;
const RECEIVE_BUFFER_LEN: usize = 4 << 20;
const FILE_COUNT_MAX: libc::rlim_t = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_and_tcp_share_a_number_that_the_kernel_chose() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let shards = bind(&[listen.parse().unwrap()], 0, 3).unwrap();
            assert_eq!(shards.len(), 3);
            let well_known = shards[0][0].well_known;
            assert_ne!(well_known.port(), 0);
            let mut own_ports = Vec::new();
            for sockets in shards.iter().flatten() {
                assert_eq!(sockets.udp_well_known.local_addr().unwrap(), well_known);
                assert_eq!(sockets.tcp_well_known.local_addr().unwrap(), well_known);
                assert_eq!(sockets.udp_own.local_addr().unwrap(), sockets.own);
                assert_eq!(sockets.tcp_own.local_addr().unwrap(), sockets.own);
                own_ports.push(sockets.own.port());
            }
            own_ports.dedup();
            assert_eq!(own_ports.len(), 3);
        }
    }

    #[test]
    fn a_port_of_another_process_is_refused_in_one_line() {
        // Even one that would share it.
        let taken = bind(&["127.0.0.1:0".parse().unwrap()], 0, 2).unwrap();
        let addr = taken[0][0].well_known;
        let error = bind(&[addr], 0, 2).unwrap_err();
        assert_eq!(error.to_string(), format!("{addr}: Address already in use"));
    }

    #[test]
    fn the_kernel_never_chooses_a_port_that_another_appliance_has() {
        let any = ["127.0.0.1:0".parse().unwrap()];
        // Eighty thousand pairs for some thirty thousand ports.
        let appliances: Vec<_> = (0..400).map(|_| bind(&any, 0, 1).unwrap()).collect();
        let ports: std::collections::HashSet<u16> =
            appliances.iter().map(|shards| shards[0][0].well_known.port()).collect();
        assert_eq!(ports.len(), appliances.len());
    }

    #[test]
    fn an_address_of_another_machine_is_refused_in_one_line() {
        let error = bind(&["192.0.2.1:5060".parse().unwrap()], 0, 1).unwrap_err();
        assert_eq!(error.to_string(), "192.0.2.1:5060: Cannot assign requested address");
    }

    #[test]
    fn listeners_with_one_ip_address_share_the_shards_own_port() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let shards = bind(&[any, any], 0, 1).unwrap();
        let [first, second] = shards[0].as_slice() else { panic!("two listeners") };
        assert_ne!(first.well_known, second.well_known);
        assert_eq!(first.own, second.own);
        assert!(!first.own_is_shared && second.own_is_shared);
    }

    #[test]
    fn each_shard_has_an_msrp_port_of_its_own() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let shards = bind_media(&[any, "[::1]:0".parse().unwrap(), any], 3).unwrap();
        let mut addrs: Vec<SocketAddr> = shards.iter().flatten().map(|listener| listener.addr).collect();
        assert!(addrs.iter().all(|addr| addr.port() != 0));
        addrs.sort_unstable();
        addrs.dedup();
        assert_eq!(addrs.len(), 9);
    }

    #[test]
    fn msrp_ports_follow_each_other_and_one_that_is_taken_is_named() {
        // Three numbers in a row that were free a moment ago; another test may take one in between.
        for _ in 0..100 {
            let base = bind_media(&["127.0.0.1:0".parse().unwrap()], 1).unwrap()[0][0].addr;
            let Some(last) = base.port().checked_add(2) else { continue };
            let Ok(shards) = bind_media(&[base], 2) else { continue };
            assert_eq!(shards[1][0].addr.port(), base.port() + 1);
            let error = bind_media(&[SocketAddr::new(base.ip(), last - 1)], 1).unwrap_err();
            let line = format!("{}:{} over TCP: Address already in use", base.ip(), base.port() + 1);
            assert_eq!(error.to_string(), line);
            return;
        }
        panic!("no two free ports in a row");
    }

    #[test]
    fn acknowledged_bytes_of_a_connection_are_counted() {
        use std::io::{Read, Write};
        let listener = bind_media(&["127.0.0.1:0".parse().unwrap()], 1).unwrap().remove(0).remove(0);
        let mut client = std::net::TcpStream::connect(listener.addr).unwrap();
        let (mut server, _) = listener.socket.accept().unwrap();
        assert!(SockRef::from(&server).keepalive().unwrap() && server.nodelay().unwrap(), "as the listener");
        let before = acknowledged_len(&client).unwrap();
        client.write_all(&[1; 100]).unwrap();
        server.read_exact(&mut [0; 100]).unwrap();
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert_eq!(acknowledged_len(&client).unwrap() - before, 100, "the answer acknowledged them");
    }

    #[test]
    fn one_source_loads_every_socket_of_the_port() {
        let shards = bind(&["127.0.0.1:0".parse().unwrap()], 0, 2).unwrap();
        let source = UdpSocket::bind("127.0.0.1:0").unwrap();
        const SENT: usize = 400;
        for _ in 0..SENT {
            source.send_to(b"x", shards[0][0].well_known).unwrap();
        }
        let counts: Vec<usize> = shards
            .iter()
            .map(|shard| {
                let socket = &shard[0].udp_well_known;
                socket.set_nonblocking(true).unwrap();
                std::iter::from_fn(|| socket.recv_from(&mut [0; 8]).ok()).count()
            })
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), SENT, "loopback delivers before send returns");
        // Ten standard deviations of a fair coin: sqrt(400 / 4) = 10.
        assert!(counts.iter().all(|count| count.abs_diff(SENT / 2) < 100), "{counts:?}");
    }
}
