//! Where the parts of a body lie: byte ranges, found without changing or copying anything.

use crate::base::limits::{MULTIPART_DEPTH_MAX, MULTIPART_PART_COUNT_MAX};
use memchr::memmem;
use std::ops::Range;

/// A part that has no parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Its header lines with the empty line that ends them. `None` if the part is the whole body, whose headers are
    /// not in it.
    pub(super) head: Option<Range<usize>>,
    /// Its content.
    pub(super) content: Range<usize>,
}

/// The parts without parts of a body of this media type, in order; through CPIM (RFC 3862 §2) and multipart
/// (RFC 2046 §5.1.1). `None` if there are more than anybody means.
pub(super) fn leaves(content_type: &str, body: &[u8]) -> Option<Vec<Leaf>> {
    let mut found = Vec::new();
    let whole = Leaf { head: None, content: 0..body.len() };
    walk(content_type, whole, body, 0, &mut found).then_some(found)
}

/// The value of a header field, in any case of its name and with its folds, trimmed.
pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut at = 0;
    while at < head.len() {
        let line_end = logical_line_end(head, at);
        let line = &head[at..line_end];
        if let Some((before, value)) = line.split_once(':')
            && before.trim().eq_ignore_ascii_case(name)
        {
            return Some(value.trim());
        }
        at = line_end;
    }
    None
}

fn walk(content_type: &str, leaf: Leaf, body: &[u8], depth: usize, found: &mut Vec<Leaf>) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let inside = leaf.content.clone();
    if depth < MULTIPART_DEPTH_MAX {
        if media_type.eq_ignore_ascii_case("message/cpim")
            && let Some(wrapped) = after_blank_line(body, inside.clone()).and_then(|rest| part(body, rest))
        {
            return walk(&type_of(body, &wrapped), wrapped, body, depth + 1, found);
        }
        let multipart = media_type.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"));
        if multipart && let Some(boundary) = parameter(content_type, "boundary") {
            let parts = parts(body, inside, boundary.as_bytes());
            if !parts.is_empty() {
                return parts.into_iter().all(|part| walk(&type_of(body, &part), part, body, depth + 1, found));
            }
        }
    }
    found.push(leaf);
    found.len() <= MULTIPART_PART_COUNT_MAX
}

/// The parts between delimiter lines. A part without an empty line is all header and has no content.
fn parts(body: &[u8], inside: Range<usize>, boundary: &[u8]) -> Vec<Leaf> {
    let delimiter = [b"--", boundary].concat();
    let mut parts = Vec::new();
    let mut open: Option<usize> = None;
    for at in memmem::find_iter(&body[inside.clone()], &delimiter) {
        let at = inside.start + at;
        let line_start = at == inside.start || body[at - 1] == b'\n';
        let rest = &body[at + delimiter.len()..inside.end];
        let last = rest.starts_with(b"--");
        let line_len = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        // `--x` does not delimit where `--xy` stands.
        let clean = last || rest[..line_len].iter().all(u8::is_ascii_whitespace);
        if !line_start || !clean {
            continue;
        }
        if let Some(start) = open.take() {
            parts.extend(part(body, start..before_line_break(body, start, at)));
        }
        if last || parts.len() > MULTIPART_PART_COUNT_MAX {
            return parts;
        }
        open = Some(at + delimiter.len() + line_len);
    }
    if let Some(start) = open {
        parts.extend(part(body, start..inside.end));
    }
    parts
}

/// Splits a part into its header lines and content.
fn part(body: &[u8], range: Range<usize>) -> Option<Leaf> {
    let content = after_blank_line(body, range.clone())?;
    Some(Leaf { head: Some(range.start..content.start), content })
}

/// What follows the first empty line.
fn after_blank_line(body: &[u8], range: Range<usize>) -> Option<Range<usize>> {
    let mut line_start = range.start;
    for end in memchr::memchr_iter(b'\n', &body[range.clone()]) {
        let end = range.start + end;
        if matches!(&body[line_start..end], b"" | b"\r") {
            return Some(end + 1..range.end);
        }
        line_start = end + 1;
    }
    None
}

/// The line break before a delimiter line belongs to the delimiter (RFC 2046 §5.1.1).
fn before_line_break(body: &[u8], start: usize, delimiter: usize) -> usize {
    let body = &body[..delimiter];
    let end = if body.ends_with(b"\r\n") { delimiter - 2 } else { delimiter.saturating_sub(1) };
    end.max(start)
}

fn type_of(body: &[u8], part: &Leaf) -> String {
    let head = part.head.clone().map_or(&b""[..], |head| &body[head]);
    field(&String::from_utf8_lossy(head), "content-type").unwrap_or("text/plain").to_owned()
}

/// A parameter of a header value, unquoted.
fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value;
    while let Some(at) = next_semicolon(rest) {
        rest = rest[at + 1..].trim_start();
        let end = next_semicolon(rest).unwrap_or(rest.len());
        if let Some((key, value)) = rest[..end].split_once('=')
            && key.trim().eq_ignore_ascii_case(name)
        {
            let value = value.trim();
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            return Some(quoted.map_or_else(|| value.to_owned(), |quoted| quoted.replace('\\', "")))
                .filter(|value| !value.is_empty());
        }
    }
    None
}

fn next_semicolon(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().position(|byte| {
        let is_end = byte == b';' && !quoted;
        if byte == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && byte == b'\\' && !escaped;
        is_end
    })
}

/// Where the header line that starts at `at` ends, continuation lines included.
fn logical_line_end(head: &str, at: usize) -> usize {
    let bytes = head.as_bytes();
    let mut end = at;
    loop {
        end = memchr::memchr(b'\n', &bytes[end..]).map_or(bytes.len(), |offset| end + offset + 1);
        if !matches!(bytes.get(end), Some(b' ' | b'\t')) {
            return end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents<'a>(content_type: &str, body: &'a str) -> Vec<&'a str> {
        leaves(content_type, body.as_bytes()).unwrap().into_iter().map(|leaf| &body[leaf.content]).collect()
    }

    #[test]
    fn a_plain_body_is_one_part_without_header_lines() {
        assert_eq!(leaves("text/plain", b"hi"), Some(vec![Leaf { head: None, content: 0..2 }]));
    }

    #[test]
    fn parts_of_a_multipart_are_found_without_the_line_breaks_of_the_delimiters() {
        let body =
            "preamble\r\n--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b  \r\n\r\ntwo\r\n\r\n--b--\r\nepilogue";
        assert_eq!(contents("multipart/mixed; boundary=b", body), ["one", "two\r\n"]);
    }

    #[test]
    fn a_delimiter_within_a_line_or_a_longer_boundary_does_not_delimit() {
        let body = "--b\r\n\r\nx --b\r\n--bc\r\n\r\ny\r\n--b--";
        assert_eq!(contents("multipart/mixed;boundary=\"b\"", body), ["x --b\r\n--bc\r\n\r\ny"]);
    }

    #[test]
    fn a_multipart_inside_cpim_inside_a_multipart_is_entered() {
        let inner = "--i\r\nContent-Type: image/png\r\n\r\nPNG\r\n--i\r\n\r\ntext\r\n--i--\r\n";
        let cpim = format!(
            "From: <im:a@x>\r\nTo: <im:b@x>\r\n\r\nContent-Type: multipart/related;\r\n boundary=\"i\"\r\n\r\n{inner}"
        );
        let outer = format!("--o\r\ncontent-type: Message/CPIM\r\n\r\n{cpim}\r\n--o--\r\n");
        assert_eq!(contents("multipart/mixed; x=\"a;boundary=no\"; boundary=o", &outer), ["PNG", "text"]);
    }

    #[test]
    fn a_part_that_is_not_closed_reaches_to_the_end() {
        assert_eq!(contents("multipart/mixed; boundary=b", "--b\n\none"), ["one"]);
    }

    #[test]
    fn a_multipart_without_a_part_is_one_part() {
        assert_eq!(contents("multipart/mixed; boundary=b", "nothing"), ["nothing"]);
        assert_eq!(contents("multipart/mixed", "nothing"), ["nothing"]);
        assert_eq!(contents("message/cpim", "no empty line"), ["no empty line"]);
    }

    #[test]
    fn more_parts_than_anybody_means_are_not_listed() {
        let body = "--b\r\n\r\nx\r\n".repeat(MULTIPART_PART_COUNT_MAX + 1);
        assert_eq!(leaves("multipart/mixed; boundary=b", body.as_bytes()), None);
    }

    #[test]
    fn nesting_deeper_than_the_bound_is_not_entered() {
        let mut body = "x".to_owned();
        for _ in 0..MULTIPART_DEPTH_MAX + 3 {
            body = format!("--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{body}");
        }
        assert_eq!(leaves("multipart/mixed; boundary=b", body.as_bytes()).map(|leaves| leaves.len()), Some(1));
    }

    proptest! {
        #[test]
        fn parts_lie_inside_the_body_in_order(body in "(--b|--|\r\n|\n|:|content-type: message/cpim|multipart/x;boundary=c|x|--c){0,40}") {
            for content_type in ["multipart/mixed; boundary=b", "message/cpim", "text/plain"] {
                let mut from = 0;
                for leaf in leaves(content_type, body.as_bytes()).unwrap_or_default() {
                    let head = leaf.head.unwrap_or(leaf.content.start..leaf.content.start);
                    prop_assert!(from <= head.start && head.start <= head.end && head.end == leaf.content.start);
                    prop_assert!(leaf.content.start <= leaf.content.end && leaf.content.end <= body.len());
                    from = leaf.content.end;
                }
            }
        }
    }
}
