//! SIP calls of large message mode: the generator as the sender's S-CSCF and as the core with the receiving client.
//!
//! Requests and answers are text of this file's own; whatever comes back is read by name, and every so often whole by
//! rsip. In-dialog requests go to the Contact that the other side gave, as RFC 3261 §12.2 wants it.

use crate::answers;
use crate::cli::Transport;
use crate::setup::Stage;
use crate::template::{self, Places};
use crate::wire::{Peer, Side};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

/// How the ends behave.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// The sender's `a=setup`.
    pub offer_setup: &'static str,
    /// The receiver's `a=setup`.
    pub answer_setup: &'static str,
    /// The receiver rings before it answers.
    pub ringing: bool,
    /// Recipients, in turn.
    pub users: u32,
}

/// Something that the scenario acts upon.
#[derive(Debug)]
pub enum Event {
    /// The receiver was invited: the path list that it was given.
    Offered {
        /// The call.
        call: usize,
        /// `a=path` of the offer.
        path: String,
    },
    /// The sender was answered and has acknowledged.
    Answered {
        /// The call.
        call: usize,
        /// `a=path` of the answer.
        path: String,
        /// Who connects.
        setup: String,
    },
    /// The receiver got its ACK.
    Confirmed {
        /// The call.
        call: usize,
    },
    /// The receiver got a BYE.
    Released {
        /// The call.
        call: usize,
    },
    /// The sender's BYE was answered.
    Ended {
        /// The call.
        call: usize,
    },
}

/// Which requests of a call wait for their answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Inviting,
    Established,
    Leaving,
    Over,
}

struct Call {
    state: State,
    offer: String,
    /// The receiver's own URI, for its answer.
    answer_uri: String,
    /// When the INVITE, then the BYE left first.
    started: Instant,
    last_sent: Instant,
    resends: u32,
    /// The To of the 200, tag included, and its Contact.
    to: String,
    contact: String,
    contact_addr: Option<SocketAddr>,
    /// The receiver's 200 while no ACK has come, and where it goes.
    unacknowledged: Option<(Vec<u8>, Peer, Instant, u32)>,
    is_offered: bool,
    is_confirmed: bool,
}

/// All calls of a run.
pub struct Calls {
    habits: Habits,
    places: Places,
    calls: Vec<Call>,
    sent_by: Vec<(Vec<u8>, SocketAddr)>,
    last_look: Instant,
    /// INVITE to 200, in nanoseconds, taken by the scenario.
    pub setup_ns: Vec<u64>,
    /// What went wrong.
    pub errors: BTreeMap<String, u64>,
    /// Requests and responses sent again.
    pub resends: u64,
    text: String,
}

impl Calls {
    /// None yet.
    pub fn new(habits: Habits, places: Places) -> Self {
        Self {
            habits,
            places,
            calls: Vec::new(),
            sent_by: Vec::new(),
            last_look: Instant::now(),
            setup_ns: Vec::new(),
            errors: BTreeMap::new(),
            resends: 0,
            text: String::new(),
        }
    }

    /// What went wrong, in a line.
    pub fn error_text(&self) -> Option<String> {
        let list: Vec<String> = self.errors.iter().map(|(kind, count)| format!("SIP: {kind} ({count}×)")).collect();
        (!list.is_empty()).then(|| list.join(", "))
    }

    fn error(&mut self, kind: impl Into<String>) {
        *self.errors.entry(kind.into()).or_default() += 1;
    }

    /// Sends the INVITE of the next call; `uris` are the sender's and the receiver's own.
    pub fn invite(&mut self, stage: &mut Stage, uris: &[String; 2], sender_at: SocketAddr, now: Instant) -> usize {
        let call = self.prepare(uris, sender_at, now);
        self.send_invite(stage, call);
        call
    }

    fn prepare(&mut self, uris: &[String; 2], sender_at: SocketAddr, now: Instant) -> usize {
        let call = self.calls.len();
        let offer = sdp(call, &uris[0], sender_at, "sendonly", self.habits.offer_setup);
        self.calls.push(Call {
            state: State::Inviting,
            offer,
            answer_uri: uris[1].clone(),
            started: now,
            last_sent: now,
            resends: 0,
            to: String::new(),
            contact: String::new(),
            contact_addr: None,
            unacknowledged: None,
            is_offered: false,
            is_confirmed: false,
        });
        call
    }

    fn send_invite(&mut self, stage: &mut Stage, call: usize) {
        self.write_invite(call);
        let peer = stage.sender.peer_for(call as u64, self.places.target);
        stage.sender.queue(self.text.as_bytes(), peer);
    }

    fn write_invite(&mut self, call: usize) {
        let Places { sender, core, target, transport } = self.places;
        let user = template::user_uri(call as u32 % self.habits.users.max(1));
        let (protocol, lower) = protocol(transport);
        let run = template::run();
        let offer = &self.calls[call].offer;
        let text = &mut self.text;
        text.clear();
        let written = write!(
            text,
            "INVITE {user} SIP/2.0\r\n\
             Via: SIP/2.0/{protocol} {sender};branch=z9hG4bKltn{call:016x}i.{run};rport\r\n\
             Via: SIP/2.0/UDP icscf.home.example:5060;branch=z9hG4bK4b43c2ff8.1;received=192.0.2.11\r\n\
             Via: SIP/2.0/UDP pcscf.a.example:5060;branch=z9hG4bK240f34.1;received=192.0.2.12\r\n\
             Via: SIP/2.0/UDP 192.0.2.77:5060;branch=z9hG4bKnashds7\r\n\
             Max-Forwards: 67\r\n\
             Route: <sip:term@{target};lr>\r\n\
             Route: <sip:orig-7c3f@{core};lr;transport={lower}>\r\n\
             Record-Route: <sip:scscf@{sender};lr;transport={lower}>\r\n\
             From: \"Alice\" <sip:alice@a.example>;tag=lta{call:08x}\r\n\
             To: <{user}>\r\n\
             Call-ID: ltn{call:016x}.{run}@a.example\r\n\
             CSeq: 1 INVITE\r\n\
             Contact: <sip:alice@{sender};transport={lower}>;+g.3gpp.icsi-ref=\"{ICSI_ESCAPED}\"\r\n\
             P-Asserted-Identity: \"Alice\" <sip:alice@a.example>, <tel:+15550123>\r\n\
             P-Asserted-Service: {ICSI}\r\n\
             P-Charging-Vector: icid-value=\"AyretyU0dm+6O2IrT5tAFrbHLso=023551024\";orig-ioi=a.example\r\n\
             Accept-Contact: *;+g.3gpp.icsi-ref=\"{ICSI_ESCAPED}\";require;explicit\r\n\
             User-Agent: CPM-client/OMA2.2 RCS-client/UP_2.4 load/1.0\r\n\
             Allow: {ALLOW}\r\n\
             Conversation-ID: f81d4fae-7dec-11d0-a765-00a0c91e6bf6\r\n\
             Contribution-ID: ltn{call:016x}.{run}\r\n\
             Content-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{offer}",
            offer.len()
        );
        debug_assert!(written.is_ok());
    }

    /// Ends a call from the sender's side.
    pub fn bye(&mut self, stage: &mut Stage, call: usize, now: Instant) {
        let this = &mut self.calls[call];
        this.state = State::Leaving;
        (this.started, this.last_sent, this.resends) = (now, now, 0);
        self.send_in_dialog(stage, call, "BYE", 2, "b");
    }

    fn send_in_dialog(&mut self, stage: &mut Stage, call: usize, method: &str, sequence: u32, branch: &str) {
        let Places { sender, target, transport, .. } = self.places;
        let protocol = protocol(transport).0;
        let this = &self.calls[call];
        let text = &mut self.text;
        text.clear();
        let run = template::run();
        let written = write!(
            text,
            "{method} {} SIP/2.0\r\n\
             Via: SIP/2.0/{protocol} {sender};branch=z9hG4bKltn{call:016x}{branch}.{run};rport\r\n\
             Max-Forwards: 70\r\n\
             From: \"Alice\" <sip:alice@a.example>;tag=lta{call:08x}\r\n\
             To: {}\r\n\
             Call-ID: ltn{call:016x}.{run}@a.example\r\n\
             CSeq: {sequence} {method}\r\n\
             Content-Length: 0\r\n\r\n",
            this.contact, this.to
        );
        debug_assert!(written.is_ok());
        let Some(peer) = stage.sender.peer_at(this.contact_addr.unwrap_or(target)) else {
            self.error("no connection to the Contact");
            return;
        };
        stage.sender.queue(self.text.as_bytes(), peer);
    }

    /// Takes what has arrived at both sides and sends what is due; returns how much there was.
    pub fn turn(&mut self, stage: &mut Stage, events: &mut Vec<Event>) -> Result<usize, String> {
        let failed = |error: std::io::Error| error.to_string();
        let now = Instant::now();
        let mut moved = 0;
        let mut requests: Vec<(Vec<u8>, Peer)> = Vec::new();
        moved += stage.core.receive(|bytes, from| requests.push((bytes.to_vec(), from))).map_err(failed)?;
        for (request, from) in requests.drain(..) {
            let peer = answers::target(&request, from, &mut self.sent_by);
            self.at_receiver(&mut stage.core, &request, peer, now, events);
        }
        moved += stage.sender.receive(|bytes, from| requests.push((bytes.to_vec(), from))).map_err(failed)?;
        for (message, from) in requests {
            if let Some(status) = template::status(&message) {
                self.on_answer(stage, &message, status, now, events);
            } else {
                self.at_sender(stage, &message, from);
            }
        }
        if now.duration_since(self.last_look).as_millis() >= 100 {
            self.last_look = now;
            self.look(stage, now);
        }
        stage.core.flush().map_err(failed)?;
        stage.sender.flush().map_err(failed)?;
        Ok(moved)
    }

    /// What the core gets: the second leg's requests.
    fn at_receiver(&mut self, core: &mut Side, request: &[u8], to: Peer, now: Instant, events: &mut Vec<Event>) {
        match method(request) {
            b"INVITE" => {
                let call = template::value(request, b"contribution-id", 0).and_then(template::number);
                let Some(call) = call.map(|call| call as usize).filter(|call| *call < self.calls.len()) else {
                    self.error("an INVITE without its Contribution-ID");
                    return;
                };
                if let Some(fault) = self.invite_fault(request, call) {
                    self.error(fault);
                }
                let Some(path) = attribute(request, "path") else {
                    self.error("an offer without a path");
                    return;
                };
                if self.habits.ringing && !self.calls[call].is_offered {
                    let ringing = self.answer(request, call, "180 Ringing", None);
                    core.queue(&ringing, to);
                }
                let body = self.answer_sdp(call);
                let answer = self.answer(request, call, "200 OK", Some(&body));
                core.queue(&answer, to);
                let this = &mut self.calls[call];
                if !this.is_confirmed {
                    this.unacknowledged = Some((answer, to, now, 0));
                }
                if !std::mem::replace(&mut this.is_offered, true) {
                    events.push(Event::Offered { call, path });
                }
            }
            b"ACK" => {
                let Some(call) = self.call_of_tag(request) else {
                    self.error("an ACK without a dialog");
                    return;
                };
                self.calls[call].unacknowledged = None;
                if !std::mem::replace(&mut self.calls[call].is_confirmed, true) {
                    events.push(Event::Confirmed { call });
                }
            }
            b"CANCEL" => self.error("a CANCEL"),
            name => {
                let mut answer = Vec::new();
                template::write_ok(request, &mut answer);
                core.queue(&answer, to);
                if name == b"BYE" {
                    match self.call_of_tag(request) {
                        Some(call) => events.push(Event::Released { call }),
                        None => self.error("a BYE without a dialog"),
                    }
                }
            }
        }
    }

    /// What must hold of the second leg's INVITE; now and then rsip reads all of it.
    fn invite_fault(&self, request: &[u8], call: usize) -> Option<String> {
        if call.is_multiple_of(READ_WHOLE_EVERY) {
            let head = &request[..template::head_len(request)?];
            if let Err(error) = rsip::Request::try_from(head) {
                return Some(format!("rsip refuses the INVITE: {error}"));
            }
        }
        if attribute(request, "setup").as_deref() != Some("actpass") {
            return Some("an offer that is not actpass".into());
        }
        if !contains(request, b"\r\na=sendonly\r\n") {
            return Some("an offer that is not sendonly".into());
        }
        let call_id = template::value(request, b"call-id", b'i')?;
        contains(call_id, b"ltn").then(|| "the first leg's Call-ID on the second".into())
    }

    /// The call that the receiver's own tag names.
    fn call_of_tag(&self, request: &[u8]) -> Option<usize> {
        let to = std::str::from_utf8(template::value(request, b"to", b't')?).ok()?;
        let digits = to.split_once(";tag=ltb")?.1.get(..8)?;
        let call = usize::from_str_radix(digits, 16).ok()?;
        (call < self.calls.len()).then_some(call)
    }

    fn answer_sdp(&self, call: usize) -> String {
        let uri = &self.calls[call].answer_uri;
        let at = crate::msrp::address(uri).unwrap_or(self.places.core);
        sdp(call, uri, at, "recvonly", self.habits.answer_setup)
    }

    /// An answer to the second leg's INVITE.
    fn answer(&self, request: &[u8], call: usize, status: &str, body: Option<&str>) -> Vec<u8> {
        let mut out = format!("SIP/2.0 {status}\r\n").into_bytes();
        let head = &request[..template::head_len(request).unwrap_or(request.len())];
        for line in template::lines(head).skip(1) {
            let is = |name: &[u8], compact: u8| template::is_named(line, name, compact);
            if is(b"via", b'v') || is(b"record-route", 0) || is(b"from", b'f') || is(b"cseq", 0) || is(b"call-id", b'i')
            {
                out.extend_from_slice(line);
            } else if is(b"to", b't') {
                out.extend_from_slice(line);
                if !contains(line, b";tag=") {
                    out.extend_from_slice(format!(";tag=ltb{call:08x}").as_bytes());
                }
            } else {
                continue;
            }
            out.extend_from_slice(b"\r\n");
        }
        let (core, transport) = (self.places.core, protocol(self.places.transport).1);
        let user = template::user_uri(call as u32 % self.habits.users.max(1));
        let name = user.split('@').next().unwrap_or("sip:bob");
        let rest = format!(
            "Contact: <{name}@{core};transport={transport}>;+g.3gpp.icsi-ref=\"{ICSI_ESCAPED}\"\r\n\
             Server: CPM-client/OMA2.2 RCS-client/UP_2.4 load/1.0\r\n\
             Allow: {ALLOW}\r\n"
        );
        out.extend_from_slice(rest.as_bytes());
        match body {
            Some(body) => {
                let entity = format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                out.extend_from_slice(entity.as_bytes());
            }
            None => out.extend_from_slice(b"Content-Length: 0\r\n\r\n"),
        }
        out
    }

    /// Answers to the sender's requests.
    fn on_answer(&mut self, stage: &mut Stage, message: &[u8], status: u16, now: Instant, events: &mut Vec<Event>) {
        let call = template::value(message, b"call-id", b'i').and_then(template::number);
        let Some(call) = call.map(|call| call as usize).filter(|call| *call < self.calls.len()) else {
            // A REGISTER that was sent twice is answered twice.
            return;
        };
        if status < 200 {
            self.calls[call].resends = u32::MAX;
            return;
        }
        let is_invite = template::value(message, b"cseq", 0).is_some_and(|value| value.ends_with(b"INVITE"));
        match (is_invite, self.calls[call].state, status) {
            (true, State::Inviting, 200) => {
                let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                let contact = text(template::value(message, b"contact", b'm'));
                let uri = contact.split(['<', '>']).nth(1).unwrap_or(&contact).to_owned();
                let this = &mut self.calls[call];
                this.to = text(template::value(message, b"to", b't'));
                this.contact_addr = contact_addr(&uri);
                this.contact = uri;
                this.state = State::Established;
                let took = now.duration_since(this.started);
                self.setup_ns.push(took.as_nanos() as u64);
                self.send_in_dialog(stage, call, "ACK", 1, "a");
                if let Some(fault) = answer_fault(message, call) {
                    self.error(fault);
                }
                match (attribute(message, "path"), attribute(message, "setup")) {
                    (Some(path), setup) => {
                        events.push(Event::Answered { call, path, setup: setup.unwrap_or_default() });
                    }
                    _ => self.error("an answer without a path"),
                }
            }
            // The 200 again: its ACK was lost, or came late.
            (true, State::Established | State::Leaving, 200) => {
                self.resends += 1;
                self.send_in_dialog(stage, call, "ACK", 1, "a");
            }
            (true, State::Inviting, _) => {
                let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                let warning = text(template::value(message, b"warning", 0));
                self.error(format!("INVITE was answered {status} {warning}"));
                let this = &mut self.calls[call];
                this.to = text(template::value(message, b"to", b't'));
                this.contact = template::user_uri(call as u32 % self.habits.users.max(1));
                this.state = State::Over;
                self.send_in_dialog(stage, call, "ACK", 1, "i");
            }
            (false, State::Leaving, 200) => {
                self.calls[call].state = State::Over;
                events.push(Event::Ended { call });
            }
            (false, State::Leaving, _) => {
                self.calls[call].state = State::Over;
                self.error(format!("BYE was answered {status}"));
            }
            _ => {}
        }
    }

    /// Requests of the appliance toward the sender.
    fn at_sender(&mut self, stage: &mut Stage, request: &[u8], from: Peer) {
        match method(request) {
            b"ACK" => return,
            b"BYE" => self.error("the appliance ended a session by itself"),
            _ => {}
        }
        let mut answer = Vec::new();
        template::write_ok(request, &mut answer);
        let peer = answers::target(request, from, &mut self.sent_by);
        stage.sender.queue(&answer, peer);
    }

    /// Lost datagrams: requests without an answer and 200 responses without an ACK go again.
    fn look(&mut self, stage: &mut Stage, now: Instant) {
        let is_udp = self.places.transport == Transport::Udp;
        for call in 0..self.calls.len() {
            let this = &mut self.calls[call];
            if let Some((answer, to, sent, count)) = &mut this.unacknowledged
                && now.duration_since(*sent).as_millis() >= 500 << *count
            {
                if *count == RESENDS_MAX {
                    this.unacknowledged = None;
                    self.error("no ACK");
                    continue;
                }
                (*sent, *count) = (now, *count + 1);
                self.resends += 1;
                stage.core.queue(answer, *to);
                continue;
            }
            if matches!(this.state, State::Established | State::Over) {
                continue;
            }
            if now.duration_since(this.started).as_secs() >= GIVE_UP_S {
                let what = this.state;
                this.state = State::Over;
                self.error(format!("no final answer while {what:?}"));
            } else if is_udp
                && this.resends <= RESENDS_MAX
                && now.duration_since(this.last_sent).as_millis() >= 500 << this.resends
            {
                this.last_sent = now;
                this.resends += 1;
                self.resends += 1;
                match this.state {
                    State::Inviting => self.send_invite(stage, call),
                    _ => self.send_in_dialog(stage, call, "BYE", 2, "b"),
                }
            }
        }
    }
}

/// What must hold of the answer to the sender.
fn answer_fault(message: &[u8], call: usize) -> Option<String> {
    if call.is_multiple_of(READ_WHOLE_EVERY) {
        let head = &message[..template::head_len(message)?];
        if let Err(error) = rsip::Response::try_from(head) {
            return Some(format!("rsip refuses the 200: {error}"));
        }
    }
    if !contains(message, b"\r\na=recvonly\r\n") {
        return Some("an answer that is not recvonly".into());
    }
    let server = template::value(message, b"server", 0).unwrap_or_default();
    (!server.starts_with(b"CPM-serv/OMA")).then(|| "a Server that is none".into())
}

/// A session description with one message line.
fn sdp(call: usize, uri: &str, at: SocketAddr, direction: &str, setup: &str) -> String {
    let family = if at.is_ipv4() { "IP4" } else { "IP6" };
    format!(
        "v=0\r\no=- {} 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=message {port} TCP/MSRP *\r\n\
         a=accept-types:message/cpim\r\na=accept-wrapped-types:*\r\na={direction}\r\na=setup:{setup}\r\na=path:{uri}\r\n",
        1_000_000 + call,
        ip = at.ip(),
        port = at.port(),
    )
}

/// The value of an SDP attribute.
pub fn attribute(message: &[u8], name: &str) -> Option<String> {
    let body = std::str::from_utf8(&message[template::head_len(message)?..]).ok()?;
    body.lines()
        .find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

/// Address and port of a SIP URI that names them in digits.
fn contact_addr(uri: &str) -> Option<SocketAddr> {
    let rest = uri.strip_prefix("sip:")?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host.split([';', '?']).next()?.parse().ok()
}

fn method(request: &[u8]) -> &[u8] {
    request.split(|byte| *byte == b' ').next().unwrap_or_default()
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(text, wanted).is_some()
}

fn protocol(transport: Transport) -> (&'static str, &'static str) {
    match transport {
        Transport::Udp => ("UDP", "udp"),
        Transport::Tcp => ("TCP", "tcp"),
    }
}

const ICSI: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg";
const ICSI_ESCAPED: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg";
const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, PRACK, MESSAGE";
const READ_WHOLE_EVERY: usize = 1024;
const RESENDS_MAX: u32 = 6;
/// Longer than a client transaction may last.
const GIVE_UP_S: u64 = 35;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_contacts() {
        let expected = "127.0.0.1:40213".parse().ok();
        assert_eq!(contact_addr("sip:127.0.0.1:40213;transport=udp"), expected);
        assert_eq!(contact_addr("sip:pf@127.0.0.1:40213"), expected);
        assert_eq!(contact_addr("sip:[::1]:5060;lr"), "[::1]:5060".parse().ok());
        assert_eq!(contact_addr("sip:pf.example"), None);
    }

    fn calls() -> Calls {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let places = Places { sender: addr(6000), core: addr(5070), target: addr(5060), transport: Transport::Udp };
        let habits = Habits { offer_setup: "actpass", answer_setup: "active", ringing: false, users: 10 };
        let mut calls = Calls::new(habits, places);
        for call in 0..4 {
            let uris = ["msrp://127.0.0.1:7000/a;tcp", "msrp://127.0.0.1:7001/b;tcp"].map(str::to_owned);
            let body = calls.prepare(&uris, addr(7000), Instant::now());
            assert_eq!(body, call);
        }
        calls
    }

    #[test]
    fn an_invite_is_read_by_rsip_and_its_answer_too() {
        let mut calls = calls();
        calls.write_invite(3);
        let request = calls.text.clone();
        let read = rsip::Request::try_from(request.as_bytes()).expect("rsip reads it");
        assert_eq!(read.uri.to_string(), "sip:ltuser000003@home.example");
        assert_eq!(template::content_len(request.as_bytes()), Some(read.body.len()));
        let body = calls.answer_sdp(3);
        let answer = calls.answer(request.as_bytes(), 3, "200 OK", Some(&body));
        let read = rsip::Response::try_from(answer.as_slice()).expect("rsip reads it");
        assert_eq!(read.body.len(), body.len());
        let text = read.to_string();
        assert_eq!(text.matches("Via: ").count(), 4);
        for part in [
            "Record-Route: <sip:scscf@127.0.0.1:6000",
            ";tag=ltb00000003",
            "CSeq: 1 INVITE",
            "a=setup:active",
            "a=recvonly",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        // The dialog is found again by the tag.
        let ack = format!("ACK sip:b@x SIP/2.0\r\nTo: {}\r\n\r\n", "<sip:b@x>;tag=ltb00000003");
        assert_eq!(calls.call_of_tag(ack.as_bytes()), Some(3));
        assert_eq!(calls.call_of_tag(b"ACK sip:b@x SIP/2.0\r\nTo: <sip:b@x>;tag=ltb00000004\r\n\r\n"), None);
    }

    #[test]
    fn a_second_leg_that_is_the_first_is_noticed() {
        let mut calls = calls();
        calls.write_invite(3);
        let request = calls.text.clone();
        assert_eq!(calls.invite_fault(request.as_bytes(), 3).as_deref(), Some("the first leg's Call-ID on the second"));
        let own = request.replace("Call-ID: ltn", "Call-ID: pf");
        assert_eq!(calls.invite_fault(own.as_bytes(), 3), None);
        let mirrored = own.replace("a=sendonly", "a=recvonly");
        assert!(calls.invite_fault(mirrored.as_bytes(), 3).is_some());
    }

    #[test]
    fn a_description_gives_back_its_attributes() {
        let at = SocketAddr::from(([127, 0, 0, 1], 7000));
        let body = sdp(3, "msrp://127.0.0.1:7000/a;tcp", at, "sendonly", "actpass");
        let message = format!("INVITE sip:b@x SIP/2.0\r\nContent-Type: application/sdp\r\n\r\n{body}");
        assert_eq!(attribute(message.as_bytes(), "path").as_deref(), Some("msrp://127.0.0.1:7000/a;tcp"));
        assert_eq!(attribute(message.as_bytes(), "setup").as_deref(), Some("actpass"));
        assert_eq!(attribute(message.as_bytes(), "pat"), None);
        assert!(body.contains("m=message 7000 TCP/MSRP *\r\n"));
    }
}
