//! The session description in a SIP body: alone, or as one part of a multipart one (SPEC finding 3, LM-4x).

use crate::cpim::mime::{Entity, MediaType, Parts, split_head};
use crate::sip::message::Message;
use crate::sip::scan::Name;

/// Why no description can be read from a body. The peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyFault {
    /// There is no body.
    Absent,
    /// Neither `application/sdp` nor a multipart with exactly one such part.
    MediaType,
    /// The content is encoded.
    Encoding,
}

/// A body with a session description in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionBody<'a> {
    /// The description.
    pub sdp: &'a [u8],
    /// The multipart body that it is a part of.
    multipart: Option<Multipart<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Multipart<'a> {
    content_type: &'a [u8],
    /// The body up to the description's part.
    before: &'a [u8],
    /// The headers of that part, the empty line included.
    head: &'a [u8],
    /// The body behind the description.
    after: &'a [u8],
}

impl<'a> SessionBody<'a> {
    /// Finds the description of a message.
    pub fn of(message: &Message<'a>) -> Result<Self, BodyFault> {
        let body = message.body();
        if body.is_empty() {
            return Err(BodyFault::Absent);
        }
        if message.value(Name::ContentEncoding).is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
            return Err(BodyFault::Encoding);
        }
        let content_type = message.value(Name::ContentType).ok_or(BodyFault::MediaType)?;
        let media_type = MediaType::parse(content_type).ok_or(BodyFault::MediaType)?;
        if media_type.is("application/sdp") {
            return Ok(Self { sdp: body, multipart: None });
        }
        if !media_type.is_multipart() {
            return Err(BodyFault::MediaType);
        }
        let boundary = media_type.boundary().ok_or(BodyFault::MediaType)?;
        let mut found = None;
        for part in Parts::new(body, boundary) {
            let part = part.map_err(|_| BodyFault::MediaType)?;
            let entity = Entity::parse(part).map_err(|_| BodyFault::MediaType)?;
            let is_sdp = media_type_of(part).is_some_and(|kind| kind.is("application/sdp"));
            if !is_sdp {
                continue;
            }
            if found.is_some() || !entity.is_plainly_encoded() {
                return Err(BodyFault::MediaType);
            }
            let sdp = entity.content();
            let start = part.as_ptr() as usize - body.as_ptr() as usize;
            let content = start + part.len() - sdp.len();
            let multipart = Multipart {
                content_type,
                before: &body[..start],
                head: &body[start..content],
                after: &body[content + sdp.len()..],
            };
            found = Some(Self { sdp, multipart: Some(multipart) });
        }
        found.ok_or(BodyFault::MediaType)
    }

    /// True when the description is the whole body.
    pub const fn is_alone(&self) -> bool {
        self.multipart.is_none()
    }

    /// The Content-Type of the same body with another description.
    pub fn content_type(&self) -> &'a [u8] {
        self.multipart.map_or(b"application/sdp", |multipart| multipart.content_type)
    }

    /// Writes the same body with another description: the other parts pass unchanged.
    pub fn write_with(&self, out: &mut Vec<u8>, sdp: &[u8]) {
        let Some(Multipart { before, head, after, .. }) = self.multipart else {
            out.extend_from_slice(sdp);
            return;
        };
        out.extend_from_slice(before);
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            const LENGTH: &[u8] = b"content-length";
            if !line.get(..LENGTH.len()).is_some_and(|name| name.eq_ignore_ascii_case(LENGTH)) {
                out.extend_from_slice(line);
            }
        }
        out.extend_from_slice(sdp);
        out.extend_from_slice(after);
    }
}

fn media_type_of(part: &[u8]) -> Option<MediaType<'_>> {
    let (head, _) = split_head(part)?;
    let mut headers = crate::cpim::mime::Headers::new(head).flatten();
    headers.find(|header| header.is("Content-Type")).and_then(|header| MediaType::parse(header.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::Scan;

    fn with<R>(headers: &str, body: &str, read: impl FnOnce(Result<SessionBody<'_>, BodyFault>) -> R) -> R {
        let text = format!("INVITE sip:b@h SIP/2.0\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        read(SessionBody::of(&Message { bytes: text.as_bytes(), scan: &scan }))
    }

    #[test]
    fn a_description_alone_is_the_body() {
        with("Content-Type: Application/SDP;charset=x\r\n", "v=0\r\n", |body| {
            let body = body.unwrap();
            let mut out = Vec::new();
            body.write_with(&mut out, b"new");
            assert_eq!(
                (body.sdp, body.content_type(), &out[..]),
                (&b"v=0\r\n"[..], &b"application/sdp"[..], &b"new"[..])
            );
        });
    }

    #[test]
    fn the_other_parts_pass_unchanged() {
        let whole = "pre\r\n--x\r\nContent-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n\r\n--x\r\n\
                     Content-Type: message/cpim\r\n\r\nFrom: a\r\n--x--\r\n";
        with("Content-Type: multipart/mixed;boundary=x\r\n", whole, |body| {
            let body = body.unwrap();
            assert_eq!(body.sdp, b"v=0\r\n");
            let mut out = Vec::new();
            body.write_with(&mut out, b"v=1\r\n");
            let expected = whole.replace("v=0", "v=1").replace("Content-Length: 5\r\n", "");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        });
    }

    #[test]
    fn what_holds_no_description_is_refused() {
        let multipart = "Content-Type: multipart/mixed;boundary=x\r\n";
        let sdp = "--x\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n";
        for (headers, body, fault) in [
            ("", String::new(), BodyFault::Absent),
            ("", "v=0".into(), BodyFault::MediaType),
            ("Content-Type: text/plain\r\n", "v=0".into(), BodyFault::MediaType),
            ("Content-Type: multipart/mixed\r\n", "v=0".into(), BodyFault::MediaType),
            (multipart, "--x\r\nContent-Type: text/plain\r\n\r\nhi\r\n--x--".into(), BodyFault::MediaType),
            (multipart, format!("{sdp}{sdp}--x--"), BodyFault::MediaType),
            ("Content-Encoding: gzip\r\nContent-Type: application/sdp\r\n", "v=0".into(), BodyFault::Encoding),
        ] {
            with(headers, &body, |found| assert_eq!(found.unwrap_err(), fault, "{headers}{body}"));
        }
    }
}
