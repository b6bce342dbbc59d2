//! Heads of chunks: start line, paths, and the fields that decide what becomes of a chunk.
//!
//! One pass over the bytes, nothing is copied but the paths: they repeat from chunk to chunk, so that [`SeenPaths`] keeps
//! the last ones and a repetition costs one comparison instead of being taken apart again.

use super::byte_range::ByteRange;
use super::uri::{MsrpUri, entries};
use crate::base::limits::{MSRP_HEAD_LEN_MAX, MSRP_PATH_COUNT_MAX};

/// What a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Carries a message or a part of one.
    Send,
    /// Says what became of a message.
    Report,
    /// Asks a relay for a URI (RFC 4976).
    Auth,
    /// Asks a conference for a name (RFC 7701).
    Nickname,
    /// Any other method.
    Unknown,
    /// Answers a request.
    Response(u16),
}

impl Kind {
    /// Whether it answers a request.
    ///
    /// RFC 4975 §7.2.
    pub const fn is_response(self) -> bool {
        matches!(self, Self::Response(_))
    }
}

/// When the sender wants to hear of a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailureReport {
    /// Every chunk is answered.
    #[default]
    Yes,
    /// Only failures are answered.
    Partial,
    /// Nothing is answered.
    No,
}

/// The byte that ends an end-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `$`: the message is complete.
    End,
    /// `+`: more chunks follow.
    More,
    /// `#`: the message is given up.
    Abort,
}

impl Flag {
    /// Reads the byte.
    ///
    /// RFC 4975 §9.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'$' => Some(Self::End),
            b'+' => Some(Self::More),
            b'#' => Some(Self::Abort),
            _ => None,
        }
    }

    /// The byte.
    ///
    /// RFC 4975 §9.
    pub const fn byte(self) -> u8 {
        match self {
            Self::End => b'$',
            Self::More => b'+',
            Self::Abort => b'#',
        }
    }
}

/// What is wrong with a head whose chunk can still be told from the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// To-Path is not the first field, or From-Path not the second. The paths that were found elsewhere are there, so
    /// that the request can be answered.
    PathOrder,
    /// A path is empty or holds something else than MSRP URIs.
    BadPath,
    /// A path has more URIs than any route.
    PathTooLong,
    /// A field that may occur once occurs again.
    Duplicate,
    /// Byte-Range is malformed or contradicts itself.
    BadByteRange,
    /// SEND without Message-ID.
    MissingMessageId,
    /// A line without a field name, a CR or LF inside a line, or a value that the field does not have.
    BadField,
}

impl HeadFault {
    /// Whether the connection is closed after the 400.
    ///
    /// RFC 4975 §7.2.
    pub const fn closes(self) -> bool {
        matches!(self, Self::PathTooLong)
    }
}

/// What makes the place in the stream unknown; the connection can only be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramingFault {
    /// The first line is none of MSRP's.
    BadStartLine,
    /// The head does not end.
    HeadTooLong,
    /// The chunk did not end where its Byte-Range says, nor soon after.
    EndLost,
}

/// A head, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// From `MSRP` to the blank line (with a body) or to the last field (without), CRLF included.
    pub bytes: &'a [u8],
    /// Names the transaction.
    pub transaction_id: &'a [u8],
    /// Method or status code.
    pub kind: Kind,
    /// The lines To-Path and From-Path with their CRLFs; empty when they do not stand where they must.
    pub paths: &'a [u8],
    /// `paths` are the very bytes of the last head of the same class (request or response) on this connection.
    pub paths_repeat: bool,
    /// Value of To-Path.
    pub to_path: &'a [u8],
    /// Value of From-Path. Empty when there is none: then nobody can be answered.
    pub from_path: &'a [u8],
    /// All behind the paths, up to and without the blank line.
    pub rest: &'a [u8],
    /// Value of Message-ID.
    pub message_id: Option<&'a [u8]>,
    /// Byte-Range, or what its absence means.
    pub byte_range: ByteRange,
    /// Value of Byte-Range as it is written, in its place inside `rest`.
    pub byte_range_text: Option<&'a [u8]>,
    /// Value of Content-Type.
    pub content_type: Option<&'a [u8]>,
    /// Failure-Report.
    pub failure_report: FailureReport,
    /// Success-Report is `yes`.
    pub success_report: bool,
    /// Code in the Status of a REPORT, when it is of namespace 000.
    pub report_status: Option<u16>,
    /// A blank line follows, so that there is a body, be it an empty one.
    pub has_body: bool,
    /// The first thing that is wrong: a request is answered 400, a response is ignored.
    pub fault: Option<HeadFault>,
}

/// What is found at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and never stored")]
pub enum Step<'a> {
    /// A whole head, with a body behind it, or with the end-line that stands behind the head right away.
    Whole {
        /// The head.
        head: Head<'a>,
        /// Bytes of the head, and of the end-line when it is here.
        len: usize,
        /// The end-line's flag when there is no body.
        end: Option<Flag>,
    },
    /// It goes on behind these bytes.
    Short,
    /// It is no head.
    Fault(FramingFault),
}

/// The paths of the last request and of the last response.
#[derive(Clone, Debug, Default)]
pub struct SeenPaths {
    request: Paths,
    response: Paths,
}

/// Two path lines and where their values are.
#[derive(Clone, Debug, Default)]
struct Paths {
    lines: Vec<u8>,
    to: (u16, u16),
    from: (u16, u16),
}

impl SeenPaths {
    /// Remembers the paths of a head, or that it had none that were good.
    ///
    /// RFC 4975 §5.1.
    pub fn keep(&mut self, head: &Head<'_>) {
        if !head.paths_repeat {
            let paths = if head.kind.is_response() { &mut self.response } else { &mut self.request };
            paths.keep(head);
        }
    }

    /// Gives the memory back; the next paths repeat nothing.
    ///
    /// RFC 4975 §5.1.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Bytes held.
    ///
    /// RFC 4975 §5.1.
    pub const fn len(&self) -> usize {
        self.request.lines.capacity() + self.response.lines.capacity()
    }

    /// Whether nothing is held.
    ///
    /// RFC 4975 §5.1.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Paths {
    /// Very long paths are not worth their memory.
    fn keep(&mut self, head: &Head<'_>) {
        self.lines.clear();
        if head.fault.is_some() || head.paths.len() > PATH_LINES_KEPT_LEN_MAX {
            return;
        }
        self.lines.reserve_exact(head.paths.len());
        self.lines.extend_from_slice(head.paths);
        let place = |value: &[u8]| {
            let start = value.as_ptr() as usize - head.paths.as_ptr() as usize;
            (start as u16, (start + value.len()) as u16)
        };
        (self.to, self.from) = (place(head.to_path), place(head.from_path));
    }
}

/// Reads the head at the beginning of `bytes`. Whoever takes it tells [`SeenPaths::keep`].
///
/// RFC 4975 §9.
pub fn read<'a>(bytes: &'a [u8], seen: &SeenPaths) -> Step<'a> {
    let window = &bytes[..bytes.len().min(WINDOW_LEN)];
    let short = if window.len() < WINDOW_LEN { Step::Short } else { Step::Fault(FramingFault::HeadTooLong) };
    let start = match StartLine::read(window) {
        Ok(Some(start)) => start,
        Ok(None) => return short,
        Err(fault) => return Step::Fault(fault),
    };
    let seen = if start.kind.is_response() { &seen.response } else { &seen.request };
    let mut reader = Reader { window, at: start.len, fields: Fields::default() };
    let mut head = Head {
        bytes: window,
        transaction_id: start.transaction_id,
        kind: start.kind,
        paths: &[],
        paths_repeat: false,
        to_path: &[],
        from_path: &[],
        rest: &[],
        message_id: None,
        byte_range: ByteRange::WHOLE,
        byte_range_text: None,
        content_type: None,
        failure_report: FailureReport::Yes,
        success_report: false,
        report_status: None,
        has_body: false,
        fault: start.fault,
    };
    let paths_end = start.len + seen.lines.len();
    if !seen.lines.is_empty() && window.get(start.len..paths_end) == Some(&seen.lines[..]) {
        head.paths = &window[start.len..paths_end];
        head.paths_repeat = true;
        head.to_path = &head.paths[usize::from(seen.to.0)..usize::from(seen.to.1)];
        head.from_path = &head.paths[usize::from(seen.from.0)..usize::from(seen.from.1)];
        reader.at = paths_end;
        reader.fields.count = 2;
    }
    let (terminator, end) = match reader.fields(&mut head) {
        Some(found) => found,
        None => return short,
    };
    let head_end = if terminator.is_some() { end } else { end + 2 };
    if head_end > MSRP_HEAD_LEN_MAX {
        return Step::Fault(FramingFault::HeadTooLong);
    }
    head.bytes = &window[..head_end];
    head.rest = &window[start.len + head.paths.len()..end];
    head.has_body = terminator.is_none();
    if head.paths.is_empty() {
        fail(&mut head, HeadFault::PathOrder);
    }
    if head.kind == Kind::Send && head.message_id.is_none() {
        fail(&mut head, HeadFault::MissingMessageId);
    }
    let len = match terminator {
        Some(_) => end + END_LINE_MARK.len() + head.transaction_id.len() + 3,
        None => head_end,
    };
    Step::Whole { head, len, end: terminator }
}

/// Whether [`read`] has an answer other than that the head goes on. `checked` is how far that was looked at before, from
/// 0; a head that comes byte by byte is so looked at once, not once a byte.
pub(super) fn is_decided(bytes: &[u8], checked: &mut usize) -> bool {
    if bytes.len() >= WINDOW_LEN {
        return true;
    }
    if *checked == 0 {
        match StartLine::read(bytes) {
            Ok(Some(start)) => *checked = start.len,
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
    let after = &bytes[PROTOCOL.len()..];
    let transaction_id = &after[..memchr::memchr(b' ', after).unwrap_or(0)];
    loop {
        match bytes[*checked..] {
            [b'\r', b'\n', ..] => return true,
            [b'-', ..] => match end_line_at(&bytes[*checked..], transaction_id) {
                EndLine::Whole(_) => return true,
                EndLine::Short => return false,
                EndLine::No => {}
            },
            _ => {}
        }
        match line_end(bytes, *checked, &mut None) {
            Some(end) => *checked = end + 2,
            None => return false,
        }
    }
}

/// `MSRP <transaction-id> <method or code and comment>`.
struct StartLine<'a> {
    transaction_id: &'a [u8],
    kind: Kind,
    len: usize,
    fault: Option<HeadFault>,
}

impl<'a> StartLine<'a> {
    fn read(window: &'a [u8]) -> Result<Option<Self>, FramingFault> {
        if !window.starts_with(PROTOCOL) {
            return if PROTOCOL.starts_with(window) { Ok(None) } else { Err(FramingFault::BadStartLine) };
        }
        let after = &window[PROTOCOL.len()..];
        let id_window = &after[..after.len().min(TRANSACTION_ID_LEN_MAX + 1)];
        let Some(id_len) = memchr::memchr(b' ', id_window) else {
            // Whether more bytes could help.
            let may_go_on = id_window.len() <= TRANSACTION_ID_LEN_MAX && id_window.iter().all(|byte| is_ident(*byte));
            return if may_go_on { Ok(None) } else { Err(FramingFault::BadStartLine) };
        };
        let transaction_id = &after[..id_len];
        if !is_transaction_id(transaction_id) {
            return Err(FramingFault::BadStartLine);
        }
        let at = PROTOCOL.len() + id_len + 1;
        let mut fault = None;
        let Some(end) = line_end(window, at, &mut fault) else { return Ok(None) };
        let kind = kind_of(&window[at..end]).ok_or(FramingFault::BadStartLine)?;
        Ok(Some(Self { transaction_id, kind, len: end + 2, fault }))
    }
}

fn kind_of(text: &[u8]) -> Option<Kind> {
    match text {
        b"SEND" => Some(Kind::Send),
        b"REPORT" => Some(Kind::Report),
        b"AUTH" => Some(Kind::Auth),
        b"NICKNAME" => Some(Kind::Nickname),
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']
        | [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => Some(Kind::Response(code(*a, *b, *c))),
        [first, ..] if first.is_ascii_alphabetic() && text.iter().all(u8::is_ascii_alphabetic) => Some(Kind::Unknown),
        _ => None,
    }
}

/// Which fields came already.
#[derive(Default)]
struct Fields {
    count: usize,
    /// Paths that stood where they must.
    path_count: usize,
    once: u16,
}

struct Reader<'a> {
    window: &'a [u8],
    at: usize,
    fields: Fields,
}

impl<'a> Reader<'a> {
    /// Reads fields up to the blank line (`None`) or the end-line, and says where that begins. `None` at all: it goes on
    /// behind the window.
    fn fields(&mut self, head: &mut Head<'a>) -> Option<(Option<Flag>, usize)> {
        let paths_start = self.at;
        loop {
            match *self.window.get(self.at)? {
                b'\r' if *self.window.get(self.at + 1)? == b'\n' => return Some((None, self.at)),
                b'-' => match end_line_at(&self.window[self.at..], head.transaction_id) {
                    EndLine::Whole(flag) => return Some((Some(flag), self.at)),
                    EndLine::Short => return None,
                    EndLine::No => {}
                },
                _ => {}
            }
            let end = line_end(self.window, self.at, &mut head.fault)?;
            let line = &self.window[self.at..end];
            self.at = end + 2;
            self.field(line, head);
            self.fields.count += 1;
            if self.fields.count == 2 && self.fields.path_count == 2 {
                head.paths = &self.window[paths_start..self.at];
                self.check_paths(head);
            }
        }
    }

    fn field(&mut self, line: &'a [u8], head: &mut Head<'a>) {
        let (bit, value) = match known(line) {
            Some(found) => found,
            None => {
                let name = memchr::memchr(b':', line).map_or(&b""[..], |colon| &line[..colon]);
                if name.is_empty() || !name.trim_ascii_end().iter().all(u8::is_ascii_graphic) {
                    fail(head, HeadFault::BadField);
                }
                return;
            }
        };
        let is_expected = match bit {
            TO_PATH => self.fields.count == 0,
            FROM_PATH => self.fields.count == 1,
            _ => self.fields.count >= 2,
        };
        if self.fields.once & bit != 0 || (head.paths_repeat && bit & (TO_PATH | FROM_PATH) != 0) {
            return fail(head, HeadFault::Duplicate);
        }
        self.fields.once |= bit;
        if !is_expected {
            fail(head, HeadFault::PathOrder);
        }
        if bit & (TO_PATH | FROM_PATH) != 0 {
            self.fields.path_count += usize::from(is_expected);
        }
        match bit {
            TO_PATH => head.to_path = value,
            FROM_PATH => head.from_path = value,
            MESSAGE_ID if value.is_empty() => fail(head, HeadFault::BadField),
            MESSAGE_ID => head.message_id = Some(value),
            BYTE_RANGE => {
                head.byte_range_text = Some(value);
                match ByteRange::parse(value) {
                    Some(range) => head.byte_range = range,
                    None => fail(head, HeadFault::BadByteRange),
                }
            }
            CONTENT_TYPE => head.content_type = Some(value),
            FAILURE_REPORT if value.eq_ignore_ascii_case(b"yes") => head.failure_report = FailureReport::Yes,
            FAILURE_REPORT if value.eq_ignore_ascii_case(b"no") => head.failure_report = FailureReport::No,
            FAILURE_REPORT if value.eq_ignore_ascii_case(b"partial") => head.failure_report = FailureReport::Partial,
            SUCCESS_REPORT if value.eq_ignore_ascii_case(b"yes") => head.success_report = true,
            SUCCESS_REPORT if value.eq_ignore_ascii_case(b"no") => {}
            STATUS => match report_status(value) {
                Ok(status) => head.report_status = status,
                Err(()) => fail(head, HeadFault::BadField),
            },
            _ => fail(head, HeadFault::BadField),
        }
    }

    fn check_paths(&self, head: &mut Head<'a>) {
        for path in [head.to_path, head.from_path] {
            let mut count = 0;
            for entry in entries(path) {
                count += 1;
                if count > MSRP_PATH_COUNT_MAX {
                    return fail(head, HeadFault::PathTooLong);
                }
                if MsrpUri::parse(entry).is_none() {
                    return fail(head, HeadFault::BadPath);
                }
            }
            if count == 0 {
                return fail(head, HeadFault::BadPath);
            }
        }
    }
}

fn fail(head: &mut Head<'_>, fault: HeadFault) {
    head.fault = head.fault.or(Some(fault));
}

/// A field this file knows, and its value.
fn known(line: &[u8]) -> Option<(u16, &[u8])> {
    let (name_len, name, bit): (usize, &[u8], u16) = match line.first()? | 0x20 {
        b't' => (7, b"To-Path", TO_PATH),
        b'm' => (10, b"Message-ID", MESSAGE_ID),
        b'b' => (10, b"Byte-Range", BYTE_RANGE),
        b'c' => (12, b"Content-Type", CONTENT_TYPE),
        b'f' if line.get(9) == Some(&b':') => (9, b"From-Path", FROM_PATH),
        b'f' => (14, b"Failure-Report", FAILURE_REPORT),
        b's' if line.get(6) == Some(&b':') => (6, b"Status", STATUS),
        b's' => (14, b"Success-Report", SUCCESS_REPORT),
        _ => return None,
    };
    // Nearly everybody writes the names as RFC 4975 does: one plain comparison decides.
    let is_name = |written: &[u8]| written == name || written.eq_ignore_ascii_case(name);
    if line.get(name_len) != Some(&b':') || !is_name(&line[..name_len]) {
        return None;
    }
    Some((bit, line[name_len + 1..].trim_ascii()))
}

/// `000 <code>[ <comment>]`; codes of other namespaces are nobody's.
fn report_status(value: &[u8]) -> Result<Option<u16>, ()> {
    let (namespace, text) = value.split_at_checked(4).ok_or(())?;
    if namespace[3] != b' ' || !namespace[..3].iter().all(u8::is_ascii_digit) {
        return Err(());
    }
    let status = match text.trim_ascii_start() {
        [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9']
        | [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b' ', ..] => code(*a, *b, *c),
        _ => return Err(()),
    };
    Ok((namespace == b"000 ").then_some(status))
}

fn code(a: u8, b: u8, c: u8) -> u16 {
    u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
}

/// Where the CR of the line's CRLF is. A CR or LF alone ends no line, and is a fault: others may see a line end there.
fn line_end(window: &[u8], from: usize, fault: &mut Option<HeadFault>) -> Option<usize> {
    let mut at = from;
    loop {
        let hit = at + memchr::memchr2(b'\r', b'\n', window.get(at..)?)?;
        if window[hit] == b'\r' && *window.get(hit + 1)? == b'\n' {
            return Some(hit);
        }
        *fault = fault.or(Some(HeadFault::BadField));
        at = hit + 1;
    }
}

/// What stands where an end-line may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndLine {
    Whole(Flag),
    Short,
    No,
}

/// Looks for `-------<transaction-id><flag>CRLF` at the beginning of `bytes`.
pub(super) fn end_line_at(bytes: &[u8], transaction_id: &[u8]) -> EndLine {
    let flag_at = END_LINE_MARK.len() + transaction_id.len();
    if bytes.len() >= flag_at + 3 {
        let is_end = bytes.starts_with(END_LINE_MARK)
            && bytes[END_LINE_MARK.len()..flag_at] == *transaction_id
            && bytes[flag_at + 1..flag_at + 3] == *b"\r\n";
        return match Flag::from_byte(bytes[flag_at]) {
            Some(flag) if is_end => EndLine::Whole(flag),
            _ => EndLine::No,
        };
    }
    let mark_len = bytes.len().min(END_LINE_MARK.len());
    let id = &bytes[mark_len..bytes.len().min(flag_at)];
    let is_prefix = bytes[..mark_len] == END_LINE_MARK[..mark_len]
        && *id == transaction_id[..id.len()]
        && bytes.get(flag_at).is_none_or(|byte| Flag::from_byte(*byte).is_some())
        && bytes.get(flag_at + 1).is_none_or(|byte| *byte == b'\r');
    if is_prefix { EndLine::Short } else { EndLine::No }
}

/// Whether a text can name a transaction.
///
/// RFC 4975 §9.
pub fn is_transaction_id(text: &[u8]) -> bool {
    (TRANSACTION_ID_LEN_MIN..=TRANSACTION_ID_LEN_MAX).contains(&text.len())
        && text[0].is_ascii_alphanumeric()
        && text.iter().fold(true, |are_all, byte| are_all & is_ident(*byte))
}

const fn is_ident(byte: u8) -> bool {
    IDENT[byte as usize]
}

const IDENT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128u8 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'%' | b'=');
        byte += 1;
    }
    table
};

const PROTOCOL: &[u8] = b"MSRP ";
pub(super) const END_LINE_MARK: &[u8] = b"-------";
const TRANSACTION_ID_LEN_MIN: usize = 4;
/// Bytes of the longest transaction id.
pub(super) const TRANSACTION_ID_LEN_MAX: usize = 32;
/// Bytes of the longest end-line.
const END_LINE_LEN_MAX: usize = END_LINE_MARK.len() + TRANSACTION_ID_LEN_MAX + 3;
/// A head that does not end within so many bytes is too long.
pub(super) const WINDOW_LEN: usize = MSRP_HEAD_LEN_MAX + END_LINE_LEN_MAX;
/// Longer path lines are not kept for comparison.
const PATH_LINES_KEPT_LEN_MAX: usize = 1_024;

const TO_PATH: u16 = 1;
const FROM_PATH: u16 = 1 << 1;
const MESSAGE_ID: u16 = 1 << 2;
const BYTE_RANGE: u16 = 1 << 3;
const CONTENT_TYPE: u16 = 1 << 4;
const FAILURE_REPORT: u16 = 1 << 5;
const SUCCESS_REPORT: u16 = 1 << 6;
const STATUS: u16 = 1 << 7;

const _: () = assert!(WINDOW_LEN < u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: &str = "To-Path: msrp://relay.example:20855/p1;tcp msrp://b.example:7/sb;tcp\r\n\
                         From-Path: msrp://a.example:9/sa;tcp\r\n";

    fn whole(text: &str) -> Head<'_> {
        match read(text.as_bytes(), &SeenPaths::default()) {
            Step::Whole { head, len, .. } => {
                assert!(len <= text.len());
                head
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    /// A SEND with these lines behind its paths and an empty body.
    fn send(fields: &str) -> String {
        format!("MSRP d93kswow SEND\r\n{PATHS}{fields}\r\n")
    }

    fn fault(fields: &str) -> Option<HeadFault> {
        whole(&send(fields)).fault
    }

    #[test]
    fn a_send_is_taken_apart() {
        let text = send(
            "Message-ID: 12339sdqwer\r\nByte-Range: 1-25/25\r\nFailure-Report: Partial\r\nSUCCESS-REPORT:YES\r\n\
             X-Other: kept\r\nContent-Type: message/cpim\r\n",
        );
        let head = whole(&text);
        assert_eq!((head.kind, head.transaction_id, head.fault), (Kind::Send, &b"d93kswow"[..], None));
        assert_eq!(head.bytes, text.as_bytes());
        assert_eq!(head.paths, PATHS.as_bytes());
        assert_eq!(head.to_path, b"msrp://relay.example:20855/p1;tcp msrp://b.example:7/sb;tcp");
        assert_eq!(head.from_path, b"msrp://a.example:9/sa;tcp");
        assert_eq!(head.message_id, Some(&b"12339sdqwer"[..]));
        assert_eq!(head.byte_range, ByteRange { start: 1, end: Some(25), total: Some(25) });
        assert_eq!(head.byte_range_text, Some(&b"1-25/25"[..]));
        assert_eq!(head.content_type, Some(&b"message/cpim"[..]));
        assert_eq!((head.failure_report, head.success_report), (FailureReport::Partial, true));
        assert!(head.has_body);
        assert!(head.rest.starts_with(b"Message-ID") && head.rest.ends_with(b"message/cpim\r\n"));
    }

    #[test]
    fn a_chunk_without_a_body_ends_right_behind_its_head() {
        let text = format!("MSRP d93kswow SEND\r\n{PATHS}Message-ID: 1\r\n-------d93kswow+\r\nMSRP ");
        match read(text.as_bytes(), &SeenPaths::default()) {
            Step::Whole { head, len, end } => {
                assert!(!head.has_body && head.fault.is_none());
                assert_eq!((end, len), (Some(Flag::More), text.len() - 5));
                assert!(head.bytes.ends_with(b"Message-ID: 1\r\n") && head.rest == b"Message-ID: 1\r\n");
                assert_eq!((head.byte_range, head.byte_range_text), (ByteRange::WHOLE, None));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn responses_come_with_and_without_a_comment() {
        for (line, status) in [("200 OK", 200), ("481", 481), ("413 ", 413), ("506 Bound: \u{e9}l\u{e8}ve", 506)] {
            let text = format!("MSRP d93kswow {line}\r\n{PATHS}-------d93kswow$\r\n");
            let head = whole(&text);
            assert_eq!((head.kind, head.fault, head.has_body), (Kind::Response(status), None, false), "{line}");
            assert!(head.kind.is_response());
        }
    }

    #[test]
    fn methods_are_known_or_not() {
        for (method, kind) in [
            ("SEND", Kind::Send),
            ("REPORT", Kind::Report),
            ("AUTH", Kind::Auth),
            ("NICKNAME", Kind::Nickname),
            ("FETCH", Kind::Unknown),
            ("send", Kind::Unknown),
        ] {
            let text = format!("MSRP d93kswow {method}\r\n{PATHS}-------d93kswow$\r\n");
            assert_eq!(whole(&text).kind, kind);
        }
    }

    #[test]
    fn start_lines_of_other_protocols_lose_the_place() {
        for line in [
            "GET / HTTP/1.1",
            "msrp d93kswow SEND",
            "MSRP  d93kswow SEND",
            "MSRP abc SEND",
            "MSRP -bcd SEND",
            "MSRP ab_d SEND",
            "MSRP abcdefghijklmnopqrstuvwxyz0123456 SEND",
            "MSRP d93kswow",
            "MSRP d93kswow ",
            "MSRP d93kswow  SEND",
            "MSRP d93kswow SEND now",
            "MSRP d93kswow SE-ND",
            "MSRP d93kswow 20",
            "MSRP d93kswow 2000",
            "MSRP d93kswow 200OK",
            "",
        ] {
            let text = format!("{line}\r\n{PATHS}-------d93kswow$\r\n");
            let step = read(text.as_bytes(), &SeenPaths::default());
            assert_eq!(step, Step::Fault(FramingFault::BadStartLine), "{line}");
        }
        for id in ["a.-+%=", "ABCD", "abcdefghijklmnopqrstuvwxyz012345"] {
            let text = format!("MSRP {id} SEND\r\n{PATHS}Message-ID: 1\r\n-------{id}$\r\n");
            assert_eq!((whole(&text).transaction_id, whole(&text).fault), (id.as_bytes(), None));
        }
    }

    #[test]
    fn a_head_in_pieces_is_short_at_every_place() {
        let texts = [
            send("Message-ID: 1\r\nContent-Type: text/plain\r\n"),
            format!("MSRP d93kswow 200 OK\r\n{PATHS}-------d93kswow$\r\n"),
        ];
        for text in texts {
            for len in 0..text.len() {
                let step = read(&text.as_bytes()[..len], &SeenPaths::default());
                assert_eq!(step, Step::Short, "{len} bytes of {text:?}");
                assert!(!is_decided(&text.as_bytes()[..len], &mut 0));
            }
            assert!(is_decided(text.as_bytes(), &mut 0));
        }
    }

    #[test]
    fn paths_stand_first_and_in_order() {
        let (to, from) = PATHS.split_once("\r\n").unwrap();
        for (lines, to_is_there, from_is_there) in [
            (format!("{from}{to}\r\n"), true, true),
            (format!("X: y\r\n{to}\r\n{from}"), true, true),
            (format!("{to}\r\nX: y\r\n{from}"), true, true),
            (format!("{to}\r\n"), true, false),
            (from.to_owned(), false, true),
            (String::new(), false, false),
        ] {
            let text = format!("MSRP d93kswow SEND\r\n{lines}Message-ID: 1\r\n\r\n");
            let head = whole(&text);
            assert_eq!((head.fault, head.paths), (Some(HeadFault::PathOrder), &b""[..]), "{lines}");
            assert_eq!((!head.to_path.is_empty(), !head.from_path.is_empty()), (to_is_there, from_is_there), "{lines}");
            assert!(head.rest.ends_with(b"Message-ID: 1\r\n") && head.rest.starts_with(lines.as_bytes()));
        }
    }

    #[test]
    fn paths_hold_msrp_uris_and_not_too_many() {
        let head = |to: &str, from: &str| {
            let text = format!("MSRP d93kswow SEND\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\nMessage-ID: 1\r\n\r\n");
            whole(&text).fault
        };
        let uri = "msrp://a.example:9/sa;tcp";
        let path = |count| vec![uri; count].join(" ");
        assert_eq!(head(uri, uri), None);
        assert_eq!(head(&path(MSRP_PATH_COUNT_MAX), &path(MSRP_PATH_COUNT_MAX)), None);
        assert_eq!(head(uri, &path(MSRP_PATH_COUNT_MAX + 1)), Some(HeadFault::PathTooLong));
        assert_eq!(head(&path(100), uri), Some(HeadFault::PathTooLong));
        assert!(HeadFault::PathTooLong.closes() && !HeadFault::BadPath.closes());
        for bad in ["", "sip:bob@example", "msrp://a.example:9/sa", "msrp://a;tcp,msrp://b;tcp \t"] {
            assert_eq!(head(bad, uri), Some(HeadFault::BadPath), "{bad:?}");
            assert_eq!(head(uri, bad), Some(HeadFault::BadPath), "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_fields_is_named() {
        assert_eq!(fault("Message-ID: 1\r\n"), None);
        assert_eq!(fault("message-id:1\r\nBYTE-RANGE:\t1-*/*  \r\n"), None);
        assert_eq!(fault(""), Some(HeadFault::MissingMessageId));
        assert_eq!(fault("Message-ID:\r\n"), Some(HeadFault::BadField));
        assert_eq!(fault("Message-ID: 1\r\nByte-Range: 0-1/1\r\n"), Some(HeadFault::BadByteRange));
        assert_eq!(fault("Message-ID: 1\r\nByte-Range: 5-3/9\r\n"), Some(HeadFault::BadByteRange));
        assert_eq!(fault("Message-ID: 1\r\nMessage-ID: 1\r\n"), Some(HeadFault::Duplicate));
        assert_eq!(fault("Message-ID: 1\r\nByte-Range: 1-*/*\r\nbyte-range: 1-*/*\r\n"), Some(HeadFault::Duplicate));
        assert_eq!(fault("Message-ID: 1\r\nTo-Path: msrp://x:1/y;tcp\r\n"), Some(HeadFault::Duplicate));
        assert_eq!(fault("Message-ID: 1\r\nFrom-Path: msrp://x:1/y;tcp\r\n"), Some(HeadFault::Duplicate));
        assert_eq!(fault("Message-ID: 1\r\nX-A: 1\r\nX-A: 2\r\n"), None, "unknown fields may repeat");
        assert_eq!(fault("Message-ID: 1\r\nFailure-Report: maybe\r\n"), Some(HeadFault::BadField));
        assert_eq!(fault("Message-ID: 1\r\nSuccess-Report: partial\r\n"), Some(HeadFault::BadField));
        assert_eq!(fault("Message-ID: 1\r\nno field at all\r\n"), Some(HeadFault::BadField));
        assert_eq!(fault("Message-ID: 1\r\n: value\r\n"), Some(HeadFault::BadField));
        assert_eq!(fault("Message-ID: 1\r\nA B: value\r\n"), Some(HeadFault::BadField));
        assert_eq!(fault("Message-ID: 1\r\nX: a\nb\r\n"), Some(HeadFault::BadField), "LF alone ends no line");
        assert_eq!(fault("Message-ID: 1\r\nX: a\rTo-Path: b\r\n"), Some(HeadFault::BadField), "CR alone ends no line");
        assert_eq!(fault("Message-ID: 1\r\n-------other: x\r\n-------d93kswow$: x\r\n"), None);
        assert_eq!(fault("Message-ID: 1\r\n-------d93kswow!\r\n"), Some(HeadFault::BadField));
    }

    #[test]
    fn reports_tell_their_status() {
        for (value, status, fault) in [
            ("000 200 OK", Some(200), None),
            ("000 408", Some(408), None),
            ("001 200 OK", None, None),
            ("000", None, Some(HeadFault::BadField)),
            ("000 20", None, Some(HeadFault::BadField)),
            ("0000200", None, Some(HeadFault::BadField)),
            ("000 2000", None, Some(HeadFault::BadField)),
            ("abc 200", None, Some(HeadFault::BadField)),
        ] {
            let text = format!(
                "MSRP d93kswow REPORT\r\n{PATHS}Message-ID: 1\r\nByte-Range: 1-5/5\r\nStatus: {value}\r\n-------d93kswow$\r\n"
            );
            assert_eq!((whole(&text).report_status, whole(&text).fault), (status, fault), "{value}");
        }
        let text = format!("MSRP d93kswow REPORT\r\n{PATHS}-------d93kswow$\r\n");
        assert_eq!(whole(&text).fault, None, "only a SEND has to name its message");
    }

    #[test]
    fn an_endless_head_is_refused_at_the_same_length_however_it_ends() {
        let fill = |len: usize| format!("X: {}\r\n", "y".repeat(len - 5));
        let base = send("Message-ID: 1\r\n").len();
        let fits = send(&format!("Message-ID: 1\r\n{}", fill(MSRP_HEAD_LEN_MAX - base)));
        assert_eq!(whole(&fits).bytes.len(), MSRP_HEAD_LEN_MAX);
        let over = send(&format!("Message-ID: 1\r\n{}", fill(MSRP_HEAD_LEN_MAX - base + 1)));
        let endless = format!("MSRP d93kswow SEND\r\n{PATHS}{}", fill(2 * MSRP_HEAD_LEN_MAX));
        let comment = format!("MSRP d93kswow 200 {}", "y".repeat(2 * MSRP_HEAD_LEN_MAX));
        for text in [over, endless, comment] {
            let step = read(text.as_bytes(), &SeenPaths::default());
            assert_eq!(step, Step::Fault(FramingFault::HeadTooLong));
            assert!(is_decided(text.as_bytes(), &mut 0) || text.len() < WINDOW_LEN);
        }
    }

    fn repeats(seen: &mut SeenPaths, text: &str) -> bool {
        let Step::Whole { head, .. } = read(text.as_bytes(), seen) else { panic!("{text:?} is whole") };
        let fresh = whole(text);
        assert_eq!(Head { paths_repeat: false, ..head }, fresh, "a repetition changes nothing else");
        seen.keep(&head);
        head.paths_repeat
    }

    #[test]
    fn paths_repeat_within_their_class() {
        let mut seen = SeenPaths::default();
        let request = send("Message-ID: 1\r\n");
        let response = format!("MSRP d93kswow 200 OK\r\n{PATHS}-------d93kswow$\r\n");
        let other = request.replace("/sa", "/sz");
        assert!(!repeats(&mut seen, &request));
        assert!(!repeats(&mut seen, &response), "a class of its own");
        assert!(repeats(&mut seen, &request) && repeats(&mut seen, &response));
        assert!(repeats(&mut seen, &request.replace("d93kswow", "anotherone")));
        assert!(!repeats(&mut seen, &other));
        assert!(!repeats(&mut seen, &request), "only the last paths count");
        assert!(repeats(&mut seen, &request) && repeats(&mut seen, &response));
        seen.forget();
        assert!(seen.is_empty() && !repeats(&mut seen, &request) && !seen.is_empty());
    }

    #[test]
    fn bad_paths_never_count_as_seen() {
        let mut seen = SeenPaths::default();
        let good = send("Message-ID: 1\r\n");
        for bad in [good.replace("msrp://a", "sip://a"), good.replace("From-Path", "Fram-Path")] {
            assert!(!repeats(&mut seen, &good));
            assert!(!repeats(&mut seen, &bad));
            assert!(!repeats(&mut seen, &bad), "it is judged again");
        }
        let long = good.replace("/sa;", &format!("/{};", "s".repeat(PATH_LINES_KEPT_LEN_MAX)));
        assert!(!repeats(&mut seen, &long) && !repeats(&mut seen, &long));
    }

    #[test]
    fn a_second_path_behind_repeated_ones_is_a_fault() {
        let mut seen = SeenPaths::default();
        assert!(!repeats(&mut seen, &send("Message-ID: 1\r\n")));
        assert!(repeats(&mut seen, &send("Message-ID: 1\r\nTo-Path: msrp://x:1/y;tcp\r\n")));
    }
}
