//! Where chunks begin and end in a stream of bytes.
//!
//! What lies whole in the input is found in place: one pass over the head, a jump by Byte-Range, one comparison of the
//! end-line. Only a head that came in pieces is carried over; of a body, nothing but the beginning of a possible end-line
//! is held back, and that is known without storing it.

use super::head::{
    self, END_LINE_MARK, EndLine, Flag, FramingFault, Head, Kind, SeenPaths, Step, TRANSACTION_ID_LEN_MAX, WINDOW_LEN,
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
    /// Bytes of the carry that were found to be whole lines.
    checked: usize,
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
            Phase::Lost(fault) => {
                self.carry = Vec::new();
                Event::Fault(fault)
            }
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

    /// Whether the body of a SEND is as its Byte-Range says: asked after [`Event::End`], all of it; before, as far as it is known.
    /// A chunk that breaks its range is answered 400.
    ///
    /// RFC 4975 §7.1.
    pub const fn keeps_range(&self) -> bool {
        !self.body.is_broken
    }

    fn on_head<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Event<'a> {
        if self.carry.is_empty() {
            return match head::read(input, &self.seen) {
                Step::Whole { head, len, end } => {
                    self.seen.keep(&head);
                    self.phase = self.body.begin(&head, end);
                    *input = &input[len..];
                    Event::Head(head)
                }
                Step::Short => {
                    self.checked = 0;
                    self.carry.extend_from_slice(input);
                    *input = &[];
                    Event::Incomplete
                }
                Step::Fault(fault) => self.lose(fault),
            };
        }
        let mut before = self.carry.len();
        loop {
            if input.is_empty() {
                return Event::Incomplete;
            }
            let step = input.len().min(CARRY_STEP_LEN).min(WINDOW_LEN - before);
            self.carry.extend_from_slice(&input[..step]);
            if head::is_decided(&self.carry, &mut self.checked) {
                break;
            }
            *input = &input[step..];
            before = self.carry.len();
        }
        match head::read(&self.carry, &self.seen) {
            Step::Whole { head, len, end } => {
                debug_assert!(len > before, "a head that was whole before was handed out then");
                self.seen.keep(&head);
                self.phase = self.body.begin(&head, end);
                *input = &input[len.saturating_sub(before)..];
                Event::Head(head)
            }
            Step::Fault(fault) => {
                self.phase = Phase::Lost(fault);
                Event::Fault(fault)
            }
            Step::Short => {
                debug_assert!(false, "the head was found to be decided");
                self.phase = Phase::Lost(FramingFault::HeadTooLong);
                Event::Fault(FramingFault::HeadTooLong)
            }
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
                Resumed::Refuted(part) if part.is_empty() => {}
                Resumed::Refuted(part) => return Event::Body(&self.body.line[part]),
            }
        }
        let found = self.body.find(input);
        let Some(found) = found else { return self.lose(FramingFault::EndLost) };
        let (part, after) = input.split_at(found.at);
        self.body.len += part.len() as u64;
        match found.what {
            Found::End(flag) => {
                *input = &after[usize::from(self.body.flag_at) + 3..];
                self.body.check_len();
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
        // In a REPORT the range is that of the message it is about.
        self.declared = if head.kind == Kind::Send { head.byte_range.len() } else { None };
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
                return self.refute(held);
            }
            if let Some(place) = self.line.get_mut(at) {
                *place = *byte;
            }
            at += 1;
            if at == flag_at + 3 {
                let after = &input[at - held..];
                if self.trusts_range() && !may_start(after) {
                    return self.refute(held);
                }
                *input = after;
                self.held = 0;
                self.check_len();
                return Resumed::Ended(Flag::from_byte(self.line[flag_at]).unwrap_or(Flag::Abort));
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

    /// What was held back is body.
    fn refute(&mut self, held: usize) -> Resumed {
        let part = usize::from(self.borrowed)..held;
        self.held = 0;
        self.len += part.len() as u64;
        Resumed::Refuted(part)
    }

    /// At the end-line: whether as much came as was declared.
    fn check_len(&mut self) {
        self.is_broken |= self.declared.is_some_and(|declared| declared != self.len);
    }

    /// Whether more bytes are declared than came, so that what looks like the end-line can be the sender's own words.
    fn trusts_range(&self) -> bool {
        !self.is_broken && self.declared.is_some_and(|declared| declared > self.len)
    }

    /// Finds out how far the input is body; `None` when that cannot be known any more.
    fn find(&mut self, input: &[u8]) -> Option<Place> {
        if let Some(declared) = self.declared.filter(|_| !self.is_broken) {
            match declared.checked_sub(self.len) {
                Some(left) if left >= input.len() as u64 => return Some(self.scan_tail(input)),
                Some(left) => match self.jump(input, left as usize) {
                    Some(place) => return Some(place),
                    None => self.is_broken = true,
                },
                None => self.is_broken = true,
            }
        }
        let overrun = self.declared.map_or(0, |declared| self.len.saturating_sub(declared));
        if self.is_skipped && overrun > OVERRUN_LEN_MAX {
            return None;
        }
        Some(self.scan(input, 0, false))
    }

    /// Looks whether the end-line is where it should be, behind `left` bytes; `None` when it is not.
    fn jump(&self, input: &[u8], left: usize) -> Option<Place> {
        let what = match &input[left..] {
            [b'\r'] => Found::Perhaps,
            [b'\r', b'\n', line @ ..] => match head::end_line_at(line, self.transaction_id()) {
                EndLine::Whole(flag) => Found::End(flag),
                EndLine::Short => Found::Perhaps,
                EndLine::No => return None,
            },
            _ => return None,
        };
        Some(Place { at: left, what })
    }

    /// Looks for the end-line in the last bytes of an input that should be all body.
    fn scan_tail(&mut self, input: &[u8]) -> Place {
        let from = input.len().saturating_sub(TAIL_LEN);
        self.is_skipped |= from > 0;
        self.scan(input, from, true)
    }

    /// Looks for the end-line. While the range is `trusted`, one that is not followed by a chunk is none.
    fn scan(&self, input: &[u8], mut from: usize, trusted: bool) -> Place {
        let needle = &self.line[..usize::from(self.flag_at)];
        let finder = memmem::Finder::new(needle);
        while let Some(at) = finder.find(&input[from..]).map(|hit| from + hit) {
            match head::end_line_at(&input[at + 2..], self.transaction_id()) {
                EndLine::Whole(flag) if !trusted || may_start(&input[at + needle.len() + 3..]) => {
                    return Place { at, what: Found::End(flag) };
                }
                EndLine::Short => return Place { at, what: Found::Perhaps },
                EndLine::Whole(_) | EndLine::No => from = at + 2,
            }
        }
        // The needle has one CR, in front: only the last one can begin what goes on behind the input.
        let tail = input.len().saturating_sub(needle.len() - 1).max(from);
        match memchr::memrchr(b'\r', &input[tail..]).map(|hit| tail + hit) {
            Some(at) if needle.starts_with(&input[at..]) => Place { at, what: Found::Perhaps },
            _ => Place { at: input.len(), what: Found::Nothing },
        }
    }

    fn transaction_id(&self) -> &[u8] {
        &self.line[2 + END_LINE_MARK.len()..usize::from(self.flag_at)]
    }
}

/// Whether these bytes are none, or can be how a chunk begins.
fn may_start(bytes: &[u8]) -> bool {
    let len = bytes.len().min(START.len());
    bytes[..len] == START[..len]
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
const TAIL_LEN: usize = 1_024;
/// Bytes behind the declared end in which the end-line is looked for, if it may have been overlooked before.
const OVERRUN_LEN_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrp::head::HeadFault;
    use proptest::prelude::*;

    const PATHS: &str = "To-Path: msrp://p:1/p1;tcp msrp://b:7/sb;tcp\r\nFrom-Path: msrp://a:9/sa;tcp\r\n";

    /// What a stream holds, with its bodies put together.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Head { text: Vec<u8>, kind: Kind, paths_repeat: bool, fault: Option<HeadFault> },
        Body(Vec<u8>),
        End { flag: Flag, keeps_range: bool },
        Fault(FramingFault),
    }

    /// Feeds pieces, each as long as `len_of` says for its place.
    fn events(bytes: &[u8], len_of: impl Fn(usize) -> usize) -> Vec<Seen> {
        let mut framer = Framer::new();
        let mut seen = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + len_of(at).max(1)).min(bytes.len());
            let mut input = &bytes[at..end];
            at = end;
            if !feed(&mut framer, &mut input, &mut seen) {
                return seen;
            }
            assert!(input.is_empty(), "all is consumed before more is asked for");
        }
        seen
    }

    fn feed(framer: &mut Framer, input: &mut &[u8], seen: &mut Vec<Seen>) -> bool {
        loop {
            let event = framer.next(input);
            match event {
                Event::Head(Head { bytes, kind, paths_repeat, fault, .. }) => {
                    seen.push(Seen::Head { text: bytes.to_vec(), kind, paths_repeat, fault });
                }
                Event::Body(part) => {
                    assert!(!part.is_empty());
                    match seen.last_mut() {
                        Some(Seen::Body(body)) => body.extend_from_slice(part),
                        _ => seen.push(Seen::Body(part.to_vec())),
                    }
                }
                Event::End(flag) => {
                    seen.push(Seen::End { flag, keeps_range: framer.keeps_range() });
                    assert!(framer.is_idle());
                    framer.forget();
                    assert_eq!(framer.heap_len(), 0, "nothing is held between chunks");
                }
                Event::Incomplete => return true,
                Event::Fault(fault) => {
                    seen.push(Seen::Fault(fault));
                    assert_eq!(framer.next(input), Event::Fault(fault), "a fault stays");
                    assert_eq!(framer.carry.capacity(), 0);
                    return false;
                }
            }
        }
    }

    fn whole(bytes: &[u8]) -> Vec<Seen> {
        events(bytes, |_| bytes.len())
    }

    fn chunk(id: &str, range: &str, body: &[u8], flag: char) -> Vec<u8> {
        let range = if range.is_empty() { String::new() } else { format!("Byte-Range: {range}\r\n") };
        let mut out =
            format!("MSRP {id} SEND\r\n{PATHS}Message-ID: m1\r\n{range}Content-Type: a/b\r\n\r\n").into_bytes();
        out.extend_from_slice(body);
        out.extend_from_slice(format!("\r\n-------{id}{flag}\r\n").as_bytes());
        out
    }

    fn response(id: &str) -> Vec<u8> {
        format!("MSRP {id} 200 OK\r\n{PATHS}-------{id}$\r\n").into_bytes()
    }

    fn bodies(seen: &[Seen]) -> Vec<&[u8]> {
        seen.iter().filter_map(|one| if let Seen::Body(body) = one { Some(&body[..]) } else { None }).collect()
    }

    fn ends(seen: &[Seen]) -> Vec<(Flag, bool)> {
        let end =
            |one: &Seen| if let Seen::End { flag, keeps_range } = one { Some((*flag, *keeps_range)) } else { None };
        seen.iter().filter_map(end).collect()
    }

    /// Words that look like the end-line of `d93kswow` to a careless reader.
    fn decoys() -> Vec<u8> {
        b"\r\n-------other000$\r\n\r\n-------d93kswowX$\r\n\r\n-------d93kswow$\n\r\n-------d93kswow!\r\n\
          \r\n-------d93kswow\r\n\r\n-------D93KSWOW$\r\n\n-------d93kswow$\r\n\r-------d93kswow$\r\n\r\n------d93kswow$\r\n\
          \r\n--------d93kswow$\r\n\r\n-------d93kswow$\r \r\n-------d93kswow$\r\r\n-------d93ksw\r\n\r\n\r\n-------"
            .to_vec()
    }

    /// Chunks, responses and bodiless requests one after another, the bodies full of decoys.
    fn stream() -> Vec<u8> {
        let decoys = decoys();
        let mut bytes = chunk("d93kswow", &format!("1-{}/{}", decoys.len(), decoys.len()), &decoys, '+');
        bytes.extend(response("resp0001"));
        bytes.extend(chunk("d93kswow", "1-*/*", &decoys, '$'));
        bytes.extend(chunk("d93kswow", "", &decoys, '#'));
        bytes.extend(format!("MSRP b0d1less SEND\r\n{PATHS}Message-ID: m2\r\n-------b0d1less$\r\n").into_bytes());
        bytes.extend(chunk("empty000", "1-0/0", b"", '$'));
        bytes.extend(format!("MSRP sl0ppy00 SEND\r\n{PATHS}Message-ID: m3\r\n\r\n-------sl0ppy00$\r\n").into_bytes());
        bytes.extend(format!("MSRP report00 REPORT\r\n{PATHS}Message-ID: m1\r\n-------report00$\r\n").into_bytes());
        bytes.extend(chunk("wh4tever", "11-20/20", b"\r\n\r\n\r\n\r\n\r\n", '$'));
        bytes.extend(response("resp0002"));
        bytes
    }

    #[test]
    fn a_stream_is_taken_apart() {
        let seen = whole(&stream());
        let decoys = decoys();
        assert_eq!(bodies(&seen), [&decoys[..], &decoys, &decoys, b"\r\n\r\n\r\n\r\n\r\n"]);
        let flags: Vec<Flag> = ends(&seen).iter().map(|(flag, _)| *flag).collect();
        use Flag::{Abort, End, More};
        assert_eq!(flags, [More, End, End, Abort, End, End, End, End, End, End]);
        assert!(ends(&seen).iter().all(|(_, keeps_range)| *keeps_range));
        assert!(seen.iter().all(|one| !matches!(one, Seen::Head { fault: Some(_), .. } | Seen::Fault(_))));
    }

    #[test]
    fn where_a_stream_is_cut_changes_nothing() {
        let bytes = stream();
        let expected = whole(&bytes);
        for cut in 1..bytes.len() {
            assert_eq!(events(&bytes, |at| if at == 0 { cut } else { bytes.len() }), expected, "cut at {cut}");
            let len_of = |at: usize| if at < cut { cut } else { 3 };
            assert_eq!(events(&bytes, len_of), expected, "small pieces from {cut}");
        }
        for step in 1..200 {
            assert_eq!(events(&bytes, |_| step), expected, "pieces of {step}");
        }
    }

    #[test]
    fn long_bodies_may_be_cut_anywhere_near_what_matters() {
        let mut body: Vec<u8> = (0..65_536u32).map(|n| (n * 7 % 251) as u8).collect();
        let decoys = decoys();
        for at in [0, 4_000, 16_384, 61_400] {
            body[at..at + decoys.len()].copy_from_slice(&decoys);
        }
        for range in ["1-65536/65536", "1-*/65536"] {
            let mut bytes = chunk("d93kswow", range, &body, '+');
            let end = bytes.len();
            bytes.extend(chunk("n3xtchnk", "65537-65540/65540", b"abcd", '$'));
            let expected = whole(&bytes);
            assert_eq!(bodies(&expected), [&body[..], b"abcd"]);
            assert_eq!(ends(&expected), [(Flag::More, true), (Flag::End, true)]);
            let head = end - 65_536 - 20;
            let near = [0, 4_000, 16_384, 61_400].map(|at| head + at);
            let cuts = near.iter().flat_map(|at| *at..*at + decoys.len() + 2).chain(end - 60..end + 60);
            for cut in cuts.chain((1..end).step_by(509)) {
                assert_eq!(events(&bytes, |at| if at == 0 { cut } else { bytes.len() }), expected, "cut at {cut}");
            }
            for step in [1, 7, 512, 1_460, 4_096, 16_384, 65_536] {
                assert_eq!(events(&bytes, |_| step), expected, "pieces of {step}");
            }
        }
    }

    #[test]
    fn bodies_come_from_the_input_and_in_few_parts() {
        let body = vec![b'x'; 65_536];
        for range in ["1-65536/65536", "1-*/*"] {
            let bytes = chunk("d93kswow", range, &body, '$');
            let mut framer = Framer::new();
            let mut parts = 0;
            for piece in bytes.chunks(16_384) {
                let mut input = piece;
                loop {
                    match framer.next(&mut input) {
                        Event::Body(part) => {
                            parts += 1;
                            assert!(place_in(piece, part).is_some(), "not copied");
                        }
                        Event::Incomplete => break,
                        Event::Fault(fault) => panic!("{fault:?}"),
                        Event::Head(_) | Event::End(_) => {}
                    }
                }
                assert_eq!(framer.carry.capacity(), 0, "bodies are not stored");
            }
            assert_eq!(parts, bytes.len().div_ceil(16_384));
            assert!(framer.is_idle());
        }
    }

    #[test]
    fn a_head_in_pieces_is_carried_and_given_back() {
        let bytes = chunk("d93kswow", "1-4/4", b"abcd", '$');
        let mut framer = Framer::new();
        assert!(framer.is_idle() && framer.heap_len() == 0);
        let mut input = &bytes[..20];
        assert_eq!(framer.next(&mut input), Event::Incomplete);
        assert!(!framer.is_idle() && framer.heap_len() >= 20);
        let rest = &bytes[20..];
        let mut input = rest;
        assert!(matches!(framer.next(&mut input), Event::Head(head) if place_in(rest, head.bytes).is_none()));
        assert!(!framer.is_idle());
        assert_eq!(framer.next(&mut input), Event::Body(b"abcd"));
        assert_eq!(framer.next(&mut input), Event::End(Flag::End));
        assert_eq!(framer.next(&mut input), Event::Incomplete);
        assert!(framer.is_idle() && framer.keeps_range() && framer.body_len() == 4);
        assert_eq!(framer.heap_len(), framer.seen.len(), "only the paths stay");
        let mut input = &bytes[..];
        assert!(matches!(framer.next(&mut input), Event::Head(head) if head.paths_repeat));
    }

    #[test]
    fn paths_of_a_carried_head_repeat_when_they_do() {
        let bytes = [response("resp0001"), response("resp0002")].concat();
        let repeats = |seen: Vec<Seen>| -> Vec<bool> {
            let repeats =
                |one: &Seen| if let Seen::Head { paths_repeat, .. } = one { Some(*paths_repeat) } else { None };
            seen.iter().filter_map(repeats).collect()
        };
        for step in 1..bytes.len() {
            let mut framer = Framer::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                let mut input = piece;
                loop {
                    match framer.next(&mut input) {
                        Event::Head(Head { kind, paths_repeat, fault, .. }) => {
                            seen.push(Seen::Head { text: Vec::new(), kind, paths_repeat, fault });
                        }
                        Event::Incomplete => break,
                        _ => {}
                    }
                }
            }
            assert_eq!(repeats(seen), [false, true], "pieces of {step}");
        }
    }

    #[test]
    fn a_range_that_says_too_little_is_found_out() {
        let next = response("resp0001");
        let bytes = [chunk("d93kswow", "1-10/100", &[b'x'; 100], '$'), next].concat();
        for step in 1..bytes.len() {
            let seen = events(&bytes, |_| step);
            assert_eq!(bodies(&seen), [&[b'x'; 100][..]]);
            assert_eq!(ends(&seen), [(Flag::End, false), (Flag::End, true)], "pieces of {step}");
        }
    }

    #[test]
    fn a_range_that_says_too_much_is_found_out_when_the_sender_waits_or_goes_on() {
        for flag in ['$', '#', '+'] {
            let first = chunk("d93kswow", "1-10000/10000", &[b'x'; 50], flag);
            let both = [first.clone(), response("resp0001")].concat();
            for step in 1..both.len() {
                assert_eq!(ends(&events(&first, |_| step)).len(), 1, "pieces of {step}");
                let seen = events(&both, |_| step);
                assert_eq!(bodies(&seen), [&[b'x'; 50][..]]);
                assert_eq!(ends(&seen).iter().map(|end| end.1).collect::<Vec<_>>(), [false, true], "pieces of {step}");
            }
        }
    }

    #[test]
    fn own_words_that_look_like_the_end_line_are_body_while_the_range_says_so() {
        let body = b"abc\r\n-------d93kswow$\r\ndef\r\n-------d93kswow+\r\nghi";
        let bytes = chunk("d93kswow", &format!("1-{0}/{0}", body.len()), body, '$');
        assert_eq!(bodies(&whole(&bytes)), [&body[..]]);
        let behind_a_line =
            |at: usize| bytes[..at].ends_with(b"d93kswow$\r\n") || bytes[..at].ends_with(b"d93kswow+\r\n");
        for cut in (1..bytes.len()).filter(|cut| !behind_a_line(*cut)) {
            let seen = events(&bytes, |at| if at == 0 { cut } else { bytes.len() });
            assert_eq!((bodies(&seen), ends(&seen)), (vec![&body[..]], vec![(Flag::End, true)]), "cut at {cut}");
        }
    }

    #[test]
    fn an_end_that_was_passed_over_closes_the_connection_soon() {
        let early = chunk("d93kswow", "1-1000000/1000000", &[b'x'; 50], '$');
        let mut bytes = early;
        while bytes.len() < 2_000_000 {
            bytes.extend(chunk("n3xtchnk", "1-5000/5000", &[b'y'; 5_000], '$'));
        }
        // In one piece of 64 KB the end is too far from the piece's end to be seen.
        let seen = events(&bytes, |_| 65_536);
        assert_eq!(seen.last(), Some(&Seen::Fault(FramingFault::EndLost)));
        let passed: usize = bodies(&seen).iter().map(|body| body.len()).sum();
        assert!(passed < 1_000_000 + 65_536 * 3, "{passed} bytes");
    }

    #[test]
    fn a_bodiless_chunk_with_a_range_breaks_it() {
        for (range, keeps) in [("1-0/0", true), ("1-*/*", true), ("1-5/5", false)] {
            let bytes =
                format!("MSRP d93kswow SEND\r\n{PATHS}Message-ID: m1\r\nByte-Range: {range}\r\n-------d93kswow$\r\n");
            assert_eq!(ends(&whole(bytes.as_bytes())), [(Flag::End, keeps)], "{range}");
        }
    }

    #[test]
    fn other_protocols_are_noticed_at_the_first_wrong_byte() {
        for bytes in [&b"G"[..], b"MSRX", b"MSRP d\xff", b"\r\n", b"\x16\x03\x01"] {
            assert_eq!(whole(bytes), [Seen::Fault(FramingFault::BadStartLine)]);
            assert_eq!(events(bytes, |_| 1), [Seen::Fault(FramingFault::BadStartLine)]);
        }
        let endless = format!("MSRP d93kswow SEND\r\n{PATHS}{}", "X-A: b\r\n".repeat(2_000));
        for step in [1, 100, 8_192, 20_000] {
            let seen = events(endless.as_bytes(), |_| step);
            assert_eq!(seen, [Seen::Fault(FramingFault::HeadTooLong)], "pieces of {step}");
        }
    }

    #[test]
    fn parts_are_found_in_their_input_only() {
        let input = b"0123456789";
        assert_eq!(place_in(input, &input[3..7]), Some(3..7));
        assert_eq!(place_in(&input[..5], &input[3..7]), None);
        assert_eq!(place_in(&input[5..], &input[3..7]), None);
    }

    /// The same by brute force, over the whole stream: lines by splitting, ends by trying each place.
    fn naive(mut bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>, u8)> {
        let mut chunks = Vec::new();
        'stream: loop {
            let mut at = 0;
            let mut lines: Vec<&[u8]> = Vec::new();
            let id = loop {
                let Some(len) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { break 'stream };
                let line = &bytes[at..at + len];
                let id = lines.first().map(|first| first.split(|byte| *byte == b' ').nth(1).unwrap());
                let is_end = id.is_some_and(|id| {
                    line.len() == 8 + id.len() && line.starts_with(b"-------") && line[7..].starts_with(id)
                });
                if is_end {
                    chunks.push((bytes[..at].to_vec(), Vec::new(), line[line.len() - 1]));
                    bytes = &bytes[at + len + 2..];
                    continue 'stream;
                }
                at += len + 2;
                if line.is_empty() {
                    break id.unwrap();
                }
                lines.push(line);
            };
            let range = lines.iter().find_map(|line| line.strip_prefix(b"Byte-Range: "));
            let range = range.map_or("1-*/*".to_owned(), |range| String::from_utf8_lossy(range).into_owned());
            let (start, rest) = range.split_once('-').unwrap();
            let end = rest.split_once('/').unwrap().0.parse::<usize>().ok();
            let declared = end.map(|end| end + 1 - start.parse::<usize>().unwrap());
            let body = &bytes[at..];
            let ends_at = |place: usize| {
                let line = [b"\r\n-------", id].concat();
                let after = body.get(place..)?.strip_prefix(&line[..])?;
                let flag = *after.first().filter(|flag| b"$+#".contains(flag))?;
                after[1..].starts_with(b"\r\n").then_some(flag)
            };
            let place = declared.filter(|place| ends_at(*place).is_some());
            let Some(place) = place.or_else(|| (0..body.len()).find(|place| ends_at(*place).is_some())) else { break };
            chunks.push((bytes[..at].to_vec(), body[..place].to_vec(), ends_at(place).unwrap()));
            bytes = &body[place + 2 + 7 + id.len() + 3..];
        }
        chunks
    }

    fn collected(bytes: &[u8], len_of: impl Fn(usize) -> usize) -> Vec<(Vec<u8>, Vec<u8>, u8)> {
        let mut chunks = Vec::new();
        let (mut head, mut content) = (Vec::new(), Vec::new());
        for one in events(bytes, len_of) {
            match one {
                Seen::Head { text, .. } => head = text,
                Seen::Body(body) => content = body,
                Seen::End { flag, .. } => {
                    chunks.push((std::mem::take(&mut head), std::mem::take(&mut content), flag.byte()))
                }
                Seen::Fault(fault) => panic!("{fault:?}"),
            }
        }
        chunks
    }

    /// A body made of what end-lines are made of.
    fn tricky_body() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(vec![
            &b"\r\n"[..],
            b"\r",
            b"\n",
            b"-",
            b"-------",
            b"\r\n-------",
            b"d93k",
            b"d93kx",
            b"MSRP ",
            b"$\r\n",
            b"+",
            b"x",
            b"\r\n-------d93k",
            b"\r\n-------d93",
            b"\r\n-------d93kx$\r\n",
            b"\r\n-------d93k$\r",
            b"\r\n-------d93k!\r\n",
        ]);
        prop::collection::vec(word, 0..30).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn a_naive_parser_agrees(
            chunks in prop::collection::vec((tricky_body(), 0..4u8, 0..3usize), 1..6),
            steps in prop::collection::vec(1..80usize, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (body, form, flag) in &chunks {
                // A sender that says the end-line of its own chunk breaks the rules; ranges then decide by cut.
                let said = [b"\r\n".as_slice(), body, b"\r\n-------d93k$\r\n"].concat();
                let is_said = b"$+#".iter().any(|flag| {
                    let line = [b"\r\n-------d93k", &[*flag][..], b"\r\n"].concat();
                    said.windows(line.len()).position(|part| part == line).is_some_and(|at| at < body.len() + 2)
                });
                let body: &[u8] = if is_said { b"plain" } else { body };
                let flag = ['$', '+', '#'][*flag];
                match form {
                    0 => bytes.extend(chunk("d93k", &format!("1-{0}/{0}", body.len()), body, flag)),
                    1 => bytes.extend(chunk("d93k", "1-*/*", body, flag)),
                    2 => bytes.extend(chunk("d93k", "", body, flag)),
                    _ => bytes.extend(response("d93k")),
                }
            }
            let expected = naive(&bytes);
            prop_assert_eq!(expected.len(), chunks.len());
            prop_assert_eq!(&collected(&bytes, |_| bytes.len()), &expected);
            prop_assert_eq!(&collected(&bytes, |_| 1), &expected);
            prop_assert_eq!(&collected(&bytes, |at| steps[at % steps.len()]), &expected);
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1..50usize) {
            let with_start = [b"MSRP d93kswow SEND\r\n".as_slice(), &bytes].concat();
            for bytes in [bytes, with_start] {
                prop_assert_eq!(whole(&bytes), events(&bytes, |_| step));
            }
        }
    }
}
