//! A core between a sender and the recipient's core network, for the tests of large message mode.

use super::core::Core;
use super::effect::{Effect, StreamTarget};
use super::input::{ControlAnswer, ControlCommand, Input, Source, Transport};
use super::settings::Settings;
use super::storage::Command;
use super::subscriber::Subscriber;
use crate::base::id::{ConnId, Ticket};
use crate::base::time::Instant;
use crate::metrics::names::Counter;
use crate::msrp::effect::MediaEffect;
use crate::testing::directory::MapDirectory;
use crate::testing::scene;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// Where the sender is.
pub const ALICE: SocketAddr = scene::address([192, 0, 2, 7], 5060);
/// The service's feature tag.
pub const ICSI: &str = "urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg";

/// A message that left.
#[derive(Clone, Debug)]
pub struct Sent {
    pub to: SocketAddr,
    pub stream: bool,
    pub text: String,
}

impl Sent {
    /// A header field's value.
    pub fn value(&self, name: &str) -> &str {
        value(&self.text, name).unwrap_or_else(|| panic!("no {name} in {}", self.text))
    }

    /// The body.
    pub fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").expect("a whole message").1
    }

    /// The status code of a response.
    pub fn status(&self) -> u16 {
        let code = self.start().strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3));
        code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("a response: {}", self.text))
    }

    /// The first line.
    pub fn start(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}

/// A header field's value.
pub fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let prefix = format!("{name}: ");
    text.split("\r\n").take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(&prefix))
}

/// The tag in a From or To value.
pub fn tag(value: &str) -> &str {
    value.rsplit_once("tag=").expect("a tag").1
}

/// The value of `a=path`.
pub fn path(sent: &Sent) -> &str {
    sent.body().lines().find_map(|line| line.strip_prefix("a=path:")).expect("a path")
}

/// The URI of our Contact in a message.
pub fn contact(sent: &Sent) -> &str {
    let value = sent.value("Contact");
    &value[1..value.find('>').expect("brackets")]
}

pub struct Scene {
    pub core: Core<MapDirectory>,
    pub directory: MapDirectory,
    pub at: Duration,
    pub sent: Vec<Sent>,
    pub asked: Vec<(Ticket, String)>,
    pub media: Vec<MediaEffect>,
    /// Messages given to other shards.
    pub posted: usize,
    number: u32,
}

impl Scene {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = scene::settings(0, 1);
        change(&mut settings);
        Self::start(settings, 0)
    }

    /// One of several shards.
    pub fn of_shard(shard: u16, shard_count: u16) -> Self {
        Self::start(scene::settings(shard, shard_count), shard)
    }

    fn start(settings: Settings, shard: u16) -> Self {
        let directory = MapDirectory::default();
        let devices = Box::new([scene::device("urn:uuid:1"), scene::device("urn:uuid:2")]);
        directory.publish("sip:bob@home.example", Subscriber { devices, ..Subscriber::default() });
        let core = scene::core(settings, shard, directory.clone(), 1, scene::after(Duration::ZERO));
        let (sent, asked, media) = (Vec::new(), Vec::new(), Vec::new());
        Self { core, directory, at: Duration::ZERO, sent, asked, media, posted: 0, number: 0 }
    }

    /// A message arrives.
    pub fn receive(&mut self, from: SocketAddr, text: &str) {
        self.receive_from(
            Source {
                transport: Transport::Udp,
                peer: from,
                listener: 0,
                socket: super::effect::Socket::WellKnown,
                conn: None,
            },
            text,
        );
    }

    pub fn receive_from(&mut self, source: Source, text: &str) {
        self.core.handle_message(text.as_bytes(), source, scene::after(self.at));
        self.drain();
    }

    /// Time passes, timers fire at their time.
    pub fn wait(&mut self, span: Duration) {
        let until = Instant::ZERO + self.at + span;
        while let Some((due, _)) = self.core.poll_timeout().filter(|(due, _)| *due <= until) {
            self.at = due.since(Instant::ZERO).max(self.at);
            self.core.handle_timeout(scene::after(self.at));
            self.drain();
        }
        self.at = until.since(Instant::ZERO);
        self.core.handle_timeout(scene::after(self.at));
        self.drain();
    }

    /// The first name that was asked for has these addresses.
    pub fn resolve(&mut self, addrs: &[SocketAddr]) -> String {
        let (ticket, host) = self.asked.remove(0);
        let answer = ControlAnswer::Resolved(addrs.to_vec());
        self.core.handle_input(Input::Control { ticket, answer }, scene::after(self.at));
        self.drain();
        host
    }

    fn drain(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::SendDatagram { to, bytes, .. } => self.keep(to, false, &bytes),
                Effect::SendStream { to, bytes, .. } => match to {
                    StreamTarget::Peer(to) | StreamTarget::Connection { fallback: to, .. } => {
                        self.keep(to, true, &bytes);
                    }
                },
                Effect::Control { ticket, command: ControlCommand::Resolve { host, .. } } => {
                    self.asked.push((ticket, host.into()));
                }
                Effect::Media(effect) => self.media.push(effect),
                Effect::Post { .. } => self.posted += 1,
                Effect::Store { command: Command::SweepExpired { .. }, .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn keep(&mut self, to: SocketAddr, stream: bool, bytes: &[u8]) {
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole message");
        let len = value(head, "Content-Length").and_then(|len| len.parse().ok());
        assert_eq!(len, Some(body.len()), "{text}");
        self.sent.push(Sent { to, stream, text });
    }

    /// Takes everything that was sent.
    pub fn take(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// Takes the only message that was sent.
    #[track_caller]
    pub fn one(&mut self) -> Sent {
        let mut sent = self.take();
        assert_eq!(sent.len(), 1, "{sent:#?}");
        sent.remove(0)
    }

    /// Takes both messages that were sent.
    #[track_caller]
    pub fn two(&mut self) -> [Sent; 2] {
        let sent = self.take();
        sent.try_into().unwrap_or_else(|sent| panic!("{sent:#?}"))
    }

    #[track_caller]
    pub fn none(&mut self) {
        let sent = self.take();
        assert!(sent.is_empty(), "{sent:#?}");
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.core.metrics.counter(counter)
    }

    /// Sessions, MSRP sessions and their owners.
    pub fn levels(&self) -> (usize, usize, usize) {
        (self.core.large.sessions.len(), self.core.relay.levels().sessions, self.core.media_owners.len())
    }

    pub fn branch(&mut self) -> String {
        self.number += 1;
        format!("z9hG4bKalice{}", self.number)
    }

    /// A sender's INVITE, changed.
    pub fn invite(&mut self, change: impl FnOnce(String) -> String) -> String {
        let branch = self.branch();
        let number = self.number;
        let sdp = offer();
        let text = format!(
            "INVITE sip:bob@home.example SIP/2.0\r\n\
             Via: SIP/2.0/UDP 192.0.2.7:5060;branch={branch}\r\n\
             Record-Route: <sip:192.0.2.6:5062;lr>\r\n\
             Route: <sip:term@192.0.2.1:5060;lr>, <sip:192.0.2.9:5070;lr;odi=1>\r\n\
             Max-Forwards: 66\r\n\
             From: \"Alice\" <sip:alice@a.example>;tag=a{number}\r\n\
             To: <sip:bob@home.example>\r\n\
             Call-ID: call{number}@a\r\n\
             CSeq: 5 INVITE\r\n\
             Contact: <sip:alice@192.0.2.7:5060>\r\n\
             P-Asserted-Identity: <sip:alice@a.example>\r\n\
             Accept-Contact: *;+g.3gpp.icsi-ref=\"{ICSI}\"\r\n\
             Conversation-ID: conv\r\n\
             Contribution-ID: contrib\r\n\
             Subject: hello\r\n\
             User-Agent: CPM-client/OMA2.2\r\n\
             Content-Type: application/sdp\r\n\r\n{sdp}"
        );
        with_length(change(text))
    }

    /// Calls Bob: the INVITE as received by his side.
    #[track_caller]
    pub fn call(&mut self) -> (String, Sent) {
        let invite = self.invite(|text| text);
        self.receive(ALICE, &invite);
        let sent = self.one();
        (invite, sent)
    }

    /// A whole session: the sender's INVITE, the recipient's, the 200 to the sender.
    #[track_caller]
    pub fn session(&mut self) -> (String, Sent, Sent) {
        let (invite, forked) = self.call();
        self.receive(scene::CORE, &answered(&forked, "bob", answer()));
        let ok = self.one();
        let ack = within(&invite, &ok, "ACK", 5, "");
        self.receive(ALICE, &ack);
        let ack = self.one();
        assert!(ack.start().starts_with("ACK "), "{ack:?}");
        self.bind(&ok);
        (invite, forked, ok)
    }

    /// Both peers join their connections to the session, as its descriptions say.
    pub fn bind(&mut self, ok: &Sent) {
        let now = scene::after(self.at);
        let path = path(ok);
        let sender = ConnId { slot: 1, generation: 0 };
        assert!(self.core.media_accepted(sender, ALICE, 0, now));
        let request = format!(
            "MSRP tidalice SEND\r\nTo-Path: {path}\r\nFrom-Path: msrp://192.0.2.7:9000/sa;tcp\r\n\
             Message-ID: bind\r\nByte-Range: 1-0/0\r\n-------tidalice$\r\n"
        );
        self.chunk(sender, &request);
        let connects = self.media.drain(..).filter_map(|effect| match effect {
            MediaEffect::Connect { ticket, .. } => Some(ticket),
            _ => None,
        });
        let connects: Vec<_> = connects.collect();
        for ticket in connects {
            let recipient = ConnId { slot: 2, generation: 0 };
            assert!(self.core.media_connected(ticket, recipient, now));
            let mut batch = Vec::new();
            self.core.take_media(recipient, &mut batch);
            self.core.media_sent(recipient, batch.concat().len(), now);
            let sent = String::from_utf8(batch.concat()).expect("text");
            let tid = sent.split(' ').nth(1).expect("a binding SEND");
            let own = value(&sent, "From-Path").and_then(|path| path.split(' ').next()).expect("a path");
            let from = value(&sent, "To-Path").expect("a path");
            let done = format!("MSRP {tid} 200 OK\r\nTo-Path: {own}\r\nFrom-Path: {from}\r\n-------{tid}$\r\n");
            self.chunk(recipient, &done);
        }
        self.drain();
    }

    /// Bytes arrive on an MSRP connection.
    pub fn chunk(&mut self, conn: ConnId, text: &str) {
        let whole = Bytes::copy_from_slice(text.as_bytes());
        self.core.handle_media(conn, text.as_bytes(), &mut || whole.clone(), scene::after(self.at));
        self.drain();
    }
}

/// Recomputes Content-Length.
pub fn with_length(text: String) -> String {
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole message");
    let head: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with("Content-Length:")).collect();
    format!("{}\r\nContent-Length: {}\r\n\r\n{body}", head.join("\r\n"), body.len())
}

/// What the sender offers.
pub fn offer() -> String {
    "v=0\r\no=- 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\nm=message 9000 TCP/MSRP *\r\n\
     a=path:msrp://192.0.2.7:9000/sa;tcp\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:text/plain\r\n\
     a=setup:actpass\r\na=sendonly\r\n"
        .into()
}

/// What the recipient answers.
pub fn answer() -> String {
    "v=0\r\no=- 2 2 IN IP4 192.0.2.3\r\ns=-\r\nc=IN IP4 192.0.2.3\r\nt=0 0\r\nm=message 9100 TCP/MSRP *\r\n\
     a=path:msrp://192.0.2.3:9100/sb;tcp\r\na=accept-types:message/cpim\r\na=accept-wrapped-types:text/plain\r\n\
     a=setup:passive\r\na=recvonly\r\na=max-size:5000\r\n"
        .into()
}

/// A response to a request of ours.
pub fn response(request: &Sent, status: u16, to_tag: &str, lines: &str, body: &str) -> String {
    let field = |name| format!("{name}: {}\r\n", request.value(name));
    let to = request.value("To");
    let to = if to.contains("tag=") || to_tag.is_empty() { to.to_owned() } else { format!("{to};tag={to_tag}") };
    with_length(format!(
        "SIP/2.0 {status} Reason\r\n{}{}To: {to}\r\n{}{}{lines}\r\n{body}",
        field("Via"),
        field("From"),
        field("Call-ID"),
        field("CSeq")
    ))
}

/// A 200 of the recipient with a session description.
pub fn answered(request: &Sent, to_tag: &str, sdp: String) -> String {
    let lines = "Record-Route: <sip:192.0.2.9:5070;lr>\r\nContact: <sip:bob@192.0.2.3:5064>\r\n\
                 P-Asserted-Identity: <sip:bob@home.example>\r\nAllow: INVITE, BYE, UPDATE\r\n\
                 Content-Type: application/sdp\r\n";
    response(request, 200, to_tag, lines, &sdp)
}

/// A request of the sender within the dialog that a response of ours made.
pub fn within(invite: &str, ours: &Sent, method: &str, cseq: u32, lines_and_body: &str) -> String {
    let field = |name| value(invite, name).expect("an INVITE has it").to_owned();
    let branch = tag(ours.value("To")).to_owned() + &cseq.to_string() + method;
    request(
        contact(ours),
        &branch,
        &field("From"),
        ours.value("To"),
        &field("Call-ID"),
        &format!("{cseq} {method}"),
        lines_and_body,
    )
}

/// A request of the recipient within the dialog that its answer made.
pub fn within_b(forked: &Sent, to_tag: &str, method: &str, cseq: u32, lines_and_body: &str) -> String {
    request(
        contact(forked),
        &format!("bob{cseq}{method}{to_tag}"),
        &format!("{};tag={to_tag}", forked.value("To")),
        forked.value("From"),
        forked.value("Call-ID"),
        &format!("{cseq} {method}"),
        lines_and_body,
    )
}

fn request(uri: &str, branch: &str, from: &str, to: &str, call_id: &str, cseq: &str, rest: &str) -> String {
    let method = cseq.split(' ').next_back().expect("a method");
    let rest = if rest.contains("\r\n\r\n") { rest.to_owned() } else { format!("{rest}\r\n") };
    with_length(format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK{branch}\r\nMax-Forwards: 70\r\n\
         From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\nContact: <sip:peer@192.0.2.7:5060>\r\n{rest}"
    ))
}
