//! The XML documents of a user: access policy, preferences, resource lists.
//!
//! Owns what their elements are called and whether a document is valid; what they mean is `participating`'s. Refuses to
//! know where documents are kept and who may write them. Every document is treated as hostile: no document type
//! declaration, and bounds on size, depth, rules, attributes and namespaces before a tree is built.
//!
//! Two readings: [`check`] is strict and stands before an XCAP PUT; the `compile_` functions are tolerant, since
//! documents also come from elsewhere, and leave out what they don't understand in the way that the specifications say.
//!
//! Doors: [`usage`], [`check`], [`compile_access_policy`], [`compile_preferences`], [`compile_resource_lists`],
//! [`list_members`], [`parse_anchor`].
//! Specifications: RFC 4745 (common policy), OMA XDM extensions V1.0 (SPEC §3.1), RFC 4826 (resource lists),
//! RFC 4825 (XCAP), SPEC §3.5 (preferences).

mod access_policy;
mod anchor;
mod date_time;
mod fault;
mod preferences;
mod resource_lists;
mod usages;
mod xml;

pub use access_policy::{Lists, compile_access_policy};
pub use anchor::{ListAnchor, parse_anchor};
pub use fault::{Fault, Position};
pub use preferences::compile_preferences;
pub use resource_lists::{ResourceLists, compile_resource_lists, list_members};
pub use usages::{ACCESS_RULES, PREFERENCES, RESOURCE_LISTS, Usage, check, usage};
