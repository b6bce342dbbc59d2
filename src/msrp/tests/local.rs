//! Messages taken into the spool, and messages sent from it.

use super::world::{A_PATH, B_PATH, Chunk, World, noise, request, response, settings};
use crate::base::id::ConnId;
use crate::base::limits::SPOOL_WINDOW_LEN;
use crate::msrp::news::{Event, Purpose, Role, SessionId, Side, SourceMessage, Why};
use crate::msrp::settings::{Acknowledgement, PathMode};
use bytes::Bytes;
use std::time::Duration;

struct Spooled {
    world: World,
    id: SessionId,
    a: ConnId,
}

impl Spooled {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, settings(Acknowledgement::EndToEnd, PathMode::Prepend));
        let id = world.open(Purpose::Spool);
        world.negotiate(id, Side::Originating, A_PATH, Role::Passive, &[]);
        world.relay.start(id, world.now);
        let a = world.accept();
        world.bind(a, id, Side::Originating, A_PATH);
        world.events.clear();
        Self { world, id, a }
    }

    fn send(&mut self, tid: &str, range: &str, more: &str, body: Option<&[u8]>, flag: char) {
        let to = self.world.relay.uri(self.id, Side::Originating).to_owned();
        let fields = format!("Message-ID: m\r\nByte-Range: {range}\r\n{more}Content-Type: message/cpim\r\n");
        self.world.write(self.a, &request(tid, "SEND", &to, A_PATH, &fields, body, flag));
    }

    fn codes(&mut self) -> Vec<u16> {
        self.world.heard(self.a).iter().map(Chunk::status).collect()
    }

    fn file(&mut self, len: usize) -> Vec<u8> {
        let mut file = vec![0; len];
        for event in self.world.events.drain(..) {
            match event {
                Event::Piece { offset, bytes, .. } => {
                    file[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
                }
                Event::Complete { total, .. } => assert_eq!(total, len as u64),
                other => panic!("{other:?}"),
            }
        }
        file
    }
}

#[test]
fn chunks_are_acknowledged_as_they_come_and_the_last_when_it_is_safe() {
    for seed in 0..10 {
        let mut spooled = Spooled::new(seed);
        let body = noise(seed, 20_000);
        spooled.send("aaaa1111", "1-10000/20000", "Success-Report: yes\r\n", Some(&body[..10_000]), '+');
        assert_eq!(spooled.codes(), [200]);
        spooled.send("aaaa2222", "10001-20000/20000", "Success-Report: yes\r\n", Some(&body[10_000..]), '$');
        assert!(spooled.codes().is_empty());
        assert!(matches!(spooled.world.events.last(), Some(Event::Complete { total: 20_000, .. })));
        assert!(spooled.file(20_000) == body);
        spooled.world.relay.committed(spooled.id, Ok(()), spooled.world.now);
        spooled.world.run();
        let heard = spooled.world.heard(spooled.a);
        assert_eq!((heard[0].tid.as_str(), heard[0].status()), ("aaaa2222", 200));
        assert_eq!((heard[1].what.as_str(), heard[1].field("Status")), ("REPORT", "000 200 OK"));
        assert_eq!(heard[1].field("Byte-Range"), "1-20000/20000");
        assert_eq!(heard[1].field("From-Path"), spooled.world.relay.uri(spooled.id, Side::Originating));
        spooled.world.relay.end(spooled.id, spooled.world.now);
        spooled.world.run();
        spooled.world.assert_empty();
    }
}

#[test]
fn pieces_in_any_order_make_a_message_and_the_last_one_waits() {
    let mut spooled = Spooled::new(1);
    spooled.send("aaaa1111", "5-8/12", "", Some(b"5678"), '+');
    spooled.send("aaaa2222", "9-12/12", "", Some(b"9abc"), '$');
    assert_eq!(spooled.codes(), [200, 200]);
    spooled.send("aaaa3333", "1-5/12", "", Some(b"12345"), '+');
    assert!(spooled.codes().is_empty());
    assert_eq!(spooled.file(12), b"123456789abc");
    spooled.world.relay.committed(spooled.id, Err(413), spooled.world.now);
    spooled.world.run();
    assert_eq!(spooled.codes(), [413]);
}

#[test]
fn a_message_of_unknown_length_ends_with_its_last_chunk() {
    let mut spooled = Spooled::new(2);
    spooled.send("aaaa1111", "1-*/*", "Failure-Report: no\r\n", Some(b"1234"), '+');
    spooled.send("aaaa2222", "5-*/*", "Failure-Report: no\r\n", Some(b"5678"), '$');
    assert_eq!(spooled.file(8), b"12345678");
    spooled.world.relay.committed(spooled.id, Ok(()), spooled.world.now);
    spooled.world.run();
    assert!(spooled.codes().is_empty(), "no response is wanted");
}

#[test]
fn the_next_message_waits_for_the_disk() {
    let mut spooled = Spooled::new(3);
    spooled.send("aaaa1111", "1-4/4", "", Some(b"1234"), '$');
    spooled.send("aaaa2222", "1-4/4", "", Some(b"5678"), '$');
    assert!(spooled.codes().is_empty());
    assert_eq!(spooled.file(4), b"1234");
    let a = spooled.a;
    assert!(spooled.world.wire(a).is_paused);
    spooled.world.relay.committed(spooled.id, Ok(()), spooled.world.now);
    spooled.world.run();
    assert_eq!(spooled.codes(), [200]);
    assert_eq!(spooled.file(4), b"5678");
}

#[test]
fn an_abort_is_acknowledged_and_voids_what_came() {
    let mut spooled = Spooled::new(4);
    spooled.send("aaaa1111", "1-4/12", "", Some(b"1234"), '+');
    spooled.send("aaaa2222", "5-8/12", "", Some(b"56"), '#');
    assert_eq!(spooled.codes(), [200, 200]);
    assert_eq!(spooled.world.events.last(), Some(&Event::Aborted { id: spooled.id }));
    spooled.send("aaaa3333", "1-4/12", "", Some(b"1234"), '+');
    let a = spooled.a;
    spooled.world.close(a);
    let id = spooled.id;
    let end = [Event::Aborted { id }, Event::Lost { id, side: Side::Originating, why: Why::Closed }];
    assert!(spooled.world.events.ends_with(&end), "{:?}", spooled.world.events);
    spooled.world.relay.end(id, spooled.world.now);
    spooled.world.assert_empty();
}

#[test]
fn the_disk_stops_the_sender() {
    let mut spooled = Spooled::new(5);
    spooled.world.cut_max = 70_000;
    let len = 3 << 20;
    let body = noise(5, len);
    spooled.send("aaaa1111", &format!("1-{len}/{len}"), "", Some(&body), '$');
    let a = spooled.a;
    let mut file = Vec::new();
    let mut rounds = 0;
    while !matches!(spooled.world.events.last(), Some(Event::Complete { .. })) {
        assert!(spooled.world.wire(a).is_paused);
        let pieces: Vec<Event> = spooled.world.events.drain(..).collect();
        let mut out = 0;
        for event in pieces {
            let Event::Piece { bytes, .. } = event else { panic!() };
            out += bytes.len();
            file.extend_from_slice(&bytes);
        }
        assert!(out <= SPOOL_WINDOW_LEN + 70_000);
        spooled.world.relay.written(spooled.id, out);
        spooled.world.run();
        rounds += 1;
        assert!(rounds < 10);
    }
    assert!(rounds >= 2);
    for event in spooled.world.events.drain(..) {
        if let Event::Piece { bytes, .. } = event {
            file.extend_from_slice(&bytes);
        }
    }
    assert!(file == body);
}

struct Sending {
    world: World,
    id: SessionId,
    b: ConnId,
    body: Vec<u8>,
}

impl Sending {
    fn new(seed: u64, len: usize, offset: u64) -> Self {
        let mut world = World::new(seed, settings(Acknowledgement::EndToEnd, PathMode::Prepend));
        world.cut_max = world.cut_max.max(100);
        let id = world.open(Purpose::Source);
        world.negotiate(id, Side::Terminating, B_PATH, Role::Active, &["192.0.2.7:7".parse().unwrap()]);
        let message = SourceMessage { message_id: "stored", content_type: "message/cpim", total: len as u64, offset };
        world.relay.submit(id, message, world.now);
        world.relay.start(id, world.now);
        world.run();
        let b = world.connect();
        let binding = world.heard(b).remove(0);
        assert_eq!(binding.field("From-Path"), world.relay.uri(id, Side::Terminating));
        assert!(world.events.iter().all(|event| matches!(event, Event::Bound { .. })), "nothing before the binding");
        world.events.clear();
        let mut sending = Self { world, id, b, body: noise(seed, len) };
        sending.answer(&binding, "200 OK");
        sending
    }

    fn answer(&mut self, chunk: &Chunk, status: &str) {
        let own = self.world.relay.uri(self.id, Side::Terminating).to_owned();
        self.world.write(self.b, &response(&chunk.tid, status, &own, B_PATH));
    }

    /// Supplies all that is asked for.
    fn supply(&mut self) -> usize {
        let mut count = 0;
        while let Some(Event::Wanted { offset, len, .. }) = self.world.events.pop() {
            let bytes = &self.body[offset as usize..offset as usize + len as usize];
            self.world.relay.supply(self.id, Bytes::copy_from_slice(bytes), self.world.now);
            self.world.run();
            count += 1;
        }
        count
    }
}

#[test]
fn what_the_receiver_has_acknowledged_without_a_gap_is_known_also_of_a_broken_transfer() {
    let mut sending = Sending::new(1, 400_000, 1_000);
    assert_eq!((sending.supply(), sending.world.relay.acknowledged(sending.id)), (4, 1_000));
    let chunks = sending.world.heard(sending.b);
    let chunk_len = 64 * 1024;
    for (chunk, acknowledged) in [(1, 0), (0, 2), (2, 3)] {
        sending.answer(&chunks[chunk], "200 OK");
        assert_eq!(sending.world.relay.acknowledged(sending.id), 1_000 + acknowledged * chunk_len);
    }
    sending.answer(&chunks[3], "413 Stop");
    assert_eq!(sending.world.relay.acknowledged(sending.id), 1_000 + 3 * chunk_len);
    sending.world.relay.end(sending.id, sending.world.now);
    assert_eq!(sending.world.relay.acknowledged(sending.id), 0, "the session is gone");
}

#[test]
fn a_stored_message_is_sent_in_chunks_with_a_window_of_four() {
    for seed in 0..6 {
        let mut sending = Sending::new(seed, 400_000, 0);
        assert_eq!(sending.supply(), 4);
        let mut arrived = Vec::new();
        let mut sent = None;
        while sent.is_none() {
            let chunks = sending.world.heard(sending.b);
            assert!((1..=4).contains(&chunks.len()));
            for chunk in chunks {
                let (start, end) = (arrived.len() + 1, arrived.len() + chunk.body.as_ref().unwrap().len());
                assert_eq!(chunk.field("Byte-Range"), format!("{start}-{end}/400000"));
                assert_eq!((chunk.field("Message-ID"), chunk.field("Success-Report")), ("stored", ""));
                assert_eq!(chunk.flag, if end == 400_000 { '$' } else { '+' });
                arrived.extend_from_slice(chunk.body.as_ref().unwrap());
                assert!(sent.is_none());
                sending.answer(&chunk, "200 OK");
                sent = sending.world.events.iter().find(|event| matches!(event, Event::Sent { .. })).cloned();
                if sent.is_none() {
                    sending.supply();
                }
            }
        }
        assert_eq!(sent, Some(Event::Sent { id: sending.id, status: 200 }));
        assert!(arrived == sending.body);
        sending.world.relay.end(sending.id, sending.world.now);
        sending.world.run();
        sending.world.assert_empty();
    }
}

#[test]
fn a_broken_transfer_goes_on_where_it_was() {
    let mut sending = Sending::new(1, 100_000, 65_536);
    assert_eq!(sending.supply(), 1);
    let chunk = sending.world.heard(sending.b).remove(0);
    assert_eq!((chunk.field("Byte-Range"), chunk.flag), ("65537-100000/100000", '$'));
    sending.answer(&chunk, "200 OK");
    assert_eq!(sending.world.events, [Event::Sent { id: sending.id, status: 200 }]);
}

#[test]
fn the_first_refusal_ends_the_transfer() {
    let mut sending = Sending::new(2, 400_000, 0);
    sending.supply();
    let chunks = sending.world.heard(sending.b);
    sending.answer(&chunks[0], "413");
    sending.answer(&chunks[1], "413");
    assert_eq!(sending.world.events, [Event::Sent { id: sending.id, status: 413 }]);
}

#[test]
fn an_empty_message_is_one_empty_chunk() {
    let mut sending = Sending::new(3, 0, 0);
    let chunk = sending.world.heard(sending.b).remove(0);
    assert_eq!((chunk.field("Byte-Range"), chunk.body.as_deref(), chunk.flag), ("1-0/0", Some(&b""[..]), '$'));
    sending.answer(&chunk, "200 OK");
    assert_eq!(sending.world.events, [Event::Sent { id: sending.id, status: 200 }]);
}

#[test]
fn a_silent_receiver_ends_the_transfer() {
    let mut sending = Sending::new(4, 1_000, 0);
    sending.supply();
    sending.world.pass(Duration::from_secs(31));
    let id = sending.id;
    let lost = Event::Lost { id, side: Side::Terminating, why: Why::Silence };
    assert_eq!(sending.world.events, [Event::Sent { id, status: 408 }, lost]);
}
