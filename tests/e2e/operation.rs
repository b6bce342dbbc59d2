//! What an operator sees: start, stop, configuration errors, metrics, logs, and an appliance that survives bad input.

use crate::support::appliance::{Appliance, Config, run};
use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::message::{Request, token};
use crate::support::world::*;
use crate::support::{DEADLINE, eventually};
use std::path::Path;

#[test]
fn sigterm_ends_in_order_with_exit_code_zero() {
    in_all_variants(|variant| {
        for signal in ["TERM", "INT"] {
            let mut world = World::new(variant);
            world.know(BOB);
            world.assert_refused(&pager(ALICE, BOB), 202);
            crate::support::appliance::signal(world.appliance.pid(), signal);
            let status = world.appliance.wait();
            assert_eq!(status.code(), Some(0), "SIG{signal}: {status}");
            // Nothing that was promised is lost.
            world.appliance.restart();
            assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
        }
    });
}

#[test]
fn sigterm_ends_an_appliance_that_waits_for_an_answer() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    world.send(&pager(ALICE, BOB));
    world.core.request("MESSAGE");
    world.appliance.sigterm();
    assert_eq!(world.appliance.wait().code(), Some(0));
}

#[test]
fn a_good_configuration_is_said_to_be_ok() {
    let config = Config::new("127.0.0.1:5070", 2);
    let path = config.write();
    let output = run(&["check-config", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), format!("{}: ok\n", path.display()));
}

#[test]
fn an_empty_configuration_is_the_default_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("empty.toml");
    std::fs::write(&path, "").expect("writable");
    let output = run(&["check-config", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_configuration_error_is_one_line_with_file_line_and_key() {
    // The text, the line at fault, and what the message must name.
    let cases = [
        ("[sip]\nlisten = [\"127.0.0.1:5060\"]\nlissten = 1\n", 3, "lissten"),
        ("[shards]\npin = true\n[typo]\nx = 1\n", 3, "typo"),
        ("[sip]\nlisten = [\"127.0.0.1\"]\n", 2, "listen"),
        ("[sip]\nhost = \"a\"\n\ncore = \"not an address\"\n", 4, "core"),
        ("[sip]\nrequire_route = \"yes\"\n", 2, "require_route"),
        ("[sip]\ntrusted = [\"127.0.0.0/8\", \"10.0.0.0/99\"]\n", 2, "trusted"),
        ("[policy]\noversize = 999\n", 2, "oversize"),
        ("[policy]\nexpired = \"never\"\n", 2, "expired"),
        ("[deferred]\nmax_age = -1\n", 2, "max_age"),
        ("[deferred]\ndefer_on = [480, 77]\n", 2, "defer_on"),
        ("[preferences]\n# the user's\ndefault = \"drop\"\n", 3, "default"),
        ("[http]\nlisten = \"localhost\"\n", 2, "listen"),
        ("[log]\nlevel = \"loud\"\n", 2, "level"),
        ("[shards]\ncount = 100000\n", 2, "count"),
        ("[sip\n", 1, ""),
    ];
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (number, (toml, line, key)) in cases.into_iter().enumerate() {
        let path = dir.path().join(format!("case{number}.toml"));
        std::fs::write(&path, toml).expect("writable");
        for command in [vec!["check-config", utf8(&path)], vec!["serve", "--config", utf8(&path)]] {
            let output = run(&command);
            let stderr = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{toml:?}: {stderr}");
            assert!(output.stdout.is_empty(), "{toml:?}: {:?}", text(&output.stdout));
            let lines: Vec<&str> = stderr.lines().collect();
            assert_eq!(lines.len(), 1, "{toml:?}: one line, not\n{stderr}");
            assert!(lines[0].contains(utf8(&path)), "{toml:?}: the file in {stderr}");
            assert!(lines[0].contains(key), "{toml:?}: the key in {stderr}");
            let rest = lines[0].replace(utf8(&path), "");
            let numbers: Vec<&str> = rest.split(|c: char| !c.is_ascii_digit()).collect();
            assert!(numbers.contains(&line.to_string().as_str()), "{toml:?}: line {line} in {stderr}");
        }
    }
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let output = run(&["serve", "--config", "no-such-file.toml"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("no-such-file.toml"), "{output:?}");
}

#[test]
fn an_address_that_cannot_be_used_is_named() {
    // 192.0.2.1 is reserved for documentation (RFC 5737): no machine has it.
    let config = Config::new("127.0.0.1:5070", 1).set("sip.listen", "[\"192.0.2.1:5060\"]");
    let path = config.write();
    let output = run(&["serve", "--config", utf8(&path)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = text(&output.stderr);
    let line = stderr.lines().find(|line| line.contains("192.0.2.1:5060")).unwrap_or_else(|| panic!("{stderr}"));
    assert!(line.contains("sip.listen"), "{line}");
    assert!(output.stdout.is_empty(), "no ready line: {output:?}");
}

#[test]
fn an_http_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    let config = Config::new("127.0.0.1:5070", 1).set("http.listen", &format!("{addr:?}"));
    let path = config.write();
    let output = run(&["serve", "--config", utf8(&path)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.lines().any(|line| line.contains("http.listen") && line.contains(&addr)), "{stderr}");
}

#[test]
fn two_appliances_run_beside_each_other() {
    let mut first = World::new(VARIANTS[1]);
    let mut second = World::new(VARIANTS[3]);
    first.register(BOB, &[Device::new()]);
    second.know(BOB);
    first.assert_delivered(&pager(ALICE, BOB));
    second.assert_refused(&pager(ALICE, BOB), 202);
    assert_eq!(first.appliance.admin_count(BOB, "/deferred"), 0);
}

#[test]
fn a_second_appliance_on_the_same_store_does_not_start() {
    let first = World::udp();
    let config = first.appliance.config().clone();
    let path = config.write();
    let output = run(&["serve", "--config", utf8(&path)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let data_dir = config.dir().join("data");
    assert_eq!(
        complaints(&output.stderr),
        [format!("ringpost: store {}: in use by another process", data_dir.display())]
    );
    assert!(output.stdout.is_empty(), "no ready line: {output:?}");
}

#[test]
fn a_data_folder_that_cannot_be_had_is_one_clear_line() {
    let config = Config::new("127.0.0.1:5070", 1);
    let file = config.dir().join("file");
    std::fs::write(&file, "").expect("writable");
    let data_dir = file.join("data");
    let config = config.set("store.data_dir", &format!("{data_dir:?}"));
    let path = config.write();
    let output = run(&["serve", "--config", utf8(&path)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(complaints(&output.stderr), [format!("ringpost: store {}: Not a directory", data_dir.display())]);
    assert!(output.stdout.is_empty(), "no ready line: {output:?}");
}

/// What the program says by itself, the log left out.
fn complaints(stderr: &[u8]) -> Vec<String> {
    text(stderr).lines().filter(|line| line.starts_with("ringpost: ")).map(str::to_owned).collect()
}

#[test]
fn health_and_metrics_are_served() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    world.assert_delivered(&pager(ALICE, BOB));
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    world.assert_refused(&pager(ALICE, BOB), 403);
    let health = world.appliance.http("GET", "/healthz", &[], b"");
    assert_eq!((health.status, health.text().trim()), (200, "ok"));
    let metric = |series: &str, label: &str| world.appliance.metric(series, &[label]);
    // Two messages of Alice, one probe.
    assert_eq!(metric("ringpost_sip_requests_total", "method=\"MESSAGE\""), 3);
    assert_eq!(metric("ringpost_sip_requests_total", "method=\"REGISTER\""), 2);
    assert_eq!(metric("ringpost_sip_responses_sent_total", "class=\"4xx\""), 1);
    assert_eq!(metric("ringpost_pager_decisions_total", "kind=\"deliver\""), 2);
    assert_eq!(metric("ringpost_pager_decisions_total", "kind=\"policy-reject\""), 1);
    let page = world.appliance.http("GET", "/metrics", &[], b"");
    assert!(page.header("content-type").is_some_and(|value| value.starts_with("text/plain")), "{page:?}");
    let page = page.text();
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
    }
    assert!(page.contains("# TYPE ringpost_sip_requests_total counter"), "{page}");
    assert!(page.contains("ringpost_stage_seconds"), "per-stage latency: {page}");
}

#[test]
fn bodies_and_identities_stay_out_of_the_logs() {
    // Bodies at every level (each world checks that at its end); identities below DEBUG.
    let mut world = World::with(VARIANTS[1], |config| config.set("log.level", "\"info\""));
    world.register("sip:secretuser@home.example", &[Device::new()]);
    world.assert_delivered(&pager("sip:secretsender@a.example", "sip:secretuser@home.example"));
    world.appliance.put_preferences("sip:secretuser@home.example", &Preferences::handling("store").document());
    world.deregister("sip:secretuser@home.example");
    let request = pager("sip:secretsender@a.example", "sip:secretuser@home.example");
    assert_eq!(world.exchange(&request).status(), Some(200));
    world.exchange(&request.replace("CSeq", "garbage").replace("Call-ID", "other"));
    world.appliance.sigterm();
    world.appliance.wait();
    let log = world.appliance.log();
    assert!(!log.contains("secretsender") && !log.contains("secretuser"), "{log}");
    assert!(!log.contains(BODY_MARK), "{log}");
}

#[test]
fn bodies_stay_out_of_the_debug_log_whatever_happens_to_them() {
    let mut world = World::new(VARIANTS[1]);
    world.appliance.put_preferences(BOB, &Preferences::handling("store").document());
    assert_eq!(world.exchange(&pager(ALICE, BOB)).status(), Some(200));
    world.know("sip:dora@home.example");
    assert_eq!(world.exchange(&pager(ALICE, "sip:dora@home.example")).status(), Some(202));
    world.assert_refused(&pager(ALICE, BOB).replace("CSeq", "x MESSAGE"), 400);
    world.assert_refused(&pager_bare(ALICE, BOB).body("image/png", BODY_MARK), 415);
    // A message that cannot be parsed at all, with the mark everywhere.
    let addr = world.addr();
    world.alice.send_bytes(
        format!("MESSAGE\r\n{BODY_MARK}: {BODY_MARK}\r\n\r\n{BODY_MARK}").as_bytes(),
        Transport::Udp,
        addr,
    );
    world.assert_nothing_forwarded();
    assert!(!world.appliance.log().contains(BODY_MARK));
}

#[test]
fn a_flood_of_bad_input_leaves_the_appliance_working() {
    for variant in [VARIANTS[1], VARIANTS[3]] {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let addr = world.addr();
        // Answers to the flood are of no interest: it has a socket of its own.
        let mut attacker = Endpoint::new();
        let good =
            pager(ALICE, BOB).header_first("Via", &attacker.via(Transport::Udp, &token("z9hG4bKflood"))).encode();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for _ in 0..500 {
            let len = (next() % 1400) as usize;
            let noise: Vec<u8> = (0..len).map(|_| next() as u8).collect();
            attacker.send_bytes(&noise, Transport::Udp, addr);
        }
        for len in 0..good.len() {
            attacker.send_bytes(&good[..len], Transport::Udp, addr);
        }
        for _ in 0..500 {
            let mut bent = good.clone();
            for _ in 0..3 {
                let at = next() as usize % bent.len();
                bent[at] = next() as u8;
            }
            attacker.send_bytes(&bent, Transport::Udp, addr);
        }
        let huge = |lines: usize| {
            let mut request = Request::between("OPTIONS", ALICE, BOB);
            for index in 0..lines {
                request = request.header("X-Filler", &format!("{index:0>100}"));
            }
            request.header_first("Via", "SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKhuge;rport").encode()
        };
        attacker.send_bytes(&huge(550), Transport::Udp, addr);
        attacker.send_bytes(&huge(200), Transport::Udp, addr);
        assert_eq!(world.exchange(&options(&world)).status(), Some(200));

        // Over TCP, each on a connection of its own, which the appliance may close.
        let text = String::from_utf8(good.clone()).expect("UTF-8");
        let length = |value: &str| {
            let start = text.find("Content-Length: ").expect("set") + "Content-Length: ".len();
            let end = start + text[start..].find('\r').expect("a line end");
            format!("{}{value}{}", &text[..start], &text[end..]).into_bytes()
        };
        let noise: Vec<u8> = (0..4000).map(|_| next() as u8).collect();
        let attacks = [
            noise,
            vec![b'A'; 200_000],
            [b"MESSAGE sip:bob@home.example SIP/2.0\r\nX: ".as_slice(), &vec![b'x'; 100_000]].concat(),
            huge(700),
            length("-1"),
            length("99999999999999999999"),
            length("4294967297"),
            length("0"),
            length("abc"),
            text.replace("Content-Length", "X-Length").into_bytes(),
            good[..good.len() / 2].to_vec(),
            b"\r\n".repeat(20_000),
        ];
        for attack in attacks {
            use std::io::Write;
            let mut stream = std::net::TcpStream::connect(addr).expect("the SIP port accepts");
            // The appliance may close while the bytes are still being written.
            let _ = stream.write_all(&attack);
        }
        assert_eq!(world.exchange(&options(&world)).status(), Some(200));
        // Bent copies of the message that were still good may be at the core, in an encoding that nobody can read.
        let sent = world.send(&pager(CAROL, BOB));
        let forwarded = loop {
            let raw = world.core.next_raw(DEADLINE).expect("the message reaches the core");
            if String::from_utf8_lossy(&raw).contains(&sent.call_id) {
                break String::from_utf8(raw).expect("as it was sent");
            }
        };
        let to = super::torture::sent_by(&forwarded);
        world.core.reply_text(&super::sip_rules::plain_answer(&forwarded, 200), variant.transport, to);
        assert_eq!(world.alice.response(&sent).status(), Some(200));
        assert!(world.appliance.is_running());
    }
}

#[test]
fn a_peer_that_opens_a_message_and_stalls_does_not_stop_the_others() {
    let mut world = World::new(VARIANTS[2]);
    world.register(BOB, &[Device::new()]);
    let addr = world.addr();
    let stalled: Vec<_> = (0..50)
        .map(|_| {
            use std::io::Write;
            let mut stream = std::net::TcpStream::connect(addr).expect("the SIP port accepts");
            stream.write_all(b"MESSAGE sip:bob@home.example SIP/2.0\r\nVia: ").expect("taken");
            stream
        })
        .collect();
    for _ in 0..5 {
        world.assert_delivered(&pager(ALICE, BOB));
    }
    drop(stalled);
    eventually("the stalled streams are closed", || {
        (world.appliance.metric("ringpost_streams", &[]) <= 2).then_some(())
    });
}

#[test]
fn an_appliance_restarts_on_the_ports_it_had() {
    let core = Endpoint::new();
    let addr = free_fixed_addr();
    let config = Config::new(&core.uri(Transport::Tcp), 2).set("sip.listen", &format!("[\"{addr}\"]"));
    let mut appliance = Appliance::start(config);
    assert_eq!(appliance.addr(), addr);
    let mut alice = Endpoint::new();
    let sent = alice.send(&Request::between("OPTIONS", ALICE, BOB), Transport::Tcp, addr);
    assert_eq!(alice.response(&sent).status(), Some(200));
    // Connections of the killed process linger in the kernel: SO_REUSEADDR must get over them.
    appliance.kill9();
    appliance.restart();
    assert_eq!(appliance.addr(), addr);
    let sent = alice.send(&Request::between("OPTIONS", ALICE, BOB), Transport::Udp, addr);
    assert_eq!(alice.response(&sent).status(), Some(200));
}

/// A free port below those that the kernel hands out on its own: nobody takes it while the appliance is down.
fn free_fixed_addr() -> std::net::SocketAddr {
    // Test runs beside each other have neighbouring ids: their ranges must not be neighbours.
    let first = 20_000 + std::process::id().wrapping_mul(7919) % 10_000;
    let candidates = (0..2_000).map(|step| std::net::SocketAddr::from(([127, 0, 0, 1], (first + step) as u16)));
    let is_free = |addr: &std::net::SocketAddr| {
        std::net::UdpSocket::bind(addr).is_ok() && std::net::TcpListener::bind(addr).is_ok()
    };
    candidates.into_iter().find(is_free).expect("one of 2,000 ports is free")
}

fn options(world: &World) -> Request {
    Request::between("OPTIONS", ALICE, &format!("sip:{}", world.addr()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("temporary folders have UTF-8 names")
}
