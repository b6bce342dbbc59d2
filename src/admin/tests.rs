//! The HTTP side over loopback sockets.

use super::serve::{Stop, run};
use super::state::{AdminState, Patience, Traffic};
use crate::base::id::{MessageId, ShardId};
use crate::base::mailbox::Mailbox;
use crate::base::time::UnixMillis;
use crate::control::plane::{ControlSignal, Restored};
use crate::control::spool::Spool;
use crate::control::testing::{Bench, DEADLINE, START, aor_of, device};
use crate::metrics::counters::ShardMetrics;
use crate::metrics::exposition::{Row, Scrape, ScrapeAnswer};
use crate::metrics::names::{Counter, Stage};
use crate::metrics::stages::Stages;
use crate::participating::preferences::Availability;
use crate::participating::storage::{
    Command, ContentFile, DeferredMessage, Direction, Fault, Levels, MessageObject, Outcome, Reply, Shelf,
};
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const POLICY: &str = "/xcap/org.openmobilealliance.access-rules/users/sip:bob@home.example/access-rules";
const POLICY_TYPE: &str = "application/auth-policy+xml";
const RULES: &str = r#"<ruleset xmlns="urn:ietf:params:xml:ns:common-policy"/>"#;
const OTHER_RULES: &str = r#"<ruleset xmlns="urn:ietf:params:xml:ns:common-policy"><rule id="a"/></ruleset>"#;

type Headers<'a> = &'a [(&'a str, &'a str)];

/// An HTTP side on a thread of its own.
struct Server {
    bench: Bench,
    addr: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<io::Result<()>>>,
    shards: Vec<Arc<ShardMetrics>>,
    traffic: Arc<Traffic>,
}

/// The first shard answers, the second never does.
struct HalfScrape;

impl Scrape for HalfScrape {
    fn stages(&self, answer: ScrapeAnswer) {
        let mut stages = Stages::default();
        stages.record(Stage::Total, Duration::from_millis(3));
        std::thread::spawn(move || {
            answer(ShardId(0), stages);
            std::thread::park_timeout(DEADLINE);
        });
    }
}

impl Server {
    fn new() -> Self {
        Self::with(Restored::default(), Patience::default())
    }

    fn with(restored: Restored, patience: Patience) -> Self {
        let bench = Bench::restored(restored);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shards: Vec<_> = (0..2).map(|_| Arc::new(ShardMetrics::default())).collect();
        let traffic = Arc::new(Traffic::default());
        let spool_signal = ControlSignal::default();
        let state = AdminState {
            plane: bench.plane.clone(),
            mailbox: bench.mailbox.clone(),
            signal: bench.signal.clone(),
            spool: Spool {
                mailbox: Arc::new(Mailbox::new(4, Box::new(spool_signal.clone()))),
                signal: spool_signal,
                shards: bench.shards.clone(),
                directory: "no-such-directory".into(),
                disk_free_min: 0,
                file_count_max: 1,
            },
            store: bench.store.mailbox.clone(),
            shards: shards.clone(),
            scrape: Arc::new(HalfScrape),
            rows: Arc::new(|| vec![Row::counter("ringpost_store_commits_total", "commits", 5.0)]),
            xcap_root: "/xcap".into(),
            patience,
            traffic: traffic.clone(),
        };
        let stop = Stop::default();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || run(listener, state, stopped));
        Self { bench, addr, stop, thread: Some(thread), shards, traffic }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        exchange(&mut self.connect(), method, path, headers, body.as_bytes())
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    fn put(&self, path: &str, media_type: &str, body: &str) -> Answer {
        self.send("PUT", path, &[("Content-Type", media_type)], body)
    }

    fn get_json(&self, path: &str) -> serde_json::Value {
        let answer = self.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{path}");
        serde_json::from_slice(&answer.body).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn exchange(stream: &mut TcpStream, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    // A server that refuses by the head alone may close before it has read the body.
    let _ = stream.write_all(body);
    read_answer(stream, method).expect("an answer")
}

fn read_answer(stream: &mut TcpStream, method: &str) -> Option<Answer> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let len = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, len)| len.parse().unwrap());
    let mut body = vec![0; if method == "HEAD" || status == 304 { 0 } else { len }];
    stream.read_exact(&mut body).ok()?;
    Some(Answer { status, headers, body })
}

#[test]
fn xcap_answers_as_rfc_4825_says() {
    let server = Server::new();
    let created = server.put(POLICY, POLICY_TYPE, RULES);
    assert_eq!((created.status, &created.body[..]), (201, &b""[..]));
    let etag = created.header("etag").unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 10, "quoted and strong: {etag}");

    let got = server.get(POLICY);
    assert_eq!((got.status, got.text()), (200, RULES));
    assert_eq!((got.header("etag"), got.header("content-type")), (Some(&*etag), Some(POLICY_TYPE)));
    let head = server.send("HEAD", POLICY, &[], "");
    assert_eq!((head.status, head.header("etag")), (200, Some(&*etag)));
    let escaped = POLICY.replace("sip:bob@", "sip%3Abob%40");
    assert_eq!(server.get(&escaped).text(), RULES);

    let replaced = server.put(POLICY, "Application/Auth-Policy+XML; charset=utf-8", OTHER_RULES);
    assert_eq!(replaced.status, 200);
    assert_ne!(replaced.header("etag"), Some(&*etag));
    assert_eq!(server.send("DELETE", POLICY, &[], "").status, 200);
    assert_eq!(server.get(POLICY).status, 404);
}

#[test]
fn every_misuse_of_xcap_has_its_status() {
    let server = Server::new();
    assert_eq!(server.put(POLICY, POLICY_TYPE, RULES).status, 201);
    let other_user = POLICY.replace("bob", "alice");
    let lists = "/xcap/resource-lists/users/sip:bob@home.example";
    let node = format!("{POLICY}/~~/ruleset");
    let subdirectory = format!("{lists}/sub/index");
    let other_name = format!("{lists}/friends");
    let table: &[(&str, &str, Headers, &str, u16)] = &[
        ("GET", &other_user, &[], "", 404),
        ("DELETE", &other_user, &[], "", 404),
        ("PUT", POLICY, &[("Content-Type", "text/xml")], RULES, 415),
        ("PUT", POLICY, &[("Content-Type", "application/auth-policy+xmlx")], RULES, 415),
        ("PUT", POLICY, &[], RULES, 415),
        ("PUT", POLICY, &[("Content-Type", POLICY_TYPE), ("Content-Encoding", "gzip")], RULES, 415),
        ("PUT", POLICY, &[("Content-Type", POLICY_TYPE), ("Content-Range", "bytes 0-1/2")], RULES, 400),
        ("PUT", POLICY, &[("Content-Type", POLICY_TYPE)], "<ruleset", 409),
        ("PUT", POLICY, &[("Content-Type", POLICY_TYPE)], "", 409),
        ("PUT", POLICY, &[("Content-Type", POLICY_TYPE)], "<other/>", 409),
        ("POST", POLICY, &[("Content-Type", POLICY_TYPE)], RULES, 405),
        ("PATCH", POLICY, &[], "", 405),
        ("OPTIONS", POLICY, &[], "", 405),
        ("GET", &node, &[], "", 405),
        ("PUT", &node, &[("Content-Type", "application/xcap-el+xml")], "<rule/>", 405),
        ("GET", "/xcap/unheard-of/users/sip:bob@home.example/index", &[], "", 404),
        ("PUT", "/xcap/unheard-of/users/sip:bob@home.example/index", &[], "", 404),
        ("GET", "/xcap/resource-lists/users/bob/index", &[], "", 400),
        ("PUT", "/xcap/resource-lists/users/%FF/index", &[], "", 400),
        ("GET", &subdirectory, &[], "", 404),
        ("PUT", &subdirectory, &[], "", 409),
        ("GET", &other_name, &[], "", 404),
        ("DELETE", &other_name, &[], "", 404),
        ("PUT", &other_name, &[], "", 409),
        ("PUT", lists, &[], "", 409),
        ("GET", lists, &[], "", 404),
        ("GET", "/xcap/xcap-caps/global/index", &[], "", 200),
        ("PUT", "/xcap/xcap-caps/global/index", &[], "", 405),
        ("GET", "/xcap", &[], "", 404),
        ("GET", "/elsewhere", &[], "", 404),
        ("GET", POLICY, &[("If-Match", "not quoted")], "", 400),
    ];
    for (method, path, headers, body, status) in table {
        let answer = server.send(method, path, headers, body);
        assert_eq!(answer.status, *status, "{method} {path} {headers:?}");
        match status {
            405 => assert!(answer.header("allow").is_some(), "{method} {path}"),
            409 => {
                assert_eq!(answer.header("content-type"), Some("application/xcap-error+xml"));
                let report = roxmltree::Document::parse(answer.text()).unwrap();
                assert!(report.root_element().has_tag_name(("urn:ietf:params:xml:ns:xcap-error", "xcap-error")));
            }
            415 => assert_eq!(answer.header("accept"), Some(POLICY_TYPE)),
            _ => (),
        }
    }
    assert_eq!(server.get(POLICY).text(), RULES, "nothing of this changed the document");
}

#[test]
fn preconditions_decide_over_http() {
    let server = Server::new();
    let put = |headers: &[(&str, &str)], body: &str| {
        server.send("PUT", POLICY, &[&[("Content-Type", POLICY_TYPE)], headers].concat(), body)
    };
    assert_eq!(put(&[("If-Match", "*")], RULES).status, 412);
    let created = put(&[("If-None-Match", "*")], RULES);
    assert_eq!(created.status, 201);
    let first = created.header("etag").unwrap();
    assert_eq!(put(&[("If-None-Match", "*")], OTHER_RULES).status, 412);
    let unchanged = server.send("GET", POLICY, &[("If-None-Match", first)], "");
    assert_eq!((unchanged.status, unchanged.header("etag"), unchanged.body.len()), (304, Some(first), 0));
    assert_eq!(server.send("GET", POLICY, &[("If-None-Match", "\"other\"")], "").status, 200);
    assert_eq!(server.send("GET", POLICY, &[("If-Match", "\"other\"")], "").status, 412);
    let replaced = put(&[("If-Match", first)], OTHER_RULES);
    assert_eq!(replaced.status, 200);
    assert_eq!(put(&[("If-Match", first)], RULES).status, 412);
    let both = format!("{first}, {}", replaced.header("etag").unwrap());
    assert_eq!(put(&[("If-Match", &both)], RULES).status, 200);
    assert_eq!(server.send("DELETE", POLICY, &[("If-Match", "\"other\"")], "").status, 412);
    assert_eq!(server.send("DELETE", POLICY, &[("If-Match", first)], "").status, 200, "the same bytes, the same tag");
}

#[test]
fn a_document_that_attacks_the_parser_is_a_conflict() {
    let server = Server::new();
    let mut laughs = String::from("<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY lol0 \"lol\">");
    for level in 1..10 {
        let inner = format!("&lol{};", level - 1).repeat(10);
        laughs += &format!("<!ENTITY lol{level} \"{inner}\">");
    }
    laughs += "]><ruleset xmlns=\"urn:ietf:params:xml:ns:common-policy\">&lol9;</ruleset>";
    let deep = "<a>".repeat(80_000);
    for hostile in [&laughs, &deep] {
        let refused = server.put(POLICY, POLICY_TYPE, hostile);
        assert_eq!((refused.status, refused.header("content-type")), (409, Some("application/xcap-error+xml")));
    }
}

#[test]
fn a_body_over_the_limit_is_refused_however_it_is_announced() {
    let server = Server::new();
    let huge = " ".repeat(256 * 1024 + 1);
    // Announced: refused by the head, before anything of the body is sent.
    let mut stream = server.connect();
    let head = format!(
        "PUT {POLICY} HTTP/1.1\r\nHost: x\r\nContent-Type: {POLICY_TYPE}\r\nContent-Length: {}\r\n\r\n",
        huge.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, "PUT").unwrap().status, 413);
    // In chunks: refused when the limit is passed.
    let mut stream = server.connect();
    let head = format!(
        "PUT {POLICY} HTTP/1.1\r\nHost: x\r\nContent-Type: {POLICY_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(format!("{:x}\r\n{huge}\r\n", huge.len()).as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream, "PUT").unwrap().status, 413);
    // The longest that is allowed is read to the end.
    let filler = " ".repeat(256 * 1024 - RULES.len());
    assert_eq!(server.put(POLICY, POLICY_TYPE, &format!("{RULES}{filler}")).status, 201);
}

#[test]
fn garbage_is_answered_or_closed_and_harms_nobody() {
    let patience = Patience { request: Duration::from_millis(200), ..Patience::default() };
    let server = Server::with(Restored::default(), patience);
    let inputs: [&[u8]; 5] = [
        b"\x00\xff\xfe\r\n\r\n",
        b"INVITE sip:bob@x SIP/2.0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        &[b'A'; 100_000],
    ];
    for garbage in inputs {
        let mut stream = server.connect();
        let _ = stream.write_all(garbage);
        if let Some(answer) = read_answer(&mut stream, "GET") {
            assert!((400..600).contains(&answer.status));
        }
    }
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn clients_that_dawdle_are_shut_out_and_others_are_served() {
    let patience = Patience {
        request: Duration::from_millis(1500),
        body: Duration::from_millis(100),
        idle: Duration::from_millis(1500),
        ..Patience::default()
    };
    let server = Server::with(Restored::default(), patience);
    let started = Instant::now();
    let mut silent = server.connect();
    let mut no_body = server.connect();
    let head =
        format!("PUT {POLICY} HTTP/1.1\r\nHost: x\r\nContent-Type: {POLICY_TYPE}\r\nContent-Length: 100\r\n\r\n<");
    no_body.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut no_body, "PUT").unwrap().status, 408);

    // One byte at a time: each is progress, the request is not.
    let mut trickle = server.connect();
    let mut line = b"GET /healthz HTTP/1.1\r\nX: ".iter().copied().chain(std::iter::repeat(b'a'));
    while trickle.write_all(&[line.next().unwrap()]).is_ok() {
        assert!(started.elapsed() < DEADLINE, "the trickle is never stopped");
        assert_eq!(server.get("/healthz").status, 200);
    }
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0, "closed");
    assert!(server.traffic.slow.load(std::sync::atomic::Ordering::Relaxed) >= 2);
}

#[test]
fn connections_over_the_bound_are_turned_away() {
    let server = Server::with(Restored::default(), Patience { connection_count_max: 2, ..Patience::default() });
    let mut one = server.connect();
    let mut other = server.connect();
    assert_eq!(exchange(&mut one, "GET", "/healthz", &[], b"").status, 200);
    assert_eq!(exchange(&mut other, "GET", "/healthz", &[], b"").status, 200);
    let mut third = server.connect();
    assert_eq!(read_answer(&mut third, "GET").unwrap().status, 503);
    assert_eq!(exchange(&mut one, "GET", "/healthz", &[], b"").status, 200, "connections are kept alive");
    drop(other);
    let started = Instant::now();
    loop {
        // The place is free as soon as the server has noticed.
        let mut next = server.connect();
        next.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        if read_answer(&mut next, "GET").is_some_and(|answer| answer.status == 200) {
            break;
        }
        assert!(started.elapsed() < DEADLINE);
    }
}

#[test]
fn nothing_is_changed_while_the_store_cannot_commit() {
    let server = Server::new();
    server.bench.store.answer_with(|_| Err(Fault::Broken));
    let refused = server.put(POLICY, POLICY_TYPE, RULES);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let health = server.get("/healthz");
    assert_eq!(health.status, 503);
    assert!(!health.text().is_empty());
    assert_eq!(server.put("/admin/users/sip:bob@home.example/availability", "text/plain", "available").status, 503);
    server.bench.store.obey();
    assert_eq!(server.get(POLICY).status, 404);
    assert_eq!(server.get("/healthz").text(), "ok\n");
    assert_eq!(server.put(POLICY, POLICY_TYPE, RULES).status, 201);
}

#[test]
fn a_store_that_does_not_answer_is_not_waited_for() {
    let patience = Patience { store: Duration::from_millis(100), ..Patience::default() };
    let server = Server::with(Restored::default(), patience);
    server.bench.store.hold(true);
    assert_eq!(server.put(POLICY, POLICY_TYPE, RULES).status, 503);
    assert_eq!(server.get("/healthz").status, 503);
    assert_eq!(server.get(POLICY).status, 404);
    server.bench.store.hold(false);
    // The commit went through after all; what the client sees follows the store.
    let started = Instant::now();
    while server.get(POLICY).status != 200 {
        assert!(started.elapsed() < DEADLINE);
    }
}

#[test]
fn the_admin_api_shows_a_subscriber() {
    let mut phone = device("sip:bob@192.0.2.1", UnixMillis(START + 60_000));
    phone.instance = Some("urn:uuid:1".into());
    phone.q_milli = 500;
    phone.features = "+g.oma.sip-cpm".into();
    let ended = device("sip:bob@192.0.2.2", UnixMillis(START));
    let restored =
        Restored { devices: vec![(aor_of("sip:bob@home.example"), vec![phone, ended])], ..Restored::default() };
    let server = Server::with(restored, Patience::default());
    let bob = "/admin/users/sip:bob@home.example";
    let device = serde_json::json!({
        "instance": "urn:uuid:1", "contact": "sip:bob@192.0.2.1", "q": 0.5, "expires": START / 1000 + 60, "cpm": true,
        "features": "+g.oma.sip-cpm"
    });
    assert_eq!(
        server.get_json(bob),
        serde_json::json!({
            "aor": "sip:bob@home.example", "registered": true, "availability": "available",
            "devices": [device.clone()], "policy": false, "preferences": false
        })
    );
    assert_eq!(server.get_json("/admin/users/sip%3Abob%40HOME.example/devices"), serde_json::json!([device]));
    assert_eq!(server.put(POLICY, POLICY_TYPE, RULES).status, 201);
    assert_eq!(server.get_json(bob)["policy"], true);
    for (path, status) in [
        ("/admin/users/sip:nobody@home.example", 404),
        ("/admin/users/sip:nobody@home.example/devices", 404),
        ("/admin/users/sip:nobody@home.example/deferred", 404),
        ("/admin/users/bob", 400),
        ("/admin/users/sip:bob@home.example/messages/x", 400),
        ("/admin/users/sip:bob@home.example/messages/7", 404),
        ("/admin/users", 404),
    ] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
    let misused = server.send("DELETE", bob, &[], "");
    assert_eq!((misused.status, misused.header("allow")), (405, Some("GET,HEAD")));
}

#[test]
fn the_admin_api_sets_and_clears_availability() {
    let restored = Restored { devices: vec![(aor_of("sip:bob@home.example"), vec![])], ..Restored::default() };
    let server = Server::with(restored, Patience::default());
    let (bob, availability) = ("/admin/users/sip:bob@home.example", "/admin/users/sip:bob@home.example/availability");
    assert_eq!(server.put(availability, "text/plain", "not-available\n").status, 204);
    assert_eq!(server.get_json(bob)["availability"], "not-available");
    for bad in ["", "maybe", "Available", "available not-available"] {
        assert_eq!(server.put(availability, "text/plain", bad).status, 400, "{bad}");
    }
    assert_eq!(server.send("DELETE", availability, &[], "").status, 204);
    assert_eq!(server.get_json(bob)["availability"], "available");
    assert_eq!(server.send("DELETE", availability, &[], "").status, 204, "nothing to clear is no fault");
    let committed = server.bench.store.take_committed();
    let words: Vec<_> = committed
        .iter()
        .map(|command| match command {
            Command::PutAvailability { availability, .. } => *availability,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(words, [Some(Availability::NotAvailable), None, None]);
}

#[test]
fn the_admin_api_shows_what_the_store_holds() {
    let user = aor_of("sip:bob@home.example");
    let restored = Restored { devices: vec![(user.clone(), vec![])], ..Restored::default() };
    let server = Server::with(restored, Patience::default());
    let object = MessageObject {
        id: MessageId(7),
        user: user.clone(),
        peer: "sip:alice@home.example".into(),
        imdn_message_id: "imdn-1".into(),
        conversation_id: "conversation-1".into(),
        contribution_id: "contribution-1".into(),
        direction: Direction::Received,
        outcome: Outcome::Delivered,
        at: UnixMillis(START),
        head: Bytes::from_static(b"From: <sip:alice@home.example>\r\nMessage-Direction: received\r\n"),
        content_type: "text/plain; charset=utf-8".into(),
        body: Bytes::from_static(b"hello\r\n\xff"),
        content: None,
        body_len: 8,
    };
    server.bench.store.answer_with(move |command| {
        Ok(match command {
            Command::PeekDeferred { limit, .. } => {
                assert_eq!(*limit, 100);
                Reply::Queue(vec![DeferredMessage {
                    id: MessageId(1),
                    user: user.clone(),
                    originator: "anonymous".into(),
                    accepted: UnixMillis(START),
                    expires: UnixMillis(START + 1),
                    attempts: 2,
                    not_before: UnixMillis(0),
                    wants_failure_notice: false,
                    request: Bytes::from_static(b"MESSAGE"),
                    content: Some(ContentFile {
                        spool: None,
                        sha256: "0".repeat(64).into(),
                        len: 5_000_000_000,
                        ..ContentFile::default()
                    }),
                }])
            }
            Command::ListObjects { shelf: Shelf::History, limit, .. } => {
                assert_eq!(*limit, 5);
                Reply::Objects(vec![MessageObject { body: Bytes::new(), ..object.clone() }])
            }
            Command::ReadObject { id: MessageId(7), .. } => Reply::Objects(vec![object.clone()]),
            _ => Reply::Objects(vec![]),
        })
    });
    assert_eq!(
        server.get_json("/admin/users/sip:bob@home.example/deferred"),
        serde_json::json!([{
            "id": 1, "originator": "anonymous", "accepted": START, "expires": START + 1, "attempts": 2,
            "size": 5_000_000_007_u64
        }])
    );
    assert_eq!(
        server.get_json("/admin/users/sip:bob@home.example/history?limit=5"),
        serde_json::json!([{
            "id": 7, "peer": "sip:alice@home.example", "imdn_message_id": "imdn-1", "conversation_id": "conversation-1",
            "contribution_id": "contribution-1", "direction": "received", "outcome": "delivered", "at": START,
            "content_type": "text/plain; charset=utf-8", "size": 8
        }])
    );
    assert_eq!(server.get_json("/admin/users/sip:bob@home.example/messages"), serde_json::json!([]));
    let read = server.get("/admin/users/sip:bob@home.example/history/7");
    assert_eq!((read.status, read.header("content-type")), (200, Some("application/octet-stream")));
    assert_eq!(
        read.body,
        b"From: <sip:alice@home.example>\r\nMessage-Direction: received\r\n\
          Content-Type: text/plain; charset=utf-8\r\n\r\nhello\r\n\xff"
    );
}

#[test]
fn the_metrics_page_leaves_out_what_does_not_answer() {
    let server = Server::with(Restored::default(), Patience { scrape: Duration::from_secs(1), ..Patience::default() });
    server.shards[1].add(Counter::RequestMessage, 3);
    server.bench.store.answer_with(|_| Ok(Reply::Levels(Levels { deferred: 4, ..Levels::default() })));
    let page = server.get("/metrics");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    for line in [
        "ringpost_sip_requests_total{method=\"MESSAGE\",shard=\"1\"} 3",
        "ringpost_stage_seconds_count{stage=\"total\",shard=\"0\"} 1",
        "ringpost_store_deferred_messages 4",
        "ringpost_store_commits_total 5",
        "ringpost_subscribers 0",
        "ringpost_mailbox_items{mailbox=\"control\"} 0",
        "ringpost_mailbox_items{mailbox=\"spool\"} 0",
        concat!("ringpost_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(page.text().lines().any(|have| have == line), "{line} in\n{}", page.text());
    }
    assert!(!page.text().contains("stage_seconds_count{stage=\"total\",shard=\"1\"}"));
    server.bench.store.hold(true);
    let page = server.get("/metrics");
    assert_eq!(page.status, 200);
    assert!(!page.text().contains("ringpost_store_deferred_messages"));
    server.bench.store.hold(false);
}

#[test]
fn stopping_ends_idle_connections_and_the_thread() {
    let mut server = Server::new();
    let mut idle = server.connect();
    assert_eq!(exchange(&mut idle, "GET", "/healthz", &[], b"").status, 200);
    let mut dawdling = server.connect();
    dawdling.write_all(b"GET /healthz").unwrap();
    server.stop.stop();
    let started = Instant::now();
    server.thread.take().unwrap().join().unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
}
