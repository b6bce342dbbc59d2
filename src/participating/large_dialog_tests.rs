//! What comes within a dialog of large message mode, and what time brings (SPEC LM-4, LM-5).

use super::large_scene::*;
use super::preferences::{DeviceSelection, Profile};
use crate::base::rng::Rng;
use crate::base::slots::SlotId;
use crate::metrics::names::Counter;
use crate::msrp::news::{Event, Side, Why};
use crate::testing::scene::{self, CORE};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const SDP: &str = "Content-Type: application/sdp\r\n\r\n";

fn moved_offer() -> String {
    SDP.to_owned() + &offer().replace("1 1 IN", "1 2 IN").replace("9000", "9001")
}

fn moved_answer() -> String {
    answer().replace("2 2 IN", "2 3 IN").replace("9100", "9101")
}

#[test]
fn a_reinvite_of_the_sender_changes_both_legs() {
    let mut scene = Scene::new();
    let (invite, forked, ok) = scene.session();
    scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6, &moved_offer()));
    let changed = scene.one();
    assert_eq!((changed.start(), changed.to), ("INVITE sip:bob@192.0.2.3:5064 SIP/2.0", CORE));
    assert_eq!((changed.value("CSeq"), changed.value("Call-ID")), ("2 INVITE", forked.value("Call-ID")));
    assert_eq!(changed.value("From"), forked.value("From"));
    assert_eq!(contact(&changed), "sip:192.0.2.1:5080");
    let origin = |sent: &Sent, version: u32| {
        let line = sent.body().lines().find(|line| line.starts_with("o=")).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[2], version.to_string(), "{line}");
        words[1].to_owned()
    };
    assert_eq!(origin(&changed, 2), origin(&forked, 1), "one session, a new version");
    assert!(changed.body().contains("msrp://192.0.2.7:9001/sa;tcp"), "{changed:?}");
    assert!(changed.body().contains("a=sendonly"));
    scene.receive(CORE, &answered(&changed, "", moved_answer()));
    let [again, ack] = scene.two();
    assert_eq!((ack.start(), ack.value("CSeq")), ("ACK sip:bob@192.0.2.3:5064 SIP/2.0", "2 ACK"));
    assert_eq!((again.status(), again.value("CSeq"), again.to), (200, "6 INVITE", ALICE));
    assert_eq!(again.value("To"), ok.value("To"));
    assert_eq!(origin(&again, 2), origin(&ok, 1));
    assert!(again.body().contains("msrp://192.0.2.3:9101/sb;tcp") && again.body().contains("a=recvonly"));
    scene.wait(500 * MILLI);
    assert_eq!(scene.one().text, again.text, "until its ACK");
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 6, ""));
    // Less than the recipient's new endpoint has to be reached.
    scene.wait(8 * SECOND);
    scene.none();
    // The recipient did not hear our ACK.
    scene.receive(CORE, &answered(&changed, "", moved_answer()));
    assert_eq!(scene.one().value("CSeq"), "2 ACK");
}

#[test]
fn a_reinvite_of_the_recipient_changes_both_legs() {
    let mut scene = Scene::new();
    let (_, forked, ok) = scene.session();
    scene.receive(CORE, &within_b(&forked, "bob", "INVITE", 1, &(SDP.to_owned() + &moved_answer())));
    let changed = scene.one();
    assert_eq!((changed.start(), changed.value("CSeq")), ("INVITE sip:alice@192.0.2.7:5060 SIP/2.0", "1 INVITE"));
    assert_eq!(changed.value("From"), ok.value("To"));
    assert!(changed.body().contains("msrp://192.0.2.3:9101/sb;tcp"), "{changed:?}");
    assert!(changed.body().contains("a=recvonly") && changed.body().contains("a=setup:actpass"), "{changed:?}");
    let answer = offer().replace("actpass", "active");
    let lines = "Contact: <sip:alice@192.0.2.7:5060>\r\nContent-Type: application/sdp\r\n";
    scene.receive(ALICE, &response(&changed, 200, "", lines, &answer));
    let [again, ack] = scene.two();
    assert_eq!((ack.start(), ack.value("CSeq")), ("ACK sip:alice@192.0.2.7:5060 SIP/2.0", "1 ACK"));
    assert_eq!((again.status(), again.value("CSeq")), (200, "1 INVITE"));
    assert!(again.body().contains("a=sendonly"), "{again:?}");
    scene.receive(CORE, &within_b(&forked, "bob", "ACK", 1, ""));
    scene.wait(8 * SECOND);
    scene.none();
}

#[test]
fn an_update_is_passed_on_as_one_where_it_is_taken_and_as_a_reinvite_elsewhere() {
    for (allow, method) in [("Allow: INVITE, BYE, UPDATE", "UPDATE"), ("Allow: INVITE, BYE", "INVITE")] {
        let mut scene = Scene::new();
        let (invite, forked) = scene.call();
        scene.receive(CORE, &answered(&forked, "bob", answer()).replace("Allow: INVITE, BYE, UPDATE", allow));
        let ok = scene.one();
        scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
        scene.take();
        scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 6, &moved_offer()));
        let changed = scene.one();
        assert_eq!(changed.value("CSeq"), format!("2 {method}"));
        scene.receive(CORE, &answered(&changed, "", moved_answer()));
        let sent = scene.take();
        assert_eq!((sent[0].status(), sent[0].value("CSeq")), (200, "6 UPDATE"));
        assert_eq!(sent.len(), if method == "INVITE" { 2 } else { 1 });
        scene.wait(5 * SECOND);
        scene.none();
    }
}

#[test]
fn an_update_without_a_description_refreshes_its_own_leg() {
    let mut scene = Scene::new();
    let (invite, _, ok) = scene.session();
    let lines = "Session-Expires: 300;refresher=uac\r\nSupported: timer\r\n";
    scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 6, lines));
    let done = scene.one();
    assert_eq!((done.status(), done.to), (200, ALICE));
    assert_eq!((done.value("Session-Expires"), done.value("Require")), ("300;refresher=uac", "timer"));
    assert_eq!(done.value("Content-Length"), "0");
    scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 7, "Session-Expires: 30\r\nSupported: timer\r\n"));
    let small = scene.one();
    assert_eq!((small.status(), small.value("Min-SE")), (422, "90"));
}

#[test]
fn a_refused_change_leaves_the_session_as_it_is() {
    for (status, passed) in [(488, 488), (491, 491), (302, 480), (503, 500)] {
        let mut scene = Scene::new();
        let (invite, _, ok) = scene.session();
        scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6, &moved_offer()));
        let changed = scene.one();
        scene.receive(CORE, &response(&changed, status, "", "Warning: 399 b \"no\"\r\n", ""));
        let sent = scene.take();
        let refused = sent.iter().find(|sent| sent.to == ALICE).unwrap();
        assert_eq!((refused.status(), refused.value("CSeq")), (passed, "6 INVITE"));
        assert_eq!(scene.levels(), (1, 1, 1));
        scene.receive(ALICE, &within(&invite, &ok, "BYE", 7, ""));
        assert_eq!(scene.take().len(), 2);
    }
}

#[test]
fn a_change_that_finds_no_dialog_or_nobody_ends_both_legs() {
    for status in [481, 408] {
        let mut scene = Scene::new();
        let (invite, _, ok) = scene.session();
        scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6, &moved_offer()));
        let changed = scene.one();
        scene.receive(CORE, &response(&changed, status, "", "", ""));
        let sent = scene.take();
        assert!(sent.iter().any(|sent| sent.to == ALICE && sent.text.starts_with(&format!("SIP/2.0 {status} "))));
        let byes: Vec<&Sent> = sent.iter().filter(|sent| sent.start().starts_with("BYE ")).collect();
        assert_eq!(byes.len(), 2, "{sent:?}");
        assert_eq!(byes[0].value("Reason"), format!("SIP;cause={status}"));
        assert_eq!(scene.levels(), (0, 0, 0));
    }
}

#[test]
fn requests_that_cross_are_told_so() {
    let mut scene = Scene::new();
    let (invite, forked, ok) = scene.session();
    scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6, &moved_offer()));
    scene.take();
    scene.receive(CORE, &within_b(&forked, "bob", "UPDATE", 1, &(SDP.to_owned() + &moved_answer())));
    assert_eq!(scene.one().status(), 491);
    scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 7, &moved_offer()));
    let early = scene.one();
    assert_eq!(early.status(), 500);
    assert!(!early.value("Retry-After").is_empty());
}

#[test]
fn a_change_that_cannot_be_met_is_refused_here() {
    let mut scene = Scene::new();
    let (invite, _, ok) = scene.session();
    for (rest, status) in [
        (String::new(), 488),
        (moved_offer().replace("sendonly", "inactive"), 488),
        (moved_offer().replace("application/sdp", "text/plain"), 415),
    ] {
        scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6 + u32::from(status == 415), &rest));
        assert_eq!(scene.take()[0].status(), status, "{rest}");
        scene.wait(40 * SECOND);
        scene.take();
    }
    assert_eq!(scene.levels(), (1, 1, 1));
}

#[test]
fn a_bye_while_a_change_is_under_way_ends_everything() {
    let mut scene = Scene::new();
    let (invite, forked, ok) = scene.session();
    scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6, &moved_offer()));
    scene.take();
    scene.receive(CORE, &within_b(&forked, "bob", "BYE", 1, ""));
    let sent = scene.take();
    let starts: Vec<&str> = sent.iter().map(Sent::start).collect();
    assert_eq!(starts[..2], ["SIP/2.0 200 OK", "SIP/2.0 487 Request Terminated"]);
    assert!(starts[2].starts_with("BYE sip:peer@192.0.2.7:5060 "), "the target that the re-INVITE named: {starts:?}");
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn strangers_and_the_past_find_no_dialog() {
    let mut scene = Scene::new();
    let (invite, forked, ok) = scene.session();
    let bye = within(&invite, &ok, "BYE", 6, "");
    for (number, broken) in [
        bye.replace("Call-ID: call", "Call-ID: kall"),
        bye.replace("alice@a.example>;tag=a", "alice@a.example>;tag=b"),
        bye.replace(tag(ok.value("To")), tag(forked.value("From"))),
        bye.replace(tag(ok.value("To")), "nobody"),
        bye.replace(tag(ok.value("To")), "000000000000000000000000g"),
    ]
    .iter()
    .enumerate()
    {
        scene.receive(ALICE, &broken.replace("z9hG4bK", &format!("z9hG4bK{number}")));
        let answer = scene.take();
        assert_eq!((answer[0].status(), answer.len()), (481, 1), "{broken}");
    }
    scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 4, ""));
    assert_eq!(scene.one().status(), 500, "CSeq went back");
    scene.receive(ALICE, &within(&invite, &ok, "PRACK", 7, "RAck: 1 5 INVITE\r\n"));
    assert_eq!(scene.one().status(), 481);
    assert_eq!(scene.levels(), (1, 1, 1));
    scene.receive(ALICE, &bye.replace("6 BYE", "8 BYE"));
    assert_eq!(scene.take().len(), 2);
    scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 9, ""));
    assert_eq!(scene.one().status(), 481, "it is over");
}

#[test]
fn other_methods_within_a_dialog_have_their_answers() {
    let mut scene = Scene::new();
    let (invite, _, ok) = scene.session();
    for (method, cseq, status) in [("OPTIONS", 6, 200), ("INFO", 7, 405), ("FROB", 8, 501)] {
        scene.receive(ALICE, &within(&invite, &ok, method, cseq, ""));
        let answer = scene.one();
        assert_eq!(answer.status(), status, "{method}");
        assert!(answer.value("Allow").contains("UPDATE, PRACK"), "{answer:?}");
    }
    scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 9, "Require: x\r\n"));
    assert_eq!(scene.one().status(), 420);
}

#[test]
fn a_session_that_nobody_refreshes_ends_both_legs() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("Subject:", "Session-Expires: 120\r\nSupported: timer\r\nSubject:"));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert_eq!((forked.value("Session-Expires"), forked.value("Min-SE")), ("1800", "90"));
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ok = scene.one();
    assert_eq!((ok.value("Session-Expires"), ok.value("Require")), ("120;refresher=uac", "timer"));
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.take();
    scene.bind(&ok);
    scene.wait(87 * SECOND);
    scene.none();
    // A third before, but not more than 32 s: 88 s after the answer.
    scene.wait(SECOND + MILLI);
    let sent = scene.take();
    assert!(sent.iter().all(|sent| sent.start().starts_with("BYE ")) && sent.len() == 2, "{sent:?}");
    assert_eq!(sent[0].value("Reason"), "SIP;cause=408;text=\"Session timer expired\"");
    assert_eq!((scene.levels(), scene.count(Counter::SessionBroken)), ((0, 0, 0), 1));
}

#[test]
fn refreshes_of_the_sender_keep_the_session() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("Subject:", "Session-Expires: 120\r\nSupported: timer\r\nSubject:"));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.take();
    scene.bind(&ok);
    for round in 0..4 {
        scene.wait(40 * SECOND);
        let lines = "Session-Expires: 120;refresher=uac\r\nSupported: timer\r\n";
        scene.receive(ALICE, &within(&invite, &ok, "UPDATE", 6 + round, lines));
        assert_eq!(scene.one().status(), 200);
    }
    assert_eq!(scene.levels(), (1, 1, 1));
}

#[test]
fn we_refresh_where_that_is_ours_by_update_or_by_a_reinvite_that_repeats_itself() {
    for (allow, method) in [("Allow: UPDATE\r\n", "UPDATE"), ("", "INVITE")] {
        let mut scene = Scene::new();
        let timer = format!("Session-Expires: 90;refresher=uas\r\nSupported: timer\r\n{allow}Subject:");
        let invite = scene.invite(|text| text.replace("Subject:", &timer));
        scene.receive(ALICE, &invite);
        let forked = scene.one();
        scene.receive(CORE, &answered(&forked, "bob", answer()));
        let ok = scene.one();
        assert_eq!(ok.value("Session-Expires"), "90;refresher=uas");
        scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
        scene.take();
        scene.bind(&ok);
        for round in 1..4 {
            scene.wait(45 * SECOND + MILLI);
            let refresh = scene.one();
            assert_eq!(refresh.value("CSeq"), format!("{round} {method}"));
            assert_eq!(refresh.value("Session-Expires"), "90;refresher=uac");
            assert_eq!(refresh.value("Supported"), "timer, 100rel");
            assert_eq!(refresh.body(), if method == "INVITE" { ok.body() } else { "" });
            let lines = "Contact: <sip:alice@192.0.2.7:5060>\r\nSession-Expires: 90;refresher=uac\r\n";
            scene.receive(ALICE, &response(&refresh, 200, "", lines, ""));
            let sent = scene.take();
            assert_eq!(sent.len(), usize::from(method == "INVITE"), "its ACK: {sent:?}");
        }
        assert_eq!(scene.levels(), (1, 1, 1));
    }
}

#[test]
fn a_refresh_that_is_not_to_be_now_is_tried_again_and_one_that_finds_nobody_ends_the_session() {
    let mut scene = Scene::new();
    let (invite, forked) = scene.call();
    let timer = "Session-Expires: 120;refresher=uac\r\nContact:";
    scene.receive(CORE, &answered(&forked, "bob", answer()).replace("Contact:", timer));
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.take();
    scene.bind(&ok);
    scene.wait(60 * SECOND + MILLI);
    let refresh = scene.one();
    assert_eq!((refresh.to, refresh.value("CSeq")), (CORE, "2 UPDATE"));
    scene.receive(CORE, &response(&refresh, 491, "", "", ""));
    scene.none();
    scene.wait(2_150 * MILLI);
    let refresh = scene.one();
    scene.receive(CORE, &response(&refresh, 422, "", "Min-SE: 900\r\n", ""));
    let refresh = scene.one();
    assert_eq!((refresh.value("Session-Expires"), refresh.value("Min-SE")), ("900;refresher=uac", "900"));
    scene.receive(CORE, &response(&refresh, 481, "", "", ""));
    let [one, two] = scene.two();
    assert!(one.start().starts_with("BYE ") && two.start().starts_with("BYE "));
    assert_eq!(scene.levels(), (0, 0, 0));
}

#[test]
fn a_reliable_ringing_is_acknowledged_here_for_a_sender_that_knows_none() {
    let mut scene = Scene::new();
    let (invite, forked) = scene.call();
    let reliable = |rseq: u32| {
        format!(
            "Require: 100rel\r\nRSeq: {rseq}\r\nContact: <sip:bob@192.0.2.3:5064>\r\n\
                 Record-Route: <sip:192.0.2.9:5070;lr>\r\n"
        )
    };
    let progress = reliable(7) + "Content-Type: application/sdp\r\n";
    scene.receive(CORE, &response(&forked, 183, "bob", &progress, &answer()));
    let [prack, ringing] = scene.two();
    assert_eq!((prack.start(), prack.to), ("PRACK sip:bob@192.0.2.3:5064 SIP/2.0", CORE));
    assert_eq!((prack.value("RAck"), prack.value("CSeq")), ("7 1 INVITE", "2 PRACK"));
    assert_eq!((tag(prack.value("To")), prack.value("From")), ("bob", forked.value("From")));
    assert_eq!((ringing.status(), ringing.body()), (183, ""));
    assert!(!ringing.text.contains("100rel"), "{ringing:?}");
    // Repeated, out of order, next.
    scene.receive(CORE, &response(&forked, 183, "bob", &progress, &answer()));
    scene.receive(CORE, &response(&forked, 180, "bob", &reliable(9), ""));
    scene.none();
    scene.receive(CORE, &response(&forked, 180, "bob", &reliable(8), ""));
    let [prack, _] = scene.two();
    assert_eq!((prack.value("RAck"), prack.value("CSeq")), ("8 1 INVITE", "3 PRACK"));
    // The answer came with the first one, so the 200 needs none.
    let lines = "Contact: <sip:bob@192.0.2.3:5064>\r\nRecord-Route: <sip:192.0.2.9:5070;lr>\r\n";
    scene.receive(CORE, &response(&forked, 200, "bob", lines, ""));
    let ok = scene.one();
    assert!(ok.status() == 200 && ok.body().contains("msrp://192.0.2.3:9100/sb;tcp"), "{ok:?}");
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    assert_eq!(scene.one().value("CSeq"), "1 ACK");
    scene.receive(ALICE, &within(&invite, &ok, "BYE", 6, ""));
    let [_, bye] = scene.two();
    assert_eq!(bye.value("CSeq"), "4 BYE", "behind both PRACKs");
}

#[test]
fn a_sender_that_requires_reliable_ringing_gets_it_until_it_acknowledges() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("Subject:", "Require: 100rel\r\nSubject:"));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    assert!(!forked.text.contains("\r\nRequire:"), "{forked:?}");
    scene.receive(CORE, &response(&forked, 180, "bob", "", ""));
    let ringing = scene.one();
    assert_eq!((ringing.value("Require"), ringing.value("RSeq")), ("100rel", "1"));
    scene.receive(CORE, &response(&forked, 183, "bob", "", ""));
    scene.none();
    scene.wait(500 * MILLI);
    assert_eq!(scene.one().text, ringing.text);
    scene.wait(1000 * MILLI);
    assert_eq!(scene.one().text, ringing.text);
    scene.receive(ALICE, &within(&invite, &ringing, "PRACK", 6, "RAck: 2 5 INVITE\r\n"));
    assert_eq!(scene.one().status(), 481);
    scene.receive(ALICE, &within(&invite, &ringing, "PRACK", 7, "RAck: 1 5 INVITE\r\n"));
    assert_eq!(scene.one().status(), 200);
    scene.wait(10 * SECOND);
    scene.none();
    scene.receive(CORE, &response(&forked, 183, "bob", "", ""));
    assert_eq!(scene.one().value("RSeq"), "2");
    scene.wait(33 * SECOND);
    let sent = scene.take();
    assert!(sent.iter().any(|sent| sent.to == ALICE && sent.status() == 504), "nobody acknowledges: {sent:?}");
    assert_eq!(scene.levels(), (0, 0, 0));
}

fn only_session(scene: &Scene) -> SlotId {
    let (id, _) = scene.core.large.sessions.at(0).expect("a session");
    id
}

#[test]
fn media_that_is_lost_ends_both_legs_and_says_why() {
    for (why, reason) in [
        (Why::Connect, Some("SIP;cause=480;text=\"No MSRP connection\"")),
        (Why::Bind, Some("SIP;cause=480;text=\"No MSRP connection\"")),
        (Why::Closed, Some("SIP;cause=480;text=\"MSRP connection lost\"")),
        (Why::Silence, Some("SIP;cause=408;text=\"No MSRP response\"")),
        (Why::Idle, None),
    ] {
        let mut scene = Scene::new();
        scene.session();
        let id = only_session(&scene);
        let media = scene.core.large.sessions.get(id).unwrap().media.unwrap();
        let lost = Event::Lost { id: media, side: Side::Terminating, why };
        scene.core.on_session_media(id, media, lost, scene::after(scene.at));
        scene.wait(MILLI);
        let [one, two] = scene.two();
        for bye in [one, two] {
            assert!(bye.start().starts_with("BYE "), "{bye:?}");
            assert_eq!(value(&bye.text, "Reason"), reason);
        }
        assert_eq!(scene.levels(), (0, 0, 0));
    }
}

#[test]
fn messages_that_pass_are_recorded_where_the_user_wants_it() {
    for records_history in [false, true] {
        let mut scene = Scene::new();
        scene.directory.change("sip:bob@home.example", |bob| {
            bob.profile = Some(Arc::new(Profile { records_history, ..Profile::default() }));
        });
        scene.session();
        let id = only_session(&scene);
        let session = scene.core.large.sessions.get(id).unwrap();
        let media = session.media.unwrap();
        assert_eq!(session.task.is_some(), records_history, "the INVITE is kept for the record alone");
        let message_id = b"m".to_vec().into_boxed_slice();
        let content_type = b"message/cpim".to_vec().into_boxed_slice();
        let complete = Event::Complete { id: media, message_id, content_type, total: 1 };
        scene.core.on_session_media(id, media, complete, scene::after(scene.at));
        scene.core.on_session_media(id, media, Event::Aborted { id: media }, scene::after(scene.at));
        let counted = (scene.count(Counter::LargeDelivered), scene.count(Counter::LargeAborted));
        assert_eq!(counted, (0, 0), "the relay counts what passes");
    }
}

#[test]
fn a_taken_session_answers_changes_itself() {
    let mut scene = Scene::new();
    scene.directory.change("sip:bob@home.example", |bob| bob.devices = Box::new([]));
    let invite = scene.invite(|text| text);
    scene.receive(ALICE, &invite);
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6, &moved_offer()));
    let again = scene.one();
    assert_eq!((again.status(), again.value("CSeq")), (200, "6 INVITE"));
    assert!(again.body().lines().any(|line| line.starts_with("a=path:") && !line.contains(' ')), "{again:?}");
    assert!(again.body().contains(" 2 IN IP4 "), "a new version");
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 6, ""));
    scene.none();
}

#[test]
fn a_peer_that_moves_is_reached_where_it_is() {
    let mut scene = Scene::new();
    let invite = scene.invite(|text| text.replace("Record-Route: <sip:192.0.2.6:5062;lr>\r\n", ""));
    scene.receive(ALICE, &invite);
    let forked = scene.one();
    scene.receive(CORE, &answered(&forked, "bob", answer()));
    let ok = scene.one();
    scene.receive(ALICE, &within(&invite, &ok, "ACK", 5, ""));
    scene.take();
    let moved =
        within(&invite, &ok, "UPDATE", 6, "").replace("peer@192.0.2.7:5060", "alice@192.0.2.77:6000;transport=tcp");
    scene.receive(ALICE, &moved);
    scene.take();
    scene.receive(CORE, &within_b(&forked, "bob", "BYE", 1, ""));
    let [_, bye] = scene.two();
    assert_eq!((bye.to, bye.stream), ("192.0.2.77:6000".parse().unwrap(), true));
    assert!(bye.value("Via").starts_with("SIP/2.0/TCP "));
}

#[test]
fn a_reinvite_that_is_called_back_is_called_back_on_the_other_leg() {
    let mut scene = Scene::new();
    let (invite, _, ok) = scene.session();
    let again = within(&invite, &ok, "INVITE", 6, &moved_offer());
    scene.receive(ALICE, &again);
    let changed = scene.one();
    scene.receive(CORE, &response(&changed, 180, "", "", ""));
    scene.none();
    let cancel = again.replace("INVITE sip", "CANCEL sip").replace("6 INVITE", "6 CANCEL");
    scene.receive(ALICE, &with_length(cancel.split("Content-Type").next().unwrap().to_owned() + "\r\n"));
    let [done, cancel] = scene.two();
    assert_eq!((done.status(), done.value("CSeq")), (200, "6 CANCEL"));
    assert_eq!((cancel.value("CSeq"), cancel.to), ("2 CANCEL", CORE));
    scene.receive(CORE, &response(&changed, 487, "", "", ""));
    let sent = scene.take();
    assert!(sent.iter().any(|sent| sent.to == ALICE && sent.status() == 487), "{sent:?}");
    assert_eq!(scene.levels(), (1, 1, 1), "the session is as it was");
}

/// What peers do in no order at all, under a seed; then the media is lost and time passes.
#[test]
fn whatever_peers_do_nothing_is_left_behind() {
    for seed in 0..300 {
        let mut rng = Rng::from_u64(seed);
        let mut scene = Scene::with(|settings| settings.invite_timeout = 100 * SECOND);
        if rng.below(3) == 0 {
            let devices = DeviceSelection::Selected(vec!["urn:uuid:1".into(), "urn:uuid:2".into()]);
            scene.directory.change("sip:bob@home.example", |bob| {
                bob.profile = Some(Arc::new(Profile { devices, ..Profile::default() }));
            });
        }
        let lines =
            ["", "Require: 100rel\r\n", "Session-Expires: 120;refresher=uas\r\nSupported: timer\r\nAllow: UPDATE\r\n"]
                [rng.below(3) as usize];
        let invite = scene.invite(|text| text.replace("Subject:", &format!("{lines}Subject:")));
        scene.receive(ALICE, &invite);
        let mut requests: Vec<Sent> = Vec::new();
        let mut answers: Vec<Sent> = Vec::new();
        let mut forked: Vec<Sent> = Vec::new();
        for step in 0..40 {
            for sent in scene.take() {
                if sent.start().starts_with("SIP/2.0 ") {
                    answers.extend((sent.to == ALICE).then_some(sent));
                } else {
                    forked.extend((sent.start().starts_with("INVITE ") && sent.to == CORE).then(|| sent.clone()));
                    requests.push(sent);
                }
            }
            let pick = |rng: &mut Rng, len: usize| rng.below(len.max(1) as u64) as usize;
            let cseq = 6 + step;
            let text = match rng.below(14) {
                0..6 if !requests.is_empty() => {
                    let request = &requests[pick(&mut rng, requests.len())];
                    let to_tag = ["x", "y"][pick(&mut rng, 2)];
                    let status = [100, 180, 183, 200, 200, 200, 302, 422, 481, 486, 491, 500, 603][pick(&mut rng, 13)];
                    let rel = format!("Require: 100rel\r\nRSeq: {}\r\nContact: <sip:bob@192.0.2.3>\r\n", rng.below(4));
                    match status {
                        200 if request.to == CORE => answered(request, to_tag, answer()),
                        200 => response(request, 200, to_tag, "Content-Type: application/sdp\r\n", &offer()),
                        183 => response(request, 183, to_tag, &rel, ""),
                        _ => response(request, status, to_tag, "", ""),
                    }
                }
                6..11 if !answers.is_empty() => {
                    let ours = &answers[pick(&mut rng, answers.len())];
                    if !ours.value("To").contains("tag=") {
                        continue;
                    }
                    let known = ours.text.contains("Contact: ");
                    match rng.below(6) {
                        _ if !known => continue,
                        0..3 => within(&invite, ours, "ACK", [5, cseq - 1][pick(&mut rng, 2)], ""),
                        3 => within(&invite, ours, "INVITE", cseq, &moved_offer()),
                        4 => within(&invite, ours, "PRACK", cseq, "RAck: 1 5 INVITE\r\n"),
                        _ => within(&invite, ours, ["BYE", "UPDATE"][usize::from(rng.below(3) > 0)], cseq, ""),
                    }
                }
                11 if !forked.is_empty() => {
                    let forked = &forked[pick(&mut rng, forked.len())];
                    let method = ["BYE", "UPDATE", "INVITE", "ACK"][pick(&mut rng, 4)];
                    let body = if method == "INVITE" { SDP.to_owned() + &moved_answer() } else { String::new() };
                    within_b(forked, ["x", "y"][pick(&mut rng, 2)], method, cseq, &body)
                }
                12 if rng.below(4) == 0 => {
                    let cancel = invite.replace("INVITE sip", "CANCEL sip").replace("5 INVITE", "5 CANCEL");
                    with_length(cancel.split("Content-Type").next().unwrap().to_owned() + "\r\n")
                }
                _ => {
                    scene.wait(MILLI * [1, 300, 3_000, 20_000][pick(&mut rng, 4)]);
                    continue;
                }
            };
            scene.receive(if rng.below(2) == 0 { ALICE } else { CORE }, &text);
        }
        if let Some((id, session)) = scene.core.large.sessions.at(0)
            && let Some(media) = session.media
        {
            let lost = Event::Lost { id: media, side: Side::Originating, why: Why::Idle };
            scene.core.on_session_media(id, media, lost, scene::after(scene.at));
        }
        scene.wait(300 * SECOND);
        assert_eq!(scene.levels(), (0, 0, 0), "seed {seed}");
        assert_eq!(scene.core.transactions.counts(), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_reinvite_that_rings_for_ever_is_called_back_and_ends_the_session() {
    let mut scene = Scene::with(|settings| settings.invite_timeout = 50 * SECOND);
    let (invite, _, ok) = scene.session();
    scene.receive(ALICE, &within(&invite, &ok, "INVITE", 6, &moved_offer()));
    let changed = scene.one();
    scene.receive(CORE, &response(&changed, 180, "", "", ""));
    scene.wait(51 * SECOND);
    let sent = scene.take();
    assert!(sent[0].status() == 100 && sent[1].start().starts_with("CANCEL "), "{sent:?}");
    scene.wait(33 * SECOND);
    let sent = scene.take();
    assert!(sent.iter().any(|sent| sent.to == ALICE && sent.text.starts_with("SIP/2.0 408 ")), "{sent:?}");
    assert!(sent.iter().any(|sent| sent.start().starts_with("BYE sip:peer@192.0.2.7:5060 ")), "{sent:?}");
    assert_eq!(scene.levels(), (0, 0, 0));
}
