//! Handles and names that cross rooms and threads.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// One per-core worker, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard as an index into per-shard tables.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The home shard of a subscriber: the one that delivers the user's deferred messages.
    pub fn home_of(aor: &str, shard_count: u16) -> Self {
        assert!(shard_count > 0, "an appliance has at least one shard");
        // FNV-1a: the same home from every thread, without a shared seed.
        let hash = aor
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Self(((hash ^ (hash >> 32)) % u64::from(shard_count)) as u16)
    }
}

/// One instance of the appliance; stored with every row so that several can share what they store one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// A stream connection of one shard. The generation makes a late completion harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    /// Slot in the shard's connection table.
    pub slot: u32,
    /// Times the slot was given out before.
    pub generation: u32,
}

/// Names whoever asked for something; the answer carries it back unchanged.
///
/// A shard's core packs what it needs to find the waiting work; nobody else looks inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A message in the durable store. Ids grow in order of acceptance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u64);

/// The canonical address of record of a subscriber, such as `sip:bob@home.example` or `tel:+15550100`.
///
/// Two spellings of one address have one `Aor`: `sip::uri` is where spellings end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aor(Arc<str>);

impl Aor {
    /// Takes text that is already canonical.
    pub fn from_canonical(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Aor {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Aor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
