//! IMDN: recognising disposition notifications, and writing those that the appliance sends.

use super::message::{Cpim, IMDN_NAMESPACE};
use super::mime::MediaType;

/// The media type of a disposition notification.
pub const MEDIA_TYPE: &str = "message/imdn+xml";

/// True when a CPIM message is a disposition notification. No notification is ever sent about one.
///
/// RFC 5438 §7.2.1.
pub fn is_imdn(cpim: &Cpim<'_>) -> bool {
    cpim.content_type().and_then(MediaType::parse).is_some_and(|media| media.is(MEDIA_TYPE))
}

/// The message that a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original<'a> {
    /// Its Message-ID in the IMDN namespace.
    pub message_id: &'a str,
    /// Its DateTime header, or when it was received, as RFC 3339 writes it.
    pub date_time: &'a str,
    /// The URI of the recipient who did not get it.
    pub recipient: &'a str,
    /// The URI that the sender addressed.
    pub original_recipient: &'a str,
}

/// What a notification says of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// It could not be delivered. A message that expired is reported in the same words: the specification has no status
    /// of its own for it.
    Failed,
    /// It is kept for later.
    Stored,
}

impl Report {
    /// RFC 5438 §11.1.
    const fn element(self) -> &'static str {
        match self {
            Self::Failed => "<delivery-notification><status><failed/></status></delivery-notification>",
            Self::Stored => "<processing-notification><status><stored/></status></processing-notification>",
        }
    }
}

/// The headers of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The URI of the served user, or of the appliance.
    pub from: &'a str,
    /// The URI of the original sender.
    pub to: &'a str,
    /// A new Message-ID.
    pub message_id: &'a str,
    /// When the notification is sent, as RFC 3339 writes it.
    pub date_time: &'a str,
}

/// Writes a `message/cpim` body that reports on the original. It asks for no notification itself.
///
/// RFC 5438 §8.2, §11.1.
pub fn notify(report: Report, original: &Original<'_>, notification: &Notification<'_>) -> Vec<u8> {
    let document = document(report, original);
    let mut text = String::with_capacity(document.len() + 512);
    text.push_str("From: <");
    push_uri(&mut text, notification.from);
    text.push_str(">\r\nTo: <");
    push_uri(&mut text, notification.to);
    text.push_str(">\r\nNS: imdn <");
    text.push_str(IMDN_NAMESPACE);
    text.push_str(">\r\nimdn.Message-ID: ");
    push_escaped(&mut text, notification.message_id);
    text.push_str("\r\nDateTime: ");
    push_escaped(&mut text, notification.date_time);
    text.push_str("\r\n\r\nContent-Type: ");
    text.push_str(MEDIA_TYPE);
    text.push_str("\r\nContent-Disposition: notification\r\nContent-Length: ");
    text.push_str(&document.len().to_string());
    text.push_str("\r\n\r\n");
    text.push_str(&document);
    text.into_bytes()
}

/// RFC 5438 §11.1.
fn document(report: Report, original: &Original<'_>) -> String {
    let mut xml = String::with_capacity(512);
    xml.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\">\r\n");
    for (name, value) in [
        ("message-id", original.message_id),
        ("datetime", original.date_time),
        ("recipient-uri", original.recipient),
        ("original-recipient-uri", original.original_recipient),
    ] {
        xml.push_str("  <");
        xml.push_str(name);
        xml.push('>');
        push_xml(&mut xml, value);
        xml.push_str("</");
        xml.push_str(name);
        xml.push_str(">\r\n");
    }
    xml.push_str("  ");
    xml.push_str(report.element());
    xml.push_str("\r\n</imdn>\r\n");
    xml
}

/// Writes a URI between angle brackets, from which it cannot break out.
fn push_uri(text: &mut String, uri: &str) {
    for character in uri.chars() {
        match character {
            '<' => text.push_str("%3C"),
            '>' => text.push_str("%3E"),
            _ => push_escaped_char(text, character),
        }
    }
}

/// Writes a header value, in which a control character could end the line.
///
/// RFC 3862 §2.3.1.
fn push_escaped(text: &mut String, value: &str) {
    value.chars().for_each(|character| push_escaped_char(text, character));
}

fn push_escaped_char(text: &mut String, character: char) {
    match character {
        '\\' => text.push_str("\\\\"),
        _ if character.is_control() => {
            // Control characters are all below U+0100.
            text.push_str("\\u00");
            for digit in [u32::from(character) >> 4 & 0xF, u32::from(character) & 0xF] {
                text.push(char::from_digit(digit, 16).unwrap_or('0'));
            }
        }
        _ => text.push(character),
    }
}

/// Writes character data; what XML cannot hold becomes a replacement character.
fn push_xml(xml: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\'' => xml.push_str("&apos;"),
            '\t' | '\n' => xml.push(character),
            '\r' => xml.push_str("&#13;"),
            '\u{FFFE}' | '\u{FFFF}' => xml.push('\u{FFFD}'),
            _ if character < ' ' => xml.push('\u{FFFD}'),
            _ => xml.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpim::message::{Dispositions, uri_of};
    use proptest::prelude::*;

    fn notification_about<'a>(message_id: &'a str, recipient: &'a str, from: &'a str) -> Vec<u8> {
        let original =
            Original { message_id, date_time: "2026-01-02T03:04:05Z", recipient, original_recipient: "tel:+15550100" };
        let notification =
            Notification { from, to: "sip:alice@home.example", message_id: "new-1", date_time: "2026-01-02T03:05:00Z" };
        notify(Report::Failed, &original, &notification)
    }

    fn text_of(xml: &[u8], name: &str) -> String {
        let document = roxmltree::Document::parse(str::from_utf8(xml).unwrap()).unwrap();
        let tag = ("urn:ietf:params:xml:ns:imdn", name);
        document.descendants().find(|node| node.has_tag_name(tag)).unwrap().text().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_failure_notification_reads_back_as_one() {
        let body = notification_about("MsgId-1", "sip:bob@home.example", "sip:bob@home.example");
        let cpim = Cpim::parse(&body).unwrap();
        assert!(is_imdn(&cpim));
        assert_eq!(cpim.content_disposition(), Some(&b"notification"[..]));
        assert_eq!(cpim.disposition_notification(), Dispositions::default());
        assert_eq!(cpim.imdn_message_id(), Some("new-1"));
        assert_eq!(cpim.from().map(uri_of), Some("sip:bob@home.example"));
        assert_eq!(cpim.to().map(uri_of), Some("sip:alice@home.example"));
        assert_eq!(text_of(cpim.content(), "message-id"), "MsgId-1");
        assert_eq!(text_of(cpim.content(), "datetime"), "2026-01-02T03:04:05Z");
        assert_eq!(text_of(cpim.content(), "recipient-uri"), "sip:bob@home.example");
        assert_eq!(text_of(cpim.content(), "original-recipient-uri"), "tel:+15550100");
        let document = roxmltree::Document::parse(str::from_utf8(cpim.content()).unwrap()).unwrap();
        let status = document.descendants().find(|node| node.tag_name().name() == "status");
        let words: Vec<_> =
            status.unwrap().children().filter(|it| it.is_element()).map(|it| it.tag_name().name()).collect();
        assert_eq!(words, ["failed"]);
    }

    #[test]
    fn a_stored_message_is_a_processing_status() {
        let original =
            Original { message_id: "m", date_time: "d", recipient: "sip:b@h", original_recipient: "sip:b@h" };
        let notification = Notification { from: "sip:b@h", to: "sip:a@h", message_id: "n", date_time: "d" };
        let body = notify(Report::Stored, &original, &notification);
        let cpim = Cpim::parse(&body).unwrap();
        assert!(is_imdn(&cpim));
        assert_eq!(text_of(cpim.content(), "message-id"), "m");
        let xml = str::from_utf8(cpim.content()).unwrap();
        assert!(xml.contains("<processing-notification><status><stored/></status></processing-notification>"), "{xml}");
        assert!(!xml.contains("delivery-notification"), "nothing is said of a delivery");
    }

    #[test]
    fn values_from_the_network_cannot_break_out_of_their_place() {
        let body = notification_about("<x/>&\"'", "sip:b?a=1&b=2", "sip:x>\r\nimdn.Disposition-Notification: display");
        let cpim = Cpim::parse(&body).unwrap();
        assert_eq!(text_of(cpim.content(), "message-id"), "<x/>&\"'");
        assert_eq!(text_of(cpim.content(), "recipient-uri"), "sip:b?a=1&b=2");
        assert_eq!(cpim.disposition_notification(), Dispositions::default());
        assert_eq!(cpim.from(), Some("<sip:x%3E\\u000d\\u000aimdn.Disposition-Notification: display>"));
    }

    #[test]
    fn a_text_message_is_no_notification() {
        let cpim = Cpim::parse(b"From: <sip:a@b>\r\n\r\nContent-Type: text/plain\r\n\r\nmessage/imdn+xml").unwrap();
        assert!(!is_imdn(&cpim));
    }

    proptest! {
        #[test]
        fn any_values_make_a_well_formed_document(id in any::<String>(), uri in any::<String>(), from in any::<String>()) {
            let body = notification_about(&id, &uri, &from);
            let cpim = Cpim::parse(&body).unwrap();
            prop_assert!(is_imdn(&cpim));
            prop_assert_eq!(cpim.imdn_message_id(), Some("new-1"));
            prop_assert!(roxmltree::Document::parse(str::from_utf8(cpim.content()).unwrap()).is_ok());
        }
    }
}
