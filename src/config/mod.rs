//! The provider's configuration: TOML in, checked plain values out.
//!
//! Owns every key, its default and what it may be, and says what is wrong in one line that names file, line and key.
//! Refuses to know sockets: an address that only `bind` can judge is the start's error. Doors: [`Config`],
//! [`ConfigError`]. The annotated list of keys is `tuning/ringpost.toml`.

mod error;
mod peer;
mod ports;
mod raw;
mod settings;
mod validate;
mod values;

pub use error::ConfigError;
pub use settings::Placement;
pub use values::{Config, Deferred, Http, Large, Log, LogLevel, Msrp, Policy, Preferences, Shards, Sip, Store, Xdms};
