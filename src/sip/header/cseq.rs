//! The CSeq header field.

use super::list::trim;
use crate::sip::scan::{decimal, is_token};

/// Reads the sequence number, below 2^31, and the method.
///
/// RFC 3261 §20.16, §8.1.1.5.
pub fn parse(value: &[u8]) -> Option<(u32, &[u8])> {
    let gap = value.iter().position(|b| !b.is_ascii_digit())?;
    let number = u32::try_from(decimal(&value[..gap])?).ok().filter(|number| *number < 1 << 31)?;
    let method = trim(&value[gap..]);
    let separated = matches!(value[gap], b' ' | b'\t' | b'\r' | b'\n');
    (separated && !method.is_empty() && method.iter().all(|b| is_token(*b))).then_some((number, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_below_two_to_the_31() {
        assert_eq!(parse(b"0009 \r\n MESSAGE"), Some((9, &b"MESSAGE"[..])));
        for text in [&b"36893488147419103232 REGISTER"[..], b"2147483648 A", b"A", b"1", b"1A", b"1 A B"] {
            assert_eq!(parse(text), None);
        }
    }
}
