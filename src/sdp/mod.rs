//! SDP: session descriptions with one MSRP media line, read and written.
//!
//! Owns the grammar, the MSRP attributes, offer and answer. Refuses to know SIP, sockets and who the parties are: what a
//! description means for a session is decided by whoever asks. Nothing here allocates while reading. Doors:
//! [`Description`] (a description as received), [`MessageMedia`] (its MSRP media line), [`write_offer`] and
//! [`write_answer`] (what this appliance says), [`answer_setup`] and [`role_after_answer`] (who connects).
//!
//! Specifications: RFC 8866, RFC 3264, RFC 4975 §8, RFC 4145 and RFC 6135 (setup), RFC 5547 (files), RFC 6714 (CEMA).

mod fault;
mod lines;
mod msrp_media;
mod offer_answer;
mod session;

pub use fault::SdpFault;
pub use msrp_media::{Direction, MessageMedia, Role, Setup};
pub use offer_answer::{Leg, Own, answer_setup, answer_setup_again, role_after_answer, write_answer, write_offer};
pub use session::{Description, MediaLine};
