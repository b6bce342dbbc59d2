//! REPORT requests: passed on with the whole path, generated when a failure is known only after the response, never
//! answered, and never more of them than fit: one that finds its way full is dropped.

use super::byte_range::ByteRange;
use super::connection::Net;
use super::head::Head;
use super::news::Purpose;
use super::pending::Note;
use super::relay::Relay;
use super::session::Leg;
use super::write;
use crate::base::id::ConnId;

impl Relay {
    /// A REPORT: it goes to the other side.
    pub(super) fn on_report(&mut self, conn: ConnId, head: &Head<'_>, repeats: bool) {
        let Ok(leg) = self.route(conn, head, repeats) else { return };
        let Some(session) = self.sessions.get_mut(leg.id) else { return };
        let is_bridge = matches!(session.purpose, Purpose::Bridge { .. });
        if session.legs[leg.side.index()].conn != Some(conn) || session.is_lost || !is_bridge {
            return;
        }
        let other = &mut session.legs[leg.side.other().index()];
        let Some(to) = other.conn.filter(|_| other.is_ready()) else { return };
        if self.net.get(to).is_none_or(Net::is_high) {
            return;
        }
        self.net.counts.reports += 1;
        other.next_head();
        let tid = other.tid();
        let paths = other.path_lines();
        self.net.say(to, [b"MSRP ", &tid, b" REPORT\r\n", paths, head.rest, b"-------", &tid, b"$\r\n"]);
    }
}

/// Writes a REPORT of our own about a chunk.
pub(super) fn write(net: &mut Net, near: &mut Leg, note: &Note, status: u16, scratch: &mut Vec<u8>) {
    let Some(to) = near.conn else { return };
    if net.get(to).is_none_or(Net::is_high) {
        return;
    }
    near.next_head();
    scratch.clear();
    let report = write::Report {
        transaction_id: &near.tid(),
        path_lines: near.path_lines(),
        message_id: &note.message_id,
        byte_range: ByteRange { start: note.start, end: Some(note.next - 1), total: note.total },
        status,
    };
    write::report(scratch, &report);
    net.say(to, [scratch]);
}
