//! One thread's ring: requests in, completions out.

use super::addr::{self, RAW_ADDR_LEN};
use super::buffers::{BufferPlan, Lease, Pool};
use super::eventfd::EventFd;
use super::op::{self, Connecting, DatagramSend, Slots, StreamSend, empty_header};
use super::shared::{Piece, Shared, SharedPlan, SharedPool};
use bytes::Bytes;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use socket2::SockRef;
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Names whose request completed: a slot of the caller's table and how often it was given out before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Token {
    /// The slot, below 2^24.
    pub slot: u32,
    /// The generation: a completion of an earlier one is a late completion, and harmless.
    pub generation: u32,
}

/// What completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A stream connection came in.
    Accept = 1,
    /// A datagram came in.
    Datagram,
    /// Stream bytes came in; none means that the peer has sent its last.
    Stream,
    /// A datagram left or failed. Only failures are reported.
    SendDatagram,
    /// Stream bytes left or failed.
    SendStream,
    /// A connection was opened or failed.
    Connect,
    /// Another thread wants attention.
    Wake,
    /// Closing, cancelling: nobody waits for these.
    Unwatched,
    /// A media connection came in.
    MediaAccept,
    /// Media bytes came in; none means that the peer has sent its last.
    Media,
    /// Media bytes left or failed.
    SendMedia,
    /// A media connection was opened or failed.
    MediaConnect,
}

/// One completion, copied out of the ring.
#[derive(Debug)]
pub struct Completion {
    /// What completed.
    pub kind: Kind,
    /// Whose it is.
    pub token: Token,
    /// The kernel's answer, as a count, or its error number.
    pub result: Result<u32, i32>,
    /// The buffer that it filled; to be given back with [`Ring::recycle`].
    pub lease: Option<Lease>,
    /// The media bytes that came in; to be given back with [`Ring::recycle_media`].
    pub piece: Option<Piece>,
    /// What a media send could not send: the rest of a batch of which only a part left.
    pub unsent: Vec<Bytes>,
    /// The connection that came in.
    pub fd: Option<OwnedFd>,
    /// False when a multishot request has ended and must be armed again.
    pub more: bool,
}

/// A received datagram, still in the ring's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Where it came from.
    pub peer: SocketAddr,
    /// The payload.
    pub payload: &'a [u8],
    /// True when the buffer was too small for it.
    pub truncated: bool,
}

/// A connection attempt in the kernel's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectHandle {
    slot: u32,
    kind: Kind,
}

/// What [`Ring::reap`] settled by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Datagrams that left.
    pub datagrams_sent: u64,
}

/// The shape of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlan {
    /// Requests per submission.
    pub submission_count: u32,
    /// Completions held by the ring itself; more are held by the kernel.
    pub completion_count: u32,
    /// Buffers for datagrams.
    pub datagrams: BufferPlan,
    /// Buffers for streams.
    pub streams: BufferPlan,
    /// Buffers for media connections; the second shape is for kernels that do not take the first.
    pub media: [SharedPlan; 2],
    /// Bytes after which a media connection that goes on sending lets the others receive, where the kernel can do that.
    pub media_burst_len: u32,
    /// Datagrams in the kernel's hands; further ones are refused.
    pub datagram_send_count_max: usize,
    /// Stream and media sends together, and connection attempts, in the kernel's hands.
    pub stream_send_count_max: usize,
}

/// What a send does when the connection does not take everything at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It completes with what was taken: during its submission, so that [`Ring::submit`] knows when to expect it.
    None,
    /// It goes on when there is room.
    Lasting,
}

/// Bytes before a datagram's payload in its buffer: the kernel's header and the sender's address.
pub const DATAGRAM_PREFIX_LEN: usize = RECEIVED_HEADER_LEN + RAW_ADDR_LEN;

/// Length of the kernel's `struct io_uring_recvmsg_out`.
const RECEIVED_HEADER_LEN: usize = 16;

/// Buffers of one `sendmsg`.
pub const BATCH_COUNT_MAX: usize = 64;

const DATAGRAM_GROUP: u16 = 0;
const STREAM_GROUP: u16 = 1;
const MEDIA_GROUP: u16 = 2;
/// No caller's token: the tables of connections are smaller.
const NOBODY: Token = Token { slot: 0x00FF_FFFF, generation: u32::MAX };

/// Everything that submitted requests point to.
struct Memory {
    datagrams: Pool,
    streams: Pool,
    media: SharedPool,
    datagram_sends: Slots<DatagramSend>,
    stream_sends: Slots<StreamSend>,
    connects: Slots<Connecting>,
    /// Says how much room multishot recvmsg leaves for the sender's address.
    header: Slots<libc::msghdr>,
    /// Where the eventfd's counter is read to.
    wakes: Slots<u64>,
}

/// A ring and the memory of its requests. Lives and dies on one thread.
pub struct Ring {
    ring: ManuallyDrop<IoUring>,
    memory: ManuallyDrop<Memory>,
    /// Requests that found the submission queue full, in order.
    backlog: VecDeque<squeue::Entry>,
    /// Requests that will complete at least once more.
    in_flight: usize,
    /// Datagrams and stream bytes in the kernel's hands.
    sends_in_flight: usize,
    /// Requests pushed since the last submission that complete during it: datagrams, and the first sends of media batches.
    prompt_count: usize,
    enter_flags: EnterFlags,
    /// See [`RingPlan::media_burst_len`]; 0 where the kernel has no such bound.
    media_burst_len: u32,
}

impl Ring {
    /// Makes a ring for the calling thread.
    pub fn new(plan: RingPlan) -> io::Result<Self> {
        let ring = build(plan.submission_count, plan.completion_count)?;
        let params = ring.params();
        let mut enter_flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS;
        if params.is_feature_no_iowait() {
            // An idle shard is idle, not waiting for a disk.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        let memory = Memory {
            datagrams: Pool::register(&ring.submitter(), DATAGRAM_GROUP, plan.datagrams)?,
            streams: Pool::register(&ring.submitter(), STREAM_GROUP, plan.streams)?,
            media: SharedPool::register(&ring.submitter(), MEDIA_GROUP, plan.media)?,
            datagram_sends: Slots::new(plan.datagram_send_count_max, DatagramSend::empty),
            stream_sends: Slots::new(plan.stream_send_count_max, StreamSend::empty),
            connects: Slots::new(plan.stream_send_count_max, Connecting::empty),
            header: Slots::new(1, empty_header),
            wakes: Slots::new(1, || 0),
        };
        let mut ring = Self {
            ring: ManuallyDrop::new(ring),
            memory: ManuallyDrop::new(memory),
            backlog: VecDeque::new(),
            in_flight: 0,
            sends_in_flight: 0,
            prompt_count: 0,
            enter_flags,
            media_burst_len: plan.media_burst_len,
        };
        let (_, header) = ring.memory.header.take().expect("the table is new");
        header.msg_namelen = RAW_ADDR_LEN as libc::socklen_t;
        ring.memory.wakes.take().expect("the table is new");
        if !ring.takes_burst_len()? {
            ring.media_burst_len = 0;
        }
        Ok(ring)
    }

    /// Whether the kernel bounds what one connection receives at a time (Linux 6.17); earlier ones refuse the request.
    fn takes_burst_len(&mut self) -> io::Result<bool> {
        let (ended, _) = UnixStream::pair()?;
        self.receive_media(&ended, NOBODY);
        let mut completions = Vec::new();
        for _ in 0..QUIESCE_TURNS {
            self.submit(Some(QUIESCE_TIME / QUIESCE_TURNS))?;
            self.reap(&mut completions, 1);
            if let Some(completion) = completions.pop() {
                completion.piece.into_iter().for_each(|piece| self.recycle_media(piece));
                return Ok(completion.result == Ok(0));
            }
        }
        Ok(false)
    }

    /// Accepts connections until told otherwise: a [`Kind::Accept`] for each.
    ///
    /// A descriptor given to the ring must stay open until [`Ring::close`] or until its requests have completed.
    pub fn accept(&mut self, listener: impl AsFd, token: Token) {
        self.accept_as(Kind::Accept, listener, token);
    }

    /// Accepts media connections until told otherwise: a [`Kind::MediaAccept`] for each.
    pub fn accept_media(&mut self, listener: impl AsFd, token: Token) {
        self.accept_as(Kind::MediaAccept, listener, token);
    }

    fn accept_as(&mut self, kind: Kind, listener: impl AsFd, token: Token) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_fd().as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: a multishot accept points to no memory.
        unsafe { self.push(entry, kind, token) };
    }

    /// Receives datagrams until told otherwise: a [`Kind::Datagram`] for each.
    pub fn receive_datagrams(&mut self, socket: impl AsFd, token: Token) {
        let header = std::ptr::from_mut(self.memory.header.value(0));
        let entry = opcode::RecvMsgMulti::new(Fd(socket.as_fd().as_raw_fd()), header, DATAGRAM_GROUP).build();
        // SAFETY: the header stays in place as long as the ring, and the buffers belong to the group.
        unsafe { self.push(entry, Kind::Datagram, token) };
    }

    /// Receives stream bytes until told otherwise: a [`Kind::Stream`] for each piece.
    pub fn receive_stream(&mut self, stream: impl AsFd, token: Token) {
        let entry = opcode::RecvMulti::new(Fd(stream.as_fd().as_raw_fd()), STREAM_GROUP).build();
        // SAFETY: the buffers belong to the group, which lives as long as the ring.
        unsafe { self.push(entry, Kind::Stream, token) };
    }

    /// Receives media bytes until told otherwise: a [`Kind::Media`] for each piece. A connection has at most one such
    /// request at a time.
    pub fn receive_media(&mut self, stream: impl AsFd, token: Token) {
        let group = self.memory.media.group();
        let entry = opcode::RecvMulti::new(Fd(stream.as_fd().as_raw_fd()), group).build();
        let entry = op::with_burst_len(entry, self.media_burst_len);
        // SAFETY: the buffers belong to the group, whose memory lives at least as long as the ring.
        unsafe { self.push(entry, Kind::Media, token) };
    }

    /// Ends a [`Ring::receive_media`]. Pieces that it has received still arrive; then its last completion does.
    pub fn cancel_media(&mut self, token: Token) {
        self.push_unwatched(opcode::AsyncCancel::new(pack(Kind::Media, token)).build());
    }

    /// Sends a datagram, or gives it back when too many are in the kernel's hands.
    pub fn send_datagram(&mut self, socket: impl AsFd, to: SocketAddr, bytes: Bytes) -> Result<(), Bytes> {
        let Some((slot, send)) = self.memory.datagram_sends.take() else { return Err(bytes) };
        let (addr, addr_len) = addr::RawAddr::new(to);
        send.addr = addr;
        send.bytes = bytes;
        let len = u32::try_from(send.bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fd(socket.as_fd().as_raw_fd()), send.bytes.as_ptr(), len)
            .dest_addr((&raw const send.addr).cast())
            .dest_addr_len(addr_len)
            // A full socket is an error rather than a wait, as a full queue in the network would be.
            .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            .build();
        // SAFETY: the slot keeps payload and address where they are until the completion releases it.
        unsafe { self.push(entry, Kind::SendDatagram, Token { slot, generation: 0 }) };
        self.sends_in_flight += 1;
        self.prompt_count += 1;
        Ok(())
    }

    /// Sends a batch into a stream as one request, or says false when too many are in the kernel's hands. The answer is
    /// a [`Kind::SendStream`] with the count of bytes that left, which may be fewer than all.
    pub fn send_stream(&mut self, stream: impl AsFd, token: Token, batch: impl Iterator<Item = Bytes>) -> bool {
        self.send_as(Kind::SendStream, Patience::Lasting, stream, token, batch.take(BATCH_COUNT_MAX))
    }

    /// Sends a batch of at most [`BATCH_COUNT_MAX`] buffers into a media connection as one request and empties it, or says
    /// false when too many are in the kernel's hands. The answer is a [`Kind::SendMedia`] with the count of bytes that
    /// left, none if the connection takes none now, and the rest when they are fewer than all.
    pub fn send_media(&mut self, stream: impl AsFd, token: Token, batch: &mut Vec<Bytes>, patience: Patience) -> bool {
        assert!(batch.len() <= BATCH_COUNT_MAX, "a batch is one request");
        self.send_as(Kind::SendMedia, patience, stream, token, batch.drain(..))
    }

    fn send_as(
        &mut self,
        kind: Kind,
        patience: Patience,
        stream: impl AsFd,
        token: Token,
        batch: impl Iterator<Item = Bytes>,
    ) -> bool {
        let Some((slot, send)) = self.memory.stream_sends.take() else { return false };
        send.token = token;
        send.bytes.extend(batch);
        assert!(!send.bytes.is_empty(), "a batch holds at least one buffer");
        let fd = Fd(stream.as_fd().as_raw_fd());
        let flags = match patience {
            // WAITALL makes the kernel go on by itself when the socket takes only a part.
            Patience::Lasting => libc::MSG_NOSIGNAL | libc::MSG_WAITALL,
            Patience::None => libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        };
        let entry = match send.bytes.as_slice() {
            [only] if u32::try_from(only.len()).is_ok() => {
                opcode::Send::new(fd, only.as_ptr(), only.len() as u32).flags(flags).build()
            }
            _ => opcode::SendMsg::new(fd, send.gather()).flags(flags as u32).build(),
        };
        // SAFETY: the slot keeps bytes, vectors and header where they are until the completion releases it.
        unsafe { self.push(entry, kind, Token { slot, generation: 0 }) };
        self.sends_in_flight += 1;
        self.prompt_count += usize::from(patience == Patience::None);
        true
    }

    /// Opens a connection; `None` when too many are being opened. The answer is a [`Kind::Connect`].
    pub fn connect(&mut self, stream: impl AsFd, to: SocketAddr, token: Token) -> Option<ConnectHandle> {
        self.connect_as(Kind::Connect, stream, to, token)
    }

    /// Opens a media connection; `None` when too many are being opened. The answer is a [`Kind::MediaConnect`].
    pub fn connect_media(&mut self, stream: impl AsFd, to: SocketAddr, token: Token) -> Option<ConnectHandle> {
        self.connect_as(Kind::MediaConnect, stream, to, token)
    }

    fn connect_as(&mut self, kind: Kind, stream: impl AsFd, to: SocketAddr, token: Token) -> Option<ConnectHandle> {
        let (slot, connecting) = self.memory.connects.take()?;
        connecting.set(token, to);
        let addr = (&raw const connecting.addr).cast();
        let entry = opcode::Connect::new(Fd(stream.as_fd().as_raw_fd()), addr, connecting.len).build();
        // SAFETY: the slot keeps the address where it is until the completion releases it.
        unsafe { self.push(entry, kind, Token { slot, generation: 0 }) };
        Some(ConnectHandle { slot, kind })
    }

    /// Gives a connection attempt up. Its completion still arrives, mostly with an error. Only valid until then.
    pub fn abandon(&mut self, connect: ConnectHandle) {
        let user_data = pack(connect.kind, Token { slot: connect.slot, generation: 0 });
        self.push_unwatched(opcode::AsyncCancel::new(user_data).build());
    }

    /// Waits for an eventfd to be raised, once: a [`Kind::Wake`].
    pub fn wait_for(&mut self, eventfd: &EventFd) {
        let counter = std::ptr::from_mut(self.memory.wakes.value(0)).cast();
        let entry = opcode::Read::new(Fd(eventfd.as_fd().as_raw_fd()), counter, size_of::<u64>() as u32).build();
        // SAFETY: the counter stays in place as long as the ring and nothing else reads or writes it.
        unsafe { self.push(entry, Kind::Wake, Token::default()) };
    }

    /// Closes a stream after everything pushed before, and ends its receives and held-up sends.
    ///
    /// These complete soon after, with the token that they were given.
    pub fn close(&mut self, stream: impl Into<OwnedFd>) {
        let stream = stream.into();
        // A request holds the file open; the shut-down is what ends it. (Cancelling by descriptor would walk over the
        // requests of every connection, and the ring's own shut-down operation goes through a worker thread.) It fails
        // only when the connection has ended already, which ends the requests, too.
        let _ = SockRef::from(&stream).shutdown(Shutdown::Both);
        self.push_unwatched(opcode::Close::new(Fd(stream.into_raw_fd())).build());
    }

    /// Ends every request on a descriptor that stays open. Costs a walk over all requests.
    pub fn cancel(&mut self, fd: impl AsFd) {
        let fd = Fd(fd.as_fd().as_raw_fd());
        self.push_unwatched(opcode::AsyncCancel2::new(CancelBuilder::fd(fd).all()).build());
    }

    /// What a completion's buffer holds.
    pub fn stream_bytes(&self, lease: &Lease) -> &[u8] {
        assert_eq!(lease.group, STREAM_GROUP);
        self.memory.streams.bytes(lease)
    }

    /// The datagram in a completion's buffer; `None` if the kernel wrote no address that we know.
    pub fn datagram(&self, lease: &Lease) -> Option<Datagram<'_>> {
        assert_eq!(lease.group, DATAGRAM_GROUP);
        let bytes = self.memory.datagrams.bytes(lease);
        let (header, rest) = bytes.split_at_checked(RECEIVED_HEADER_LEN)?;
        let (name, payload) = rest.split_at_checked(RAW_ADDR_LEN)?;
        // struct io_uring_recvmsg_out: namelen, controllen, payloadlen, flags.
        let flags = u32::from_ne_bytes(header[12..16].try_into().expect("four bytes"));
        Some(Datagram { peer: addr::parse(name)?, payload, truncated: flags & libc::MSG_TRUNC as u32 != 0 })
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, lease: Lease) {
        match lease.group {
            DATAGRAM_GROUP => self.memory.datagrams.recycle(lease),
            _ => self.memory.streams.recycle(lease),
        }
    }

    /// The media bytes of a completion.
    pub fn media_bytes(&self, piece: &Piece) -> &[u8] {
        self.memory.media.bytes(piece)
    }

    /// Makes the media bytes of a completion outlive it.
    pub fn share(&self, piece: &Piece) -> Shared {
        self.memory.media.share(piece)
    }

    /// How many media receives find a buffer after the next submission, if each takes one.
    pub fn media_available_count(&self) -> usize {
        self.memory.media.available_count()
    }

    /// Gives media bytes back.
    pub fn recycle_media(&mut self, piece: Piece) {
        self.memory.media.recycle(piece);
    }

    /// Requests that send and have not completed.
    pub const fn sends_in_flight(&self) -> usize {
        self.sends_in_flight
    }

    /// Copies out at most `count_max` completions. The memory of those that sent is free again.
    pub fn reap(&mut self, out: &mut Vec<Completion>, count_max: usize) -> Reaped {
        let mut reaped = Reaped::default();
        let Self { ring, memory, in_flight, sends_in_flight, .. } = self;
        for entry in ring.completion().take(count_max) {
            let Some((kind, mut token)) = unpack(entry.user_data()) else { continue };
            if kind == Kind::Unwatched {
                continue;
            }
            let mut result = u32::try_from(entry.result()).map_err(|_| -entry.result());
            let more = cqueue::more(entry.flags());
            *in_flight -= usize::from(!more);
            let mut lease = None;
            let mut piece = None;
            let mut unsent = Vec::new();
            let mut fd = None;
            match kind {
                Kind::SendDatagram => {
                    *sends_in_flight -= 1;
                    memory.datagram_sends.value(token.slot).bytes = Bytes::new();
                    memory.datagram_sends.release(token.slot);
                    if result.is_ok() {
                        reaped.datagrams_sent += 1;
                        continue;
                    }
                }
                Kind::SendStream | Kind::SendMedia => {
                    *sends_in_flight -= 1;
                    let send = memory.stream_sends.value(token.slot);
                    if kind == Kind::SendMedia {
                        result = if result == Err(libc::EAGAIN) { Ok(0) } else { result };
                        unsent = result.map_or(Vec::new(), |sent| send.unsent(sent as usize));
                    }
                    send.clear();
                    let slot = std::mem::replace(&mut token, send.token).slot;
                    memory.stream_sends.release(slot);
                }
                Kind::Connect | Kind::MediaConnect => {
                    let slot = token.slot;
                    token = memory.connects.value(slot).token;
                    memory.connects.release(slot);
                }
                Kind::Datagram | Kind::Stream => {
                    let pool = if kind == Kind::Datagram { &mut memory.datagrams } else { &mut memory.streams };
                    let len = result.unwrap_or(0) as usize;
                    lease = cqueue::buffer_select(entry.flags()).map(|buffer| pool.lease(buffer, len));
                }
                Kind::Media => {
                    let len = result.unwrap_or(0) as usize;
                    let goes_on = cqueue::buffer_more(entry.flags());
                    piece = cqueue::buffer_select(entry.flags()).map(|buffer| memory.media.piece(buffer, len, goes_on));
                }
                Kind::Accept | Kind::MediaAccept => {
                    // SAFETY: the kernel made this descriptor for us and says so once.
                    fd = result.ok().map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) });
                }
                Kind::Wake | Kind::Unwatched => {}
            }
            out.push(Completion { kind, token, result, lease, piece, unsent, fd, more });
        }
        reaped
    }

    /// True when completions wait to be reaped.
    pub fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Submits everything pushed; with a time, also waits until a request completes or the time is over.
    pub fn submit(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.memory.datagrams.publish();
        self.memory.streams.publish();
        self.memory.media.publish();
        loop {
            {
                let mut queue = self.ring.submission();
                while !queue.is_full()
                    && let Some(entry) = self.backlog.pop_front()
                {
                    // SAFETY: the entry was pushed under the promise of `push`.
                    unsafe { queue.push(&entry) }.expect("the queue is not full");
                }
            }
            if self.backlog.is_empty() {
                break;
            }
            self.enter(0, None)?;
            if self.ring.submission().is_full() {
                // The kernel wants its completions reaped first.
                return Ok(());
            }
        }
        let prompt_count = std::mem::take(&mut self.prompt_count);
        match wait {
            None => self.enter(0, None),
            // What completes while it is submitted is not worth a turn that would see nothing else: one completion more
            // is waited for. Sends that their peers may hold up are not counted; asking the kernel for a short minimum
            // wait instead cost 8 µs of CPU a wait, for its timer.
            Some(time) => self.enter(prompt_count + 1, Some(time)),
        }
    }

    fn enter(&mut self, want: usize, wait: Option<Duration>) -> io::Result<()> {
        let len = self.ring.submission().len();
        let args = SubmitArgs::new();
        let time = Timespec::from(wait.unwrap_or(Duration::ZERO));
        let args = if wait.is_some() { args.timespec(&time) } else { args };
        // SAFETY: the queued entries were pushed under the promise of `push`; the argument is the structure that
        // EXT_ARG asks for, and it and the time it points to outlive the call.
        let entered =
            unsafe { self.ring.submitter().enter(len as u32, want as u32, self.enter_flags.bits(), Some(&args)) };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Over time, interrupted, or the kernel asks to reap first: the caller's next turn does.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Queues a request.
    ///
    /// # Safety
    ///
    /// Everything that the entry points to stays valid and in place until its last completion.
    unsafe fn push(&mut self, entry: squeue::Entry, kind: Kind, token: Token) {
        self.in_flight += 1;
        // SAFETY: the caller's promise.
        unsafe { self.push_entry(entry.user_data(pack(kind, token))) };
    }

    /// Queues a request without memory whose success nobody waits for.
    fn push_unwatched(&mut self, entry: squeue::Entry) {
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(pack(Kind::Unwatched, Token::default()));
        // SAFETY: cancel and close point to no memory.
        unsafe { self.push_entry(entry) };
    }

    /// # Safety
    ///
    /// As for [`Ring::push`].
    unsafe fn push_entry(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's promise; an entry that does not fit waits in the backlog under the same promise.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel must be done with the memory before it is freed.
        let _ = self.submit(None);
        let _ =
            self.ring.submitter().register_sync_cancel(Some(Timespec::from(QUIESCE_TIME)), CancelBuilder::any().all());
        let mut completions = Vec::new();
        for _ in 0..QUIESCE_TURNS {
            if self.in_flight == 0 {
                break;
            }
            if self.submit(Some(QUIESCE_TIME / QUIESCE_TURNS)).is_err() {
                break;
            }
            self.reap(&mut completions, usize::MAX);
            completions.clear();
        }
        // SAFETY: neither is used again. Memory that a request may still point to is leaked rather than freed.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            if self.in_flight == 0 {
                ManuallyDrop::drop(&mut self.memory);
            }
        }
    }
}

const QUIESCE_TIME: Duration = Duration::from_millis(1000);
const QUIESCE_TURNS: u32 = 100;

/// A ring for the calling thread, with the set-up that the appliance relies on.
pub(super) fn build(submission_count: u32, completion_count: u32) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(completion_count)
        .dontfork();
    builder.build(submission_count)
}

fn pack(kind: Kind, token: Token) -> u64 {
    debug_assert!(token.slot < 1 << 24, "slots are below 2^24");
    (kind as u64) << 56 | u64::from(token.slot & 0x00FF_FFFF) << 32 | u64::from(token.generation)
}

fn unpack(user_data: u64) -> Option<(Kind, Token)> {
    let kind = match user_data >> 56 {
        1 => Kind::Accept,
        2 => Kind::Datagram,
        3 => Kind::Stream,
        4 => Kind::SendDatagram,
        5 => Kind::SendStream,
        6 => Kind::Connect,
        7 => Kind::Wake,
        8 => Kind::Unwatched,
        9 => Kind::MediaAccept,
        10 => Kind::Media,
        11 => Kind::SendMedia,
        12 => Kind::MediaConnect,
        _ => return None,
    };
    Some((kind, Token { slot: (user_data >> 32) as u32 & 0x00FF_FFFF, generation: user_data as u32 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_token_survives_the_way_through_the_kernel() {
        let token = Token { slot: 0x00AB_CDEF, generation: 0xFFFF_FFFE };
        assert_eq!(unpack(pack(Kind::Connect, token)), Some((Kind::Connect, token)));
        assert_eq!(unpack(0), None);
    }

    #[test]
    fn an_empty_buffer_group_ends_the_receive_and_loses_nothing() {
        let mut ring = Ring::new(small()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        for number in 0..6u8 {
            peer.send_to(&[number; 32], socket.local_addr().unwrap()).unwrap();
        }
        let token = Token { slot: 3, generation: 9 };
        ring.receive_datagrams(&socket, token);
        let mut held = Vec::new();
        while !held.iter().any(|completion: &Completion| !completion.more) {
            wait(&mut ring, &mut held);
        }
        let ended = held.pop().unwrap();
        assert_eq!((ended.result, ended.token), (Err(libc::ENOBUFS), token));
        assert_eq!(held.len(), 4, "one for each buffer");
        for (number, completion) in held.into_iter().enumerate() {
            let lease = completion.lease.unwrap();
            let datagram = ring.datagram(&lease).unwrap();
            assert_eq!(datagram.payload, [number as u8; 32]);
            assert_eq!(datagram.peer, peer.local_addr().unwrap());
            assert!(!datagram.truncated);
            ring.recycle(lease);
        }
        ring.receive_datagrams(&socket, token);
        let mut rest = Vec::new();
        while rest.len() < 2 {
            wait(&mut ring, &mut rest);
        }
        assert_eq!(ring.datagram(rest[1].lease.as_ref().unwrap()).unwrap().payload, [5; 32]);
    }

    #[test]
    fn a_datagram_larger_than_its_buffer_is_called_truncated() {
        let mut ring = Ring::new(small()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[7; 500], socket.local_addr().unwrap()).unwrap();
        ring.receive_datagrams(&socket, Token::default());
        let mut completions = Vec::new();
        wait(&mut ring, &mut completions);
        let lease = completions[0].lease.take().unwrap();
        assert!(ring.datagram(&lease).unwrap().truncated);
        ring.recycle(lease);
    }

    #[test]
    fn sends_are_bounded_and_their_slots_return() {
        let mut ring = Ring::new(RingPlan { datagram_send_count_max: 1, ..small() }).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = socket.local_addr().unwrap();
        let mut sent = 0;
        while ring.send_datagram(&socket, to, Bytes::from_static(b"x")).is_ok() {
            sent += 1;
        }
        assert!(sent >= 1);
        let mut left = 0;
        while left < sent {
            ring.submit(Some(Duration::from_secs(1))).unwrap();
            left += ring.reap(&mut Vec::new(), 4096).datagrams_sent;
        }
        assert_eq!(ring.sends_in_flight(), 0);
        assert!(ring.send_datagram(&socket, to, Bytes::from_static(b"x")).is_ok());
    }

    #[test]
    fn media_bytes_come_in_pieces_that_may_be_kept() {
        use std::io::Write;
        let buffers = BufferPlan { count: 4, len: 4096, stride: 4096 };
        for incremental in [true, false] {
            let plan = SharedPlan { buffers, offered_count: 1, incremental };
            let mut ring = Ring::new(RingPlan { media: [plan; 2], ..small() }).unwrap();
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let token = Token { slot: 1, generation: 2 };
            ring.receive_media(&ours, token);
            let mut kept = Vec::new();
            for number in 0..8u8 {
                theirs.write_all(&[number; 700]).unwrap();
                let mut completions = Vec::new();
                wait(&mut ring, &mut completions);
                assert_eq!((completions.len(), completions[0].token), (1, token));
                let completion = completions.remove(0);
                let piece = completion.piece.unwrap();
                assert_eq!(ring.media_bytes(&piece).len() as u32, completion.result.unwrap());
                let (Shared::InPlace(bytes) | Shared::Copied(bytes)) = ring.share(&piece);
                kept.push(bytes);
                ring.recycle_media(piece);
                if !completion.more {
                    ring.receive_media(&ours, token);
                }
            }
            drop(theirs);
            let mut completions = Vec::new();
            while completions.last().is_none_or(|last: &Completion| last.result != Ok(0)) {
                wait(&mut ring, &mut completions);
                for completion in &mut completions {
                    let Some(piece) = completion.piece.take() else { continue };
                    kept.push(Bytes::copy_from_slice(ring.media_bytes(&piece)));
                    ring.recycle_media(piece);
                }
            }
            drop(ring);
            let expected: Vec<u8> = (0..8).flat_map(|number| [number; 700]).collect();
            assert!(kept.concat() == expected, "incremental: {incremental}");
        }
    }

    #[test]
    fn a_media_receive_ends_when_it_is_cancelled_and_only_then() {
        use std::io::Write;
        let mut ring = Ring::new(small()).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (token, other) = (Token { slot: 1, generation: 2 }, Token { slot: 1, generation: 3 });
        ring.receive_media(&ours, token);
        ring.cancel_media(other);
        theirs.write_all(b"x").unwrap();
        let mut completions = Vec::new();
        wait(&mut ring, &mut completions);
        assert!(completions[0].result == Ok(1) && completions[0].more);
        ring.recycle_media(completions.remove(0).piece.unwrap());
        ring.cancel_media(token);
        wait(&mut ring, &mut completions);
        assert!(completions[0].result == Err(libc::ECANCELED) && !completions[0].more);
        assert_eq!(completions[0].token, token);
    }

    #[test]
    fn a_short_media_send_gives_the_rest_back() {
        let mut send = StreamSend::empty();
        for (sent, rest) in [(0, &["abc", "defg", "hi"][..]), (3, &["defg", "hi"]), (4, &["efg", "hi"]), (9, &[])] {
            send.bytes = ["abc", "", "defg", "hi"].map(Bytes::from).to_vec();
            assert_eq!(send.unsent(sent), rest);
        }
    }

    #[test]
    fn an_eventfd_ends_a_wait() {
        use crate::base::mailbox::Wake;
        let mut ring = Ring::new(small()).unwrap();
        let eventfd = EventFd::new().unwrap();
        ring.wait_for(&eventfd);
        eventfd.wake();
        let mut completions = Vec::new();
        wait(&mut ring, &mut completions);
        assert_eq!(completions[0].kind, Kind::Wake);
    }

    fn small() -> RingPlan {
        let buffers = BufferPlan { count: 4, len: 256, stride: 256 };
        RingPlan {
            submission_count: 8,
            completion_count: 64,
            datagrams: buffers,
            streams: buffers,
            media: [SharedPlan { buffers, offered_count: 2, incremental: false }; 2],
            media_burst_len: 512,
            datagram_send_count_max: 64,
            stream_send_count_max: 64,
        }
    }

    /// Waits, in bounded time, for at least one completion.
    fn wait(ring: &mut Ring, completions: &mut Vec<Completion>) {
        let before = completions.len();
        for _ in 0..100 {
            ring.submit(Some(Duration::from_millis(100))).unwrap();
            ring.reap(completions, usize::MAX);
            if completions.len() > before {
                return;
            }
        }
        panic!("nothing completed within ten seconds");
    }
}
