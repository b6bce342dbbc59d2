//! What names a dialog, and why a message founds none.

use crate::sip::header::address;
use crate::sip::message::Message;
use crate::sip::scan::Name;

/// Call-ID and both tags, as seen from our side. A peer of RFC 2543 has an empty tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DialogId<'a> {
    /// The Call-ID.
    pub call_id: &'a [u8],
    /// Our tag.
    pub local_tag: &'a [u8],
    /// The peer's tag.
    pub remote_tag: &'a [u8],
}

impl<'a> DialogId<'a> {
    /// The dialog that a received request belongs to; `None` outside of dialogs.
    ///
    /// RFC 3261 §12.2.2.
    pub fn of_request(message: &Message<'a>) -> Option<Self> {
        Some(Self {
            call_id: message.value(Name::CallId)?,
            local_tag: address::tag(message.value(Name::To)?)?,
            remote_tag: message.value(Name::From).and_then(address::tag).unwrap_or_default(),
        })
    }

    /// The dialog that a received response belongs to or founds; `None` when it has no tag of ours.
    ///
    /// RFC 3261 §12.1.2.
    pub fn of_response(message: &Message<'a>) -> Option<Self> {
        Some(Self {
            call_id: message.value(Name::CallId)?,
            local_tag: address::tag(message.value(Name::From)?)?,
            remote_tag: message.value(Name::To).and_then(address::tag).unwrap_or_default(),
        })
    }
}

/// Why a message founds or changes no dialog. The peer's fault, every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialogFault {
    /// From, To, Call-ID or CSeq is missing or cannot be read.
    Incomplete,
    /// A From or To tag that is not the one we gave.
    ForeignTag,
    /// No Contact, or none with a SIP URI.
    Contact,
    /// A Record-Route that cannot be read.
    RecordRoute,
    /// More routes or longer values than a dialog keeps (`base::limits`).
    TooLarge,
}

impl DialogFault {
    /// Status code and reason phrase that answer a request.
    ///
    /// RFC 3261 §21.4.1, §21.5.7.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::Incomplete => (400, "Bad Request"),
            Self::ForeignTag => (481, "Call/Transaction Does Not Exist"),
            Self::Contact => (400, "Bad Contact"),
            Self::RecordRoute => (400, "Bad Record-Route"),
            Self::TooLarge => (513, "Message Too Large"),
        }
    }
}
