//! Message objects: what the message store and the conversation history keep of a request (SPEC §2.5).

use super::facts::{LARGE_SERVICE, PAGER_SERVICE, Service};
use super::storage::{Direction, MessageObject, Outcome};
use crate::base::id::{Aor, MessageId};
use crate::base::time::UnixMillis;
use crate::sip::message::Message;
use crate::sip::scan::Name;
use crate::sip::write::line;
use bytes::Bytes;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an object is made of besides the request.
pub struct Making<'a> {
    /// Whose object.
    pub user: Aor,
    /// The originator's canonical address.
    pub originator: &'a str,
    /// The header field that names the originator.
    pub from: Name,
    /// The originator asked not to be shown.
    pub anonymous: bool,
    /// The service that was recognised, for a request whose P-Asserted-Service does not say it.
    pub service: Service,
    /// The message's own id, or one made for it.
    pub imdn_message_id: &'a str,
    /// What became of the message.
    pub outcome: Outcome,
    /// When it was taken.
    pub at: UnixMillis,
}

/// Makes the object of a received message. `request` holds the same bytes as `message`, so that the body is shared.
pub fn object(message: &Message<'_>, request: &Bytes, making: Making<'_>) -> MessageObject {
    debug_assert_eq!(message.bytes.len(), request.len(), "the body is sliced out of the shared bytes");
    let mut head = Vec::with_capacity(512);
    let text = |name: Name| message.value(name).unwrap_or_default();
    if making.anonymous {
        line(&mut head, "From", b"anonymous");
    } else {
        copy(&mut head, "From", message.value(making.from).unwrap_or(text(Name::From)));
    }
    copy(&mut head, "To", text(Name::To));
    match message.value(Name::Date) {
        Some(date) => copy(&mut head, "Date", date),
        None => line(&mut head, "Date", http_date(making.at).as_bytes()),
    }
    for (name, label) in [
        (Name::Subject, "Subject"),
        (Name::PAssertedService, "P-Asserted-Service"),
        (Name::ConversationId, "Conversation-ID"),
        (Name::ContributionId, "Contribution-ID"),
        (Name::InReplyToContributionId, "InReplyTo-Contribution-ID"),
    ] {
        if let Some(value) = message.value(name) {
            copy(&mut head, label, value);
        }
    }
    if message.value(Name::PAssertedService).is_none() {
        let service = match &making.service {
            Service::Cpm(text) => text.as_str(),
            Service::Other | Service::Unnamed if message.method() == Some(b"INVITE") => LARGE_SERVICE,
            Service::Other | Service::Unnamed => PAGER_SERVICE,
        };
        line(&mut head, "P-Asserted-Service", service.as_bytes());
    }
    line(&mut head, "IMDN-Message-ID", making.imdn_message_id.as_bytes());
    for field in message.fields(Name::AcceptContact) {
        copy(&mut head, "Accept-Contact", field.value.of(message.bytes));
    }
    // What an interworking function says of a message that was an SMS or MMS.
    for label in ["Message-Correlator", "Message-Context"] {
        if let Some(value) = message.extension(label) {
            copy(&mut head, label, value);
        }
    }
    line(&mut head, "Message-Direction", b"received");
    let lossy = |bytes: &[u8]| -> Box<str> { String::from_utf8_lossy(bytes).into() };
    MessageObject {
        id: MessageId::default(),
        user: making.user,
        peer: if making.anonymous { "anonymous".into() } else { making.originator.into() },
        imdn_message_id: making.imdn_message_id.into(),
        conversation_id: lossy(text(Name::ConversationId)),
        contribution_id: lossy(text(Name::ContributionId)),
        direction: Direction::Received,
        outcome: making.outcome,
        at: making.at,
        head: Bytes::from(head),
        content_type: lossy(text(Name::ContentType)),
        body: request.slice(message.scan.body.start as usize..message.scan.body.end as usize),
        content: None,
        body_len: message.body().len() as u64,
    }
}

/// Copies a value; the line ends of a folded one become blanks.
fn copy(head: &mut Vec<u8>, label: &str, value: &[u8]) {
    head.extend_from_slice(label.as_bytes());
    head.extend_from_slice(b": ");
    head.extend(value.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    head.extend_from_slice(b"\r\n");
}

/// A moment in the form of the Date header.
///
/// RFC 3261 §20.17.
pub fn http_date(at: UnixMillis) -> String {
    httpdate::fmt_http_date(system_time(at))
}

/// A wall-clock moment as the standard library's type.
pub fn system_time(at: UnixMillis) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or(0))
}
