//! Dialogs: identifiers, route sets, session timers. RFC 3261 §12, RFC 4028.
