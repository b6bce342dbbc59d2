//! What setting up and ending a session of large message mode costs the core: INVITE, 200, ACK, BYE and 200 in, as many
//! out, without sockets.
//!
//! One run of it is what callgrind counts: `valgrind --tool=callgrind --toggle-collect='*handle_message*'` on the program
//! with `--test`.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::participating::core::Core;
use ringpost::participating::effect::Effect;
use ringpost::participating::subscriber::Subscriber;
use ringpost::testing::directory::MapDirectory;
use ringpost::testing::scene;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The sender's S-CSCF.
const SENDER: SocketAddr = scene::address([192, 0, 2, 7], 6060);
/// Sessions that are on their way at a time.
const WINDOW: u64 = 64;

fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    let mut bench = Bench::new();
    group.bench_function("INVITE, 200, ACK, BYE, 200", |bencher| {
        bencher.iter_custom(|count| {
            let rounds = count.div_ceil(WINDOW);
            let whole: Duration = (0..rounds).map(|_| bench.round()).sum();
            whole.mul_f64(count as f64 / (rounds * WINDOW) as f64)
        });
    });
    group.finish();
}

struct Bench {
    core: Core<MapDirectory>,
    at: Duration,
    number: u64,
    sent: Vec<Bytes>,
    busy: Duration,
}

impl Bench {
    fn new() -> Self {
        let directory = MapDirectory::default();
        let devices = Box::new([scene::device("urn:uuid:1")]);
        directory.publish("sip:bob@home.example", Subscriber { devices, ..Subscriber::default() });
        let mut settings = scene::settings(0, 1);
        settings.path_mtu = 65_535;
        let core = scene::core(settings, 0, directory, 1, scene::after(Duration::ZERO));
        Self { core, at: Duration::ZERO, number: 0, sent: Vec::new(), busy: Duration::ZERO }
    }

    /// A window of sessions from beginning to end; the time that the core took.
    fn round(&mut self) -> Duration {
        self.busy = Duration::ZERO;
        let first = self.number;
        self.number += WINDOW;
        let invites = (first..self.number).map(invite).collect::<Vec<_>>();
        let forked = self.exchange(SENDER, &invites);
        let answers = forked.iter().map(|request| answer(request, Some(ANSWER))).collect::<Vec<_>>();
        let oks = self.exchange(scene::CORE, &answers);
        let acks = oks.iter().map(|ok| within(ok, "ACK", 1)).collect::<Vec<_>>();
        self.exchange(SENDER, &acks);
        let byes = oks.iter().map(|ok| within(ok, "BYE", 2)).collect::<Vec<_>>();
        let both = self.exchange(SENDER, &byes);
        let of_other = both.iter().filter(|bytes| bytes.starts_with("BYE "));
        let answers = of_other.map(|request| answer(request, None)).collect::<Vec<_>>();
        assert_eq!(answers.len() as u64, WINDOW, "every session ends on both legs");
        self.exchange(scene::CORE, &answers);
        self.at += Duration::from_millis(10);
        let begun = Instant::now();
        self.core.handle_timeout(scene::after(self.at));
        self.busy += begun.elapsed();
        self.busy
    }

    /// Messages in, messages out.
    fn exchange(&mut self, from: SocketAddr, messages: &[String]) -> Vec<String> {
        let now = scene::after(self.at);
        self.sent.clear();
        let begun = Instant::now();
        for message in messages {
            self.core.handle_message(message.as_bytes(), scene::datagram_from(from), now);
            while let Some(effect) = self.core.poll_effect() {
                if let Effect::SendDatagram { bytes, .. } = effect {
                    self.sent.push(bytes);
                }
            }
        }
        self.busy += begun.elapsed();
        assert!(self.sent.len() >= messages.len() || from == scene::CORE, "nothing stays without an answer");
        self.sent.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

fn value<'a>(message: &'a str, name: &str) -> &'a str {
    let mut lines = message.split("\r\n");
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

/// A request of the sender within the dialog of an answer.
fn within(ok: &str, method: &str, cseq: u32) -> String {
    let contact = value(ok, "Contact").split(['<', '>']).nth(1).unwrap_or_default();
    let (from, to, call_id) = (value(ok, "From"), value(ok, "To"), value(ok, "Call-ID"));
    format!(
        "{method} {contact} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7:6060;branch=z9hG4bK{method}{call_id};rport\r\n\
         Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// The recipient's answer to a request of the core.
fn answer(request: &str, body: Option<&str>) -> String {
    let field = |name| format!("{name}: {}\r\n", value(request, name));
    let tag = if value(request, "To").contains("tag=") { "" } else { ";tag=bob" };
    let body = body.map_or("Content-Length: 0\r\n\r\n".to_owned(), |body| {
        format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    format!(
        "SIP/2.0 200 OK\r\n{}Record-Route: <sip:scscf@192.0.2.9:5070;lr;transport=udp>\r\n{}To: {}{tag}\r\n{}{}\
         Contact: <sip:bob@192.0.2.9:5070;transport=udp>;+g.3gpp.icsi-ref=\"{ICSI}\"\r\n\
         Server: CPM-client/OMA2.2 RCS-client/UP_2.4 load/1.0\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, MESSAGE\r\n{body}",
        field("Via"),
        field("From"),
        value(request, "To"),
        field("Call-ID"),
        field("CSeq"),
    )
}

/// The sender's INVITE as an S-CSCF sends it on.
fn invite(number: u64) -> String {
    format!(
        "INVITE sip:bob@home.example SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.7:6060;branch=z9hG4bK{number:016x};rport\r\n\
         Via: SIP/2.0/UDP icscf.home.example:5060;branch=z9hG4bK4b43c2ff8.1;received=192.0.2.11\r\n\
         Via: SIP/2.0/UDP pcscf.a.example:5060;branch=z9hG4bK240f34.1;received=192.0.2.12\r\n\
         Via: SIP/2.0/UDP 192.0.2.77:5060;branch=z9hG4bKnashds7\r\n\
         Max-Forwards: 67\r\n\
         Route: <sip:term@192.0.2.1:5060;lr>\r\n\
         Route: <sip:orig-7c3f@192.0.2.9:5070;lr;transport=udp>\r\n\
         Record-Route: <sip:scscf@192.0.2.7:6060;lr;transport=udp>\r\n\
         From: \"Alice\" <sip:alice@a.example>;tag=lta{number:08x}\r\n\
         To: <sip:bob@home.example>\r\n\
         Call-ID: {number:016x}@a.example\r\n\
         CSeq: 1 INVITE\r\n\
         Contact: <sip:alice@192.0.2.7:6060;transport=udp>;+g.3gpp.icsi-ref=\"{ICSI}\"\r\n\
         P-Asserted-Identity: \"Alice\" <sip:alice@a.example>, <tel:+15550123>\r\n\
         P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg\r\n\
         P-Charging-Vector: icid-value=\"AyretyU0dm+6O2IrT5tAFrbHLso=023551024\";orig-ioi=a.example\r\n\
         Accept-Contact: *;+g.3gpp.icsi-ref=\"{ICSI}\";require;explicit\r\n\
         User-Agent: CPM-client/OMA2.2 RCS-client/UP_2.4 load/1.0\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, MESSAGE\r\n\
         Conversation-ID: f81d4fae-7dec-11d0-a765-00a0c91e6bf6\r\n\
         Contribution-ID: abcdef-1234-5678-90ab-cdef01234567\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{OFFER}",
        OFFER.len()
    )
}

const ICSI: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg";
const OFFER: &str = "v=0\r\no=- 1000001 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n\
    m=message 7000 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\na=sendonly\r\n\
    a=setup:actpass\r\na=path:msrp://192.0.2.7:7000/sender0000001;tcp\r\n";
const ANSWER: &str = "v=0\r\no=- 1000001 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n\
    m=message 7001 TCP/MSRP *\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\na=recvonly\r\n\
    a=setup:active\r\na=path:msrp://192.0.2.9:7001/receiver000001;tcp\r\n";

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    targets = sessions
}
criterion_main!(benches);
