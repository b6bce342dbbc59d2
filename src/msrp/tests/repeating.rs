//! Comparing with the last chunk is a shortcut and nothing else: with and without it, the same leaves and the same is kept.

use super::world::{A_PATH, Bridge, Chunk, noise, parse, request, response, settings};
use crate::base::rng::Rng;
use crate::msrp::news::Side;
use crate::msrp::settings::{Acknowledgement, PathMode};

/// The same session twice; the second one never takes the shortcut.
struct Twins {
    both: [Bridge; 2],
    rng: Rng,
    /// Number of the next byte of the message.
    next: u64,
    message_count: u32,
    chunk_count: u32,
    /// Chunks that B has not answered.
    open: Vec<Chunk>,
}

const TOTAL: u64 = 60_000;

impl Twins {
    fn new(seed: u64) -> Self {
        let mode = if seed.is_multiple_of(2) { PathMode::Prepend } else { PathMode::Replace };
        let acknowledgement = if seed % 16 == 15 { Acknowledgement::HopByHop } else { Acknowledgement::EndToEnd };
        let both = [(); 2].map(|()| Bridge::with(seed, settings(acknowledgement, mode), seed % 16 == 14));
        let mut twins =
            Self { both, rng: Rng::from_u64(seed), next: 1, message_count: 0, chunk_count: 0, open: Vec::new() };
        twins.both[1].world.relay.takes_no_shortcut = true;
        twins
    }

    /// One chunk of a message, now and then one that is special in some way.
    fn chunk(&mut self) -> Vec<u8> {
        let special = if self.rng.below(8) == 0 { self.rng.below(26) } else { u64::MAX };
        self.chunk_count += 1;
        let n = self.chunk_count;
        let tid = match special {
            0 => format!("t{n:x}x"),
            1 => format!("t{n:032}")[..32].to_owned(),
            2 => format!("t{n:07}a=.+-%zzz"),
            // Wrong characters, but not in most runs: they end the connection.
            3 if n.is_multiple_of(16) => format!("t{n:07}/bcdefgh"),
            _ => format!("t{n:07}abcdefgh"),
        };
        let (to, _) = self.both[0].a_paths();
        let (to, from) = match special {
            4 => (self.both[0].world.relay.uri(self.both[0].id, Side::Originating).to_owned(), A_PATH.to_owned()),
            5 => (to, format!("msrp://relay.example:1/r;tcp {A_PATH}")),
            6 => (format!("{to}x"), A_PATH.to_owned()),
            _ => (to, A_PATH.to_owned()),
        };
        let mut len = 1 + self.rng.below(400);
        if special == 7 {
            len = 5_000;
        }
        if self.next + len > TOTAL || special == 8 {
            (self.next, self.message_count) = (1, self.message_count + 1);
        }
        let (start, end) = (self.next, self.next + len - 1);
        self.next += len;
        let mut body = noise(u64::from(n), len as usize);
        match special {
            9 => body.clear(),
            10 => body.push(b'x'),
            11 => drop(body.pop()),
            12 => {
                body.splice(..0, format!("-------{tid}+\r\n").into_bytes());
                body.truncate(len as usize);
            }
            13 => {
                body.extend_from_slice(format!("\r\n-------{tid}+\r\nMSRP ").as_bytes());
                body = body.split_off(body.len() - len as usize);
            }
            _ => {}
        }
        let range = match special {
            14 => format!("{start}-*/{TOTAL}"),
            15 => format!("{start}-{end}/*"),
            16 => format!("{start}-{end}/99999999"),
            17 => format!("0{start}-{end}/{TOTAL}"),
            18 => format!("{}-{start}/{TOTAL}", start + 1),
            19 => format!("{start}-{end}0000/{TOTAL}"),
            _ => format!("{start}-{end}/{TOTAL}"),
        };
        let id = if special == 20 { u32::MAX } else { self.message_count };
        let mut fields = format!("Message-ID: m{id}\r\nByte-Range: {range}\r\n");
        match special {
            21 => fields += "Failure-Report: no\r\n",
            22 => fields += "Failure-Report: partial\r\n",
            23 => fields += "Success-Report: yes\r\n",
            _ => {}
        }
        fields += "Content-Type: message/cpim\r\n";
        let flag = match special {
            24 => '#',
            25 => '$',
            _ if self.next > TOTAL - 400 => '$',
            _ => '+',
        };
        let body = (special != 9 || n.is_multiple_of(2)).then_some(&body[..]);
        request(&tid, "SEND", &to, &from, &fields, body, flag)
    }

    /// B answers some of what it has, mostly in order and with 200.
    fn answers(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let to = self.both[0].world.relay.uri(self.both[0].id, Side::Terminating).to_owned();
        for _ in 0..self.rng.below(12) {
            if self.open.is_empty() {
                break;
            }
            let special = self.rng.below(40);
            let at = if special == 0 { self.rng.below(self.open.len() as u64) as usize } else { 0 };
            let chunk = self.open.remove(at);
            if chunk.field("Failure-Report") == "no" || special == 1 {
                continue;
            }
            let status = match special {
                2 => "200",
                3 => "413 Stop",
                4 => "408 Timeout",
                _ => "200 OK",
            };
            bytes.extend(response(&chunk.tid, status, &to, super::world::B_PATH));
            if special == 5 {
                bytes.extend(response(&chunk.tid, "200 OK", &to, super::world::B_PATH));
            }
        }
        bytes
    }

    /// The same bytes arrive on both; then both are the same. False when the connection was closed.
    fn write(&mut self, is_a: bool, bytes: &[u8]) -> bool {
        for bridge in &mut self.both {
            let conn = if is_a { bridge.a } else { bridge.b };
            bridge.world.write(conn, bytes);
        }
        let [one, other] = &mut self.both;
        assert_eq!(one.world.events, other.world.events);
        assert_eq!(one.world.relay.take_counts(), other.world.relay.take_counts());
        assert_eq!(one.world.relay.poll_timeout(), other.world.relay.poll_timeout());
        let session = |bridge: &Bridge| format!("{:?}", bridge.world.relay.sessions.get(bridge.id));
        assert_eq!(session(one), session(other));
        let mut heard_b = Vec::new();
        for conn in [one.a, one.b] {
            let (heard, expected) = (one.world.heard_bytes(conn), other.world.heard_bytes(conn));
            assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(&expected));
            assert_eq!(heard, expected);
            heard_b = heard;
            let (one, other) = (one.world.wire(conn), other.world.wire(conn));
            assert_eq!((one.is_paused, one.is_closed), (other.is_paused, other.is_closed));
            if one.is_closed {
                return false;
            }
        }
        self.open.extend(parse(&heard_b));
        true
    }
}

#[test]
fn the_shortcut_for_what_repeats_leads_to_the_same_place() {
    let mut short_count = 0;
    for seed in 0..120 {
        let mut twins = Twins::new(seed);
        for _ in 0..25 {
            let count = twins.rng.below(12);
            let bytes: Vec<u8> = (0..count).flat_map(|_| twins.chunk()).collect();
            if !twins.write(true, &bytes) {
                break;
            }
            let answers = twins.answers();
            if !twins.write(false, &answers) {
                break;
            }
        }
        let [one, other] = twins.both.each_ref().map(|bridge| bridge.world.relay.shortcut_count);
        short_count += one;
        assert_eq!(other, 0);
    }
    assert!(short_count > 400, "the shortcut is taken: {short_count}");
}
