//! Access policy evaluation (PM-1a to PM-1d, SPEC §3), pure and without allocation.
//!
//! `documents` reads the XML into [`Rule`]s; [`AccessPolicy::new`] folds every address, domain and service into the form
//! that requests are compared in, so that [`AccessPolicy::rejects`] only compares bytes.
//!
//! Which services a `service` of a rule means (PM-1a). A request's *service* is what its sender asserted, its *media*
//! is what it is; messages are the services `+g.oma.sip-cpm`, `….oma.cpm`, `.msg`, `.msg.*`, `.largemsg`,
//! `.largemsg.*`, `.deferred` and any tag outside the CPM ICSIs that the provider counts as CPM.
//!
//! | `featuretag` or `enabler` of the rule | requests it means |
//! | --- | --- |
//! | `+g.oma.sip-cpm`, `urn:urn-7:3gpp-service.ims.icsi.oma.cpm` | all |
//! | `….oma.cpm.msg` | messages in pager mode |
//! | `….oma.cpm.largemsg` | messages in large message mode |
//! | `….oma.cpm.msg.group` and the like | pager mode, asserting exactly this service |
//! | `….oma.cpm.largemsg.group` and the like | large message mode, asserting exactly this service |
//! | any other (`….systemmsg`, `….session`, another enabler) | asserting exactly this service |
//!
//! So a rule for `.msg` covers a MESSAGE whatever message service it claims, a rule for `.systemmsg` covers system
//! messages alone, and a rule for another enabler covers no message at all. Values are compared without case and after
//! percent-decoding; `+g.3gpp.icsi-ref="urn%3Aurn-7%3A…"` stands for the services in its list (G-2).

use super::preferences::Media;
use crate::base::time::UnixMillis;
use crate::sip::uri;
use std::fmt;
use std::sync::Arc;

/// What an access policy is asked about.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a> {
    /// Canonical addresses of the authenticated originator: one P-Asserted-Identity may have a SIP and a tel URI.
    ///
    /// A number in a SIP URI (`sip:+1555…@home.example;user=phone`) is canonically a `tel:` URI and has lost its
    /// domain: [`uri::canonical_literal`] of it is a second address that conditions on domains need.
    pub originator: &'a [&'a str],
    /// The originator asked to be anonymous.
    pub anonymous: bool,
    /// The service identifier of the request in plain form (`urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg`, or
    /// `+g.oma.sip-cpm`), as recognised by G-2.
    pub service: &'a str,
    /// What the request carries.
    pub media: Media,
    /// When.
    pub at: UnixMillis,
}

/// One rule as its document says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// All of them must hold; a rule without conditions applies to every request.
    pub conditions: Vec<Condition>,
    /// `allow-reject-invite` is true.
    pub rejects: bool,
}

/// One child of a rule's `conditions`.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `identity`: one of these must match; none of none.
    Identity(Vec<IdentityCondition>),
    /// `external-list`: the originator is in one of these lists.
    ExternalList(Vec<Arc<MemberSet>>),
    /// `other-identity`: no rule of the document refers to the originator by identity or external list.
    OtherIdentity,
    /// `anonymous-request`.
    AnonymousRequest,
    /// `service-list`.
    Services(ServiceList),
    /// `media-list`.
    Media(MediaList),
    /// `validity`: the moment lies in one of these.
    Validity(Vec<Period>),
    /// `sphere`: never holds, since nobody tells the appliance a user's sphere.
    Sphere,
    /// A condition that is not understood: the rule does not apply (RFC 4745 §6.2).
    Unknown,
}

/// One child of an `identity`. Addresses and domains are as written.
#[derive(Clone, Debug, PartialEq)]
pub enum IdentityCondition {
    /// `one`: this address.
    One(Box<str>),
    /// `many`: every authenticated originator, or those of one domain, less the exceptions.
    Many {
        /// Only this domain, exactly.
        domain: Option<Box<str>>,
        /// Who is left out.
        except: Vec<Except>,
    },
}

/// An exception from a `many`.
#[derive(Clone, Debug, PartialEq)]
pub enum Except {
    /// This address.
    Id(Box<str>),
    /// Every address of this domain.
    Domain(Box<str>),
}

/// A `service-list`: values of `featuretag` or `enabler`, as written.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceList {
    /// One of these.
    Listed(Vec<Box<str>>),
    /// `all-services-except`: none of these.
    AllExcept(Vec<Box<str>>),
}

/// A `media-list`: local names of its elements, whatever their namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum MediaList {
    /// One of these.
    Listed(Vec<Box<str>>),
    /// `all-media-except`: none of these.
    AllExcept(Vec<Box<str>>),
}

/// A span of time: `from` is in it, `until` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The beginning.
    pub from: UnixMillis,
    /// The end.
    pub until: UnixMillis,
}

/// A compiled access policy document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessPolicy {
    rules: Box<[CompiledRule]>,
    /// For each rule, the marks of those whom its first identity condition can hold for. Most rules end here, without
    /// a look at memory that is in no cache.
    reaches: Box<[u64]>,
    /// Some rule rejects; otherwise there is nothing to evaluate.
    can_reject: bool,
}

impl AccessPolicy {
    /// Compiles the rules of one document.
    pub fn new(rules: &[Rule]) -> Self {
        let can_reject = rules.iter().any(|rule| rule.rejects);
        let rules: Box<[CompiledRule]> = rules.iter().map(CompiledRule::new).collect();
        let reaches = rules.iter().map(|rule| rule.identities.first().map_or(EVERYBODY, Identity::reach)).collect();
        Self { rules, reaches, can_reject }
    }

    /// True when a rule that applies to the request has `<allow-reject-invite>` true (PM-1d, OR of all rules).
    ///
    /// Of the rules whose conditions hold, those by `identity` outrank those by `external-list`, and these outrank
    /// those by `other-identity`; a rule that says nothing of who asks always takes part (PM-1c).
    pub fn rejects(&self, request: &PolicyRequest<'_>) -> bool {
        if !self.can_reject {
            return false;
        }
        let asked = Asked { request, is_message: is_message_service(request.service) };
        // The highest class of the rules that hold so far, and whether one of that class rejects.
        let (mut highest, mut rejects) = (Class::OtherIdentity, false);
        let mut is_referenced = None;
        let marks = request
            .originator
            .iter()
            .fold(0, |marks, address| marks | mark(address) | domain_of(address).map_or(0, mark));
        for (rule, reach) in self.rules.iter().zip(&self.reaches) {
            if reach & marks == 0 && *reach != EVERYBODY {
                continue;
            }
            let changes_nothing = rule.class < highest || !rule.rejects && rule.class == highest;
            if changes_nothing || !rule.holds_apart_from_originator(&asked) {
                continue;
            }
            let holds = rule.identities.iter().all(|identity| identity.holds(request.originator))
                && rule.external_lists.iter().all(|lists| any_list_has(lists, request.originator))
                && (!rule.other_identity || !*is_referenced.get_or_insert_with(|| self.refers_to(request.originator)));
            match rule.class {
                _ if !holds => {}
                Class::Identity | Class::Anybody if rule.rejects => return true,
                Class::Anybody => {}
                class if class > highest => (highest, rejects) = (class, rule.rejects),
                _ => rejects |= rule.rejects,
            }
        }
        rejects
    }

    /// True when a rule names the originator by identity or external list, whether or not the rule applies.
    fn refers_to(&self, originator: &[&str]) -> bool {
        self.rules.iter().any(|rule| {
            rule.identities.iter().any(|identity| identity.holds(originator))
                || rule.external_lists.iter().any(|lists| any_list_has(lists, originator))
        })
    }
}

/// What is the same for every rule that a request is held against.
struct Asked<'a> {
    request: &'a PolicyRequest<'a>,
    is_message: bool,
}

/// By what a rule knows the originator, in order of precedence. A rule that does not care outranks nobody and is
/// outranked by nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    OtherIdentity,
    ExternalList,
    Identity,
    Anybody,
}

#[derive(Clone, Debug, PartialEq)]
struct CompiledRule {
    rejects: bool,
    /// An unknown condition or a sphere: the rule never applies, but its identities still count for `other-identity`.
    is_inert: bool,
    needs_anonymous: bool,
    other_identity: bool,
    class: Class,
    pager: bool,
    large: bool,
    services: Box<[ServiceTest]>,
    validities: Box<[Box<[Period]>]>,
    identities: Box<[Identity]>,
    external_lists: Box<[Box<[Arc<MemberSet>]>]>,
}

impl CompiledRule {
    fn new(rule: &Rule) -> Self {
        let mut services = Vec::new();
        let mut validities = Vec::new();
        let mut identities = Vec::new();
        let mut external_lists = Vec::new();
        let (mut is_inert, mut needs_anonymous, mut other_identity) = (false, false, false);
        let (mut pager, mut large) = (true, true);
        for condition in &rule.conditions {
            match condition {
                Condition::Identity(conditions) => identities.push(Identity::new(conditions)),
                Condition::ExternalList(lists) => external_lists.push(lists.clone().into_boxed_slice()),
                Condition::OtherIdentity => other_identity = true,
                Condition::AnonymousRequest => needs_anonymous = true,
                Condition::Services(list) => services.push(ServiceTest::new(list)),
                Condition::Media(list) => {
                    pager &= list.covers(Media::PagerModeMessage);
                    large &= list.covers(Media::LargeMessage);
                }
                Condition::Validity(periods) => validities.push(periods.clone().into_boxed_slice()),
                Condition::Sphere | Condition::Unknown => is_inert = true,
            }
        }
        let class = if !identities.is_empty() {
            Class::Identity
        } else if !external_lists.is_empty() {
            Class::ExternalList
        } else if other_identity {
            Class::OtherIdentity
        } else {
            Class::Anybody
        };
        Self {
            rejects: rule.rejects,
            is_inert,
            needs_anonymous,
            other_identity,
            class,
            pager,
            large,
            services: services.into(),
            validities: validities.into(),
            identities: identities.into(),
            external_lists: external_lists.into(),
        }
    }

    fn holds_apart_from_originator(&self, asked: &Asked<'_>) -> bool {
        let request = asked.request;
        let covers_media = match request.media {
            Media::PagerModeMessage => self.pager,
            Media::LargeMessage => self.large,
        };
        covers_media
            && !self.is_inert
            && (!self.needs_anonymous || request.anonymous)
            && self.services.iter().all(|test| test.holds(asked))
            && self
                .validities
                .iter()
                .all(|periods| periods.iter().any(|period| period.from <= request.at && request.at < period.until))
    }
}

impl MediaList {
    fn covers(&self, media: Media) -> bool {
        let names: &[&str] = match media {
            Media::PagerModeMessage => &["pager-mode-message"],
            Media::LargeMessage => &["large-message", "large-message-mode-message"],
        };
        let has = |listed: &[Box<str>]| listed.iter().any(|name| names.contains(&&**name));
        match self {
            Self::Listed(listed) => has(listed),
            Self::AllExcept(listed) => !has(listed),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct ServiceTest {
    tags: Box<[ServiceTag]>,
    is_negated: bool,
}

impl ServiceTest {
    fn new(list: &ServiceList) -> Self {
        let (values, is_negated) = match list {
            ServiceList::Listed(values) => (values, false),
            ServiceList::AllExcept(values) => (values, true),
        };
        Self { tags: values.iter().flat_map(|value| ServiceTag::read(value)).collect(), is_negated }
    }

    fn holds(&self, asked: &Asked<'_>) -> bool {
        self.tags.iter().any(|tag| tag.means(asked)) != self.is_negated
    }
}

/// One row of the table above.
#[derive(Clone, Debug, PartialEq)]
enum ServiceTag {
    AnyCpm,
    Messages(Media),
    Exactly { service: Box<str>, media: Option<Media> },
}

impl ServiceTag {
    /// The services that a `featuretag` or `enabler` names; several when it is an `icsi-ref` list.
    fn read(value: &str) -> Vec<Self> {
        let mut decoded = vec![0; value.len()];
        let plain = uri::percent_decode(value.trim().as_bytes(), &mut decoded).unwrap_or(value.as_bytes());
        let plain = String::from_utf8_lossy(plain).to_ascii_lowercase();
        let list = plain.strip_prefix("+g.3gpp.icsi-ref=").unwrap_or(&plain).trim_matches('"');
        list.split(',').map(str::trim).filter(|service| !service.is_empty()).map(Self::of).collect()
    }

    fn of(service: &str) -> Self {
        if service == DRAFT_TAG {
            return Self::AnyCpm;
        }
        let media = match cpm_suffix(service) {
            Some("") => return Self::AnyCpm,
            Some("msg") => return Self::Messages(Media::PagerModeMessage),
            Some("largemsg") => return Self::Messages(Media::LargeMessage),
            Some(suffix) if suffix.starts_with("msg.") => Some(Media::PagerModeMessage),
            Some(suffix) if suffix.starts_with("largemsg.") => Some(Media::LargeMessage),
            _ => None,
        };
        Self::Exactly { service: service.into(), media }
    }

    fn means(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::AnyCpm => true,
            Self::Messages(media) => asked.is_message && asked.request.media == *media,
            Self::Exactly { service, media } => {
                media.is_none_or(|media| asked.request.media == media)
                    && service.eq_ignore_ascii_case(asked.request.service)
            }
        }
    }
}

/// True for services whose requests are messages, so that only the media tells pager from large message mode.
fn is_message_service(service: &str) -> bool {
    let Some(suffix) = cpm_suffix(service) else { return true };
    let starts = |name: &str| suffix.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    suffix.is_empty()
        || ["msg", "largemsg", "deferred"].iter().any(|name| suffix.eq_ignore_ascii_case(name))
        || starts("msg.")
        || starts("largemsg.")
}

/// What follows the CPM ICSI: `msg` of `….oma.cpm.msg`, nothing of `….oma.cpm` itself.
fn cpm_suffix(service: &str) -> Option<&str> {
    let (start, rest) = service.split_at_checked(CPM_ICSI.len())?;
    if !start.eq_ignore_ascii_case(CPM_ICSI) {
        return None;
    }
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

#[derive(Clone, Debug, PartialEq)]
struct Identity {
    /// `many` without domain and exceptions.
    anybody: bool,
    addresses: MemberSet,
    domains: MemberSet,
    /// `many` with exceptions.
    guarded: Box<[Guarded]>,
}

#[derive(Clone, Debug, PartialEq)]
struct Guarded {
    domain: Option<Box<str>>,
    except_addresses: MemberSet,
    except_domains: MemberSet,
}

/// The reach of a rule that may hold for anybody.
const EVERYBODY: u64 = u64::MAX;

/// One bit of 64 for an address or a domain: two that differ seldom share it, equal ones always do.
fn mark(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    1 << (hash >> 58)
}

impl Identity {
    /// The marks of everybody this condition can hold for.
    fn reach(&self) -> u64 {
        if self.anybody {
            return EVERYBODY;
        }
        let named = self.addresses.iter().chain(self.domains.iter()).fold(0, |marks, text| marks | mark(text));
        self.guarded.iter().fold(named, |marks, many| marks | many.domain.as_deref().map_or(EVERYBODY, mark))
    }

    fn new(conditions: &[IdentityCondition]) -> Self {
        let (mut addresses, mut domains, mut guarded) = (Vec::new(), Vec::new(), Vec::new());
        let mut anybody = false;
        for condition in conditions {
            match condition {
                IdentityCondition::One(address) => addresses.extend(fold_address(address)),
                IdentityCondition::Many { domain: None, except } if except.is_empty() => anybody = true,
                IdentityCondition::Many { domain: Some(domain), except } if except.is_empty() => {
                    domains.push(fold_domain(domain));
                }
                IdentityCondition::Many { domain, except } => guarded.push(Guarded {
                    domain: domain.as_deref().map(fold_domain),
                    except_addresses: except.iter().filter_map(Except::address).collect(),
                    except_domains: except.iter().filter_map(Except::domain).collect(),
                }),
            }
        }
        Self {
            anybody,
            addresses: addresses.into_iter().collect(),
            domains: domains.into_iter().collect(),
            guarded: guarded.into(),
        }
    }

    fn holds(&self, originator: &[&str]) -> bool {
        // Without an address nobody is authenticated, and `many` means authenticated originators.
        self.anybody && !originator.is_empty()
            || self.addresses.has_any(originator)
            || self.domains.has_any_domain(originator)
            || self.guarded.iter().any(|many| many.holds(originator))
    }
}

impl Guarded {
    fn holds(&self, originator: &[&str]) -> bool {
        let in_domain = match &self.domain {
            Some(domain) => originator.iter().any(|address| domain_of(address) == Some(domain)),
            None => !originator.is_empty(),
        };
        in_domain && !self.except_addresses.has_any(originator) && !self.except_domains.has_any_domain(originator)
    }
}

impl Except {
    fn address(&self) -> Option<Box<str>> {
        match self {
            Self::Id(address) => fold_address(address),
            Self::Domain(_) => None,
        }
    }

    fn domain(&self) -> Option<Box<str>> {
        match self {
            Self::Id(_) => None,
            Self::Domain(domain) => Some(fold_domain(domain)),
        }
    }
}

/// A set of canonical addresses or domains: the members of an external list, or the many `one`s of a rule.
#[derive(Clone, Default, PartialEq)]
pub struct MemberSet(Members);

#[derive(Clone, PartialEq)]
enum Members {
    /// Comparing few is cheaper than hashing.
    Few(Box<[Box<str>]>),
    Many(hashbrown::HashSet<Box<str>, foldhash::fast::RandomState>),
}

impl Default for Members {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl MemberSet {
    /// A set of addresses as written; what is no SIP or tel URI is left out.
    pub fn of_addresses<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Self {
        addresses.into_iter().filter_map(fold_address).collect()
    }

    /// True when the canonical text is a member.
    pub fn contains(&self, member: &str) -> bool {
        match &self.0 {
            Members::Few(members) => members.iter().any(|one| **one == *member),
            Members::Many(members) => members.contains(member),
        }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Members::Few(members) => members.len(),
            Members::Many(members) => members.len(),
        }
    }

    /// True when there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The members, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (few, many) = match &self.0 {
            Members::Few(members) => (Some(members.iter()), None),
            Members::Many(members) => (None, Some(members.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten()).map(|member| &**member)
    }

    fn has_any(&self, originator: &[&str]) -> bool {
        originator.iter().any(|address| self.contains(address))
    }

    fn has_any_domain(&self, originator: &[&str]) -> bool {
        !self.is_empty() && originator.iter().filter_map(|address| domain_of(address)).any(|name| self.contains(name))
    }
}

impl FromIterator<Box<str>> for MemberSet {
    /// Takes texts that are canonical already.
    fn from_iter<I: IntoIterator<Item = Box<str>>>(members: I) -> Self {
        let members: hashbrown::HashSet<_, foldhash::fast::RandomState> = members.into_iter().collect();
        if members.len() <= FEW_MAX {
            let mut few: Box<[Box<str>]> = members.into_iter().collect();
            few.sort_unstable();
            Self(Members::Few(few))
        } else {
            Self(Members::Many(members))
        }
    }
}

impl fmt::Debug for MemberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

fn any_list_has(lists: &[Arc<MemberSet>], originator: &[&str]) -> bool {
    lists.iter().any(|list| list.has_any(originator))
}

/// The host of a canonical SIP address.
fn domain_of(address: &str) -> Option<&str> {
    let rest = address.strip_prefix("sip:")?;
    let start = memchr::memrchr(b'@', rest.as_bytes()).map_or(0, |at| at + 1);
    rest.get(start..)
}

fn fold_address(address: &str) -> Option<Box<str>> {
    uri::canonical(address.trim().as_bytes()).map(|aor| aor.as_str().into())
}

/// A domain as it stands in canonical addresses; what is no domain stays as it is and matches nobody.
fn fold_domain(domain: &str) -> Box<str> {
    let domain = domain.trim();
    let folded = uri::canonical(format!("sip:{domain}").as_bytes());
    folded
        .as_ref()
        .and_then(|aor| domain_of(aor.as_str()))
        .map_or_else(|| domain.to_ascii_lowercase().into(), Into::into)
}

/// The feature tag of the CPM drafts: any CPM service.
const DRAFT_TAG: &str = "+g.oma.sip-cpm";

/// The ICSI that all CPM services extend (SPEC §2.7).
const CPM_ICSI: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm";

/// Sets up to this size are compared one by one.
const FEW_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_rules_rejects_nobody() {
        assert!(!AccessPolicy::default().rejects(&from(&[ALICE])));
        assert!(!policy(&[]).rejects(&from(&[ALICE])));
    }

    #[test]
    fn a_rule_without_conditions_applies_to_everybody() {
        assert!(policy(&[reject(vec![])]).rejects(&from(&[ALICE])));
        assert!(!policy(&[accept(vec![])]).rejects(&from(&[ALICE])));
    }

    #[test]
    fn identity_matches_by_address_domain_and_exception() {
        let one = |id: &str| vec![IdentityCondition::One(id.into())];
        let many = |domain: Option<&str>, except: Vec<Except>| {
            vec![IdentityCondition::Many { domain: domain.map(Into::into), except }]
        };
        let id = |id: &str| Except::Id(id.into());
        let domain = |domain: &str| Except::Domain(domain.into());
        let both = &["sip:bob@x.example", "tel:+15550100"][..];
        for (conditions, originator, expected) in [
            (one("SIP:alice@Home.Example:5060;transport=tcp"), &[ALICE][..], true),
            (one("sip:Alice@home.example"), &[ALICE], false),
            (one("tel:+1-555-0100"), both, true),
            (one("sip:+15550100@any.example;user=phone"), both, true),
            (one("sip:bob@x.example"), both, true),
            (one("not an address"), &[ALICE], false),
            (many(None, vec![]), &[ALICE], true),
            (many(None, vec![]), &["tel:+15550100"], true),
            (many(None, vec![]), &[], false),
            (many(Some("HOME.example."), vec![]), &[ALICE], true),
            (many(Some("example"), vec![]), &[ALICE], false),
            (many(Some("home.example"), vec![]), &["sip:a@b.example", ALICE], true),
            (many(Some("home.example"), vec![]), &["tel:+15550100"], false),
            (many(Some("home.example"), vec![]), &["sip:home.example"], true),
            (many(Some(""), vec![]), &[ALICE], false),
            (many(Some("[2001:DB8:0::1]"), vec![]), &["sip:a@[2001:db8::1]"], true),
            (many(Some("home.example"), vec![id("sip:alice@home.example")]), &[ALICE], false),
            (many(Some("home.example"), vec![id("sip:carol@home.example")]), &[ALICE], true),
            (many(None, vec![domain("home.example")]), &[ALICE], false),
            (many(None, vec![domain("other.example"), id("tel:+1")]), &[ALICE], true),
            (many(None, vec![id("tel:+1-555-0100")]), both, false),
            (many(None, vec![domain("x.example")]), &[], false),
            (vec![], &[ALICE], false),
            ([one("sip:x@y.example"), many(Some("home.example"), vec![])].concat(), &[ALICE], true),
        ] {
            let rules = [reject(vec![Condition::Identity(conditions)])];
            assert_eq!(policy(&rules).rejects(&from(originator)), expected, "{rules:?} {originator:?}");
        }
    }

    #[test]
    fn a_long_list_of_addresses_is_a_set() {
        let ones = (0..1000).map(|n| IdentityCondition::One(format!("sip:user{n}@x.example").into())).collect();
        let policy = policy(&[reject(vec![Condition::Identity(ones)])]);
        assert!(policy.rejects(&from(&["sip:user999@x.example"])));
        assert!(!policy.rejects(&from(&["sip:user1000@x.example"])));
    }

    #[test]
    fn services_match_as_the_table_says() {
        const TABLE: [(&str, &str, Media, bool); 31] = [
            ("+g.oma.sip-cpm", "+g.oma.sip-cpm", PAGER, true),
            ("+g.oma.sip-cpm", MSG, PAGER, true),
            ("+G.OMA.sip-cpm", SYSTEM, PAGER, true),
            ("+g.oma.sip-cpm", LARGE_MSG, LARGE, true),
            (CPM_ICSI, MSG, PAGER, true),
            (MSG, MSG, PAGER, true),
            (MSG, "+g.oma.sip-cpm", PAGER, true),
            (MSG, "x.provider.tag", PAGER, true),
            (MSG, "+g.oma.sip-cpm", LARGE, false),
            (MSG, LARGE_MSG, LARGE, false),
            (MSG, LARGE_MSG, PAGER, true),
            (MSG, DEFERRED, PAGER, true),
            (MSG, MSG_GROUP, PAGER, true),
            (MSG, SYSTEM, PAGER, false),
            (MSG, SESSION, PAGER, false),
            ("urn%3Aurn-7%3A3gpp-service.ims.icsi.OMA.cpm.msg", MSG, PAGER, true),
            ("+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\"", MSG, PAGER, true),
            ("+g.3gpp.icsi-ref=\"urn%3Ax,urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg\"", MSG, LARGE, true),
            (LARGE_MSG, LARGE_MSG, LARGE, true),
            (LARGE_MSG, "+g.oma.sip-cpm", LARGE, true),
            (LARGE_MSG, LARGE_MSG, PAGER, false),
            (LARGE_MSG, MSG, PAGER, false),
            (MSG_GROUP, MSG_GROUP, PAGER, true),
            (MSG_GROUP, MSG, PAGER, false),
            (MSG_GROUP, MSG_GROUP, LARGE, false),
            (SYSTEM, SYSTEM, PAGER, true),
            (SYSTEM, MSG, PAGER, false),
            (SESSION, "+g.oma.sip-cpm", PAGER, false),
            ("+g.poc.talkburst", MSG, PAGER, false),
            ("+g.poc.talkburst", "+g.oma.sip-cpm", PAGER, false),
            ("", MSG, PAGER, false),
        ];
        for (value, service, media, expected) in TABLE {
            let request = PolicyRequest { service, media, ..from(&[ALICE]) };
            let listed = Condition::Services(ServiceList::Listed(vec![value.into()]));
            assert_eq!(policy(&[reject(vec![listed])]).rejects(&request), expected, "{value} {service} {media:?}");
            let excepted = Condition::Services(ServiceList::AllExcept(vec![value.into()]));
            assert_eq!(policy(&[reject(vec![excepted])]).rejects(&request), !expected, "not {value} {service}");
        }
    }

    #[test]
    fn several_service_lists_must_all_hold() {
        let list = |values: &[&str]| {
            Condition::Services(ServiceList::Listed(values.iter().map(|&value| value.into()).collect()))
        };
        assert!(policy(&[reject(vec![list(&[SESSION, MSG]), list(&[DRAFT_TAG])])]).rejects(&from(&[ALICE])));
        assert!(!policy(&[reject(vec![list(&[SESSION, MSG]), list(&[SYSTEM])])]).rejects(&from(&[ALICE])));
        assert!(!policy(&[reject(vec![list(&[])])]).rejects(&from(&[ALICE])));
    }

    #[test]
    fn media_match_by_local_name() {
        for (names, pager, large) in [
            (&["pager-mode-message"][..], true, false),
            (&["large-message"], false, true),
            (&["large-message-mode-message"], false, true),
            (&["pager-mode-message", "large-message"], true, true),
            (&["message-session"], false, false),
            (&["video", "carrier-pigeon"], false, false),
            (&[], false, false),
        ] {
            let names: Vec<Box<str>> = names.iter().map(|&name| name.into()).collect();
            for (media, expected) in [(PAGER, pager), (LARGE, large)] {
                let request = PolicyRequest { media, ..from(&[ALICE]) };
                let listed = Condition::Media(MediaList::Listed(names.clone()));
                assert_eq!(policy(&[reject(vec![listed])]).rejects(&request), expected, "{names:?}");
                let excepted = Condition::Media(MediaList::AllExcept(names.clone()));
                assert_eq!(policy(&[reject(vec![excepted])]).rejects(&request), !expected, "all but {names:?}");
            }
        }
    }

    #[test]
    fn validity_holds_in_one_of_its_periods() {
        let period = |from, until| Period { from: UnixMillis(from), until: UnixMillis(until) };
        let policy = policy(&[reject(vec![Condition::Validity(vec![period(10, 20), period(30, 40)])])]);
        for (at, expected) in [(9, false), (10, true), (19, true), (20, false), (35, true), (40, false)] {
            assert_eq!(policy.rejects(&PolicyRequest { at: UnixMillis(at), ..from(&[ALICE]) }), expected, "{at}");
        }
    }

    #[test]
    fn spheres_and_unknown_conditions_keep_a_rule_from_applying() {
        assert!(!policy(&[reject(vec![Condition::Sphere])]).rejects(&from(&[ALICE])));
        assert!(!policy(&[reject(vec![Condition::Unknown, anybody()])]).rejects(&from(&[ALICE])));
    }

    #[test]
    fn anonymous_originators_match_anonymous_request_and_their_identity() {
        let anonymous = PolicyRequest { anonymous: true, ..from(&[ALICE]) };
        assert!(policy(&[reject(vec![Condition::AnonymousRequest])]).rejects(&anonymous));
        assert!(!policy(&[reject(vec![Condition::AnonymousRequest])]).rejects(&from(&[ALICE])));
        assert!(policy(&[reject(vec![one(ALICE)])]).rejects(&anonymous));
        assert!(policy(&[reject(vec![one(ALICE), Condition::AnonymousRequest])]).rejects(&anonymous));
    }

    #[test]
    fn rules_by_identity_outrank_external_lists_which_outrank_other_identity() {
        let others = || vec![Condition::OtherIdentity];
        for (rules, expected) in [
            (vec![reject(vec![list(&[ALICE])]), accept(vec![one(ALICE)])], false),
            (vec![accept(vec![one(ALICE)]), reject(vec![list(&[ALICE])])], false),
            (vec![accept(vec![list(&[ALICE])]), reject(vec![one(ALICE)])], true),
            (vec![reject(vec![one(ALICE)]), accept(vec![one(ALICE)])], true),
            (vec![accept(vec![one(ALICE)]), reject(vec![anybody()])], true),
            (vec![reject(vec![list(&[ALICE])]), accept(vec![list(&[ALICE])])], true),
            (vec![accept(others()), reject(vec![list(&[ALICE])])], true),
            (vec![reject(others())], true),
            (vec![reject(others()), accept(others())], true),
            (vec![reject(others()), accept(vec![one(ALICE)])], false),
            (vec![reject(others()), accept(vec![one("sip:carol@x.example")])], true),
            (vec![reject(others()), accept(vec![anybody()])], false),
            // A rule that does not apply still refers to the originator.
            (vec![reject(others()), accept(vec![one(ALICE), Condition::Sphere])], false),
            (vec![reject(others()), accept(vec![list(&[ALICE]), Condition::Unknown])], false),
            // Rules that say nothing of the originator are neither outranked nor outranking.
            (vec![accept(vec![one(ALICE)]), reject(vec![])], true),
            (vec![reject(others()), accept(vec![])], true),
            // A rule outranks only where it applies.
            (vec![reject(vec![list(&[ALICE])]), accept(vec![one(ALICE), Condition::AnonymousRequest])], false),
        ] {
            let anonymous = PolicyRequest { anonymous: true, ..from(&[ALICE]) };
            assert_eq!(policy(&rules).rejects(&anonymous), expected, "{rules:?}");
        }
        let rules = [reject(vec![list(&[ALICE])]), accept(vec![one(ALICE), Condition::AnonymousRequest])];
        assert!(policy(&rules).rejects(&from(&[ALICE])));
    }

    #[test]
    fn conditions_on_identity_and_list_must_both_hold() {
        let rule = |listed: &str| policy(&[reject(vec![one(ALICE), list(&[listed])])]);
        assert!(rule(ALICE).rejects(&from(&[ALICE])));
        assert!(!rule("sip:carol@x.example").rejects(&from(&[ALICE])));
    }

    #[test]
    fn member_sets_hold_canonical_addresses() {
        let set = MemberSet::of_addresses(["SIP:Bob@X.example;lr", "tel:+1-2", "nobody", "sip:Bob@x.example"]);
        assert_eq!(set.len(), 2);
        assert!(set.contains("sip:Bob@x.example") && set.contains("tel:+12"));
        let large: MemberSet = (0..100).map(|n| format!("tel:+{n}").into_boxed_str()).collect();
        assert_eq!(large.iter().count(), 100);
        assert!(large.contains("tel:+99") && !large.contains("tel:+100"));
    }

    const ALICE: &str = "sip:alice@home.example";
    const PAGER: Media = Media::PagerModeMessage;
    const LARGE: Media = Media::LargeMessage;
    const MSG: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg";
    const MSG_GROUP: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg.group";
    const LARGE_MSG: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg";
    const DEFERRED: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.deferred";
    const SYSTEM: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.systemmsg";
    const SESSION: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.session";

    fn from<'a>(originator: &'a [&'a str]) -> PolicyRequest<'a> {
        PolicyRequest { originator, anonymous: false, service: MSG, media: PAGER, at: UnixMillis(0) }
    }

    fn policy(rules: &[Rule]) -> AccessPolicy {
        AccessPolicy::new(rules)
    }

    fn reject(conditions: Vec<Condition>) -> Rule {
        Rule { conditions, rejects: true }
    }

    fn accept(conditions: Vec<Condition>) -> Rule {
        Rule { conditions, rejects: false }
    }

    fn one(id: &str) -> Condition {
        Condition::Identity(vec![IdentityCondition::One(id.into())])
    }

    fn anybody() -> Condition {
        Condition::Identity(vec![IdentityCondition::Many { domain: None, except: vec![] }])
    }

    fn list(members: &[&str]) -> Condition {
        Condition::ExternalList(vec![Arc::new(MemberSet::of_addresses(members.iter().copied()))])
    }
}
