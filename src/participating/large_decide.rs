//! Steps LM-1 to LM-6 as one pure function: what becomes of an INVITE in large message mode. First terminating step
//! wins.

use super::decide::{Instances, instances};
use super::large_body::BodyFault;
use super::policy::PolicyRequest;
use super::preferences::{Handling, Media};
use super::settings::{Settings, UnknownUser, UserAgentVersion};
use super::subscriber::Subscriber;
use crate::base::time::UnixMillis;
use crate::sdp::SdpFault;

/// What an INVITE in large message mode carries.
pub const LARGE: Media = Media::LargeMessage;

/// What the steps look at.
pub struct Case<'a> {
    /// Who sends, over which service.
    pub request: PolicyRequest<'a>,
    /// The User-Agent header.
    pub user_agent: Option<&'a [u8]>,
    /// The session interval asked for is smaller than ours may be (LM-4).
    pub interval_too_small: bool,
    /// The size of the file that the offer names, or what is wrong with the offer (LM-4x).
    pub offer: Result<Option<u64>, OfferFault>,
    /// The largest message taken.
    pub size_max: u64,
    /// The interworking function cannot take this one: there is none, or it sent it (SPEC §2.6).
    pub interworking_closed: bool,
}

/// What is wrong with an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OfferFault {
    /// There is none that can be read.
    Body(BodyFault),
    /// It cannot be met.
    Sdp(SdpFault),
    /// The sender is to be connected to, and nobody knows where.
    Address,
}

/// Why an appliance takes a message itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// For the deferred queue.
    Defer {
        /// The user's own limit of how long it stays there.
        age_max_seconds: Option<u32>,
    },
    /// For the message store.
    Store,
    /// For the conversation history, while it passes.
    History,
}

/// What becomes of the INVITE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// 404: nothing is known of the user.
    UnknownUser,
    /// 403 with Warning 122, by access policy (LM-1a).
    PolicyReject,
    /// 403 with Error-Info and Warning 132 (LM-2a).
    Version,
    /// 403 with Warning 119 (LM-3a).
    Anonymous,
    /// 422 with Min-SE (LM-4).
    IntervalTooSmall,
    /// 415 or 488 (LM-4x).
    Unacceptable(OfferFault),
    /// 403 with Warning 133 (SPEC §2.9).
    Oversize,
    /// 403 with Warning 122, by preference (LM-ed2).
    PreferenceReject,
    /// The appliance answers and takes the message itself (LM-ed2).
    Take(Errand),
    /// To the interworking selection function (LM-ed2).
    Interwork,
    /// To the user's devices (LM-5 to LM-7).
    Bridge {
        /// Conversation history is recorded while the message passes (LM-A7).
        record: bool,
        /// The devices chosen, none for all.
        instances: Instances,
    },
}

/// Decides. Steps in the order of the seed: access policy, version, anonymity, session interval, offer, preferences,
/// devices.
///
/// SPEC §1.2.
pub fn decide(case: &Case<'_>, subscriber: Option<&Subscriber>, settings: &Settings, now: UnixMillis) -> Decision {
    let nobody;
    let subscriber = match (subscriber, settings.unknown_user) {
        (Some(subscriber), _) => subscriber,
        (None, UnknownUser::NotFound) => return Decision::UnknownUser,
        (None, UnknownUser::Serve) => {
            nobody = Subscriber::default();
            &nobody
        }
    };
    // LM-1.
    if subscriber.policy.as_ref().is_some_and(|policy| policy.rejects(&case.request)) {
        return Decision::PolicyReject;
    }
    // LM-2.
    if let Some(lowest) = settings.ua_min {
        let taken = match case.user_agent.and_then(version) {
            Some(version) => version >= lowest,
            None => settings.ua_absent_allowed,
        };
        if !taken {
            return Decision::Version;
        }
    }
    // LM-3.
    if case.request.anonymous && !settings.anonymous_allowed {
        return Decision::Anonymous;
    }
    // LM-4.
    if case.interval_too_small {
        return Decision::IntervalTooSmall;
    }
    // LM-4x.
    match case.offer {
        Err(fault) => return Decision::Unacceptable(fault),
        Ok(Some(size)) if size > case.size_max => return Decision::Oversize,
        Ok(_) => {}
    }
    // LM-ed2.
    if !subscriber.is_reachable(now) {
        return unreachable(case, subscriber, settings);
    }
    // LM-6, LM-A7.
    let record = subscriber.profile.as_ref().is_some_and(|profile| profile.records_history);
    Decision::Bridge { record, instances: instances(subscriber, settings, now) }
}

/// PM-4a in the mirror: what the user wants while nobody can take the message.
fn unreachable(case: &Case<'_>, subscriber: &Subscriber, settings: &Settings) -> Decision {
    let profile = subscriber.profile.as_deref();
    let handling = profile.and_then(|profile| profile.handling(LARGE)).unwrap_or(settings.default_handling);
    let age_max_seconds = profile.and_then(|profile| profile.deferred_age_max_seconds);
    let defer = Decision::Take(Errand::Defer { age_max_seconds });
    match handling {
        Handling::Reject => Decision::PreferenceReject,
        Handling::Defer => defer,
        Handling::Store => Decision::Take(Errand::Store),
        Handling::Interwork if case.interworking_closed => defer,
        Handling::Interwork => Decision::Interwork,
    }
}

/// The version of the OMA enabler in a User-Agent: its first `CPM-client/OMA<major>.<minor>`, or `CPM-serv/…` where the
/// originating side put its own name in place of the client's (SPEC LM-2).
pub fn version(user_agent: &[u8]) -> Option<UserAgentVersion> {
    const PRODUCTS: [&[u8]; 2] = [b"CPM-client/OMA", b"CPM-serv/OMA"];
    user_agent.split(|byte| matches!(byte, b' ' | b'\t')).find_map(|product| {
        let version = PRODUCTS.iter().find_map(|name| {
            let (head, rest) = product.split_at_checked(name.len())?;
            head.eq_ignore_ascii_case(name).then_some(rest)
        })?;
        let (major, minor) = std::str::from_utf8(version).ok()?.split_once('.')?;
        // `2.1_beta` is 2.1: what follows the digits says nothing of the enabler.
        let digits = minor.bytes().take_while(u8::is_ascii_digit).count();
        Some(UserAgentVersion { major: major.parse().ok()?, minor: minor[..digits].parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::participating::policy::{AccessPolicy, Condition, IdentityCondition, Rule};
    use crate::participating::preferences::{Availability, DeviceSelection, Profile};
    use crate::testing::scene;
    use std::sync::Arc;

    const SERVICE: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg";
    const ALICE: &[&str] = &["sip:alice@a.example"];

    fn case() -> Case<'static> {
        let at = scene::WALL_START;
        let request = PolicyRequest { originator: ALICE, anonymous: false, service: SERVICE, media: LARGE, at };
        Case {
            request,
            user_agent: None,
            interval_too_small: false,
            offer: Ok(None),
            size_max: 100,
            interworking_closed: false,
        }
    }

    fn bob() -> Subscriber {
        Subscriber { devices: Box::new([scene::device("urn:uuid:1")]), ..Subscriber::default() }
    }

    fn decided(case: &Case<'_>, subscriber: &Subscriber, settings: &Settings) -> Decision {
        decide(case, Some(subscriber), settings, scene::WALL_START)
    }

    #[test]
    fn the_first_step_that_ends_it_wins() {
        let mut settings = scene::settings(0, 1);
        settings.ua_min = Some(UserAgentVersion { major: 2, minor: 0 });
        settings.anonymous_allowed = false;
        let rule = Rule {
            conditions: vec![Condition::Identity(vec![IdentityCondition::One("sip:alice@a.example".into())])],
            rejects: true,
        };
        let mut bob = bob();
        bob.policy = Some(Arc::new(AccessPolicy::new(&[rule])));
        bob.devices = Box::new([]);
        bob.profile = Some(Arc::new(Profile { large_handling: Some(Handling::Reject), ..Profile::default() }));
        let mut case = case();
        case.user_agent = Some(b"CPM-client/OMA1.0");
        case.request.anonymous = true;
        case.interval_too_small = true;
        case.offer = Err(OfferFault::Address);
        assert_eq!(decide(&case, None, &settings, scene::WALL_START), Decision::UnknownUser);
        assert_eq!(decided(&case, &bob, &settings), Decision::PolicyReject);
        bob.policy = None;
        assert_eq!(decided(&case, &bob, &settings), Decision::Version);
        case.user_agent = Some(b"CPM-client/OMA2.0");
        assert_eq!(decided(&case, &bob, &settings), Decision::Anonymous);
        case.request.anonymous = false;
        assert_eq!(decided(&case, &bob, &settings), Decision::IntervalTooSmall);
        case.interval_too_small = false;
        assert_eq!(decided(&case, &bob, &settings), Decision::Unacceptable(OfferFault::Address));
        case.offer = Ok(Some(101));
        assert_eq!(decided(&case, &bob, &settings), Decision::Oversize);
        case.offer = Ok(Some(100));
        assert_eq!(decided(&case, &bob, &settings), Decision::PreferenceReject);
    }

    #[test]
    fn a_client_without_a_version_is_the_operators_choice() {
        let mut settings = scene::settings(0, 1);
        let bridge = Decision::Bridge { record: false, instances: Instances::new() };
        let mut case = case();
        case.user_agent = Some(b"CPM-client/OMA1.0");
        assert_eq!(decided(&case, &bob(), &settings), bridge, "nothing is required");
        settings.ua_min = Some(UserAgentVersion { major: 2, minor: 1 });
        for (user_agent, absent_allowed, taken) in [
            (None, true, true),
            (None, false, false),
            (Some(&b"phone/1.0"[..]), false, false),
            (Some(b"phone/1.0"), true, true),
            (Some(b"CPM-client/OMA2.1 RCS-client/UP_2.4"), false, true),
            (Some(b"x/1 cpm-CLIENT/oma10.0"), false, true),
            (Some(b"CPM-serv/OMA2.0"), true, false),
            (Some(b"CPM-client/OMA1.9"), true, false),
        ] {
            settings.ua_absent_allowed = absent_allowed;
            case.user_agent = user_agent;
            let expected = if taken { bridge.clone() } else { Decision::Version };
            assert_eq!(decided(&case, &bob(), &settings), expected, "{user_agent:?} {absent_allowed}");
        }
    }

    #[test]
    fn versions_are_read_from_the_first_product_that_has_one() {
        let read = |text: &str| version(text.as_bytes()).map(|version| (version.major, version.minor));
        assert_eq!(read("CPM-client/OMA2.2 RCS-client/UP_2.4 term-x/1.0"), Some((2, 2)));
        assert_eq!(read("CPM-client/OMA1.0 MSP/1.0"), Some((1, 0)));
        assert_eq!(read("a CPM-serv/OMA2.1_x CPM-client/OMA9.9"), Some((2, 1)));
        for text in ["", "CPM-client/2.1", "CPM-client/OMA2", "CPM-client/OMAx.1", "CPM-client/OMA2.", "CPM-clien"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn preferences_decide_for_who_cannot_be_reached() {
        let settings = scene::settings(0, 1);
        let mut case = case();
        for (handling, closed, expected) in [
            (Some(Handling::Reject), false, Decision::PreferenceReject),
            (Some(Handling::Store), false, Decision::Take(Errand::Store)),
            (Some(Handling::Interwork), false, Decision::Interwork),
            (Some(Handling::Interwork), true, Decision::Take(Errand::Defer { age_max_seconds: Some(7) })),
            (None, false, Decision::Take(Errand::Defer { age_max_seconds: Some(7) })),
        ] {
            case.interworking_closed = closed;
            let profile = Profile { large_handling: handling, deferred_age_max_seconds: Some(7), ..Profile::default() };
            let gone = Subscriber { profile: Some(Arc::new(profile)), ..Subscriber::default() };
            assert_eq!(decided(&case, &gone, &settings), expected, "{handling:?}");
            let away = Subscriber { availability: Some(Availability::NotAvailable), ..bob() };
            let away = Subscriber { profile: gone.profile.clone(), ..away };
            assert_eq!(decided(&case, &away, &settings), expected, "{handling:?}, registered but not available");
        }
    }

    #[test]
    fn history_and_devices_are_the_profiles() {
        let settings = scene::settings(0, 1);
        let devices = DeviceSelection::Selected(vec!["urn:uuid:1".into(), "urn:uuid:2".into()]);
        let profile = Profile { records_history: true, devices, ..Profile::default() };
        let bob = Subscriber { profile: Some(Arc::new(profile)), ..bob() };
        let instances = ["urn:uuid:1".into()].into_iter().collect();
        assert_eq!(decided(&case(), &bob, &settings), Decision::Bridge { record: true, instances });
    }
}
