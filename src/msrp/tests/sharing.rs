//! Several sessions on one connection.

use super::world::{A_PATH, Chunk, World, noise, request, response, settings};
use crate::base::id::ConnId;
use crate::base::rng::Rng;
use crate::msrp::news::{Event, Purpose, Role, SessionId, Side};
use crate::msrp::settings::{Acknowledgement, PathMode};
use std::collections::BTreeMap;

/// Sessions of different senders to one receiver's connection.
struct Trunk {
    world: World,
    sessions: Vec<(SessionId, ConnId)>,
    b: ConnId,
}

fn b_path(n: usize) -> String {
    format!("msrp://b.example:7/s{n};tcp")
}

impl Trunk {
    fn new(seed: u64, count: usize) -> Self {
        let mut world = World::new(seed, settings(Acknowledgement::EndToEnd, PathMode::Prepend));
        let addr = ["192.0.2.7:7".parse().unwrap()];
        let mut sessions = Vec::new();
        for n in 0..count {
            let id = world.open(Purpose::Bridge { record: false });
            world.negotiate(id, Side::Originating, A_PATH, Role::Passive, &[]);
            world.negotiate(id, Side::Terminating, &b_path(n), Role::Active, &addr);
            world.relay.start(id, world.now);
            let a = world.accept();
            world.bind(a, id, Side::Originating, A_PATH);
            sessions.push((id, a));
        }
        let b = world.connect();
        for (n, binding) in world.heard(b).into_iter().enumerate() {
            let own = world.relay.uri(sessions[n].0, Side::Terminating).to_owned();
            world.write(b, &response(&binding.tid, "200 OK", &own, &b_path(n)));
        }
        Self { world, sessions, b }
    }

    fn bytes(&self, n: usize, tid: &str, range: &str, body: &[u8], flag: char) -> Vec<u8> {
        let to = self.world.relay.uri(self.sessions[n].0, Side::Originating);
        let fields = format!("Message-ID: m{n}\r\nByte-Range: {range}\r\nContent-Type: message/cpim\r\n");
        request(tid, "SEND", to, A_PATH, &fields, Some(body), flag)
    }

    fn answer(&mut self, chunk: &Chunk, status: &str) {
        let n: usize = chunk.field("Message-ID")[1..].parse().unwrap();
        let own = self.world.relay.uri(self.sessions[n].0, Side::Terminating).to_owned();
        self.world.write(self.b, &response(&chunk.tid, status, &own, &b_path(n)));
    }
}

#[test]
fn a_long_chunk_is_interrupted_for_another_session_and_goes_on() {
    for seed in 0..10 {
        let mut trunk = Trunk::new(seed, 2);
        let body = noise(1, 9_000);
        let long = trunk.bytes(0, "aaaa1111", "1-9000/9000", &body, '$');
        let (first, second) = (trunk.sessions[0].1, trunk.sessions[1].1);
        trunk.world.write(first, &long[..5_000]);
        let short = trunk.bytes(1, "bbbb1111", "1-4/4", b"body", '$');
        trunk.world.write(second, &short);
        trunk.world.write(first, &long[5_000..]);
        let heard = trunk.world.heard(trunk.b);
        let flags: String = heard.iter().map(|chunk| chunk.flag).collect();
        assert_eq!(flags, "+$$");
        let part_len = heard[0].body.as_ref().unwrap().len();
        assert_eq!((heard[0].field("Byte-Range"), heard[1].field("Message-ID")), ("1-*/9000", "m1"));
        assert_eq!(heard[2].field("Byte-Range"), format!("{}-*/9000", part_len + 1));
        assert_eq!(heard[2].field("Content-Type"), "message/cpim");
        assert_eq!([heard[0].body.clone().unwrap(), heard[2].body.clone().unwrap()].concat(), body);
        assert_ne!(heard[0].tid, heard[2].tid);
        trunk.answer(&heard[0], "200 OK");
        trunk.answer(&heard[1], "200 OK");
        assert!(trunk.world.heard(first).is_empty(), "half of it is not all of it");
        assert_eq!(trunk.world.heard(second)[0].tid, "bbbb1111");
        trunk.answer(&heard[2], "200 OK");
        assert_eq!((trunk.world.heard(first)[0].status(), trunk.world.heard(first).len()), (200, 0));
    }
}

#[test]
fn the_worst_of_the_parts_is_what_the_sender_hears() {
    let mut trunk = Trunk::new(3, 2);
    let long = trunk.bytes(0, "aaaa1111", "1-9000/9000", &noise(1, 9_000), '$');
    let (first, second) = (trunk.sessions[0].1, trunk.sessions[1].1);
    trunk.world.write(first, &long[..5_000]);
    let short = trunk.bytes(1, "bbbb1111", "1-4/4", b"body", '$');
    trunk.world.write(second, &short);
    trunk.world.write(first, &long[5_000..]);
    let heard = trunk.world.heard(trunk.b);
    trunk.answer(&heard[2], "200 OK");
    trunk.answer(&heard[0], "415");
    let heard = trunk.world.heard(first);
    assert_eq!((heard.len(), heard[0].status()), (1, 415));
}

#[test]
fn a_chunk_whose_end_is_promised_is_waited_for() {
    // The second session joins the connection when a chunk with a numeric end is open already.
    let mut trunk = Trunk::new(4, 1);
    let long = trunk.bytes(0, "aaaa1111", "1-9000/9000", &noise(1, 9_000), '$');
    let first = trunk.sessions[0].1;
    trunk.world.write(first, &long[..5_000]);
    let id = trunk.world.open(Purpose::Bridge { record: false });
    trunk.world.negotiate(id, Side::Originating, A_PATH, Role::Passive, &[]);
    trunk.world.negotiate(id, Side::Terminating, &b_path(1), Role::Active, &["192.0.2.7:7".parse().unwrap()]);
    trunk.world.relay.start(id, trunk.world.now);
    let second = trunk.world.accept();
    trunk.world.bind(second, id, Side::Originating, A_PATH);
    trunk.sessions.push((id, second));
    trunk.world.write(first, &long[5_000..]);
    let heard = trunk.world.heard(trunk.b);
    assert_eq!(heard.len(), 2, "the binding follows the chunk");
    assert_eq!((heard[0].field("Byte-Range"), heard[1].body.as_ref()), ("1-9000/9000", None));
}

#[test]
fn an_interrupted_chunk_can_be_aborted() {
    let mut trunk = Trunk::new(5, 2);
    let long = trunk.bytes(0, "aaaa1111", "1-9000/9000", &noise(1, 9_000), '$');
    let (first, second) = (trunk.sessions[0].1, trunk.sessions[1].1);
    trunk.world.write(first, &long[..5_000]);
    let short = trunk.bytes(1, "bbbb1111", "1-4/4", b"body", '$');
    trunk.world.write(second, &short);
    trunk.world.close(first);
    let flags: String = trunk.world.heard(trunk.b).iter().map(|chunk| chunk.flag).collect();
    assert_eq!(flags, "+$#");
}

#[test]
fn a_response_does_not_wait_for_a_long_chunk() {
    // One peer connection carries the receiving side of one session and the sending side of another.
    let mut trunk = Trunk::new(6, 2);
    let addr = ["192.0.2.8:8".parse().unwrap()];
    let back = trunk.world.open(Purpose::Bridge { record: false });
    trunk.world.negotiate(back, Side::Originating, "msrp://b.example:7/back;tcp", Role::Passive, &[]);
    trunk.world.negotiate(back, Side::Terminating, "msrp://c.example:8/c;tcp", Role::Active, &addr);
    trunk.world.relay.start(back, trunk.world.now);
    trunk.world.run();
    let c = trunk.world.connect();
    let binding = trunk.world.heard(c).remove(0);
    let own_c = trunk.world.relay.uri(back, Side::Terminating).to_owned();
    trunk.world.write(c, &response(&binding.tid, "200 OK", &own_c, "msrp://c.example:8/c;tcp"));
    let own = trunk.world.relay.uri(back, Side::Originating).to_owned();
    let fields = "Message-ID: m\r\nContent-Type: message/cpim\r\n";
    let bytes = request("cccc1111", "SEND", &own, "msrp://b.example:7/back;tcp", fields, Some(b"x"), '$');
    let b = trunk.b;
    trunk.world.write(b, &bytes);
    let passed = trunk.world.heard(c).remove(0);
    let long = trunk.bytes(0, "aaaa1111", "1-9000/9000", &noise(1, 9_000), '$');
    let first = trunk.sessions[0].1;
    trunk.world.write(first, &long[..5_000]);
    trunk.world.write(c, &response(&passed.tid, "200 OK", &own_c, "msrp://c.example:8/c;tcp"));
    let heard = trunk.world.heard(b);
    assert_eq!((heard[0].flag, heard[1].tid.as_str(), heard[1].status()), ('+', "cccc1111", 200));
    trunk.world.write(first, &long[5_000..]);
    assert_eq!(trunk.world.heard(b)[0].flag, '$');
}

#[test]
fn many_senders_share_a_connection_and_every_body_arrives() {
    for seed in 0..12 {
        let count = 5;
        let mut trunk = Trunk::new(seed, count);
        let mut rng = Rng::from_u64(seed);
        let len = (trunk.world.cut_max * 500).clamp(3_000, 30_000);
        let bodies: Vec<Vec<u8>> = (0..count).map(|n| noise(seed * 10 + n as u64, len)).collect();
        // Each sender's stream: its message in chunks of various sizes.
        let mut streams: Vec<Vec<u8>> = Vec::new();
        for (n, body) in bodies.iter().enumerate() {
            let (mut stream, mut at, mut k) = (Vec::new(), 0, 0);
            while at < len {
                let end = (at + 1 + rng.below(6_000) as usize).min(len);
                let range =
                    if rng.below(3) == 0 { format!("{}-*/{len}", at + 1) } else { format!("{}-{end}/{len}", at + 1) };
                let flag = if end == len { '$' } else { '+' };
                stream.extend(trunk.bytes(n, &format!("tid{n}{k:04}"), &range, &body[at..end], flag));
                (at, k) = (end, k + 1);
            }
            streams.push(stream);
        }
        let mut sent: Vec<usize> = vec![0; count];
        let mut arrived: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        while sent.iter().zip(&streams).any(|(at, stream)| *at < stream.len()) {
            let n = rng.below(count as u64) as usize;
            let end = (sent[n] + 1 + rng.below(4_000) as usize).min(streams[n].len());
            let part = streams[n][sent[n]..end].to_vec();
            sent[n] = end;
            let conn = trunk.sessions[n].1;
            trunk.world.write(conn, &part);
        }
        let heard = trunk.world.heard(trunk.b);
        for chunk in &heard {
            let n: usize = chunk.field("Message-ID")[1..].parse().unwrap();
            let body = arrived.entry(n).or_default();
            let start: usize = chunk.field("Byte-Range").split('-').next().unwrap().parse().unwrap();
            assert_eq!(start, body.len() + 1, "in order");
            body.extend_from_slice(chunk.body.as_ref().unwrap());
        }
        for (n, body) in bodies.iter().enumerate() {
            assert!(arrived[&n] == *body, "seed {seed}, sender {n}");
        }
        for chunk in &heard {
            trunk.answer(chunk, "200 OK");
        }
        for ((id, conn), stream) in trunk.sessions.clone().into_iter().zip(&streams) {
            let answers = trunk.world.heard(conn);
            let asked = parse_count(stream);
            assert_eq!(answers.len(), asked);
            assert!(answers.iter().all(|answer| answer.status() == 200));
            trunk.world.relay.end(id, trunk.world.now);
        }
        trunk.world.run();
        assert!(!trunk.world.events.iter().any(|event| matches!(event, Event::Lost { .. })));
        trunk.world.assert_empty();
    }
}

fn parse_count(stream: &[u8]) -> usize {
    super::world::parse(stream).len()
}
