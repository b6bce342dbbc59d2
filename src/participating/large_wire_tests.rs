//! Large message mode on the wire: what crosses from one leg to the other, and what does not (SPEC LM-5, §2.3).

use super::effect::Socket;
use super::input::{Source, Transport};
use super::large::connect_addresses;
use super::large_scene::*;
use crate::base::id::ConnId;
use crate::sdp::Description;
use crate::testing::scene::{self, CORE};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_identity_crosses_with_the_wish_for_privacy_that_came_with_it() {
    let mut scene = Scene::new();
    let (_, forked) = scene.call();
    let ok = answered(&forked, "bob", answer()).replace("Allow: ", "Privacy: id\r\nAllow: ");
    scene.receive(CORE, &ok);
    let ok = scene.one();
    assert_eq!((ok.value("P-Asserted-Identity"), ok.value("Privacy")), ("<sip:bob@home.example>", "id"));
}

#[test]
fn what_belongs_to_the_senders_own_dialogs_ends_here() {
    let mut scene = Scene::new();
    let gone = [
        "Replaces: 1;to-tag=2;from-tag=3",
        "Join: 1;to-tag=2;from-tag=3",
        "Target-Dialog: 1;local-tag=2;remote-tag=3",
        "Recv-Info: x",
        "Allow-Events: reg",
        "Timestamp: 54",
        "Authorization: Digest x",
        "P-Preferred-Identity: <sip:boss@a.example>",
    ];
    let kept = [
        "History-Info: <sip:x@h>;index=1",
        "P-Charging-Vector: icid-value=1",
        "Privacy: none",
        "InReplyTo-Contribution-ID: 7",
        "Referred-By: <sip:r@h>",
        "Date: Sat, 13 Nov 2027 23:29:00 GMT",
        "X-Unknown: as is",
    ];
    let lines: String = gone.iter().chain(&kept).map(|line| format!("{line}\r\n")).collect();
    let invite = scene.invite(|text| text.replace("Subject:", &format!("{lines}Subject:")));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    for line in gone {
        assert!(!forked.text.contains(line), "{line} in {forked:?}");
    }
    for line in kept {
        assert!(forked.text.contains(&format!("\r\n{line}\r\n")), "{line} not in {forked:?}");
    }
}

#[test]
fn codes_that_only_we_could_act_upon_become_others() {
    const WARNING: &str = "Warning: 399 pf.example \"122 Function not allowed\"\r\n";
    const UNAUTHORISED: &str = "Warning: 399 pf.example \"127 Service not authorised\"\r\n";
    const THEIRS: &str = "Warning: 399 b \"127 x\"\r\n";
    for (status, lines, sent, has, has_not) in [
        (401, "WWW-Authenticate: Digest realm=\"x\"\r\n", 403, UNAUTHORISED, "Authenticate"),
        (407, "Proxy-Authenticate: Digest realm=\"x\"\r\n", 403, UNAUTHORISED, "Authenticate"),
        (403, "", 403, WARNING, "127"),
        (403, THEIRS, 403, THEIRS, "122"),
        (405, "Allow: OPTIONS\r\n", 405, "\r\nAllow: OPTIONS\r\n", "INVITE, ACK"),
        (486, "Allow: OPTIONS\r\n", 486, "SIP/2.0 486 Reason\r\n", "OPTIONS"),
    ] {
        let mut scene = Scene::new();
        let (_, forked) = scene.call();
        scene.receive(CORE, &response(&forked, status, "bob", lines, ""));
        let [_, refused] = scene.two();
        assert_eq!(refused.status(), sent, "{status}: {refused:?}");
        assert!(refused.text.contains(has) && !refused.text.contains(has_not), "{status}: {refused:?}");
    }
    // Another 422 after the interval was met.
    let mut scene = Scene::new();
    let (_, forked) = scene.call();
    scene.receive(CORE, &response(&forked, 422, "bob", "Min-SE: 2000\r\n", ""));
    let [_, again] = scene.two();
    assert_eq!(again.value("Session-Expires"), "2000");
    scene.receive(CORE, &response(&again, 422, "bob", "Min-SE: 3000\r\n", ""));
    let [_, refused] = scene.two();
    assert_eq!(refused.status(), 500, "{refused:?}");
}

#[test]
fn an_answer_within_a_dialog_has_the_contact_that_its_invite_had() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("5070;lr;odi=1", "5070;lr;transport=tcp"));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert!(forked.stream && contact(&forked).ends_with(";transport=tcp"), "{forked:?}");
    let source = Source { transport: Transport::Tcp, peer: CORE, listener: 0, socket: Socket::WellKnown, conn: None };
    scene.receive_from(source, &answered(&forked, "bob", answer()).replace("5070;lr", "5070;lr;transport=tcp"));
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    let ack = scene.one();
    assert!(ack.stream, "{ack:?}");
    scene.receive_from(source, &within_b(&forked, "bob", "UPDATE", 9, ""));
    let updated = scene.one();
    assert_eq!((updated.status(), contact(&updated)), (200, contact(&forked)), "{updated:?}");
}

#[test]
fn a_shard_that_ends_hangs_up() {
    let mut scene = Scene::new();
    scene.session();
    let (_, forked) = scene.call();
    scene.receive(CORE, &response(&forked, 180, "bob", "", ""));
    assert_eq!(scene.one().status(), 180);
    assert!(!scene.core.is_settled());
    scene.core.stop(scene::after(scene.at));
    // Nothing happens: what there is to be done is done.
    scene.wait(Duration::ZERO);
    let sent = scene.take();
    let starting =
        |start: &str| sent.iter().filter(|sent| sent.start().starts_with(start)).cloned().collect::<Vec<_>>();
    let byes = starting("BYE ");
    assert_eq!(byes.iter().map(|bye| bye.to).collect::<Vec<_>>(), [CORE, "192.0.2.6:5062".parse().unwrap()]);
    for bye in &byes {
        assert_eq!(bye.value("Reason"), "SIP;cause=503;text=\"Shutting down\"");
    }
    assert_eq!(starting("CANCEL ").len(), 1, "{sent:#?}");
    let refused = starting("SIP/2.0 503 ");
    assert!(refused[0].text.contains("\r\nRetry-After: "), "{sent:#?}");
    assert_eq!((sent.len(), scene.levels()), (4, (0, 0, 0)));
    scene.receive(CORE, &response(&byes[0], 200, "", "", ""));
    assert!(!scene.core.is_settled(), "the other one may have to be sent again");
    scene.receive(byes[1].to, &response(&byes[1], 200, "", "", ""));
    assert!(scene.core.is_settled());
}

#[test]
fn a_peer_is_reached_where_it_says() {
    let read = |text: String| {
        let description = Description::parse(text.as_bytes()).unwrap();
        connect_addresses(&description.message().unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let moved = answer().replace("c=IN IP4 192.0.2.3", "c=IN IP4 198.51.100.9");
    assert_eq!(read(answer()), ["192.0.2.3:9100"]);
    assert_eq!(read(moved.clone()), ["192.0.2.3:9100", "198.51.100.9:9100"]);
    assert_eq!(read(moved + "a=msrp-cema\r\n"), ["198.51.100.9:9100", "192.0.2.3:9100"], "RFC 6714");
    assert_eq!(read(answer().replace("msrp://192.0.2.3", "msrp://0.0.0.0")), ["192.0.2.3:9100"]);
    assert_eq!(read(answer().replace("192.0.2.3", "0.0.0.0")), [""; 0], "nobody is there");
}

#[test]
fn a_line_end_that_only_some_see_crosses_in_neither_direction() {
    let smuggled = "X: a\rP-Asserted-Identity: <sip:boss@a.example>\r\n";
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("Subject:", &format!("{smuggled}Subject:")));
    scene.receive(ALICE, &invite);
    assert_eq!(scene.one().status(), 400);
    let (_, forked) = scene.call();
    scene.receive(CORE, &response(&forked, 486, "bob", &format!("Warning: 399 b \"x\"\r{smuggled}"), ""));
    scene.none();
    scene.receive(CORE, &response(&forked, 486, "bob", "", ""));
    assert_eq!(scene.two()[1].status(), 486);
}

#[test]
fn the_request_uri_and_the_served_user_are_two_things() {
    for (change, uri) in [
        (("sip:bob@home.example", "tel:+15550100;phone-context=x"), "tel:+15550100;phone-context=x"),
        (("INVITE sip:bob@home.example", "INVITE sip:+15550100@h;user=phone;x=Y"), "sip:+15550100@h;user=phone;x=Y"),
    ] {
        let mut scene = Scene::new();
        let served = "P-Served-User: <sip:bob@home.example>;sescase=term\r\nSubject:";
        let invite = scene.invite(|text| text.replace(change.0, change.1).replace("Subject:", served));
        scene.receive(ALICE, &invite);
        assert_eq!(scene.one().start(), format!("INVITE {uri} SIP/2.0"));
    }
    let mut scene = Scene::with(|settings| settings.require_route = true);
    let invite = scene.invite(|text| text.replace("<sip:term@192.0.2.1:5060;lr>, ", ""));
    scene.receive(ALICE, &invite);
    let refused = scene.one();
    assert_eq!((refused.status(), refused.value("Warning")), (403, "399 pf.example \"127 Service not authorised\""));
    scene.call();
}

#[test]
fn more_than_there_is_room_for_has_its_answer() {
    let audio = "m=audio 4000 RTP/AVP 0\r\n";
    let uris = |count: usize| vec!["msrp://192.0.2.7:9000/sa;tcp"; count].join(" ");
    for (name, body, status) in [
        ("16 media lines", offer() + &audio.repeat(15), None),
        ("17 media lines", offer() + &audio.repeat(16), Some(413)),
        ("16 KiB", offer() + &format!("a=x:{}\r\n", "x".repeat(16 << 10)), Some(413)),
        ("9 URIs, and ours", offer().replace("msrp://192.0.2.7:9000/sa;tcp", &uris(9)), None),
        ("10 URIs", offer().replace("msrp://192.0.2.7:9000/sa;tcp", &uris(10)), Some(488)),
    ] {
        let mut scene = Scene::new();
        let invite = scene.invite(|text| text.replace(&offer(), &body));
        scene.receive(ALICE, &invite);
        let sent = scene.one();
        match status {
            None => assert!(sent.start().starts_with("INVITE "), "{name}: {sent:?}"),
            Some(status) => assert_eq!(sent.status(), status, "{name}: {sent:?}"),
        }
        assert_eq!(scene.levels().0, usize::from(status.is_none()), "{name}");
    }
}

#[test]
fn a_sender_that_falls_silent_in_the_midst_of_a_chunk_is_not_waited_for() {
    for report in ["yes", "no", "partial"] {
        let mut scene = Scene::new();
        let (_, _, ok) = scene.session();
        let head = format!(
            "MSRP tidstall SEND\r\nTo-Path: {}\r\nFrom-Path: msrp://192.0.2.7:9000/sa;tcp\r\nMessage-ID: m\r\n\
             Byte-Range: 1-1000/1000\r\nFailure-Report: {report}\r\nContent-Type: message/cpim\r\n\r\nFrom: a",
            path(&ok)
        );
        scene.chunk(ConnId { slot: 1, generation: 0 }, &head);
        // It takes what there is.
        let (recipient, mut batch) = (ConnId { slot: 2, generation: 0 }, Vec::new());
        scene.core.take_media(recipient, &mut batch);
        scene.core.media_sent(recipient, batch.concat().len(), scene::after(scene.at));
        scene.wait(179 * SECOND);
        scene.none();
        scene.wait(SECOND + SECOND / 4);
        let [one, two] = scene.two();
        assert!([&one, &two].iter().all(|bye| bye.start().starts_with("BYE ")), "{report}: {one:?} {two:?}");
        assert_eq!(scene.levels(), (0, 0, 0));
    }
}
