//! A subscriber's preferences as plain values (SPEC §3.5). XML is the control plane's business.

/// What a message carries, as access policies and preferences name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Media {
    /// A SIP MESSAGE.
    PagerModeMessage,
    /// An MSRP session that carries one large message.
    LargeMessage,
}

/// Whether the user wants messages at all, whatever is registered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Availability {
    /// Messages are delivered.
    #[default]
    Available,
    /// Messages are handled as if nobody were registered (PM-4a).
    NotAvailable,
}

/// What to do with a message for a user who cannot be reached (PM-4a).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Handling {
    /// 403 with Warning 122.
    Reject,
    /// Into the deferred queue, 202.
    #[default]
    Defer,
    /// Into the message store, 200.
    Store,
    /// To the interworking selection function.
    Interwork,
}

/// Which devices a message goes to (PM-6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceSelection {
    /// The core forks to all of them.
    #[default]
    All,
    /// Only these instances (`urn:uuid:…`), one forked request each.
    Selected(Vec<Box<str>>),
}

/// Legacy services, in the user's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LegacyService {
    /// Short message service.
    Sms,
    /// Multimedia message service.
    Mms,
    /// Electronic mail.
    Email,
}

/// The active profile of a user's preference document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Availability as the document says.
    pub availability: Availability,
    /// What to do with a pager mode message when the user cannot be reached; `None` is the provider's default.
    pub pager_handling: Option<Handling>,
    /// The same for a large message.
    pub large_handling: Option<Handling>,
    /// Conversation history is recorded.
    pub records_history: bool,
    /// Which devices get messages.
    pub devices: DeviceSelection,
    /// Legacy services for interworking, best first.
    pub interworking: Vec<LegacyService>,
    /// The user wants to be told of deferred messages.
    pub deferred_notify: bool,
    /// Longest stay in the deferred queue, in seconds.
    pub deferred_age_max_seconds: Option<u32>,
}

impl Profile {
    /// What to do with a message of this kind when the user cannot be reached.
    pub fn handling(&self, media: Media) -> Option<Handling> {
        match media {
            Media::PagerModeMessage => self.pager_handling,
            Media::LargeMessage => self.large_handling,
        }
    }
}
