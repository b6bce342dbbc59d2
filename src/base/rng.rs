//! Injected source of tags, branches, Call-IDs, transaction and session ids.

use chacha20::ChaCha8Rng;
use chacha20::rand_core::{Rng as _, SeedableRng};

/// A seeded generator: the shard seeds it from the operating system, a simulation from its seed.
///
/// ChaCha with eight rounds, because what comes out is seen by peers: from one's own tags and session ids nobody can tell
/// another's (RFC 4975 §14.1 rests on that).
pub struct Rng {
    stream: ChaCha8Rng,
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rng").finish_non_exhaustive()
    }
}

impl Rng {
    /// A generator from a full seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { stream: ChaCha8Rng::from_seed(seed) }
    }

    /// A generator from a short seed, for simulations and tests.
    pub fn from_u64(seed: u64) -> Self {
        let mut x = seed;
        let mut bytes = [0u8; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            // SplitMix64 spreads a short seed over the whole state.
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = x;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        Self::from_seed(bytes)
    }

    /// A generator of its own, seeded by this one.
    #[must_use]
    pub fn split(&mut self) -> Self {
        let mut seed = [0u8; 32];
        for chunk in seed.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes());
        }
        Self::from_seed(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a bound of zero has nothing below it");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}
