//! Own transaction ids: they say whose they are, and only their receiver can know them.
//!
//! Four letters name the session's slot, one the side, eleven characters are random, eight digits count.

use super::news::Side;
use crate::base::limits::MSRP_SESSION_COUNT_MAX;
use crate::base::rng::Rng;

/// Length of an own transaction id.
pub const TID_LEN: usize = 24;

/// An own transaction id, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnTid {
    /// The session's slot.
    pub slot: u32,
    /// The side that it was sent to.
    pub side: Side,
    /// Its number.
    pub sequence: u32,
}

impl OwnTid {
    /// Takes apart what may be an own transaction id; whether its random part is right, the session knows.
    ///
    /// RFC 4975 §7.1.
    pub fn parse(tid: &[u8]) -> Option<Self> {
        let tid: &[u8; TID_LEN] = tid.try_into().ok()?;
        let slot = parse_slot(&tid[..4])?;
        let side = parse_side(tid[4])?;
        Some(Self { slot, side, sequence: parse_digits(tid[SEQUENCE_AT..].try_into().ok()?)? })
    }
}

/// The first transaction id of one side of a session.
///
/// RFC 4975 §7.1.
pub fn first_tid(slot: u32, side: Side, rng: &mut Rng) -> [u8; TID_LEN] {
    let mut tid = [b'0'; TID_LEN];
    tid[..5].copy_from_slice(&write_slot(slot, side));
    fill_random(&mut tid[5..SEQUENCE_AT], rng);
    debug_assert!(OwnTid::parse(&tid).is_some());
    tid
}

/// Counts on, in place.
///
/// RFC 4975 §7.1.
pub fn advance(tid: &mut [u8]) {
    for digit in tid[SEQUENCE_AT..TID_LEN].iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

/// How far one sequence number is behind another; they start again after [`SEQUENCE_COUNT`].
///
/// RFC 4975 §7.1.
pub const fn distance(from: u32, to: u32) -> u32 {
    if to >= from { to - from } else { to + SEQUENCE_COUNT - from }
}

/// A session-id: where to find the session, and 96 random bits that nobody else knows.
///
/// RFC 4975 §14.1.
pub fn session_id(slot: u32, side: Side, rng: &mut Rng) -> [u8; 21] {
    let mut id = [0; 21];
    id[..5].copy_from_slice(&write_slot(slot, side));
    fill_random(&mut id[5..], rng);
    id
}

/// The slot and the side that a session-id names.
///
/// RFC 4975 §6.
pub fn parse_session_id(id: &[u8]) -> Option<(u32, Side)> {
    let id: &[u8; 21] = id.try_into().ok()?;
    Some((parse_slot(&id[..4])?, parse_side(id[4])?))
}

fn write_slot(slot: u32, side: Side) -> [u8; 5] {
    let nibble = |shift: u32| b'a' + (slot >> shift & 15) as u8;
    [nibble(12), nibble(8), nibble(4), nibble(0), if side == Side::Originating { b'A' } else { b'B' }]
}

fn parse_slot(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |slot, letter| {
        let nibble = letter.wrapping_sub(b'a');
        (nibble < 16).then_some(slot << 4 | u32::from(nibble))
    })
}

const fn parse_side(letter: u8) -> Option<Side> {
    match letter {
        b'A' => Some(Side::Originating),
        b'B' => Some(Side::Terminating),
        _ => None,
    }
}

/// Reads eight digits at once: pairs, then fours, then all.
const fn parse_digits(text: [u8; 8]) -> Option<u32> {
    let mut value = u64::from_le_bytes(text).wrapping_sub(0x3030_3030_3030_3030);
    // A byte that is no digit has a high bit before or after six is added.
    if (value | value.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
        return None;
    }
    value = value.wrapping_mul(10).wrapping_add(value >> 8) & 0x00ff_00ff_00ff_00ff;
    value = value.wrapping_mul(100).wrapping_add(value >> 16) & 0x0000_ffff_0000_ffff;
    value = value.wrapping_mul(10_000).wrapping_add(value >> 32) & 0xffff_ffff;
    Some(value as u32)
}

fn fill_random(out: &mut [u8], rng: &mut Rng) {
    for piece in out.chunks_mut(10) {
        let mut bits = rng.next_u64();
        for byte in piece {
            *byte = ALPHABET[(bits & 63) as usize];
            bits >>= 6;
        }
    }
}

/// Sequence numbers before they start again.
pub const SEQUENCE_COUNT: u32 = 100_000_000;
const SEQUENCE_AT: usize = 16;
/// Characters that transaction ids and session-ids may hold, six bits each.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-+";

const _: () = assert!(MSRP_SESSION_COUNT_MAX <= 1 << 16, "a slot is four letters");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_id_is_found_again_by_its_own_text() {
        let mut tid = first_tid(0xBEEF, Side::Terminating, &mut Rng::from_u64(1));
        assert_eq!(OwnTid::parse(&tid), Some(OwnTid { slot: 0xBEEF, side: Side::Terminating, sequence: 0 }));
        for _ in 0..1_234 {
            advance(&mut tid);
        }
        assert_eq!(OwnTid::parse(&tid).unwrap().sequence, 1_234);
        tid[SEQUENCE_AT..].copy_from_slice(b"99999999");
        assert_eq!(OwnTid::parse(&tid).unwrap().sequence, SEQUENCE_COUNT - 1);
        advance(&mut tid);
        assert_eq!(OwnTid::parse(&tid).unwrap().sequence, 0);
        assert_eq!(distance(SEQUENCE_COUNT - 1, 0), 1);
    }

    #[test]
    fn what_others_made_up_is_no_own_transaction_id() {
        let tid = first_tid(1, Side::Originating, &mut Rng::from_u64(1));
        for at in (0..5).chain(SEQUENCE_AT..TID_LEN) {
            for byte in [b'/', b':', b'z', b'-', 0xff] {
                let mut other = tid;
                other[at] = byte;
                assert_eq!(OwnTid::parse(&other), None, "{at} {byte}");
            }
        }
        assert_eq!(OwnTid::parse(&tid[..23]), None);
        assert_eq!(OwnTid::parse(b""), None);
    }

    #[test]
    fn a_session_id_leads_to_its_slot() {
        let id = session_id(0xFFFF, Side::Originating, &mut Rng::from_u64(2));
        assert_eq!(parse_session_id(&id), Some((0xFFFF, Side::Originating)));
        assert_eq!(parse_session_id(&id[1..]), None);
    }
}
