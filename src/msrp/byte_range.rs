//! Byte-Range: which bytes of its message a chunk carries.

/// The value of a Byte-Range field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// Number of the first byte, from 1.
    pub start: u64,
    /// Number of the last byte; `None` for `*`. One less than `start` when the chunk is empty.
    pub end: Option<u64>,
    /// Bytes of the message; `None` for `*`.
    pub total: Option<u64>,
}

impl ByteRange {
    /// What a chunk without the field carries: `1-*/*`.
    ///
    /// RFC 4975 §7.1.
    pub const WHOLE: Self = Self { start: 1, end: None, total: None };

    /// Reads `start-end/total`; `None` when it is malformed, starts at 0, ends before it starts, or leaves its total.
    ///
    /// RFC 4975 §9.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (start, text) = number(text)?;
        let text = text.strip_prefix(b"-")?;
        let (end, text) = number_or_star(text)?;
        let text = text.strip_prefix(b"/")?;
        let (total, text) = number_or_star(text)?;
        let range = Self { start, end, total };
        (text.is_empty() && range.is_sound()).then_some(range)
    }

    /// Bytes the chunk says that it carries; `None` when it leaves that to its end-line.
    ///
    /// RFC 4975 §7.1.
    pub const fn len(&self) -> Option<u64> {
        match self.end {
            Some(end) => Some(end + 1 - self.start),
            None => None,
        }
    }

    /// Whether the chunk says that it carries nothing.
    ///
    /// RFC 4975 §7.1.
    pub const fn is_empty(&self) -> bool {
        matches!(self.len(), Some(0))
    }

    /// Writes `start-end/total`.
    ///
    /// RFC 4975 §9.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_number(out, self.start);
        out.push(b'-');
        write_number_or_star(out, self.end);
        out.push(b'/');
        write_number_or_star(out, self.total);
    }

    fn is_sound(&self) -> bool {
        self.start >= 1
            && self.end.is_none_or(|end| end + 1 >= self.start)
            && self.total.is_none_or(|total| self.start <= total + 1 && self.end.is_none_or(|end| end <= total))
    }
}

/// Writes a number in decimal.
///
/// RFC 4975 §9.
pub fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
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

fn write_number_or_star(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => write_number(out, number),
        None => out.push(b'*'),
    }
}

fn number_or_star(text: &[u8]) -> Option<(Option<u64>, &[u8])> {
    match text {
        [b'*', text @ ..] => Some((None, text)),
        _ => number(text).map(|(number, text)| (Some(number), text)),
    }
}

/// Reads digits; numbers that leave no room to calculate with are refused.
#[inline]
pub(super) fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    let mut len = 0;
    while let Some(digit) = text.get(len).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        number = number * 10 + u64::from(digit);
        len += 1;
        if len > DIGIT_COUNT_MAX {
            return None;
        }
    }
    (len > 0).then(|| (number, &text[len..]))
}

/// Digits of the longest number that is read: an exabyte less one byte.
const DIGIT_COUNT_MAX: usize = 18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_written() {
        for text in ["1-*/*", "1-0/0", "1-300/300", "301-600/*", "1-*/10000", "10001-10000/10000", "5-4/*"] {
            let range = ByteRange::parse(text.as_bytes()).unwrap();
            let mut out = Vec::new();
            range.write(&mut out);
            assert_eq!(out, text.as_bytes());
        }
        let range = ByteRange::parse(b"301-600/1000").unwrap();
        assert_eq!(range, ByteRange { start: 301, end: Some(600), total: Some(1000) });
        assert_eq!(range.len(), Some(300));
        assert!(ByteRange::parse(b"1-0/0").unwrap().is_empty());
        assert!(!ByteRange::WHOLE.is_empty());
    }

    #[test]
    fn ranges_that_contradict_themselves_are_refused() {
        for text in [
            "0-10/10",
            "1-10/9",
            "3-1/10",
            "12-*/10",
            "12-12/10",
            "",
            "1",
            "1-",
            "1-2",
            "1-2/",
            "-2/3",
            "*-2/3",
            "1-2/3 ",
            "1-2/3x",
            "1--2/3",
            "+1-2/3",
            "1-2/-3",
            "1-18446744073709551616/*",
            "9999999999999999999-*/*",
            "1-2/3/4",
        ] {
            assert_eq!(ByteRange::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_written_to_the_largest() {
        let mut out = Vec::new();
        write_number(&mut out, 0);
        write_number(&mut out, u64::MAX);
        assert_eq!(out, format!("0{}", u64::MAX).into_bytes());
    }
}
