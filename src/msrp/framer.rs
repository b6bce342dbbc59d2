//! Where chunks begin and end in a stream of bytes.
//!
//! What lies whole in the input is found in place: one pass over the head, a jump by Byte-Range, one comparison of the
//! end-line. Only a head that came in pieces is carried over; of a body, nothing but the beginning of a possible end-line
//! is held back, and that is known without storing it.

use super::head::{
    self, END_LINE_MARK, EndLine, Flag, FramingFault, Head, SeenPaths, Step, TRANSACTION_ID_LEN_MAX, WINDOW_LEN,
};
use memchr::memmem;
use std::ops::Range;

/// What comes next in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A chunk begins. Borrowed from the input, or from the framer when it came in pieces.
    Head(Head<'a>),
    /// Bytes of the body, never none. From the input, but for the beginning of what could have been an end-line.
    Body(&'a [u8]),
    /// The end-line.
    End(Flag),
    /// All is consumed; more bytes are needed.
    Incomplete,
    /// The place in the stream is lost; the connection can only be closed.
    Fault(FramingFault),
}

/// Takes one connection's stream apart.
#[derive(Debug, Default)]
pub struct Framer {
    phase: Phase,
    /// A head that is not whole yet, or whole and handed out by the last call.
    carry: Vec<u8>,
    seen: SeenPaths,
    body: Body,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Head,
    Body,
    /// The end-line is consumed and has to be told.
    End(Flag),
    Lost(FramingFault),
}

/// The body that is being read, or the last one.
#[derive(Debug)]
struct Body {
    /// `CRLF "-------" transaction-id`, and room for flag and CR.
    line: [u8; LINE_LEN_MAX],
    /// Bytes of `line` before the flag.
    flag_at: u8,
    /// Bytes of `line` that are held back because the input ended with them.
    held: u8,
    /// Held bytes that belong to the head: the blank line before an end-line that follows at once.
    borrowed: u8,
    /// Bytes handed out.
    len: u64,
    /// Bytes according to Byte-Range.
    declared: Option<u64>,
    /// The body is not as long as declared.
    is_broken: bool,
    /// Some bytes were handed out unseen, trusting Byte-Range.
    is_skipped: bool,
}

impl Framer {
    /// A framer at the beginning of a stream; it holds no memory.
    ///
    /// RFC 4975 §5.1.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event off the input.
    ///
    /// RFC 4975 §7.1.
    pub fn next<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Event<'a> {
        match self.phase {
            Phase::Head => self.on_head(input),
            Phase::Body => self.on_body(input),
            Phase::End(flag) => {
                self.finish();
                Event::End(flag)
            }
            Phase::Lost(fault) => Event::Fault(fault),
        }
    }

    /// Whether it stands between two chunks and carries nothing. It then holds no memory but the last paths, and after
    /// [`Self::forget`] not those either.
    ///
    /// RFC 4975 §5.1.
    pub const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.carry.is_empty()
    }

    /// Gives the memory of the last paths back, for a connection that is not used for a while. The next paths repeat
    /// nothing.
    ///
    /// RFC 4975 §5.1.
    pub fn forget(&mut self) {
        self.seen.forget();
    }

    /// Bytes of heap memory held.
    ///
    /// RFC 4975 §5.1.
    pub const fn heap_len(&self) -> usize {
        self.carry.capacity() + self.seen.len()
    }

    /// Body bytes handed out of the current chunk, or of the last one between chunks.
    ///
    /// RFC 4975 §7.1.
    pub const fn body_len(&self) -> u64 {
        self.body.len
    }

    /// Whether the body is as its Byte-Range says: asked after [`Event::End`], all of it; before, as far as it is known.
    /// A chunk that breaks its range is answered 400.
    ///
    /// RFC 4975 §7.1.
    pub const fn keeps_range(&self) -> bool {
        !self.body.is_broken
    }

    fn on_head<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Event<'a> {
        if self.carry.is_empty() {
            return match head::read(input, &mut self.seen) {
                Step::Whole { head, len, end } => {
                    self.phase = self.body.begin(&head, end);
                    *input = &input[len..];
                    Event::Head(head)
                }
                Step::Short => {
                    self.carry.extend_from_slice(input);
                    *input = &[];
                    Event::Incomplete
                }
                Step::Fault(fault) => self.lose(fault),
            };
        }
        loop {
            if input.is_empty() {
                return Event::Incomplete;
            }
            let before = self.carry.len();
            self.carry.extend_from_slice(&input[..input.len().min(CARRY_STEP_LEN).min(WINDOW_LEN - before)]);
            match head::read(&self.carry, &mut self.seen) {
                Step::Whole { head, len, end } => {
                    self.phase = self.body.begin(&head, end);
                    *input = &input[len - before..];
                    break;
                }
                Step::Short => *input = &input[self.carry.len() - before..],
                Step::Fault(fault) => return self.lose(fault),
            }
        }
        // Read again for the borrow: it is the same head.
        match head::read(&self.carry, &mut self.seen) {
            Step::Whole { head, .. } => Event::Head(head),
            Step::Short | Step::Fault(_) => Event::Fault(FramingFault::BadStartLine),
        }
    }

    fn on_body<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Event<'a> {
        if self.carry.capacity() != 0 {
            self.carry = Vec::new();
        }
        if input.is_empty() {
            return Event::Incomplete;
        }
        if self.body.held > 0 {
            match self.body.resume(input) {
                Resumed::Open => return Event::Incomplete,
                Resumed::Ended(flag) => {
                    self.finish();
                    return Event::End(flag);
                }
                Resumed::Refuted(part) if !part.is_empty() => {
                    let part = part.start..part.end;
                    return Event::Body(&self.body.line[part]);
                }
                Resumed::Refuted(_) => {}
            }
        }
        let found = self.body.find(input);
        let Some(found) = found else { return self.lose(FramingFault::EndLost) };
        let (part, after) = input.split_at(found.at);
        self.body.len += part.len() as u64;
        match found.what {
            Found::End(flag) => {
                *input = &after[usize::from(self.body.flag_at) + 3..];
                self.body.is_broken |= self.body.declared.is_some_and(|declared| declared != self.body.len);
                if part.is_empty() {
                    self.finish();
                    return Event::End(flag);
                }
                self.phase = Phase::End(flag);
            }
            Found::Perhaps if part.is_empty() => {
                self.body.hold(after);
                *input = &[];
                return Event::Incomplete;
            }
            Found::Perhaps | Found::Nothing => *input = after,
        }
        Event::Body(part)
    }

    fn finish(&mut self) {
        self.phase = Phase::Head;
        self.carry = Vec::new();
    }

    fn lose(&mut self, fault: FramingFault) -> Event<'static> {
        self.phase = Phase::Lost(fault);
        self.carry = Vec::new();
        Event::Fault(fault)
    }
}

/// Where a part of the input lies in it; `None` when it came from the framer.
///
/// RFC 4975 §5.1.
pub fn place_in(input: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(input.as_ptr() as usize)?;
    (start + part.len() <= input.len()).then(|| start..start + part.len())
}

/// What became of the bytes held back.
enum Resumed {
    Open,
    Ended(Flag),
    /// They were body: this part of the line.
    Refuted(Range<usize>),
}

/// How far the input is body, and what stands behind.
struct Place {
    at: usize,
    what: Found,
}

enum Found {
    End(Flag),
    /// The input ends with what can be the beginning of the end-line.
    Perhaps,
    Nothing,
}

impl Body {
    fn begin(&mut self, head: &Head<'_>, end: Option<Flag>) -> Phase {
        let id = head.transaction_id;
        let flag_at = 2 + END_LINE_MARK.len() + id.len();
        self.line[9..flag_at].copy_from_slice(id);
        self.flag_at = flag_at as u8;
        self.len = 0;
        self.declared = head.byte_range.len();
        self.is_broken = false;
        self.is_skipped = false;
        match end {
            Some(flag) => {
                self.is_broken = self.declared.is_some_and(|declared| declared > 0);
                Phase::End(flag)
            }
            None => {
                // A sender that ends an empty body with the end-line right behind the blank line is understood.
                (self.held, self.borrowed) = (2, 2);
                Phase::Body
            }
        }
    }

    /// Goes on comparing what is held back with the end-line.
    fn resume(&mut self, input: &mut &[u8]) -> Resumed {
        let flag_at = usize::from(self.flag_at);
        let held = usize::from(self.held);
        let mut at = held;
        for byte in input.iter() {
            let is_right = match at {
                _ if at < flag_at => *byte == self.line[at],
                _ if at == flag_at => Flag::from_byte(*byte).is_some(),
                _ if at == flag_at + 1 => *byte == b'\r',
                _ => *byte == b'\n',
            };
            if !is_right {
                self.held = 0;
                let part = usize::from(self.borrowed)..held;
                self.len += part.len() as u64;
                return Resumed::Refuted(part);
            }
            if at >= flag_at && at < LINE_LEN_MAX {
                self.line[at] = *byte;
            }
            at += 1;
            if at == flag_at + 3 {
                *input = &input[at - held..];
                self.held = 0;
                self.is_broken |= self.declared.is_some_and(|declared| declared != self.len);
                let flag = Flag::from_byte(self.line[flag_at]).unwrap_or(Flag::Abort);
                return Resumed::Ended(flag);
            }
        }
        self.held = at as u8;
        *input = &[];
        Resumed::Open
    }

    /// Holds the beginning of an end-line back.
    fn hold(&mut self, bytes: &[u8]) {
        let flag_at = usize::from(self.flag_at);
        (self.held, self.borrowed) = (bytes.len() as u8, 0);
        if let Some(rest) = bytes.get(flag_at..) {
            self.line[flag_at..flag_at + rest.len()].copy_from_slice(rest);
        }
    }

    /// Finds out how far the input is body; `None` when that cannot be known any more.
    fn find(&mut self, input: &[u8]) -> Option<Place> {
        let left = self.declared.filter(|_| !self.is_broken).map(|declared| declared.checked_sub(self.len));
        match left {
            Some(Some(left)) if left < input.len() as u64 => {
                let left = left as usize;
                let after = &input[left..];
                let id = &self.line[9..usize::from(self.flag_at)];
                match (after, after.get(2..).map(|line| head::end_line_at(line, id))) {
                    ([b'\r', b'\n', ..], Some(EndLine::Whole(flag))) => {
                        return Some(Place { at: left, what: Found::End(flag) });
                    }
                    ([b'\r', b'\n', ..], Some(EndLine::Short)) | ([b'\r'], _) => {
                        return Some(Place { at: left, what: Found::Perhaps });
                    }
                    _ => self.is_broken = true,
                }
            }
            Some(Some(left)) if left == input.len() as u64 => {
                return Some(self.scan_tail(input));
            }
            Some(Some(_)) => return Some(self.scan_tail(input)),
            Some(None) => self.is_broken = true,
            None => {}
        }
        let overrun = self.declared.map_or(0, |declared| self.len.saturating_sub(declared));
        if self.is_skipped && overrun > OVERRUN_LEN_MAX {
            return None;
        }
        Some(self.scan(input))
    }

    /// Looks for the end-line in the last bytes of an input that should be all body.
    fn scan_tail(&mut self, input: &[u8]) -> Place {
        let from = input.len().saturating_sub(TAIL_LEN);
        self.is_skipped |= from > 0;
        let tail = &input[from..];
        let place = self.scan(tail);
        if let Found::End(_) = place.what {
            let after = &tail[place.at + usize::from(self.flag_at) + 3..];
            let next = after.len().min(START.len());
            if after[..next] != START[..next] {
                // A sender's own words; the range is trusted.
                return Place { at: input.len(), what: Found::Nothing };
            }
        }
        Place { at: from + place.at, what: place.what }
    }

    /// Looks for the end-line.
    fn scan(&self, input: &[u8]) -> Place {
        let flag_at = usize::from(self.flag_at);
        let finder = memmem::Finder::new(&self.line[..flag_at]);
        let mut from = 0;
        while let Some(hit) = finder.find(&input[from..]).map(|hit| from + hit) {
            match head::end_line_at(&input[hit + 2..], &self.line[9..flag_at]) {
                EndLine::Whole(flag) => return Place { at: hit, what: Found::End(flag) },
                EndLine::Short => return Place { at: hit, what: Found::Perhaps },
                EndLine::No => from = hit + 2,
            }
        }
        let tail = input.len().saturating_sub(flag_at - 1).max(from);
        match memchr::memrchr(b'\r', &input[tail..]).map(|hit| tail + hit) {
            Some(hit) if self.line.starts_with(&input[hit..]) => Place { at: hit, what: Found::Perhaps },
            _ => Place { at: input.len(), what: Found::Nothing },
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        let mut line = [0; LINE_LEN_MAX];
        line[..9].copy_from_slice(b"\r\n-------");
        Self { line, flag_at: 9, held: 0, borrowed: 0, len: 0, declared: None, is_broken: false, is_skipped: false }
    }
}

/// CRLF, mark, transaction id, flag and CR.
const LINE_LEN_MAX: usize = 2 + END_LINE_MARK.len() + TRANSACTION_ID_LEN_MAX + 2;
/// How the next chunk begins.
const START: &[u8] = b"MSRP ";
/// Bytes that are added to a head in pieces at once.
const CARRY_STEP_LEN: usize = 512;
/// Bytes at the end of an input that are searched although Byte-Range says that they are all body: a sender that gave a
/// chunk up early is waiting there for its answer.
const TAIL_LEN: usize = 4_096;
/// Bytes behind the declared end in which the end-line is looked for, if it may have been overlooked before.
const OVERRUN_LEN_MAX: u64 = 64 * 1024;
