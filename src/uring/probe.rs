//! What the kernel lacks, said in one line each before anything depends on it.

use super::buffers::BufferPlan;
use super::ring::{self, Kind, Ring, RingPlan, Token};
use super::shared::SharedPlan;
use io_uring::{IoUring, Probe, opcode};
use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

/// Something that the appliance needs and the kernel does not give.
#[derive(Debug)]
pub enum Missing {
    /// No ring can be made at all.
    Ring(io::Error),
    /// Rings can be made, but not the kind the shards use.
    DeferTaskrun,
    /// Completions could be lost when many arrive at once.
    NoDrop,
    /// A wait cannot have a time-out.
    ExtArg,
    /// An operation is not known.
    Operation(&'static str),
    /// No provided-buffer rings.
    BufferRings(io::Error),
    /// No multishot recvmsg.
    MultishotReceive(io::Error),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => match error.raw_os_error() {
                Some(libc::EPERM) => f.write_str(
                    "io_uring is forbidden here: sysctl kernel.io_uring_disabled or a seccomp profile (containers) denies it",
                ),
                Some(libc::ENOSYS) => {
                    f.write_str("this kernel has no io_uring, or a seccomp profile (containers) hides it")
                }
                Some(libc::ENOMEM) => {
                    f.write_str("io_uring gets no memory: raise the locked memory limit (ulimit -l, LimitMEMLOCK=)")
                }
                _ => write!(f, "io_uring cannot be set up: {error}"),
            },
            Self::DeferTaskrun => f.write_str(
                "io_uring lacks SINGLE_ISSUER with DEFER_TASKRUN: Linux 6.1 or later is needed",
            ),
            Self::NoDrop => f.write_str("io_uring lacks NODROP: Linux 6.1 or later is needed"),
            Self::ExtArg => f.write_str("io_uring lacks EXT_ARG (waiting with a time-out): Linux 6.1 or later is needed"),
            Self::Operation(name) => {
                write!(f, "io_uring lacks the operation {name}: Linux 6.1 or later without restrictions is needed")
            }
            Self::BufferRings(error) => {
                write!(f, "io_uring lacks provided-buffer rings: Linux 6.1 or later is needed ({error})")
            }
            Self::MultishotReceive(error) => {
                write!(f, "io_uring lacks multishot recvmsg: Linux 6.1 or later is needed ({error})")
            }
        }
    }
}

impl std::error::Error for Missing {}

/// Tries everything that a shard relies on; an empty answer means that shards will run.
pub fn probe() -> Vec<Missing> {
    let plain = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => return vec![Missing::Ring(error)],
    };
    let mut missing = Vec::new();
    if !plain.params().is_feature_nodrop() {
        missing.push(Missing::NoDrop);
    }
    if !plain.params().is_feature_ext_arg() {
        missing.push(Missing::ExtArg);
    }
    let mut operations = Probe::new();
    if plain.submitter().register_probe(&mut operations).is_ok() {
        let unknown = OPERATIONS.iter().filter(|(code, _)| !operations.is_supported(*code));
        missing.extend(unknown.map(|(_, name)| Missing::Operation(name)));
    }
    if ring::build(8, 16).is_err() {
        missing.push(Missing::DeferTaskrun);
    }
    if missing.is_empty() {
        missing.extend(try_receive().err());
    }
    missing
}

const OPERATIONS: &[(u8, &str)] = &[
    (opcode::AcceptMulti::CODE, "ACCEPT"),
    (opcode::RecvMulti::CODE, "RECV"),
    (opcode::RecvMsgMulti::CODE, "RECVMSG"),
    (opcode::Send::CODE, "SEND"),
    (opcode::SendMsg::CODE, "SENDMSG"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::Read::CODE, "READ"),
    (opcode::Close::CODE, "CLOSE"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
];

/// Receives one datagram over loopback as a shard would.
fn try_receive() -> Result<(), Missing> {
    let buffers = BufferPlan { count: 4, len: 256, stride: 256 };
    let mut ring = Ring::new(RingPlan {
        submission_count: 8,
        completion_count: 16,
        datagrams: buffers,
        streams: buffers,
        media: [SharedPlan { buffers, offered_count: 2, incremental: false }; 2],
        media_burst_len: 512,
        datagram_send_count_max: 1,
        stream_send_count_max: 1,
    })
    .map_err(Missing::BufferRings)?;
    // A machine without loopback says nothing about the kernel: the listening sockets will tell.
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return Ok(()) };
    let Ok(addr) = socket.local_addr() else { return Ok(()) };
    ring.receive_datagrams(&socket, Token::default());
    ring.submit(None).map_err(Missing::MultishotReceive)?;
    if socket.send_to(b"probe", addr).is_err() {
        return Ok(());
    }
    let mut completions = Vec::new();
    for _ in 0..10 {
        ring.submit(Some(Duration::from_millis(100))).map_err(Missing::MultishotReceive)?;
        ring.reap(&mut completions, 16);
        if let Some(completion) = completions.drain(..).find(|completion| completion.kind == Kind::Datagram) {
            return match (completion.result, completion.more) {
                (Ok(_), true) => Ok(()),
                (Ok(_), false) => Err(Missing::MultishotReceive(io::ErrorKind::Unsupported.into())),
                (Err(code), _) => Err(Missing::MultishotReceive(io::Error::from_raw_os_error(code))),
            };
        }
    }
    Err(Missing::MultishotReceive(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_that_runs_the_tests_has_everything() {
        let missing = probe();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn every_lack_is_one_clear_line() {
        let error = || io::Error::from_raw_os_error(libc::EINVAL);
        for missing in [
            Missing::Ring(io::Error::from_raw_os_error(libc::EPERM)),
            Missing::Ring(io::Error::from_raw_os_error(libc::ENOSYS)),
            Missing::Ring(io::Error::from_raw_os_error(libc::ENOMEM)),
            Missing::Ring(error()),
            Missing::DeferTaskrun,
            Missing::NoDrop,
            Missing::ExtArg,
            Missing::Operation("RECVMSG"),
            Missing::BufferRings(error()),
            Missing::MultishotReceive(error()),
        ] {
            let line = missing.to_string();
            assert!(line.contains("io_uring") && !line.contains('\n'), "{line}");
        }
    }
}
