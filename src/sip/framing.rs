//! Message boundaries on streams. RFC 3261 §18.3.
//!
//! A stream carries messages one after another; `Content-Length` says where a body ends. The [`Framer`] looks at the
//! bytes from the start of the current message and remembers how far it got, so that a peer that sends a byte at a time
//! costs no more than one that sends a segment.

use crate::base::limits::{SIP_HEAD_LEN_MAX, SIP_MESSAGE_LEN_MAX};

/// What the bytes at the front of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// More bytes are needed to tell.
    Incomplete,
    /// The second half of a keep-alive (CRLF CRLF): take `len` bytes off and answer one CRLF. RFC 5626 §3.5.1.
    Ping {
        /// Bytes to take off.
        len: usize,
    },
    /// An empty line between messages: take `len` bytes off. RFC 3261 §7.5.
    Blank {
        /// Bytes to take off.
        len: usize,
    },
    /// One whole message.
    Message {
        /// Its length, body included.
        len: usize,
    },
    /// A header section whose `Content-Length` has no single meaning. The header section can still be answered;
    /// where the next message starts is lost.
    Unframed {
        /// Length of the header section.
        len: usize,
    },
    /// More than the appliance takes: the stream is lost.
    TooLarge,
}

/// Finds message boundaries, resuming where the last look ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Framer {
    /// Start of the line being read; lines before it are done with.
    line: usize,
    /// No line feed stands between `line` and here.
    searched: usize,
    /// Start of a `Content-Length` value whose last line may still be folded.
    value: Option<usize>,
    length: Length,
    /// Length of the whole message, known once its header section has ended.
    total: Option<usize>,
    /// The line before was an empty one outside a message: one more makes a keep-alive.
    half_ping: bool,
}

/// What the header section has said of the body's length so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    Unsaid,
    Said(usize),
    /// Too many digits to be within the bounds.
    Huge,
    /// Not a number, or two different ones.
    Bad,
}

/// Looks at the front of a stream once, without memory of earlier looks.
///
/// RFC 3261 §18.3.
pub fn next(bytes: &[u8]) -> Frame {
    Framer::default().next(bytes)
}

impl Framer {
    /// Looks at the bytes from the end of the last frame taken off. Between two looks bytes may only be added; after
    /// any answer but [`Frame::Incomplete`] the next look starts behind the frame.
    ///
    /// A missing `Content-Length` counts as an empty body; line ends may be bare LF.
    ///
    /// RFC 3261 §18.3.
    pub fn next(&mut self, bytes: &[u8]) -> Frame {
        let frame = match self.total {
            Some(total) => whole(bytes, total),
            None if self.line == 0 && self.searched == 0 => match self.blank(bytes) {
                Some(frame) => return frame,
                None => self.head(bytes),
            },
            None => self.head(bytes),
        };
        if frame != Frame::Incomplete {
            *self = Self::default();
        }
        frame
    }

    /// Length of the message being received, once its header section is complete.
    ///
    /// RFC 3261 §18.3.
    pub const fn total(&self) -> Option<usize> {
        self.total
    }

    /// Takes empty lines off; `None` when a message starts.
    fn blank(&mut self, bytes: &[u8]) -> Option<Frame> {
        match bytes {
            [] | [b'\r'] => Some(Frame::Incomplete),
            [b'\r', b'\n', ..] if self.half_ping => {
                self.half_ping = false;
                Some(Frame::Ping { len: 2 })
            }
            [b'\r', b'\n', ..] => {
                self.half_ping = true;
                Some(Frame::Blank { len: 2 })
            }
            [b'\n', ..] => Some(Frame::Blank { len: 1 }),
            _ => None,
        }
    }

    fn head(&mut self, bytes: &[u8]) -> Frame {
        let bound = bytes.len().min(SIP_HEAD_LEN_MAX);
        while let Some(found) = memchr::memchr(b'\n', bytes.get(self.searched..bound).unwrap_or(&[])) {
            let line_end = self.searched + found + 1;
            let line = &bytes[self.line..line_end];
            if matches!(line, b"\n" | b"\r\n") {
                self.end_value(bytes);
                return self.end_head(bytes, line_end);
            }
            let folded = matches!(line[0], b' ' | b'\t');
            if !folded {
                self.end_value(bytes);
                // The first line is a start line, whatever it looks like.
                if self.line > 0 {
                    self.value = content_length_value(line).map(|offset| self.line + offset);
                }
            }
            self.line = line_end;
            self.searched = line_end;
        }
        self.searched = self.searched.max(bound);
        if bytes.len() >= SIP_HEAD_LEN_MAX { Frame::TooLarge } else { Frame::Incomplete }
    }

    /// Reads the value that ends before the current line.
    fn end_value(&mut self, bytes: &[u8]) {
        let Some(start) = self.value.take() else { return };
        let said = parse_length(&bytes[start..self.line]);
        self.length = match self.length {
            Length::Unsaid => said,
            before if before == said => said,
            _ => Length::Bad,
        };
    }

    fn end_head(&mut self, bytes: &[u8], head_len: usize) -> Frame {
        let body_len = match self.length {
            Length::Unsaid => 0,
            Length::Said(len) => len,
            Length::Huge => return Frame::TooLarge,
            Length::Bad => return Frame::Unframed { len: head_len },
        };
        let total = head_len + body_len;
        if total > SIP_MESSAGE_LEN_MAX {
            return Frame::TooLarge;
        }
        self.total = Some(total);
        whole(bytes, total)
    }
}

fn whole(bytes: &[u8], total: usize) -> Frame {
    if bytes.len() >= total { Frame::Message { len: total } } else { Frame::Incomplete }
}

/// Where the value of a `Content-Length` line starts; `None` for any other header.
fn content_length_value(line: &[u8]) -> Option<usize> {
    let rest = match line[0] {
        b'C' | b'c' => {
            let name = line.get(..NAME.len())?;
            name.eq_ignore_ascii_case(NAME).then_some(NAME.len())?
        }
        b'L' | b'l' => 1,
        _ => return None,
    };
    let colon = line[rest..].iter().position(|byte| !matches!(byte, b' ' | b'\t'))? + rest;
    (line[colon] == b':').then_some(colon + 1)
}

fn parse_length(value: &[u8]) -> Length {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Length::Bad;
    }
    let mut length = 0usize;
    for digit in value {
        length = length * 10 + usize::from(digit - b'0');
        if length > SIP_MESSAGE_LEN_MAX {
            return Length::Huge;
        }
    }
    Length::Said(length)
}

const NAME: &[u8] = b"Content-Length";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGE: &[u8] = b"MESSAGE sip:b@x SIP/2.0\r\nVia: a\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn a_message_ends_where_its_content_length_says() {
        assert_eq!(next(MESSAGE), Frame::Message { len: MESSAGE.len() });
        let mut two = MESSAGE.to_vec();
        two.extend_from_slice(MESSAGE);
        assert_eq!(next(&two), Frame::Message { len: MESSAGE.len() });
        assert_eq!(next(&MESSAGE[..MESSAGE.len() - 1]), Frame::Incomplete);
    }

    #[test]
    fn the_length_may_be_compact_spaced_folded_or_missing() {
        for (head, body_len) in [
            (&b"M x\r\nl:3\r\n\r\n"[..], 3),
            (b"M x\r\nL \t: 3\r\n\r\n", 3),
            (b"M x\r\nconTENT-length:\r\n 3 \r\nVia: a\r\n\r\n", 3),
            (b"M x\nContent-Length: 3\n\n", 3),
            (b"M x\r\nContent-Length: 0003\r\n\r\n", 3),
            (b"M x\r\nl: 3\r\nContent-Length: 3\r\n\r\n", 3),
            (b"M x\r\nVia: a\r\n\r\n", 0),
            (b"M x\r\nContent-Language: 7\r\nLast: 9\r\n\r\n", 0),
            (b"l: 9\r\nVia: a\r\n\r\n", 0),
        ] {
            let mut bytes = head.to_vec();
            bytes.extend_from_slice(b"abcdef");
            assert_eq!(next(&bytes), Frame::Message { len: head.len() + body_len }, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn a_length_without_one_meaning_leaves_the_head_answerable() {
        for head in [
            &b"M x\r\nl: three\r\n\r\n"[..],
            b"M x\r\nl: -1\r\n\r\n",
            b"M x\r\nl:\r\n\r\n",
            b"M x\r\nl: 3\r\nContent-Length: 4\r\n\r\n",
            b"M x\r\nl: 3, 3\r\n\r\n",
        ] {
            assert_eq!(next(head), Frame::Unframed { len: head.len() }, "{}", head.escape_ascii());
        }
    }

    #[test]
    fn more_than_the_bounds_is_too_large() {
        assert_eq!(next(b"M x\r\nl: 65535\r\n\r\n"), Frame::TooLarge);
        assert_eq!(next(b"M x\r\nl: 99999999999999999999999999\r\n\r\n"), Frame::TooLarge);
        assert_eq!(next(&vec![b'a'; SIP_HEAD_LEN_MAX]), Frame::TooLarge);
        assert_eq!(next(&vec![b'a'; SIP_HEAD_LEN_MAX - 1]), Frame::Incomplete);
    }

    #[test]
    fn a_double_line_end_is_a_ping_even_in_pieces() {
        let mut framer = Framer::default();
        assert_eq!(framer.next(b"\r"), Frame::Incomplete);
        assert_eq!(framer.next(b"\r\n"), Frame::Blank { len: 2 });
        assert_eq!(framer.next(b"\r\n"), Frame::Ping { len: 2 });
        assert_eq!(framer.next(b"\r\nM"), Frame::Blank { len: 2 });
        assert_eq!(framer.next(MESSAGE), Frame::Message { len: MESSAGE.len() });
        assert_eq!(framer.next(b"\r\n"), Frame::Blank { len: 2 });
        assert_eq!(framer.next(b"\n"), Frame::Blank { len: 1 });
    }

    #[test]
    fn a_byte_at_a_time_looks_at_each_byte_a_bounded_number_of_times() {
        let mut message = b"M x\r\n".to_vec();
        message.extend(std::iter::repeat_n(b'a', 40_000));
        let mut framer = Framer::default();
        for end in 1..=message.len() {
            assert_eq!(framer.next(&message[..end]), Frame::Incomplete);
            assert_eq!(framer.searched, end, "the next look starts behind everything seen");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_change_the_frames(
            stream in prop::collection::vec(prop_oneof![
                Just(&b"\r\n"[..]), Just(&b"M x\r\n"[..]), Just(&b"l: 4\r\n"[..]), Just(&b"l: 4\r\n\r\nbody"[..]),
                Just(&b"\r\n\r\n"[..]), Just(&b" 7\r\n"[..]), Just(&b"x"[..]), Just(&b"\n"[..]),
            ], 0..24),
            cut in 1usize..9,
        ) {
            let stream = stream.concat();
            prop_assert_eq!(frames(&stream, stream.len().max(1)), frames(&stream, cut));
        }

        #[test]
        fn any_bytes_give_frames_within_them(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            match next(&bytes) {
                Frame::Message { len } | Frame::Unframed { len } | Frame::Ping { len } | Frame::Blank { len } => {
                    prop_assert!(len > 0 && len <= bytes.len());
                }
                Frame::Incomplete | Frame::TooLarge => {}
            }
        }
    }

    /// Frames of a stream that arrives `cut` bytes at a time.
    fn frames(stream: &[u8], cut: usize) -> Vec<Frame> {
        let mut framer = Framer::default();
        let (mut start, mut end) = (0, 0);
        let mut frames = Vec::new();
        loop {
            match framer.next(&stream[start..end]) {
                Frame::Incomplete if end == stream.len() => return frames,
                Frame::Incomplete => end = (end + cut).min(stream.len()),
                Frame::TooLarge => return frames,
                frame => {
                    frames.push(frame);
                    let (Frame::Message { len } | Frame::Unframed { len } | Frame::Ping { len } | Frame::Blank { len }) =
                        frame
                    else {
                        unreachable!("handled above")
                    };
                    start += len;
                }
            }
        }
    }
}
