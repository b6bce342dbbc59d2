//! Provider policy on content (PM-2 a and b): the media types of a body, on the outside and all the way in.
//!
//! A type that is refused cannot hide: not in a CPIM message, not in a multipart body, not behind an encoding, and not
//! in a structure that two readers would take apart in two ways. Decided on the received bytes, without allocation.

use crate::base::limits::{MULTIPART_DEPTH_MAX, MULTIPART_PART_COUNT_MAX};
use crate::cpim::message::{self, Cpim, Dispositions};
use crate::cpim::mime::{Entity, HeadFault, MediaType, Parts, PartsFault};
use crate::cpim::{CpimFault, imdn};

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentFault {
    /// There is a body and no Content-Type.
    TypeMissing,
    /// A Content-Type is not one, or a multipart type has no usable boundary.
    TypeMalformed,
    /// A media type is not among the accepted ones.
    TypeRefused,
    /// The body has a content encoding.
    EncodingRefused,
    /// A CPIM message or multipart body inside has a transfer encoding, which composite types must not have.
    CompositeEncoded,
    /// A CPIM message cannot be read.
    Cpim(CpimFault),
    /// The headers of a body part cannot be read.
    PartHead(HeadFault),
    /// A multipart body cannot be taken apart.
    Parts(PartsFault),
    /// More than [`MULTIPART_DEPTH_MAX`] levels.
    TooDeep,
    /// More than [`MULTIPART_PART_COUNT_MAX`] parts.
    TooManyParts,
}

/// What the sender is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// 400.
    BadRequest,
    /// 415 with Accept.
    UnsupportedType,
    /// 415 with `Accept-Encoding: identity`, and Accept.
    UnsupportedEncoding,
}

impl ContentFault {
    /// The only place where a content fault becomes protocol behaviour (PM-2b, G-7).
    ///
    /// Bounds are provider policy on content and answered as such.
    ///
    /// RFC 3261 §21.4.1, §21.4.13.
    pub const fn remedy(self) -> Remedy {
        match self {
            Self::TypeRefused | Self::TooDeep | Self::TooManyParts => Remedy::UnsupportedType,
            Self::EncodingRefused => Remedy::UnsupportedEncoding,
            Self::TypeMissing
            | Self::TypeMalformed
            | Self::CompositeEncoded
            | Self::Cpim(_)
            | Self::PartHead(_)
            | Self::Parts(_) => Remedy::BadRequest,
        }
    }

    /// The label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TypeMissing => "type_missing",
            Self::TypeMalformed => "type_malformed",
            Self::TypeRefused => "type_refused",
            Self::EncodingRefused => "encoding_refused",
            Self::CompositeEncoded => "composite_encoded",
            Self::Cpim(_) => "cpim_malformed",
            Self::PartHead(_) | Self::Parts(_) => "multipart_malformed",
            Self::TooDeep => "too_deep",
            Self::TooManyParts => "too_many_parts",
        }
    }
}

impl Remedy {
    /// The status code.
    ///
    /// RFC 3261 §21.4.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::UnsupportedType | Self::UnsupportedEncoding => 415,
        }
    }
}

/// What pager mode needs to know of an accepted body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The body is a CPIM message, not merely a part of it.
    pub is_cpim: bool,
    /// The body is a disposition notification, in CPIM or by itself. A part that is one does not count: it would lend
    /// the exceptions for notifications to whatever is sent beside it.
    pub is_imdn: bool,
    /// The CPIM message: the body, else the first part that is one.
    pub cpim: Option<Cpim<'a>>,
}

impl<'a> Facts<'a> {
    /// The Message-ID of the CPIM message in the IMDN namespace.
    ///
    /// RFC 5438 §6.3.
    pub fn imdn_message_id(&self) -> Option<&'a str> {
        self.cpim.and_then(|cpim| cpim.imdn_message_id())
    }

    /// The DateTime header of the CPIM message.
    ///
    /// RFC 3862 §4.4.
    pub fn date_time(&self) -> Option<&'a str> {
        self.cpim.and_then(|cpim| cpim.date_time())
    }

    /// The notifications that the sender asks for.
    ///
    /// RFC 5438 §6.2.
    pub fn dispositions(&self) -> Dispositions {
        self.cpim.map(|cpim| cpim.disposition_notification()).unwrap_or_default()
    }

    /// The sender asks to be told of a failure, and may be: no notification is sent about a notification.
    ///
    /// RFC 5438 §7.2.1.
    pub fn wants_failure_notice(&self) -> bool {
        !self.is_imdn && self.dispositions().negative_delivery
    }

    /// The sender asks to be told that the message is kept for later, and may be (SPEC §2.4).
    ///
    /// RFC 5438 §6.2, §7.2.1.
    pub fn wants_stored_notice(&self) -> bool {
        !self.is_imdn && self.dispositions().processing
    }
}

/// Checks a body against the accepted media types, lower case, `type/*` and `*/*` included.
///
/// `content_type` and `content_encoding` are the values of the SIP headers. An empty body needs no Content-Type.
pub fn check<'a>(
    content_type: Option<&'a [u8]>,
    content_encoding: Option<&[u8]>,
    body: &'a [u8],
    accept: &[Box<str>],
) -> Result<Facts<'a>, ContentFault> {
    let media = match content_type {
        Some(value) => MediaType::parse(value).ok_or(ContentFault::TypeMalformed)?,
        None if body.is_empty() => return Ok(Facts::default()),
        None => return Err(ContentFault::TypeMissing),
    };
    if !content_encoding.unwrap_or_default().split(|byte| *byte == b',').all(is_identity) {
        return Err(ContentFault::EncodingRefused);
    }
    let mut walk = Walk { accept, part_count: 0, cpim: None };
    walk.visit(media, body, 0)?;
    let is_cpim = media.is(message::MEDIA_TYPE);
    let wrapped = walk.cpim.filter(|_| is_cpim);
    Ok(Facts {
        is_cpim,
        is_imdn: media.is(imdn::MEDIA_TYPE) || wrapped.is_some_and(|cpim| imdn::is_imdn(&cpim)),
        cpim: walk.cpim,
    })
}

/// The value of the Accept header in a 415: outer and inner types alike (PM-2b).
///
/// RFC 3261 §20.1, §21.4.13.
pub fn accept_header(accept: &[Box<str>]) -> String {
    accept.join(", ")
}

/// The value of the Accept-Encoding header in a 415 about an encoding.
///
/// RFC 3261 §20.2, §21.4.13.
pub const ACCEPT_ENCODING: &str = "identity";

fn is_identity(coding: &[u8]) -> bool {
    matches!(coding.trim_ascii(), b"") || coding.trim_ascii().eq_ignore_ascii_case(b"identity")
}

/// A way through a body, into everything that contains something.
struct Walk<'a, 'p> {
    accept: &'p [Box<str>],
    part_count: usize,
    /// The first CPIM message met.
    cpim: Option<Cpim<'a>>,
}

impl<'a> Walk<'a, '_> {
    /// Visits an entity; `depth` containers are around it.
    fn visit(&mut self, media: MediaType<'a>, content: &'a [u8], depth: usize) -> Result<(), ContentFault> {
        if !self.accept.iter().any(|range| media.matches(range)) {
            return Err(ContentFault::TypeRefused);
        }
        let is_cpim = media.is(message::MEDIA_TYPE);
        if !is_cpim && !media.is_multipart() {
            return Ok(());
        }
        if depth == MULTIPART_DEPTH_MAX {
            return Err(ContentFault::TooDeep);
        }
        if is_cpim {
            let cpim = Cpim::parse(content).map_err(ContentFault::Cpim)?;
            self.cpim.get_or_insert(cpim);
            self.visit_entity(cpim.entity(), MediaType::TEXT_PLAIN, depth + 1)
        } else {
            self.visit_parts(media, content, depth)
        }
    }

    fn visit_parts(&mut self, media: MediaType<'a>, content: &'a [u8], depth: usize) -> Result<(), ContentFault> {
        let boundary = media.boundary().ok_or(ContentFault::TypeMalformed)?;
        let default = if media.is("multipart/digest") { MediaType::MESSAGE_RFC822 } else { MediaType::TEXT_PLAIN };
        for part in Parts::new(content, boundary) {
            let part = part.map_err(ContentFault::Parts)?;
            self.part_count += 1;
            if self.part_count > MULTIPART_PART_COUNT_MAX {
                return Err(ContentFault::TooManyParts);
            }
            let entity = Entity::parse(part).map_err(ContentFault::PartHead)?;
            self.visit_entity(&entity, default, depth + 1)?;
        }
        Ok(())
    }

    fn visit_entity(
        &mut self,
        entity: &Entity<'a>,
        default: MediaType<'static>,
        depth: usize,
    ) -> Result<(), ContentFault> {
        let media = match entity.content_type() {
            Some(value) => MediaType::parse(value).ok_or(ContentFault::TypeMalformed)?,
            None => default,
        };
        let is_composite = media.is_multipart() || media.is(message::MEDIA_TYPE);
        if is_composite && !entity.is_plainly_encoded() {
            return Err(ContentFault::CompositeEncoded);
        }
        self.visit(media, entity.content(), depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn accept(types: &[&str]) -> Vec<Box<str>> {
        types.iter().map(|it| Box::from(*it)).collect()
    }

    fn check_as<'a>(content_type: &'a str, body: &'a [u8], types: &[&str]) -> Result<Facts<'a>, ContentFault> {
        check(Some(content_type.as_bytes()), None, body, &accept(types))
    }

    /// Checks with the types of A10 and A11, and the containers that tests put around them.
    fn check_usual<'a>(content_type: &'a str, body: &'a str) -> Result<Facts<'a>, ContentFault> {
        check_as(content_type, body.as_bytes(), &["message/cpim", "text/plain", "multipart/*", "message/imdn+xml"])
    }

    fn cpim(inner: &str, content: &str) -> String {
        format!(
            "From: <sip:a@b>\r\nNS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: id-1\r\n\
             imdn.Disposition-Notification: negative-delivery\r\nDateTime: 2026-01-02T03:04:05Z\r\n\r\n\
             Content-Type: {inner}\r\n\r\n{content}"
        )
    }

    fn multipart(boundary: &str, parts: &[&str]) -> String {
        let parts: String = parts.iter().map(|part| format!("--{boundary}\r\n{part}\r\n")).collect();
        format!("{parts}--{boundary}--\r\n")
    }

    #[test]
    fn a10_an_image_is_refused_where_cpim_and_text_are_accepted() {
        let fault = check_as("image/png", b"\x89PNG", &["message/cpim", "text/plain"]).unwrap_err();
        assert_eq!((fault, fault.remedy().status()), (ContentFault::TypeRefused, 415));
        let value = accept_header(&accept(&["message/cpim", "text/plain"]));
        assert_eq!(value, "message/cpim, text/plain");
    }

    #[test]
    fn a11_a_refused_type_inside_cpim_is_refused() {
        let body = cpim("application/x-evil", "x");
        let fault = check_as("message/cpim", body.as_bytes(), &["message/cpim", "text/plain"]).unwrap_err();
        assert_eq!((fault, fault.remedy()), (ContentFault::TypeRefused, Remedy::UnsupportedType));
    }

    #[test]
    fn accepted_types_pass_in_any_case_and_with_parameters() {
        assert_eq!(check_usual("Text/PLAIN; charset=UTF-8", "hello"), Ok(Facts::default()));
        let body = cpim("TEXT/plain ;charset=utf-8", "hello");
        let facts = check_usual("Message/CPIM", &body).unwrap();
        assert!(facts.is_cpim && !facts.is_imdn && facts.wants_failure_notice());
        assert_eq!((facts.imdn_message_id(), facts.date_time()), (Some("id-1"), Some("2026-01-02T03:04:05Z")));
        assert_eq!(facts.cpim.unwrap().content(), b"hello");
    }

    #[test]
    fn a_wildcard_accepts_what_it_covers() {
        assert!(check_as("image/png", b"x", &["image/*"]).is_ok());
        assert!(check_as("image/png", b"x", &["*/*"]).is_ok());
        assert!(check_as("image/png", b"x", &["imag/*"]).is_err());
        assert!(check_as("image/png", b"x", &[]).is_err());
    }

    #[test]
    fn cpim_without_an_inner_type_counts_as_text() {
        let body = "From: <sip:a@b>\r\n\r\n\r\nhello";
        assert!(check_as("message/cpim", body.as_bytes(), &["message/cpim", "text/plain"]).is_ok());
        assert_eq!(check_as("message/cpim", body.as_bytes(), &["message/cpim"]), Err(ContentFault::TypeRefused));
    }

    #[test]
    fn only_an_empty_body_may_lack_a_content_type() {
        assert_eq!(check(None, None, b"", &accept(&[])), Ok(Facts::default()));
        let fault = check(None, None, b"hello", &accept(&["*/*"])).unwrap_err();
        assert_eq!((fault, fault.remedy().status()), (ContentFault::TypeMissing, 400));
        assert_eq!(check_usual("text", "hello"), Err(ContentFault::TypeMalformed));
        assert!(check_usual("text/plain", "").is_ok());
    }

    #[test]
    fn any_encoding_but_identity_is_refused() {
        let types = accept(&["text/plain"]);
        for fine in [&b"identity"[..], b" Identity ", b""] {
            assert!(check(Some(b"text/plain"), Some(fine), b"x", &types).is_ok());
        }
        for coded in [&b"gzip"[..], b"identity, deflate", b"x"] {
            let fault = check(Some(b"text/plain"), Some(coded), b"x", &types).unwrap_err();
            assert_eq!((fault, fault.remedy()), (ContentFault::EncodingRefused, Remedy::UnsupportedEncoding));
        }
    }

    #[test]
    fn a_notification_is_known_in_cpim_and_by_itself_but_not_as_a_part() {
        let body = cpim("message/imdn+xml", "<imdn/>");
        let facts = check_usual("message/cpim", &body).unwrap();
        assert!(facts.is_imdn && !facts.wants_failure_notice(), "no notification about a notification");
        assert!(check_usual("message/imdn+xml", "<imdn/>").unwrap().is_imdn);
        let part = format!("Content-Type: message/cpim\r\n\r\n{body}");
        let parts = multipart("b", &["\r\nfree speech", &part]);
        let facts = check_usual("multipart/mixed; boundary=b", &parts).unwrap();
        assert!(!facts.is_imdn && !facts.is_cpim);
        assert_eq!(facts.imdn_message_id(), Some("id-1"));
    }

    #[test]
    fn every_part_is_checked_at_every_depth() {
        let fine = multipart("in", &["Content-Type: text/plain\r\n\r\na", "\r\nb"]);
        let evil = multipart("in", &["Content-Type: text/plain\r\n\r\na", "Content-Type: image/png\r\n\r\nb"]);
        for (inner, verdict) in [(fine, Ok(())), (evil, Err(ContentFault::TypeRefused))] {
            let nested = format!("Content-Type: multipart/alternative; boundary=in\r\n\r\n{inner}");
            let outer = multipart("out", &["\r\nfirst", &nested]);
            assert_eq!(check_usual("multipart/mixed;boundary=\"out\"", &outer).map(drop), verdict);
            let in_cpim = cpim("multipart/mixed; boundary=in", &inner);
            assert_eq!(check_usual("message/cpim", &in_cpim).map(drop), verdict);
            let cpim_part = format!("Content-Type: message/cpim\r\n\r\n{in_cpim}");
            let outer = multipart("out", &[&cpim_part]);
            assert_eq!(check_usual("multipart/mixed; boundary=out", &outer).map(drop), verdict);
        }
    }

    #[test]
    fn a_container_is_accepted_only_if_its_own_type_is() {
        let body = multipart("b", &["\r\na"]);
        let types = ["text/plain", "message/cpim"];
        assert_eq!(check_as("multipart/mixed; boundary=b", body.as_bytes(), &types), Err(ContentFault::TypeRefused));
    }

    #[test]
    fn a_container_cannot_hide_behind_a_transfer_encoding() {
        let part = "Content-Type: message/cpim\r\nContent-Transfer-Encoding: base64\r\n\r\nRnJvbTo=";
        let body = multipart("b", &[part]);
        assert_eq!(check_usual("multipart/mixed; boundary=b", &body), Err(ContentFault::CompositeEncoded));
        let text = "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nRnJvbTo=";
        assert!(check_usual("multipart/mixed; boundary=b", &multipart("b", &[text])).is_ok());
    }

    #[test]
    fn malformed_structures_are_bad_requests() {
        for (content_type, body) in [
            ("multipart/mixed", multipart("b", &["\r\na"])),
            ("multipart/mixed; boundary=c", multipart("b", &["\r\na"])),
            ("multipart/mixed; boundary=b", String::new()),
            ("multipart/mixed; boundary=b", multipart("b", &["no header\r\n\r\na"])),
            ("multipart/mixed; boundary=b", multipart("b", &["Content-Type: nonsense\r\n\r\na"])),
            ("multipart/mixed; boundary=b", format!("{}--b\r\n\r\nmore", multipart("b", &["\r\na"]))),
            ("message/cpim", String::new()),
            ("message/cpim", "hello".to_owned()),
        ] {
            let fault = check_usual(content_type, &body).unwrap_err();
            assert_eq!(fault.remedy().status(), 400, "{content_type} {body}: {fault:?}");
        }
    }

    #[test]
    fn ten_thousand_parts_are_too_many() {
        let body = multipart("b", &vec!["\r\n"; 10_000]);
        assert_eq!(check_usual("multipart/mixed; boundary=b", &body), Err(ContentFault::TooManyParts));
        let body = multipart("b", &["\r\na"; MULTIPART_PART_COUNT_MAX]);
        assert!(check_usual("multipart/mixed; boundary=b", &body).is_ok());
    }

    #[test]
    fn the_parts_of_all_levels_count_together() {
        let inner = multipart("in", &vec!["\r\n"; MULTIPART_PART_COUNT_MAX / 2]);
        let nested = format!("Content-Type: multipart/mixed; boundary=in\r\n\r\n{inner}");
        let body = multipart("out", &[&nested, &nested]);
        assert_eq!(check_usual("multipart/mixed; boundary=out", &body), Err(ContentFault::TooManyParts));
    }

    #[test]
    fn a_nesting_bomb_of_multiparts_is_too_deep() {
        let nest = |levels: usize| {
            let mut body = "hello".to_owned();
            let mut content_type = "text/plain".to_owned();
            for level in 0..levels {
                // No boundary starts with another: `5.` and `50.`.
                let boundary = format!("{level}.");
                body = multipart(&boundary, &[&format!("Content-Type: {content_type}\r\n\r\n{body}")]);
                content_type = format!("multipart/mixed; boundary={boundary}");
            }
            (content_type, body)
        };
        let (content_type, body) = nest(1_000);
        assert_eq!(check_usual(&content_type, &body), Err(ContentFault::TooDeep));
        let (content_type, body) = nest(MULTIPART_DEPTH_MAX);
        assert!(check_usual(&content_type, &body).is_ok());
        let (content_type, body) = nest(MULTIPART_DEPTH_MAX + 1);
        assert_eq!(check_usual(&content_type, &body), Err(ContentFault::TooDeep));
    }

    #[test]
    fn a_nesting_bomb_of_cpim_is_too_deep() {
        let body = (0..1_000)
            .fold("x".to_owned(), |inner, level| cpim(if level == 0 { "text/plain" } else { "message/cpim" }, &inner));
        assert_eq!(check_usual("message/cpim", &body), Err(ContentFault::TooDeep));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(
            pieces in prop::collection::vec(prop_oneof![
                Just("--b\r\n".to_owned()), Just("--b--\r\n".to_owned()), Just("\r\n".to_owned()), Just("\n".to_owned()),
                Just("Content-Type: multipart/mixed; boundary=b\r\n".to_owned()),
                Just("Content-Type: message/cpim\r\n".to_owned()), Just("From: <sip:a@b>\r\n".to_owned()),
                Just("NS: x <urn:ietf:params:imdn>\r\nx.Message-ID: 1\r\n".to_owned()), "\\PC{0,8}",
            ], 0..40),
        ) {
            let body: String = pieces.concat();
            let _ = check_usual("multipart/mixed; boundary=b", &body);
            let _ = check_usual("message/cpim", &body);
        }
    }
}
