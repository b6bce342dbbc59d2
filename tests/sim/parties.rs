//! The others: senders with RFC 3261 timers, and the core with the devices behind it.

use ringpost::base::time::Instant;
use ringpost::sip::message::Message;
use ringpost::sip::scan::{Name, Scan};
use ringpost::sip::write;
use std::net::SocketAddr;
use std::time::Duration;

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);

/// A client transaction outside the appliance.
pub struct Sender {
    pub address: SocketAddr,
    pub request: Vec<u8>,
    pub branch: String,
    pub reliable: bool,
    pub started: Instant,
    pub interval: Duration,
    pub done: bool,
}

impl Sender {
    /// Timer E or F: what to send, and when to look again.
    pub fn on_timer(&mut self, now: Instant) -> Option<Duration> {
        if self.done || now.since(self.started) >= 64 * T1 {
            self.done = true;
            return None;
        }
        let wait = self.interval;
        self.interval = (self.interval * 2).min(T2);
        Some(wait)
    }

    /// Takes a response; its status if it is this transaction's.
    pub fn on_response(&mut self, bytes: &[u8]) -> u16 {
        let mut scan = Scan::default();
        scan.scan(bytes).expect("the appliance writes readable responses");
        assert_eq!(scan.fault, None, "{}", String::from_utf8_lossy(bytes));
        let view = Message { bytes, scan: &scan };
        let status = view.status().expect("a response");
        let envelope = view.check_response().expect("a response with all it needs");
        assert_eq!(envelope.via.branch, Some(self.branch.as_bytes()), "the topmost Via is the sender's");
        assert_eq!(view.elements(Name::Via).count(), 1, "and the only one");
        if status < 200 {
            assert_eq!(status, 100, "no provisional response but 100 to a MESSAGE");
            self.interval = T2;
        } else {
            assert!(envelope.to_tag.is_some(), "a final response has a To tag");
            assert!(
                status != 408 && status != 503 || view.value(Name::RetryAfter).is_some(),
                "not passed on: {status}"
            );
            self.done = true;
        }
        status
    }
}

/// What a device does with a request.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Answers after a while.
    Answer { status: u16, wait: Duration, provisional: bool },
    /// Never answers.
    Silent,
}

/// A server transaction of the core.
pub struct Served {
    pub number: Option<usize>,
    pub status: u16,
    /// The response, once it is given.
    pub response: Option<Vec<u8>>,
    pub last: Option<Vec<u8>>,
}

/// Writes a device's response.
pub fn respond(request: &[u8], status: u16) -> Vec<u8> {
    let mut scan = Scan::default();
    scan.scan(request).expect("the appliance writes readable requests");
    let mut out = Vec::new();
    let view = Message { bytes: request, scan: &scan };
    let answer = write::Response { status, reason: "Whatever", to_tag: b"device", ..write::Response::default() };
    write::response(&mut out, &view, &answer);
    out
}

/// The number in a message's body.
pub fn number_of(bytes: &[u8]) -> Option<usize> {
    const MARK: &[u8] = b"msg-number=";
    let at = memchr::memmem::find(bytes, MARK)? + MARK.len();
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0')))
}
