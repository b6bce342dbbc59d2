//! The other side's MSRP: a codec of its own, so that a fault of the appliance's cannot cancel itself out.

use memchr::memmem;

/// One chunk, whole.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Method, or status code and comment.
    pub what: String,
    pub tid: String,
    pub to: String,
    pub from: String,
    /// All fields behind the paths.
    pub fields: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    pub flag: u8,
}

impl Chunk {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The status of a response; `None` for a request.
    pub fn status(&self) -> Option<u16> {
        self.what.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    }

    /// The status that a REPORT tells.
    pub fn report_status(&self) -> u16 {
        let text = self.field("Status").expect("a REPORT has a Status");
        text.strip_prefix("000 ").and_then(|text| text.get(..3)?.parse().ok()).expect("a Status of namespace 000")
    }

    pub fn range(&self) -> Range {
        let Some(text) = self.field("Byte-Range") else { return Range { start: 1, end: None, total: None } };
        let (range, total) = text.split_once('/').expect("Byte-Range");
        let (start, end) = range.split_once('-').expect("Byte-Range");
        let number = |text: &str| (text != "*").then(|| text.parse::<u64>().expect("a number in Byte-Range"));
        Range { start: start.parse().expect("a number in Byte-Range"), end: number(end), total: number(total) }
    }

    pub fn wants_response(&self) -> bool {
        self.field("Failure-Report") != Some("no")
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            format!("MSRP {} {}\r\nTo-Path: {}\r\nFrom-Path: {}\r\n", self.tid, self.what, self.to, self.from)
                .as_bytes(),
        );
        for (name, value) in &self.fields {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if let Some(body) = &self.body {
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(body);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("-------{}{}\r\n", self.tid, char::from(self.flag)).as_bytes());
    }

    pub fn response(&self, status: u16) -> Self {
        Self {
            what: format!("{status} Whatever"),
            tid: self.tid.clone(),
            to: self.from.split(' ').next().unwrap_or_default().into(),
            from: self.to.split(' ').next().unwrap_or_default().into(),
            fields: Vec::new(),
            body: None,
            flag: b'$',
        }
    }
}

/// Byte-Range; `None` is `*`.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub start: u64,
    pub end: Option<u64>,
    pub total: Option<u64>,
}

/// A stream, taken apart.
#[derive(Default)]
pub struct Parser {
    bytes: Vec<u8>,
    /// Up to here no end-line begins.
    checked: usize,
    head_told: bool,
}

/// What a stream holds next.
pub enum Parsed {
    /// A head whose chunk is not whole yet; told once. Its body is missing.
    Head(Chunk),
    Whole(Chunk),
}

impl Parser {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes of a chunk that is not whole.
    pub fn rest(&self) -> &[u8] {
        &self.bytes
    }

    /// Panics where the stream is not MSRP.
    pub fn next(&mut self) -> Option<Parsed> {
        let first_end = memmem::find(&self.bytes, b"\r\n")?;
        let first = std::str::from_utf8(&self.bytes[..first_end]).expect("a start line is text");
        let mut words = first.splitn(3, ' ');
        assert_eq!(words.next(), Some("MSRP"), "a start line: {first}");
        let (tid, what) =
            (words.next().expect("a transaction id").to_owned(), words.next().expect("a method").to_owned());
        assert!((4..=32).contains(&tid.len()) && tid.as_bytes()[0].is_ascii_alphanumeric(), "{first}");
        let mark = format!("-------{tid}");
        let mut chunk =
            Chunk { what, tid, to: String::new(), from: String::new(), fields: Vec::new(), body: None, flag: 0 };
        let mut at = first_end + 2;
        let mut lines = Vec::new();
        let body_at = loop {
            let len = memmem::find(&self.bytes[at..], b"\r\n")?;
            let line = &self.bytes[at..at + len];
            at += len + 2;
            if line.is_empty() {
                break Some(at);
            }
            if line.starts_with(mark.as_bytes()) && line.len() == mark.len() + 1 {
                chunk.flag = line[mark.len()];
                break None;
            }
            let line = std::str::from_utf8(line).expect("a field is text");
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("a field: {line}"));
            lines.push((name.to_owned(), value.to_owned()));
        };
        assert!(lines.len() >= 2 && lines[0].0 == "To-Path" && lines[1].0 == "From-Path", "paths first: {lines:?}");
        chunk.to = std::mem::take(&mut lines[0].1);
        chunk.from = std::mem::take(&mut lines[1].1);
        chunk.fields = lines.split_off(2);
        let Some(body_at) = body_at else {
            self.consume(at);
            return Some(Parsed::Whole(chunk));
        };
        let line = format!("\r\n{mark}");
        let mut from = self.checked.max(body_at);
        loop {
            let Some(found) = memmem::find(&self.bytes[from..], line.as_bytes()).map(|found| found + from) else {
                self.checked = body_at.max(self.bytes.len().saturating_sub(line.len()));
                break;
            };
            let after = found + line.len();
            if self.bytes.len() < after + 3 {
                self.checked = found;
                break;
            }
            if b"$+#".contains(&self.bytes[after]) && &self.bytes[after + 1..after + 3] == b"\r\n" {
                chunk.flag = self.bytes[after];
                chunk.body = Some(self.bytes[body_at..found].to_vec());
                self.consume(after + 3);
                return Some(Parsed::Whole(chunk));
            }
            from = found + 2;
        }
        (!std::mem::replace(&mut self.head_told, true)).then_some(Parsed::Head(chunk))
    }

    fn consume(&mut self, len: usize) {
        self.bytes.drain(..len);
        (self.checked, self.head_told) = (0, false);
    }
}
