//! SPEC §1.0, G-1 to G-10: what every request must satisfy before the service looks at it.

use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::message::{Received, Request, token};
use crate::support::world::*;

#[test]
fn options_is_answered_with_what_the_appliance_can_do() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        let response = world.exchange(&options(&world));
        assert_eq!(response.status(), Some(200));
        assert_generated(&response);
        let allow = response.values("Allow");
        for method in ["MESSAGE", "REGISTER", "OPTIONS"] {
            assert!(allow.iter().any(|value| value == method), "{method} in {allow:?}");
        }
        assert!(response.values("Accept").iter().any(|value| value == "message/cpim"), "{response:?}");
        assert!(response.header("Supported").is_some(), "{response:?}");
        assert_eq!(response.values("Accept-Encoding"), ["identity"], "RFC 3261 §11.2");
    });
}

#[test]
fn a_message_with_max_forwards_zero_gets_483() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let response = world.assert_refused(&pager(ALICE, BOB).replace("Max-Forwards", "0"), 483);
        assert_generated(&response);
        let forwarded = world.assert_delivered(&pager(ALICE, BOB).replace("Max-Forwards", "1"));
        assert_eq!(forwarded.must("Max-Forwards"), "0");
    });
}

#[test]
fn a_message_without_max_forwards_is_forwarded_with_one() {
    let mut world = registered_world(VARIANTS[0]);
    let forwarded = world.assert_delivered(&pager(ALICE, BOB).without("Max-Forwards"));
    let left: u32 = forwarded.must("Max-Forwards").parse().expect("a number");
    assert!((1..=70).contains(&left), "{left}");
}

#[test]
fn a_required_extension_that_is_not_supported_gets_420() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let response = world.assert_refused(&pager(ALICE, BOB).header("Proxy-Require", "foo, bar"), 420);
        assert_eq!(response.values("Unsupported"), ["foo", "bar"]);
        let response = world.exchange(&options(&world).header("Require", "foo"));
        assert_eq!(response.status(), Some(420));
        assert_eq!(response.values("Unsupported"), ["foo"]);
        assert_generated(&response);
    });
}

#[test]
fn a_message_that_requires_an_unknown_extension_gets_420() {
    let mut world = registered_world(VARIANTS[0]);
    let response = world.assert_refused(&pager(ALICE, BOB).header("Require", "foo"), 420);
    assert_eq!(response.values("Unsupported"), ["foo"]);
}

#[test]
fn a_method_that_is_not_served_gets_405_with_the_served_ones() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        for method in ["SUBSCRIBE", "PUBLISH", "REFER"] {
            let response = final_response(&mut world, &Request::between(method, ALICE, BOB));
            assert_eq!(response.status(), Some(405), "{response:?}");
            let allow = response.values("Allow");
            assert!(allow.iter().any(|value| value == "MESSAGE"), "{allow:?}");
            assert!(!allow.iter().any(|value| value == method), "{allow:?}");
            assert_generated(&response);
        }
    });
}

#[test]
fn a_method_nobody_knows_gets_405_or_501() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let response = world.exchange(&Request::between("FROBNICATE", ALICE, BOB));
        assert!(matches!(response.status(), Some(405 | 501)), "{response:?}");
        if response.status() == Some(405) {
            assert!(response.values("Allow").iter().any(|value| value == "MESSAGE"), "{response:?}");
        }
    });
}

#[test]
fn a_request_without_a_mandatory_header_gets_400() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        for name in ["From", "To", "Call-ID", "CSeq"] {
            let response = world.exchange(&pager(ALICE, BOB).without(name));
            assert_eq!(response.status(), Some(400), "without {name}: {response:?}");
        }
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a_request_whose_cseq_names_another_method_gets_400() {
    let mut world = registered_world(VARIANTS[0]);
    world.assert_refused(&pager(ALICE, BOB).replace("CSeq", "1 OPTIONS"), 400);
}

#[test]
fn a_message_with_a_body_and_without_content_type_gets_400() {
    let mut world = registered_world(VARIANTS[0]);
    world.assert_refused(&pager(ALICE, BOB).without("Content-Type"), 400);
}

#[test]
fn a_message_for_a_user_of_whom_nothing_is_known_gets_404() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        let response = world.assert_refused(&pager(ALICE, "sip:nobody@home.example"), 404);
        assert_generated(&response);
    });
}

#[test]
fn unknown_users_can_be_served_by_configuration() {
    let mut world = World::with(VARIANTS[0], |config| config.set("preferences.unknown_user", "\"serve\""));
    world.assert_refused(&pager(ALICE, "sip:nobody@home.example"), 202);
}

#[test]
fn a_merged_request_gets_482() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let request = pager(ALICE, BOB);
        let first = world.send(&request);
        let forwarded = world.core.request("MESSAGE");
        // The same request by another path: the same From tag, Call-ID and CSeq, another branch (RFC 3261 §8.2.2.2).
        let second = world.send(&request);
        let response = world.alice.response(&second);
        assert_eq!(response.status(), Some(482), "{response:?}");
        assert_generated(&response);
        world.core.answer(&forwarded, 200);
        assert_eq!(world.alice.response(&first).status(), Some(200));
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a_message_that_comes_back_gets_482() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let sent = world.send(&pager(ALICE, BOB));
        let forwarded = world.core.request("MESSAGE");
        // A core that routes it back: everything as forwarded, with the core's own Via on top.
        let mut looped = Request::new("MESSAGE", forwarded.uri().expect("a request"));
        for via in forwarded.values("Via") {
            looped = looped.header("Via", &via);
        }
        for name in ["From", "To", "Call-ID", "CSeq", "Max-Forwards", "P-Asserted-Identity", "Accept-Contact"] {
            looped = looped.header(name, &forwarded.must(name));
        }
        let looped = looped.body(&forwarded.must("Content-Type"), forwarded.body());
        let mut router = Endpoint::new();
        let via = router.via(variant.transport, &format!("z9hG4bK{}", token("loop")));
        let back = router.send(&looped.header_first("Via", &via), variant.transport, world.addr());
        let response = router.response(&back);
        assert_eq!(response.status(), Some(482), "{response:?}");
        world.core.answer(&forwarded, 200);
        assert_eq!(world.alice.response(&sent).status(), Some(200));
        world.assert_nothing_forwarded();
    });
}

#[test]
fn the_identity_that_an_untrusted_peer_asserts_is_not_believed() {
    in_all_variants(|variant| {
        let mut world = World::with(variant, |config| config.set("sip.trusted", r#"["192.0.2.0/24"]"#));
        world.know(BOB);
        let response = world.exchange(&pager(ALICE, BOB));
        assert_warning(&response, "127 Service not authorised");
        assert_generated(&response);
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
        world.core.assert_silent();
    });
}

#[test]
fn a_message_without_an_asserted_identity_gets_403_with_a_warning() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let response = world.assert_refused(&pager(ALICE, BOB).without("P-Asserted-Identity"), 403);
        assert_warning(&response, "127 Service not authorised");
    });
}

#[test]
fn from_can_stand_in_for_the_asserted_identity_by_configuration() {
    let mut world = World::with(VARIANTS[0], |config| config.set("sip.identity_from_header", "true"));
    world.register(BOB, &[Device::new()]);
    world.assert_delivered(&pager(ALICE, BOB).without("P-Asserted-Identity"));
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    world.assert_refused(&pager(ALICE, BOB).without("P-Asserted-Identity"), 403);
}

#[test]
fn the_appliances_own_route_is_popped_and_the_next_one_followed() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let mut scscf = Endpoint::new();
        let transport = variant.transport.name().to_ascii_lowercase();
        let back = format!("<sip:orig-dialog-7@{};lr;transport={transport}>", scscf.addr());
        let own = format!("<{}>", world.appliance.term_uri());
        for routes in [vec![own.clone(), back.clone()], vec![format!("{own}, {back}")]] {
            let mut request = pager(ALICE, BOB);
            for route in &routes {
                request = request.header("Route", route);
            }
            let sent = world.send(&request);
            let forwarded = scscf.request("MESSAGE");
            assert_eq!(forwarded.values("Route"), [back.as_str()]);
            assert_eq!(forwarded.uri(), Some(BOB));
            scscf.answer(&forwarded, 200);
            assert_eq!(world.alice.response(&sent).status(), Some(200));
        }
        world.assert_nothing_forwarded();
    });
}

#[test]
fn every_route_of_our_own_on_top_is_popped() {
    let mut world = registered_world(VARIANTS[1]);
    let own = format!("<{}>", world.appliance.term_uri());
    let request = pager(ALICE, BOB).header("Route", &format!("{own}, {own}")).header("Route", &own);
    let forwarded = world.assert_delivered(&request);
    assert!(forwarded.values("Route").is_empty(), "{forwarded:?}");
}

#[test]
fn a_message_from_a_strict_router_finds_its_user_in_the_last_route() {
    in_all_variants(|variant| {
        let mut world = World::with(variant, |config| config.set("sip.require_route", "true"));
        world.register(BOB, &[Device::new()]);
        let mut scscf = Endpoint::new();
        let transport = variant.transport.name().to_ascii_lowercase();
        let back = format!("<sip:odi-7@{};lr;transport={transport}>", scscf.addr());
        let strict = |routes: &str| {
            let request = pager(ALICE, BOB).header("Route", routes);
            Request { uri: format!("sip:term@{}", world.addr()), ..request }
        };
        let (through, direct) = (strict(&format!("{back}, <{BOB}>")), strict(&format!("<{BOB}>")));
        let sent = world.send(&through);
        let forwarded = scscf.request("MESSAGE");
        assert_eq!((forwarded.uri(), forwarded.values("Route")), (Some(BOB), vec![back.clone()]));
        assert_eq!(forwarded.body(), through.body);
        scscf.answer(&forwarded, 200);
        assert_eq!(world.alice.response(&sent).status(), Some(200));
        let forwarded = world.assert_delivered(&direct);
        assert_eq!((forwarded.uri(), forwarded.header("Route")), (Some(BOB), None));
        world.appliance.put_policy(BOB, &policy_blocking(ALICE));
        let request = Request { uri: through.uri.clone(), ..pager(ALICE, BOB).header("Route", &format!("<{BOB}>")) };
        let response = world.exchange(&request);
        assert_warning(&response, "122 Function not allowed");
        assert_generated(&response);
        world.core.assert_silent();
    });
}

#[test]
fn a_message_with_only_the_appliances_route_leaves_to_the_configured_core() {
    let mut world = registered_world(VARIANTS[0]);
    let own = format!("<{}>", world.appliance.term_uri());
    let forwarded = world.assert_delivered(&pager(ALICE, BOB).header("Route", &own));
    assert!(!forwarded.values("Route").contains(&own), "{forwarded:?}");
}

#[test]
fn a_route_host_with_a_configured_address_is_followed() {
    let mut scscf = Endpoint::new();
    let addr = scscf.addr();
    let mut world = World::with(VARIANTS[0], |config| {
        config.set_in("sip.hosts", "scscf.home.example", &format!("\"{addr}\"")).set("shards.count", "2")
    });
    world.register(BOB, &[Device::new()]);
    let own = format!("<{}>", world.appliance.term_uri());
    let request = pager(ALICE, BOB).header("Route", &own).header("Route", "<sip:scscf.home.example;lr>");
    let sent = world.send(&request);
    let forwarded = scscf.request("MESSAGE");
    scscf.answer(&forwarded, 200);
    assert_eq!(world.alice.response(&sent).status(), Some(200));
}

#[test]
fn requests_without_the_appliances_route_can_be_refused_by_configuration() {
    in_all_variants(|variant| {
        let mut world = World::with(variant, |config| config.set("sip.require_route", "true"));
        world.register(BOB, &[Device::new()]);
        let response = world.exchange(&pager(ALICE, BOB));
        let status = response.status().expect("a response");
        assert!((400..500).contains(&status), "{response:?}");
        assert!(status != 403 || response.header("Warning").is_some(), "every 403 has a Warning: {response:?}");
        let own = format!("<{}>", world.appliance.term_uri());
        world.assert_delivered(&pager(ALICE, BOB).header("Route", &own));
        world.assert_delivered(
            &pager(ALICE, BOB).header("P-Served-User", &format!("<{BOB}>;sescase=term;regstate=reg")),
        );
        world.core.assert_silent();
    });
}

#[test]
fn the_served_user_is_named_by_p_served_user() {
    let mut world = registered_world(VARIANTS[0]);
    // The Request-URI was changed on the way (a GRUU or a contact, RFC 5502): the documents are Bob's all the same.
    let request = pager(ALICE, "sip:bob-alias@home.example")
        .header("P-Served-User", &format!("<{BOB}>;sescase=term;regstate=reg"));
    let forwarded = world.assert_delivered(&request);
    assert_eq!(forwarded.uri(), Some("sip:bob-alias@home.example"));
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    let request = pager(ALICE, "sip:bob-alias@home.example")
        .header("P-Served-User", &format!("<{BOB}>;sescase=term;regstate=reg"));
    world.assert_refused(&request, 403);
}

#[test]
fn p_served_user_counts_with_and_without_its_registration_state() {
    let mut world = registered_world(VARIANTS[0]);
    // What the third-party registrations say counts: `regstate` is the S-CSCF's word of another moment.
    for parameters in [";sescase=term", ";sescase=term;regstate=unreg", ";regstate=reg;SESCASE=TERM"] {
        world.assert_delivered(&pager(ALICE, BOB).header("P-Served-User", &format!("<{BOB}>{parameters}")));
    }
    let request = pager(ALICE, BOB).header("P-Served-User", &format!("<{ALICE}>;sescase=orig;regstate=reg"));
    assert_generated(&world.assert_refused(&request, 501));
}

#[test]
fn what_ends_at_the_trust_domains_edge_is_not_forwarded() {
    let mut world = registered_world(VARIANTS[0]);
    let request = pager(ALICE, BOB)
        .header("P-Preferred-Service", ICSI_PAGER)
        .header("P-Preferred-Identity", "<sip:somebody@else.example>")
        .header("P-Charging-Vector", "icid-value=1")
        .header("History-Info", "<sip:bob@home.example>;index=1");
    let forwarded = world.assert_delivered(&request);
    assert!(forwarded.header("P-Preferred-Service").is_none() && forwarded.header("P-Preferred-Identity").is_none());
    assert_eq!(forwarded.must("P-Charging-Vector"), "icid-value=1");
    assert_eq!(forwarded.must("History-Info"), "<sip:bob@home.example>;index=1");
}

#[test]
fn the_sender_of_a_group_message_is_whom_the_controlling_function_names() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        world.appliance.put_policy(BOB, &policy_blocking(ALICE));
        let group = |service: &str| {
            pager("sip:focus@home.example", BOB)
                .replace("P-Asserted-Service", service)
                .replace("Accept-Contact", &format!("*;+g.3gpp.icsi-ref=\"{}\"", service.replace(':', "%3A")))
                .header("Referred-By", &format!("<{ALICE}>"))
        };
        let response = world.assert_refused(&group(&format!("{ICSI_PAGER}.group")), 403);
        assert_warning(&response, "122 Function not allowed");
        // Anybody can write a Referred-By: outside group messages the asserted identity counts (G-3).
        world.assert_delivered(&group(ICSI_PAGER));
    });
}

#[test]
fn addresses_are_compared_as_addresses() {
    let mut world = registered_world(VARIANTS[0]);
    world.appliance.put_policy(BOB, &policy_blocking("sip:Alice@A.example;transport=tcp"));
    for same in
        ["sip:Alice@a.EXAMPLE", "sip:Alice@a.example:5062;foo=bar", "sip:%41lice@a.example", "sips:Alice@a.example"]
    {
        let request = pager(ALICE, BOB).replace("P-Asserted-Identity", &format!("\"Alice\" <{same}>"));
        assert_warning(&world.assert_refused(&request, 403), "122 Function not allowed");
    }
    for other in ["sip:alice@a.example", "sip:Alice@b.example", "tel:+15550100"] {
        world.assert_delivered(&pager(ALICE, BOB).replace("P-Asserted-Identity", &format!("<{other}>")));
    }
    // One of two asserted identities is enough (RFC 3325 §9.1).
    let both = pager(ALICE, BOB).replace("P-Asserted-Identity", "<tel:+15550100>, <sip:Alice@a.example>");
    assert_warning(&world.assert_refused(&both, 403), "122 Function not allowed");
}

#[test]
fn a_telephone_number_is_the_same_user_as_tel_and_as_sip_uri() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register("tel:+15550100", &[Device::new()]);
        let forwarded = world.assert_delivered(&pager(ALICE, "tel:+1-555-0100"));
        assert_eq!(forwarded.uri(), Some("tel:+1-555-0100"));
        world.assert_delivered(&pager(ALICE, "sip:+15550100@home.example;user=phone"));
        world.appliance.put_policy("tel:+15550100", &policy_blocking("tel:+15550123"));
        let response = world.assert_refused(&pager("sip:+1-555-0123@a.example;user=phone", "tel:+15550100"), 403);
        assert_warning(&response, "122 Function not allowed");
    });
}

#[test]
fn cpm_is_recognised_by_asserted_service_accept_contact_and_the_draft_tag() {
    let mut world = registered_world(VARIANTS[1]);
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    // Each a message of its own: the same Call-ID would make them merged requests.
    let plain = || pager(ALICE, BOB).without("P-Asserted-Service").without("Accept-Contact");
    let ways = [
        plain().header("P-Asserted-Service", ICSI_PAGER),
        plain().header("Accept-Contact", ACCEPT_CONTACT),
        plain().header("Accept-Contact", &ACCEPT_CONTACT.to_ascii_uppercase()),
        plain().header("Accept-Contact", &format!("*;+g.3gpp.icsi-ref=\"urn%3Aother,{ICSI_PAGER_ENCODED}\"")),
        plain().header("Accept-Contact", "*;+g.oma.sip-cpm;require;explicit"),
    ];
    for request in ways {
        let response = world.assert_refused(&request, 403);
        assert_warning(&response, "122 Function not allowed");
    }
}

#[test]
fn compact_forms_folding_and_odd_spacing_are_understood() {
    in_all_variants(|variant| {
        let mut world = registered_world(variant);
        let branch = format!("z9hG4bK{}", token("odd"));
        let via = world.alice.via(variant.transport, &branch);
        let body = cpim(ALICE, BOB, &token("id"), "positive-delivery", "text/plain", BODY_MARK);
        let text = format!(
            "MESSAGE {BOB} SIP/2.0\r\nv :   {}\r\nMAX-forwards:\r\n 68\r\nf: Alice\r\n\t<{ALICE}>\r\n ;tag=folded\r\n\
             t:<{BOB}>\r\ni: {}@odd\r\ncseq:  0009\r\n  MESSAGE\r\np-asserted-identity: \"A, B\" <{ALICE}>\r\n\
             a:*;+g.3gpp.icsi-ref=\"{ICSI_PAGER_ENCODED}\"\r\nUnknown:\r\n\tvalue ,;\r\nc: message/cpim\r\nl: {}\r\n\r\n{body}",
            via.replace(';', " ;\r\n  "),
            token("odd"),
            body.len(),
        );
        let addr = world.addr();
        world.alice.send_bytes(text.as_bytes(), variant.transport, addr);
        // rsip reads no folded headers, so what comes back may not hold any for the reader to succeed; read plainly.
        let forwarded = world.core.request_text();
        assert!(forwarded.starts_with(&format!("MESSAGE {BOB} SIP/2.0\r\n")), "{forwarded}");
        assert!(forwarded.ends_with(&body), "{forwarded}");
        assert!(forwarded.contains("67\r\n"), "{forwarded}");
        let reply = plain_answer(&forwarded, 200);
        let own_via = forwarded.lines().find(|line| line.to_ascii_lowercase().starts_with("via")).expect("a Via");
        let sent_by = own_via.split_whitespace().nth(2).and_then(|word| word.split(';').next()).expect("sent-by");
        world.core.reply_text(&reply, variant.transport, sent_by.parse().expect("an address"));
        let response = world.alice.response_text();
        assert!(response.starts_with("SIP/2.0 200 "), "{response}");
        assert!(response.contains(&branch), "{response}");
    });
}

#[test]
fn an_unknown_service_is_not_treated_as_cpm_by_policy_alone() {
    // A message of another service meets only rules that name no service.
    let mut world = registered_world(VARIANTS[0]);
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    let request = pager(ALICE, BOB)
        .without("P-Asserted-Service")
        .replace("Accept-Contact", "*;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.mmtel\"");
    // PM-0 speaks of CPM messages alone: others go their way.
    world.assert_delivered(&request);
}

fn options(world: &World) -> Request {
    Request::between("OPTIONS", ALICE, &format!("sip:{}", world.addr()))
}

fn registered_world(variant: Variant) -> World {
    let mut world = World::new(variant);
    world.register(BOB, &[Device::new()]);
    world
}

/// The final response; an INVITE may get a 100 before and needs its ACK.
fn final_response(world: &mut World, request: &Request) -> Received {
    let sent = world.send(request);
    let response = loop {
        let response = world.alice.next_new();
        assert_eq!(response.branch(), sent.branch, "{response:?}");
        if response.status() >= Some(200) {
            break response;
        }
        assert_eq!((response.status(), request.method.as_str()), (Some(100), "INVITE"), "{response:?}");
    };
    if request.method == "INVITE" {
        let via = world.alice.via(sent.transport, &sent.branch);
        let mut ack = Request::new("ACK", &request.uri).header("Via", &via).header("Max-Forwards", "70");
        for name in ["From", "To", "Call-ID"] {
            ack = ack.header(name, &response.must(name));
        }
        let ack = ack.header("CSeq", "1 ACK");
        world.alice.send(&ack, sent.transport, sent.to);
        if sent.transport == Transport::Udp {
            // The answer may have been repeated before the ACK arrived.
            let probe = world.alice.send(&options(world), sent.transport, sent.to);
            loop {
                let message = world.alice.next_new();
                if message.branch() == probe.branch {
                    break;
                }
                assert_eq!(message.raw, response.raw, "only repeats of the answer:\n{message:?}");
            }
        }
    }
    response
}

/// A response made by hand from a request's text: header lines Via to CSeq as they are, folding included.
pub fn plain_answer(request: &str, status: u16) -> String {
    let head = request.split("\r\n\r\n").next().unwrap_or_default();
    let mut answer = format!("SIP/2.0 {status} By Hand\r\n");
    let mut kept = false;
    for line in head.split("\r\n").skip(1) {
        if !line.starts_with([' ', '\t']) {
            let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
            kept = ["via", "v", "from", "f", "to", "t", "call-id", "i", "cseq"].contains(&name.as_str());
        }
        if kept {
            answer.push_str(line);
            answer.push_str("\r\n");
        }
    }
    answer.push_str("Content-Length: 0\r\n\r\n");
    answer
}
