//! Range-copy writer: a forwarded message is the received bytes with a few lines changed.
//!
//! Nothing is re-serialised that need not change: whole runs of header lines are copied in one piece.

use super::header::address::Address;
use super::header::list::{elements, find_outside, params, split_first, trim};
use super::header::via::Via;
use super::message::Message;
use super::scan::{Name, Start};
use super::transport::ViaStamp;
use std::io::Write;
use std::net::IpAddr;

/// How a request changes on its way through a proxy.
///
/// RFC 3261 §16.6.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forward<'a> {
    /// The value of the Via to put on top.
    pub via: &'a [u8],
    /// The former topmost Via, where it has been read already.
    pub top: Option<Via<'a>>,
    /// What the former topmost Via gains.
    pub stamp: ViaStamp,
    /// The new Max-Forwards.
    pub max_forwards: u32,
    /// Route values to take off the top.
    pub pop_routes: usize,
    /// A Route value to put on top of what remains.
    pub push_route: Option<&'a [u8]>,
    /// A Request-URI in place of the received one.
    pub request_uri: Option<&'a [u8]>,
    /// A Route value to put at the end (the Request-URI, towards a strict router).
    pub append_route: Option<&'a [u8]>,
    /// Whole header lines, CRLF included, to put at the end of the header section.
    pub extra: &'a [u8],
    /// Fields to leave out.
    pub drop: &'a [Name],
}

/// Writes a request as a proxy forwards it.
///
/// RFC 3261 §16.6.
pub fn forward_request(out: &mut Vec<u8>, message: &Message<'_>, edit: &Forward<'_>) {
    let Start::Request { method, uri } = message.scan.start else { return };
    let bytes = message.bytes;
    out.reserve(bytes.len() + edit.via.len() + edit.extra.len() + 256);
    out.extend_from_slice(method.of(bytes));
    out.push(b' ');
    out.extend_from_slice(edit.request_uri.unwrap_or(uri.of(bytes)));
    out.extend_from_slice(b" SIP/2.0\r\nVia: ");
    out.extend_from_slice(edit.via);
    out.extend_from_slice(b"\r\n");
    if let Some(route) = edit.push_route {
        line(out, "Route", route);
    }
    let mut copier = Copier::new(bytes);
    let mut via_seen = false;
    let mut hops_seen = false;
    let mut routes_left = edit.pop_routes;
    for field in &message.scan.fields {
        match field.name {
            Name::Via if !via_seen => {
                via_seen = true;
                if edit.stamp.is_empty() {
                    copier.keep(out, field.line.start, field.line.end);
                } else {
                    copier.flush(out);
                    let value = field.value.of(bytes);
                    let (first, rest) = split_first(value);
                    out.extend_from_slice(b"Via: ");
                    match edit.top.or_else(|| Via::parse(first)) {
                        Some(via) => write_stamped(out, &via, edit.stamp),
                        None => out.extend_from_slice(first),
                    }
                    if let Some(rest) = rest {
                        out.extend_from_slice(b", ");
                        out.extend_from_slice(rest);
                    }
                    out.extend_from_slice(b"\r\n");
                }
            }
            Name::MaxForwards => {
                hops_seen = true;
                copier.flush(out);
                number_line(out, "Max-Forwards: ", u64::from(edit.max_forwards));
            }
            Name::Route if routes_left > 0 => {
                copier.flush(out);
                let mut rest = Some(field.value.of(bytes));
                while routes_left > 0
                    && let Some(value) = rest
                {
                    let (first, tail) = split_first(value);
                    rest = tail;
                    routes_left -= usize::from(!first.is_empty());
                }
                if let Some(rest) = rest.filter(|rest| !trim(rest).is_empty()) {
                    line(out, "Route", rest);
                }
            }
            name if name != Name::Other && edit.drop.contains(&name) => {
                copier.flush(out);
            }
            _ => copier.keep(out, field.line.start, field.line.end),
        }
    }
    copier.flush(out);
    if !hops_seen {
        number_line(out, "Max-Forwards: ", u64::from(edit.max_forwards));
    }
    if let Some(route) = edit.append_route {
        line(out, "Route", route);
    }
    out.extend_from_slice(edit.extra);
    finish(out, message);
}

/// Writes a response as a proxy passes it back: without the topmost Via, otherwise unchanged.
///
/// `status` puts another status code and reason phrase in place of the received ones. RFC 3261 §16.7.
pub fn forward_response(out: &mut Vec<u8>, message: &Message<'_>, status: Option<(u16, &str)>) {
    let Start::Response { status: received, reason } = message.scan.start else { return };
    let bytes = message.bytes;
    out.reserve(bytes.len() + 64);
    match status {
        Some((code, phrase)) => {
            status_line(out, code, phrase);
        }
        None => {
            out.extend_from_slice(b"SIP/2.0 ");
            push_decimal(out, u64::from(received));
            out.push(b' ');
            out.extend_from_slice(reason.of(bytes));
            out.extend_from_slice(b"\r\n");
        }
    }
    let mut copier = Copier::new(bytes);
    let mut popped = false;
    for field in &message.scan.fields {
        if field.name == Name::Via && !popped {
            popped = true;
            copier.flush(out);
            if let (_, Some(rest)) = split_first(field.value.of(bytes)) {
                line(out, "Via", rest);
            }
        } else {
            copier.keep(out, field.line.start, field.line.end);
        }
    }
    copier.flush(out);
    finish(out, message);
}

/// What a response of our own says besides what it copies from the request.
///
/// RFC 3261 §8.2.6.
#[derive(Clone, Copy, Debug, Default)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: &'a str,
    /// The tag for To when the request has none.
    pub to_tag: &'a [u8],
    /// What the topmost Via gains.
    pub stamp: ViaStamp,
    /// Whole header lines, CRLF included.
    pub extra: &'a [u8],
}

/// Writes a response of our own to a request: Via, From, To with a tag, Call-ID and CSeq copied, no body.
///
/// RFC 3261 §8.2.6.
pub fn response(out: &mut Vec<u8>, request: &Message<'_>, response: &Response<'_>) {
    response_head(out, request, response);
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// Writes a response of our own that has a body.
///
/// RFC 3261 §8.2.6, §7.4.
pub fn response_with_body(
    out: &mut Vec<u8>,
    request: &Message<'_>,
    response: &Response<'_>,
    content_type: &str,
    body: &[u8],
) {
    response_head(out, request, response);
    line(out, "Content-Type", content_type.as_bytes());
    write_body(out, body);
}

/// Writes Content-Length, the empty line and the body.
///
/// RFC 3261 §7.4.
pub fn write_body(out: &mut Vec<u8>, body: &[u8]) {
    number_line(out, "Content-Length: ", body.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

fn response_head(out: &mut Vec<u8>, request: &Message<'_>, response: &Response<'_>) {
    let bytes = request.bytes;
    status_line(out, response.status, response.reason);
    let mut stamped = false;
    for field in request.scan.all(Name::Via) {
        let value = field.value.of(bytes);
        out.extend_from_slice(b"Via: ");
        if stamped || response.stamp.is_empty() {
            out.extend_from_slice(value);
        } else {
            let (first, rest) = split_first(value);
            match Via::parse(first) {
                Some(via) => write_stamped(out, &via, response.stamp),
                None => out.extend_from_slice(first),
            }
            if let Some(rest) = rest {
                out.extend_from_slice(b", ");
                out.extend_from_slice(rest);
            }
        }
        stamped = true;
        out.extend_from_slice(b"\r\n");
    }
    for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
        let Some(value) = request.value(name) else { continue };
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        if name == Name::To && !response.to_tag.is_empty() && super::header::address::tag(value).is_none() {
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(response.to_tag);
        }
        out.extend_from_slice(b"\r\n");
    }
    if response.status == 100
        && let Some(value) = request.value(Name::RecordedTimestamp)
    {
        line(out, "Timestamp", value);
    }
    out.extend_from_slice(response.extra);
}

/// A request as it came in, made of one that [`forward_request`] wrote: without the Via that it put on top.
///
/// RFC 3261 §16.6 step 8.
pub fn without_top_via(request: &[u8]) -> Vec<u8> {
    let start = memchr::memmem::find(request, b"\r\n").map_or(request.len(), |at| at + 2);
    let via = memchr::memmem::find(&request[start..], b"\r\n").map_or(request.len(), |at| start + at + 2);
    debug_assert!(request[start..via].starts_with(b"Via: "), "our Via is the first field");
    [&request[..start], &request[via..]].concat()
}

/// A request that came from a strict router, as a loose one would have sent it: its Request-URI becomes the first Route
/// value, and the last Route value becomes the Request-URI. `None` without a Route.
///
/// RFC 3261 §16.4.
pub fn loosened(message: &Message<'_>) -> Option<Vec<u8>> {
    let (bytes, Start::Request { method, uri }) = (message.bytes, message.scan.start) else { return None };
    let last = message.scan.all(Name::Route).last()?;
    let value = last.value.of(bytes);
    let target = elements(value).last()?;
    let request_uri = Address::parse(target)?.uri;
    let before = target.as_ptr() as usize - value.as_ptr() as usize;
    let first = message.scan.fields.first()?;
    let mut out = Vec::with_capacity(bytes.len() + 16);
    out.extend_from_slice(method.of(bytes));
    out.push(b' ');
    out.extend_from_slice(request_uri);
    out.extend_from_slice(b" SIP/2.0\r\nRoute: <");
    out.extend_from_slice(uri.of(bytes));
    out.extend_from_slice(b">\r\n");
    out.extend_from_slice(&bytes[first.line.start as usize..last.line.start as usize]);
    let kept = trim(&value[..before]);
    if let Some(kept) = kept.strip_suffix(b",") {
        line(&mut out, "Route", trim(kept));
    }
    out.extend_from_slice(&bytes[last.line.end as usize..]);
    Some(out)
}

/// Writes one header line.
///
/// RFC 3261 §7.3.
pub fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a Via value with `received` and `rport` as this hop saw them, whatever the sender claimed.
///
/// RFC 3261 §18.2.1, RFC 3581 §4.
fn write_stamped(out: &mut Vec<u8>, via: &Via<'_>, stamp: ViaStamp) {
    let text = via.text;
    let Some(semicolon) = find_outside(text, b';') else {
        out.extend_from_slice(text);
        write_stamp(out, stamp);
        return;
    };
    out.extend_from_slice(trim(&text[..semicolon]));
    for param in params(&text[semicolon..]) {
        if param.is("received") || param.is("rport") {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(param.name);
        if let Some(value) = param.value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    write_stamp(out, stamp);
}

fn write_stamp(out: &mut Vec<u8>, stamp: ViaStamp) {
    if let Some(received) = stamp.received {
        out.extend_from_slice(b";received=");
        match received {
            IpAddr::V4(ip) => {
                for (index, octet) in ip.octets().into_iter().enumerate() {
                    if index > 0 {
                        out.push(b'.');
                    }
                    push_decimal(out, u64::from(octet));
                }
            }
            IpAddr::V6(ip) => {
                let _ = write!(out, "{ip}");
            }
        }
    }
    if let Some(rport) = stamp.rport {
        out.extend_from_slice(b";rport=");
        push_decimal(out, u64::from(rport));
    }
}

fn status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    out.extend_from_slice(b"SIP/2.0 ");
    push_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes a header line of a number; `label` holds the name, the colon and the blank.
///
/// RFC 3261 §7.3.
pub fn number_line(out: &mut Vec<u8>, label: &str, number: u64) {
    out.extend_from_slice(label.as_bytes());
    push_decimal(out, number);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number without the formatting machinery, which costs more than the rest of a line.
///
/// RFC 3261 §25.1 (`DIGIT`).
pub fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The empty line and the body; on a message without Content-Length, that too (RFC 3261 §18.3 wants it on streams).
fn finish(out: &mut Vec<u8>, message: &Message<'_>) {
    if !message.scan.has_content_length() {
        number_line(out, "Content-Length: ", message.body().len() as u64);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(message.body());
}

/// Gathers neighbouring lines so that they are copied in one piece.
struct Copier<'a> {
    bytes: &'a [u8],
    run: Option<(u32, u32)>,
}

impl<'a> Copier<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, run: None }
    }

    fn keep(&mut self, out: &mut Vec<u8>, start: u32, end: u32) {
        match &mut self.run {
            Some((_, run_end)) if *run_end == start => *run_end = end,
            _ => {
                self.flush(out);
                self.run = Some((start, end));
            }
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        if let Some((start, end)) = self.run.take() {
            let text = &self.bytes[start as usize..end as usize];
            out.extend_from_slice(text);
            // A last line that the datagram cut off is still one line.
            if !text.ends_with(b"\n") {
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::Scan;

    const REQUEST: &str = "MESSAGE sip:bob@b SIP/2.0\r\nVia: SIP/2.0/UDP a:5;branch=z9hG4bK1;rport, SIP/2.0/UDP c\r\n\
        Route: <sip:term@pf;lr>, <sip:x@scscf;lr>\r\nRoute: <sip:y;lr>\r\nMax-Forwards: 70\r\nX-Any: kept,  as is\r\n\
        From: <sip:a@a>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\nContent-Length: 2\r\n\r\nhi";

    fn forwarded(edit: &Forward<'_>) -> String {
        let mut scan = Scan::default();
        scan.scan(REQUEST.as_bytes()).unwrap();
        let mut out = Vec::new();
        forward_request(&mut out, &Message { bytes: REQUEST.as_bytes(), scan: &scan }, edit);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_forwarded_request_changes_only_what_a_proxy_changes() {
        let stamp = ViaStamp { received: Some("192.0.2.1".parse().unwrap()), rport: Some(9) };
        let edit = Forward {
            via: b"SIP/2.0/UDP pf;branch=z9hG4bK2",
            stamp,
            max_forwards: 69,
            pop_routes: 1,
            ..Forward::default()
        };
        assert_eq!(
            forwarded(&edit),
            "MESSAGE sip:bob@b SIP/2.0\r\nVia: SIP/2.0/UDP pf;branch=z9hG4bK2\r\n\
             Via: SIP/2.0/UDP a:5;branch=z9hG4bK1;received=192.0.2.1;rport=9, SIP/2.0/UDP c\r\n\
             Route: <sip:x@scscf;lr>\r\nRoute: <sip:y;lr>\r\nMax-Forwards: 69\r\nX-Any: kept,  as is\r\n\
             From: <sip:a@a>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\nContent-Length: 2\r\n\r\nhi"
        );
    }

    #[test]
    fn routes_pop_across_fields_and_extras_come_last() {
        let edit = Forward {
            via: b"v",
            max_forwards: 1,
            pop_routes: 2,
            push_route: Some(b"<sip:isf;lr>"),
            extra: b"Accept-Contact: *\r\n",
            drop: &[Name::CSeq],
            ..Forward::default()
        };
        let text = forwarded(&edit);
        assert!(text.contains("Via: v\r\nRoute: <sip:isf;lr>\r\nVia: "), "{text}");
        assert!(!text.contains("CSeq"), "{text}");
        assert!(!text.contains("scscf") && text.contains("Route: <sip:y;lr>\r\n"), "{text}");
        assert!(text.contains("Content-Length: 2\r\nAccept-Contact: *\r\n\r\nhi"), "{text}");
    }

    #[test]
    fn a_strictly_routed_request_becomes_a_loosely_routed_one() {
        let text = |start: &str, routes: &str| {
            format!("MESSAGE {start} SIP/2.0\r\n{routes}Via: v\r\nX: \t folded\r\n  value\r\n\r\nbody")
        };
        let loosened = |request: &str| {
            let mut scan = Scan::default();
            scan.scan(request.as_bytes()).unwrap();
            super::loosened(&Message { bytes: request.as_bytes(), scan: &scan })
                .map(|bytes| String::from_utf8(bytes).unwrap())
        };
        for routes in [
            "Route: <sip:x;lr>, <sip:y;lr> , \"B, o\" <sip:bob@h;p>;q\r\n",
            "Route: <sip:x;lr>, <sip:y;lr>\r\nRoute: <sip:bob@h;p>\r\n",
        ] {
            let expected = text("sip:bob@h;p", "Route: <sip:pf;lr>\r\nRoute: <sip:x;lr>, <sip:y;lr>\r\n");
            assert_eq!(loosened(&text("sip:pf;lr", routes)).as_deref(), Some(expected.as_str()));
        }
        assert_eq!(loosened(&text("sip:pf", "")), None);
        assert_eq!(loosened(&text("sip:pf", "Route: nothing\r\n")), None);
    }

    #[test]
    fn a_response_loses_its_topmost_via_even_inside_a_list() {
        let text = "SIP/2.0 200 Fine indeed\r\nv: SIP/2.0/UDP pf;branch=1 , SIP/2.0/UDP a;branch=2\r\nVia: SIP/2.0/UDP b\r\n\
                    To: x\r\n\r\nbody";
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        forward_response(&mut out, &Message { bytes: text.as_bytes(), scan: &scan }, None);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "SIP/2.0 200 Fine indeed\r\nVia: SIP/2.0/UDP a;branch=2\r\nVia: SIP/2.0/UDP b\r\nTo: x\r\n\
             Content-Length: 4\r\n\r\nbody"
        );
    }

    #[test]
    fn our_own_responses_copy_what_they_must() {
        let mut scan = Scan::default();
        scan.scan(REQUEST.as_bytes()).unwrap();
        let mut out = Vec::new();
        let ours =
            Response { status: 403, reason: "Forbidden", to_tag: b"t", extra: b"Server: s\r\n", ..Response::default() };
        response(&mut out, &Message { bytes: REQUEST.as_bytes(), scan: &scan }, &ours);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "SIP/2.0 403 Forbidden\r\nVia: SIP/2.0/UDP a:5;branch=z9hG4bK1;rport, SIP/2.0/UDP c\r\nFrom: <sip:a@a>;tag=1\r\n\
             To: <sip:b@b>;tag=t\r\nCall-ID: 1\r\nCSeq: 1 MESSAGE\r\nServer: s\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
