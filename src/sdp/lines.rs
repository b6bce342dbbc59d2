//! Lines, attributes and words of a description, without copying. RFC 8866 §5.

/// One line, `<kind>=<value>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The letter.
    pub kind: u8,
    /// What stands behind the `=`, without the line end.
    pub value: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads one line that has no line end; `None` when it is not a letter and an `=`, or holds what no line may hold.
    ///
    /// RFC 8866 §5.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        match text {
            [kind, b'=', value @ ..] if kind.is_ascii_lowercase() && memchr::memchr2(0, b'\r', value).is_none() => {
                Some(Self { kind: *kind, value })
            }
            _ => None,
        }
    }

    /// Name and value of an attribute line; the value of a flag is empty.
    ///
    /// RFC 8866 §5.13.
    pub fn attribute(&self) -> Option<(&'a [u8], &'a [u8])> {
        if self.kind != b'a' {
            return None;
        }
        Some(match memchr::memchr(b':', self.value) {
            Some(colon) => (trim(&self.value[..colon]), trim(&self.value[colon + 1..])),
            None => (trim(self.value), &[]),
        })
    }
}

/// The lines of a section of a description, which was checked as a whole; blank ones are left out.
pub(super) fn lines(section: &[u8]) -> impl Iterator<Item = Line<'_>> {
    raw_lines(section).filter_map(|(_, text)| match text {
        [kind, b'=', value @ ..] => Some(Line { kind: *kind, value }),
        _ => None,
    })
}

/// Where each line starts, and its text without the line end. RFC 8866 §5 asks parsers to take a bare LF too.
pub(super) fn raw_lines(section: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let rest = section.get(start..).filter(|rest| !rest.is_empty())?;
        let len = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        at = start + len + 1;
        let text = &rest[..len];
        Some((start, text.strip_suffix(b"\r").unwrap_or(text)))
    })
}

/// The words of a value, separated by blanks.
pub(super) fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| is_blank(*byte)).filter(|word| !word.is_empty())
}

/// The first word, and the rest without the blanks between.
pub(super) fn split_word(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let value = trim(value);
    let end = value.iter().position(|byte| is_blank(*byte)).unwrap_or(value.len());
    (end > 0).then(|| (&value[..end], trim(&value[end..])))
}

/// Without blanks at both ends.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_blank(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_blank(*last)
    {
        text = rest;
    }
    text
}

/// A number of digits alone; one that does not fit counts as the largest.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |value: u64, digit| value.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// Writes a number without the formatting machinery, which costs more than the rest of a line.
pub(super) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
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

const fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}
