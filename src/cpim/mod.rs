//! Message bodies: CPIM, IMDN and the MIME structure around them, as views over received bytes.
//!
//! Owns where headers, parts and content lie and what they say. Refuses to know SIP, policy and XML beyond the one
//! kind of document it writes. Nothing received is ever serialised again: bytes pass unchanged. Doors: [`message::Cpim`],
//! [`imdn::notify`], [`mime::Entity`], [`mime::Parts`].
//!
//! Specifications: RFC 3862, RFC 5438, RFC 2045, RFC 2046.

pub mod imdn;
pub mod message;
pub mod mime;

pub use imdn::{Notification, Original, Report, notify};
pub use message::{Cpim, CpimFault, Dispositions};
pub use mime::{Entity, HeadFault, MediaType, Parts, PartsFault};
