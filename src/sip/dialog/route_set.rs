//! The route set of a dialog: proxies that asked to stay on the way. RFC 3261 §12.1, §12.2.1.1, §16.12.1.

use super::id::DialogFault;
use crate::base::limits::ROUTE_COUNT_MAX;
use crate::sip::header::address::Address;
use crate::sip::header::list::{elements, split_first};
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::uri::{Scheme, Uri};

/// In which order Record-Route becomes Route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// As it stands in a request: we are the server.
    AsReceived,
    /// From behind, as it stands in a response: we are the client.
    Reversed,
}

/// The routes of a dialog, as one value of a Route field; empty without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteSet<'a> {
    text: &'a [u8],
}

impl<'a> RouteSet<'a> {
    /// A route set from what [`RouteSet::collect`] wrote.
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { text }
    }

    /// Writes the Record-Route values of a message as one Route value.
    ///
    /// RFC 3261 §12.1.1, §12.1.2.
    pub fn collect(out: &mut Vec<u8>, message: &Message<'_>, order: Order) -> Result<(), DialogFault> {
        let mut routes = [&[][..]; ROUTE_COUNT_MAX];
        let mut count = 0;
        for element in message.elements(Name::RecordRoute) {
            // Without brackets the parameters of the URI would become those of the field (RFC 3261 §20.34).
            let uri =
                if is_bracketed(element) { Address::parse(element).map(|address| address.uri) } else { Some(element) };
            let uri = uri.filter(|_| is_closed(element));
            if !matches!(uri.map(Uri::parse), Some(Ok(Uri { scheme: Scheme::Sip | Scheme::Sips, .. }))) {
                return Err(DialogFault::RecordRoute);
            }
            *routes.get_mut(count).ok_or(DialogFault::TooLarge)? = element;
            count += 1;
        }
        let routes = &mut routes[..count];
        if order == Order::Reversed {
            routes.reverse();
        }
        for (index, route) in routes.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b", ");
            }
            if is_bracketed(route) {
                push_unfolded(out, route);
            } else {
                out.push(b'<');
                push_unfolded(out, route);
                out.push(b'>');
            }
        }
        Ok(())
    }

    /// The values, in order.
    ///
    /// RFC 3261 §20.34.
    pub fn values(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        elements(self.text)
    }

    /// The URI of the first route.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn first(&self) -> Option<&'a [u8]> {
        Address::parse(self.values().next()?).map(|address| address.uri)
    }

    /// True when the first route is an element of RFC 2543, which wants itself in the Request-URI.
    ///
    /// RFC 3261 §12.2.1.1, §19.1.1.
    pub fn is_strict(&self) -> bool {
        self.first().and_then(|uri| Uri::parse(uri).ok()).is_some_and(|uri| !uri.is_loose_route())
    }

    /// Where a request towards `target` goes first.
    ///
    /// RFC 3261 §8.1.2, §12.2.1.1.
    pub fn next_hop(&self, target: &'a [u8]) -> &'a [u8] {
        self.first().unwrap_or(target)
    }

    /// Writes the Request-URI of a request towards `target`.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn write_request_uri(&self, out: &mut Vec<u8>, target: &[u8]) {
        self.write_request_uri_by(self.is_strict(), out, target);
    }

    /// The same when it is known what kind the first route is of.
    pub(super) fn write_request_uri_by(&self, is_strict: bool, out: &mut Vec<u8>, target: &[u8]) {
        match is_strict.then(|| self.first()).flatten() {
            Some(first) => push_request_uri(out, first),
            None => push_request_uri(out, target),
        }
    }

    /// Writes the Route line of a request towards `target`, if there is to be one.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn write_route(&self, out: &mut Vec<u8>, target: &[u8]) {
        self.write_route_by(self.is_strict(), out, target);
    }

    /// The same when it is known what kind the first route is of.
    pub(super) fn write_route_by(&self, is_strict: bool, out: &mut Vec<u8>, target: &[u8]) {
        if self.text.is_empty() {
            return;
        }
        out.extend_from_slice(b"Route: ");
        if is_strict {
            if let (_, Some(rest)) = split_first(self.text) {
                out.extend_from_slice(rest);
                out.extend_from_slice(b", ");
            }
            out.push(b'<');
            out.extend_from_slice(target);
            out.push(b'>');
        } else {
            out.extend_from_slice(self.text);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn is_bracketed(element: &[u8]) -> bool {
    memchr::memchr(b'<', element).is_some()
}

/// True when every quote and bracket is closed: an open one would swallow the routes behind it.
fn is_closed(element: &[u8]) -> bool {
    let mut rest = element;
    while let Some(open) = memchr::memchr2(b'"', b'<', rest) {
        let inner = &rest[open + 1..];
        let close = if rest[open] == b'<' {
            memchr::memchr(b'>', inner)
        } else {
            let mut is_escaped = false;
            inner.iter().position(|byte| {
                let is_close = *byte == b'"' && !is_escaped;
                is_escaped = *byte == b'\\' && !is_escaped;
                is_close
            })
        };
        let Some(close) = close else { return false };
        rest = &inner[close + 1..];
    }
    true
}

/// Writes a value with folded lines in one line.
pub(super) fn push_unfolded(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
}

/// Writes a URI as a Request-URI: without headers and without `method`, which have no place there (RFC 3261 §19.1.1).
fn push_request_uri(out: &mut Vec<u8>, uri: &[u8]) {
    let end = memchr::memchr(b'?', uri).unwrap_or(uri.len());
    let mut parts = uri[..end].split(|byte| *byte == b';');
    out.extend_from_slice(parts.next().unwrap_or_default());
    for param in parts {
        let name = param.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !name.eq_ignore_ascii_case(b"method") {
            out.push(b';');
            out.extend_from_slice(param);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::Scan;

    fn collected(lines: &str, order: Order) -> Result<String, DialogFault> {
        let text = format!("INVITE sip:b@b SIP/2.0\r\n{lines}\r\n");
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        let mut out = Vec::new();
        RouteSet::collect(&mut out, &Message { bytes: text.as_bytes(), scan: &scan }, order)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn written(routes: &str) -> (String, String, String) {
        let routes = RouteSet::new(routes.as_bytes());
        let (mut uri, mut line) = (Vec::new(), Vec::new());
        routes.write_request_uri(&mut uri, TARGET);
        routes.write_route(&mut line, TARGET);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&uri), text(&line), text(routes.next_hop(TARGET)))
    }

    const TARGET: &[u8] = b"sip:bob@192.0.2.4;transport=tcp;method=INVITE;ob?subject=x";

    #[test]
    fn a_server_takes_record_routes_in_order_and_a_client_from_behind() {
        let lines = "Record-Route: <sip:p2.example;lr>, \"P, 1\" <sip:p1.example;lr>;x=\"a,b\"\r\n\
            Subject: between\r\nRecord-Route:\r\n <sip:p0.example;lr>\r\n";
        let forward = "<sip:p2.example;lr>, \"P, 1\" <sip:p1.example;lr>;x=\"a,b\", <sip:p0.example;lr>";
        assert_eq!(collected(lines, Order::AsReceived).as_deref(), Ok(forward));
        let backward = "<sip:p0.example;lr>, \"P, 1\" <sip:p1.example;lr>;x=\"a,b\", <sip:p2.example;lr>";
        assert_eq!(collected(lines, Order::Reversed).as_deref(), Ok(backward));
        assert_eq!(collected("", Order::Reversed).as_deref(), Ok(""));
    }

    #[test]
    fn a_route_without_brackets_gets_them_and_a_folded_one_is_unfolded() {
        let lines = "Record-Route: sip:p.example;lr , <sip:q.example;lr>;a=1\r\n ;b=2\r\n";
        let expected = "<sip:p.example;lr>, <sip:q.example;lr>;a=1   ;b=2";
        assert_eq!(collected(lines, Order::AsReceived).as_deref(), Ok(expected));
        assert_eq!(RouteSet::new(expected.as_bytes()).values().count(), 2);
    }

    #[test]
    fn broken_and_endless_record_routes_are_refused() {
        for value in ["<sip:p", "<tel:+1>", "nothing", "<sip:a b>", "sip:p.example;x=>", "<>", "<sip:p>;x=\"y\\\""] {
            let lines = format!("Record-Route: {value}\r\n");
            assert_eq!(collected(&lines, Order::AsReceived), Err(DialogFault::RecordRoute), "{value}");
        }
        let many = "Record-Route: <sip:p.example;lr>\r\n".repeat(ROUTE_COUNT_MAX);
        assert!(collected(&many, Order::AsReceived).is_ok());
        let more = format!("{many}Record-Route: <sip:p.example;lr>\r\n");
        assert_eq!(collected(&more, Order::AsReceived), Err(DialogFault::TooLarge));
    }

    #[test]
    fn without_routes_a_request_goes_to_the_target() {
        let (uri, line, hop) = written("");
        assert_eq!((uri.as_str(), line.as_str()), ("sip:bob@192.0.2.4;transport=tcp;ob", ""));
        assert_eq!(hop.as_bytes(), TARGET);
    }

    #[test]
    fn a_loose_router_gets_the_target_in_the_request_uri() {
        let (uri, line, hop) = written("<sip:p1;lr>, <sip:p2>");
        assert_eq!(uri, "sip:bob@192.0.2.4;transport=tcp;ob");
        assert_eq!((line.as_str(), hop.as_str()), ("Route: <sip:p1;lr>, <sip:p2>\r\n", "sip:p1;lr"));
    }

    #[test]
    fn a_strict_router_gets_itself_in_the_request_uri_and_the_target_last() {
        let (uri, line, hop) = written("<sip:p1;method=x;a=b>;h=1, <sip:p2;lr>");
        assert_eq!((uri.as_str(), hop.as_str()), ("sip:p1;a=b", "sip:p1;method=x;a=b"));
        let target = std::str::from_utf8(TARGET).unwrap();
        assert_eq!(line, format!("Route: <sip:p2;lr>, <{target}>\r\n"));
        assert_eq!(written("<sip:p1>").1, format!("Route: <{target}>\r\n"));
    }
}
