//! SIP on the wire: RFC 3261, 3581, 6026.
//!
//! Owns the bytes of SIP: where headers stand, what they mean, how messages are written, how transactions move.
//! Refuses to know CPM, subscribers and sockets. Nothing here allocates while reading. Doors: [`scan`] (one pass over the
//! bytes), [`message`] (views on the headers the product reads), [`header`] (values), [`uri`], [`mod@write`] (range-copy
//! writer), [`transport`] (which way a message goes), [`transaction`] (the machines of §17).

pub mod dialog;
pub mod framing;
pub mod header;
pub mod message;
pub mod scan;
pub mod transaction;
pub mod transport;
pub mod uri;
pub mod write;
