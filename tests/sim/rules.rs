//! Single rules of one core, step by step: what the histories would need luck to show.

use ringpost::base::id::{Aor, ConnId, ShardId};
use ringpost::base::time::Now;
use ringpost::participating::core::Core;
use ringpost::participating::effect::{Effect, StreamTarget};
use ringpost::participating::input::{ControlAnswer, Input, Source, Transport};
use ringpost::participating::preferences::{DeviceSelection, Handling, Profile};
use ringpost::participating::settings::{InterworkingFailure, Oversize, Settings};
use ringpost::participating::storage::{Command, Fault, Outcome, Quota, Settlement};
use ringpost::participating::subscriber::Subscriber;
use ringpost::testing::directory::MapDirectory;
use ringpost::testing::scene;
use ringpost::testing::store::ModelStore;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const SENDER: SocketAddr = scene::address([198, 51, 100, 1], 5060);
const BOB: &str = "sip:bob@home.example";

struct Rig {
    core: Core<MapDirectory>,
    directory: MapDirectory,
    store: ModelStore,
    /// Removals are refused.
    stuck: bool,
    /// What is to be kept is refused.
    fault: Option<Fault>,
    time: Duration,
    /// What left: destination and bytes.
    sent: Vec<(SocketAddr, String)>,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = MapDirectory::default();
        let mut settings = scene::settings(0, 1);
        change(&mut settings);
        let time = Duration::from_secs(1);
        let core = scene::core(settings, 0, directory.clone(), 7, scene::after(time));
        Self { core, directory, store: ModelStore::default(), stuck: false, fault: None, time, sent: Vec::new() }
    }

    fn now(&self) -> Now {
        scene::after(self.time)
    }

    fn register(&mut self, profile: Profile, count: usize) {
        let devices = (1..=count).map(|n| scene::device(&format!("urn:uuid:{n}"))).collect();
        let profile = Some(Arc::new(profile));
        self.directory.publish(BOB, Subscriber { devices, profile, ..Subscriber::default() });
    }

    fn ready(&mut self) {
        self.core.handle_input(Input::SubscriberReady(Aor::from_canonical(BOB)), self.now());
        self.carry_out();
    }

    fn receive(&mut self, bytes: &str, from: SocketAddr) {
        self.core.handle_message(bytes.as_bytes(), scene::datagram_from(from), self.now());
        self.carry_out();
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::SendDatagram { to, bytes, .. }
                | Effect::SendStream { to: StreamTarget::Connection { fallback: to, .. }, bytes, .. } => {
                    self.sent.push((to, String::from_utf8_lossy(&bytes).into_owned()));
                }
                Effect::Store { ticket, command } => {
                    let is_removal = matches!(&command, Command::Settle { settlement: Settlement::Remove, .. });
                    let refused = self.stuck && is_removal;
                    let answer = match (&command, self.fault) {
                        (Command::Defer { .. } | Command::Keep { .. }, Some(fault)) => Err(fault),
                        _ if refused => Err(Fault::DiskFull),
                        _ => self.store.execute(command),
                    };
                    self.core.handle_input(Input::Store { ticket, answer }, self.now());
                }
                Effect::Control { ticket, .. } => {
                    let answer = ControlAnswer::Resolved(Vec::new());
                    self.core.handle_input(Input::Control { ticket, answer }, self.now());
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Lets time go by, timer by timer.
    fn wait(&mut self, span: Duration) {
        let end = self.time + span;
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| at.0 <= end.as_nanos() as u64) {
            self.time = self.time.max(Duration::from_nanos(at.0));
            self.core.handle_timeout(self.now());
            self.carry_out();
        }
        self.time = end;
    }

    fn take_sent(&mut self, to: SocketAddr) -> Vec<String> {
        let (taken, rest) = std::mem::take(&mut self.sent).into_iter().partition(|(addr, _)| *addr == to);
        self.sent = rest;
        taken.into_iter().map(|(_, text): (_, String)| text).collect()
    }
}

fn message(number: u32, extra: &str) -> String {
    format!(
        "MESSAGE {BOB} SIP/2.0\r\nVia: SIP/2.0/UDP {SENDER};branch=z9hG4bKs{number}\r\nMax-Forwards: 70\r\n\
         From: <sip:alice@a.example>;tag={number}\r\nTo: <{BOB}>\r\nCall-ID: {number}@a\r\nCSeq: 1 MESSAGE\r\n\
         P-Asserted-Identity: <sip:alice@a.example>\r\n{extra}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{number:02}"
    )
}

fn answer(request: &str, status: u16) -> String {
    String::from_utf8_lossy(&crate::parties::respond(request.as_bytes(), status)).into_owned()
}

#[test]
fn a_request_that_waits_is_answered_100_after_three_and_a_half_seconds() {
    let mut rig = Rig::new(|_| {});
    rig.register(Profile::default(), 1);
    rig.receive(&message(1, ""), SENDER);
    let forwarded = rig.take_sent(scene::CORE).remove(0);
    rig.wait(Duration::from_millis(3_400));
    assert!(rig.take_sent(SENDER).is_empty(), "RFC 4320 §4.1: not before Timer E has reached T2");
    rig.wait(Duration::from_millis(200));
    let trying = rig.take_sent(SENDER);
    let [trying] = &trying[..] else { panic!("one response: {trying:?}") };
    assert!(trying.starts_with("SIP/2.0 100 Trying\r\nVia: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKs1\r\nFrom"));
    rig.receive(&message(1, ""), SENDER);
    assert_eq!(rig.take_sent(SENDER), std::slice::from_ref(trying), "a repetition gets the same");
    rig.receive(&answer(&forwarded, 200), scene::CORE);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 200 "));
}

#[test]
fn a_response_that_is_cut_short_is_dropped() {
    let mut rig = Rig::new(|_| {});
    rig.register(Profile::default(), 1);
    rig.receive(&message(1, ""), SENDER);
    let forwarded = rig.take_sent(scene::CORE).remove(0);
    let good = answer(&forwarded, 200);
    rig.receive(&good.replace("Content-Length: 0", "Content-Length: 7"), scene::CORE);
    rig.receive(&good.replace("Call-ID", "X-Call-ID"), scene::CORE);
    let theirs = good.find("Via: SIP/2.0/UDP 198").unwrap();
    let line = good[theirs..].find("\r\n").unwrap() + 2;
    rig.receive(&good.replacen(&good[theirs..theirs + line], "", 1), scene::CORE);
    assert!(rig.take_sent(SENDER).is_empty(), "RFC 3261 §18.3, §16.7 step 3");
    rig.receive(&good, scene::CORE);
    assert_eq!(rig.take_sent(SENDER).len(), 1);
}

#[test]
fn a_branch_that_is_late_says_nothing_of_the_next_message() {
    let mut rig = Rig::new(|_| {});
    rig.directory.publish(BOB, Subscriber::default());
    rig.receive(&message(1, ""), SENDER);
    rig.receive(&message(2, ""), SENDER);
    assert_eq!(rig.store.deferred.len(), 2);
    let devices = DeviceSelection::Selected(vec!["urn:uuid:1".into(), "urn:uuid:2".into()]);
    rig.register(Profile { devices, ..Profile::default() }, 2);
    rig.ready();
    let first = rig.take_sent(scene::CORE);
    assert_eq!(first.len(), 2, "one branch for each device");
    rig.receive(&answer(&first[0], 200), scene::CORE);
    let second = rig.take_sent(scene::CORE);
    assert!(second.len() == 2 && second[0].ends_with("02"), "the next message is under way");
    rig.receive(&answer(&first[1], 200), scene::CORE);
    assert_eq!(rig.store.deferred.len(), 1, "it is not delivered by the other's answer");
    rig.receive(&answer(&second[0], 200), scene::CORE);
    assert!(rig.store.deferred.is_empty());
}

#[test]
fn a_message_that_cannot_be_removed_is_not_sent_again() {
    let mut rig = Rig::new(|_| {});
    rig.directory.publish(BOB, Subscriber::default());
    rig.receive(&message(1, ""), SENDER);
    rig.register(Profile::default(), 1);
    rig.stuck = true;
    rig.ready();
    let sent = rig.take_sent(scene::CORE).remove(0);
    rig.receive(&answer(&sent, 200), scene::CORE);
    rig.ready();
    rig.wait(Duration::from_secs(60));
    assert!(rig.take_sent(scene::CORE).is_empty(), "the device has it");
    assert_eq!(rig.store.deferred.len(), 1);
    rig.stuck = false;
    rig.wait(Duration::from_secs(10));
    assert!(rig.store.deferred.is_empty() && rig.take_sent(scene::CORE).is_empty());
}

#[test]
fn a_next_hop_without_address_is_answered() {
    let mut rig = Rig::new(|settings| settings.defer_on = vec![480]);
    rig.register(Profile::default(), 1);
    rig.receive(&message(1, "Route: <sip:term@192.0.2.1:5060;lr>, <sip:nowhere.example;lr>\r\n"), SENDER);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 500 "));
    let mut rig = Rig::new(|settings| settings.defer_on = vec![503]);
    rig.register(Profile::default(), 1);
    rig.receive(&message(1, "Route: <sip:term@192.0.2.1:5060;lr>, <sip:nowhere.example;lr>\r\n"), SENDER);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 202 "), "or deferred, where the operator says so");
}

#[test]
fn a_route_that_asks_for_tls_is_not_taken_in_the_clear() {
    let mut rig = Rig::new(|_| {});
    rig.register(Profile::default(), 1);
    rig.receive(&message(1, "Route: <sip:term@192.0.2.1:5060;lr>, <sips:192.0.2.9:5070;lr>\r\n"), SENDER);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 500 ") && rig.take_sent(scene::CORE).is_empty());
}

#[test]
fn a_message_of_another_service_is_never_kept() {
    let mut rig = Rig::new(|settings| settings.defer_on = vec![480]);
    rig.receive(&message(1, "P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.mmtel\r\n"), SENDER);
    let forwarded = rig.take_sent(scene::CORE).remove(0);
    rig.receive(&answer(&forwarded, 480), scene::CORE);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 480 "));
    assert!(rig.store.deferred.is_empty());
}

#[test]
fn a_silent_interworking_function_is_given_up_while_the_sender_still_waits() {
    let mut rig = Rig::new(|settings| {
        settings.isf = Some(scene::isf());
        settings.isf_failure = InterworkingFailure::Defer;
    });
    rig.register(Profile { pager_handling: Some(Handling::Interwork), ..Profile::default() }, 0);
    rig.receive(&message(1, ""), SENDER);
    assert!(!rig.take_sent(scene::ISF).is_empty());
    rig.wait(Duration::from_secs(30));
    assert!(rig.take_sent(SENDER).iter().any(|text| text.starts_with("SIP/2.0 202 ")));
    assert_eq!(rig.store.deferred.len(), 1);
}

#[test]
fn a_response_whose_connection_is_gone_goes_to_the_sent_by_port() {
    let mut rig = Rig::new(|_| {});
    let conn = Some((ShardId(0), ConnId { slot: 1, generation: 0 }));
    let peer = scene::address([198, 51, 100, 1], 49_152);
    let source = Source {
        transport: Transport::Tcp,
        peer,
        listener: 0,
        socket: ringpost::participating::effect::Socket::WellKnown,
        conn,
    };
    let request = message(1, "").replace("SIP/2.0/UDP", "SIP/2.0/TCP").replace(";branch", ";rport;branch");
    rig.core.handle_message(request.as_bytes(), source, rig.now());
    rig.carry_out();
    let answers = rig.take_sent(SENDER);
    assert!(answers[0].starts_with("SIP/2.0 404 ") && answers[0].contains(";rport=49152"), "RFC 3261 §18.2.2");
}

#[test]
fn many_users_whose_messages_have_expired_are_done_with_in_one_go() {
    let mut rig = Rig::new(|settings| settings.deferred_pace = 100_000);
    let user = |n: u32| format!("sip:u{n}@home.example");
    for n in 0..3_000 {
        rig.directory.publish(&user(n), Subscriber::default());
        rig.receive(&message(n, "Expires: 1\r\n").replace(BOB, &user(n)), SENDER);
    }
    assert_eq!(rig.store.deferred.len(), 3_000);
    rig.time += Duration::from_secs(2);
    for n in 0..3_000 {
        rig.directory.change(&user(n), |known| known.devices = Box::new([scene::device("urn:uuid:1")]));
        rig.core.handle_input(Input::SubscriberReady(Aor::from_canonical(&user(n))), rig.now());
    }
    rig.carry_out();
    assert!(rig.store.deferred.is_empty() && rig.take_sent(scene::CORE).is_empty());
}

fn recording() -> Profile {
    Profile { records_history: true, ..Profile::default() }
}

#[test]
fn the_history_says_deferred_until_a_message_leaves_the_queue() {
    for (last, outcome) in [(Some(200), Outcome::Delivered), (Some(404), Outcome::Failed), (None, Outcome::Failed)] {
        let mut rig = Rig::new(|_| {});
        rig.register(recording(), 0);
        rig.receive(&message(1, "Expires: 20\r\n"), SENDER);
        assert!(rig.store.history.is_empty(), "recorded when it is delivered");
        rig.register(recording(), 1);
        rig.ready();
        let first = rig.take_sent(scene::CORE).remove(0);
        rig.receive(&answer(&first, 480), scene::CORE);
        assert_eq!(rig.store.history[0].outcome, Outcome::Deferred, "it waits for another attempt");
        if let Some(status) = last {
            rig.ready();
            let second = rig.take_sent(scene::CORE).remove(0);
            rig.receive(&answer(&second, status), scene::CORE);
        } else {
            rig.register(recording(), 0);
            rig.wait(Duration::from_secs(60));
        }
        assert!(rig.store.deferred.is_empty());
        assert_eq!(rig.store.history.len(), 1, "recorded once, however often it was tried");
        assert_eq!(rig.store.history[0].outcome, outcome);
    }
}

#[test]
fn the_history_follows_a_message_that_is_deferred_after_all() {
    let defers = |settings: &mut Settings| settings.defer_on = vec![480];
    let mut rig = Rig::new(defers);
    rig.register(recording(), 1);
    rig.receive(&message(1, "Expires: 20\r\n"), SENDER);
    let forwarded = rig.take_sent(scene::CORE).remove(0);
    rig.receive(&answer(&forwarded, 480), scene::CORE);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 202 "));
    assert_eq!(rig.store.history[0].outcome, Outcome::Deferred);
    rig.register(recording(), 0);
    rig.wait(Duration::from_secs(60));
    assert!(rig.store.deferred.is_empty());
    assert_eq!(rig.store.history[0].outcome, Outcome::Failed, "it expired in the queue");

    let mut rig = Rig::new(|settings| {
        defers(settings);
        settings.deferred_quota = Quota { count: 0, bytes: 0 };
    });
    rig.register(recording(), 1);
    rig.receive(&message(1, ""), SENDER);
    let forwarded = rig.take_sent(scene::CORE).remove(0);
    rig.receive(&answer(&forwarded, 480), scene::CORE);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 480 "));
    assert_eq!(rig.store.history[0].outcome, Outcome::Failed, "the queue did not take it");
}

/// The final response that a request of the sender's got, and no other one.
#[track_caller]
fn final_answer(rig: &mut Rig) -> String {
    let mut answers = rig.take_sent(SENDER);
    answers.retain(|text| !text.starts_with("SIP/2.0 100 "));
    assert_eq!(answers.len(), 1, "one final response: {answers:?}");
    answers.remove(0)
}

#[test]
fn every_refusal_of_our_own_has_its_code_and_what_every_response_has() {
    let bare = |method: &str, uri: &str| message(1, "").replace("MESSAGE", method).replacen(BOB, uri, 1);
    let table: [(u16, &str, String); 17] = [
        (400, "", message(1, "").replace("CSeq: 1 MESSAGE", "CSeq: 1 INVITE")),
        (400, "", message(1, "").replace("Max-Forwards: 70", "Max-Forwards: many")),
        (400, "", message(1, "").replace("Content-Type: text/plain\r\n", "")),
        (
            403,
            "Warning: 399 pf.example \"127 Service not authorised\"",
            message(1, "").replace("P-Asserted", "X-Asserted"),
        ),
        (404, "", bare("MESSAGE", "sip:nobody@home.example")),
        (405, "Allow: INVITE", bare("SUBSCRIBE", BOB)),
        (413, "", message(1, "X-Fill: ").replace("X-Fill: ", &format!("X-Fill: {}\r\n", "x".repeat(1_300)))),
        (415, "Accept: message/cpim", message(1, "").replace("text/plain", "image/png")),
        (415, "Accept-Encoding: identity", message(1, "Content-Encoding: gzip\r\n")),
        (416, "", bare("MESSAGE", "mailto:bob@home.example")),
        (420, "Unsupported: foo", message(1, "Require: pref, foo\r\n")),
        (420, "Unsupported: bar", message(1, "Proxy-Require: bar\r\n")),
        (481, "", bare("CANCEL", BOB)),
        (481, "", bare("BYE", BOB).replace(&format!("To: <{BOB}>"), &format!("To: <{BOB}>;tag=1"))),
        (483, "", message(1, "").replace("Max-Forwards: 70", "Max-Forwards: 0")),
        (501, "", bare("FROBNICATE", BOB)),
        (505, "", message(1, "").replace(" SIP/2.0\r\nVia", " SIP/3.0\r\nVia")),
    ];
    for (status, line, request) in table {
        let mut rig = Rig::new(|settings| settings.oversize = Oversize::RequestEntityTooLarge);
        rig.register(Profile::default(), 1);
        rig.receive(&request, SENDER);
        let answer = final_answer(&mut rig);
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{status}: {answer}");
        for part in ["Via: SIP/2.0/UDP 198.51.100.1:5060;branch=z9hG4bKs1\r\n", "Call-ID: 1@a\r\n", line] {
            assert!(answer.contains(part), "{part} in {answer}");
        }
        assert!(answer.contains("\r\nServer: CPM-serv/OMA1.0 ") && answer.ends_with("\r\nContent-Length: 0\r\n\r\n"));
        let to = answer.lines().find(|line| line.starts_with("To: "));
        assert!(to.is_some_and(|to| to.contains(";tag=")), "a To-tag in {answer}");
        assert!(!answer.contains("Contact:") && rig.take_sent(scene::CORE).is_empty());
        // A repetition gets the same, and nothing happens twice (G-9).
        rig.receive(&request, SENDER);
        assert_eq!(final_answer(&mut rig), answer);
    }
}

#[test]
fn a_store_that_refuses_gives_480_or_503_and_never_a_2xx() {
    for handling in [Handling::Defer, Handling::Store] {
        for (fault, status) in
            [(Fault::QuotaExceeded, 480), (Fault::Busy, 503), (Fault::DiskFull, 503), (Fault::Broken, 503)]
        {
            let mut rig = Rig::new(|_| {});
            rig.register(Profile { pager_handling: Some(handling), ..Profile::default() }, 0);
            rig.fault = Some(fault);
            rig.receive(&message(1, ""), SENDER);
            let answer = final_answer(&mut rig);
            assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{handling:?} {fault:?}: {answer}");
            assert_eq!(answer.contains("\r\nRetry-After: "), status == 503, "{answer}");
        }
    }
    // PM-5: a record that fails keeps nobody from their message.
    let mut rig = Rig::new(|_| {});
    rig.register(recording(), 1);
    rig.fault = Some(Fault::Broken);
    rig.receive(&message(1, ""), SENDER);
    let forwarded = rig.take_sent(scene::CORE).remove(0);
    rig.receive(&answer(&forwarded, 200), scene::CORE);
    assert!(final_answer(&mut rig).starts_with("SIP/2.0 200 "));
}

#[test]
fn a_repeated_message_is_recorded_and_forwarded_once() {
    let mut rig = Rig::new(|_| {});
    rig.register(recording(), 1);
    for _ in 0..3 {
        rig.receive(&message(1, ""), SENDER);
    }
    let forwarded = rig.take_sent(scene::CORE);
    assert_eq!((forwarded.len(), rig.store.history.len()), (1, 1));
    rig.receive(&answer(&forwarded[0], 200), scene::CORE);
    let first = final_answer(&mut rig);
    rig.receive(&message(1, ""), SENDER);
    assert_eq!(final_answer(&mut rig), first);
    assert!(rig.take_sent(scene::CORE).is_empty());
    assert_eq!((rig.store.history.len(), rig.store.history[0].outcome), (1, Outcome::Delivered));
}

#[test]
fn the_carriers_profile_defers_on_each_of_its_codes_and_on_silence() {
    const CODES: [u16; 6] = [408, 410, 480, 500, 503, 504];
    for code in CODES.into_iter().chain([404, 486, 600]) {
        let mut rig = Rig::new(|settings| settings.defer_on = CODES.to_vec());
        rig.register(Profile::default(), 1);
        rig.receive(&message(1, ""), SENDER);
        let forwarded = rig.take_sent(scene::CORE).remove(0);
        rig.receive(&answer(&forwarded, code), scene::CORE);
        let expected = if CODES.contains(&code) { 202 } else { code };
        let got = final_answer(&mut rig);
        assert!(got.starts_with(&format!("SIP/2.0 {expected} ")), "{code}: {got}");
        assert_eq!(rig.store.deferred.len(), usize::from(expected == 202), "{code}");
    }
    let mut rig = Rig::new(|settings| settings.defer_on = CODES.to_vec());
    rig.register(Profile::default(), 1);
    rig.receive(&message(1, ""), SENDER);
    rig.wait(Duration::from_secs(30));
    assert!(final_answer(&mut rig).starts_with("SIP/2.0 202 "), "silence is deferred while the sender still waits");
    assert_eq!(rig.store.deferred.len(), 1);
}

#[test]
fn silence_gets_no_late_408() {
    let mut rig = Rig::new(|_| {});
    rig.register(recording(), 1);
    rig.receive(&message(1, ""), SENDER);
    rig.wait(Duration::from_secs(120));
    let answers = rig.take_sent(SENDER);
    assert!(answers.iter().all(|text| text.starts_with("SIP/2.0 100 ")), "RFC 4320 §4.2: {answers:?}");
    assert_eq!(rig.store.history[0].outcome, Outcome::Failed);
    assert!(rig.core.is_settled() && rig.store.deferred.is_empty());
}

#[test]
fn a_deferred_message_goes_or_stays_by_what_the_device_answers() {
    for (status, stays) in [
        (200, false),
        (202, false),
        (403, false),
        (404, false),
        (415, false),
        (488, false),
        (600, false),
        (603, false),
        (408, true),
        (480, true),
        (500, true),
        (503, true),
        (504, true),
    ] {
        let mut rig = Rig::new(|_| {});
        rig.register(Profile::default(), 0);
        rig.receive(&message(1, ""), SENDER);
        rig.register(Profile::default(), 1);
        rig.ready();
        let sent = rig.take_sent(scene::CORE).remove(0);
        rig.receive(&answer(&sent, status), scene::CORE);
        assert_eq!(rig.store.deferred.len(), usize::from(stays), "{status}");
        // What stays is tried again, later and later.
        rig.wait(Duration::from_millis(4_900));
        assert!(rig.take_sent(scene::CORE).is_empty(), "{status}: not at once");
        rig.wait(Duration::from_millis(200));
        assert_eq!(rig.take_sent(scene::CORE).is_empty(), !stays, "{status}: after five seconds");
    }
}

#[test]
fn of_the_selected_devices_the_best_ones_get_the_message_up_to_the_providers_limit() {
    let mut rig = Rig::new(|settings| settings.device_count_max = 2);
    let selected = ["urn:uuid:1", "urn:uuid:2", "urn:uuid:3", "urn:uuid:9"].map(Box::from).to_vec();
    rig.register(Profile { devices: DeviceSelection::Selected(selected), ..Profile::default() }, 4);
    rig.directory.change(BOB, |known| {
        known.devices[0].q_milli = 100;
        known.devices[2].q_milli = 500;
        known.devices[1].cpm = false;
    });
    rig.receive(&message(1, ""), SENDER);
    let forks = rig.take_sent(scene::CORE);
    let named =
        |fork: &String| ["1", "2", "3", "4", "9"].into_iter().find(|n| fork.contains(&format!("<urn:uuid:{n}>")));
    assert_eq!(forks.iter().filter_map(named).collect::<Vec<_>>(), ["3", "1"], "registered, with CPM, best q first");
}

#[test]
fn a_deferred_message_that_the_core_routes_through_us_again_has_not_expired() {
    let mut rig = Rig::new(|_| {});
    rig.register(Profile::default(), 0);
    rig.receive(&message(1, "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nExpires: 100\r\n"), SENDER);
    rig.wait(Duration::from_secs(69));
    rig.register(Profile::default(), 1);
    rig.ready();
    let delivered = rig.take_sent(scene::CORE).remove(0);
    assert!(delivered.contains("\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"), "{delivered}");
    assert!(delivered.contains("\r\nExpires: 30\r\n"), "what is left: {delivered}");
    // The user's services are applied to what an application server sends, and we are one of them.
    let again = delivered.replacen("Via: ", &format!("Via: SIP/2.0/UDP {};branch=z9hG4bKc\r\nVia: ", scene::CORE), 1);
    rig.receive(&again, scene::CORE);
    let forwarded = rig.take_sent(scene::CORE);
    assert!(forwarded.len() == 1 && forwarded[0].starts_with("MESSAGE "), "{forwarded:?}");
    rig.receive(&answer(&forwarded[0], 200), scene::CORE);
    assert!(rig.take_sent(scene::CORE)[0].starts_with("SIP/2.0 200 "));
    rig.receive(&answer(&delivered, 200), scene::CORE);
    assert!(rig.store.deferred.is_empty());
    // Gone in the meantime: it waits for what is left, not for less.
    let mut rig = Rig::new(|_| {});
    rig.register(Profile::default(), 0);
    rig.wait(Duration::from_secs(69));
    rig.receive(&again, scene::CORE);
    assert!(rig.take_sent(scene::CORE)[0].starts_with("SIP/2.0 202 "));
    let expires = rig.store.deferred.values().next().map(|message| message.expires);
    assert_eq!(expires, Some(rig.now().wall.plus_seconds(30)));
    // The same from anybody else is late.
    rig.receive(&message(2, "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nExpires: 30\r\n"), SENDER);
    assert!(final_answer(&mut rig).starts_with("SIP/2.0 202 "));
    assert_eq!(rig.store.deferred.len(), 1, "discarded");
}

#[test]
fn a_deferred_message_keeps_names_and_addresses_and_gets_a_tag_of_its_own() {
    for (from, kept) in [
        ("<sip:alice@a.example>;tag=9", "<sip:alice@a.example>"),
        ("\"A, \\\" <b>\" <sip:alice@a.example;x=1?h=2>;tag=9;y=3", "\"A, \\\" <b>\" <sip:alice@a.example;x=1?h=2>"),
        ("sip:alice@a.example;tag=9", "sip:alice@a.example"),
        ("Alice < sip:alice@a.example > ;tag=9", "Alice < sip:alice@a.example>"),
    ] {
        let mut rig = Rig::new(|_| {});
        rig.register(Profile::default(), 0);
        rig.receive(&message(1, "").replace("<sip:alice@a.example>;tag=1", from), SENDER);
        rig.register(Profile::default(), 1);
        rig.ready();
        let delivered = rig.take_sent(scene::CORE).remove(0);
        let line = delivered.lines().find_map(|line| line.strip_prefix("From: ")).unwrap();
        let tag = line.strip_prefix(kept).and_then(|rest| rest.strip_prefix(";tag=")).expect(line);
        assert!(tag.len() == 16 && tag.bytes().all(|byte| byte.is_ascii_hexdigit()), "{line}");
        assert!(delivered.contains(&format!("\r\nTo: <{BOB}>\r\n")), "{delivered}");
    }
}
