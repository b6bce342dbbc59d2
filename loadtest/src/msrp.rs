//! MSRP (RFC 4975) as the generator speaks it: an incremental framer, chunk heads, responses, URIs.
//!
//! Written apart from the appliance's codec and along other lines: the head is read line by line, and the two path lines
//! are compared with the last ones of the connection instead of being read again.

use memchr::{memchr, memmem};

/// Longest head that is waited for.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// Longest transaction id.
const TID_LEN_MAX: usize = 32;

/// How a chunk ends.
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
    /// Its character.
    pub const fn byte(self) -> u8 {
        match self {
            Self::End => b'$',
            Self::More => b'+',
            Self::Abort => b'#',
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'$' => Some(Self::End),
            b'+' => Some(Self::More),
            b'#' => Some(Self::Abort),
            _ => None,
        }
    }
}

/// What a head begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a message.
    Send,
    /// News of a message.
    Report,
    /// A method that the generator does not speak.
    Other,
    /// An answer with this status.
    Response(u16),
}

/// A Byte-Range; `None` stands for `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte, counted from one.
    pub start: u64,
    /// Last byte.
    pub end: Option<u64>,
    /// Bytes of the message.
    pub total: Option<u64>,
}

impl ByteRange {
    /// Reads `1-300/900`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let dash = memchr(b'-', text)?;
        let slash = dash + memchr(b'/', &text[dash..])?;
        let number_or_star = |text: &[u8]| if text == b"*" { Some(None) } else { decimal(text).map(Some) };
        let range = Self {
            start: decimal(&text[..dash])?,
            end: number_or_star(&text[dash + 1..slash])?,
            total: number_or_star(&text[slash + 1..])?,
        };
        (range.start >= 1).then_some(range)
    }

    /// Bytes of this chunk, when the range says it.
    pub fn len(&self) -> Option<u64> {
        (self.end? + 1).checked_sub(self.start)
    }
}

/// The head of a request or response.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its transaction.
    pub tid: &'a [u8],
    /// Request or response.
    pub kind: Kind,
    /// True when both path lines are those of the head before on this connection.
    pub paths_repeat: bool,
    /// URIs separated by blanks.
    pub to_path: &'a [u8],
    /// URIs separated by blanks.
    pub from_path: &'a [u8],
    /// Empty when there is none.
    pub message_id: &'a [u8],
    /// Which bytes of the message.
    pub range: Option<ByteRange>,
    /// Empty when there is none.
    pub content_type: &'a [u8],
    /// A body and not an end-line comes next.
    pub has_body: bool,
}

/// What the framer found.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A head.
    Head(Head<'a>),
    /// Bytes of the body of the last head.
    Body(&'a [u8]),
    /// Its end-line.
    End(Flag),
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No `MSRP tid …` where a head begins.
    StartLine,
    /// Paths missing or in the wrong place, or a line without a colon.
    Head,
    /// Unreasonably long.
    HeadTooLong,
    /// No end-line where the Byte-Range promises it, or none behind a bodiless head.
    EndLine,
}

/// Chunk boundaries of one connection.
#[derive(Default)]
pub struct Framer {
    state: State,
    /// CRLF, seven dashes and the transaction id of the open chunk.
    end_line: Vec<u8>,
    paths: Paths,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Head,
    /// So many bytes of body are left.
    Known(u64),
    /// The body ends with its end-line.
    Scan,
    /// CRLF and end-line come next.
    BodyTail,
    /// The end-line comes next, without a CRLF before it.
    BareTail,
}

/// The path lines of the last head, CRLFs included.
#[derive(Default)]
struct Paths {
    lines: Vec<u8>,
    to_path: std::ops::Range<usize>,
    from_path: std::ops::Range<usize>,
}

impl Framer {
    /// Hands over every piece that is complete; returns how many bytes were used. The rest is to come again, with more.
    pub fn feed(&mut self, input: &[u8], mut take: impl FnMut(Piece<'_>)) -> Result<usize, Fault> {
        let mut at = 0;
        loop {
            let bytes = &input[at..];
            match self.state {
                State::Head => match self.head(bytes, &mut take)? {
                    0 => return Ok(at),
                    len => at += len,
                },
                State::Known(left) => {
                    let len = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    if len > 0 {
                        take(Piece::Body(&bytes[..len]));
                    }
                    at += len;
                    if len as u64 != left {
                        self.state = State::Known(left - len as u64);
                        return Ok(at);
                    }
                    self.state = State::BodyTail;
                }
                State::Scan => {
                    let len = self.scan(bytes, &mut take);
                    at += len;
                    if matches!(self.state, State::Scan) {
                        return Ok(at);
                    }
                }
                State::BodyTail | State::BareTail => {
                    let skipped = if matches!(self.state, State::BareTail) { 2 } else { 0 };
                    let wanted = &self.end_line[skipped..];
                    let whole = wanted.len() + 3;
                    if bytes.len() < whole {
                        let known = bytes.len().min(wanted.len());
                        return if bytes[..known] == wanted[..known] { Ok(at) } else { Err(Fault::EndLine) };
                    }
                    let flag = end_flag(bytes, wanted).ok_or(Fault::EndLine)?;
                    take(Piece::End(flag));
                    at += whole;
                    self.state = State::Head;
                }
            }
        }
    }

    /// Reads a head; zero when it is not complete.
    fn head(&mut self, bytes: &[u8], take: &mut impl FnMut(Piece<'_>)) -> Result<usize, Fault> {
        let more = |fault| if bytes.len() > HEAD_LEN_MAX { Err(fault) } else { Ok(0) };
        let Some(line_len) = memchr(b'\n', bytes) else { return more(Fault::HeadTooLong) };
        let (tid, kind) = start_line(&bytes[..=line_len]).ok_or(Fault::StartLine)?;
        let mut at = line_len + 1;
        let paths_repeat = !self.paths.lines.is_empty() && bytes[at..].starts_with(&self.paths.lines);
        if paths_repeat {
            at += self.paths.lines.len();
        } else {
            let Some(first) = memchr(b'\n', &bytes[at..]) else { return more(Fault::HeadTooLong) };
            let Some(second) = memchr(b'\n', &bytes[at + first + 1..]) else { return more(Fault::HeadTooLong) };
            let lines = &bytes[at..at + first + 1 + second + 1];
            self.paths = Paths::parse(lines, first + 1).ok_or(Fault::Head)?;
            at += lines.len();
        }
        let (mut message_id, mut range, mut content_type) = (&bytes[..0], None, &bytes[..0]);
        let has_body = loop {
            let rest = &bytes[at..];
            if rest.starts_with(b"-------") {
                break false;
            }
            let Some(len) = memchr(b'\n', rest) else { return more(Fault::HeadTooLong) };
            let line = rest[..len].strip_suffix(b"\r").ok_or(Fault::Head)?;
            at += len + 1;
            if line.is_empty() {
                break true;
            }
            let colon = memchr(b':', line).ok_or(Fault::Head)?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"Message-ID") {
                message_id = value;
            } else if name.eq_ignore_ascii_case(b"Byte-Range") {
                range = Some(ByteRange::parse(value).ok_or(Fault::Head)?);
            } else if name.eq_ignore_ascii_case(b"Content-Type") {
                content_type = value;
            }
        };
        self.end_line.clear();
        self.end_line.extend_from_slice(b"\r\n-------");
        self.end_line.extend_from_slice(tid);
        self.state = match (has_body, range.and_then(|range| range.len())) {
            (false, _) => State::BareTail,
            (true, Some(len)) => State::Known(len),
            (true, None) => State::Scan,
        };
        let Paths { lines, to_path, from_path } = &self.paths;
        take(Piece::Head(Head {
            tid,
            kind,
            paths_repeat,
            to_path: &lines[to_path.clone()],
            from_path: &lines[from_path.clone()],
            message_id,
            range,
            content_type,
            has_body,
        }));
        Ok(at)
    }

    /// Looks for the end-line; what cannot be part of it is body.
    fn scan(&mut self, bytes: &[u8], take: &mut impl FnMut(Piece<'_>)) -> usize {
        let wanted = &self.end_line;
        let mut from = 0;
        while let Some(found) = memmem::find(&bytes[from..], wanted) {
            let start = from + found;
            let whole = wanted.len() + 3;
            if bytes.len() - start < whole {
                // The flag is yet to come.
                if start > 0 {
                    take(Piece::Body(&bytes[..start]));
                }
                return start;
            }
            if let Some(flag) = end_flag(&bytes[start..], wanted) {
                if start > 0 {
                    take(Piece::Body(&bytes[..start]));
                }
                take(Piece::End(flag));
                self.state = State::Head;
                return start + whole;
            }
            from = start + 1;
        }
        let len = bytes.len().saturating_sub(wanted.len() - 1);
        if len > 0 {
            take(Piece::Body(&bytes[..len]));
        }
        len
    }
}

impl Paths {
    fn parse(lines: &[u8], second_at: usize) -> Option<Self> {
        let value = |from: usize, to: usize, name: &[u8]| -> Option<std::ops::Range<usize>> {
            let line = lines[from..to].strip_suffix(b"\r\n")?;
            let colon = memchr(b':', line)?;
            let behind = &line[colon + 1..];
            let text = behind.trim_ascii_start();
            let start = from + colon + 1 + (behind.len() - text.len());
            let len = text.trim_ascii_end().len();
            (line[..colon].eq_ignore_ascii_case(name) && len > 0).then_some(start..start + len)
        };
        let to_path = value(0, second_at, b"To-Path")?;
        let from_path = value(second_at, lines.len(), b"From-Path")?;
        Some(Self { lines: lines.to_vec(), to_path, from_path })
    }
}

/// The flag of the end-line at the start of `bytes`, which are long enough for it.
fn end_flag(bytes: &[u8], wanted: &[u8]) -> Option<Flag> {
    let rest = bytes.strip_prefix(wanted)?;
    (rest.get(1..3)? == b"\r\n").then(|| Flag::from_byte(rest[0]))?
}

/// Reads `MSRP tid SEND` and `MSRP tid 200 OK`, line feed included.
fn start_line(line: &[u8]) -> Option<(&[u8], Kind)> {
    let rest = line.strip_suffix(b"\r\n")?.strip_prefix(b"MSRP ")?;
    let blank = memchr(b' ', rest)?;
    let (tid, what) = (&rest[..blank], &rest[blank + 1..]);
    if !(4..=TID_LEN_MAX).contains(&tid.len()) || !tid[0].is_ascii_alphanumeric() {
        return None;
    }
    let kind = match what {
        b"SEND" => Kind::Send,
        b"REPORT" => Kind::Report,
        _ if what.len() >= 3 && what[..3].iter().all(u8::is_ascii_digit) => {
            (what.len() == 3 || what[3] == b' ').then_some(())?;
            Kind::Response(decimal(&what[..3])? as u16)
        }
        _ if !what.is_empty() && what.iter().all(u8::is_ascii_uppercase) => Kind::Other,
        _ => return None,
    };
    Some((tid, kind))
}

/// The first of the URIs of a path.
pub fn first(path: &[u8]) -> &[u8] {
    memchr(b' ', path).map_or(path, |at| &path[..at])
}

/// The session-id part of an MSRP URI.
pub fn session_id(uri: &[u8]) -> Option<&[u8]> {
    let authority = memmem::find(uri, b"://")? + 3;
    let slash = authority + memchr(b'/', &uri[authority..])? + 1;
    let end = memchr(b';', &uri[slash..]).map_or(uri.len(), |at| slash + at);
    Some(&uri[slash..end])
}

/// Address and port of an MSRP URI that names them in digits.
pub fn address(uri: &str) -> Option<std::net::SocketAddr> {
    uri.split_once("://")?.1.split(['/', ';']).next()?.parse().ok()
}

/// A head, up to and with its blank line; a bodiless one without Content-Type and blank line.
pub struct HeadText<'a> {
    /// Its transaction.
    pub tid: &'a [u8],
    /// Both path lines, CRLFs included.
    pub paths: &'a [u8],
    /// Which message.
    pub message_id: &'a [u8],
    /// Which bytes of it.
    pub range: ByteRange,
    /// Empty: no body.
    pub content_type: &'a [u8],
}

impl HeadText<'_> {
    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"MSRP ");
        out.extend_from_slice(self.tid);
        out.extend_from_slice(b" SEND\r\n");
        out.extend_from_slice(self.paths);
        out.extend_from_slice(b"Message-ID: ");
        out.extend_from_slice(self.message_id);
        out.extend_from_slice(b"\r\nByte-Range: ");
        write_decimal(out, self.range.start);
        out.push(b'-');
        write_or_star(out, self.range.end);
        out.push(b'/');
        write_or_star(out, self.range.total);
        out.extend_from_slice(b"\r\n");
        if !self.content_type.is_empty() {
            out.extend_from_slice(b"Content-Type: ");
            out.extend_from_slice(self.content_type);
            out.extend_from_slice(b"\r\n\r\n");
        }
    }
}

/// Both path lines.
pub fn path_lines(to_path: &[u8], from_path: &[u8]) -> Vec<u8> {
    [b"To-Path: ", to_path, b"\r\nFrom-Path: ", from_path, b"\r\n"].concat()
}

/// The end-line; the CRLF before it belongs to the body.
pub fn write_end(out: &mut Vec<u8>, tid: &[u8], flag: Flag) {
    out.extend_from_slice(b"-------");
    out.extend_from_slice(tid);
    out.extend_from_slice(&[flag.byte(), b'\r', b'\n']);
}

/// A 200 with prepared path lines.
pub fn write_ok(out: &mut Vec<u8>, tid: &[u8], paths: &[u8]) {
    out.extend_from_slice(b"MSRP ");
    out.extend_from_slice(tid);
    out.extend_from_slice(b" 200 OK\r\n");
    out.extend_from_slice(paths);
    write_end(out, tid, Flag::End);
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0')))
}

fn write_or_star(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => write_decimal(out, number),
        None => out.push(b'*'),
    }
}

fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: &[u8] = b"msrp://127.0.0.1:9/b;tcp";
    const FROM: &[u8] = b"msrp://127.0.0.1:8/p;tcp msrp://127.0.0.1:7/a;tcp";

    fn chunk(tid: &[u8], range: ByteRange, body: &[u8], flag: Flag) -> Vec<u8> {
        let mut out = Vec::new();
        let paths = path_lines(TO, FROM);
        HeadText { tid, paths: &paths, message_id: b"m1", range, content_type: b"message/cpim" }.write(&mut out);
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
        write_end(&mut out, tid, flag);
        out
    }

    fn range(start: u64, end: Option<u64>, total: Option<u64>) -> ByteRange {
        ByteRange { start, end, total }
    }

    /// Feeds a stream in pieces as a socket would; returns what was seen as text, bodies joined.
    fn read(stream: &[u8], piece_len: usize) -> Result<Vec<String>, Fault> {
        let (mut framer, mut seen, mut carry) = (Framer::default(), Vec::<String>::new(), Vec::new());
        for piece in stream.chunks(piece_len) {
            carry.extend_from_slice(piece);
            let used = framer.feed(&carry, |piece| match piece {
                Piece::Head(head) => seen.push(format!(
                    "{} {:?} {} {} {:?}",
                    String::from_utf8_lossy(head.tid),
                    head.kind,
                    String::from_utf8_lossy(head.to_path),
                    String::from_utf8_lossy(first(head.from_path)),
                    head.range.map(|range| (range.start, range.end, range.total)),
                )),
                Piece::Body(body) => {
                    let body = String::from_utf8_lossy(body).into_owned();
                    match seen.last_mut() {
                        Some(last) if last.starts_with("body ") => last.push_str(&body),
                        _ => seen.push(format!("body {body}")),
                    }
                }
                Piece::End(flag) => seen.push(format!("end {flag:?}")),
            })?;
            carry.drain(..used);
        }
        assert!(carry.is_empty(), "left over: {:?}", String::from_utf8_lossy(&carry));
        Ok(seen)
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut() {
        let mut stream = chunk(b"tid1aaaa", range(1, Some(5), Some(9)), b"hello", Flag::More);
        let decoy = b"x\r\n-------tid2aaaa!\r\n-------tid2aaa$\r\nyz";
        stream.extend(chunk(b"tid2aaaa", range(6, None, Some(99)), decoy, Flag::End));
        write_ok(&mut stream, b"tid3aaaa", &path_lines(b"msrp://127.0.0.1:8/p;tcp", TO));
        let expected = read(&stream, stream.len()).expect("the stream is valid");
        assert_eq!(
            expected,
            [
                "tid1aaaa Send msrp://127.0.0.1:9/b;tcp msrp://127.0.0.1:8/p;tcp Some((1, Some(5), Some(9)))",
                "body hello",
                "end More",
                "tid2aaaa Send msrp://127.0.0.1:9/b;tcp msrp://127.0.0.1:8/p;tcp Some((6, None, Some(99)))",
                "body x\r\n-------tid2aaaa!\r\n-------tid2aaa$\r\nyz",
                "end End",
                "tid3aaaa Response(200) msrp://127.0.0.1:8/p;tcp msrp://127.0.0.1:9/b;tcp None",
                "end End",
            ]
        );
        for piece_len in 1..stream.len() {
            assert_eq!(read(&stream, piece_len).as_deref(), Ok(expected.as_slice()), "pieces of {piece_len}");
        }
    }

    #[test]
    fn a_range_that_lies_is_a_fault() {
        let stream = chunk(b"tid1aaaa", range(1, Some(4), Some(4)), b"hello", Flag::End);
        assert_eq!(read(&stream, stream.len()), Err(Fault::EndLine));
    }

    #[test]
    fn what_is_no_msrp_is_a_fault() {
        for (text, fault) in [
            ("HTTP/1.1 200 OK\r\n", Fault::StartLine),
            ("MSRP tid1aaaa send\r\n", Fault::StartLine),
            ("MSRP tid1aaaa 2000\r\n", Fault::StartLine),
            ("MSRP tid1aaaa SEND\r\nFrom-Path: a\r\nTo-Path: b\r\n", Fault::Head),
            ("MSRP tid1aaaa SEND\r\nTo-Path: a\r\nFrom-Path: b\r\n-------tid1aaab$\r\n", Fault::EndLine),
        ] {
            assert_eq!(read(text.as_bytes(), text.len()), Err(fault), "{text}");
        }
    }

    #[test]
    fn a_bodiless_send_has_no_blank_line() {
        let mut out = Vec::new();
        let paths = path_lines(TO, FROM);
        let empty = range(1, Some(0), Some(0));
        HeadText { tid: b"tid1aaaa", paths: &paths, message_id: b"m", range: empty, content_type: b"" }.write(&mut out);
        write_end(&mut out, b"tid1aaaa", Flag::End);
        let seen = read(&out, out.len()).expect("it is valid");
        assert_eq!(seen.len(), 2);
        assert!(!String::from_utf8_lossy(&out).contains("\r\n\r\n"));
    }

    #[test]
    fn paths_that_repeat_are_told() {
        let mut stream = Vec::new();
        for tid in [b"tid1aaaa", b"tid2aaaa"] {
            stream.extend(chunk(tid, range(1, Some(1), Some(1)), b"x", Flag::End));
        }
        let mut repeats = Vec::new();
        let used = Framer::default().feed(&stream, |piece| {
            if let Piece::Head(head) = piece {
                repeats.push(head.paths_repeat);
            }
        });
        assert_eq!(used, Ok(stream.len()));
        assert_eq!(repeats, [false, true]);
    }

    #[test]
    fn uris_give_session_and_address() {
        assert_eq!(session_id(b"msrp://127.0.0.1:9/abc;tcp"), Some(b"abc".as_slice()));
        assert_eq!(session_id(b"msrp://127.0.0.1:9;tcp"), None);
        assert_eq!(address("msrp://127.0.0.1:2855/abc;tcp"), "127.0.0.1:2855".parse().ok());
        assert_eq!(address("msrp://[::1]:2855/abc;tcp"), "[::1]:2855".parse().ok());
        assert_eq!(address("msrp://example.invalid:2855/abc;tcp"), None);
    }

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(ByteRange::parse(b"1-0/0"), Some(range(1, Some(0), Some(0))));
        assert_eq!(ByteRange::parse(b"1-*/*"), Some(range(1, None, None)));
        for wrong in ["0-1/1", "1-2", "a-2/3", "1-/3", "-1/2", "1-99999999999999999999/*"] {
            assert_eq!(ByteRange::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
