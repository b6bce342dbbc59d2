//! Large message mode as its peers see it: who is refused and how, and a session from INVITE to BYE (SPEC §1.2).

use super::effect::NextHop;
use super::input::{Source, Transport};
use super::large_scene::*;
use super::policy::{AccessPolicy, Rule};
use super::preferences::{DeviceSelection, Handling, Profile};
use super::settings::{Settings, UserAgentVersion};
use super::subscriber::Subscriber;
use crate::base::slots::Slots;
use crate::metrics::names::Counter;
use crate::msrp::settings::PathMode;
use crate::testing::scene::{self, CORE};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

#[test]
fn a_session_is_bridged_from_invite_to_bye() {
    let mut scene = Scene::new();
    let (invite, forked) = scene.call();
    assert_eq!(forked.to, CORE);
    assert_eq!(forked.value("Route"), "<sip:192.0.2.9:5070;lr;odi=1>");
    assert_ne!(forked.value("Call-ID"), value(&invite, "Call-ID").unwrap());
    assert_ne!(tag(forked.value("From")), tag(value(&invite, "From").unwrap()));
    assert_eq!((forked.value("Max-Forwards"), forked.value("CSeq")), ("65", "1 INVITE"));
    assert_eq!((forked.value("Conversation-ID"), forked.value("Subject")), ("conv", "hello"));
    assert!(forked.value("User-Agent").starts_with("CPM-serv/OMA1.0 "));
    assert!(!forked.text.contains("Record-Route") && !forked.text.contains("alice@192.0.2.7"), "{forked:?}");
    scene.receive(CORE, &response(&forked, 180, "bob", "Contact: <sip:bob@192.0.2.3>\r\n", ""));
    let ringing = scene.one();
    assert_eq!((ringing.start(), ringing.to), ("SIP/2.0 180 Reason", ALICE));
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ok = scene.one();
    assert_eq!(ok.start(), "SIP/2.0 200 OK");
    assert_eq!(ok.value("To"), ringing.value("To"));
    assert_eq!(contact(&ok), "sip:192.0.2.1:5080");
    assert!(ok.value("Contact").ends_with(&format!(";+g.3gpp.icsi-ref=\"{ICSI}\"")), "{ok:?}");
    assert!(ok.value("Server").starts_with("CPM-serv/OMA1.0 "));
    assert_eq!(ok.value("Allow"), "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, MESSAGE, REGISTER");
    assert_eq!(ok.value("Record-Route"), "<sip:192.0.2.6:5062;lr>");
    assert_eq!(ok.value("P-Asserted-Identity"), "<sip:bob@home.example>");
    assert_eq!(ok.value("Content-Type"), "application/sdp");
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    let ack = scene.one();
    assert_eq!((ack.start(), ack.to), ("ACK sip:bob@192.0.2.3:5064 SIP/2.0", CORE));
    assert_eq!((ack.value("CSeq"), ack.value("Route")), ("1 ACK", "<sip:192.0.2.9:5070;lr>"));
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.none();
    scene.receive(ALICE, &within(&invite, &ok, "BYE", 6, "Reason: SIP;cause=200;text=\"done\"\r\n"));
    let [ok, bye] = scene.two();
    assert_eq!((ok.start(), ok.to), ("SIP/2.0 200 OK", ALICE));
    assert_eq!((bye.start(), bye.to), ("BYE sip:bob@192.0.2.3:5064 SIP/2.0", CORE));
    assert_eq!((bye.value("CSeq"), bye.value("Reason")), ("2 BYE", "SIP;cause=200;text=\"done\""));
    scene.receive(CORE, &response(&bye, 200, "", "", ""));
    scene.none();
    assert_eq!(scene.levels(), (0, 0, 0));
    assert_eq!((scene.count(Counter::SessionAnswered), scene.count(Counter::SessionEnded)), (1, 1));
    assert_eq!((scene.count(Counter::LargeBridge), scene.count(Counter::DroppedStrayAck)), (1, 0));
    scene.wait(40 * SECOND);
    scene.none();
    assert_eq!(scene.core.transactions.counts(), (0, 0), "every transaction ends");
}

#[test]
fn both_descriptions_are_ours_and_name_one_socket() {
    let mut scene = Scene::new();
    let (_, forked, ok) = scene.session();
    let path = |sent: &Sent| sent.body().lines().find_map(|line| line.strip_prefix("a=path:")).unwrap().to_owned();
    for (sent, peer) in [(&forked, "msrp://192.0.2.7:9000/sa;tcp"), (&ok, "msrp://192.0.2.3:9100/sb;tcp")] {
        let path = path(sent);
        let (own, rest) = path.split_once(' ').unwrap();
        assert!(own.starts_with("msrp://192.0.2.1:2855/") && own.ends_with(";tcp"), "{own}");
        assert_eq!(rest, peer);
        assert!(sent.body().contains("c=IN IP4 192.0.2.1\r\n"), "{sent:?}");
        assert!(sent.body().contains("m=message 2855 TCP/MSRP *\r\n"), "{sent:?}");
    }
    assert!(forked.body().contains("a=sendonly\r\na=setup:actpass\r\na=max-size:10485760\r\n"), "{forked:?}");
    assert!(ok.body().contains("a=recvonly\r\na=setup:passive\r\na=max-size:5000\r\n"), "{ok:?}");
}

#[test]
fn a_path_of_one_uri_is_the_operators_choice() {
    let mut scene = Scene::with(|settings| settings.msrp.path_mode = PathMode::Replace);
    let (_, forked, ok) = scene.session();
    for sent in [forked, ok] {
        let path = sent.body().lines().find_map(|line| line.strip_prefix("a=path:")).unwrap();
        assert!(!path.contains(' '), "{path}");
    }
}

/// A request that is refused: what is changed, and what the answer holds.
struct Refusal {
    name: &'static str,
    settings: fn(&mut Settings),
    invite: fn(String) -> String,
    bob: fn(&mut Subscriber),
    status: u16,
    lines: &'static [&'static str],
}

const PLAIN: Refusal = Refusal { name: "", settings: |_| {}, invite: |text| text, bob: |_| {}, status: 0, lines: &[] };

const FORBIDDEN_122: &[&str] = &["Warning: 399 pf.example \"122 Function not allowed\""];

const REFUSALS: &[Refusal] = &[
    Refusal {
        name: "LM-1: by access policy",
        bob: |bob| bob.policy = Some(Arc::new(AccessPolicy::new(&[Rule { conditions: vec![], rejects: true }]))),
        status: 403,
        lines: FORBIDDEN_122,
        ..PLAIN
    },
    Refusal {
        name: "LM-1b: nobody vouches",
        invite: |text| text.replace("P-Asserted-Identity: <sip:alice@a.example>\r\n", ""),
        status: 403,
        lines: &["Warning: 399 pf.example \"127 Service not authorised\""],
        ..PLAIN
    },
    Refusal {
        name: "LM-1b: not trusted",
        settings: |settings| settings.trusted.clear(),
        status: 403,
        lines: &["127 Service not authorised"],
        ..PLAIN
    },
    Refusal {
        name: "LM-2: version",
        settings: |settings| settings.ua_min = Some(UserAgentVersion { major: 2, minor: 3 }),
        status: 403,
        lines: &["Error-Info: <https://pf.example/err/132>", "Warning: 399 pf.example \"132 Version not supported\""],
        ..PLAIN
    },
    Refusal {
        name: "LM-2: no version",
        settings: |settings| {
            settings.ua_min = Some(UserAgentVersion { major: 1, minor: 0 });
            settings.ua_absent_allowed = false;
        },
        invite: |text| text.replace("User-Agent: CPM-client/OMA2.2\r\n", ""),
        status: 403,
        lines: &["Error-Info: "],
        ..PLAIN
    },
    Refusal {
        name: "LM-3: anonymous",
        settings: |settings| settings.anonymous_allowed = false,
        invite: |text| text.replace("Subject:", "Privacy: id\r\nSubject:"),
        status: 403,
        lines: &["Warning: 399 pf.example \"119 Anonymity not allowed\""],
        ..PLAIN
    },
    Refusal {
        name: "LM-4: session interval",
        invite: |text| text.replace("Subject:", "Session-Expires: 60\r\nSupported: timer\r\nSubject:"),
        status: 422,
        lines: &["Min-SE: 90"],
        ..PLAIN
    },
    Refusal {
        name: "LM-4: unreadable interval",
        invite: |text| text.replace("Subject:", "Session-Expires: soon\r\nSubject:"),
        status: 400,
        ..PLAIN
    },
    Refusal {
        name: "LM-0: no offer",
        invite: |text| {
            let head = text.split("Content-Type").next().unwrap().to_owned();
            head + "\r\n"
        },
        status: 488,
        lines: &["Warning: 399 "],
        ..PLAIN
    },
    Refusal {
        name: "LM-4x: another body",
        invite: |text| text.replace("application/sdp", "text/plain"),
        status: 415,
        lines: &["Accept: application/sdp, multipart/mixed"],
        ..PLAIN
    },
    Refusal {
        name: "LM-4x: encoded",
        invite: |text| text.replace("Content-Type", "Content-Encoding: gzip\r\nContent-Type"),
        status: 415,
        lines: &["Accept-Encoding: identity"],
        ..PLAIN
    },
    Refusal {
        name: "LM-4x: no CPIM",
        invite: |text| text.replace("accept-types:message/cpim", "accept-types:text/plain"),
        status: 488,
        lines: &["Warning: 399 "],
        ..PLAIN
    },
    Refusal {
        name: "LM-A2d: nothing is sent",
        invite: |text| text.replace("a=sendonly", "a=recvonly"),
        status: 488,
        ..PLAIN
    },
    Refusal { name: "LM-4x: no MSRP", invite: |text| text.replace("TCP/MSRP", "RTP/AVP"), status: 488, ..PLAIN },
    Refusal {
        name: "LM-4x: to connect nowhere",
        invite: |text| {
            let text = text.replace("actpass", "passive").replace("msrp://192.0.2.7", "msrp://a.example");
            text.replace("c=IN IP4 192.0.2.7", "c=IN IP4 a.example")
        },
        status: 488,
        ..PLAIN
    },
    Refusal { name: "not SDP", invite: |text| text.replace("v=0", "v=1"), status: 400, ..PLAIN },
    Refusal {
        name: "SPEC 2.9: size of the file",
        settings: |settings| settings.large_size_max = 10,
        invite: |text| {
            let text = text.replace(".largemsg", ".filetransfer");
            text.replace("a=sendonly", "a=file-selector:name:\"a size:1\" size:101\r\na=sendonly")
        },
        status: 403,
        lines: &["Warning: 399 pf.example \"133 Size Exceeded\""],
        ..PLAIN
    },
    Refusal {
        name: "LM-ed2: preference",
        bob: |bob| {
            bob.devices = Box::new([]);
            bob.profile = Some(Arc::new(Profile { large_handling: Some(Handling::Reject), ..Profile::default() }));
        },
        status: 403,
        lines: FORBIDDEN_122,
        ..PLAIN
    },
    Refusal {
        name: "another service",
        invite: |text| text.replace(".largemsg", ".session"),
        status: 488,
        lines: &["Warning: 399 "],
        ..PLAIN
    },
    Refusal { name: "another enabler", invite: |text| text.replace("oma.cpm.largemsg", "mmtel"), status: 488, ..PLAIN },
    Refusal { name: "unknown", invite: |text| text.replace("INVITE sip:bob", "INVITE sip:rob"), status: 404, ..PLAIN },
    Refusal { name: "hops", invite: |text| text.replace("Forwards: 66", "Forwards: 0"), status: 483, ..PLAIN },
    Refusal {
        name: "headers in the Request-URI",
        invite: |text| text.replace("sip:bob@home.example SIP", "sip:bob@home.example?Route=%3Csip:x%3E SIP"),
        status: 400,
        ..PLAIN
    },
    Refusal {
        name: "extension",
        invite: |text| text.replace("Subject:", "Require: timer, replaces, 100rel\r\nSubject:"),
        status: 420,
        lines: &["Unsupported: replaces\r\n"],
        ..PLAIN
    },
    Refusal { name: "originating", invite: |text| text.replace("<sip:term@", "<sip:orig@"), status: 501, ..PLAIN },
    Refusal {
        name: "no Contact",
        invite: |text| text.replace("Contact: <sip:alice@192.0.2.7:5060>\r\n", ""),
        status: 400,
        ..PLAIN
    },
    Refusal {
        name: "a Record-Route that cannot be read",
        invite: |text| text.replace("Record-Route: <sip:192.0.2.6:5062;lr>", "Record-Route: <nothing>"),
        status: 400,
        ..PLAIN
    },
    Refusal {
        name: "nowhere to go",
        invite: |text| text.replace("<sip:192.0.2.9:5070;lr;odi=1>", "<sips:192.0.2.9;lr>"),
        status: 500,
        lines: &["Next hop unreachable"],
        ..PLAIN
    },
];

#[test]
fn what_cannot_be_taken_is_refused_with_its_reason_and_nobody_is_called() {
    for refusal in REFUSALS {
        let mut scene = Scene::with(refusal.settings);
        scene.directory.change("sip:bob@home.example", refusal.bob);
        let invite = scene.invite(refusal.invite);
        scene.receive(ALICE, &invite);
        let answer = scene.one();
        assert!(answer.start().starts_with(&format!("SIP/2.0 {} ", refusal.status)), "{}: {answer:?}", refusal.name);
        assert_eq!(answer.to, ALICE, "{}", refusal.name);
        for line in refusal.lines {
            assert!(answer.text.contains(line), "{}: {line} in {}", refusal.name, answer.text);
        }
        assert!(answer.status() != 403 || answer.text.contains("\r\nWarning: 399 "), "{}", refusal.name);
        assert!(!tag(answer.value("To")).is_empty(), "{}", refusal.name);
        assert_eq!(scene.levels(), (0, 0, 0), "{}", refusal.name);
    }
}

#[test]
fn services_that_carry_a_message_are_bridged() {
    let icsi = format!("Accept-Contact: *;+g.3gpp.icsi-ref=\"{ICSI}\"\r\n");
    for service in [
        "Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.deferred\"\r\n",
        "Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.filetransfer\"\r\n",
        "Accept-Contact: *;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg,\
         urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg\"\r\n",
        "P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg\r\n",
        "Accept-Contact: *;+g.oma.sip-cpm\r\n",
        "",
    ] {
        let mut scene = Scene::new();
        let invite = scene.invite(|text| text.replace(&icsi, service));
        scene.receive(ALICE, &invite);
        assert!(scene.one().start().starts_with("INVITE "), "{service}");
    }
}

#[test]
fn the_ids_that_a_client_needs_are_made_where_they_are_missing() {
    let mut scene = Scene::new();
    let invite =
        scene.invite(|text| text.replace("Conversation-ID: conv\r\n", "").replace("Contribution-ID: contrib\r\n", ""));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert_ne!(forked.value("Conversation-ID"), forked.value("Contribution-ID"));
    assert_eq!(forked.value("Conversation-ID").len(), 32);
}

#[test]
fn other_parts_of_the_body_reach_the_recipient() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| {
        let (head, sdp) = text.split_once("\r\n\r\n").unwrap();
        let head = head.replace("application/sdp", "multipart/mixed;boundary=x");
        format!(
            "{head}\r\n\r\n--x\r\nContent-Type: application/sdp\r\n\r\n{sdp}\r\n--x\r\nContent-Type: message/cpim\r\n\r\n\
             From: <sip:alice@a.example>\r\n\r\nContent-Type: text/plain\r\n\r\nfirst\r\n--x--\r\n"
        )
    });
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert_eq!(forked.value("Content-Type"), "multipart/mixed;boundary=x");
    assert!(forked.body().contains("m=message 2855 TCP/MSRP *\r\n"), "{forked:?}");
    assert!(forked.body().ends_with("\r\n\r\nContent-Type: text/plain\r\n\r\nfirst\r\n--x--\r\n"), "{forked:?}");
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ok = scene.one();
    assert_eq!(ok.value("Content-Type"), "application/sdp");
}

#[test]
fn an_invite_too_large_for_a_datagram_says_that_we_are_reached_over_tcp() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("hello", &"hello".repeat(60)));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert!(forked.stream && forked.value("Via").starts_with("SIP/2.0/TCP "), "{forked:?}");
    assert_eq!(contact(&forked), "sip:192.0.2.1:5080;transport=tcp");
}

#[test]
fn a_sender_on_a_stream_reaches_us_over_one() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text);
    let source = Source {
        transport: Transport::Tcp,
        peer: ALICE,
        listener: 0,
        socket: super::effect::Socket::WellKnown,
        conn: None,
    };
    scene.receive_from(source, &invite);
    let forked = scene.one();
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    assert_eq!(contact(&scene.one()), "sip:192.0.2.1:5080;transport=tcp");
}

#[test]
fn our_own_invite_that_comes_back_is_a_loop() {
    let mut scene = Scene::new();
    let (_, forked) = scene.call();
    let route = "Route: <sip:192.0.2.9:5070;lr;odi=1>\r\n";
    let back = forked.text.replace(route, "").replace("Via: ", "Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKx\r\nVia: ");
    scene.receive(CORE, &back);
    assert_eq!(scene.one().status(), 482);
}

#[test]
fn the_same_invite_on_another_path_is_a_merged_one() {
    let mut scene = Scene::new();
    let (invite, _) = scene.call();
    scene.receive(ALICE, &invite);
    scene.none();
    scene.receive(ALICE, &invite.replace("z9hG4bKalice", "z9hG4bKother"));
    assert_eq!(scene.one().status(), 482);
}

#[test]
fn without_room_for_a_session_the_sender_is_told_when_to_try_again() {
    let mut scene = Scene::new();
    scene.core.large.sessions = Slots::new(1);
    scene.call();
    let invite = scene.invite(|text| text);
    scene.receive(ALICE, &invite);
    let full = scene.one();
    assert_eq!((full.status(), full.value("Retry-After")), (503, "5"));
    assert_eq!(scene.levels(), (1, 1, 1));
}

#[test]
fn a_100_leaves_when_nobody_answers_so_that_it_is_there_within_200_ms() {
    let mut scene = Scene::new();
    let (invite, _) = scene.call();
    scene.wait(149 * MILLI);
    scene.none();
    scene.wait(2 * MILLI);
    let trying = scene.one();
    assert_eq!((trying.status(), trying.to), (100, ALICE));
    assert_eq!(trying.value("To"), "<sip:bob@home.example>", "no dialog yet");
    scene.receive(ALICE, &invite);
    assert_eq!(scene.one().status(), 100, "a repetition gets it again");
}

#[test]
fn each_chosen_device_is_called_for_itself_and_the_first_answer_wins() {
    let mut scene = two_devices();
    let invite = scene.invite(|text| text);
    scene.receive(ALICE, &invite);
    let [first, second] = scene.two();
    for (forked, instance) in [(&first, "urn:uuid:1"), (&second, "urn:uuid:2")] {
        let instance = format!("Accept-Contact: *;+sip.instance=\"<{instance}>\";require;explicit\r\n");
        assert!(forked.text.contains(&instance) && forked.text.contains(ICSI), "{forked:?}");
        assert_eq!(forked.text.matches("Accept-Contact").count(), 2);
    }
    assert_ne!(first.value("Call-ID"), second.value("Call-ID"));
    assert_ne!(tag(first.value("From")), tag(second.value("From")));
    // Early dialogs: one for each tag of either device.
    scene.receive(CORE, &response(&first, 180, "x", "", ""));
    scene.receive(CORE, &response(&first, 183, "y", "", ""));
    scene.receive(CORE, &response(&second, 180, "x", "", ""));
    scene.receive(CORE, &response(&first, 181, "x", "", ""));
    let tags: Vec<String> = scene.take().iter().map(|sent| tag(sent.value("To")).to_owned()).collect();
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2] && tags[0] == tags[3], "{tags:?}");
    scene.receive(CORE, &answered(&second, "x", answer()));
    let [cancel, ok] = scene.two();
    assert!(cancel.start().starts_with("CANCEL "), "{cancel:?}");
    assert_eq!(cancel.value("Call-ID"), first.value("Call-ID"));
    assert_eq!((ok.status(), tag(ok.value("To"))), (200, tags[2].as_str()));
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    assert_eq!(scene.one().value("Call-ID"), second.value("Call-ID"));
    // The CANCEL came too late.
    for _ in 0..2 {
        scene.receive(CORE, &answered(&first, "late", answer()));
        let [ack, bye] = scene.two();
        assert_eq!((ack.value("CSeq"), bye.value("CSeq")), ("1 ACK", "1002 BYE"));
        assert_eq!((ack.value("Call-ID"), tag(ack.value("To"))), (first.value("Call-ID"), "late"));
        assert_eq!(bye.value("Call-ID"), first.value("Call-ID"));
    }
    assert_eq!(scene.levels(), (1, 1, 1), "the session goes on");
}

fn two_devices() -> Scene {
    let scene = Scene::new();
    let devices = DeviceSelection::Selected(vec!["urn:uuid:1".into(), "urn:uuid:2".into()]);
    scene.directory.change("sip:bob@home.example", |bob| {
        bob.profile = Some(Arc::new(Profile { devices, ..Profile::default() }));
    });
    scene
}

#[test]
fn a_fork_behind_the_core_that_answers_second_is_acknowledged_and_ended() {
    let mut scene = Scene::new();
    let (_, forked) = scene.call();
    scene.receive(CORE, &answered(&forked, "one", answer()));
    assert_eq!(scene.one().status(), 200);
    scene.receive(CORE, &answered(&forked, "two", answer()));
    let [ack, bye] = scene.two();
    assert_eq!((tag(ack.value("To")), tag(bye.value("To"))), ("two", "two"));
    assert!(bye.start().starts_with("BYE "));
}

#[test]
fn the_best_failure_of_all_devices_goes_back_once() {
    let mut scene = two_devices();
    let invite = scene.invite(|text| text);
    scene.receive(ALICE, &invite);
    let [first, second] = scene.two();
    scene.receive(CORE, &response(&first, 500, "x", "", ""));
    assert!(scene.one().start().starts_with("ACK "), "of the transaction");
    scene.receive(CORE, &response(&second, 486, "x", "", ""));
    let [_, busy] = scene.two();
    assert_eq!((busy.status(), busy.to), (486, ALICE));
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn a_6xx_calls_the_others_back() {
    let mut scene = two_devices();
    let invite = scene.invite(|text| text);
    scene.receive(ALICE, &invite);
    let [first, second] = scene.two();
    scene.receive(CORE, &response(&first, 100, "", "", ""));
    scene.receive(CORE, &response(&second, 603, "x", "", ""));
    let sent = scene.take();
    let starts: Vec<&str> = sent.iter().map(|sent| sent.start()).collect();
    assert!(starts[0].starts_with("ACK ") && starts[1].starts_with("CANCEL "), "{starts:?}");
    assert_eq!(starts[2], "SIP/2.0 603 Reason");
}

#[test]
fn failures_keep_their_code_except_where_it_speaks_of_somebody_else() {
    let lines = "Warning: 399 b \"why\"\r\nContact: <sip:other@x>\r\nReason: Q.850;cause=17\r\nRetry-After: 60\r\n";
    for (status, passed, retry) in [
        (302, 480, true),
        (404, 404, true),
        (486, 486, true),
        (488, 488, true),
        (503, 500, false),
        (580, 580, true),
        (603, 603, true),
    ] {
        let mut scene = Scene::new();
        let (_, forked) = scene.call();
        scene.receive(CORE, &response(&forked, status, "x", lines, ""));
        let [_, failure] = scene.two();
        assert_eq!((failure.status(), failure.to), (passed, ALICE));
        assert_eq!(failure.value("Warning"), "399 b \"why\"");
        assert!(!failure.text.contains("Contact"), "{failure:?}");
        assert_eq!(failure.text.contains("Retry-After"), retry, "{status}");
        assert!(!failure.value("To").contains("tag=x"), "the tag is ours");
        assert_eq!(scene.levels(), (0, 0, 0));
    }
}

#[test]
fn a_422_of_the_recipient_is_followed_once() {
    let mut scene = Scene::new();
    let (_, forked) = scene.call();
    scene.receive(CORE, &response(&forked, 422, "x", "Min-SE: 3600\r\n", ""));
    let [_, again] = scene.two();
    assert_eq!((again.value("CSeq"), again.value("Call-ID")), ("2 INVITE", forked.value("Call-ID")));
    assert_eq!((again.value("Session-Expires"), again.value("Min-SE")), ("3600", "3600"));
    scene.receive(CORE, &response(&again, 422, "x", "Min-SE: 7200\r\n", ""));
    let [_, failure] = scene.two();
    // It is about our interval, not the sender's.
    assert_eq!(failure.status(), 500);
}

#[test]
fn an_answer_of_no_use_is_acknowledged_and_ended_and_the_sender_hears_488() {
    for broken in [
        answer().replace("recvonly", "inactive"),
        answer().replace("m=message 9100", "m=message 0"),
        answer().replace("message/cpim", "text/plain"),
        answer().replace("a=setup:passive", "a=setup:holdconn"),
        answer().replace("msrp://192.0.2.3", "msrp://b.example").replace("IP4 192.0.2.3", "IP4 b.example"),
        "nothing".into(),
        String::new(),
    ] {
        let mut scene = Scene::new();
        let (_, forked) = scene.call();
        scene.receive(CORE, &answered(&forked, "bob", broken.clone()));
        let sent = scene.take();
        let starts: Vec<&str> = sent.iter().map(Sent::start).collect();
        assert!(starts[0].starts_with("ACK ") && starts[1].starts_with("BYE "), "{broken}: {starts:?}");
        assert_eq!((sent[2].status(), sent[2].to), (488, ALICE));
        assert_eq!(scene.levels(), (0, 0, 0));
    }
}

#[test]
fn an_answer_without_contact_is_acknowledged_at_the_address_that_was_called() {
    let mut scene = Scene::new();
    let (invite, forked) = scene.call();
    let answer = answered(&forked, "bob", answer()).replace("Contact: <sip:bob@192.0.2.3:5064>\r\n", "");
    scene.receive(CORE, &answer);
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    assert_eq!(scene.one().start(), "ACK sip:bob@home.example SIP/2.0");
}

#[test]
fn a_sender_that_hangs_up_calls_every_device_back() {
    let mut scene = two_devices();
    let invite = scene.invite(|text| text);
    scene.receive(ALICE, &invite);
    let [first, second] = scene.two();
    scene.receive(CORE, &response(&first, 180, "x", "", ""));
    scene.take();
    let cancel = invite.replace("INVITE sip", "CANCEL sip").replace("5 INVITE", "5 CANCEL");
    let cancel = with_length(cancel.split("Content-Type").next().unwrap().to_owned() + "\r\n");
    scene.receive(ALICE, &cancel);
    let sent = scene.take();
    let starts: Vec<&str> = sent.iter().map(Sent::start).collect();
    assert_eq!((starts[0], starts[2]), ("SIP/2.0 200 OK", "SIP/2.0 487 Request Terminated"), "{starts:?}");
    assert_eq!(sent[0].value("CSeq"), "5 CANCEL");
    assert!(starts[1].starts_with("CANCEL ") && sent[1].value("Call-ID") == first.value("Call-ID"));
    assert_eq!(scene.levels(), (0, 0, 0));
    // The other shows itself only now; a third had answered already.
    scene.receive(CORE, &response(&second, 180, "x", "", ""));
    assert!(scene.one().start().starts_with("CANCEL "));
    scene.receive(CORE, &answered(&first, "x", answer()));
    let [ack, bye] = scene.two();
    assert!(ack.start().starts_with("ACK ") && bye.start().starts_with("BYE "));
    scene.receive(CORE, &response(&second, 487, "x", "", ""));
    assert!(scene.one().start().starts_with("ACK "));
}

#[test]
fn a_cancel_after_the_answer_changes_nothing() {
    let mut scene = Scene::new();
    let (invite, ..) = scene.session();
    let cancel = invite.replace("INVITE sip", "CANCEL sip").replace("5 INVITE", "5 CANCEL");
    scene.receive(ALICE, &with_length(cancel.split("Content-Type").next().unwrap().to_owned() + "\r\n"));
    assert_eq!(scene.one().status(), 200);
    assert_eq!(scene.levels(), (1, 1, 1));
}

#[test]
fn a_silent_recipient_is_called_back_after_the_invite_timeout() {
    let mut scene = Scene::with(|settings| settings.invite_timeout = 40 * SECOND);
    let (_, forked) = scene.call();
    scene.receive(CORE, &response(&forked, 180, "x", "", ""));
    scene.take();
    scene.wait(39 * SECOND);
    scene.none();
    scene.wait(SECOND + MILLI);
    let [cancel, timeout] = scene.two();
    assert!(cancel.start().starts_with("CANCEL "));
    assert_eq!((timeout.status(), timeout.to), (408, ALICE));
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn a_core_that_never_answers_is_a_timeout() {
    let mut scene = Scene::new();
    scene.call();
    scene.wait(33 * SECOND);
    let last = scene.take().pop().unwrap();
    assert_eq!((last.status(), last.to), (408, ALICE));
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn the_200_leaves_again_until_its_ack_and_both_sides_are_ended_without_one() {
    let mut scene = Scene::new();
    let (invite, forked) = scene.call();
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ok = scene.one();
    let mut times = Vec::new();
    let mut ack_at = None;
    let started = scene.at;
    while scene.at - started < 31 * SECOND {
        scene.wait(100 * MILLI);
        for sent in scene.take() {
            let after = (scene.at - started).as_millis();
            if sent.to == ALICE {
                assert_eq!(sent.text, ok.text);
                times.push(after);
            } else {
                assert!(sent.start().starts_with("ACK "), "{sent:?}");
                ack_at = Some(after);
            }
        }
        // The recipient repeats itself meanwhile, and is not heard.
        scene.receive(CORE, &answered(&forked, "bob", answer()));
        let heard = scene.take();
        assert_eq!(heard.is_empty(), ack_at.is_none(), "{heard:?}");
    }
    assert_eq!(times[..6], [500, 1500, 3500, 7500, 11_500, 15_500]);
    assert_eq!(ack_at, Some(30_000), "LM-K2");
    scene.wait(2 * SECOND);
    let sent = scene.take();
    let mut byes: Vec<_> = sent.iter().filter(|sent| sent.start().starts_with("BYE ")).collect();
    // Nobody answers them, so they leave again.
    byes.truncate(2);
    assert_eq!(byes.len(), 2, "{sent:?}");
    assert_eq!((byes[0].to, byes[1].to), (CORE, "192.0.2.6:5062".parse().unwrap()));
    assert_eq!(byes[1].start(), "BYE sip:alice@192.0.2.7:5060 SIP/2.0");
    assert_eq!(byes[1].value("To"), value(&invite, "From").unwrap());
    assert_eq!(byes[1].value("From"), ok.value("To"));
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn a_repeated_200_is_acknowledged_again_once_the_sender_has() {
    let mut scene = Scene::new();
    let (_, forked, _) = scene.session();
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ack = scene.one();
    assert_eq!((ack.value("CSeq"), tag(ack.value("To"))), ("1 ACK", "bob"));
}

#[test]
fn a_recipient_that_says_bye_ends_the_sender_too() {
    let mut scene = Scene::new();
    let (invite, forked, ok) = scene.session();
    scene.receive(CORE, &within_b(&forked, "bob", "BYE", 1, "Reason: SIP;cause=486\r\n"));
    let [done, bye] = scene.two();
    assert_eq!((done.status(), bye.start()), (200, "BYE sip:alice@192.0.2.7:5060 SIP/2.0"));
    assert_eq!((bye.value("Reason"), bye.value("Route")), ("SIP;cause=486", "<sip:192.0.2.6:5062;lr>"));
    assert_eq!((bye.value("From"), bye.value("To")), (ok.value("To"), value(&invite, "From").unwrap()));
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn a_bye_before_the_ack_reaches_the_sender_when_it_has_acknowledged() {
    let mut scene = Scene::new();
    let (invite, forked) = scene.call();
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ok = scene.one();
    scene.receive(CORE, &within_b(&forked, "bob", "BYE", 1, ""));
    let sent = scene.take();
    assert_eq!((sent[0].status(), sent.len()), (200, 2), "{sent:?}");
    assert!(sent[1].start().starts_with("ACK "), "its 2xx is acknowledged all the same");
    scene.wait(500 * MILLI);
    assert_eq!(scene.one().status(), 200, "the answer still leaves again");
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    assert!(scene.one().start().starts_with("BYE sip:alice@"));
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn a_sender_may_say_bye_while_it_rings() {
    let mut scene = Scene::new();
    let (invite, forked) = scene.call();
    scene.receive(CORE, &response(&forked, 180, "x", "", ""));
    let ringing = scene.one();
    scene.receive(ALICE, &within(&invite, &ringing, "BYE", 6, ""));
    let sent = scene.take();
    let starts: Vec<&str> = sent.iter().map(Sent::start).collect();
    assert_eq!((starts[0], starts[2]), ("SIP/2.0 200 OK", "SIP/2.0 487 Request Terminated"));
    assert!(starts[1].starts_with("CANCEL "));
}

#[test]
fn names_of_next_hops_are_looked_up_and_the_session_waits() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("<sip:192.0.2.9:5070;lr;odi=1>", "<sip:scscf.example;lr>"));
    scene.receive(ALICE, &invite);
    scene.none();
    assert_eq!(scene.resolve(&["192.0.2.20:5060".parse().unwrap()]), "scscf.example");
    let forked = scene.one();
    assert_eq!(forked.to, "192.0.2.20:5060".parse().unwrap());
    let ok = answered(&forked, "bob", answer()).replace("<sip:192.0.2.9:5070;lr>", "<sip:pcscf.example:5066;lr>");
    scene.receive(CORE, &ok);
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.none();
    assert_eq!(scene.resolve(&["192.0.2.21:5066".parse().unwrap()]), "pcscf.example");
    let ack = scene.one();
    assert!(ack.start().starts_with("ACK ") && ack.to == "192.0.2.21:5066".parse().unwrap(), "{ack:?}");
}

#[test]
fn a_name_without_an_address_fails_the_call_or_ends_the_session() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("<sip:192.0.2.9:5070;lr;odi=1>", "<sip:scscf.example;lr>"));
    scene.receive(ALICE, &invite);
    scene.resolve(&[]);
    assert_eq!(scene.one().status(), 500);
    let (invite, forked) = scene.call();
    let ok = answered(&forked, "bob", answer()).replace("<sip:192.0.2.9:5070;lr>", "<sip:pcscf.example:5066;lr>");
    scene.receive(CORE, &ok);
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.resolve(&[]);
    assert!(scene.one().start().starts_with("BYE sip:alice@"), "nobody can be reached");
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn an_unreachable_user_has_the_message_taken_by_the_appliance() {
    for handling in [Handling::Defer, Handling::Store] {
        let mut scene = Scene::new();
        scene.directory.change("sip:bob@home.example", |bob| {
            bob.devices = Box::new([]);
            bob.profile = Some(Arc::new(Profile { large_handling: Some(handling), ..Profile::default() }));
        });
        let invite = scene.invite(|text| text);
        scene.receive(ALICE, &invite);
        let ok = scene.one();
        assert_eq!((ok.status(), ok.to), (200, ALICE));
        let path = ok.body().lines().find_map(|line| line.strip_prefix("a=path:")).unwrap();
        assert!(path.starts_with("msrp://192.0.2.1:2855/") && !path.contains(' '), "{path}");
        assert!(ok.body().contains("a=recvonly\r\na=setup:passive\r\n"), "{ok:?}");
        assert!(!ok.text.contains("P-Asserted-Identity"));
        scene.wait(500 * MILLI);
        assert_eq!(scene.one().text, ok.text, "until the ACK");
        scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
        scene.none();
        scene.receive(ALICE, &within(&invite, &ok, "BYE", 6, ""));
        assert_eq!(scene.one().status(), 200);
        assert_eq!(scene.levels(), (0, 0, 0));
    }
}

#[test]
fn a_message_for_another_network_goes_to_the_interworking_function_and_never_back() {
    let mut scene = Scene::with(|settings| settings.isf = Some(scene::isf()));
    scene.directory.change("sip:bob@home.example", |bob| {
        bob.devices = Box::new([]);
        bob.profile = Some(Arc::new(Profile { large_handling: Some(Handling::Interwork), ..Profile::default() }));
    });
    let invite = scene.invite(|text| text);
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert_eq!((forked.to, forked.start()), (scene::ISF, "INVITE sip:bob@home.example SIP/2.0"));
    let routes: Vec<&str> = forked.text.lines().filter(|line| line.starts_with("Route: ")).collect();
    assert_eq!(routes, ["Route: <sip:192.0.2.8:5090;lr>", "Route: <sip:192.0.2.9:5070;lr;odi=1>"]);
    assert!(forked.value("Accept-Contact").contains(ICSI));
    scene.receive(scene::ISF, &answered(&forked, "isf", answer()));
    assert_eq!(scene.one().status(), 200);
    let back = scene.invite(|text| text);
    scene.receive(scene::ISF, &back);
    let ok = scene.one();
    assert_eq!((ok.status(), scene.count(Counter::LargeDefer)), (200, 1), "it is taken here");
}

#[test]
fn an_idle_session_is_small() {
    let mut scene = Scene::new();
    scene.session();
    let session = scene.core.large.sessions.iter().next().unwrap();
    let legs: usize = session.legs.iter().flatten().map(|leg| leg.heap_len()).sum();
    let whole = size_of_val(session) + legs;
    assert!(session.setup.is_none() && session.task.is_none());
    assert!(whole < 1_400, "{whole} bytes, {legs} of them texts");
}

#[test]
fn a_strict_router_in_front_of_the_recipient_is_understood() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("<sip:192.0.2.9:5070;lr;odi=1>", "<sip:192.0.2.9:5070>"));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert_eq!(forked.start(), "INVITE sip:192.0.2.9:5070 SIP/2.0");
    assert_eq!(forked.value("Route"), "<sip:bob@home.example>");
}

#[test]
fn without_a_route_the_configured_core_is_next() {
    let other = "192.0.2.40:5070".parse().unwrap();
    let mut scene = Scene::with(|settings| settings.core.hop = NextHop { transport: None, addr: other });
    let invite = scene.invite(|text| text.replace(", <sip:192.0.2.9:5070;lr;odi=1>", ""));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert_eq!(forked.to, other);
    assert!(!forked.text.contains("\r\nRoute: "), "{forked:?}");
}

#[test]
fn what_the_recipient_sends_comes_to_the_shard_that_has_the_session() {
    let mut scene = Scene::of_shard(2, 4);
    let mut kept = 0;
    for _ in 0..40 {
        let invite = scene.invite(|text| text);
        scene.receive(ALICE, &invite);
        let Some(forked) = scene.take().pop() else {
            assert!(scene.posted > 0, "another shard's");
            continue;
        };
        kept += 1;
        assert_eq!(contact(&forked), format!("sip:{}", scene::own(2)));
        scene.receive(CORE, &answered(&forked, "bob", answer()));
        let ok = scene.one();
        assert_eq!(contact(&ok), format!("sip:{}", scene::own(2)));
        let posted = scene.posted;
        scene.receive(CORE, &within_b(&forked, "bob", "BYE", 1, ""));
        assert_eq!((scene.take()[0].status(), scene.posted), (200, posted), "no hand-over");
    }
    assert!(kept > 3, "{kept}");
}
