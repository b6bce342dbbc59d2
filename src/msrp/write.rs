//! Writers: everything goes behind what a buffer holds already.

use super::byte_range::{ByteRange, write_number};
use super::head::{FailureReport, Flag, Head, Kind};
use super::status;

/// A path that is put together from two: the first goes before the rest, either may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path<'a> {
    /// What comes first.
    pub first: &'a [u8],
    /// What follows.
    pub rest: &'a [u8],
}

/// A REPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// Names the transaction.
    pub transaction_id: &'a [u8],
    /// Both path lines, as [`path_lines`] writes them.
    pub path_lines: &'a [u8],
    /// The message it is about.
    pub message_id: &'a [u8],
    /// The bytes it is about.
    pub byte_range: ByteRange,
    /// What became of them.
    pub status: u16,
}

/// The head of a SEND of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send<'a> {
    /// Names the transaction.
    pub transaction_id: &'a [u8],
    /// Both path lines, as [`path_lines`] writes them.
    pub path_lines: &'a [u8],
    /// The message.
    pub message_id: &'a [u8],
    /// The bytes that follow.
    pub byte_range: ByteRange,
    /// Left out when it is [`FailureReport::Yes`], which is what its absence means.
    pub failure_report: FailureReport,
    /// Left out when there is none.
    pub success_report: bool,
    /// With a content type there is a body, without one the end-line comes next.
    pub content_type: Option<&'a [u8]>,
}

/// Writes the lines To-Path and From-Path.
///
/// RFC 4975 §9.
pub fn path_lines(out: &mut Vec<u8>, to: Path<'_>, from: Path<'_>) {
    out.extend_from_slice(b"To-Path: ");
    path(out, to);
    out.extend_from_slice(b"\r\nFrom-Path: ");
    path(out, from);
    out.extend_from_slice(b"\r\n");
}

/// Writes `MSRP <transaction-id> <method>`.
///
/// RFC 4975 §9.
pub fn request_line(out: &mut Vec<u8>, transaction_id: &[u8], method: &[u8]) {
    start(out, transaction_id);
    out.extend_from_slice(method);
    out.extend_from_slice(b"\r\n");
}

/// Writes the end-line of a chunk without a body.
///
/// RFC 4975 §9.
pub fn end_line(out: &mut Vec<u8>, transaction_id: &[u8], flag: Flag) {
    out.extend_from_slice(b"-------");
    out.extend_from_slice(transaction_id);
    out.extend_from_slice(&[flag.byte(), b'\r', b'\n']);
}

/// Writes what stands behind a body: CRLF and the end-line.
///
/// RFC 4975 §9.
pub fn end_line_after_body(out: &mut Vec<u8>, transaction_id: &[u8], flag: Flag) {
    out.extend_from_slice(b"\r\n");
    end_line(out, transaction_id, flag);
}

/// Writes a whole response.
///
/// RFC 4975 §7.2.
pub fn response(out: &mut Vec<u8>, transaction_id: &[u8], status: u16, path_lines: &[u8]) {
    start(out, transaction_id);
    code_and_comment(out, status);
    out.extend_from_slice(path_lines);
    end_line(out, transaction_id, Flag::End);
}

/// Writes a whole REPORT.
///
/// RFC 4975 §7.1.2.
pub fn report(out: &mut Vec<u8>, report: &Report<'_>) {
    request_line(out, report.transaction_id, b"REPORT");
    out.extend_from_slice(report.path_lines);
    message_id_and_range(out, report.message_id, report.byte_range);
    out.extend_from_slice(b"Status: 000 ");
    code_and_comment(out, report.status);
    end_line(out, report.transaction_id, Flag::End);
}

/// Writes the head of a SEND, with the blank line if a body follows.
///
/// RFC 4975 §7.1.
pub fn send_head(out: &mut Vec<u8>, send: &Send<'_>) {
    request_line(out, send.transaction_id, b"SEND");
    out.extend_from_slice(send.path_lines);
    message_id_and_range(out, send.message_id, send.byte_range);
    match send.failure_report {
        FailureReport::Yes => {}
        FailureReport::Partial => out.extend_from_slice(b"Failure-Report: partial\r\n"),
        FailureReport::No => out.extend_from_slice(b"Failure-Report: no\r\n"),
    }
    if send.success_report {
        out.extend_from_slice(b"Success-Report: yes\r\n");
    }
    if let Some(content_type) = send.content_type {
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(content_type);
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// Writes a received SEND or REPORT's head again: own transaction id and paths, all other fields as they came, and
/// Byte-Range as given. With the blank line if a body follows.
///
/// RFC 4976 §6.4.
pub fn forward_head(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    transaction_id: &[u8],
    path_lines: &[u8],
    byte_range: Option<ByteRange>,
) {
    debug_assert!(matches!(head.kind, Kind::Send | Kind::Report), "nothing else is passed on");
    let method: &[u8] = if head.kind == Kind::Report { b"REPORT" } else { b"SEND" };
    request_line(out, transaction_id, method);
    out.extend_from_slice(path_lines);
    match (byte_range, head.byte_range_text.and_then(|text| super::framer::place_in(head.rest, text))) {
        (None, _) => out.extend_from_slice(head.rest),
        (Some(range), Some(place)) => {
            out.extend_from_slice(&head.rest[..place.start]);
            range.write(out);
            out.extend_from_slice(&head.rest[place.end..]);
        }
        (Some(range), None) => {
            out.extend_from_slice(b"Byte-Range: ");
            range.write(out);
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(head.rest);
        }
    }
    if head.has_body {
        out.extend_from_slice(b"\r\n");
    }
}

fn start(out: &mut Vec<u8>, transaction_id: &[u8]) {
    out.extend_from_slice(b"MSRP ");
    out.extend_from_slice(transaction_id);
    out.push(b' ');
}

fn path(out: &mut Vec<u8>, path: Path<'_>) {
    out.extend_from_slice(path.first);
    if !path.first.is_empty() && !path.rest.is_empty() {
        out.push(b' ');
    }
    out.extend_from_slice(path.rest);
}

fn message_id_and_range(out: &mut Vec<u8>, message_id: &[u8], range: ByteRange) {
    out.extend_from_slice(b"Message-ID: ");
    out.extend_from_slice(message_id);
    out.extend_from_slice(b"\r\nByte-Range: ");
    range.write(out);
    out.extend_from_slice(b"\r\n");
}

fn code_and_comment(out: &mut Vec<u8>, status: u16) {
    debug_assert!((100..1000).contains(&status), "three digits");
    write_number(out, u64::from(status));
    let comment = status::comment(status);
    if !comment.is_empty() {
        out.push(b' ');
        out.extend_from_slice(comment.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msrp::head::{SeenPaths, Step, read};

    fn lines() -> Vec<u8> {
        let mut out = Vec::new();
        let to = Path { first: b"msrp://b:7/sb;tcp", rest: b"" };
        path_lines(&mut out, to, Path { first: b"msrp://p:2/p2;tcp", rest: b"msrp://a:9/sa;tcp" });
        out
    }

    fn whole(bytes: &[u8]) -> (Head<'_>, Option<Flag>) {
        match read(bytes, &SeenPaths::default()) {
            Step::Whole { head, len, end } => {
                assert_eq!((head.fault, len), (None, bytes.len()));
                (head, end)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_put_together_with_one_blank() {
        assert_eq!(
            lines(),
            b"To-Path: msrp://b:7/sb;tcp\r\nFrom-Path: msrp://p:2/p2;tcp msrp://a:9/sa;tcp\r\n".to_vec()
        );
        let mut out = Vec::new();
        path_lines(&mut out, Path { first: b"", rest: b"msrp://b:7/sb;tcp" }, Path::default());
        assert_eq!(out, b"To-Path: msrp://b:7/sb;tcp\r\nFrom-Path: \r\n".to_vec());
    }

    #[test]
    fn responses_are_written_with_the_comment_of_their_code() {
        let mut out = Vec::new();
        response(&mut out, b"d93kswow", 200, &lines());
        assert!(out.starts_with(b"MSRP d93kswow 200 OK\r\nTo-Path: ") && out.ends_with(b"\r\n-------d93kswow$\r\n"));
        assert_eq!(whole(&out).0.kind, Kind::Response(200));
        out.clear();
        response(&mut out, b"d93kswow", 299, &lines());
        assert!(out.starts_with(b"MSRP d93kswow 299\r\n"));
        assert_eq!(whole(&out).0.kind, Kind::Response(299));
    }

    #[test]
    fn reports_are_written_and_read_back() {
        let range = ByteRange { start: 1, end: Some(100), total: Some(200) };
        let mut out = Vec::new();
        let own = Report {
            transaction_id: b"r3port00",
            path_lines: &lines(),
            message_id: b"12339sdqwer",
            byte_range: range,
            status: 408,
        };
        report(&mut out, &own);
        let (head, end) = whole(&out);
        assert_eq!((head.kind, head.report_status, end), (Kind::Report, Some(408), Some(Flag::End)));
        assert_eq!((head.message_id, head.byte_range), (Some(&b"12339sdqwer"[..]), range));
        assert!(out.windows(23).any(|part| part == b"Status: 000 408 Timeout"));
    }

    #[test]
    fn sends_of_our_own_are_written_and_read_back() {
        let paths = lines();
        for content_type in [None, Some(&b"message/cpim"[..])] {
            for failure_report in [FailureReport::Yes, FailureReport::Partial, FailureReport::No] {
                for success_report in [false, true] {
                    let own = Send {
                        transaction_id: b"s3nd0000",
                        path_lines: &paths,
                        message_id: b"m1",
                        byte_range: ByteRange { start: 5, end: None, total: Some(9) },
                        failure_report,
                        success_report,
                        content_type,
                    };
                    let mut out = Vec::new();
                    send_head(&mut out, &own);
                    if content_type.is_none() {
                        end_line(&mut out, b"s3nd0000", Flag::More);
                    }
                    let (head, end) = whole(&out);
                    assert_eq!((head.kind, head.has_body, end.is_none()), (Kind::Send, end.is_none(), end.is_none()));
                    assert_eq!((head.failure_report, head.success_report), (failure_report, success_report));
                    assert_eq!((head.content_type, head.byte_range), (content_type, own.byte_range));
                    assert_eq!((head.message_id, head.paths), (Some(&b"m1"[..]), &paths[..]));
                }
            }
        }
    }

    #[test]
    fn a_forwarded_head_keeps_all_fields_but_paths_and_range() {
        let paths = lines();
        for (fields, body) in [
            ("Message-ID: m1\r\nX-A: 1\r\nByte-Range: 1-5/5\r\nSuccess-Report: yes\r\nContent-Type: a/b\r\n", true),
            ("Message-ID: m1\r\nX-A: 1\r\n", true),
            ("Message-ID: m1\r\nX-A: 1\r\nByte-Range: 1-*/*\r\n", false),
        ] {
            let end = if body { "\r\n" } else { "-------0ld1d$\r\n" };
            let text = format!(
                "MSRP 0ld1d SEND\r\nTo-Path: msrp://p:2/p1;tcp msrp://b:7/sb;tcp\r\nFrom-Path: msrp://a:9/sa;tcp\r\n{fields}{end}"
            );
            let (head, flag) = whole(text.as_bytes());
            let range = ByteRange { start: 3, end: None, total: Some(5) };
            for given in [None, Some(range)] {
                let mut out = Vec::new();
                forward_head(&mut out, &head, b"n3w1d000", &paths, given);
                if let Some(flag) = flag {
                    end_line(&mut out, b"n3w1d000", flag);
                }
                let (after, _) = whole(&out);
                assert_eq!(after.byte_range, given.unwrap_or(head.byte_range));
                assert_eq!((after.paths, after.transaction_id), (&paths[..], &b"n3w1d000"[..]));
                assert_eq!((after.message_id, after.content_type), (head.message_id, head.content_type));
                assert_eq!((after.success_report, after.has_body), (head.success_report, body));
                assert!(String::from_utf8_lossy(after.rest).contains("X-A: 1\r\n"));
                if given.is_none() {
                    assert_eq!(after.rest, head.rest);
                }
            }
        }
    }

    #[test]
    fn what_stands_behind_a_body_begins_with_a_line_end() {
        let mut out = b"body".to_vec();
        end_line_after_body(&mut out, b"d93kswow", Flag::Abort);
        assert_eq!(out, b"body\r\n-------d93kswow#\r\n".to_vec());
    }
}
