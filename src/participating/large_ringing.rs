//! Provisional responses of a session in large message mode: heard on one leg, passed on to the other, reliable where a
//! side requires it (SPEC LM-A0; RFC 3262).

use super::b2bua::{ACK_PATIENCE, PRACK_COUNT_MAX, reason_of, remote_tag_of};
use super::core::{Core, Hop, OWN_REQUEST_MARK, SERVER_LINE, USER_AGENT_LINE};
use super::large::{Early, Reliable, Stage};
use super::leg::{LocalTag, Within, copy_record_route, names_option};
use super::subscriber::Directory;
use super::transactions::{LegRequest, Owner};
use crate::base::limits::EARLY_DIALOG_COUNT_MAX;
use crate::base::slots::SlotId;
use crate::base::time::Now;
use crate::sip::dialog::Dialog;
use crate::sip::message::Message;
use crate::sip::scan::{Name, decimal};
use crate::sip::transaction::T1;
use crate::sip::uri::Uri;
use crate::sip::write::{self, Response};
use bytes::Bytes;
use std::io::Write;

impl<D: Directory> Core<D> {
    /// A provisional response: the originating side hears it in an early dialog of its own (LM-A0).
    pub(super) fn on_ringing(&mut self, id: SlotId, fork: u8, status: u16, response: &Message<'_>, now: Now) {
        let Some(session) = self.large.sessions.get_mut(id).filter(|session| session.stage == Stage::Calling) else {
            return;
        };
        let Some(setup) = session.setup.as_mut().filter(|_| status > 100) else { return };
        let remote_tag = self.transactions.digest(&[remote_tag_of(response)]);
        let index = match setup.early.iter().position(|early| early.is(fork, remote_tag)) {
            Some(index) => index,
            None if setup.early.len() < EARLY_DIALOG_COUNT_MAX => {
                setup.early.push(Early { fork, remote_tag, rseq: None, pracks: 0 });
                setup.early.len() - 1
            }
            // More early dialogs than anybody can show to a user.
            None => return,
        };
        if names_option(response, Name::Require, b"100rel")
            && !self.acknowledge_reliably(id, fork, index, response, now)
        {
            // A repetition, or one that overtook another.
            return;
        }
        self.ring(id, index as u8, status, response, now);
    }

    /// Acknowledges a reliable provisional response; false when it has been or is out of order. RFC 3262 §4.
    fn acknowledge_reliably(&mut self, id: SlotId, fork: u8, index: usize, response: &Message<'_>, now: Now) -> bool {
        let rseq = response.value(Name::Rseq).and_then(decimal).and_then(|rseq| u32::try_from(rseq).ok());
        let Some(rseq) = rseq else { return true };
        let Some(session) = self.large.sessions.get_mut(id) else { return false };
        let tag = session.tag(id, LocalTag::index_of_fork(fork)).text();
        let Some(setup) = &mut session.setup else { return false };
        let hop = setup.hop;
        let (Some(early), Some(entry)) = (setup.early.get_mut(index), setup.forks.get_mut(usize::from(fork))) else {
            return false;
        };
        if early.rseq.is_some_and(|last| rseq != last.wrapping_add(1)) || early.pracks == PRACK_COUNT_MAX {
            return false;
        }
        early.rseq = Some(rseq);
        early.pracks += 1;
        let (invite_cseq, cseq) = (entry.cseq, entry.cseq + early.pracks);
        if !response.body().is_empty() {
            entry.answer = Some(Bytes::copy_from_slice(response.bytes));
        }
        let Ok(dialog) = Dialog::client(response, &tag, b"") else { return true };
        let extra = format!("RAck: {rseq} {invite_cseq} INVITE\r\n{USER_AGENT_LINE}");
        let next = Uri::parse(dialog.next_hop()).ok().map(|uri| self.leg_hop(&uri, now));
        let Some(hop) = next.and_then(Hop::known).or(hop) else { return true };
        let owner = Owner::Leg { session: id, leg: fork, request: LegRequest::Prack };
        self.send_request(owner, hop, OWN_REQUEST_MARK, now, |out, via| {
            Within { method: "PRACK", cseq, via, extra: extra.as_bytes(), ..Within::default() }.write(out, &dialog);
        });
        true
    }

    /// Passes a provisional response on.
    fn ring(&mut self, id: SlotId, index: u8, status: u16, response: &Message<'_>, now: Now) {
        let Some(session) = self.large.sessions.get(id) else { return };
        let tag = session.tag(id, index).text();
        let contact = self.contact(session.listener, session.kind, session.stream);
        let Some(setup) = &session.setup else { return };
        let (server, request) = (setup.server, setup.request.clone());
        let reliable = setup.wants_reliable;
        if reliable && setup.reliable.is_some() {
            // RFC 3262 §3: no second one before the first is acknowledged.
            return;
        }
        let rseq = setup.rseq + 1;
        let Some(path) = self.transactions.path(server) else { return };
        let mut extra = std::mem::take(&mut self.large.extra);
        extra.clear();
        extra.extend_from_slice(SERVER_LINE.as_bytes());
        contact.as_ref().write(&mut extra);
        if reliable {
            let _ = write!(extra, "Require: 100rel\r\nRSeq: {rseq}\r\n");
        }
        let reason = reason_of(response);
        let bytes = self.with_request(&request, |core, message| {
            copy_record_route(&mut extra, message);
            core.compose(|out| {
                let answer = Response { status, reason: &reason, to_tag: &tag, stamp: path.stamp, extra: &extra };
                write::response(out, message, &answer);
            })
        });
        self.large.extra = extra;
        let Some(bytes) = bytes else { return };
        if reliable && let Some(setup) = self.large.sessions.get_mut(id).and_then(|session| session.setup.as_mut()) {
            setup.rseq = rseq;
            setup.reliable = Some(Reliable {
                rseq,
                bytes: bytes.clone(),
                status,
                again: now.at + T1,
                interval: T1,
                given_up: now.at + ACK_PATIENCE,
            });
        }
        self.transactions.respond(server, status, bytes, now.at, &mut self.effects);
        self.arm_session(id, now);
    }
}
