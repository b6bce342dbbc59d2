//! Steps PM-1 to PM-6 as one pure function: what becomes of a pager mode message. First terminating step wins.

use super::content::{self, Remedy};
use super::facts::Validity;
use super::policy::PolicyRequest;
use super::preferences::{DeviceSelection, Handling, Media};
use super::settings::{Oversize, Settings, UnknownUser};
use super::subscriber::Subscriber;
use crate::base::limits::FORK_COUNT_MAX;
use crate::base::time::UnixMillis;
use smallvec::SmallVec;

/// Instances a message is forked to; empty leaves the choice to the core.
pub type Instances = SmallVec<[Box<str>; 2]>;

/// What the steps look at.
pub struct Case<'a> {
    /// Who sends, over which service.
    pub request: PolicyRequest<'a>,
    /// The body's type.
    pub content_type: Option<&'a [u8]>,
    /// Its encoding.
    pub content_encoding: Option<&'a [u8]>,
    /// The body.
    pub body: &'a [u8],
    /// The message is over the limit that holds for it (PM-2c).
    pub oversize: bool,
    /// Expires.
    pub validity: Validity,
    /// The interworking function cannot take this one: there is none, or it sent it (SPEC §2.6).
    pub interworking_closed: bool,
}

/// What becomes of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// 404: nothing is known of the user.
    UnknownUser,
    /// 403 with Warning 122, by access policy (PM-1e).
    PolicyReject,
    /// 400: a body without a type, or one that cannot be read.
    BadContent,
    /// 415 with Accept (PM-2b); `encoding` adds Accept-Encoding.
    UnsupportedMedia {
        /// The Content-Encoding is the fault.
        encoding: bool,
    },
    /// Too large, answered as configured (PM-2c).
    Oversize(Oversize),
    /// Expired on arrival (PM-3b).
    Expired,
    /// 403 with Warning 122, by preference (PM-4a-i).
    PreferenceReject,
    /// Into the deferred queue, for at most these seconds (PM-4a-ii).
    Defer {
        /// The user's own limit.
        age_max_seconds: Option<u32>,
    },
    /// Into the message store (PM-4a-iii).
    Store,
    /// To the interworking selection function (PM-4a-iv).
    Interwork,
    /// To the user's devices (PM-5 to PM-7).
    Deliver {
        /// Conversation history is recorded first.
        record: bool,
        /// The devices chosen, none for all.
        instances: Instances,
    },
}

/// Decides. Steps in the order of the seed: access policy, content, expiry, preferences, history, devices.
///
/// SPEC §1.1.
pub fn decide<'a>(
    case: &Case<'a>,
    subscriber: Option<&Subscriber>,
    settings: &Settings,
    now: UnixMillis,
) -> (Decision, content::Facts<'a>) {
    let mut facts = content::Facts::default();
    let Some(subscriber) = subscriber.or(match settings.unknown_user {
        UnknownUser::Serve => Some(&NOBODY),
        UnknownUser::NotFound => None,
    }) else {
        return (Decision::UnknownUser, facts);
    };
    // PM-1: nothing else is told to a sender whom the user does not want.
    if subscriber.policy.as_ref().is_some_and(|policy| policy.rejects(&case.request)) {
        return (Decision::PolicyReject, facts);
    }
    // PM-2: type, then size.
    match content::check(case.content_type, case.content_encoding, case.body, &settings.accept_types) {
        Ok(found) => facts = found,
        Err(fault) => {
            let decision = match fault.remedy() {
                Remedy::BadRequest => Decision::BadContent,
                Remedy::UnsupportedType => Decision::UnsupportedMedia { encoding: false },
                Remedy::UnsupportedEncoding => Decision::UnsupportedMedia { encoding: true },
            };
            return (decision, facts);
        }
    }
    if case.oversize {
        return (Decision::Oversize(settings.oversize), facts);
    }
    // PM-3.
    if case.validity.expired {
        return (Decision::Expired, facts);
    }
    // PM-4: availability is independent of registration, and either keeps the message from being delivered.
    if !subscriber.is_reachable(now) {
        return (unreachable(case, subscriber, settings, facts.is_imdn), facts);
    }
    // PM-5, PM-6.
    let record = subscriber.profile.as_ref().is_some_and(|profile| profile.records_history);
    (Decision::Deliver { record, instances: instances(subscriber, settings, now) }, facts)
}

/// PM-4a: what the user wants while nobody can take the message.
fn unreachable(case: &Case<'_>, subscriber: &Subscriber, settings: &Settings, is_notification: bool) -> Decision {
    let profile = subscriber.profile.as_deref();
    let handling =
        profile.and_then(|profile| profile.handling(case.request.media)).unwrap_or(settings.default_handling);
    let defer = Decision::Defer { age_max_seconds: profile.and_then(|profile| profile.deferred_age_max_seconds) };
    match handling {
        // A notification that is refused helps nobody: it waits instead (SPEC §2.8).
        Handling::Reject if is_notification => defer,
        Handling::Reject => Decision::PreferenceReject,
        Handling::Defer => defer,
        Handling::Store => Decision::Store,
        Handling::Interwork if case.interworking_closed => defer,
        Handling::Interwork => Decision::Interwork,
    }
}

/// PM-6: the devices the user chose, among those that are registered for CPM; best `q` first, at most as many as the
/// provider allows. None when the user chose none, or none of the chosen is there: then the core forks to all.
pub fn instances(subscriber: &Subscriber, settings: &Settings, now: UnixMillis) -> Instances {
    let Some(DeviceSelection::Selected(wanted)) = subscriber.profile.as_ref().map(|profile| &profile.devices) else {
        return Instances::new();
    };
    let mut chosen: SmallVec<[(u16, &str); 4]> = subscriber
        .cpm_devices(now)
        .filter_map(|device| {
            let instance = device.instance.as_deref()?;
            wanted.iter().any(|id| id.eq_ignore_ascii_case(instance)).then_some((device.q_milli, instance))
        })
        .collect();
    chosen.sort_by_key(|(q_milli, _)| std::cmp::Reverse(*q_milli));
    chosen.dedup_by_key(|(_, instance)| *instance);
    chosen.truncate(settings.device_count_max.min(FORK_COUNT_MAX));
    chosen.into_iter().map(|(_, instance)| Box::from(instance)).collect()
}

/// A user of whom nothing is known, where the provider serves such.
static NOBODY: std::sync::LazyLock<Subscriber> = std::sync::LazyLock::new(Subscriber::default);

/// The media of a pager mode message.
pub const PAGER: Media = Media::PagerModeMessage;
