//! Single rules of one core, step by step: what the histories would need luck to show.

use ringpost::base::id::{Aor, ConnId, ShardId};
use ringpost::base::time::Now;
use ringpost::participating::core::Core;
use ringpost::participating::effect::{Effect, StreamTarget};
use ringpost::participating::input::{ControlAnswer, Input, Source, Transport};
use ringpost::participating::preferences::{DeviceSelection, Handling, Profile};
use ringpost::participating::settings::{InterworkingFailure, Settings};
use ringpost::participating::storage::{Command, Fault, Outcome, Settlement};
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
        Self { core, directory, store: ModelStore::default(), stuck: false, time, sent: Vec::new() }
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
                    let answer = if refused { Err(Fault::DiskFull) } else { self.store.execute(command) };
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
    let source = Source { transport: Transport::Tcp, peer, listener: 0, conn };
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
        settings.deferred_quota.count = 0;
    });
    rig.register(recording(), 1);
    rig.receive(&message(1, ""), SENDER);
    let forwarded = rig.take_sent(scene::CORE).remove(0);
    rig.receive(&answer(&forwarded, 480), scene::CORE);
    assert!(rig.take_sent(SENDER)[0].starts_with("SIP/2.0 480 "));
    assert_eq!(rig.store.history[0].outcome, Outcome::Failed, "the queue did not take it");
}
