//! CPIM: a view over the bytes of a `message/cpim` body.

use super::mime::{Entity, Header, Headers, MediaType, split_head};
use std::borrow::Cow;

pub use super::mime::HeadFault as CpimFault;

/// The media type.
pub const MEDIA_TYPE: &str = "message/cpim";
/// The namespace of IMDN's headers.
pub const IMDN_NAMESPACE: &str = "urn:ietf:params:imdn";

/// A CPIM message: its headers, and the MIME entity it wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpim<'a> {
    head: &'a [u8],
    entity: Entity<'a>,
}

/// The notifications that the sender asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dispositions {
    /// `positive-delivery`.
    pub positive_delivery: bool,
    /// `negative-delivery`.
    pub negative_delivery: bool,
    /// `display`.
    pub display: bool,
    /// `processing`.
    pub processing: bool,
    /// `interworking`, of OMA CPM.
    pub interworking: bool,
}

impl<'a> Cpim<'a> {
    /// Reads a `message/cpim` body.
    ///
    /// Takes lines that end with a bare line feed, headers in any order and case, and a leading block that repeats
    /// `Content-Type: message/cpim`, as the examples of the specification have it.
    ///
    /// RFC 3862 §2.
    pub fn parse(body: &'a [u8]) -> Result<Self, CpimFault> {
        let (mut head, mut rest) = split_head(body).ok_or(CpimFault::NotEnded)?;
        let wrapped = is_outer(head);
        if wrapped {
            (head, rest) = split_head(rest).ok_or(CpimFault::NotEnded)?;
        }
        if head.is_empty() {
            return Err(CpimFault::BadLine);
        }
        for header in Headers::new(head) {
            // A reader that does not skip the outer block takes this one for the headers of the content.
            if header?.is("Content-Type") && wrapped {
                return Err(CpimFault::Misplaced);
            }
        }
        Ok(Self { head, entity: Entity::parse(rest)? })
    }

    /// The value of the first header of this name without its parameters, unescaped only by [`unescape`].
    ///
    /// RFC 3862 §3.1.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers().find(|header| header.is(name)).and_then(value_of)
    }

    /// The sender as the message names it: a formal name and a URI in angle brackets. Never an identity for policy.
    ///
    /// RFC 3862 §4.1.
    pub fn from(&self) -> Option<&'a str> {
        self.header("From")
    }

    /// The first recipient as the message names it.
    ///
    /// RFC 3862 §4.2.
    pub fn to(&self) -> Option<&'a str> {
        self.header("To")
    }

    /// When the message was sent, in the sender's words.
    ///
    /// RFC 3862 §4.4.
    pub fn date_time(&self) -> Option<&'a str> {
        self.header("DateTime")
    }

    /// The Message-ID in the IMDN namespace, whatever prefix it has here.
    ///
    /// RFC 5438 §6.3.
    pub fn imdn_message_id(&self) -> Option<&'a str> {
        self.imdn_headers("Message-ID").find_map(value_of).filter(|id| !id.is_empty())
    }

    /// The notifications asked for.
    ///
    /// RFC 5438 §6.2.
    pub fn disposition_notification(&self) -> Dispositions {
        let mut asked = Dispositions::default();
        let values = self.imdn_headers("Disposition-Notification").filter_map(value_of);
        for word in values.flat_map(|value| value.split(',')) {
            // Parameters may follow the word.
            let word = word.split(';').next().unwrap_or_default().trim();
            let flag = match word {
                _ if word.eq_ignore_ascii_case("positive-delivery") => &mut asked.positive_delivery,
                _ if word.eq_ignore_ascii_case("negative-delivery") => &mut asked.negative_delivery,
                _ if word.eq_ignore_ascii_case("display") => &mut asked.display,
                _ if word.eq_ignore_ascii_case("processing") => &mut asked.processing,
                _ if word.eq_ignore_ascii_case("interworking") => &mut asked.interworking,
                _ => continue,
            };
            *flag = true;
        }
        asked
    }

    /// The wrapped entity.
    ///
    /// RFC 3862 §2.4.
    pub const fn entity(&self) -> &Entity<'a> {
        &self.entity
    }

    /// The Content-Type of the content, parameters included.
    ///
    /// RFC 3862 §2.4.
    pub const fn content_type(&self) -> Option<&'a [u8]> {
        self.entity.content_type()
    }

    /// The Content-Disposition of the content, parameters included.
    ///
    /// RFC 3862 §2.4.
    pub const fn content_disposition(&self) -> Option<&'a [u8]> {
        self.entity.content_disposition()
    }

    /// The Content-Transfer-Encoding of the content.
    ///
    /// RFC 3862 §2.4.
    pub const fn transfer_encoding(&self) -> Option<&'a [u8]> {
        self.entity.transfer_encoding()
    }

    /// The content, byte for byte.
    ///
    /// RFC 3862 §2.4.
    pub const fn content(&self) -> &'a [u8] {
        self.entity.content()
    }

    /// The headers, which [`Self::parse`] has found well-formed.
    fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        Headers::new(self.head).filter_map(Result::ok)
    }

    /// The headers with this name in the IMDN namespace: `prefix.name`, or the bare name if the namespace is the
    /// default one.
    fn imdn_headers(&self, name: &'static str) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let cpim = *self;
        self.headers().filter(move |header| {
            let dot = header.name.iter().rposition(|byte| *byte == b'.');
            let (prefix, local) = match dot {
                Some(dot) => (&header.name[..dot], &header.name[dot + 1..]),
                None => (&header.name[..0], header.name),
            };
            local.eq_ignore_ascii_case(name.as_bytes()) && cpim.is_imdn_prefix(prefix)
        })
    }

    /// True when an NS header binds the prefix to the IMDN namespace, with white space before `<` or without.
    fn is_imdn_prefix(&self, prefix: &[u8]) -> bool {
        self.headers().filter(|header| header.is("NS")).filter_map(value_of).any(|value| {
            let Some((bound, uri)) = value.split_once('<') else { return false };
            let uri = uri.strip_suffix('>').unwrap_or(uri).trim();
            bound.trim_ascii().as_bytes() == prefix && uri.eq_ignore_ascii_case(IMDN_NAMESPACE)
        })
    }
}

/// True for a block that holds MIME headers alone and says that a CPIM message follows.
fn is_outer(head: &[u8]) -> bool {
    let mut says_cpim = false;
    for header in Headers::new(head) {
        let Ok(header) = header else { return false };
        let name = header.name;
        let is_mime = header.is("MIME-Version") || name.len() > 8 && name[..8].eq_ignore_ascii_case(b"Content-");
        if !is_mime {
            return false;
        }
        says_cpim |= header.is("Content-Type") && MediaType::parse(header.value).is_some_and(|it| it.is(MEDIA_TYPE));
    }
    says_cpim
}

/// The value behind its parameters (`Subject:;lang=fr Bonjour`). A value never spans lines, so it can be written into
/// a header elsewhere.
///
/// RFC 3862 §3.2, §3.3.
fn value_of<'a>(header: Header<'a>) -> Option<&'a str> {
    let value = str::from_utf8(header.value).ok().filter(|value| !value.contains(['\r', '\n', '\0']))?;
    match value.starts_with(';') {
        true => value.split_once(' ').map(|(_, value)| value.trim()),
        false => Some(value),
    }
}

/// The URI of an address: what stands in angle brackets, or all of it if there are none.
///
/// RFC 3862 §3.6.
pub fn uri_of(address: &str) -> &str {
    match address.rsplit_once('<') {
        Some((_, uri)) => uri.split('>').next().unwrap_or(uri).trim(),
        None => address.trim(),
    }
}

/// Resolves the escapes of a header value; what is no escape stays as it is.
///
/// RFC 3862 §2.3.
pub fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (character, len) = read_escape(&rest[at..]);
        text.push(character);
        rest = &rest[at + len..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// The character that an escape stands for, and the escape's length. `escape` starts with a backslash.
fn read_escape(escape: &str) -> (char, usize) {
    let bytes = escape.as_bytes();
    let character = match bytes.get(1) {
        Some(b'\\') => '\\',
        Some(b'"') => '"',
        Some(b'\'') => '\'',
        Some(b'b') => '\u{8}',
        Some(b't') => '\t',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b'u') => {
            let digits = escape.get(2..6).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            return code.and_then(char::from_u32).map_or(('\\', 1), |character| (character, 6));
        }
        _ => return ('\\', 1),
    };
    (character, 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRACE: &[u8] = b"From: <sip:anonymous@anonymous.invalid>\r\n\
        To: <tel:+15550100>\r\n\
        NS: imdn<urn:ietf:params:imdn>\r\n\
        imdn.Message-ID: MsgId-1\r\n\
        DateTime: 2026-01-02T03:04:05.000Z\r\n\
        imdn.Disposition-Notification: positive-delivery, negative-delivery,display\r\n\
        \r\n\
        Content-Type: text/plain;charset=UTF-8\r\n\
        Content-Transfer-Encoding: base64\r\n\
        \r\n\
        SGVsbG8=";

    #[test]
    fn a_message_from_the_field_is_understood() {
        let cpim = Cpim::parse(TRACE).unwrap();
        assert_eq!(cpim.from(), Some("<sip:anonymous@anonymous.invalid>"));
        assert_eq!(cpim.to().map(uri_of), Some("tel:+15550100"));
        assert_eq!(cpim.imdn_message_id(), Some("MsgId-1"));
        assert_eq!(cpim.date_time(), Some("2026-01-02T03:04:05.000Z"));
        let asked = cpim.disposition_notification();
        assert!(asked.positive_delivery && asked.negative_delivery && asked.display);
        assert!(!asked.processing && !asked.interworking);
        assert_eq!(cpim.content_type(), Some(&b"text/plain;charset=UTF-8"[..]));
        assert_eq!(cpim.transfer_encoding(), Some(&b"base64"[..]));
        assert_eq!(cpim.content(), b"SGVsbG8=");
    }

    #[test]
    fn bare_line_feeds_end_lines_as_well() {
        let text = String::from_utf8(TRACE.to_vec()).unwrap().replace('\r', "");
        let cpim = Cpim::parse(text.as_bytes()).unwrap();
        assert_eq!((cpim.imdn_message_id(), cpim.content()), (Some("MsgId-1"), &b"SGVsbG8="[..]));
    }

    #[test]
    fn any_prefix_bound_to_the_imdn_namespace_counts_wherever_it_is_declared() {
        for (head, id) in [
            ("NS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: a", Some("a")),
            ("x.Message-ID: b\r\nns:x<urn:ietf:params:imdn>", Some("b")),
            ("NS: <urn:ietf:params:imdn>\r\nMessage-ID: c", Some("c")),
            ("NS: im.dn <URN:ietf:params:imdn>\r\nim.dn.message-id: d", Some("d")),
            ("imdn.Message-ID: e", None),
            ("NS: imdn <urn:other>\r\nimdn.Message-ID: f", None),
            ("NS: x <urn:ietf:params:imdn>\r\nimdn.Message-ID: g", None),
            ("NS: imdn <urn:ietf:params:imdn>\r\nMessage-ID: h", None),
            ("NS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID:", None),
            ("NS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: i\r\n j", None),
        ] {
            let text = format!("{head}\r\n\r\nContent-type: text/plain\r\n\r\nhello");
            assert_eq!(Cpim::parse(text.as_bytes()).unwrap().imdn_message_id(), id, "{head}");
        }
    }

    #[test]
    fn dispositions_of_several_lines_and_with_parameters_add_up() {
        let text = "NS: imdn <urn:ietf:params:imdn>\r\nimdn.Disposition-Notification: Processing;x=y\r\n\
            imdn.Disposition-Notification: interworking , unheard-of\r\n\r\n\r\n";
        let asked = Cpim::parse(text.as_bytes()).unwrap().disposition_notification();
        assert_eq!(asked, Dispositions { processing: true, interworking: true, ..Dispositions::default() });
    }

    #[test]
    fn the_outer_block_of_the_examples_is_skipped() {
        let text =
            "Content-type: Message/CPIM\r\n\r\nFrom: Bob <im:bob@home.example>\r\n\r\nContent-Type: a/b\r\n\r\nx";
        let cpim = Cpim::parse(text.as_bytes()).unwrap();
        assert_eq!(cpim.from().map(uri_of), Some("im:bob@home.example"));
        assert_eq!((cpim.content_type(), cpim.content()), (Some(&b"a/b"[..]), &b"x"[..]));
    }

    #[test]
    fn an_outer_block_cannot_hide_the_real_content_type() {
        // With a CPIM header in it, the first block is the message's own, whatever else it says.
        let text = "From: <sip:a@b>\r\nContent-Type: message/cpim\r\n\r\nContent-Type: image/png\r\n\r\nContent-Type: text/plain\r\n\r\nx";
        assert_eq!(Cpim::parse(text.as_bytes()).unwrap().content_type(), Some(&b"image/png"[..]));
        let text = "Content-Type: message/cpim\r\n\r\nFrom: <sip:a@b>\r\nContent-Type: image/png\r\n\r\nContent-Type: text/plain\r\n\r\nx";
        assert_eq!(Cpim::parse(text.as_bytes()), Err(CpimFault::Misplaced));
    }

    #[test]
    fn malformed_messages_are_refused() {
        for (text, fault) in [
            ("", CpimFault::NotEnded),
            ("From: <sip:a@b>\r\n", CpimFault::NotEnded),
            ("\r\nContent-Type: a/b\r\n\r\nx", CpimFault::BadLine),
            ("hello\r\n\r\nContent-Type: a/b\r\n\r\nx", CpimFault::BadLine),
            ("From: <sip:a@b>\r\n\r\nhello\r\n\r\nx", CpimFault::BadLine),
            ("From: <sip:a@b>\r\n\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\nx", CpimFault::Repeated),
        ] {
            assert_eq!(Cpim::parse(text.as_bytes()), Err(fault), "{text}");
        }
    }

    #[test]
    fn parameters_stand_before_the_value() {
        let cpim = Cpim::parse(b"Subject:;lang=fr Bonjour tous\r\nFrom:<sip:a@b>\r\n\r\n").unwrap();
        assert_eq!(cpim.header("subject"), Some("Bonjour tous"));
        assert_eq!(cpim.from(), Some("<sip:a@b>"));
    }

    #[test]
    fn escapes_are_resolved_and_what_is_none_stays() {
        assert_eq!(unescape("plain"), "plain");
        assert_eq!(unescape(r#"a\u00e9\\\"\'\t\n\r\b"#), "a\u{e9}\\\"'\t\n\r\u{8}");
        assert_eq!(unescape(r"\x \u12 \ud800 \u+123 é\"), r"\x \u12 \ud800 \u+123 é\");
        assert_eq!(unescape("\\u00e\u{e9}"), "\\u00e\u{e9}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            cut in 0..TRACE.len(), junk in prop::collection::vec(any::<u8>(), 0..40), text in "\\PC*",
        ) {
            let mut body = TRACE[..cut].to_vec();
            body.extend_from_slice(&junk);
            body.extend_from_slice(&TRACE[cut..]);
            if let Ok(cpim) = Cpim::parse(&body) {
                let _ = (cpim.from(), cpim.imdn_message_id(), cpim.disposition_notification());
            }
            let _ = (unescape(&text), uri_of(&text));
        }
    }
}
