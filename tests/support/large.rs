//! Large message mode on the usual stage: Alice calls, the core's device answers, both speak MSRP with the appliance.

use super::dialog::{Dialog, tag_of};
use super::documents::*;
use super::endpoint::{Sent, Transport};
use super::eventually;
use super::message::{Received, Request, token};
use super::msrp::Peer;
use super::sdp::{Media, Sdp};
use super::world::World;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

/// The large message mode service in plain form.
pub const ICSI_LARGE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg";
/// The Accept-Contact value of a large message.
pub const ACCEPT_CONTACT_LARGE: &str = "*;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg\"";
/// The type of every large message.
pub const CPIM: &str = "message/cpim";

/// An INVITE in large message mode with this offer, without Contact.
pub fn invite_bare(from: &str, to: &str, offer: &str) -> Request {
    Request::between("INVITE", from, to)
        .header("P-Asserted-Identity", &format!("<{from}>"))
        .header("P-Asserted-Service", ICSI_LARGE)
        .header("Accept-Contact", ACCEPT_CONTACT_LARGE)
        .header("Conversation-ID", &token("conv"))
        .header("Contribution-ID", &token("contr"))
        .header("Date", &date(SystemTime::now()))
        .header("User-Agent", "CPM-client/OMA2.2 RCS-client/UP_2.4")
        .header("Allow", "INVITE, ACK, CANCEL, BYE, UPDATE, OPTIONS, MESSAGE")
        .header("Supported", "timer")
        .body("application/sdp", offer)
}

/// A CPIM message with this many bytes of content that does not repeat soon, and with decoys of end-lines in it.
pub fn large_cpim(content_len: usize) -> Vec<u8> {
    let head = cpim(ALICE, BOB, &token("imdn"), "positive-delivery", "application/octet-stream", BODY_MARK);
    let mut bytes = head.into_bytes();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ content_len as u64;
    let head_len = bytes.len();
    while bytes.len() < head_len + content_len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
        if state.is_multiple_of(509) {
            bytes.extend_from_slice(b"\r\n-------a1b2c3d4$\r\n\r\n-------");
        }
    }
    bytes.truncate(head_len + content_len);
    bytes
}

/// The lower-case hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the parties of a call behave.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Alice's `a=setup`.
    pub offer_setup: Option<&'static str>,
    /// The device's `a=setup`.
    pub answer_setup: Option<&'static str>,
    /// Where Alice's MSRP is.
    pub a_ip: IpAddr,
    /// Where the device's MSRP is.
    pub b_ip: IpAddr,
    /// Alice's `a=max-size`.
    pub a_max_size: Option<u64>,
    /// The device's `a=max-size`.
    pub b_max_size: Option<u64>,
    /// The appliance runs with `path_mode = "replace"`.
    pub replace: bool,
    /// Further headers of Alice's INVITE.
    pub headers: Vec<(String, String)>,
    /// Further headers of the device's 200.
    pub answer_headers: Vec<(String, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            offer_setup: Some("actpass"),
            answer_setup: Some("active"),
            a_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            b_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            a_max_size: None,
            b_max_size: None,
            replace: false,
            headers: Vec::new(),
            answer_headers: Vec::new(),
        }
    }
}

impl Plan {
    /// Alice is passive, the device too: the appliance connects to both.
    pub fn both_passive() -> Self {
        Self { offer_setup: Some("passive"), answer_setup: Some("passive"), ..Self::default() }
    }

    /// A further header of Alice's INVITE.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A further header of the device's 200.
    pub fn answer_header(mut self, name: &str, value: &str) -> Self {
        self.answer_headers.push((name.into(), value.into()));
        self
    }
}

/// One call from Alice through the appliance to a device. Its methods are its steps.
pub struct Call {
    /// How the parties behave.
    pub plan: Plan,
    /// Alice's MSRP.
    pub a: Peer,
    /// The device's MSRP.
    pub b: Peer,
    /// Alice's INVITE.
    pub request: Request,
    /// The same as it left.
    pub sent: Sent,
    /// The INVITE that the core got.
    pub b_invite: Received,
    /// The offer in it.
    pub b_offer: Sdp,
    /// The device's tag.
    pub b_tag: String,
    /// What Alice got.
    pub a_ok: Option<Received>,
    /// The answer in it.
    pub a_answer: Option<Sdp>,
    /// Alice's dialog.
    pub a_dialog: Option<Dialog>,
    /// The device's dialog.
    pub b_dialog: Option<Dialog>,
}

impl Call {
    /// Alice's INVITE for Bob leaves, and the core gets one.
    #[track_caller]
    pub fn start(world: &mut World, plan: &Plan) -> Self {
        Self::start_to(world, plan, BOB)
    }

    /// The same for somebody else.
    #[track_caller]
    pub fn start_to(world: &mut World, plan: &Plan, to: &str) -> Self {
        let a = Peer::on(plan.a_ip).expect("checked before");
        Self::start_with(world, plan, to, a)
    }

    /// The same with an MSRP endpoint that exists already.
    #[track_caller]
    pub fn start_with(world: &mut World, plan: &Plan, to: &str, a: Peer) -> Self {
        let offer = Media { setup: plan.offer_setup, max_size: plan.a_max_size, ..Media::offer(&a) };
        let request = world.invite(to, &offer.text(), &plan.headers);
        let sent = world.send(&request);
        Self::arrived(world, plan, a, request, sent)
    }

    /// The core gets the INVITE of a request that left.
    #[track_caller]
    pub fn arrived(world: &mut World, plan: &Plan, a: Peer, request: Request, sent: Sent) -> Self {
        let b_invite = world.forwarded_invite(&sent);
        let b_offer = sdp_of(&b_invite);
        let mut b = Peer::on(plan.b_ip).expect("checked before");
        b.remote_path = b_offer.must("path");
        Self {
            plan: plan.clone(),
            a,
            b,
            request,
            sent,
            b_invite,
            b_offer,
            b_tag: token("bt"),
            a_ok: None,
            a_answer: None,
            a_dialog: None,
            b_dialog: None,
        }
    }

    /// All steps: the session is up and both connections are bound.
    #[track_caller]
    pub fn establish(world: &mut World, plan: &Plan) -> Self {
        let mut call = Self::connected(world, plan);
        call.join();
        call
    }

    /// The SIP steps: both dialogs are confirmed.
    #[track_caller]
    pub fn connected(world: &mut World, plan: &Plan) -> Self {
        let mut call = Self::start(world, plan);
        call.answer(world);
        call.acknowledge(world);
        call
    }

    /// The device's Contact value.
    pub fn b_contact(&self, world: &World) -> String {
        world.core.contact("bob-device", world.transport)
    }

    /// The description that the device answers with.
    pub fn b_answer(&self) -> Media {
        Media { setup: self.plan.answer_setup, max_size: self.plan.b_max_size, ..Media::answer(&self.b) }
    }

    /// The device answers provisionally.
    pub fn ring(&mut self, world: &mut World, status: u16) {
        let contact = self.b_contact(world);
        world.core.answer_as(&self.b_invite, status, &self.b_tag, &[("Contact", &contact)], None);
    }

    /// The device answers 200.
    pub fn answer_alone(&mut self, world: &mut World) {
        let text = self.b_answer().text();
        self.answer_text(world, &text);
    }

    /// The device answers 200 with this description.
    pub fn answer_text(&mut self, world: &mut World, text: &str) {
        let contact = self.b_contact(world);
        let mut headers = vec![("Contact", contact.as_str()), ("Server", "CPM-client/OMA2.2")];
        headers.extend(self.plan.answer_headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let body = Some(("application/sdp", text.as_bytes()));
        world.core.answer_as(&self.b_invite, 200, &self.b_tag, &headers, body);
        self.b_dialog = Some(Dialog::callee(&self.b_invite, &self.b_tag, &contact, world.transport));
        if let Some((_, routes)) = self.plan.answer_headers.iter().find(|(name, _)| name == "Record-Route") {
            self.b_dialog().routes = super::message::split_list(routes);
        }
    }

    /// The device answers 200, and Alice gets it.
    #[track_caller]
    pub fn answer(&mut self, world: &mut World) {
        self.answer_alone(world);
        self.answered(world);
    }

    /// Alice gets her 200.
    #[track_caller]
    pub fn answered(&mut self, world: &mut World) {
        let ok = world.alice.final_response(&self.sent);
        assert_eq!(ok.status(), Some(200), "{ok:?}");
        let answer = Sdp::read(ok.body());
        self.a.remote_path = answer.must("path");
        self.a_dialog = Some(Dialog::caller(&self.request, &ok, world.transport));
        self.a_answer = Some(answer);
        self.a_ok = Some(ok);
    }

    /// Alice acknowledges, and the device gets an ACK.
    #[track_caller]
    pub fn acknowledge(&mut self, world: &mut World) {
        self.acknowledge_alone(world);
        self.b_acknowledged(world);
    }

    /// Alice acknowledges.
    pub fn acknowledge_alone(&mut self, world: &mut World) {
        let dialog = self.a_dialog();
        let ack = dialog.ack(dialog.cseq);
        dialog.clone().send(&mut world.alice, &ack);
    }

    /// The device gets its ACK, with the number of its INVITE.
    #[track_caller]
    pub fn b_acknowledged(&mut self, world: &mut World) -> Received {
        let ack = self.b_dialog().clone().expect(&mut world.core, "ACK");
        let number = |value: String| value.split(' ').next().map(str::to_owned);
        assert_eq!(number(ack.must("CSeq")), number(self.b_invite.must("CSeq")), "{ack:?}");
        // Repeats of the 200 that crossed the ACK are over with it.
        let branch = self.sent.branch.clone();
        world.alice.drain(|message| message.status() == Some(200) && message.branch() == branch);
        ack
    }

    /// Alice's dialog, once answered.
    pub fn a_dialog(&mut self) -> &mut Dialog {
        self.a_dialog.as_mut().expect("answered before")
    }

    /// The device's dialog, once answered.
    pub fn b_dialog(&mut self) -> &mut Dialog {
        self.b_dialog.as_mut().expect("answered before")
    }

    /// What Alice was answered.
    pub fn a_answer(&self) -> &Sdp {
        self.a_answer.as_ref().expect("answered before")
    }

    /// True where Alice connects (SPEC §4.5).
    pub fn a_connects(&self) -> bool {
        self.plan.offer_setup != Some("passive")
    }

    /// True where the device connects.
    pub fn b_connects(&self) -> bool {
        self.plan.answer_setup == Some("active")
    }

    /// Both MSRP connections come up, each opened by whose turn it is, and are bound.
    #[track_caller]
    pub fn join(&mut self) {
        self.join_b();
        self.join_a();
    }

    /// Alice's MSRP connection.
    #[track_caller]
    pub fn join_a(&mut self) {
        if self.a_connects() {
            self.a.connect();
            self.a.bind();
        } else {
            self.a.accept();
            self.a.bound();
        }
    }

    /// The device's MSRP connection.
    #[track_caller]
    pub fn join_b(&mut self) {
        if self.b_connects() {
            self.b.connect();
            self.b.bind();
        } else {
            self.b.accept();
            let binding = self.b.bound();
            assert_eq!(binding.must("To-Path"), self.b.uri, "{binding:?}");
            assert_eq!(binding.must("From-Path"), self.b.remote_path, "the whole path that SDP gave (SPEC §8)");
        }
    }

    /// Alice sends a message in chunks and the device answers each; what arrived.
    #[track_caller]
    pub fn transfer(&mut self, body: &[u8], chunk_len: usize, window: usize) -> super::msrp::Assembled {
        let message_id = token("m");
        let (a, b) = (&mut self.a, &mut self.b);
        let (statuses, whole) = std::thread::scope(|scope| {
            let receiver = scope.spawn(move || b.receive_message());
            let statuses = a.send_message(&message_id, CPIM, body, chunk_len, window);
            (statuses, receiver.join().expect("the receiver saw what it should"))
        });
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        assert_eq!(whole.message_id, message_id);
        assert_eq!(whole.content_type, CPIM);
        assert_eq!(whole.flag, '$');
        assert_eq!(whole.total, Some(body.len() as u64));
        assert_eq!(whole.bytes.len(), body.len());
        if body.len() <= 2 << 20 {
            assert_eq!(sha256(&whole.bytes), sha256(body), "the body arrives as it was");
        } else {
            // Unoptimised hashing takes longer than the transfer.
            assert!(whole.bytes == body, "the body arrives as it was");
        }
        whole
    }

    /// A short message passes, which shows that the session still works.
    #[track_caller]
    pub fn assert_works(&mut self) {
        let body = large_cpim(300);
        self.transfer(&body, body.len(), 1);
    }

    /// Alice hangs up: she gets a 200 and the device gets a BYE, which it answers.
    #[track_caller]
    pub fn hang_up(&mut self, world: &mut World) {
        let bye = self.a_dialog().request("BYE");
        let sent = self.a_dialog().clone().send(&mut world.alice, &bye);
        self.assert_b_ends(world);
        let response = world.alice.final_response(&sent);
        assert_eq!(response.status(), Some(200), "{response:?}");
    }

    /// The device gets a BYE and answers it.
    #[track_caller]
    pub fn assert_b_ends(&mut self, world: &mut World) -> Received {
        let bye = self.b_dialog().clone().expect(&mut world.core, "BYE");
        world.core.answer(&bye, 200);
        bye
    }

    /// Alice gets a BYE and answers it.
    #[track_caller]
    pub fn assert_a_ends(&mut self, world: &mut World) -> Received {
        let bye = self.a_dialog().clone().expect(&mut world.alice, "BYE");
        world.alice.answer(&bye, 200);
        bye
    }
}

/// The description in an INVITE, alone or as a part of a multipart body.
#[track_caller]
pub fn sdp_of(message: &Received) -> Sdp {
    let content_type = message.must("Content-Type");
    if content_type.starts_with("application/sdp") {
        return Sdp::read(message.body());
    }
    let (_, sdp) =
        parts_of(message).into_iter().find(|(head, _)| head.contains("application/sdp")).expect("a part with SDP");
    Sdp::read(&sdp)
}

/// The parts of a multipart body: header lines and content.
#[track_caller]
pub fn parts_of(message: &Received) -> Vec<(String, Vec<u8>)> {
    let content_type = message.must("Content-Type");
    let (_, boundary) =
        content_type.split_once("boundary=").unwrap_or_else(|| panic!("a boundary in {content_type:?}"));
    let boundary = boundary.split(';').next().unwrap_or_default().trim().trim_matches('"');
    let body = [b"\r\n", message.body()].concat();
    let delimiter = format!("\r\n--{boundary}");
    let mut starts: Vec<usize> = memchr::memmem::find_iter(&body, delimiter.as_bytes()).collect();
    let last = starts.pop().expect("a last delimiter");
    assert!(body[last + delimiter.len()..].starts_with(b"--"), "the last delimiter ends with dashes");
    let ends = starts[1..].iter().copied().chain([last]);
    let cut = |(start, end): (usize, usize)| {
        let part = &body[start + delimiter.len() + 2..end];
        let head_len = memchr::memmem::find(part, b"\r\n\r\n").expect("a part has a head");
        (String::from_utf8_lossy(&part[..head_len]).into_owned(), part[head_len + 4..].to_vec())
    };
    starts.iter().copied().zip(ends).map(cut).collect()
}

/// The gauges that must return to zero.
pub const GAUGES: [&str; 3] = ["ringpost_large_sessions", "ringpost_msrp_sessions", "ringpost_msrp_connections"];

impl World {
    /// A stage where Bob has one device.
    pub fn with_bob(variant: super::world::Variant) -> Self {
        Self::with_bob_and(variant, |config| config)
    }

    /// The same with some settings changed.
    pub fn with_bob_and(
        variant: super::world::Variant,
        change: impl FnOnce(super::appliance::Config) -> super::appliance::Config,
    ) -> Self {
        let mut world = Self::with(variant, change);
        world.register(BOB, &[Device::new()]);
        world
    }

    /// Alice's INVITE for somebody, with her Contact.
    pub fn invite(&self, to: &str, offer: &str, headers: &[(String, String)]) -> Request {
        let mut request = invite_bare(ALICE, to, offer).header("Contact", &self.alice.contact("alice", self.transport));
        for (name, value) in headers {
            request = request.replace(name, value);
        }
        request
    }

    /// Alice's INVITE is refused with this status, and nobody else hears of it.
    #[track_caller]
    pub fn assert_invite_refused(&mut self, request: &Request, status: u16) -> Received {
        let sent = self.send(request);
        let response = self.alice.final_response(&sent);
        assert_eq!(response.status(), Some(status), "{response:?}");
        assert!(!tag_of(&response.must("To")).is_empty());
        assert!(response.must("Server").starts_with("CPM-serv/OMA1.0 "), "{response:?}");
        self.assert_nothing_forwarded();
        response
    }

    /// The INVITE that the core gets for one of Alice's; a refusal ends the wait.
    #[track_caller]
    pub fn forwarded_invite(&mut self, sent: &Sent) -> Received {
        let deadline = std::time::Instant::now() + super::DEADLINE;
        loop {
            let step = std::time::Duration::from_millis(20);
            if let Some(invite) = self.core.wanted_within(step, |message| message.method() == Some("INVITE")) {
                return invite;
            }
            let refusal = self.alice.drain(|message| message.status() >= Some(300) && message.branch() == sent.branch);
            assert!(refusal.is_empty(), "Alice's INVITE is refused: {refusal:?}");
            assert!(std::time::Instant::now() < deadline, "no INVITE reaches the core");
        }
    }

    /// A gauge, which must have a row.
    pub fn gauge(&self, series: &str) -> u64 {
        let text = self.appliance.http("GET", "/metrics", &[], b"").text();
        let exists =
            text.lines().any(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(['{', ' '])));
        assert!(exists, "{series} stands in /metrics");
        super::appliance::sum_metric(&text, series, &[])
    }

    /// Everything that a call occupied is free again.
    #[track_caller]
    pub fn assert_all_released(&self) {
        for series in GAUGES {
            let mut last = 0;
            eventually_or(|| {
                last = self.gauge(series);
                (last == 0).then_some(())
            })
            .unwrap_or_else(|| panic!("{series} returns to 0, and stands at {last}"));
        }
    }

    /// True over TCP, where a transaction ends with its last response and nobody waits for repeats.
    pub fn is_tcp(&self) -> bool {
        self.transport == Transport::Tcp
    }
}

fn eventually_or<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    // UDP's server transactions live for 64·T1 = 32 s behind their response.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(40);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if std::time::Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A message's row in an admin list, once it stands there.
#[track_caller]
pub fn listed(world: &World, user: &str, resource: &str) -> serde_json::Value {
    eventually(resource, || {
        let list = world.appliance.http("GET", &format!("/admin/users/{user}{resource}"), &[], b"");
        if list.status != 200 {
            return None;
        }
        list.json().as_array().and_then(|rows| rows.first().cloned())
    })
}

/// A call that the appliance answers itself, to take the message.
pub struct Spooled {
    /// Alice's MSRP.
    pub a: Peer,
    /// What she was answered.
    pub answer: Sdp,
    /// Her dialog.
    pub dialog: Dialog,
    /// Her INVITE.
    pub request: Request,
}

impl Spooled {
    /// Alice calls, the appliance answers, the connection is bound. The core hears nothing.
    #[track_caller]
    pub fn establish(world: &mut World, plan: &Plan) -> (Self, Received) {
        let mut a = Peer::on(plan.a_ip).expect("checked before");
        let offer = Media { setup: plan.offer_setup, max_size: plan.a_max_size, ..Media::offer(&a) };
        let request = world.invite(BOB, &offer.text(), &plan.headers);
        let sent = world.send(&request);
        let ok = world.alice.final_response(&sent);
        assert_eq!(ok.status(), Some(200), "{ok:?}");
        let answer = Sdp::read(ok.body());
        a.remote_path = answer.must("path");
        let dialog = Dialog::caller(&request, &ok, world.transport);
        dialog.send(&mut world.alice, &dialog.ack(dialog.cseq));
        if plan.offer_setup == Some("passive") {
            a.accept();
            a.bound();
        } else {
            a.connect();
            a.bind();
        }
        world.core.assert_silent();
        (Self { a, answer, dialog, request }, ok)
    }

    /// Alice hangs up.
    #[track_caller]
    pub fn hang_up(&mut self, world: &mut World) {
        let bye = self.dialog.request("BYE");
        let response = self.dialog.exchange(&mut world.alice, &bye);
        assert_eq!(response.status(), Some(200), "{response:?}");
    }
}

/// A call from the appliance to a device, with a message that was deferred.
pub struct Delivery {
    /// The INVITE.
    pub invite: Received,
    /// The offer in it.
    pub offer: Sdp,
    /// The device's MSRP.
    pub b: Peer,
    /// The device's dialog.
    pub dialog: Dialog,
}

impl Delivery {
    /// The INVITE arrives, is answered and acknowledged, and the connection is bound.
    #[track_caller]
    pub fn accept(world: &mut World, setup: Option<&'static str>) -> Self {
        let invite = world.core.wanted("INVITE", |message| message.method() == Some("INVITE"));
        Self::answer(world, invite, setup)
    }

    /// The same for an INVITE that came already.
    #[track_caller]
    pub fn answer(world: &mut World, invite: Received, setup: Option<&'static str>) -> Self {
        let offer = Sdp::read(invite.body());
        let mut b = Peer::new();
        b.remote_path = offer.must("path");
        let tag = token("bt");
        let contact = world.core.contact("bob-device", world.transport);
        let text = Media { setup, ..Media::answer(&b) }.text();
        world.core.answer_as(&invite, 200, &tag, &[("Contact", &contact)], Some(("application/sdp", text.as_bytes())));
        let dialog = Dialog::callee(&invite, &tag, &contact, world.transport);
        dialog.expect(&mut world.core, "ACK");
        if setup == Some("active") {
            b.connect();
            b.bind();
        } else {
            b.accept();
            b.bound();
        }
        Self { invite, offer, b, dialog }
    }

    /// The message arrives; every chunk is answered.
    #[track_caller]
    pub fn receive(&mut self, world: &mut World) -> super::msrp::Assembled {
        let whole = self.b.receive_message();
        assert_eq!(whole.content_type, CPIM);
        assert_eq!(whole.flag, '$');
        assert!(world.appliance.is_running());
        whole
    }

    /// The appliance hangs up.
    #[track_caller]
    pub fn assert_ends(&mut self, world: &mut World) {
        let bye = self.dialog.expect(&mut world.core, "BYE");
        world.core.answer(&bye, 200);
    }
}

impl Spooled {
    /// The same as [`Spooled::establish`], with the INVITE that left.
    #[track_caller]
    pub fn establish_full(world: &mut World, plan: &Plan) -> (Self, Request) {
        let (spooled, _) = Self::establish(world, plan);
        let request = spooled.request.clone();
        (spooled, request)
    }
}
