//! Third-party REGISTER to devices (SPEC §2.1).

use super::devices::{Device, RegistrationChange};
use super::facts::{is_cpm, is_icsi_ref};
use crate::base::id::Aor;
use crate::base::limits::{DEVICE_COUNT_MAX, MULTIPART_PART_COUNT_MAX};
use crate::base::time::UnixMillis;
use crate::cpim::mime::{Entity, MediaType, Parts};
use crate::sip::header::address::Address;
use crate::sip::header::list::{Param, elements};
use crate::sip::message::{Message, delta_seconds};
use crate::sip::scan::{Name, Scan};
use crate::sip::uri::{canonical, percent_decode};

/// Registration time when neither the contact nor the request names one (RFC 3261 §10.2.1.1).
const DEFAULT_EXPIRES_SECONDS: u32 = 3600;
/// What a combined pager and large message client says of itself in the field (SPEC §2.7).
const RCS_PAGER_LARGE: &[u8] = b"+g.gsma.rcs.cpm.pager-large";

/// Why a REGISTER cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegistrationFault {
    /// To is no address of record.
    NoUser,
    /// A Contact that cannot be read.
    BadContact,
    /// The wildcard with an expiry, or beside other contacts (RFC 3261 §10.2.2).
    BadWildcard,
    /// The embedded `message/sip` body is no REGISTER.
    BadBody,
}

/// Reads a REGISTER: the user from To, the devices from the UE's own REGISTER in the body, or from its own Contacts.
///
/// 3GPP TS 24.229 §5.4.1.7; RFC 3261 §10.2.
pub fn registration(
    message: &Message<'_>,
    cpm_tags: &[Box<str>],
    now: UnixMillis,
) -> Result<RegistrationChange, RegistrationFault> {
    let user = message.value(Name::To).and_then(Address::parse).and_then(|to| canonical(to.uri));
    let user = user.ok_or(RegistrationFault::NoUser)?.to_aor();
    let outer = message.value(Name::Expires).and_then(delta_seconds);
    match embedded(message) {
        Some(inner) => {
            let mut scan = Scan::default();
            scan.scan(inner).map_err(|_| RegistrationFault::BadBody)?;
            let inner = Message { bytes: inner, scan: &scan };
            match inner.method() {
                Some(method) if method.eq_ignore_ascii_case(b"REGISTER") => {}
                // The UE's 200 may come along as a second part; alone it says nothing of contacts we could trust.
                _ => return Err(RegistrationFault::BadBody),
            }
            let expires = inner.value(Name::Expires).and_then(delta_seconds);
            // The S-CSCF's Expires bounds what the UE asked for: the network's word is later.
            contacts(&inner, user, Times { default: expires.or(outer), longest: outer }, cpm_tags, now)
        }
        // From names the S-CSCF: its word of the end is about the user, not about one contact.
        None if outer == Some(0) && !is_from_user(message, &user) => {
            Ok(RegistrationChange { user, devices: Vec::new(), replaces_all: true, at: now })
        }
        None => contacts(message, user, Times { default: outer, longest: None }, cpm_tags, now),
    }
}

fn is_from_user(message: &Message<'_>, user: &Aor) -> bool {
    let from = message.value(Name::From).and_then(Address::parse).and_then(|from| canonical(from.uri));
    from.is_some_and(|from| from.as_str() == user.as_str())
}

struct Times {
    default: Option<u32>,
    longest: Option<u32>,
}

fn contacts(
    message: &Message<'_>,
    user: Aor,
    times: Times,
    cpm_tags: &[Box<str>],
    now: UnixMillis,
) -> Result<RegistrationChange, RegistrationFault> {
    let default = times.default.unwrap_or(DEFAULT_EXPIRES_SECONDS);
    let mut devices = Vec::new();
    let mut wildcard = false;
    for value in message.elements(Name::Contact) {
        if value == b"*" {
            wildcard = true;
            continue;
        }
        if devices.len() == DEVICE_COUNT_MAX {
            break;
        }
        let contact = Address::parse(value).ok_or(RegistrationFault::BadContact)?;
        let own = contact.param("expires").and_then(|param| delta_seconds(param.unquoted()));
        let mut seconds = own.unwrap_or(default);
        if let Some(longest) = times.longest {
            seconds = seconds.min(longest);
        }
        devices.push(device(&contact, cpm_tags, now.plus_seconds(i64::from(seconds))));
    }
    if wildcard && (!devices.is_empty() || default != 0) {
        return Err(RegistrationFault::BadWildcard);
    }
    // A de-registration without contacts is the network's word on the whole user.
    let everything_ends = devices.is_empty() && (wildcard || default == 0 || times.longest == Some(0));
    if devices.is_empty() && !everything_ends {
        // A third-party REGISTER that says nothing of contacts still says that the user is registered for the service
        // whose filter criteria sent it here.
        devices.push(Device {
            instance: None,
            contact: user.as_str().into(),
            q_milli: 1000,
            expires: now.plus_seconds(i64::from(default)),
            cpm: true,
            features: "".into(),
        });
    }
    Ok(RegistrationChange { user, devices, replaces_all: everything_ends, at: now })
}

fn device(contact: &Address<'_>, cpm_tags: &[Box<str>], expires: UnixMillis) -> Device {
    let mut features = String::new();
    let mut named = false;
    let mut cpm = false;
    for param in contact.params().filter(is_feature) {
        if !features.is_empty() {
            features.push(';');
        }
        features.push_str(&String::from_utf8_lossy(param.name));
        if let Some(value) = param.value {
            features.push('=');
            features.push_str(&String::from_utf8_lossy(value));
        }
        if param.is("+sip.instance") {
            continue;
        }
        named = true;
        cpm |= says_cpm(&param, cpm_tags);
    }
    let instance = contact.param("+sip.instance").map(|param| {
        let value = param.unquoted();
        let value = value.strip_prefix(b"<").unwrap_or(value);
        String::from_utf8_lossy(value.strip_suffix(b">").unwrap_or(value)).into()
    });
    let q_milli = contact.param("q").and_then(|param| q_milli(param.unquoted())).unwrap_or(1000);
    Device {
        instance,
        contact: String::from_utf8_lossy(contact.uri).into(),
        q_milli,
        expires,
        // A contact that names no feature at all cannot be held against the filter criteria that sent it here.
        cpm: cpm || !named,
        features: features.into(),
    }
}

fn is_feature(param: &Param<'_>) -> bool {
    const BASE: [&str; 8] = ["audio", "video", "text", "data", "automata", "mobility", "methods", "events"];
    param.name.first() == Some(&b'+') || BASE.iter().any(|base| param.is(base))
}

fn says_cpm(param: &Param<'_>, cpm_tags: &[Box<str>]) -> bool {
    let mut buffer = [0u8; 256];
    let mut matches = |text: &[u8]| {
        percent_decode(text, &mut buffer)
            .and_then(|plain| std::str::from_utf8(plain).ok())
            .is_some_and(|plain| is_cpm(&plain.to_ascii_lowercase(), cpm_tags))
    };
    if is_icsi_ref(param.name) {
        return elements(param.unquoted()).any(matches);
    }
    param.name.eq_ignore_ascii_case(RCS_PAGER_LARGE) || matches(param.name)
}

/// A `q` value in thousandths.
///
/// RFC 3261 §25.1 (`qvalue`).
fn q_milli(text: &[u8]) -> Option<u16> {
    let value: f32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (0.0..=1.0).contains(&value).then_some((value * 1000.0).round() as u16)
}

/// The UE's REGISTER inside the body, alone or as a part of a multipart body.
fn embedded<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    let content_type = message.value(Name::ContentType)?;
    let body = message.body();
    if is_type(content_type, b"message/sip") {
        return Some(body);
    }
    let media = MediaType::parse(content_type).filter(MediaType::is_multipart)?;
    let parts = Parts::new(body, media.boundary()?).map_while(Result::ok).take(MULTIPART_PART_COUNT_MAX);
    // Other parts, such as the service's own data and the 200 that the UE got, are passed over.
    parts.filter_map(|part| Entity::parse(part).ok()).map(|part| (part.content_type(), part.content())).find_map(
        |(content_type, content)| {
            let is_sip = content_type.is_some_and(|value| is_type(value, b"message/sip"));
            (is_sip && first_word_is_register(content)).then_some(content)
        },
    )
}

fn first_word_is_register(content: &[u8]) -> bool {
    content.trim_ascii_start().get(..9).is_some_and(|word| word.eq_ignore_ascii_case(b"REGISTER "))
}

/// True when a Content-Type is this media type, whatever its parameters.
pub fn is_type(value: &[u8], media_type: &[u8]) -> bool {
    let value = &value[..memchr::memchr(b';', value).unwrap_or(value.len())];
    value.trim_ascii().eq_ignore_ascii_case(media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: [&str; 2] = ["+g.oma.sip-cpm", "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.*"];
    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn read(text: &str) -> Result<RegistrationChange, RegistrationFault> {
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        let tags: Vec<Box<str>> = TAGS.iter().map(|tag| Box::from(*tag)).collect();
        registration(&Message { bytes: text.as_bytes(), scan: &scan }, &tags, NOW)
    }

    fn third_party(expires: &str, content_type: &str, body: &str) -> String {
        format!(
            "REGISTER sip:pf SIP/2.0\r\nTo: <sip:Bob@Home.example>\r\nContact: <sip:scscf>\r\nExpires: {expires}\r\n\
             Content-Type: {content_type}\r\n\r\n{body}"
        )
    }

    const UE: &str = "REGISTER sip:home.example SIP/2.0\r\nContact: <sip:bob@192.0.2.7>;+sip.instance=\"<urn:uuid:1>\";\
        +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg,x\";q=0.5;expires=60\r\nExpires: 3600\r\n\r\n";

    #[test]
    fn the_ue_register_in_the_body_names_the_device() {
        let change = read(&third_party("600000", "message/sip", UE)).unwrap();
        assert_eq!(change.user.as_str(), "sip:Bob@home.example");
        let [device] = &change.devices[..] else { panic!("one device") };
        assert_eq!((device.instance.as_deref(), &*device.contact), (Some("urn:uuid:1"), "sip:bob@192.0.2.7"));
        assert_eq!((device.q_milli, device.cpm, device.expires), (500, true, NOW.plus_seconds(60)));
        assert!(!change.replaces_all);
    }

    #[test]
    fn a_multipart_body_is_searched() {
        let body = format!(
            "--b\r\nContent-Type: application/3gpp-ims+xml\r\n\r\n<x/>\r\n--b\r\ncontent-type: message/sip\r\n\r\n{UE}\r\n--b--\r\n"
        );
        let change = read(&third_party("600000", "multipart/mixed;boundary=\"b\"", &body)).unwrap();
        assert_eq!(change.devices[0].instance.as_deref(), Some("urn:uuid:1"));
        // A boundary counts at the start of a line alone, and the UE's 200 may stand before its REGISTER.
        let ue = UE.replace("Expires", "X-Trap: --b\r\nExpires");
        let body = format!(
            "--b\r\nContent-Type: message/sip\r\n\r\nSIP/2.0 200 OK\r\nContact: <sip:x@y>\r\n\r\n\r\n\
             --b\nContent-Type: message/sip\n\n{ue}\r\n--b--\r\n"
        );
        let change = read(&third_party("600000", "multipart/mixed;boundary=b", &body)).unwrap();
        assert_eq!(change.devices[0].instance.as_deref(), Some("urn:uuid:1"));
    }

    #[test]
    fn expires_zero_without_contacts_ends_the_user() {
        let text = "REGISTER sip:pf SIP/2.0\r\nTo: <sip:bob@h>\r\nExpires: 0\r\n\r\n";
        let change = read(text).unwrap();
        assert!(change.replaces_all && change.devices.is_empty());
        let third = "REGISTER sip:pf SIP/2.0\r\nTo: <sip:bob@h>\r\nFrom: <sip:scscf@h>\r\nContact: <sip:scscf>\r\nExpires: 0\r\n\r\n";
        assert!(read(third).unwrap().replaces_all);
        let own = third.replace("scscf@h", "bob@h");
        assert!(!read(&own).unwrap().replaces_all);
        let wildcard = "REGISTER sip:pf SIP/2.0\r\nTo: <sip:bob@h>\r\nContact: *\r\nExpires: 0\r\n\r\n";
        assert!(read(wildcard).unwrap().replaces_all);
    }

    #[test]
    fn the_networks_zero_overrules_the_ue() {
        let change = read(&third_party("0", "message/sip", UE)).unwrap();
        assert_eq!(change.devices[0].expires, NOW);
    }

    #[test]
    fn contacts_of_another_service_are_no_cpm_devices() {
        let other = UE.replace("oma.cpm.msg,x", "mmtel");
        assert!(!read(&third_party("60", "message/sip", &other)).unwrap().devices[0].cpm);
        let draft = "REGISTER sip:pf SIP/2.0\r\nTo: <sip:bob@h>\r\nContact: <sip:a@b>;+g.oma.sip-cpm\r\n\r\n";
        assert!(read(draft).unwrap().devices[0].cpm);
        let silent = "REGISTER sip:pf SIP/2.0\r\nTo: <sip:bob@h>\r\nContact: <sip:a@b>\r\n\r\n";
        assert!(read(silent).unwrap().devices[0].cpm);
    }

    #[test]
    fn bad_registers_are_told_apart() {
        assert_eq!(read("REGISTER sip:pf SIP/2.0\r\nTo: <mailto:a@b>\r\n\r\n"), Err(RegistrationFault::NoUser));
        let text = "REGISTER sip:pf SIP/2.0\r\nTo: <sip:a@b>\r\nContact: *\r\nExpires: 5\r\n\r\n";
        assert_eq!(read(text), Err(RegistrationFault::BadWildcard));
        assert_eq!(read(&third_party("60", "message/sip", "garbage\r\n")), Err(RegistrationFault::BadBody));
    }
}
