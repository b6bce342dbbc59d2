//! The configuration as written: every key optional, unknown keys refused, every value with its place in the file.
//!
//! Numbers are taken as any integer and texts as any text; what they may be is said in one place, by validation.

use serde::Deserialize;
use serde::de::{self, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

/// A value that may be absent, with its place.
pub type Key<T> = Option<Spanned<T>>;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// `[sip]`
    pub sip: Sip,
    /// `[shards]`
    pub shards: Shards,
    /// `[policy]`
    pub policy: Policy,
    /// `[deferred]`
    pub deferred: Deferred,
    /// `[preferences]`
    pub preferences: Preferences,
    /// `[store]`
    pub store: Store,
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
    /// `[msrp]`
    pub msrp: Msrp,
    /// `[large]`
    pub large: Large,
    /// `[xdms]`
    pub xdms: Xdms,
}

/// Declares one section: every field is a [`Key`].
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$field_doc])* pub $field: Key<$kind>,)+ }
    };
}

section! {
    /// `[sip]`
    Sip {
        /// Name in Warning and the like.
        host: String,
        /// Listening addresses.
        listen: OneOrMany,
        /// First of the shards' own ports.
        shard_port: i64,
        /// Addresses to write instead of the listening ones.
        advertise: OneOrMany,
        /// Next hop.
        core: String,
        /// Interworking selection function.
        isf: String,
        /// What an ISF failure does.
        isf_failure: Scalar,
        /// Networks whose identities are believed.
        trusted: OneOrMany,
        /// Requests must be marked as the terminating case.
        require_route: bool,
        /// Bytes.
        path_mtu: i64,
        /// From stands in for P-Asserted-Identity.
        identity_from_header: bool,
        /// Fixed addresses of host names.
        hosts: BTreeMap<Spanned<String>, Spanned<String>>,
    }
}

section! {
    /// `[shards]`
    Shards {
        /// How many; 0 is one per CPU.
        count: i64,
        /// Each on its own CPU.
        pin: bool,
    }
}

section! {
    /// `[policy]`
    Policy {
        /// Media types taken.
        accept_types: OneOrMany,
        /// Longest body.
        pager_max_body: i64,
        /// Answer over that.
        oversize: Scalar,
        /// Answer to an expired message.
        expired: Scalar,
        /// Feature tags and service identifiers that mean CPM.
        cpm_tags: OneOrMany,
        /// Lowest client version of large message mode.
        ua_min: Scalar,
        /// What a client without a version gets.
        ua_absent: Scalar,
        /// Senders may be anonymous in large message mode.
        allow_anonymous: bool,
    }
}

section! {
    /// `[deferred]`
    Deferred {
        /// Final responses that turn into a deferral.
        defer_on: Vec<Spanned<i64>>,
        /// Seconds.
        max_age: i64,
        /// Messages of one user.
        per_user_count: i64,
        /// Bytes of one user.
        per_user_bytes: i64,
        /// Messages sent per second.
        pace: i64,
    }
}

section! {
    /// `[preferences]`
    Preferences {
        /// Handling without a preference document.
        default: Scalar,
        /// Answer for unknown users.
        unknown_user: Scalar,
        /// Devices one message is forked to.
        devices_max: i64,
    }
}

section! {
    /// `[store]`
    Store {
        /// Folder of all durable state.
        data_dir: String,
        /// Folder of large bodies.
        content_dir: String,
        /// Bytes from which a body is a file.
        content_threshold: i64,
    }
}

section! {
    /// `[http]`
    Http {
        /// Listening address.
        listen: String,
        /// First segment(s) of XCAP paths.
        xcap_root: String,
    }
}

section! {
    /// `[log]`
    Log {
        /// How much is logged.
        level: Scalar,
    }
}

section! {
    /// `[msrp]`
    Msrp {
        /// First listening addresses; shard n uses port + n.
        listen: OneOrMany,
        /// Addresses to write instead of the listening ones.
        advertise: OneOrMany,
        /// Who answers a chunk.
        ack: Scalar,
        /// How a=path is written.
        path_mode: Scalar,
    }
}

section! {
    /// `[large]`
    Large {
        /// Bytes.
        max_size: i64,
        /// Seconds.
        invite_timeout: i64,
    }
}

section! {
    /// `[xdms]`
    Xdms {
        /// XCAP root of an external document server.
        root: String,
        /// Seconds.
        cache_ttl: i64,
        /// Milliseconds.
        timeout: i64,
    }
}

/// A text, or a list of texts.
#[derive(Debug)]
pub enum OneOrMany {
    /// One text, in the place of the whole value.
    One(String),
    /// A list, each entry with its place.
    Many(Vec<Spanned<String>>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = items.next_element()? {
                    texts.push(text);
                }
                Ok(OneOrMany::Many(texts))
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// One word of a fixed set, written as a text or, where it is a status code, as a number.
#[derive(Debug)]
pub struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a number")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
        }
        deserializer.deserialize_any(Word)
    }
}
