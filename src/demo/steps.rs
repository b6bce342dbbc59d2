//! What is played, step by step. A step says what it proves in the sentence of its verdict.

use super::documents::{
    ALICE, BOB, CAROL, DEVICES, Letter, MALLORY, Preferences, Registration, access_rules, with_routes,
};
use super::endpoint::{INTERRUPTED, Transport};
use super::large;
use super::message::{entries, status, value, values};
use super::scene::{Scene, expect, expect_same};
use super::sip_core::wanted_instances;
use rsip::SipMessage;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A step: its verdict's sentence, or what went wrong.
type Step = fn(&mut Scene, &mut Memory) -> Result<String, String>;

/// What later steps need of earlier ones.
#[derive(Default)]
struct Memory {
    deferred: Vec<(Letter, SipMessage)>,
}

const STEPS: [(&str, Step); 14] = [
    ("Registration of three devices, and delivery", deliver),
    ("Rejection by the recipient's access policy", reject_by_policy),
    ("Refusal of a media type that is not accepted", refuse_media),
    ("Deferral while nobody is registered", defer),
    ("kill -9 and restart of the appliance", crash),
    ("Registration, and delivery of the deferred messages", deliver_deferred),
    ("Storing for a user who wants that", store),
    ("Interworking", interwork),
    ("Delivery to one selected device", select_device),
    ("Availability set by the operator", set_availability),
    ("Recording of the conversation history", record_history),
    ("A large message of 10 MiB over MSRP, through the bridge", |scene, _| large::bridge(scene)),
    ("A large message that its sender aborts", |scene, _| large::abort(scene)),
    ("A large message while nobody is registered", |scene, _| large::defer(scene)),
];

/// Walks through all steps.
pub fn run() -> ExitCode {
    stop_on_signals();
    let begun = Instant::now();
    let mut scene = match Scene::set() {
        Ok(scene) => scene,
        Err(problem) => {
            eprintln!("ringpost demo: {problem}");
            return ExitCode::FAILURE;
        }
    };
    match play(&mut scene, begun) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("ringpost demo: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn play(scene: &mut Scene, begun: Instant) -> Result<bool, String> {
    let output = |cause: std::io::Error| format!("stdout: {cause}");
    let intro = format!(
        "ringpost demo: the real appliance with a store in {}, between alice, the SIP/IP core ({}) and\n\
         an interworking selection function ({}). Bob's phone, tablet and laptop are behind the core.\n",
        scene.folder().display(),
        scene.core.address(),
        scene.isf.address(),
    );
    scene.ladder.say(&intro).map_err(output)?;
    scene.start_appliance()?;
    let mut memory = Memory::default();
    let mut results = Vec::new();
    for (index, (title, step)) in STEPS.into_iter().enumerate() {
        let started = Instant::now();
        scene.ladder.begin(index + 1, title).map_err(output)?;
        let outcome = scene.check_appliance().and_then(|()| step(scene, &mut memory));
        let took = started.elapsed();
        let (passed, why) = match &outcome {
            Ok(why) | Err(why) => (outcome.is_ok(), why),
        };
        scene.ladder.verdict(passed, why, took).map_err(output)?;
        results.push((title.to_owned(), passed, took));
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err("interrupted".to_owned());
        }
        if !passed {
            for endpoint in [&mut scene.sender, &mut scene.core, &mut scene.isf] {
                endpoint.forget();
            }
        }
    }
    let decisions = scene.all_decisions();
    scene.ladder.counters("Decisions, as /metrics counts them (both processes)", &decisions).map_err(output)?;
    let total = begun.elapsed();
    let in_time = total < TIME_MAX;
    scene.ladder.summary(&results, total).map_err(output)?;
    if !in_time {
        scene.ladder.say(&format!("   FAIL  it took more than {} s", TIME_MAX.as_secs())).map_err(output)?;
    }
    Ok(in_time && results.iter().all(|(_, passed, _)| *passed))
}

fn deliver(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    register_all(scene)?;
    let devices = scene.admin_list(BOB, "/devices")?;
    expect(devices.len() == 3 && devices.iter().all(|device| device["cpm"] == Value::Bool(true)), || {
        format!("the admin API knows other devices: {}", Value::from(devices.clone()))
    })?;
    scene.note("the admin API lists three devices with CPM")?;

    // As a core does it: our Route on top, its own with the original dialog's identifier below.
    let letter = Letter::new(ALICE, "Hello Bob", &mut scene.names);
    let request = letter.request(scene.sender.address(), "UDP", &mut scene.names)?;
    let core_route = format!("<sip:odi-3f7a@{};lr>", scene.core.address());
    let routes = [format!("<sip:term@{};lr>", scene.sip()?), core_route.clone()];
    let sent = scene.send_request(with_routes(request, &routes), Transport::Udp)?;
    let arrival = scene.core_gets_message()?;
    expect_forwarded(&sent, &arrival.message)?;
    let route = values(&arrival.message, "Route");
    expect(route == [core_route.clone()], || format!("Route is {route:?} instead of {core_route}"))?;
    scene.core_delivers(&arrival)?;
    scene.sender_gets(&sent, 200)?;

    let long = Letter::new(ALICE, &"A long story. ".repeat(250), &mut scene.names);
    let sent = scene.send(&long, Transport::Tcp)?;
    let arrival = scene.core_gets_message()?;
    expect_forwarded(&sent, &arrival.message)?;
    expect(arrival.transport() == Transport::Tcp, || {
        format!("{} bytes left over UDP (RFC 3261 18.1.1)", arrival.message.body().len())
    })?;
    scene.core_delivers(&arrival)?;
    scene.sender_gets(&sent, 200)?;
    for device in DEVICES {
        for body in [&letter.body, &long.body] {
            let count = scene.devices.received(device, body);
            expect(count == 1, || format!("the {} got a message {count} times", device.name))?;
        }
    }
    Ok("over UDP and over TCP: own Via, Max-Forwards 69, the remaining Route, the body untouched; 200 back".to_owned())
}

fn reject_by_policy(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    let rules = access_rules();
    let path = format!("/xcap/org.openmobilealliance.access-rules/users/{BOB}/access-rules");
    let answer = scene.http("PUT", &path, Some(("application/auth-policy+xml", rules.as_bytes())), 201)?;
    expect(!answer.header("etag").is_empty(), || "the answer has no ETag".to_owned())?;
    let before = scene.decisions()?;
    let letter = Letter::new(MALLORY, "Buy now!", &mut scene.names);
    let sent = scene.send(&letter, Transport::Udp)?;
    let response = scene.sender_gets(&sent, 403)?;
    expect_function_not_allowed(&response)?;
    scene.nothing_was_forwarded(&before)?;
    // The very next message at the core is alice's: mallory's did not overtake it, it does not exist.
    deliver_one(scene, "And me?")?;
    Ok("mallory gets 403 with Warning 122 and nothing leaves; alice still gets through".to_owned())
}

fn refuse_media(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    let before = scene.decisions()?;
    let picture = Letter::picture(&mut scene.names);
    let sent = scene.send(&picture, Transport::Udp)?;
    let response = scene.sender_gets(&sent, 415)?;
    let accepted: Vec<_> = entries(&response, "Accept").iter().map(|entry| entry.to_ascii_lowercase()).collect();
    for media_type in ["message/cpim", "text/plain"] {
        expect(accepted.iter().any(|entry| entry == media_type), || {
            format!("Accept lacks {media_type}: {accepted:?}")
        })?;
    }
    scene.nothing_was_forwarded(&before)?;
    Ok("image/png gets 415, and Accept tells what is taken".to_owned())
}

fn defer(scene: &mut Scene, memory: &mut Memory) -> Result<String, String> {
    scene.register(BOB, &Registration::Nobody)?;
    let registered = scene.admin(BOB, "")?["registered"].clone();
    expect(registered == Value::Bool(false), || format!("bob's registered is {registered}"))?;
    let before = scene.decisions()?;
    for text in ["Are you there?", "I have news."] {
        let letter = Letter::new(ALICE, text, &mut scene.names);
        let sent = scene.send(&letter, Transport::Udp)?;
        expect_deferred(&scene.sender_gets(&sent, 202)?)?;
        memory.deferred.push((letter, sent));
    }
    scene.nothing_was_forwarded(&before)?;
    let queue = scene.admin_list(BOB, "/deferred")?;
    expect(queue.len() == 2, || format!("the queue holds {}", Value::from(queue.clone())))?;
    scene.note(format_args!("the queue holds ids {} and {}", queue[0]["id"], queue[1]["id"]))?;
    Ok("202 without body and Contact, twice; the admin API shows both messages; nothing left".to_owned())
}

fn crash(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    scene.register(CAROL, &Registration::Device(DEVICES[0]))?;
    let before = scene.admin(BOB, "/deferred")?;
    scene.kill_appliance()?;
    scene.start_appliance()?;
    let after = scene.admin(BOB, "/deferred")?;
    expect(before == after, || format!("the queue was {before} and is {after}"))?;
    let bob = scene.admin(BOB, "")?;
    expect(bob["policy"] == Value::Bool(true), || format!("bob's policy is gone: {bob}"))?;
    let carol = scene.admin(CAROL, "")?;
    expect(carol["registered"] == Value::Bool(true), || format!("carol's registration is gone: {carol}"))?;
    let mallory = Letter::new(MALLORY, "Me again!", &mut scene.names);
    let sent = scene.send(&mallory, Transport::Udp)?;
    expect_function_not_allowed(&scene.sender_gets(&sent, 403)?)?;
    Ok("deferred messages, the policy and carol's registration are still there".to_owned())
}

fn deliver_deferred(scene: &mut Scene, memory: &mut Memory) -> Result<String, String> {
    expect(memory.deferred.len() == 2, || "nothing was deferred before".to_owned())?;
    scene.register(BOB, &Registration::Device(DEVICES[0]))?;
    for (index, (letter, sent)) in memory.deferred.iter().enumerate() {
        let arrival = scene.core_gets_message()?;
        let got = &arrival.message;
        expect(got.body() == &letter.body, || format!("message {} is not the one that was accepted", index + 1))?;
        expect_same(sent, got, &["Date", "P-Asserted-Identity", "Conversation-ID", "Contribution-ID", "Content-Type"])?;
        expect(value(got, "Call-ID") != value(sent, "Call-ID"), || "the Call-ID is the old one".to_owned())?;
        let expires: u64 = value(got, "Expires").parse().unwrap_or(0);
        expect((1..=3600).contains(&expires), || format!("Expires is {:?}", value(got, "Expires")))?;
        // One in flight: while this one has no answer the next does not come.
        scene.core.expect_nothing()?;
        let queue = scene.admin_list(BOB, "/deferred")?.len();
        expect(queue >= memory.deferred.len() - index, || "a message left the queue before its 200".to_owned())?;
        scene.core_delivers(&arrival)?;
    }
    scene.wait_for_list(BOB, "/deferred", "an empty queue", <[Value]>::is_empty)?;
    scene.note("the queue is empty")?;
    Ok("in order, one at a time: CPIM byte for byte, original Date, PAI and IDs, new Call-ID; queue empty".to_owned())
}

fn store(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    scene.register(BOB, &Registration::Nobody)?;
    scene.put_preferences(&Preferences { handling: "store", records_history: false, device: None }, 201)?;
    let before = scene.decisions()?;
    let letter = Letter::new(ALICE, "For your archive", &mut scene.names);
    let sent = scene.send(&letter, Transport::Udp)?;
    scene.sender_gets(&sent, 200)?;
    scene.nothing_was_forwarded(&before)?;
    let object = find_object(&scene.admin_list(BOB, "/messages")?, &letter)?;
    expect(object["conversation_id"] == *letter.conversation_id, || format!("Conversation-ID differs: {object}"))?;
    expect_object_body(scene, "/messages", &object, &letter)?;
    Ok("200 after the commit; the object has the IMDN-Message-ID, the Conversation-ID and the CPIM bytes".to_owned())
}

fn interwork(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    scene.put_preferences(&Preferences { handling: "interwork", records_history: false, device: None }, 200)?;
    let letter = Letter::new(ALICE, "By SMS, please", &mut scene.names);
    let sent = scene.send(&letter, Transport::Udp)?;
    let arrival = scene.isf_takes_message()?;
    let got = &arrival.message;
    let isf = scene.isf.address().to_string();
    let route = value(got, "Route");
    expect(route.contains(&isf), || format!("Route is {route:?}, the ISF is {isf}"))?;
    expect_uri_of_bob(got)?;
    expect_same(&sent, got, &["Accept-Contact", "P-Asserted-Identity", "Call-ID", "CSeq"])?;
    expect(got.body() == &letter.body, || "the body changed".to_owned())?;
    scene.sender_gets(&sent, 202)?;
    scene.core.expect_nothing()?;
    Ok("the ISF gets it with its Route, Request-URI and Accept-Contact kept; its 202 reaches alice".to_owned())
}

fn select_device(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    let tablet = DEVICES[1];
    register_all(scene)?;
    scene.put_preferences(&Preferences { handling: "defer", records_history: false, device: Some(tablet) }, 200)?;
    let letter = Letter::new(ALICE, "Only on your tablet", &mut scene.names);
    let sent = scene.send(&letter, Transport::Udp)?;
    let arrival = scene.core_gets_message()?;
    expect_uri_of_bob(&arrival.message)?;
    let wanted = wanted_instances(&arrival.message);
    expect(wanted == [tablet.instance], || format!("Accept-Contact asks for {wanted:?}"))?;
    let original = value(&sent, "Accept-Contact");
    expect(entries(&arrival.message, "Accept-Contact").contains(&original), || {
        format!("the original Accept-Contact is gone: {:?}", entries(&arrival.message, "Accept-Contact"))
    })?;
    let devices = scene.core_delivers(&arrival)?;
    expect(devices == [tablet.name], || format!("the core forked it to {devices:?}"))?;
    scene.sender_gets(&sent, 200)?;
    scene.core.expect_nothing()?;
    for device in DEVICES {
        let count = scene.devices.received(device, &letter.body);
        expect(count == usize::from(device == tablet), || format!("the {} got it {count} times", device.name))?;
    }
    Ok("one request with +sip.instance beside the original Accept-Contact: the tablet alone gets it".to_owned())
}

fn set_availability(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    scene.put_preferences(&Preferences { handling: "defer", records_history: false, device: None }, 200)?;
    let path = format!("/admin/users/{BOB}/availability");
    scene.http("PUT", &path, Some(("text/plain", b"not-available")), 204)?;
    let bob = scene.admin(BOB, "")?;
    expect(bob["availability"] == "not-available" && bob["registered"] == Value::Bool(true), || {
        format!("bob should be registered and not available: {bob}")
    })?;
    let before = scene.decisions()?;
    let letter = Letter::new(ALICE, "When you have time", &mut scene.names);
    let sent = scene.send(&letter, Transport::Udp)?;
    expect_deferred(&scene.sender_gets(&sent, 202)?)?;
    scene.nothing_was_forwarded(&before)?;
    scene.http("PUT", &path, Some(("text/plain", b"available")), 204)?;
    let arrival = scene.core_gets_message()?;
    expect(arrival.message.body() == &letter.body, || "another message came".to_owned())?;
    scene.core_delivers(&arrival)?;
    scene.wait_for_list(BOB, "/deferred", "an empty queue", <[Value]>::is_empty)?;
    Ok("registered but not available: deferred with 202; available again: delivered".to_owned())
}

fn record_history(scene: &mut Scene, _: &mut Memory) -> Result<String, String> {
    scene.put_preferences(&Preferences { handling: "defer", records_history: true, device: None }, 200)?;
    let letter = deliver_one(scene, "For the record")?;
    let is_delivered = |list: &[Value]| {
        list.iter()
            .any(|object| object["imdn_message_id"] == *letter.imdn_message_id && object["outcome"] == "delivered")
    };
    let list = scene.wait_for_list(BOB, "/history", "the delivered object", is_delivered)?;
    expect(list.len() == 1, || format!("recorded without being asked: {}", Value::from(list.clone())))?;
    let object = find_object(&list, &letter)?;
    expect_object_body(scene, "/history", &object, &letter)?;
    Ok("the history holds the message once, with its bytes, as delivered; earlier ones were not recorded".to_owned())
}

/// All three devices of bob register, one of them told in a multipart body.
fn register_all(scene: &mut Scene) -> Result<(), String> {
    scene.register(BOB, &Registration::Device(DEVICES[0]))?;
    scene.register(BOB, &Registration::DeviceAmongParts(DEVICES[1]))?;
    scene.register(BOB, &Registration::Device(DEVICES[2]))
}

/// A message of alice goes all the way.
fn deliver_one(scene: &mut Scene, text: &str) -> Result<Letter, String> {
    let letter = Letter::new(ALICE, text, &mut scene.names);
    let sent = scene.send(&letter, Transport::Udp)?;
    let arrival = scene.core_gets_message()?;
    expect_forwarded(&sent, &arrival.message)?;
    scene.core_delivers(&arrival)?;
    scene.sender_gets(&sent, 200)?;
    Ok(letter)
}

/// What a transaction-stateful proxy keeps and changes. RFC 3261 §16.6.
fn expect_forwarded(sent: &SipMessage, got: &SipMessage) -> Result<(), String> {
    expect_uri_of_bob(got)?;
    expect_same(
        sent,
        got,
        &["Call-ID", "CSeq", "From", "To", "P-Asserted-Identity", "Accept-Contact", "Content-Type"],
    )?;
    expect(value(got, "Max-Forwards") == "69", || format!("Max-Forwards is {:?}", value(got, "Max-Forwards")))?;
    let vias = entries(got, "Via").len();
    expect(vias == 2, || format!("{vias} Via entries instead of two"))?;
    expect(values(got, "Record-Route").is_empty(), || "a MESSAGE with Record-Route".to_owned())?;
    expect(wanted_instances(got).is_empty(), || "a device was selected".to_owned())?;
    expect(got.body() == sent.body(), || "the body changed".to_owned())
}

fn expect_uri_of_bob(got: &SipMessage) -> Result<(), String> {
    match got {
        SipMessage::Request(request) if request.uri.to_string() == BOB => Ok(()),
        SipMessage::Request(request) => Err(format!("the Request-URI is {}", request.uri)),
        SipMessage::Response(_) => Err("a response instead of a request".to_owned()),
    }
}

fn expect_function_not_allowed(response: &SipMessage) -> Result<(), String> {
    let warning = value(response, "Warning");
    expect(warning.starts_with("399 ") && warning.ends_with("\"122 Function not allowed\""), || {
        format!("Warning is {warning:?}")
    })
}

fn expect_deferred(response: &SipMessage) -> Result<(), String> {
    expect(status(response) == 202 && response.body().is_empty() && values(response, "Contact").is_empty(), || {
        "the 202 has a body or a Contact".to_owned()
    })
}

fn find_object(list: &[Value], letter: &Letter) -> Result<Value, String> {
    let found = list.iter().find(|object| object["imdn_message_id"] == *letter.imdn_message_id);
    found.cloned().ok_or_else(|| format!("no object {}: {}", letter.imdn_message_id, Value::from(list.to_vec())))
}

fn expect_object_body(scene: &mut Scene, shelf: &str, object: &Value, letter: &Letter) -> Result<(), String> {
    let path = format!("/admin/users/{BOB}{shelf}/{}", object["id"]);
    let answer = scene.http("GET", &path, None, 200)?;
    expect(answer.body.ends_with(&letter.body), || format!("{path} does not end with the CPIM that was sent"))
}

/// Ends every wait when the user has enough, so that the appliance is ended and the folder removed.
fn stop_on_signals() {
    match Signals::new([SIGTERM, SIGINT]) {
        Ok(mut signals) => {
            std::thread::spawn(move || {
                if signals.forever().next().is_some() {
                    INTERRUPTED.store(true, Ordering::Relaxed);
                }
            });
        }
        Err(cause) => eprintln!("ringpost demo: signals are not handled: {cause}"),
    }
}

/// A demo that takes longer than this is broken.
const TIME_MAX: Duration = Duration::from_secs(15);
