//! What a request says of itself: case, service, originator, served user, privacy, age (SPEC §1.0, G-1 to G-4).

use super::settings::Settings;
use crate::base::time::UnixMillis;
use crate::sip::header::address::Address;
use crate::sip::header::list::{elements, params, trim};
use crate::sip::message::{Message, delta_seconds};
use crate::sip::scan::Name;
use crate::sip::transport::{DEFAULT_PORT, literal_ip};
use crate::sip::uri::{AorText, Scheme, Uri, canonical, canonical_literal, percent_decode};
use smallvec::SmallVec;
use std::net::SocketAddr;

/// The service identifier of pager mode, assumed when a request from a trusted peer names none.
pub const PAGER_SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg";

/// The service identifier of large message mode, assumed when an INVITE from a trusted peer names none.
pub const LARGE_SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg";

/// Longest service identifier that is compared.
const SERVICE_LEN_MAX: usize = 128;
/// Route values looked at: a longer own prefix is no honest route.
const OWN_ROUTE_COUNT_MAX: usize = 4;

/// A service identifier in plain, lower-case form.
#[derive(Clone, Copy)]
pub struct ServiceText {
    bytes: [u8; SERVICE_LEN_MAX],
    len: usize,
}

impl ServiceText {
    fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; SERVICE_LEN_MAX];
        let len = percent_decode(text, &mut bytes)?.len();
        bytes[..len].make_ascii_lowercase();
        bytes[..len].is_ascii().then_some(Self { bytes, len })
    }

    /// The identifier.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

/// Which service a request is for (G-2).
#[derive(Clone, Copy)]
pub enum Service {
    /// CPM, by this identifier.
    Cpm(ServiceText),
    /// It names services, and CPM is not among them.
    Other,
    /// It names none.
    Unnamed,
}

/// Recognises the service: P-Asserted-Service, then the ICSI in Accept-Contact, then the draft feature tag (G-2).
pub fn service(message: &Message<'_>, cpm_tags: &[Box<str>]) -> Service {
    let mut named = false;
    let matches = |text: &[u8]| {
        let service = ServiceText::new(trim(text))?;
        is_cpm(service.as_str(), cpm_tags).then_some(service)
    };
    for value in message.elements(Name::PAssertedService) {
        named = true;
        if let Some(service) = matches(value) {
            return Service::Cpm(service);
        }
    }
    let mut draft = None;
    for value in message.elements(Name::AcceptContact) {
        for param in params(value) {
            if is_icsi_ref(param.name) {
                for icsi in elements(param.unquoted()) {
                    named = true;
                    if let Some(service) = matches(icsi) {
                        return Service::Cpm(service);
                    }
                }
            } else if draft.is_none() && param.name.first() == Some(&b'+') {
                draft = matches(param.name);
            }
        }
    }
    match draft {
        Some(service) => Service::Cpm(service),
        None if named => Service::Other,
        None => Service::Unnamed,
    }
}

/// True for `+g.3gpp.icsi-ref`, with or without the plus that RFC 3840 §9 puts in front of foreign tags.
pub fn is_icsi_ref(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"+").unwrap_or(name);
    name.eq_ignore_ascii_case(b"g.3gpp.icsi-ref")
}

/// True when a lower-case identifier is one of the tags; a tag's trailing `*` matches any rest.
pub fn is_cpm(identifier: &str, cpm_tags: &[Box<str>]) -> bool {
    cpm_tags.iter().any(|tag| match tag.strip_suffix('*') {
        Some(prefix) => identifier.starts_with(prefix),
        None => identifier == &**tag,
    })
}

/// The authenticated originator's addresses (G-3): at most a SIP and a tel URI (RFC 3325 §9.1).
#[derive(Clone, Default)]
pub struct Originator {
    /// Canonical addresses, in the order of the request; behind them, where a telephone number came as a SIP URI, that
    /// URI too, since rules on domains need its domain.
    pub addresses: SmallVec<[AorText; 3]>,
    /// The header field that names it: Referred-By, P-Asserted-Identity or From.
    pub field: Option<Name>,
}

impl Originator {
    /// Reads it: Referred-By for a group message of a controlling function, otherwise P-Asserted-Identity, otherwise From
    /// where the operator says so. `None` when nobody vouches for anyone.
    pub fn of(message: &Message<'_>, service: &str, from_counts: bool) -> Option<Self> {
        let mut addresses = SmallVec::new();
        if service.ends_with(".group")
            && let Some(aor) = message.address(Name::ReferredBy).and_then(|address| canonical(address.uri))
        {
            addresses.push(aor);
            return Some(Self { addresses, field: Some(Name::ReferredBy) });
        }
        let asserted = message.elements(Name::PAssertedIdentity).filter_map(Address::parse);
        let mut uris: SmallVec<[&[u8]; 2]> = asserted.map(|address| address.uri).take(2).collect();
        let mut field = Name::PAssertedIdentity;
        if uris.is_empty() && from_counts {
            field = Name::From;
            uris.extend(message.value(Name::From).and_then(Address::parse).map(|from| from.uri));
        }
        for uri in &uris {
            let Some(aor) = canonical(uri) else { continue };
            let is_number = aor.as_str().starts_with("tel:");
            addresses.push(aor);
            if is_number && let Some(literal) = canonical_literal(uri).filter(|text| text.as_str().starts_with("sip:"))
            {
                addresses.push(literal);
            }
        }
        (!addresses.is_empty()).then_some(Self { addresses, field: Some(field) })
    }

    /// The address that stands for the originator in rows and objects.
    pub fn main(&self) -> &str {
        self.addresses.first().map_or("", AorText::as_str)
    }
}

/// True when the originator asked not to be shown: Privacy `id`, `user` or `header`, or the anonymous From of RFC 3323.
///
/// SPEC LM-3, RFC 3323 §4.2.
pub fn is_anonymous(message: &Message<'_>) -> bool {
    let asked = message.fields(Name::Privacy).any(|field| {
        let value = field.value.of(message.bytes);
        value
            .split(|b| matches!(b, b';' | b','))
            .map(trim)
            .any(|word| [&b"id"[..], b"user", b"header"].iter().any(|asked| word.eq_ignore_ascii_case(asked)))
    });
    asked || message.value(Name::From).is_some_and(names_nobody)
}

/// True for the From of RFC 3323 §4.1.1.3, `sip:anonymous@anonymous.invalid`.
fn names_nobody(from: &[u8]) -> bool {
    const HOST: &[u8] = b"anonymous.invalid";
    memchr::memchr_iter(b'@', from).any(|at| {
        let rest = &from[at + 1..];
        let ends =
            rest.get(HOST.len()).is_none_or(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')));
        ends && rest.get(..HOST.len()).is_some_and(|host| host.eq_ignore_ascii_case(HOST))
    })
}

/// Where a request stands in the IMS call flow (G-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Terminating: the product's job.
    Terminating,
    /// Originating: another product's job.
    Originating,
    /// Neither the Route nor P-Served-User says.
    Unsaid,
    /// A Route that decides where the request goes cannot be read.
    Unreadable,
}

/// A request's way: which case, what of the Route set is ours, what remains.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// The case.
    pub case: Case,
    /// Route values to take off.
    pub own_routes: usize,
    /// The URI of the Route that remains on top.
    pub next: Option<Uri<'a>>,
    /// The URI of the user served.
    pub served: &'a [u8],
}

/// Reads the Route set and P-Served-User (G-1, RFC 5502 §4).
pub fn way<'a>(message: &Message<'a>, settings: &Settings) -> Way<'a> {
    let mut case = Case::Unsaid;
    let mut served = message.request_uri().unwrap_or_default();
    let mut own_routes = 0;
    let mut next = None;
    for value in message.elements(Name::Route) {
        let parsed = Address::parse(value).and_then(|route| Uri::parse(route.uri).ok());
        let Some(uri) = parsed else {
            return Way { case: Case::Unreadable, own_routes, next, served };
        };
        if own_routes < OWN_ROUTE_COUNT_MAX && is_own(&uri, settings) {
            own_routes += 1;
            case = match uri.user {
                Some(user) if user.eq_ignore_ascii_case(b"orig") => Case::Originating,
                _ => Case::Terminating,
            };
        } else {
            next = Some(uri);
            break;
        }
    }
    if let Some(user) = message.address(Name::PServedUser) {
        if let Some(value) = user.param("sescase") {
            case = if value.unquoted().eq_ignore_ascii_case(b"orig") { Case::Originating } else { Case::Terminating };
        }
        if case == Case::Terminating {
            served = user.uri;
        }
    }
    Way { case, own_routes, next, served }
}

/// True for a URI that names this appliance.
pub fn is_own(uri: &Uri<'_>, settings: &Settings) -> bool {
    let port = uri.port.unwrap_or(DEFAULT_PORT);
    match literal_ip(uri.host) {
        Some(ip) => settings.own_addresses.contains(&SocketAddr::new(ip, port)),
        None => {
            uri.host.eq_ignore_ascii_case(settings.host.as_bytes())
                && (uri.port.is_none() || settings.own_addresses.iter().any(|own| own.port() == port))
        }
    }
}

/// True for a URI that stands for one of the appliance's cases and not for a user of a domain of that name (G-1).
pub fn is_own_case(uri: &Uri<'_>, settings: &Settings) -> bool {
    let is_case = |user: &[u8]| [&b"term"[..], b"orig"].iter().any(|case| user.eq_ignore_ascii_case(case));
    uri.scheme != Scheme::Tel && uri.user.is_none_or(is_case) && is_own(uri, settings)
}

/// True when the Request-URI is something a user can be found by.
pub fn is_routable(uri: &Uri<'_>) -> bool {
    uri.scheme != Scheme::Other
}

/// Tolerance when an Expires is checked against the clock (SPEC PM-3a).
const EXPIRY_TOLERANCE_SECONDS: i64 = 5;
/// A Date further ahead of our clock than this is not believed.
const DATE_AHEAD_SECONDS_MAX: i64 = 300;
/// Nor is one further back.
const DATE_BACK_SECONDS_MAX: i64 = 366 * 86_400;

/// Until when a message is worth delivering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The Expires header's moment; `None` without the header.
    pub until: Option<UnixMillis>,
    /// The moment has passed, tolerance included (PM-3).
    pub expired: bool,
}

/// Reads Expires against Date, or against the clock where there is no sane Date (PM-3a, RFC 3428 §7).
pub fn validity(message: &Message<'_>, now: UnixMillis) -> Validity {
    let Some(seconds) = message.value(Name::Expires).and_then(delta_seconds) else {
        return Validity { until: None, expired: false };
    };
    let base = date(message)
        .filter(|date| {
            date.0 <= now.plus_seconds(DATE_AHEAD_SECONDS_MAX).0 && date.0 >= now.plus_seconds(-DATE_BACK_SECONDS_MAX).0
        })
        .unwrap_or(now);
    let until = base.plus_seconds(i64::from(seconds));
    Validity { until: Some(until), expired: now > until.plus_seconds(EXPIRY_TOLERANCE_SECONDS) }
}

/// Reads Expires against the clock, whatever the Date: of a message whose Expires is what is left of its time.
///
/// RFC 3261 §20.19.
pub fn validity_since_arrival(message: &Message<'_>, now: UnixMillis) -> Validity {
    let until = message.value(Name::Expires).and_then(delta_seconds).map(|left| now.plus_seconds(i64::from(left)));
    Validity { until, expired: false }
}

/// The Date header.
///
/// RFC 3261 §20.17.
pub fn date(message: &Message<'_>) -> Option<UnixMillis> {
    let text = std::str::from_utf8(message.value(Name::Date)?).ok()?;
    let time = httpdate::parse_http_date(text).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(UnixMillis(i64::try_from(since.as_millis()).ok()?))
}

/// True when a sent-by names this peer, by name or by address and port.
pub fn names_host(host: &[u8], port: Option<u16>, peer_host: &str, peer: SocketAddr) -> bool {
    match literal_ip(host) {
        Some(ip) => SocketAddr::new(ip, port.unwrap_or(DEFAULT_PORT)) == peer,
        // Two functions may share a name and differ in their ports.
        None => host.eq_ignore_ascii_case(peer_host.as_bytes()) && port.is_none_or(|port| port == peer.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::Scan;
    use crate::testing::scene;

    const NOW: UnixMillis = scene::WALL_START;

    fn with<R>(headers: &str, read: impl FnOnce(&Message<'_>) -> R) -> R {
        let text = format!("MESSAGE sip:bob@home.example SIP/2.0\r\n{headers}\r\n");
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        read(&Message { bytes: text.as_bytes(), scan: &scan })
    }

    #[test]
    fn a_message_is_valid_from_a_sane_date_or_from_its_arrival() {
        // The scene starts at 2026-01-01T00:00:00Z.
        for (date, until_seconds) in [
            ("", 60),
            ("Date: Thu, 01 Jan 2026 00:00:00 GMT", 60),
            ("Date: Wed, 31 Dec 2025 23:59:20 GMT", 20),
            ("Date: Wed, 31 Dec 2025 23:00:00 GMT", -3540),
            ("Date: Thu, 01 Jan 2026 00:04:00 GMT", 300),
            // Ahead of our clock by more than clocks differ, a broken clock's epoch, no date at all.
            ("Date: Thu, 01 Jan 2026 00:06:00 GMT", 60),
            ("Date: Thu, 01 Jan 1970 00:00:00 GMT", 60),
            ("Date: yesterday", 60),
        ] {
            let headers = format!("Expires: 60\r\n{date}{}", if date.is_empty() { "" } else { "\r\n" });
            let found = with(&headers, |message| validity(message, NOW));
            let until = NOW.plus_seconds(until_seconds);
            assert_eq!(found, Validity { until: Some(until), expired: until_seconds < 0 }, "{date}");
        }
        assert_eq!(with("", |message| validity(message, NOW)), Validity { until: None, expired: false });
    }

    #[test]
    fn five_seconds_are_tolerated() {
        for (ago, expired) in [(60, false), (65, false), (66, true)] {
            let later = NOW.plus_seconds(ago);
            let headers = "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nExpires: 60\r\n";
            assert_eq!(with(headers, |message| validity(message, later)).expired, expired, "{ago} s after the Date");
        }
    }

    #[test]
    fn the_case_is_what_route_and_served_user_say() {
        let settings = scene::settings(0, 1);
        let own = "<sip:term@192.0.2.1:5060;lr>";
        for (headers, case, own_routes, served) in [
            (String::new(), Case::Unsaid, 0, "sip:bob@home.example"),
            (format!("Route: {own}\r\n"), Case::Terminating, 1, "sip:bob@home.example"),
            (format!("Route: {own}, {own}\r\nRoute: {own}\r\n"), Case::Terminating, 3, "sip:bob@home.example"),
            ("Route: <sip:orig@pf.example;lr>\r\n".into(), Case::Originating, 1, "sip:bob@home.example"),
            ("Route: <sip:scscf.example;lr>\r\n".into(), Case::Unsaid, 0, "sip:bob@home.example"),
            ("P-Served-User: <sip:b@h>;sescase=term;regstate=unreg\r\n".into(), Case::Terminating, 0, "sip:b@h"),
            ("P-Served-User: <sip:b@h>;regstate=reg\r\n".into(), Case::Unsaid, 0, "sip:bob@home.example"),
            (format!("Route: {own}\r\nP-Served-User: <tel:+15550100>\r\n"), Case::Terminating, 1, "tel:+15550100"),
            ("P-Served-User: <sip:a@h>;sescase=orig\r\n".into(), Case::Originating, 0, "sip:bob@home.example"),
            ("Route: nothing\r\n".into(), Case::Unreadable, 0, "sip:bob@home.example"),
        ] {
            with(&headers, |message| {
                let way = way(message, &settings);
                assert_eq!((way.case, way.own_routes, way.served), (case, own_routes, served.as_bytes()), "{headers}");
            });
        }
    }

    #[test]
    fn only_cases_of_the_appliance_are_taken_for_a_strict_routers_request_uri() {
        let settings = scene::settings(0, 1);
        for (uri, is_case) in [
            ("sip:term@192.0.2.1:5060", true),
            ("sip:192.0.2.1:5080", true),
            ("sip:orig@pf.example", true),
            ("sip:bob@pf.example", false),
            ("sip:term@home.example", false),
            ("sip:192.0.2.1:7", false),
            ("tel:+15550100", false),
        ] {
            assert_eq!(is_own_case(&Uri::parse(uri.as_bytes()).unwrap(), &settings), is_case, "{uri}");
        }
    }

    #[test]
    fn a_sent_by_names_a_peer_by_address_or_by_name() {
        let peer = scene::address([192, 0, 2, 8], 5090);
        for (host, port, is_peer) in [
            ("192.0.2.8", Some(5090), true),
            ("192.0.2.8", Some(5070), false),
            ("192.0.2.8", None, false),
            ("ISF.example", Some(5090), true),
            ("isf.example", None, true),
            ("isf.example", Some(5070), false),
            ("core.example", Some(5090), false),
        ] {
            assert_eq!(names_host(host.as_bytes(), port, "isf.example", peer), is_peer, "{host} {port:?}");
        }
    }

    #[test]
    fn anonymity_is_asked_for_by_privacy_or_by_the_from_of_nobody() {
        for (headers, anonymous) in [
            ("Privacy: id\r\n", true),
            ("Privacy: critical; USER\r\n", true),
            ("Privacy: header\r\n", true),
            ("Privacy: none\r\n", false),
            ("Privacy: session\r\n", false),
            ("From: \"A\" <sip:anonymous@anonymous.invalid>;tag=1\r\n", true),
            ("From: <sip:anonymous@anonymous.invalid.example>;tag=1\r\n", false),
            ("", false),
        ] {
            assert_eq!(with(headers, is_anonymous), anonymous, "{headers}");
        }
    }
}
