//! MIME as far as a body's structure goes: header blocks, media types, multipart delimiters.

use crate::base::limits::{BODY_HEADER_COUNT_MAX, MULTIPART_BOUNDARY_LEN_MAX};
use memchr::{memchr, memmem};

/// Why a header block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadFault {
    /// No empty line ends the headers.
    NotEnded,
    /// A line is not `name: value`, or there is none where there must be one.
    BadLine,
    /// More lines than [`BODY_HEADER_COUNT_MAX`].
    TooManyLines,
    /// A header that says what the content is occurs twice: two readers could believe different ones.
    Repeated,
    /// A header that says what the content is stands where another reader would look for something else.
    Misplaced,
}

/// A header line, continuation lines included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, as written.
    pub name: &'a [u8],
    /// What follows the colon, without the white space around it.
    pub value: &'a [u8],
}

impl Header<'_> {
    /// Compares the name without regard to case.
    ///
    /// RFC 2045 §2.1.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The lines of a header block.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    /// The lines of `head`, which ends before the empty line.
    ///
    /// RFC 2045 §3.
    pub const fn new(head: &'a [u8]) -> Self {
        Self { rest: head, count: 0 }
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<Header<'a>, HeadFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut len = 0;
        loop {
            len += memchr(b'\n', &self.rest[len..]).map_or(self.rest.len() - len, |at| at + 1);
            let follows = &self.rest[len..];
            if !follows.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
                break;
            }
            // Some readers take a line of white space for the empty line.
            let line_len = memchr(b'\n', follows).unwrap_or(follows.len());
            if follows[..line_len].trim_ascii().is_empty() {
                self.rest = &[];
                return Some(Err(HeadFault::BadLine));
            }
        }
        let (line, rest) = self.rest.split_at(len);
        self.rest = rest;
        self.count += 1;
        let header = parse_header(line).ok_or(HeadFault::BadLine);
        let header = if self.count > BODY_HEADER_COUNT_MAX { Err(HeadFault::TooManyLines) } else { header };
        if header.is_err() {
            self.rest = &[];
        }
        Some(header)
    }
}

fn parse_header(line: &[u8]) -> Option<Header<'_>> {
    let colon = memchr(b':', line)?;
    let name = &line[..colon];
    let is_name = !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic());
    is_name.then(|| Header { name, value: line[colon + 1..].trim_ascii() })
}

/// Splits at the first empty line, which belongs to neither side. Line ends may be bare line feeds.
///
/// RFC 3862 §2, RFC 2045 §3.
pub fn split_head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut start = 0;
    loop {
        let len = memchr(b'\n', &bytes[start..])?;
        if matches!(&bytes[start..start + len], b"" | b"\r") {
            return Some((&bytes[..start], &bytes[start + len + 1..]));
        }
        start += len + 1;
    }
}

/// A MIME entity: what its headers say of the content, and the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entity<'a> {
    content_type: Option<&'a [u8]>,
    disposition: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
    content: &'a [u8],
}

impl<'a> Entity<'a> {
    /// Reads a body part or the content of a CPIM message. Headers that reach the end leave an empty content.
    ///
    /// RFC 2045 §3.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, HeadFault> {
        let (head, content) = split_head(bytes).unwrap_or((bytes, &[]));
        let mut entity = Self { content_type: None, disposition: None, transfer_encoding: None, content };
        for header in Headers::new(head) {
            let header = header?;
            let field = if header.is("Content-Type") {
                &mut entity.content_type
            } else if header.is("Content-Disposition") {
                &mut entity.disposition
            } else if header.is("Content-Transfer-Encoding") {
                &mut entity.transfer_encoding
            } else {
                continue;
            };
            if field.replace(header.value).is_some() {
                return Err(HeadFault::Repeated);
            }
        }
        Ok(entity)
    }

    /// The value of Content-Type, parameters included.
    ///
    /// RFC 2045 §5.
    pub const fn content_type(&self) -> Option<&'a [u8]> {
        self.content_type
    }

    /// The value of Content-Disposition, parameters included.
    ///
    /// RFC 2183 §2.
    pub const fn content_disposition(&self) -> Option<&'a [u8]> {
        self.disposition
    }

    /// The value of Content-Transfer-Encoding.
    ///
    /// RFC 2045 §6.
    pub const fn transfer_encoding(&self) -> Option<&'a [u8]> {
        self.transfer_encoding
    }

    /// The content, byte for byte.
    ///
    /// RFC 2045 §3.
    pub const fn content(&self) -> &'a [u8] {
        self.content
    }

    /// True when the content stands as it is, and so a structure inside it can be seen. A composite type must.
    ///
    /// RFC 2045 §6.4.
    pub fn is_plainly_encoded(&self) -> bool {
        self.transfer_encoding.is_none_or(|name| {
            ["7bit", "8bit", "binary"].iter().any(|plain| name.eq_ignore_ascii_case(plain.as_bytes()))
        })
    }
}

/// A media type: `type/subtype` and its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaType<'a> {
    kind: &'a [u8],
    subtype: &'a [u8],
    parameters: &'a [u8],
}

impl<'a> MediaType<'a> {
    /// What an entity without Content-Type is.
    ///
    /// RFC 2045 §5.2.
    pub const TEXT_PLAIN: MediaType<'static> = MediaType { kind: b"text", subtype: b"plain", parameters: b"" };
    /// What a part of a `multipart/digest` without Content-Type is.
    ///
    /// RFC 2046 §5.1.5.
    pub const MESSAGE_RFC822: MediaType<'static> = MediaType { kind: b"message", subtype: b"rfc822", parameters: b"" };

    /// Reads the value of a Content-Type header.
    ///
    /// RFC 2045 §5.1.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let end = memchr(b';', value).unwrap_or(value.len());
        let slash = memchr(b'/', &value[..end])?;
        // SIP lets white space stand around the slash (RFC 3261 §25.1, SLASH).
        let (kind, subtype) = (value[..slash].trim_ascii(), value[slash + 1..end].trim_ascii());
        let is_token = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| is_token_byte(*byte));
        let valid = is_token(kind) && is_token(subtype);
        valid.then(|| Self { kind, subtype, parameters: &value[end..] })
    }

    /// Compares `type/subtype` without regard to case; parameters do not count.
    ///
    /// RFC 2045 §5.1.
    pub fn is(&self, essence: &str) -> bool {
        let (kind_len, essence) = (self.kind.len(), essence.as_bytes());
        essence.len() == kind_len + 1 + self.subtype.len()
            && essence[kind_len] == b'/'
            && essence[..kind_len].eq_ignore_ascii_case(self.kind)
            && essence[kind_len + 1..].eq_ignore_ascii_case(self.subtype)
    }

    /// True for every `multipart` subtype.
    ///
    /// RFC 2046 §5.1.
    pub fn is_multipart(&self) -> bool {
        self.kind.eq_ignore_ascii_case(b"multipart")
    }

    /// True when a media range of an Accept header (`type/subtype`, `type/*` or `*/*`) covers the type.
    ///
    /// RFC 3261 §20.1.
    pub fn matches(&self, range: &str) -> bool {
        match range.strip_suffix("/*") {
            Some("*") => true,
            Some(kind) => self.kind.eq_ignore_ascii_case(kind.as_bytes()),
            None => self.is(range),
        }
    }

    /// The boundary of a multipart type; `None` if it is missing, given twice or not a boundary.
    ///
    /// RFC 2046 §5.1.1.
    pub fn boundary(&self) -> Option<&'a [u8]> {
        let mut rest = self.parameters;
        let mut boundary = None;
        while !rest.trim_ascii().is_empty() {
            let (name, value, after) = parse_parameter(rest)?;
            rest = after;
            if name.eq_ignore_ascii_case(b"boundary") && boundary.replace(value).is_some() {
                return None;
            }
        }
        let boundary: &[u8] = boundary?;
        let valid = (1..=MULTIPART_BOUNDARY_LEN_MAX).contains(&boundary.len())
            && !boundary.ends_with(b" ")
            && boundary.iter().all(|byte| (b' '..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\'));
        valid.then_some(boundary)
    }
}

/// Takes `; name=value` or an empty `;` off the front: name, value without quotes, and the rest.
fn parse_parameter(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let bytes = bytes.trim_ascii_start().strip_prefix(b";")?.trim_ascii_start();
    if bytes.is_empty() || bytes[0] == b';' {
        return Some((&[], &[], bytes));
    }
    let equals = memchr(b'=', bytes)?;
    let name = bytes[..equals].trim_ascii();
    if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte)) {
        return None;
    }
    let value = bytes[equals + 1..].trim_ascii_start();
    if let Some(quoted) = value.strip_prefix(b"\"") {
        let mut end = 0;
        while *quoted.get(end)? != b'"' {
            end += if quoted[end] == b'\\' { 2 } else { 1 };
        }
        return Some((name, &quoted[..end], &quoted[end + 1..]));
    }
    // Tolerates more than a token: a boundary with a character that should have been quoted.
    let end = value.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t' | b'\r' | b'\n')).unwrap_or(value.len());
    Some((name, &value[..end], &value[end..]))
}

const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'{'..=b'~')
}

/// Why a multipart body cannot be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartsFault {
    /// The boundary occurs nowhere.
    NoDelimiter,
    /// A line starts with the boundary and goes on with something else, or a delimiter follows the closing one:
    /// readers differ in what they make of that.
    BadDelimiter,
}

/// The parts of a multipart body, each a MIME entity's bytes. Ends after the first fault.
///
/// A missing closing delimiter is tolerated: the last part reaches to the end.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    body: &'a [u8],
    boundary: &'a [u8],
    /// Where the next part starts; `None` before the first delimiter.
    start: Option<usize>,
    done: bool,
}

/// A delimiter line.
#[derive(Clone, Copy)]
struct Delimiter {
    /// Where the content before it ends.
    content_end: usize,
    /// Where the line after it starts.
    after: usize,
    closing: bool,
}

impl<'a> Parts<'a> {
    /// The parts of `body` between lines of `--boundary`.
    ///
    /// RFC 2046 §5.1.1.
    pub const fn new(body: &'a [u8], boundary: &'a [u8]) -> Self {
        Self { body, boundary, start: None, done: false }
    }

    fn step(&mut self) -> Result<Option<&'a [u8]>, PartsFault> {
        let start = match self.start {
            Some(start) => start,
            None => {
                let first = self.delimiter_from(0)?.ok_or(PartsFault::NoDelimiter)?;
                if first.closing {
                    self.done = true;
                    self.check_epilogue(first.after)?;
                    return Ok(None);
                }
                first.after
            }
        };
        let Some(next) = self.delimiter_from(start)? else {
            self.done = true;
            return Ok(Some(&self.body[start..]));
        };
        self.start = Some(next.after);
        if next.closing {
            self.done = true;
            self.check_epilogue(next.after)?;
        }
        Ok(Some(&self.body[start..next.content_end.max(start)]))
    }

    fn check_epilogue(&self, start: usize) -> Result<(), PartsFault> {
        match self.delimiter_from(start)? {
            Some(_) => Err(PartsFault::BadDelimiter),
            None => Ok(()),
        }
    }

    /// The first delimiter line at or after `start`, which is the start of a line.
    fn delimiter_from(&self, start: usize) -> Result<Option<Delimiter>, PartsFault> {
        let mut line = start;
        loop {
            let rest = &self.body[line..];
            if let Some(tail) = rest.strip_prefix(b"--").and_then(|tail| tail.strip_prefix(self.boundary)) {
                return self.read_delimiter(line, tail).map(Some);
            }
            match memmem::find(rest, b"\n--") {
                Some(at) => line += at + 1,
                None => return Ok(None),
            }
        }
    }

    fn read_delimiter(&self, line: usize, tail: &[u8]) -> Result<Delimiter, PartsFault> {
        let tail_len = memchr(b'\n', tail).map_or(tail.len(), |at| at + 1);
        let after = self.body.len() - tail.len() + tail_len;
        let closing = tail.starts_with(b"--");
        let padding = &tail[if closing { 2 } else { 0 }..tail_len];
        if !padding.trim_ascii().is_empty() {
            return Err(PartsFault::BadDelimiter);
        }
        let before = &self.body[..line];
        let before = before.strip_suffix(b"\n").unwrap_or(before);
        let before = before.strip_suffix(b"\r").unwrap_or(before);
        Ok(Delimiter { content_end: before.len(), after, closing })
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<&'a [u8], PartsFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let part = self.step().transpose();
        self.done |= !matches!(part, Some(Ok(_)));
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts<'a>(body: &'a str, boundary: &'a str) -> Result<Vec<&'a str>, PartsFault> {
        Parts::new(body.as_bytes(), boundary.as_bytes()).map(|part| part.map(|p| str::from_utf8(p).unwrap())).collect()
    }

    fn boundary_of(value: &str) -> Option<&[u8]> {
        MediaType::parse(value.as_bytes()).unwrap().boundary()
    }

    #[test]
    fn media_types_compare_without_case_and_parameters() {
        let media = MediaType::parse(b" Text/Plain ; charset=UTF-8").unwrap();
        assert!(media.is("text/plain") && !media.is("text/html") && !media.is_multipart());
        for range in ["text/plain", "TEXT/PLAIN", "text/*", "*/*"] {
            assert!(media.matches(range), "{range}");
        }
        for range in ["text/html", "message/*", "tex/*", "*"] {
            assert!(!media.matches(range), "{range}");
        }
    }

    #[test]
    fn what_is_no_media_type_is_refused() {
        for value in ["", "text", "text/", "/plain", "text plain/x", "text/plain (comment)", "text/pl\0ain", "a/b/c"] {
            assert_eq!(MediaType::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn boundaries_are_found_quoted_or_not_among_other_parameters() {
        assert_eq!(boundary_of("multipart/mixed;boundary=abc"), Some(&b"abc"[..]));
        assert_eq!(boundary_of("multipart/mixed; charset=\"a;b=c\\\"\" ; Boundary = \"a b:c\" ;"), Some(&b"a b:c"[..]));
        assert_eq!(boundary_of("multipart/mixed;\r\n boundary=\"x\"\r\n"), Some(&b"x"[..]));
    }

    #[test]
    fn doubtful_boundaries_are_refused() {
        let long = format!("multipart/mixed; boundary={}", "b".repeat(71));
        for value in [
            "multipart/mixed",
            "multipart/mixed; boundary=",
            "multipart/mixed; boundary=\"\"",
            "multipart/mixed; boundary=\"a ",
            "multipart/mixed; boundary=\"a \"",
            "multipart/mixed; boundary=\"a\\b\"",
            "multipart/mixed; boundary=a; boundary=b",
            "multipart/mixed; boundary*=a",
            "multipart/mixed; junk; boundary=a",
            &long,
        ] {
            assert_eq!(boundary_of(value), None, "{value}");
        }
    }

    #[test]
    fn parts_lie_between_delimiters() {
        let body = "preamble\r\n--b\r\nA: 1\r\n\r\none\r\n--b  \r\n\r\ntwo\r\n\r\n--b--\r\nepilogue";
        assert_eq!(parts(body, "b").unwrap(), ["A: 1\r\n\r\none", "\r\ntwo\r\n"]);
        assert_eq!(parts("--b\n\none\n--b\n\ntwo\n--b--", "b").unwrap(), ["\none", "\ntwo"]);
        assert_eq!(parts("--b\r\n--b\r\n--b--", "b").unwrap(), ["", ""]);
        assert_eq!(parts("--b--\r\n", "b").unwrap(), Vec::<&str>::new());
    }

    #[test]
    fn a_missing_closing_delimiter_is_tolerated_and_a_missing_boundary_is_not() {
        assert_eq!(parts("--b\r\n\r\none", "b").unwrap(), ["\r\none"]);
        assert_eq!(parts("--c\r\n\r\none", "b"), Err(PartsFault::NoDelimiter));
        assert_eq!(parts("", "b"), Err(PartsFault::NoDelimiter));
        assert_eq!(parts("x--b\r\n\r\none", "b"), Err(PartsFault::NoDelimiter));
    }

    #[test]
    fn delimiters_that_readers_disagree_on_are_refused() {
        for body in
            ["--b\r\n\r\none\r\n--bX\r\n\r\ntwo\r\n--b--", "--b--\r\n--b\r\n\r\none\r\n--b--", "--b\r\n\r\n1\r\n--b--x"]
        {
            assert_eq!(parts(body, "b"), Err(PartsFault::BadDelimiter), "{body}");
        }
    }

    #[test]
    fn a_boundary_of_dashes_is_found_where_a_line_starts() {
        assert_eq!(
            parts("-----\r\n\r\n- ---- --\r\n-----\r\n\r\ntwo\r\n-------", "---").unwrap(),
            ["\r\n- ---- --", "\r\ntwo"]
        );
    }

    #[test]
    fn an_entity_knows_its_headers_in_any_case_and_order() {
        let entity =
            Entity::parse(b"content-TYPE: a/b;\r\n c=d\r\nX: y\r\nContent-Disposition:render\r\n\r\nbody").unwrap();
        assert_eq!(entity.content_type(), Some(&b"a/b;\r\n c=d"[..]));
        assert_eq!(entity.content_disposition(), Some(&b"render"[..]));
        assert_eq!((entity.transfer_encoding(), entity.content()), (None, &b"body"[..]));
        assert!(entity.is_plainly_encoded());
    }

    #[test]
    fn an_entity_may_lack_headers_or_content() {
        assert_eq!(Entity::parse(b"\r\nbody").unwrap().content(), b"body");
        assert_eq!(Entity::parse(b"").unwrap().content(), b"");
        assert_eq!(Entity::parse(b"Content-Type: a/b").unwrap().content_type(), Some(&b"a/b"[..]));
    }

    #[test]
    fn doubtful_headers_are_refused() {
        let many = "A: b\r\n".repeat(BODY_HEADER_COUNT_MAX + 1);
        for (text, fault) in [
            ("no colon\r\n\r\n", HeadFault::BadLine),
            ("Content-Type : a/b\r\n\r\n", HeadFault::BadLine),
            (" folded: first\r\n\r\n", HeadFault::BadLine),
            ("A: b\r\n \r\nContent-Type: a/b\r\n\r\n", HeadFault::BadLine),
            ("Content-Type: a/b\r\ncontent-type: c/d\r\n\r\n", HeadFault::Repeated),
            (&many, HeadFault::TooManyLines),
        ] {
            assert_eq!(Entity::parse(text.as_bytes()), Err(fault), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart_without_a_panic(
            body in prop::collection::vec(prop_oneof![Just(b'-'), Just(b'\n'), Just(b'\r'), Just(b'b'), any::<u8>()], 0..200),
            value in prop::collection::vec(prop_oneof![Just(b';'), Just(b'"'), Just(b'\\'), Just(b'='), Just(b' '), any::<u8>()], 0..60),
        ) {
            let _ = Entity::parse(&body);
            let parts = Parts::new(&body, b"b").take(300).count();
            prop_assert!(parts <= body.len() + 1);
            let mut whole = b"multipart/mixed; ".to_vec();
            whole.extend_from_slice(&value);
            let _ = MediaType::parse(&whole).and_then(|media| media.boundary());
        }
    }
}
