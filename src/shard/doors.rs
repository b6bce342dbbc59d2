//! How other threads reach the shards.

use crate::base::id::{ConnId, ShardId, Ticket};
use crate::base::limits::{SHARD_COUNT_MAX, SHARD_MAILBOX_LEN};
use crate::base::mailbox::Mailbox;
use crate::metrics::stages::Stages;
use crate::participating::input::{Input, Shards};
use crate::uring::eventfd::EventFd;
use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shard finds in its mailbox.
pub enum Mail {
    /// For the core.
    Core(Input),
    /// Bytes for a stream that this shard owns.
    SendOn {
        /// The stream.
        conn: ConnId,
        /// Where to connect when it is gone.
        fallback: SocketAddr,
        /// The interface to connect from.
        listener: u8,
        /// One whole SIP message.
        bytes: Bytes,
        /// Whose core to tell of a failure.
        ticket: Option<(ShardId, Ticket)>,
    },
    /// Somebody wants the shard's latencies.
    Scrape(Box<dyn FnOnce(Stages) + Send>),
    /// The shard ends in an orderly way.
    Stop,
}

/// The mailboxes of all shards. They exist before the shards do.
pub struct Doors {
    doors: Box<[Door]>,
    /// Set once all shards were found to have nothing left to do.
    at_rest: AtomicBool,
}

pub(super) struct Door {
    pub(super) mailbox: Mailbox<Mail>,
    pub(super) eventfd: EventFd,
    /// Set when [`Mail::Stop`] found the mailbox full.
    pub(super) stop: AtomicBool,
    /// The shard is stopping and waits for nothing. Taken back before it looks for mail again.
    pub(super) quiet: AtomicBool,
}

impl Doors {
    /// Mailboxes for this many shards.
    pub fn new(shard_count: u16) -> io::Result<Arc<Self>> {
        assert!(shard_count > 0 && usize::from(shard_count) <= SHARD_COUNT_MAX, "the configuration bounds the shards");
        let door = || {
            let eventfd = EventFd::new()?;
            let mailbox = Mailbox::new(SHARD_MAILBOX_LEN, Box::new(eventfd.clone()));
            Ok(Door { mailbox, eventfd, stop: AtomicBool::new(false), quiet: AtomicBool::new(false) })
        };
        let doors = (0..shard_count).map(|_| door()).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { doors, at_rest: AtomicBool::new(false) }))
    }

    /// Puts mail into a shard's mailbox, or gives it back when it is full.
    pub fn post(&self, to: ShardId, mail: Mail) -> Result<(), Mail> {
        self.door(to).mailbox.try_post(mail)
    }

    /// Asks every shard for its latencies; each answers on its own thread. Shards whose mailbox is full are left out.
    pub fn scrape(&self, answer: impl Fn(ShardId, Stages) + Clone + Send + 'static) {
        for index in 0..self.count() {
            let (shard, answer) = (ShardId(index), answer.clone());
            let _ = self.post(shard, Mail::Scrape(Box::new(move |stages| answer(shard, stages))));
        }
    }

    /// Ends every shard in an orderly way, however full its mailbox is.
    pub fn stop_all(&self) {
        for index in 0..self.count() {
            self.stop(ShardId(index));
        }
    }

    /// Ends one shard in an orderly way, however full its mailbox is.
    pub fn stop(&self, shard: ShardId) {
        let door = self.door(shard);
        if door.mailbox.try_post(Mail::Stop).is_err() {
            door.stop.store(true, Ordering::Release);
            door.mailbox.nudge();
        }
    }

    /// True when all shards are stopping and none has anything left to do, for itself or for another: a stream's owner
    /// sends what the others answer on it.
    pub(super) fn all_at_rest(&self) -> bool {
        // Mailboxes before flags: whoever takes mail out has taken its flag back before.
        let found = self.at_rest.load(Ordering::SeqCst)
            || self.doors.iter().all(|door| door.mailbox.is_empty())
                && self.doors.iter().all(|door| door.quiet.load(Ordering::SeqCst));
        if found {
            self.at_rest.store(true, Ordering::SeqCst);
        }
        found
    }

    pub(super) fn door(&self, shard: ShardId) -> &Door {
        &self.doors[shard.index()]
    }
}

impl Shards for Doors {
    fn count(&self) -> u16 {
        self.doors.len() as u16
    }

    fn try_post(&self, to: ShardId, input: Input) -> Result<(), Input> {
        self.post(to, Mail::Core(input)).map_err(|mail| match mail {
            Mail::Core(input) => input,
            _ => unreachable!("a mailbox gives back what was put in"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_gives_the_input_back_and_still_lets_the_shard_stop() {
        let doors = Doors::new(1).unwrap();
        let input = |ticket| Input::StreamFailed { ticket: Ticket(ticket) };
        let mut posted = 0;
        let refused = loop {
            match doors.try_post(ShardId(0), input(posted)) {
                Ok(()) => posted += 1,
                Err(input) => break input,
            }
        };
        assert_eq!(posted as usize, SHARD_MAILBOX_LEN);
        assert!(matches!(refused, Input::StreamFailed { ticket } if ticket == Ticket(posted)));
        doors.stop_all();
        assert!(doors.door(ShardId(0)).stop.load(Ordering::Acquire));
    }

    #[test]
    fn shards_are_at_rest_when_all_are_quiet_and_no_mail_is_under_way() {
        let doors = Doors::new(2).unwrap();
        let quiet = |shard, quiet| doors.door(ShardId(shard)).quiet.store(quiet, Ordering::SeqCst);
        assert!(!doors.all_at_rest());
        quiet(0, true);
        assert!(!doors.all_at_rest(), "the other may still answer on a stream of this one");
        assert!(doors.try_post(ShardId(0), Input::StreamFailed { ticket: Ticket(1) }).is_ok());
        quiet(1, true);
        assert!(!doors.all_at_rest(), "mail is under way");
        assert!(doors.door(ShardId(0)).mailbox.take().is_some());
        assert!(doors.all_at_rest());
        assert!(doors.post(ShardId(1), Mail::Stop).is_ok());
        assert!(doors.all_at_rest(), "what one has found holds for all");
    }
}
