//! Large message mode: sessions over SIP, messages over MSRP.

use super::documents::{ALICE, BOB, DEVICES, LARGE_FEATURE, LARGE_SERVICE, Letter, Preferences, Registration, via};
use super::endpoint::{Arrival, Transport};
use super::ladder::Column;
use super::message::{entries, request, response_to, title, value};
use super::msrp::{Party, Received, receive};
use super::scene::{Scene, expect, expect_same};
use hdrhistogram::Histogram;
use rsip::headers::{CSeq, CallId, Contact, ContentType, Date, From, MaxForwards, Route, To, UntypedHeader, UserAgent};
use rsip::{Header, Method, SipMessage};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

/// The message of the bridge: as long as the default limit allows.
const MESSAGE_LEN: usize = 10 << 20;
/// The message that is deferred.
const DEFERRED_LEN: usize = 1 << 20;
const CHUNK_LEN: usize = 64 * 1024;
/// Chunks that wait for their 200.
const WINDOW: usize = 8;

/// A message of alice goes through the bridge while bob's history is recorded.
pub fn bridge(scene: &mut Scene) -> Result<String, String> {
    scene.put_preferences(&Preferences { handling: "defer", records_history: true, device: None }, 200)?;
    let letter = Letter::new(ALICE, &text(MESSAGE_LEN), &mut scene.names).cut_to(MESSAGE_LEN);
    let session = Session::through(scene, &letter)?;
    let Session { mut call, mut sender, receiver, answered } = session;
    let begun = Instant::now();
    let latency = transmit(&mut sender, &letter, &answered)?;
    let took = begun.elapsed();
    let (_bob, received) = join(receiver)?;
    expect_whole(&received, &letter)?;
    expect(received.from_path.split(' ').count() == 2, || format!("From-Path is {:?}", received.from_path))?;
    let rate = MESSAGE_LEN as f64 / took.as_secs_f64() / f64::from(1 << 20);
    let percentile = |part| latency.value_at_quantile(part);
    scene.note(format_args!(
        "10 MiB in {} chunks of 64 KB: {rate:.0} MiB/s; SEND to 200: p50 {} us, p99 {} us, max {} us",
        latency.len(),
        percentile(0.5),
        percentile(0.99),
        latency.max()
    ))?;
    call.end(scene)?;
    let id = &letter.imdn_message_id;
    let is_there =
        |list: &[Value]| list.iter().any(|object| object["imdn_message_id"] == **id && object["size"] == MESSAGE_LEN);
    scene.wait_for_list(BOB, "/history", "the large message", is_there)?;
    Ok(format!("SHA-256 equal, each 200 behind the receiver's, recorded on the way; {rate:.0} MiB/s"))
}

/// Alice changes her mind.
pub fn abort(scene: &mut Scene) -> Result<String, String> {
    let letter = Letter::new(ALICE, &text(DEFERRED_LEN), &mut scene.names);
    let Session { mut call, mut sender, receiver, .. } = Session::through(scene, &letter)?;
    let half = &letter.body[..CHUNK_LEN];
    let total = letter.body.len() as u64;
    let transaction = sender.send("aborted", (1, CHUNK_LEN as u64, total), half, b'#')?;
    sender.expect_ok(&transaction)?;
    let (_bob, received) = join(receiver)?;
    expect(received.aborted && received.len == CHUNK_LEN as u64, || "the receiver was not told".to_owned())?;
    call.end(scene)?;
    let history = scene.admin_list(BOB, "/history")?;
    let recorded = history.iter().any(|object| object["imdn_message_id"] == *letter.imdn_message_id);
    expect(!recorded, || "a message that was aborted stands in the history".to_owned())?;
    Ok("the receiver sees `#`, the history does not have the message".to_owned())
}

/// Nobody is there: the appliance itself takes the message, and delivers it when somebody comes.
pub fn defer(scene: &mut Scene) -> Result<String, String> {
    scene.register(BOB, &Registration::Nobody)?;
    let letter = Letter::new(ALICE, &text(DEFERRED_LEN), &mut scene.names);
    let own = own_uri(scene, "alice");
    let invite = invite(scene, &letter, &offer(&own))?;
    let answer = scene.sender_gets(&invite, 200)?;
    let path = attribute(answer.body(), "path");
    expect(path.split(' ').count() == 1, || format!("the path is {path:?}"))?;
    let mut call = Call::confirm(scene, invite, &answer)?;
    let mut sender = Party::connect(&own, &path)?;
    let nobody = Arc::new(AtomicU64::new(u64::MAX));
    transmit(&mut sender, &letter, &nobody)?;
    call.has_receiver = false;
    call.end(scene)?;
    let queue = scene.admin_list(BOB, "/deferred")?;
    expect(queue.len() == 1, || format!("the queue holds {}", Value::from(queue.clone())))?;
    scene.note("the last 200 came: the queue holds the message")?;

    scene.register(BOB, &Registration::Device(DEVICES[0]))?;
    let arrival = scene.core_gets(Method::Invite)?;
    let names = ["Date", "P-Asserted-Identity", "Conversation-ID", "Contribution-ID"];
    expect_same(&call.invite, &arrival.message, &names)?;
    let answered = Arc::new(AtomicU64::new(0));
    let receiver = answer_invite(scene, &arrival, &answered)?;
    let (_bob, received) = join(receiver)?;
    expect_whole(&received, &letter)?;
    let bye = scene.core_gets(Method::Bye)?;
    let response = response_to(&bye.message, 200, "");
    scene.core.answer(&bye, &response)?;
    scene.wait_for_list(BOB, "/deferred", "an empty queue", <[Value]>::is_empty)?;
    Ok("taken by the appliance, the last 200 after the commit; delivered over MSRP after registration".to_owned())
}

/// Bob's side reads on a thread of its own, and keeps its connection until somebody hangs up.
type Receiver = JoinHandle<Result<(Party, Received), String>>;

/// A bridged session: alice's connection, and bob's, which a thread reads.
struct Session {
    call: Call,
    sender: Party,
    receiver: Receiver,
    /// Chunks that bob has answered.
    answered: Arc<AtomicU64>,
}

impl Session {
    fn through(scene: &mut Scene, letter: &Letter) -> Result<Self, String> {
        let own = own_uri(scene, "alice");
        let invite = invite(scene, letter, &offer(&own))?;
        let arrival = scene.core_gets(Method::Invite)?;
        expect_same(&invite, &arrival.message, &["P-Asserted-Identity", "Conversation-ID", "Contribution-ID", "Date"])?;
        expect(value(&arrival.message, "Call-ID") != value(&invite, "Call-ID"), || "the Call-ID crossed".to_owned())?;
        expect(attribute(arrival.message.body(), "path").ends_with(&own), || "alice's path is gone".to_owned())?;
        let answered = Arc::new(AtomicU64::new(0));
        let body = arrival.message.body().clone();
        let bob = own_uri(scene, "bob");
        answer_with(scene, &arrival, &bob)?;
        let answer = scene.sender_gets(&invite, 200)?;
        expect(value(&answer, "Server").starts_with("CPM-serv/OMA"), || "no Server of the right form".to_owned())?;
        expect(body_has(answer.body(), "a=recvonly"), || "the answer is not recvonly".to_owned())?;
        let call = Call::confirm(scene, invite, &answer)?;
        scene.core_gets(Method::Ack)?;
        let receiver = receive_aside(&bob, &attribute(&body, "path"), &answered)?;
        let sender = Party::connect(&own, &attribute(answer.body(), "path"))?;
        Ok(Self { call, sender, receiver, answered })
    }
}

/// Alice's dialog.
struct Call {
    invite: SipMessage,
    to: String,
    target: String,
    routes: Vec<String>,
    cseq: u32,
    has_receiver: bool,
}

impl Call {
    /// Acknowledges the 200. RFC 3261 §13.2.2.4.
    fn confirm(scene: &mut Scene, invite: SipMessage, answer: &SipMessage) -> Result<Self, String> {
        let contact = value(answer, "Contact");
        let target = contact.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let routes = entries(answer, "Record-Route").into_iter().rev().collect();
        let call = Self { to: value(answer, "To"), invite, target, routes, cseq: 1, has_receiver: true };
        let ack = call.request(scene, Method::Ack, "ACK")?;
        scene.send_request(ack, Transport::Tcp)?;
        Ok(call)
    }

    fn request(&self, scene: &mut Scene, method: Method, name: &str) -> Result<SipMessage, String> {
        let mut headers = vec![
            via(scene.sender.address(), "TCP", &mut scene.names),
            MaxForwards::new("70").into(),
            From::new(value(&self.invite, "From")).into(),
            To::new(self.to.clone()).into(),
            CallId::new(value(&self.invite, "Call-ID")).into(),
            CSeq::new(format!("{} {name}", self.cseq)).into(),
        ];
        headers.extend(self.routes.iter().map(|route| Header::from(Route::new(route.clone()))));
        request(method, &self.target, headers, ("", Vec::new()))
    }

    /// Alice hangs up, and bob's side hears of it.
    fn end(&mut self, scene: &mut Scene) -> Result<(), String> {
        self.cseq += 1;
        let bye = self.request(scene, Method::Bye, "BYE")?;
        let sent = scene.send_request(bye, Transport::Tcp)?;
        if self.has_receiver {
            let arrival = scene.core_gets(Method::Bye)?;
            let response = response_to(&arrival.message, 200, "");
            scene.core.answer(&arrival, &response)?;
        }
        scene.sender_gets(&sent, 200).map(drop)
    }
}

/// The INVITE of large message mode. SPEC §1.2.
fn invite(scene: &mut Scene, letter: &Letter, sdp: &str) -> Result<SipMessage, String> {
    let sender = scene.sender.address();
    let mut headers = vec![
        via(sender, "TCP", &mut scene.names),
        MaxForwards::new("70").into(),
        From::new(format!("<{ALICE}>;tag={}", scene.names.hex())).into(),
        To::new(format!("<{BOB}>")).into(),
        CallId::new(format!("{}@a.example", scene.names.hex())).into(),
        CSeq::new("1 INVITE").into(),
        Contact::new(format!("<sip:alice@{sender};transport=tcp>")).into(),
        Date::new(letter.date.clone()).into(),
        UserAgent::new("CPM-client/OMA2.2").into(),
    ];
    for (name, value) in [
        ("P-Asserted-Identity", format!("<{ALICE}>")),
        ("P-Asserted-Service", LARGE_SERVICE.to_owned()),
        ("Accept-Contact", format!("*;{LARGE_FEATURE}")),
        ("Conversation-ID", letter.conversation_id.clone()),
        ("Contribution-ID", letter.contribution_id.clone()),
    ] {
        headers.push(Header::Other(name.to_owned(), value));
    }
    let invite = request(Method::Invite, BOB, headers, ("application/sdp", sdp.as_bytes().to_vec()))?;
    scene.send_request(invite, Transport::Tcp)
}

/// Bob's side answers, waits for the ACK and receives aside.
fn answer_invite(scene: &mut Scene, arrival: &Arrival, answered: &Arc<AtomicU64>) -> Result<Receiver, String> {
    let bob = own_uri(scene, "bob");
    answer_with(scene, arrival, &bob)?;
    scene.core_gets(Method::Ack)?;
    receive_aside(&bob, &attribute(arrival.message.body(), "path"), answered)
}

/// 200 with an answer that makes bob the one who connects, as clients in the field do.
fn answer_with(scene: &mut Scene, arrival: &Arrival, own: &str) -> Result<(), String> {
    let mut response = response_to(&arrival.message, 200, &scene.names.hex());
    let sdp = description(own, "a=recvonly\r\na=setup:active\r\n");
    if let SipMessage::Response(response) = &mut response {
        response.headers.push(Contact::new(format!("<sip:bob@{}>", scene.core.address())).into());
        response.headers.push(ContentType::new("application/sdp").into());
        response.body = sdp.into_bytes();
    }
    scene.core.answer(arrival, &response)?;
    scene.draw(Column::Core, Column::Ringpost, &format!("{} (SDP)", title(&response)), &[])
}

fn receive_aside(own: &str, path: &str, answered: &Arc<AtomicU64>) -> Result<Receiver, String> {
    let mut party = Party::connect(own, path)?;
    party.send("bind", (1, 0, 0), b"", b'$')?;
    let answered = answered.clone();
    Ok(std::thread::spawn(move || receive(&mut party, &answered).map(|received| (party, received))))
}

/// Sends a letter in chunks, a few ahead of their 200s; no 200 may come before the receiver's.
fn transmit(sender: &mut Party, letter: &Letter, answered: &Arc<AtomicU64>) -> Result<Histogram<u64>, String> {
    let mut latency = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())?;
    let total = letter.body.len() as u64;
    let mut waiting: VecDeque<String> = VecDeque::new();
    let mut begun: HashMap<String, Instant> = HashMap::new();
    let mut acknowledged = 0;
    let chunks: Vec<&[u8]> = letter.body.chunks(CHUNK_LEN).collect();
    for (index, chunk) in chunks.iter().enumerate() {
        let first = (index * CHUNK_LEN) as u64 + 1;
        let flag = if index + 1 == chunks.len() { b'$' } else { b'+' };
        let range = (first, first + chunk.len() as u64 - 1, total);
        let started = Instant::now();
        let transaction = sender.send(&letter.imdn_message_id, range, chunk, flag)?;
        begun.insert(transaction.clone(), started);
        waiting.push_back(transaction);
        let drain_to = if flag == b'$' { 0 } else { WINDOW - 1 };
        while waiting.len() > drain_to
            && let Some(transaction) = waiting.pop_front()
        {
            sender.expect_ok(&transaction)?;
            acknowledged += 1;
            let receivers = answered.load(Ordering::SeqCst);
            expect(receivers >= acknowledged, || {
                format!("200 number {acknowledged} came when the receiver had sent {receivers}")
            })?;
            if let Some(started) = begun.remove(&transaction) {
                latency.saturating_record(started.elapsed().as_micros() as u64);
            }
        }
    }
    Ok(latency)
}

fn expect_whole(received: &Received, letter: &Letter) -> Result<(), String> {
    let sha256: [u8; 32] = Sha256::digest(&letter.body).into();
    expect(!received.aborted && received.len == letter.body.len() as u64 && received.sha256 == sha256, || {
        format!("{} of {} bytes came, or others", received.len, letter.body.len())
    })
}

fn join(receiver: Receiver) -> Result<(Party, Received), String> {
    receiver.join().map_err(|_| "the receiver panicked".to_owned())?
}

fn own_uri(scene: &mut Scene, name: &str) -> String {
    format!("msrp://127.0.0.1:9/{name}{};tcp", scene.names.hex())
}

fn offer(own: &str) -> String {
    description(own, "a=sendonly\r\na=setup:actpass\r\n")
}

fn description(own: &str, attributes: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=message 9 TCP/MSRP *\r\n\
         a=path:{own}\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\n{attributes}"
    )
}

fn attribute(sdp: &[u8], name: &str) -> String {
    let sdp = String::from_utf8_lossy(sdp);
    let prefix = format!("a={name}:");
    sdp.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
}

fn body_has(sdp: &[u8], wanted: &str) -> bool {
    String::from_utf8_lossy(sdp).lines().any(|line| line == wanted)
}

fn text(len: usize) -> String {
    "0123456789abcdef\r\n".repeat(len / 18 + 1)
}
