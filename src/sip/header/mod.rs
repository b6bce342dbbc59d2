//! Header field values, read in place.
//!
//! Doors: [`list`] (comma lists and parameters), [`via`], [`address`] (From, To, Route, P-Asserted-Identity …), [`cseq`].

pub mod address;
pub mod cseq;
pub mod list;
pub mod via;
