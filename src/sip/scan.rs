//! One pass over a SIP message: where the start line, each header field and the body stand.
//!
//! The scan copies nothing and allocates nothing once its table has grown to the traffic's header count. It is tolerant
//! where RFC 3261 §7.3.1 and RFC 4475 are (compact forms, folding, blanks around the colon, bare LF), and records the first
//! fault instead of giving up, so that a malformed request can still be answered.

use crate::base::limits::{SIP_HEAD_LEN_MAX, SIP_HEADER_COUNT_MAX};
use memchr::memchr;

/// Declares the header fields that the product reads, with full and compact names (RFC 3261 §7.3.3).
macro_rules! names {
    ($($variant:ident = $full:literal $(, $compact:literal)?;)+) => {
        /// A header field name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Name { $(#[doc = $full] $variant,)+ /** Any other field. */ Other }

        impl Name {
            /// Number of names, [`Name::Other`] included.
            pub const COUNT: usize = Name::Other as usize + 1;
            const FULL: &'static [(Name, &'static str)] = &[$((Name::$variant, $full),)+];

            /// The full name as written.
            pub fn as_str(self) -> &'static str { match self { $(Name::$variant => $full,)+ Name::Other => "" } }

            fn of_compact(byte: u8) -> Name {
                match byte.to_ascii_lowercase() {
                    $($(b if b == $compact => Name::$variant,)?)+
                    _ => Name::Other,
                }
            }
        }
    };
}

names! {
    Via = "Via", b'v';
    From = "From", b'f';
    To = "To", b't';
    CallId = "Call-ID", b'i';
    CSeq = "CSeq";
    MaxForwards = "Max-Forwards";
    Route = "Route";
    RecordRoute = "Record-Route";
    Contact = "Contact", b'm';
    ContentType = "Content-Type", b'c';
    ContentLength = "Content-Length", b'l';
    ContentEncoding = "Content-Encoding", b'e';
    Expires = "Expires";
    Date = "Date";
    Require = "Require";
    ProxyRequire = "Proxy-Require";
    Supported = "Supported", b'k';
    Subject = "Subject", b's';
    ReferredBy = "Referred-By", b'b';
    AcceptContact = "Accept-Contact", b'a';
    RejectContact = "Reject-Contact", b'j';
    Privacy = "Privacy";
    Warning = "Warning";
    RetryAfter = "Retry-After";
    UserAgent = "User-Agent";
    Server = "Server";
    PAssertedIdentity = "P-Asserted-Identity";
    PAssertedService = "P-Asserted-Service";
    PPreferredIdentity = "P-Preferred-Identity";
    PPreferredService = "P-Preferred-Service";
    PServedUser = "P-Served-User";
    ConversationId = "Conversation-ID";
    ContributionId = "Contribution-ID";
    InReplyToContributionId = "InReplyTo-Contribution-ID";
    RecordedTimestamp = "Timestamp";
    MinExpires = "Min-Expires";
    SessionExpires = "Session-Expires", b'x';
    MinSe = "Min-SE";
    Allow = "Allow";
    Rseq = "RSeq";
    Rack = "RAck";
    Reason = "Reason";
    ContentDisposition = "Content-Disposition";
    Replaces = "Replaces";
}

/// Buckets of names by length, each with its first letter in lower case, so that one comparison or two decide.
static BY_LENGTH: [[(u8, Name); 8]; 26] = {
    let mut table = [[(0, Name::Other); 8]; 26];
    let mut index = 0;
    while index < Name::FULL.len() {
        let (name, text) = Name::FULL[index];
        let bucket = &mut table[text.len()];
        let mut place = 0;
        while !matches!(bucket[place].1, Name::Other) {
            place += 1;
        }
        bucket[place] = (text.as_bytes()[0] | 0x20, name);
        index += 1;
    }
    table
};

impl Name {
    /// Recognises a field name, full or compact, in any case. RFC 3261 §7.3.3.
    pub fn of(text: &[u8]) -> Self {
        if let [byte] = text {
            return Self::of_compact(*byte);
        }
        let Some(bucket) = BY_LENGTH.get(text.len()) else { return Self::Other };
        // The first letter tells most names of one length apart.
        let first = text.first().map_or(0, |byte| byte | 0x20);
        for (letter, name) in bucket {
            if *letter == 0 {
                break;
            }
            // As everybody writes it, or in another case.
            let full = name.as_str().as_bytes();
            if *letter == first && (full == text || full.eq_ignore_ascii_case(text)) {
                return *name;
            }
        }
        Self::Other
    }
}

/// A byte range of the scanned message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    const fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    /// The bytes.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..self.end as usize]
    }
}

/// One header field, folded lines included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which.
    pub name: Name,
    /// The name as written.
    pub name_span: Span,
    /// The value without surrounding white space.
    pub value: Span,
    /// The whole field, from the name to behind the line end.
    pub line: Span,
}

/// The start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// `METHOD uri SIP/2.0`
    Request {
        /// The method.
        method: Span,
        /// The Request-URI.
        uri: Span,
    },
    /// `SIP/2.0 status reason`
    Response {
        /// The status code.
        status: u16,
        /// The reason phrase, which may be empty.
        reason: Span,
    },
}

/// Why a message is malformed. The peer's fault, every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// No bytes but line ends.
    Empty,
    /// Over a bound of `base::limits`.
    TooLarge,
    /// Neither a request line nor a status line (RFC 3261 §7.1, §7.2).
    StartLine,
    /// A SIP version other than 2.0 (RFC 3261 §21.5.6).
    Version,
    /// A line of the header section that is no header field (RFC 3261 §7.3).
    HeaderLine,
    /// No empty line after the header section.
    NoEnd,
    /// A Content-Length that is no number, repeated with another value, or beyond the message (RFC 3261 §18.3).
    ContentLength,
}

const NONE: u16 = u16::MAX;

/// The index of one message. Reused from message to message so that it allocates once.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The start line.
    pub start: Start,
    /// Every header field in order.
    pub fields: Vec<Field>,
    /// The body, as long as Content-Length says.
    pub body: Span,
    /// Where the empty line begins: header fields may be written in front of it.
    pub head_end: u32,
    /// The first thing that is wrong with the message, if anything.
    pub fault: Option<Fault>,
    first: [u16; Name::COUNT],
    has_content_length: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self {
            start: Start::Response { status: 0, reason: Span::default() },
            fields: Vec::with_capacity(64),
            body: Span::default(),
            head_end: 0,
            fault: None,
            first: [NONE; Name::COUNT],
            has_content_length: false,
        }
    }
}

impl Scan {
    /// Indexes one whole message. `Err` means that nothing can be made of it; a fault that leaves headers readable is in
    /// [`Scan::fault`].
    ///
    /// RFC 3261 §7.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.fields.clear();
        self.first = [NONE; Name::COUNT];
        self.fault = None;
        self.has_content_length = false;
        self.body = Span::default();
        if bytes.len() > u32::MAX as usize {
            return Err(Fault::TooLarge);
        }
        let mut at = 0;
        // RFC 3261 §7.5: line ends in front of the start line are ignored.
        while matches!(bytes.get(at), Some(b'\r' | b'\n')) {
            at += 1;
        }
        let Some(len) = memchr(b'\n', &bytes[at..]) else {
            return Err(if at == bytes.len() { Fault::Empty } else { Fault::StartLine });
        };
        self.start = self.start_line(bytes, at, without_cr(bytes, at, at + len))?;
        at = self.header_section(bytes, at + len + 1)?;
        self.measure_body(bytes, at);
        Ok(())
    }

    /// The first field of a name.
    ///
    /// RFC 3261 §7.3.
    pub fn first(&self, name: Name) -> Option<&Field> {
        match self.first[name as usize] {
            NONE => None,
            index => self.fields.get(usize::from(index)),
        }
    }

    /// Every field of a name, in order.
    ///
    /// RFC 3261 §7.3.1.
    pub fn all(&self, name: Name) -> impl Iterator<Item = &Field> {
        let from = match self.first[name as usize] {
            NONE => self.fields.len(),
            index => usize::from(index),
        };
        self.fields[from..].iter().filter(move |field| field.name == name)
    }

    /// True when the message has a Content-Length that counts.
    ///
    /// RFC 3261 §20.14.
    pub fn has_content_length(&self) -> bool {
        self.has_content_length
    }

    fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn start_line(&mut self, bytes: &[u8], start: usize, end: usize) -> Result<Start, Fault> {
        let line = &bytes[start..end];
        if line.len() >= 8 && line[..4].eq_ignore_ascii_case(b"SIP/") && line[4].is_ascii_digit() {
            return self.status_line(bytes, start, end);
        }
        let first = memchr(b' ', line).ok_or(Fault::StartLine)?;
        let last = memchr::memrchr(b' ', line).ok_or(Fault::StartLine)?;
        let version = &line[last + 1..];
        if first == 0 || !line[..first].iter().all(|b| is_token(*b)) {
            return Err(Fault::StartLine);
        }
        // A line such as `INVITE sip:a@b SIP/2.0 ` or one with extra blanks is still answerable: 400.
        let mut uri = (start + first + 1, start + last);
        if first == last {
            self.note(Fault::StartLine);
            uri = (start + first + 1, end);
        } else if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            let looks_like_version = version.len() > 4 && version[..4].eq_ignore_ascii_case(b"SIP/");
            self.note(if looks_like_version { Fault::Version } else { Fault::StartLine });
        }
        let text = &bytes[uri.0..uri.1];
        if text.is_empty() || text.iter().any(|b| *b <= b' ' || *b == b'<' || *b == b'>') {
            self.note(Fault::StartLine);
        }
        Ok(Start::Request { method: Span::new(start, start + first), uri: Span::new(uri.0, uri.1) })
    }

    fn status_line(&mut self, bytes: &[u8], start: usize, end: usize) -> Result<Start, Fault> {
        let line = &bytes[start..end];
        if !line[..8.min(line.len())].eq_ignore_ascii_case(b"SIP/2.0 ") {
            return Err(Fault::Version);
        }
        let Some([a, b, c]) = line.get(8..11) else { return Err(Fault::StartLine) };
        if ![a, b, c].iter().all(|d| d.is_ascii_digit()) || matches!(line.get(11), Some(d) if *d != b' ') {
            return Err(Fault::StartLine);
        }
        let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
        if !(100..=699).contains(&status) {
            return Err(Fault::StartLine);
        }
        let reason = (start + 12).min(end);
        Ok(Start::Response { status, reason: Span::new(reason, end) })
    }

    /// Indexes the fields from `at`; returns where the body begins.
    fn header_section(&mut self, bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
        loop {
            match bytes.get(at) {
                Some(b'\n') => {
                    self.head_end = at as u32;
                    return Ok(at + 1);
                }
                Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => {
                    self.head_end = at as u32;
                    return Ok(at + 2);
                }
                None => {
                    self.note(Fault::NoEnd);
                    self.head_end = at as u32;
                    return Ok(at);
                }
                Some(_) => {}
            }
            let line_start = at;
            let mut line_end;
            loop {
                match memchr(b'\n', &bytes[at..]) {
                    Some(len) => {
                        line_end = at + len;
                        at += len + 1;
                    }
                    None => {
                        self.note(Fault::NoEnd);
                        line_end = bytes.len();
                        at = bytes.len();
                    }
                }
                // RFC 3261 §7.3.1: a line that begins with white space continues the field.
                if !matches!(bytes.get(at), Some(b' ' | b'\t')) {
                    break;
                }
            }
            if at > SIP_HEAD_LEN_MAX || self.fields.len() == SIP_HEADER_COUNT_MAX {
                // What was indexed so far is enough to answer.
                self.note(Fault::TooLarge);
                self.head_end = line_start as u32;
                return Ok(bytes.len());
            }
            line_end = without_cr(bytes, line_start, line_end);
            self.field(bytes, line_start, line_end, at);
        }
    }

    fn field(&mut self, bytes: &[u8], start: usize, end: usize, next: usize) {
        let line = &bytes[start..end];
        let name_len = line.iter().position(|b| !is_token(*b)).unwrap_or(line.len());
        let mut colon = name_len;
        while matches!(line.get(colon), Some(b' ' | b'\t')) {
            colon += 1;
        }
        if name_len == 0 || line.get(colon) != Some(&b':') {
            self.note(Fault::HeaderLine);
            return;
        }
        let name = Name::of(&line[..name_len]);
        let (mut from, mut to) = (colon + 1, line.len());
        while from < to && is_blank(line[from]) {
            from += 1;
        }
        while to > from && is_blank(line[to - 1]) {
            to -= 1;
        }
        let slot = &mut self.first[name as usize];
        if *slot == NONE {
            *slot = self.fields.len() as u16;
        }
        self.fields.push(Field {
            name,
            name_span: Span::new(start, start + name_len),
            value: Span::new(start + from, start + to),
            line: Span::new(start, next),
        });
    }

    fn measure_body(&mut self, bytes: &[u8], start: usize) {
        let mut len = None;
        let mut wrong = false;
        for field in self.all(Name::ContentLength) {
            match decimal(field.value.of(bytes)) {
                Some(value) if len.is_none_or(|known| known == value) => len = Some(value),
                _ => wrong = true,
            }
        }
        let rest = bytes.len() - start;
        self.has_content_length = len.is_some();
        if wrong || len.is_some_and(|len| len > rest as u64) {
            self.note(Fault::ContentLength);
        }
        // RFC 3261 §18.3: without Content-Length the body of a datagram ends with it; bytes beyond it are discarded.
        let len = len.map_or(rest, |len| rest.min(usize::try_from(len).unwrap_or(rest)));
        self.body = Span::new(start, start + len);
    }
}

/// A decimal number of up to 19 digits.
///
/// RFC 3261 §25.1 (`1*DIGIT`).
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0u64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
}

/// True for the characters of a token.
///
/// RFC 3261 §25.1.
pub const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        byte += 1;
    }
    table
};

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn without_cr(bytes: &[u8], start: usize, end: usize) -> usize {
    if end > start && bytes[end - 1] == b'\r' { end - 1 } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(text: &str) -> Scan {
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        scan
    }

    #[test]
    fn indexes_a_request_with_compact_names_and_folding() {
        let text = "MESSAGE sip:bob@b.example SIP/2.0\r\nv: SIP/2.0/UDP a\r\nSubject : one\r\n  two\r\nX-New: 1\r\n\
                    l: 2\r\n\r\nhiXX";
        let scan = scanned(text);
        let bytes = text.as_bytes();
        assert_eq!(scan.fault, None);
        let Start::Request { method, uri } = scan.start else { panic!("a request") };
        assert_eq!((method.of(bytes), uri.of(bytes)), (&b"MESSAGE"[..], &b"sip:bob@b.example"[..]));
        assert_eq!(scan.first(Name::Via).unwrap().value.of(bytes), b"SIP/2.0/UDP a");
        assert_eq!(scan.first(Name::Subject).unwrap().value.of(bytes), b"one\r\n  two");
        assert_eq!(scan.body.of(bytes), b"hi");
        assert_eq!(scan.fields[2].name, Name::Other);
    }

    #[test]
    fn reads_a_status_line_without_a_reason() {
        for text in ["SIP/2.0 100 \r\n\r\n", "SIP/2.0 100\r\n\r\n"] {
            let scan = scanned(text);
            let Start::Response { status, reason } = scan.start else { panic!("a response") };
            assert_eq!((status, reason.of(text.as_bytes())), (100, &b""[..]));
        }
    }

    #[test]
    fn takes_bare_line_feeds_and_leading_line_ends() {
        let text = "\r\n\r\nOPTIONS sip:a SIP/2.0\nCall-ID: 1\n\nbody";
        let scan = scanned(text);
        assert_eq!(scan.fault, None);
        assert_eq!(scan.body.of(text.as_bytes()), b"body");
    }

    #[test]
    fn notes_faults_and_keeps_the_headers() {
        for (text, fault) in [
            ("OPTIONS sip:a  SIP/2.0\r\nCall-ID: 1\r\n\r\n", Fault::StartLine),
            ("OPTIONS sip:a SIP/7.0\r\nCall-ID: 1\r\n\r\n", Fault::Version),
            ("OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nno colon\r\n\r\n", Fault::HeaderLine),
            ("OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\n", Fault::NoEnd),
            ("OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nContent-Length: -9\r\n\r\n", Fault::ContentLength),
            ("OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 9\r\n\r\nabc", Fault::ContentLength),
            ("OPTIONS sip:a SIP/2.0\r\nCall-ID: 1\r\nl: 1\r\nContent-Length: 2\r\n\r\nabc", Fault::ContentLength),
        ] {
            let scan = scanned(text);
            assert_eq!(scan.fault, Some(fault), "{text}");
            assert!(scan.first(Name::CallId).is_some(), "{text}");
        }
    }

    #[test]
    fn every_name_is_found_by_its_own_text() {
        for (name, text) in Name::FULL {
            assert_eq!(Name::of(text.as_bytes()), *name);
            assert_eq!(Name::of(text.to_ascii_uppercase().as_bytes()), *name);
        }
    }
}
