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
        match self.first().filter(|_| self.is_strict()) {
            Some(first) => push_request_uri(out, first),
            None => push_request_uri(out, target),
        }
    }

    /// Writes the Route line of a request towards `target`, if there is to be one.
    ///
    /// RFC 3261 §12.2.1.1.
    pub fn write_route(&self, out: &mut Vec<u8>, target: &[u8]) {
        if self.text.is_empty() {
            return;
        }
        out.extend_from_slice(b"Route: ");
        if self.is_strict() {
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
