//! UDP and TCP as RFC 3261 §18 and RFC 3581 have them: where responses go, framing, size, IPv6.

use crate::support::appliance::{Appliance, Config};
use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::message::{Origin, Request, parameter, token, unique};
use crate::support::world::*;
use crate::support::{eventually, skip};
use std::net::{IpAddr, Ipv6Addr};

#[test]
fn with_rport_the_response_goes_to_the_source_port_and_says_so() {
    let mut world = World::udp();
    let branch = format!("z9hG4bK{}", token("rp"));
    let request = options(&world).header_first("Via", &format!("SIP/2.0/UDP 192.0.2.55:6000;branch={branch};rport"));
    let response = world.exchange(&request);
    let via = &response.values("Via")[0];
    assert_eq!(parameter(via, "received").as_deref(), Some("127.0.0.1"), "{via}");
    assert_eq!(parameter(via, "rport"), Some(world.alice.addr().port().to_string()), "{via}");
}

#[test]
fn without_rport_the_response_goes_to_the_port_in_sent_by() {
    let mut world = World::udp();
    let mut elsewhere = Endpoint::new();
    let branch = format!("z9hG4bK{}", token("sb"));
    // The address in sent-by is wrong: received has the right one (RFC 3261 §18.2.2).
    let via = format!("SIP/2.0/UDP host.invalid:{};branch={branch}", elsewhere.addr().port());
    let sent = world.send(&options(&world).header_first("Via", &via));
    let response = elsewhere.response(&sent);
    assert_eq!(response.status(), Some(200));
    let via = &response.values("Via")[0];
    assert_eq!(parameter(via, "received").as_deref(), Some("127.0.0.1"), "{via}");
    assert_eq!(parameter(via, "rport"), None, "{via}");
    world.alice.assert_silent();
}

#[test]
fn responses_leave_from_the_address_the_request_came_to() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    for _ in 0..8 {
        let response = world.exchange(&options(&world));
        assert_eq!(response.origin, Origin::Udp(world.addr()));
        let sent = world.send(&pager(ALICE, BOB));
        let forwarded = world.core.request("MESSAGE");
        world.core.answer(&forwarded, 200);
        assert_eq!(world.alice.response(&sent).origin, Origin::Udp(world.addr()));
    }
}

#[test]
fn the_vias_below_the_top_one_stay_as_they_are() {
    let mut world = World::udp();
    world.register(BOB, &[Device::new()]);
    let branch = format!("z9hG4bK{}", token("v"));
    let lower =
        ["SIP/2.0/TLS pcscf.a.example;branch=z9hG4bKp;received=192.0.2.1", "SIP/2.0/SCTP t2.example:9;branch=z9hG4bKq"];
    let request = pager(ALICE, BOB)
        .header_first("Via", &lower.join(", "))
        .header_first("Via", &world.alice.via(Transport::Udp, &branch));
    let sent = world.send(&request);
    let forwarded = world.core.request("MESSAGE");
    assert_eq!(forwarded.values("Via")[2..], lower);
    world.core.answer(&forwarded, 200);
    let response = world.alice.response(&sent);
    assert_eq!(response.values("Via")[1..], lower);
}

#[test]
fn a_forwarded_request_over_1300_bytes_leaves_over_tcp() {
    for shards in [1, 2] {
        let mut core = Endpoint::new();
        // No transport in the next hop: the size decides (RFC 3261 §18.1.1).
        let config = Config::new(&core.addr().to_string(), shards).unset("sip.path_mtu");
        let appliance = Appliance::start(config);
        let mut alice = Endpoint::new();
        let mut scscf = Endpoint::new();
        let pf = format!("sip:{}", appliance.addr());
        let register = third_party_register_bare(&pf, &scscf.uri(Transport::Udp), BOB, 600_000);
        let register = register.replace("Contact", &Device::new().contact_value());
        let sent = scscf.send(&register, Transport::Udp, appliance.addr());
        assert_eq!(scscf.response(&sent).status(), Some(200));
        // Small enough to arrive as a datagram, too large to leave as one with another Via.
        let sized = |len: usize| {
            let via = alice_via(&alice);
            let request = pager_bare(ALICE, BOB).header_first("Via", &via).body("text/plain", "");
            let rest = len - request.encode().len();
            // Content-Length grows from "0" to three digits.
            request.body("text/plain", "x".repeat(rest - 2))
        };
        let (small, large) = (sized(1100), sized(1295));
        assert_eq!(large.encode().len(), 1295);
        for (request, transport) in [(small, "UDP"), (large, "TCP")] {
            let sent = alice.send(&request, Transport::Udp, appliance.addr());
            let forwarded = core.request("MESSAGE");
            assert_eq!(matches!(forwarded.origin, Origin::Tcp(_)), transport == "TCP", "{forwarded:?}");
            let via = &forwarded.values("Via")[0];
            assert!(via.starts_with(&format!("SIP/2.0/{transport} ")), "{via}");
            core.answer(&forwarded, 200);
            assert_eq!(alice.response(&sent).status(), Some(200));
        }
        // What arrives over TCP may be larger still, up to 8 KiB.
        let request = pager_bare(ALICE, BOB).body("text/plain", "x".repeat(5000));
        let sent = alice.send(&request, Transport::Tcp, appliance.addr());
        let forwarded = core.request("MESSAGE");
        assert!(matches!(forwarded.origin, Origin::Tcp(_)), "{forwarded:?}");
        core.answer(&forwarded, 200);
        assert_eq!(alice.response(&sent).status(), Some(200));
    }
}

#[test]
fn without_a_body_limit_the_whole_request_is_limited() {
    let mut world = World::with(VARIANTS[2], |config| config.unset("sip.path_mtu"));
    world.register(BOB, &[Device::new()]);
    let response = world.assert_refused(&pager_bare(ALICE, BOB).body("text/plain", "x".repeat(9000)), 415);
    assert!(response.header("Accept").is_some(), "{response:?}");
}

#[test]
fn a_request_over_tcp_reaches_a_core_over_udp_and_back() {
    let mut core = Endpoint::new();
    let appliance = Appliance::start(Config::new(&core.uri(Transport::Udp), 2));
    let mut alice = Endpoint::new();
    appliance.put_policy(BOB, &policy(&[]));
    let register = third_party_register("sip:pf.example", &core.uri(Transport::Udp), BOB, &[Device::new()], 600_000);
    let sent = alice.send(&register, Transport::Tcp, appliance.addr());
    assert_eq!(alice.response(&sent).status(), Some(200));
    for _ in 0..4 {
        let sent = alice.send(&pager(ALICE, BOB), Transport::Tcp, appliance.addr());
        let forwarded = core.request("MESSAGE");
        assert!(matches!(forwarded.origin, Origin::Udp(_)));
        core.answer(&forwarded, 200);
        let response = alice.response(&sent);
        assert!(matches!(response.origin, Origin::Tcp(_)));
    }
}

#[test]
fn many_messages_in_one_write_are_taken_apart() {
    for variant in [VARIANTS[2], VARIANTS[3]] {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let mut bytes = Vec::new();
        let mut call_ids = Vec::new();
        for _ in 0..40 {
            let via = world.alice.via(Transport::Tcp, &format!("z9hG4bK{}", token("p")));
            let request = pager(ALICE, BOB).header_first("Via", &via);
            call_ids.push(request.value("Call-ID").expect("set").to_owned());
            bytes.extend_from_slice(&request.encode());
        }
        let addr = world.addr();
        world.alice.send_bytes(&bytes, Transport::Tcp, addr);
        let mut seen = Vec::new();
        for _ in &call_ids {
            let forwarded = world.core.request("MESSAGE");
            seen.push(forwarded.call_id());
            world.core.answer(&forwarded, 200);
        }
        seen.sort();
        call_ids.sort();
        assert_eq!(seen, call_ids);
        for _ in &call_ids {
            assert_eq!(world.alice.next_new().status(), Some(200));
        }
    }
}

#[test]
fn a_message_that_arrives_byte_by_byte_is_one_message() {
    for variant in [VARIANTS[2], VARIANTS[3]] {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let branch = format!("z9hG4bK{}", token("slow"));
        let request = pager(ALICE, BOB).header_first("Via", &world.alice.via(Transport::Tcp, &branch));
        let addr = world.addr();
        for byte in request.encode() {
            world.alice.send_bytes(&[byte], Transport::Tcp, addr);
        }
        let forwarded = world.core.request("MESSAGE");
        assert_eq!(forwarded.body(), request.body);
        world.core.answer(&forwarded, 200);
        assert_eq!(world.alice.next_new().status(), Some(200));
    }
}

#[test]
fn keep_alive_line_ends_between_messages_are_taken() {
    for variant in [VARIANTS[2], VARIANTS[3]] {
        let mut world = World::new(variant);
        let addr = world.addr();
        let mut used = Vec::new();
        for _ in 0..4 {
            world.alice.send_bytes(b"\r\n\r\n", Transport::Tcp, addr);
            let response = world.exchange(&options(&world));
            assert_eq!(response.status(), Some(200));
            used.push(response.origin);
        }
        used.dedup();
        assert_eq!(used.len(), 1, "one connection all the time");
    }
}

#[test]
fn a_core_that_closed_its_connection_gets_a_new_one() {
    let mut world = World::new(VARIANTS[3]);
    world.register(BOB, &[Device::new()]);
    for _ in 0..3 {
        world.assert_delivered(&pager(ALICE, BOB));
        world.core.close_connections();
        // The appliance sees the end of the connection before or while it sends the next message.
        let open = |world: &World| world.appliance.metric("ringpost_streams", &[]);
        eventually("the closed connections are gone", || (open(&world) <= 1).then_some(()));
    }
}

#[test]
fn a_core_that_refuses_connections_gives_the_sender_a_failure() {
    let gone = Endpoint::new();
    let uri = gone.uri(Transport::Tcp);
    drop(gone);
    let appliance = Appliance::start(Config::new(&uri, 1));
    let mut alice = Endpoint::new();
    let register = third_party_register("sip:pf.example", "sip:scscf.example", BOB, &[Device::new()], 600_000);
    let sent = alice.send(&register, Transport::Udp, appliance.addr());
    assert_eq!(alice.response(&sent).status(), Some(200));
    let sent = alice.send(&pager(ALICE, BOB), Transport::Udp, appliance.addr());
    let status = alice.response(&sent).status().expect("a response");
    // A transport error counts as a 503 from that branch (RFC 3261 §16.9), which a proxy does not pass on as such.
    assert!(matches!(status, 408 | 480 | 500 | 502 | 503 | 504), "{status}");
}

#[test]
fn ipv6_addresses_work_like_ipv4() {
    let loopback = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let Ok(mut core) = Endpoint::on(loopback) else {
        skip("no IPv6 loopback on this machine");
        return;
    };
    for transport in [Transport::Udp, Transport::Tcp] {
        for shards in [1, 2] {
            let config = Config::new(&core.uri(transport), shards).set("sip.listen", r#"["[::1]:0", "127.0.0.1:0"]"#);
            let appliance = Appliance::start(config);
            assert!(appliance.sip[0].is_ipv6() && appliance.sip[1].is_ipv4(), "{:?}", appliance.sip);
            let mut alice = Endpoint::on(loopback).expect("a second port");
            let register = third_party_register("sip:[::1]", &core.uri(transport), BOB, &[Device::new()], 600_000);
            let sent = alice.send(&register, transport, appliance.sip[0]);
            assert_eq!(alice.response(&sent).status(), Some(200));
            let own = format!("<sip:term@{};lr>", appliance.sip[0]);
            let back = format!("<{};lr>", core.uri(transport));
            let request = pager(ALICE, BOB).header("Route", &own).header("Route", &back);
            let sent = alice.send(&request, transport, appliance.sip[0]);
            let forwarded = core.request("MESSAGE");
            assert_eq!(forwarded.values("Route"), [back]);
            assert!(forwarded.values("Via")[0].contains(" [::1]:"), "{forwarded:?}");
            core.answer(&forwarded, 200);
            assert_eq!(alice.response(&sent).status(), Some(200));
            // The IPv4 listener serves the same users, and the core is reached over IPv6.
            let mut carol = Endpoint::new();
            let sent = carol.send(&pager(CAROL, BOB), transport, appliance.sip[1]);
            let forwarded = core.request("MESSAGE");
            core.answer(&forwarded, 200);
            assert_eq!(carol.response(&sent).status(), Some(200));
        }
    }
}

#[test]
fn a_datagram_longer_than_its_content_length_is_cut_and_a_shorter_one_refused() {
    let mut world = World::udp();
    world.register(BOB, &[Device::new()]);
    let request = pager(ALICE, BOB);
    let len = request.body.len();
    let with_len = |len: usize| {
        request.clone().replace("Call-ID", &format!("cl{}", unique())).replace("Content-Length", &len.to_string())
    };
    let sent = world.send(&with_len(len - 1));
    let forwarded = world.core.request("MESSAGE");
    assert_eq!(forwarded.body(), &request.body[..len - 1], "RFC 3261 §18.3: the rest is discarded");
    world.core.answer(&forwarded, 200);
    assert_eq!(world.alice.response(&sent).status(), Some(200));
    world.assert_refused(&with_len(len + 1), 400);
}

fn alice_via(alice: &Endpoint) -> String {
    alice.via(Transport::Udp, &format!("z9hG4bK{:0>20}", unique()))
}

fn options(world: &World) -> Request {
    Request::between("OPTIONS", ALICE, &format!("sip:{}", world.addr()))
}
