//! What one CPM MESSAGE costs: scan, judgement, rewriting, and a whole round through the core.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::participating::core::Core;
use ringpost::participating::effect::Effect;
use ringpost::participating::subscriber::Subscriber;
use ringpost::sip::message::Message;
use ringpost::sip::scan::Scan;
use ringpost::sip::transport::ViaStamp;
use ringpost::sip::write::{self, Forward, Response};
use ringpost::testing::directory::MapDirectory;
use ringpost::testing::scene;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

fn parts(criterion: &mut Criterion) {
    let bytes = scene::cpm_message(1);
    let mut group = criterion.benchmark_group("CPM MESSAGE");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut scan = Scan::default();
    group.bench_function("scan", |bencher| bencher.iter(|| scan.scan(black_box(&bytes))));
    assert!(scan.scan(&bytes).is_ok() && scan.fault.is_none());
    assert!((28..34).contains(&scan.fields.len()), "{} fields", scan.fields.len());
    let view = Message { bytes: &bytes, scan: &scan };
    group.bench_function("check_request", |bencher| bencher.iter(|| black_box(view).check_request().is_ok()));
    let mut out = Vec::with_capacity(4096);
    let stamp = ViaStamp { received: Some(scene::CORE.ip()), rport: Some(5060) };
    group.bench_function("forward_request", |bencher| {
        let via = b"SIP/2.0/UDP 192.0.2.1:5080;branch=z9hG4bKrp000000000000000000000000000000000000";
        let edit = Forward { via, stamp, max_forwards: 65, pop_routes: 1, ..Forward::default() };
        bencher.iter(|| {
            out.clear();
            write::forward_request(&mut out, black_box(&view), &edit);
            out.len()
        });
    });
    group.bench_function("response", |bencher| {
        let answer = Response { status: 202, reason: "Accepted", to_tag: b"0123456789abcdef", stamp, extra: b"" };
        bencher.iter(|| {
            out.clear();
            write::response(&mut out, black_box(&view), &answer);
            out.len()
        });
    });
    let answer = Response { status: 200, reason: "OK", to_tag: b"tag", ..Response::default() };
    out.clear();
    write::response(&mut out, &view, &answer);
    let (response, mut back) = (out.clone(), Vec::with_capacity(4096));
    group.bench_function("scan and forward_response", |bencher| {
        bencher.iter(|| {
            back.clear();
            let _ = scan.scan(black_box(&response));
            write::forward_response(&mut back, &Message { bytes: &response, scan: &scan }, None);
            back.len()
        });
    });
    group.finish();
}

/// 20 rules, none of which rejects Alice.
fn policy() -> String {
    let rules: String = (0..20)
        .map(|n| {
            format!(
                "<cr:rule id=\"r{n}\"><cr:conditions><cr:identity><cr:one id=\"sip:mallory{n}@evil.example\"/>\
                 <cr:many domain=\"spam{n}.example\"><cr:except id=\"sip:friend@spam{n}.example\"/></cr:many></cr:identity>\
                 <oxe:service-list><oxe:service featuretag=\"+g.oma.sip-cpm\"/></oxe:service-list>\
                 <oxe:media-list><oxe:pager-mode-message/></oxe:media-list></cr:conditions>\
                 <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions></cr:rule>"
            )
        })
        .collect();
    format!(
        "<cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\" xmlns:oxe=\"urn:oma:xml:xdm:extensions\">{rules}</cr:ruleset>"
    )
}

struct NoLists;
impl ringpost::documents::Lists for NoLists {
    fn members(&self, _: &str) -> Option<Arc<ringpost::participating::policy::MemberSet>> {
        None
    }
}

/// A core with Bob registered, and the time it lives at.
struct Round {
    core: Core<MapDirectory>,
    time: Duration,
    number: u64,
    response: Vec<u8>,
}

impl Round {
    fn new() -> Self {
        let directory = MapDirectory::default();
        let policy = ringpost::documents::compile_access_policy(policy().as_bytes(), &NoLists).expect("well-formed");
        let devices = Box::new([scene::device("urn:uuid:1")]);
        let policy = Some(Arc::new(policy));
        directory.publish("sip:bob@home.example", Subscriber { policy, devices, ..Subscriber::default() });
        let mut settings = scene::settings(0, 1);
        settings.path_mtu = 65_535;
        let time = Duration::from_secs(1);
        let core = scene::core(settings, 0, directory, 7, scene::after(time));
        Self { core, time, number: 0, response: Vec::with_capacity(4096) }
    }

    /// MESSAGE in, forwarded request out, 200 in, 200 out; a millisecond goes by, so that old transactions end.
    fn go(&mut self, message: &mut [u8], places: &[usize]) -> usize {
        self.number += 1;
        let number = format!("{:016x}", self.number);
        for place in places {
            message[*place..*place + 16].copy_from_slice(number.as_bytes());
        }
        self.time += Duration::from_millis(1);
        let now = scene::after(self.time);
        let peer = scene::datagram_from(scene::address([192, 0, 2, 7], 5060));
        self.core.handle_message(message, peer, now);
        let Some(Effect::SendDatagram { bytes, .. }) = self.core.poll_effect() else { panic!("it is forwarded") };
        // The Vias and what else a response copies are all in front: a response is a request with another first line.
        self.response.clear();
        self.response.extend_from_slice(b"SIP/2.0 200 OK\r\n");
        let head = memchr::memmem::find(&bytes, b"P-Asserted-Identity").expect("the fields behind CSeq");
        let first = memchr::memchr(b'\n', &bytes).expect("a first line") + 1;
        self.response.extend_from_slice(&bytes[first..head]);
        self.response.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        self.core.handle_message(&self.response, scene::datagram_from(scene::CORE), now);
        let Some(Effect::SendDatagram { bytes, .. }) = self.core.poll_effect() else { panic!("it is answered") };
        if self.core.poll_timeout().is_some_and(|(at, _)| at <= now.at) {
            self.core.handle_timeout(now);
            while self.core.poll_effect().is_some() {}
        }
        bytes.len()
    }
}

fn core(criterion: &mut Criterion) {
    let mut message = scene::cpm_message(0);
    let mark = b"0000000000000000";
    let places: Vec<usize> = memchr::memmem::find_iter(&message, mark).collect();
    assert_eq!(places.len(), 4, "branch, tag, Call-ID and the message's own id");
    let mut round = Round::new();
    // All that lingers for 32 s lingers: the tables have their steady size.
    for _ in 0..33_000 {
        round.go(&mut message, &places);
    }
    criterion.bench_function("core: MESSAGE with 20 policy rules in, forwarded, 200 in, passed back", |bencher| {
        bencher.iter(|| round.go(&mut message, &places));
    });
}

criterion_group!(benches, parts, core);
criterion_main!(benches);
