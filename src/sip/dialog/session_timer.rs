//! Session timers of one leg: what is asked, what is agreed, when to refresh and when to give up.
//!
//! Specification: RFC 4028.

use crate::base::time::Instant;
use crate::sip::header::list::{param, split_first, trim};
use crate::sip::message::{Message, delta_seconds};
use crate::sip::scan::Name;
use crate::sip::write::{number_line, push_decimal};
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
    number_line(out, "Min-SE: ", u64::from(seconds));
}

fn write_session_expires(out: &mut Vec<u8>, seconds: u32, refresher: Option<Refresher>) {
    let refresher = match refresher {
        None => "",
        Some(Refresher::Uac) => ";refresher=uac",
        Some(Refresher::Uas) => ";refresher=uas",
    };
    out.extend_from_slice(b"Session-Expires: ");
    push_decimal(out, u64::from(seconds));
    out.extend_from_slice(refresher.as_bytes());
    out.extend_from_slice(b"\r\n");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::scan::Scan;
    use std::path::Path;

    fn with<T>(lines: &str, what: impl FnOnce(&Message<'_>) -> T) -> T {
        let text = format!("UPDATE sip:a@b SIP/2.0\r\n{lines}\r\n");
        let mut scan = Scan::default();
        scan.scan(text.as_bytes()).unwrap();
        what(&Message { bytes: text.as_bytes(), scan: &scan })
    }

    fn running(seconds: u32, refresher: Refresher, part: Part) -> SessionTimer {
        let mut timer = SessionTimer::default();
        timer.on_agreed(Some(Agreement { seconds, refresher }), part, Instant::ZERO);
        timer
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn fields_are_read_in_full_and_compact_form() {
        let lines = "x: 1800 ; Refresher=UAS;p=q\r\nMin-SE: 120;lr\r\nSupported: 100rel, Timer\r\n";
        let request = with(lines, TimerRequest::of).unwrap();
        let expires = SessionExpires { seconds: 1_800, refresher: Some(Refresher::Uas) };
        assert_eq!(request, TimerRequest { expires: Some(expires), min_seconds: Some(120), is_supported: true });
        assert_eq!(with("", TimerRequest::of), Some(TimerRequest::default()));
        for lines in ["Session-Expires: soon\r\n", "Session-Expires: ;refresher=uac\r\n", "Min-SE: -1\r\n"] {
            assert_eq!(with(lines, TimerRequest::of), None, "{lines}");
        }
    }

    #[test]
    fn answers_follow_the_table_of_rfc_4028() {
        let mut table = String::from(
            "Session timers, what a server that would choose 1800 s says: RFC 4028 §9, Table 2\n\n\
             supported  Session-Expires        Min-SE  answer\n",
        );
        for is_supported in [false, true] {
            for seconds in [None, Some(60), Some(90), Some(1_000), Some(7_200)] {
                for refresher in [None, Some(Refresher::Uac), Some(Refresher::Uas)] {
                    if seconds.is_none() && refresher.is_some() {
                        continue;
                    }
                    for min_seconds in [None, Some(2_000)] {
                        let expires = seconds.map(|seconds| SessionExpires { seconds, refresher });
                        let request = TimerRequest { expires, min_seconds, is_supported };
                        table.push_str(&row(&request));
                    }
                }
            }
        }
        compare("session_timer_answers.txt", &table);
    }

    #[test]
    fn an_offer_goes_up_to_what_a_422_asks_for_and_is_repeated_only_then() {
        let offer = TimerOffer::new(100);
        let raised = with("Min-SE: 3600\r\n", |response| offer.after_422(response)).unwrap();
        assert_eq!(raised, TimerOffer { seconds: 3_600, min_seconds: 3_600, refresher: None });
        assert_eq!(with("Min-SE: 3600\r\n", |response| raised.after_422(response)), None);
        assert_eq!(with("Min-SE: 90\r\n", |response| offer.after_422(response)), None);
        assert_eq!(with("", |response| offer.after_422(response)), None);
        let mut out = Vec::new();
        raised.write(&mut out);
        assert_eq!(out, b"Session-Expires: 3600\r\nMin-SE: 3600\r\n");
    }

    #[test]
    fn an_answer_without_session_expires_means_no_timer() {
        assert_eq!(with("", Agreement::of_response), None);
        let tiny = with("Session-Expires: 1\r\n", Agreement::of_response);
        assert_eq!(tiny, Some(Agreement { seconds: INTERVAL_MIN, refresher: Refresher::Uac }));
        let mut timer = running(1_800, Refresher::Uac, Part::Client);
        timer.on_agreed(None, Part::Client, at(10));
        assert_eq!((timer.keeper(), timer.poll_timeout(), timer.handle_timeout(at(9_000))), (Keeper::None, None, None));
    }

    #[test]
    fn the_keeper_refreshes_at_half_the_interval_and_gives_up_before_its_end() {
        for (refresher, part) in [(Refresher::Uac, Part::Client), (Refresher::Uas, Part::Server)] {
            let mut timer = running(1_800, refresher, part);
            assert_eq!((timer.keeper(), timer.poll_timeout()), (Keeper::Us, Some(at(900))));
            assert_eq!(timer.handle_timeout(at(899)), None);
            assert_eq!(timer.handle_timeout(at(900)), Some(Due::Refresh));
            assert_eq!((timer.handle_timeout(at(901)), timer.poll_timeout()), (None, Some(at(1_768))));
            assert_eq!(timer.handle_timeout(at(1_768)), Some(Due::Expire));
            assert_eq!((timer.keeper(), timer.poll_timeout()), (Keeper::None, None));
        }
    }

    #[test]
    fn who_waits_for_the_peer_never_refreshes() {
        for (refresher, part) in [(Refresher::Uas, Part::Client), (Refresher::Uac, Part::Server)] {
            let mut timer = running(90, refresher, part);
            // A third of a short interval is less than 32 seconds.
            assert_eq!((timer.keeper(), timer.poll_timeout()), (Keeper::Peer, Some(at(60))));
            assert_eq!(timer.handle_timeout(at(59)), None);
            assert_eq!(timer.handle_timeout(at(60)), Some(Due::Expire));
        }
    }

    #[test]
    fn a_refresh_starts_the_interval_anew_and_may_change_the_keeper() {
        let mut timer = running(1_800, Refresher::Uac, Part::Client);
        assert_eq!(timer.handle_timeout(at(900)), Some(Due::Refresh));
        timer.on_agreed(Some(Agreement { seconds: 600, refresher: Refresher::Uas }), Part::Client, at(901));
        assert_eq!((timer.keeper(), timer.poll_timeout()), (Keeper::Peer, Some(at(901 + 568))));
        let offer = TimerOffer { seconds: 600, min_seconds: 90, refresher: Some(Refresher::Uas) };
        assert_eq!(timer.offer(), offer, "whoever refreshes goes on refreshing");
    }

    #[test]
    fn a_refresh_that_could_not_be_done_is_due_again() {
        let mut timer = running(1_800, Refresher::Uac, Part::Client);
        assert_eq!(timer.handle_timeout(at(900)), Some(Due::Refresh));
        timer.on_refresh_postponed(Duration::from_secs(2), at(901));
        assert_eq!(timer.handle_timeout(at(903)), Some(Due::Refresh));
        let mut waiting = running(1_800, Refresher::Uas, Part::Client);
        waiting.on_refresh_postponed(Duration::from_secs(2), at(901));
        assert_eq!(waiting.poll_timeout(), Some(at(1_768)));
    }

    #[test]
    fn a_refresh_that_was_too_short_asks_for_more_and_remembers() {
        let mut timer = running(200, Refresher::Uac, Part::Client);
        assert!(with("Min-SE: 300\r\n", |response| timer.on_too_small(response)));
        let offer = TimerOffer { seconds: 300, min_seconds: 300, refresher: Some(Refresher::Uac) };
        assert_eq!(timer.offer(), offer);
        assert!(!with("Min-SE: 300\r\n", |response| timer.on_too_small(response)));
        assert_eq!(timer.poll_timeout(), Some(at(100)), "what was agreed holds until something else is");
    }

    #[test]
    fn a_late_wake_up_gives_up_at_once() {
        let mut timer = running(1_800, Refresher::Uac, Part::Client);
        assert_eq!(timer.handle_timeout(at(5_000)), Some(Due::Expire));
        assert_eq!(timer.handle_timeout(at(5_000)), None);
    }

    // Helpers.

    fn row(request: &TimerRequest) -> String {
        let supported = if request.is_supported { "yes" } else { "no" };
        let mut expires = Vec::new();
        if let Some(asked) = request.expires {
            write_session_expires(&mut expires, asked.seconds, asked.refresher);
        }
        let expires = String::from_utf8(expires).unwrap();
        let expires = expires.trim_end().strip_prefix("Session-Expires: ").unwrap_or("-");
        let least = request.min_seconds.map_or("-".to_owned(), |seconds| seconds.to_string());
        let mut answer = Vec::new();
        match request.answer(1_800) {
            TimerAnswer::TooSmall { min_seconds } => {
                answer.extend_from_slice(b"422, ");
                write_min_se(&mut answer, min_seconds);
            }
            TimerAnswer::Untimed => answer.extend_from_slice(b"-"),
            TimerAnswer::Agreed(agreement) => agreement.write(&mut answer),
        }
        let answer = String::from_utf8(answer).unwrap();
        let answer = answer.trim_end().replace("\r\n", ", ");
        format!("{supported:11}{expires:23}{least:8}{answer}\n")
    }

    fn compare(name: &str, actual: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, actual).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(actual, expected, "{name} differs; UPDATE_GOLDEN=1 rewrites it, the diff is reviewed");
    }
}
