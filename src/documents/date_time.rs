//! `xs:dateTime`.

use crate::base::time::UnixMillis;

/// Reads an `xs:dateTime`; without a zone it is taken as UTC.
pub(super) fn parse(text: &str) -> Option<UnixMillis> {
    let text = text.trim();
    let (local, offset_minutes) = split_zone(text)?;
    let (whole, fraction) = match local.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (local, None),
    };
    let bytes = whole.as_bytes();
    if bytes.len() != SHAPE.len() || !bytes.iter().zip(SHAPE).all(|(&byte, &shape)| fits(byte, shape)) {
        return None;
    }
    let number = |start: usize, end: usize| whole.get(start..end)?.parse::<i16>().ok();
    let small = |start: usize| i8::try_from(number(start, start + 2)?).ok();
    let millis = match fraction {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{digits:0<3}").get(..3)?.parse::<i64>().ok()?
        }
        Some(_) => return None,
        None => 0,
    };
    let (hour, minute, second) = (small(11)?, small(14)?, small(17)?);
    // 24:00:00 is the first instant of the next day (XML Schema Part 2 §3.2.7).
    let ends_day = hour == 24;
    if ends_day && (minute, second, millis) != (0, 0, 0) {
        return None;
    }
    let hour = if ends_day { 0 } else { hour };
    let moment = jiff::civil::DateTime::new(number(0, 4)?, small(5)?, small(8)?, hour, minute, second, 0).ok()?;
    let moment = moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond();
    let whole_day = if ends_day { 86_400_000 } else { 0 };
    Some(UnixMillis(moment + millis + whole_day - offset_minutes * 60_000))
}

/// Splits off `Z` or `±hh:mm`, in minutes east of Greenwich.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix('Z') {
        return Some((local, 0));
    }
    let Some((local, zone)) = text.len().checked_sub(6).and_then(|at| text.split_at_checked(at)) else {
        return Some((text, 0));
    };
    let sign = match zone.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return Some((text, 0)),
    };
    if !zone.bytes().zip(*b"+dd:dd").skip(1).all(|(byte, shape)| fits(byte, shape)) {
        return Some((text, 0));
    }
    let (hours, minutes) = (zone[1..3].parse::<i64>().ok()?, zone[4..6].parse::<i64>().ok()?);
    let total = hours * 60 + minutes;
    if minutes > 59 || total > 14 * 60 { None } else { Some((local, sign * total)) }
}

fn fits(byte: u8, shape: u8) -> bool {
    if shape == b'd' { byte.is_ascii_digit() } else { byte == shape }
}

const SHAPE: &[u8] = b"dddd-dd-ddTdd:dd:dd";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_are_read_with_and_without_zone() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            (" 2030-01-01T22:00:00Z\n", 1_893_535_200_000),
            ("2030-01-01T22:00:00", 1_893_535_200_000),
            ("2030-01-01T23:30:00+01:30", 1_893_535_200_000),
            ("2030-01-01T17:00:00-05:00", 1_893_535_200_000),
            ("2030-01-01T22:00:00.5Z", 1_893_535_200_500),
            ("2030-01-01T22:00:00.123456789Z", 1_893_535_200_123),
            ("1970-01-01T24:00:00Z", 86_400_000),
            ("2024-02-29T00:00:00+14:00", 1_709_114_400_000),
        ] {
            assert_eq!(parse(text), Some(UnixMillis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "Z",
            "tomorrow",
            "2030-01-01",
            "2030-01-01T22:00Z",
            "2030-01-01 22:00:00Z",
            "2030-01-01t22:00:00z",
            "2030-13-01T22:00:00Z",
            "2023-02-29T00:00:00Z",
            "2030-01-01T24:00:01Z",
            "2030-01-01T22:60:00Z",
            "2030-01-01T22:00:60Z",
            "2030-01-01T22:00:00.Z",
            "2030-01-01T22:00:00+15:00",
            "2030-01-01T22:00:00+0100",
            "2030-01-01T22:00:00Z[UTC]",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,40}", like in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\\.[0-9]{0,12})?[Z+-]?[0-9:]{0,5}") {
            let _ = (parse(&text), parse(&like));
        }
    }
}
