//! Session timers of one leg: what is asked, what is agreed, when to refresh and when to give up.
//!
//! Specification: RFC 4028.

use crate::base::time::Instant;
use crate::sip::header::list::{param, split_first, trim};
use crate::sip::message::{Message, delta_seconds};
use crate::sip::scan::Name;
use std::io::Write;
use std::time::Duration;

/// The smallest interval that anybody may ask for, and the smallest that we take (RFC 4028 §4).
pub const INTERVAL_MIN: u32 = 90;

/// Who refreshes, in the words of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refresher {
    /// The client of the transaction.
    Uac,
    /// Its server.
    Uas,
}

/// `Session-Expires: <seconds>;refresher=uac|uas`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// The interval in seconds.
    pub seconds: u32,
    /// Who refreshes.
    pub refresher: Option<Refresher>,
}

/// What a request says about session timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerRequest {
    /// Its Session-Expires.
    pub expires: Option<SessionExpires>,
    /// Its Min-SE in seconds.
    pub min_seconds: Option<u32>,
    /// Its client supports session timers.
    pub is_supported: bool,
}

/// What both sides of a leg are to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The interval in seconds.
    pub seconds: u32,
    /// Who refreshes, in the words of the transaction that agreed it.
    pub refresher: Refresher,
}

/// What a server says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerAnswer {
    /// 422 with this Min-SE.
    TooSmall {
        /// The least that we take, in seconds.
        min_seconds: u32,
    },
    /// The 2xx says nothing: the session has no timer.
    Untimed,
    /// The 2xx says this.
    Agreed(Agreement),
}

/// What a request of ours asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerOffer {
    /// The interval in seconds.
    pub seconds: u32,
    /// The least interval that proxies and the server may make of it.
    pub min_seconds: u32,
    /// Who refreshes; left open in a first INVITE.
    pub refresher: Option<Refresher>,
}

/// Which part of a transaction was ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// We sent the request.
    Client,
    /// We answered it.
    Server,
}

/// What is due on a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// Send a re-INVITE or UPDATE.
    Refresh,
    /// Nobody refreshed: send a BYE.
    Expire,
}

/// Who refreshes a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Keeper {
    /// Nobody: no timer runs.
    #[default]
    None,
    /// We do.
    Us,
    /// The peer does.
    Peer,
}

/// The session timer of one leg.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionTimer {
    keeper: Keeper,
    /// The agreed interval in seconds.
    seconds: u32,
    /// The least interval that the peer takes, as far as it said.
    min_seconds: u32,
    /// When to refresh; `None` when that is the peer's business, or asked for already.
    refresh_at: Option<Instant>,
    /// When to give up.
    expire_at: Option<Instant>,
}

impl SessionExpires {
    /// Reads a Session-Expires value.
    ///
    /// RFC 4028 §4.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (seconds, params) = split_params(value);
        let refresher = match param(params, "refresher").and_then(|param| param.value) {
            Some(text) if text.eq_ignore_ascii_case(b"uac") => Some(Refresher::Uac),
            Some(text) if text.eq_ignore_ascii_case(b"uas") => Some(Refresher::Uas),
            _ => None,
        };
        Some(Self { seconds: delta_seconds(seconds)?, refresher })
    }
}

impl TimerRequest {
    /// Reads the fields of a request; `None` when one of them cannot be read, which is answered with 400.
    ///
    /// RFC 4028 §4, §5.
    pub fn of(message: &Message<'_>) -> Option<Self> {
        Some(Self {
            expires: match message.value(Name::SessionExpires) {
                Some(value) => Some(SessionExpires::parse(value)?),
                None => None,
            },
            min_seconds: match message.value(Name::MinSe) {
                Some(value) => Some(min_se(value)?),
                None => None,
            },
            is_supported: supports_timer(message),
        })
    }

    /// Decides what our response says. `wanted` is the interval that we would choose, in seconds.
    ///
    /// A client that supports timers refreshes unless it asks us to; one that does not is refreshed by us.
    /// RFC 4028 §9.
    pub fn answer(&self, wanted: u32) -> TimerAnswer {
        let wanted = wanted.max(INTERVAL_MIN);
        let least = self.min_seconds.unwrap_or(INTERVAL_MIN).max(INTERVAL_MIN);
        let seconds = match self.expires {
            Some(expires) if expires.seconds < INTERVAL_MIN => {
                return TimerAnswer::TooSmall { min_seconds: INTERVAL_MIN };
            }
            // Never more than was asked for, even where Min-SE contradicts it; never less than Min-SE.
            Some(expires) => expires.seconds.min(wanted.max(least)),
            None if self.is_supported => wanted.max(least),
            None => return TimerAnswer::Untimed,
        };
        let asked = self.expires.and_then(|expires| expires.refresher);
        let refresher = if self.is_supported { asked.unwrap_or(Refresher::Uac) } else { Refresher::Uas };
        TimerAnswer::Agreed(Agreement { seconds, refresher })
    }
}

impl Agreement {
    /// What a 2xx to our request says; `None` when the session has no timer.
    ///
    /// RFC 4028 §7.2.
    pub fn of_response(message: &Message<'_>) -> Option<Self> {
        let expires = SessionExpires::parse(message.value(Name::SessionExpires)?)?;
        Some(Self {
            // An interval that nobody may ask for would only make us flood the peer.
            seconds: expires.seconds.max(INTERVAL_MIN),
            refresher: expires.refresher.unwrap_or(Refresher::Uac),
        })
    }

    /// Writes the header lines of a 2xx.
    ///
    /// RFC 4028 §9.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_session_expires(out, self.seconds, Some(self.refresher));
        if self.refresher == Refresher::Uac {
            out.extend_from_slice(b"Require: timer\r\n");
        }
    }
}

impl TimerOffer {
    /// What a first INVITE of ours asks for.
    ///
    /// RFC 4028 §7.1.
    pub fn new(seconds: u32) -> Self {
        Self { seconds: seconds.max(INTERVAL_MIN), min_seconds: INTERVAL_MIN, refresher: None }
    }

    /// What is asked for after a 422; `None` when its Min-SE asks for no more than we offered, so that a repeat would be
    /// refused again.
    ///
    /// RFC 4028 §7.3.
    pub fn after_422(&self, response: &Message<'_>) -> Option<Self> {
        let least = min_se(response.value(Name::MinSe)?)?;
        let is_more = least > self.min_seconds || least > self.seconds;
        is_more.then(|| Self {
            seconds: self.seconds.max(least),
            min_seconds: self.min_seconds.max(least),
            refresher: self.refresher,
        })
    }

    /// Writes the header lines of a request; `Supported: timer` is the writer's own.
    ///
    /// RFC 4028 §7.1, §7.4.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_session_expires(out, self.seconds, self.refresher);
        write_min_se(out, self.min_seconds);
    }
}

impl SessionTimer {
    /// A 2xx to a first request or to a refresh passed: the timer starts anew, or stops without an agreement.
    ///
    /// RFC 4028 §7.2, §9, §10.
    pub fn on_agreed(&mut self, agreement: Option<Agreement>, part: Part, now: Instant) {
        let Some(Agreement { seconds, refresher }) = agreement else {
            *self = Self { min_seconds: self.min_seconds, ..Self::default() };
            return;
        };
        let seconds = seconds.max(INTERVAL_MIN);
        let is_ours = matches!((part, refresher), (Part::Client, Refresher::Uac) | (Part::Server, Refresher::Uas));
        let interval = Duration::from_secs(u64::from(seconds));
        self.seconds = seconds;
        self.keeper = if is_ours { Keeper::Us } else { Keeper::Peer };
        self.refresh_at = is_ours.then_some(now + interval / 2);
        self.expire_at = Some(now + (interval - GRACE_MAX.min(interval / 3)));
        self.check();
    }

    /// A 422 refused our refresh: the least interval it named holds from here on. False when a repeat would be refused
    /// again.
    ///
    /// RFC 4028 §7.3.
    pub fn on_too_small(&mut self, response: &Message<'_>) -> bool {
        let Some(offer) = self.offer().after_422(response) else { return false };
        self.min_seconds = offer.min_seconds;
        self.seconds = offer.seconds;
        true
    }

    /// A refresh could not be done for the time being (491, 500 with Retry-After): it is due again after `delay`.
    ///
    /// RFC 4028 §10, RFC 3261 §14.1.
    pub fn on_refresh_postponed(&mut self, delay: Duration, now: Instant) {
        if self.keeper == Keeper::Us {
            self.refresh_at = Some(now + delay);
        }
        self.check();
    }

    /// The session ended.
    ///
    /// RFC 4028 §10.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// What a request of ours inside the dialog says about timers: whoever refreshes goes on refreshing.
    ///
    /// RFC 4028 §7.4.
    pub fn offer(&self) -> TimerOffer {
        TimerOffer {
            seconds: self.seconds.max(INTERVAL_MIN),
            min_seconds: self.min_seconds.max(INTERVAL_MIN),
            refresher: match self.keeper {
                Keeper::None => None,
                Keeper::Us => Some(Refresher::Uac),
                Keeper::Peer => Some(Refresher::Uas),
            },
        }
    }

    /// Who refreshes.
    ///
    /// RFC 4028 §10.
    pub const fn keeper(&self) -> Keeper {
        self.keeper
    }

    /// The next deadline.
    ///
    /// RFC 4028 §10.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.refresh_at.into_iter().chain(self.expire_at).min()
    }

    /// What is due. A refresh is asked for once; giving up ends the timer.
    ///
    /// RFC 4028 §10.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        let due = if self.expire_at.is_some_and(|at| at <= now) {
            self.stop();
            Due::Expire
        } else if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            Due::Refresh
        } else {
            return None;
        };
        self.check();
        debug_assert!(self.poll_timeout().is_none_or(|next| next > now), "firing moves on");
        Some(due)
    }

    fn check(&self) {
        debug_assert_eq!(self.keeper == Keeper::None, self.expire_at.is_none(), "a kept session expires");
        debug_assert!(self.refresh_at.is_none() || self.keeper == Keeper::Us, "the peer's refresh is the peer's");
    }
}

/// True when a message lists `timer` among the extensions its sender supports.
///
/// RFC 4028 §7.1.
pub fn supports_timer(message: &Message<'_>) -> bool {
    message.elements(Name::Supported).any(|tag| tag.eq_ignore_ascii_case(b"timer"))
}

/// Reads a Min-SE value, in seconds.
///
/// RFC 4028 §5.
pub fn min_se(value: &[u8]) -> Option<u32> {
    delta_seconds(split_params(value).0)
}

/// Writes a Min-SE line, as a 422 needs it.
///
/// RFC 4028 §6.
pub fn write_min_se(out: &mut Vec<u8>, seconds: u32) {
    write!(out, "Min-SE: {seconds}\r\n").expect("writing to memory cannot fail");
}

fn write_session_expires(out: &mut Vec<u8>, seconds: u32, refresher: Option<Refresher>) {
    let refresher = match refresher {
        None => "",
        Some(Refresher::Uac) => ";refresher=uac",
        Some(Refresher::Uas) => ";refresher=uas",
    };
    write!(out, "Session-Expires: {seconds}{refresher}\r\n").expect("writing to memory cannot fail");
}

/// The value in front of the parameters, and the parameters.
fn split_params(value: &[u8]) -> (&[u8], &[u8]) {
    let (value, _) = split_first(value);
    match memchr::memchr(b';', value) {
        Some(semicolon) => (trim(&value[..semicolon]), &value[semicolon + 1..]),
        None => (value, &[]),
    }
}

/// How long before the end of an interval a BYE leaves, at most (RFC 4028 §10).
const GRACE_MAX: Duration = Duration::from_secs(32);
