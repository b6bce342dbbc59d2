//! SIP dialogs as user agents keep them (RFC 3261 §12): a caller's, a callee's, and the requests inside.

use super::endpoint::{Endpoint, Sent, Transport};
use super::message::{Origin, Received, Request, parameter, token};
use std::net::SocketAddr;

/// One end of a dialog.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// The Call-ID.
    pub call_id: String,
    /// The own address with tag, as From in own requests.
    pub local: String,
    /// The other's address with tag.
    pub remote: String,
    /// The other's Contact URI.
    pub target: String,
    /// Routes of own requests.
    pub routes: Vec<String>,
    /// The last CSeq number of own requests.
    pub cseq: u32,
    /// How requests leave.
    pub transport: Transport,
    /// The own Contact value.
    pub contact: String,
}

impl Dialog {
    /// What an INVITE and a response to it with a To-tag make, at the caller.
    #[track_caller]
    pub fn caller(invite: &Request, response: &Received, transport: Transport) -> Self {
        let cseq = invite.value("CSeq").expect("the tests write one").split(' ').next().expect("a first word");
        let mut routes = response.values("Record-Route");
        routes.reverse();
        let remote = response.must("To");
        assert!(remote.contains(";tag="), "a dialog has tags on both sides: {remote}");
        Self {
            call_id: response.call_id(),
            local: invite.value("From").expect("the tests write one").to_owned(),
            remote,
            target: uri_in(&response.must("Contact")),
            routes,
            cseq: cseq.parse().expect("a number"),
            transport,
            contact: invite.value("Contact").unwrap_or_default().to_owned(),
        }
    }

    /// What an INVITE that arrived makes, at the callee who gave this tag.
    #[track_caller]
    pub fn callee(invite: &Received, tag: &str, contact: &str, transport: Transport) -> Self {
        Self {
            call_id: invite.call_id(),
            local: format!("{};tag={tag}", invite.must("To")),
            remote: invite.must("From"),
            target: uri_in(&invite.must("Contact")),
            routes: invite.values("Record-Route"),
            cseq: 100,
            transport,
            contact: contact.to_owned(),
        }
    }

    /// A further request.
    pub fn request(&mut self, method: &str) -> Request {
        self.cseq += 1;
        let cseq = self.cseq;
        let request = self.numbered(method, cseq);
        if matches!(method, "INVITE" | "UPDATE") { request.header("Contact", &self.contact) } else { request }
    }

    /// The ACK of a 2xx to the INVITE with this number.
    pub fn ack(&self, cseq: u32) -> Request {
        self.numbered("ACK", cseq)
    }

    fn numbered(&self, method: &str, cseq: u32) -> Request {
        let mut request = Request::new(method, &self.target).header("Max-Forwards", "70");
        for route in &self.routes {
            request = request.header("Route", route);
        }
        request
            .header("From", &self.local)
            .header("To", &self.remote)
            .header("Call-ID", &self.call_id)
            .header("CSeq", &format!("{cseq} {method}"))
    }

    /// Where a request goes: to the first route, else to the other's Contact.
    pub fn next_hop(&self) -> SocketAddr {
        let next = self.routes.first().map_or_else(|| self.target.clone(), |route| uri_in(route));
        address_in(&next)
    }

    /// True for a request of the other side in this dialog.
    pub fn owns(&self, request: &Received) -> bool {
        let tag = |value: &str| parameter(value, "tag");
        request.call_id() == self.call_id
            && request.header("From").and_then(|from| tag(&from)) == tag(&self.remote)
            && request.header("To").and_then(|to| tag(&to)) == tag(&self.local)
    }

    /// Sends a request of this dialog.
    pub fn send(&self, from: &mut Endpoint, request: &Request) -> Sent {
        from.send(request, self.transport, self.next_hop())
    }

    /// Sends a request and gets its final response. An INVITE's 2xx is acknowledged.
    #[track_caller]
    pub fn exchange(&self, from: &mut Endpoint, request: &Request) -> Received {
        let sent = self.send(from, request);
        let response = from.final_response(&sent);
        if request.method == "INVITE" && response.status().is_some_and(|status| status < 300) {
            self.send(from, &self.ack(self.cseq));
        }
        response
    }

    /// The next request with this method in this dialog; it must come.
    #[track_caller]
    pub fn expect(&self, at: &mut Endpoint, method: &str) -> Received {
        let request = at.wanted(method, |message| message.method() == Some(method) && self.owns(message));
        if let (true, Some(contact)) = (matches!(method, "INVITE" | "UPDATE"), request.header("Contact")) {
            assert_eq!(uri_in(&contact), self.target, "the other side stays where it is");
        }
        request
    }

    /// True when the request has come within `wait`.
    pub fn comes(&self, at: &mut Endpoint, method: &str, wait: std::time::Duration) -> bool {
        at.wanted_within(wait, |message| message.method() == Some(method) && self.owns(message)).is_some()
    }
}

impl Endpoint {
    /// The final response to a request; provisional ones before it are dropped. A failed INVITE is acknowledged.
    #[track_caller]
    pub fn final_response(&mut self, sent: &Sent) -> Received {
        let response = self.wanted("final response", |message| {
            message.status() >= Some(200) && message.branch() == sent.branch && belongs(message, sent)
        });
        if response.must("CSeq").ends_with(" INVITE") && response.status() >= Some(300) {
            self.acknowledge_failure(sent, &response);
        }
        self.drain(|message| message.status().is_some_and(|status| status < 200) && message.branch() == sent.branch);
        response
    }

    /// The next response with this status to a request.
    #[track_caller]
    pub fn response_with(&mut self, sent: &Sent, status: u16) -> Received {
        self.wanted(&format!("{status}"), |message| {
            message.status() == Some(status) && message.branch() == sent.branch && belongs(message, sent)
        })
    }

    /// ACKs a failed INVITE (RFC 3261 §17.1.1.3).
    pub fn acknowledge_failure(&mut self, sent: &Sent, response: &Received) {
        let invite = Received::read(sent.bytes.clone(), Origin::Tcp(0));
        let number = invite.must("CSeq").split(' ').next().expect("a first word").to_owned();
        let ack = Request::new("ACK", invite.uri().expect("a request"))
            .header("Via", &invite.values("Via")[0])
            .header("Max-Forwards", "70")
            .header("From", &invite.must("From"))
            .header("To", &response.must("To"))
            .header("Call-ID", &invite.call_id())
            .header("CSeq", &format!("{number} ACK"));
        self.send(&ack, sent.transport, sent.to);
    }

    /// Cancels an INVITE (RFC 3261 §9.1) and returns what left.
    pub fn cancel(&mut self, sent: &Sent) -> Sent {
        let invite = Received::read(sent.bytes.clone(), Origin::Tcp(0));
        let number = invite.must("CSeq").split(' ').next().expect("a first word").to_owned();
        let mut cancel = Request::new("CANCEL", invite.uri().expect("a request"))
            .header("Via", &invite.values("Via")[0])
            .header("Max-Forwards", "70");
        for route in invite.lines("Route") {
            cancel = cancel.header("Route", &route);
        }
        let cancel = cancel
            .header("From", &invite.must("From"))
            .header("To", &invite.must("To"))
            .header("Call-ID", &invite.call_id())
            .header("CSeq", &format!("{number} CANCEL"));
        self.send(&cancel, sent.transport, sent.to)
    }

    /// This endpoint's Contact value for a user.
    pub fn contact(&self, user: &str, transport: Transport) -> String {
        match transport {
            Transport::Udp => format!("<sip:{user}@{}>", self.addr()),
            Transport::Tcp => format!("<sip:{user}@{};transport=tcp>", self.addr()),
        }
    }
}

/// CANCEL shares its branch with the INVITE: the method in CSeq tells them apart.
fn belongs(response: &Received, sent: &Sent) -> bool {
    let end = sent.bytes.iter().position(|byte| *byte == b' ').unwrap_or(0);
    response.must("CSeq").as_bytes().ends_with(&sent.bytes[..end])
}

/// The URI in a name-addr or addr-spec.
pub fn uri_in(value: &str) -> String {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default().to_owned(),
        None => value.split(';').next().unwrap_or_default().to_owned(),
    }
}

/// The tag of a From or To value.
pub fn tag_of(value: &str) -> String {
    parameter(&format!("x;{}", value.rsplit('>').next().unwrap_or_default().trim_start_matches(';')), "tag")
        .unwrap_or_else(|| panic!("a tag in {value:?}"))
}

/// The address in a SIP URI that names one.
pub fn address_in(uri: &str) -> SocketAddr {
    let rest = uri.split_once(':').map_or("", |(_, rest)| rest);
    let host = rest.rsplit('@').next().unwrap_or_default().split([';', '?']).next().unwrap_or_default();
    host.parse().unwrap_or_else(|_| panic!("address and port in {uri:?}"))
}

/// A branch of one's own.
pub fn branch() -> String {
    format!("z9hG4bK{}", token("b"))
}
