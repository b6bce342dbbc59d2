//! From what is written to what is meant: defaults, ranges, words, addresses, and what must fit together.

use super::error::{ConfigError, Document};
use super::peer::{self, LookUp, Surroundings, parse_peer};
use super::ports::Claim;
use super::raw::{self, Key, OneOrMany, Raw, Scalar};
use super::values::{
    Config, Deferred, Http, Large, Log, LogLevel, Msrp, Policy, Preferences, Shards, Sip, Store, Xdms, cpu_count,
};
use crate::base::limits::{FORK_COUNT_MAX, SHARD_COUNT_MAX, SIP_MESSAGE_LEN_MAX};
use crate::msrp::settings::{Acknowledgement, PathMode};
use crate::participating::preferences::Handling;
use crate::participating::settings::{Expired, InterworkingFailure, Oversize, Peer, UnknownUser, UserAgentVersion};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

type Result<T> = std::result::Result<T, ConfigError>;
type Place = Option<Range<usize>>;

/// Reads and checks a whole configuration.
pub(super) fn validate(document: &Document<'_>, look_up: &LookUp) -> Result<Config> {
    let raw: Raw = toml::from_str(document.text).map_err(|error| document.translate(&error))?;
    let check = Check { document };
    let shards = check.shards(&raw.shards)?;
    let sip = check.sip(&raw.sip, look_up)?;
    let http = check.http(&raw.http)?;
    let msrp = check.msrp(&raw.msrp)?;
    let claims = check.claims(&raw, &sip, shards, &http, &msrp)?;
    check.peers_are_others(&raw.sip, &sip, &claims)?;
    Ok(Config {
        sip,
        shards,
        policy: check.policy(&raw.policy)?,
        deferred: check.deferred(&raw.deferred)?,
        preferences: check.preferences(&raw.preferences)?,
        store: check.store(&raw.store)?,
        http,
        log: Log { level: check.word("log.level", &raw.log.level, LOG_LEVELS)? },
        msrp,
        large: check.large(&raw.large)?,
        xdms: check.xdms(&raw.xdms)?,
    })
}

struct Check<'a> {
    document: &'a Document<'a>,
}

/// The two keys that say where one protocol is listened for.
struct Listening<'a> {
    listen_key: &'static str,
    listen: &'a Key<OneOrMany>,
    default: &'static str,
    advertise_key: &'static str,
    advertise: &'a Key<OneOrMany>,
}

/// Sections.
impl Check<'_> {
    fn sip(&self, raw: &raw::Sip, look_up: &LookUp) -> Result<Sip> {
        let sip = Listening {
            listen_key: "sip.listen",
            listen: &raw.listen,
            default: "127.0.0.1:5060",
            advertise_key: "sip.advertise",
            advertise: &raw.advertise,
        };
        let listen = self.listen(&sip)?;
        let hosts = self.hosts(raw)?;
        let around = Surroundings { hosts: &hosts, listen: &listen, look_up };
        let core = match &raw.core {
            Some(text) => self.peer("sip.core", text, &around)?,
            None => {
                // The default core is on loopback, whatever family is listened on.
                let text = if listen.iter().any(SocketAddr::is_ipv4) { DEFAULT_CORE } else { DEFAULT_CORE_IPV6 };
                parse_peer(text, &around).map_err(|problem| self.fault("sip.core", None, &problem))?
            }
        };
        Ok(Sip {
            host: self.host(&raw.host)?,
            shard_port: self.number("sip.shard_port", &raw.shard_port, 5080, 0..=65_535)? as u16,
            advertise: self.advertise(&sip, &listen)?,
            core,
            isf: raw.isf.as_ref().map(|text| self.peer("sip.isf", text, &around)).transpose()?,
            isf_failure: self.word("sip.isf_failure", &raw.isf_failure, ISF_FAILURES)?,
            trusted: self.texts("sip.trusted", &raw.trusted, DEFAULT_TRUSTED, network)?,
            require_route: truth(&raw.require_route, false),
            path_mtu: self.number("sip.path_mtu", &raw.path_mtu, 1_500, 576..=65_536)? as usize,
            identity_from_header: truth(&raw.identity_from_header, false),
            listen,
            hosts,
        })
    }

    fn listen(&self, keys: &Listening<'_>) -> Result<Vec<SocketAddr>> {
        let key = keys.listen_key;
        let listen = self.texts(key, keys.listen, &[keys.default], address)?;
        let place = place_of(keys.listen);
        if listen.is_empty() {
            return Err(self.fault(key, place, "is empty (at least one address)"));
        }
        if listen.len() > LISTENER_COUNT_MAX {
            return Err(self.fault(key, place, &format!("has too many entries (at most {LISTENER_COUNT_MAX})")));
        }
        if let Some(addr) = listen.iter().find(|addr| addr.ip().is_multicast()) {
            return Err(self.fault(key, place, &format!("{addr} is multicast (an address of this host)")));
        }
        Ok(listen)
    }

    fn advertise(&self, keys: &Listening<'_>, listen: &[SocketAddr]) -> Result<Vec<IpAddr>> {
        let key = keys.advertise_key;
        let place = place_of(keys.advertise);
        let advertise = self.texts(key, keys.advertise, &[], |text| {
            text.parse::<IpAddr>().map_err(|_| format!("{} is not an IP address (without a port)", shown(text)))
        })?;
        if advertise.is_empty() {
            if let Some(addr) = listen.iter().find(|addr| addr.ip().is_unspecified()) {
                let problem = format!("{addr} tells peers no address to answer to (set {key})");
                return Err(self.fault(keys.listen_key, place_of(keys.listen), &problem));
            }
            return Ok(listen.iter().map(SocketAddr::ip).collect());
        }
        if advertise.len() != listen.len() {
            let (count, wanted) = (advertise.len(), listen.len());
            let problem = format!("has {count} entries for {wanted} of {} (one for each)", keys.listen_key);
            return Err(self.fault(key, place, &problem));
        }
        for (ip, addr) in advertise.iter().zip(listen) {
            if ip.is_unspecified() || ip.is_multicast() || ip.is_ipv4() != addr.is_ipv4() {
                let problem = format!("{ip} cannot stand for {addr} (an address of the same family that peers reach)");
                return Err(self.fault(key, place, &problem));
            }
        }
        Ok(advertise)
    }

    fn host(&self, raw: &Key<String>) -> Result<Box<str>> {
        self.text("sip.host", raw, "localhost", |text| match peer::is_host(text) {
            true => Ok(text.to_ascii_lowercase().into()),
            false => Err(format!("{} is no host (a domain name or an IP address, without a port)", shown(text))),
        })
    }

    fn hosts(&self, raw: &raw::Sip) -> Result<Vec<(Box<str>, SocketAddr)>> {
        let Some(table) = &raw.hosts else { return Ok(Vec::new()) };
        let mut hosts: Vec<(Box<str>, SocketAddr)> = Vec::new();
        for (name, value) in table.get_ref() {
            let key = format!("sip.hosts.{}", shown(name.get_ref()));
            let name_text = name.get_ref().to_ascii_lowercase();
            if !peer::is_host(&name_text) {
                return Err(self.fault(&key, Some(name.span()), "the name is no host (a domain name)"));
            }
            if hosts.iter().any(|(known, _)| **known == *name_text) {
                return Err(self.fault(
                    &key,
                    Some(name.span()),
                    "the name is there twice (upper and lower case are one)",
                ));
            }
            let text = value.get_ref();
            let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, peer::SIP_PORT));
            let addr =
                bare.or_else(|_| address(text)).map_err(|problem| self.fault(&key, Some(value.span()), &problem))?;
            if addr.ip().is_unspecified() || addr.port() == 0 {
                let problem = format!("{addr} is nowhere to send to (a host's address and a port from 1 to 65535)");
                return Err(self.fault(&key, Some(value.span()), &problem));
            }
            hosts.push((name_text.into(), addr));
        }
        Ok(hosts)
    }

    fn peer(&self, key: &str, text: &Spanned<String>, around: &Surroundings<'_>) -> Result<Peer> {
        parse_peer(text.get_ref(), around).map_err(|problem| self.fault(key, Some(text.span()), &problem))
    }

    fn shards(&self, raw: &raw::Shards) -> Result<Shards> {
        let count = self.number("shards.count", &raw.count, 0, 0..=SHARD_COUNT_MAX as i64)? as u16;
        Ok(Shards { count: NonZeroU16::new(count), pin: truth(&raw.pin, true) })
    }

    fn policy(&self, raw: &raw::Policy) -> Result<Policy> {
        let body_range = 1..=SIP_MESSAGE_LEN_MAX as i64;
        let accept_types = self.texts("policy.accept_types", &raw.accept_types, DEFAULT_ACCEPT_TYPES, media_type)?;
        if accept_types.is_empty() {
            return Err(self.fault("policy.accept_types", place_of(&raw.accept_types), "is empty (at least one type)"));
        }
        let cpm_tags = self.texts("policy.cpm_tags", &raw.cpm_tags, DEFAULT_CPM_TAGS, cpm_tag)?;
        if cpm_tags.is_empty() {
            return Err(self.fault("policy.cpm_tags", place_of(&raw.cpm_tags), "is empty (at least one tag)"));
        }
        Ok(Policy {
            accept_types,
            pager_body_len_max: match &raw.pager_max_body {
                None => None,
                some => Some(self.number("policy.pager_max_body", some, 1, body_range)? as usize),
            },
            oversize: self.word("policy.oversize", &raw.oversize, OVERSIZES)?,
            expired: self.word("policy.expired", &raw.expired, EXPIREDS)?,
            cpm_tags,
            ua_min: match &raw.ua_min {
                None => None,
                Some(text) => Some(version(&text.get_ref().0).ok_or_else(|| {
                    let problem = format!("{} is no version (such as \"OMA2.1\")", shown(&text.get_ref().0));
                    self.fault("policy.ua_min", Some(text.span()), &problem)
                })?),
            },
            ua_absent_allowed: self.word("policy.ua_absent", &raw.ua_absent, &[("allow", true), ("reject", false)])?,
            anonymous_allowed: truth(&raw.allow_anonymous, true),
        })
    }

    fn deferred(&self, raw: &raw::Deferred) -> Result<Deferred> {
        let mut defer_on = Vec::new();
        for status in raw.defer_on.iter().flat_map(|list| list.get_ref()) {
            let number = *status.get_ref();
            if !(400..=699).contains(&number) {
                let problem = format!("{number} is no final error response (400 to 699)");
                return Err(self.fault("deferred.defer_on", Some(status.span()), &problem));
            }
            if !defer_on.contains(&(number as u16)) {
                defer_on.push(number as u16);
            }
        }
        let year = 366 * 24 * 3600;
        let max_age = self.number("deferred.max_age", &raw.max_age, 604_800, 1..=year)?;
        let count = self.number("deferred.per_user_count", &raw.per_user_count, 1_000, 1..=1_000_000)?;
        let bytes = self.number("deferred.per_user_bytes", &raw.per_user_bytes, 50 << 20, 1..=1 << 40)?;
        let pace = self.number("deferred.pace", &raw.pace, 500, 1..=1_000_000)?;
        Ok(Deferred {
            defer_on,
            age_max: Duration::from_secs(max_age as u64),
            per_user_count: count as u32,
            per_user_bytes: bytes as u64,
            pace: pace as u32,
        })
    }

    fn preferences(&self, raw: &raw::Preferences) -> Result<Preferences> {
        let devices = self.number("preferences.devices_max", &raw.devices_max, 10, 1..=FORK_COUNT_MAX as i64)?;
        Ok(Preferences {
            default: self.word("preferences.default", &raw.default, HANDLINGS)?,
            unknown_user: self.word("preferences.unknown_user", &raw.unknown_user, UNKNOWN_USERS)?,
            device_count_max: devices as usize,
        })
    }

    fn store(&self, raw: &raw::Store) -> Result<Store> {
        let data_dir = self.text("store.data_dir", &raw.data_dir, "./data", folder)?;
        let content_dir = match &raw.content_dir {
            Some(_) => self.text("store.content_dir", &raw.content_dir, "", folder)?,
            None => data_dir.join("content"),
        };
        let range = 1_024..=CONTENT_THRESHOLD_MAX;
        let threshold = self.number("store.content_threshold", &raw.content_threshold, 65_536, range)?;
        Ok(Store { data_dir, content_dir, content_threshold: threshold as usize })
    }

    fn http(&self, raw: &raw::Http) -> Result<Http> {
        Ok(Http {
            listen: self.text("http.listen", &raw.listen, "127.0.0.1:9080", address)?,
            xcap_root: self.text("http.xcap_root", &raw.xcap_root, "/xcap", xcap_root)?,
        })
    }

    fn msrp(&self, raw: &raw::Msrp) -> Result<Msrp> {
        let keys = Listening {
            listen_key: "msrp.listen",
            listen: &raw.listen,
            default: "127.0.0.1:2855",
            advertise_key: "msrp.advertise",
            advertise: &raw.advertise,
        };
        let listen = self.listen(&keys)?;
        Ok(Msrp {
            advertise: self.advertise(&keys, &listen)?,
            listen,
            ack: self.word("msrp.ack", &raw.ack, MSRP_ACKS)?,
            path_mode: self.word("msrp.path_mode", &raw.path_mode, PATH_MODES)?,
        })
    }

    fn large(&self, raw: &raw::Large) -> Result<Large> {
        let size = self.number("large.max_size", &raw.max_size, 10 << 20, 1..=1 << 40)?;
        // Below three minutes a paged client would be cut off (SPEC §4.6); the upper bound is RFC 3261's timer C scale.
        let timeout = self.number("large.invite_timeout", &raw.invite_timeout, 180, 1..=3_600)?;
        Ok(Large { size_max: size as u64, invite_timeout: Duration::from_secs(timeout as u64) })
    }

    fn xdms(&self, raw: &raw::Xdms) -> Result<Xdms> {
        let root = match &raw.root {
            None => None,
            Some(_) => Some(self.text("xdms.root", &raw.root, "", http_url)?),
        };
        let ttl = self.number("xdms.cache_ttl", &raw.cache_ttl, 300, 1..=86_400)?;
        let timeout = self.number("xdms.timeout", &raw.timeout, 200, 1..=60_000)?;
        Ok(Xdms { root, cache_ttl: Duration::from_secs(ttl as u64), timeout: Duration::from_millis(timeout as u64) })
    }
}

/// What must fit together.
impl Check<'_> {
    /// Every port the appliance will bind; an error when two keys want the same one.
    fn claims(&self, raw: &Raw, sip: &Sip, shards: Shards, http: &Http, msrp: &Msrp) -> Result<Vec<Claim>> {
        let shard_count = shards.count.map_or_else(cpu_count, NonZeroU16::get);
        let one = |key, place: Place, addr: SocketAddr, count, role| Claim {
            key,
            place,
            ip: addr.ip(),
            first: addr.port(),
            count,
            role,
        };
        let mut claims: Vec<Claim> = Vec::new();
        for addr in &sip.listen {
            claims.push(one("sip.listen", place_of(&raw.sip.listen), *addr, 1, "SIP"));
        }
        for addr in &sip.listen {
            let own = SocketAddr::new(addr.ip(), sip.shard_port);
            claims.push(one(
                "sip.shard_port",
                place_of(&raw.sip.shard_port),
                own,
                shard_count,
                "the shards' own ports",
            ));
        }
        claims.push(one("http.listen", place_of(&raw.http.listen), http.listen, 1, "HTTP"));
        for addr in &msrp.listen {
            claims.push(one("msrp.listen", place_of(&raw.msrp.listen), *addr, shard_count, "MSRP"));
        }
        for (index, claim) in claims.iter().enumerate() {
            if claim.overflows() {
                let problem = format!("{} + {shard_count} shards pass port 65535 (a lower port, or 0)", claim.first);
                return Err(self.fault(claim.key, claim.place.clone(), &problem));
            }
            for earlier in &claims[..index] {
                if let Some(port) = claim.clash(earlier) {
                    return Err(self.clash(claim, earlier, port));
                }
            }
        }
        Ok(claims)
    }

    fn clash(&self, claim: &Claim, earlier: &Claim, port: u16) -> ConfigError {
        // Blame a key that is in the file, the later one if both are.
        let (blamed, other) = if claim.place.is_none() { (earlier, claim) } else { (claim, earlier) };
        let addr = SocketAddr::new(claim.ip, port);
        let problem = if blamed.key == other.key {
            match blamed.key {
                "sip.shard_port" => {
                    format!("{addr} is wanted twice: sip.listen has this IP in two entries (0, or one entry per IP)")
                }
                "msrp.listen" => {
                    format!("{addr} is wanted twice: each entry takes a port for every shard (ports apart)")
                }
                _ => format!("{addr} is there twice (different addresses)"),
            }
        } else {
            format!("{addr} for {} is wanted by {} for {} too (different ports)", blamed.role, other.key, other.role)
        };
        self.fault(blamed.key, blamed.place.clone(), &problem)
    }

    /// A next hop that is the appliance itself would loop every message.
    fn peers_are_others(&self, raw: &raw::Sip, sip: &Sip, claims: &[Claim]) -> Result<()> {
        let isf = sip.isf.as_ref().map(|peer| ("sip.isf", place_of(&raw.isf), peer));
        for (key, place, peer) in [("sip.core", place_of(&raw.core), &sip.core)].into_iter().chain(isf) {
            if let Some(claim) = claims.iter().find(|claim| claim.covers(peer.hop.addr)) {
                let problem = format!("{} is this appliance's own, by {} (another address)", peer.hop.addr, claim.key);
                return Err(match place {
                    Some(_) => self.fault(key, place, &problem),
                    None => self.fault(key, claim.place.clone(), &problem),
                });
            }
        }
        Ok(())
    }
}

/// Values.
impl Check<'_> {
    fn fault(&self, key: &str, place: Place, problem: &str) -> ConfigError {
        self.document.fault(key, place, problem)
    }

    fn number(&self, key: &str, raw: &Key<i64>, default: i64, range: RangeInclusive<i64>) -> Result<i64> {
        debug_assert!(range.contains(&default), "{key}: the default is in range");
        let Some(written) = raw else { return Ok(default) };
        let number = *written.get_ref();
        if range.contains(&number) {
            return Ok(number);
        }
        let problem = format!("{number} is out of range ({} to {})", range.start(), range.end());
        Err(self.fault(key, Some(written.span()), &problem))
    }

    /// One of a fixed set of words; the first is the default.
    fn word<T: Copy>(&self, key: &str, raw: &Key<Scalar>, words: &[(&str, T)]) -> Result<T> {
        let Some(written) = raw else { return Ok(words[0].1) };
        let text = &written.get_ref().0;
        words.iter().find(|(word, _)| word == text).map(|(_, value)| *value).ok_or_else(|| {
            let allowed: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let problem = format!("{} is not known ({})", shown(text), allowed.join(", "));
            self.fault(key, Some(written.span()), &problem)
        })
    }

    fn text<T>(
        &self,
        key: &str,
        raw: &Key<String>,
        default: &str,
        read: impl Fn(&str) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let text = raw.as_ref().map_or(default, |written| written.get_ref());
        read(text).map_err(|problem| self.fault(key, place_of(raw), &problem))
    }

    fn texts<T>(
        &self,
        key: &str,
        raw: &Key<OneOrMany>,
        default: &[&str],
        read: impl Fn(&str) -> std::result::Result<T, String>,
    ) -> Result<Vec<T>> {
        let place = place_of(raw);
        let written: Vec<(&str, Place)> = match raw.as_ref().map(Spanned::get_ref) {
            None => default.iter().map(|text| (*text, None)).collect(),
            Some(OneOrMany::One(text)) => vec![(text.as_str(), place)],
            Some(OneOrMany::Many(list)) => {
                list.iter().map(|text| (text.get_ref().as_str(), Some(text.span()))).collect()
            }
        };
        written
            .into_iter()
            .map(|(text, place)| read(text).map_err(|problem| self.fault(key, place, &problem)))
            .collect()
    }
}

fn place_of<T>(key: &Key<T>) -> Place {
    key.as_ref().map(Spanned::span)
}

fn truth(key: &Key<bool>, default: bool) -> bool {
    key.as_ref().map_or(default, |written| *written.get_ref())
}

/// A text as an error shows it: quoted, control characters escaped, not longer than a line.
fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{} is not an address (ip:port, such as 127.0.0.1:5060 or [::1]:5060)", shown(text)))
}

fn network(text: &str) -> std::result::Result<IpNet, String> {
    let single = text.parse::<IpAddr>().map(IpNet::from);
    single.or_else(|_| text.parse::<IpNet>()).map(|network| network.trunc()).map_err(|_| {
        format!("{} is not a network (ip/prefix, such as 10.0.0.0/8 or 2001:db8::/32, or an IP)", shown(text))
    })
}

fn media_type(text: &str) -> std::result::Result<Box<str>, String> {
    let is_token = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%_+`'~".contains(&byte))
    };
    match text.split_once('/') {
        Some(("*", "*")) => Ok("*/*".into()),
        Some((kind, "*")) if is_token(kind) => Ok(text.to_ascii_lowercase().into()),
        Some((kind, subtype)) if is_token(kind) && is_token(subtype) => Ok(text.to_ascii_lowercase().into()),
        _ => Err(format!("{} is not a media type (type/subtype, type/* or */*, no parameters)", shown(text))),
    }
}

fn cpm_tag(text: &str) -> std::result::Result<Box<str>, String> {
    // Feature tags carry service identifiers percent-encoded (SPEC §2.7); the cores compare the plain form.
    let plain = percent_decode_str(text).decode_utf8().map(|plain| plain.to_ascii_lowercase());
    let usable = |tag: &str| {
        let rest = tag.strip_suffix('*').unwrap_or(tag);
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"*\"<>,;".contains(&byte))
    };
    match plain {
        Ok(tag) if usable(&tag) => Ok(tag.into()),
        _ => Err(format!(
            "{} is no feature tag or service identifier (such as \"+g.oma.sip-cpm\"; * only last)",
            shown(text)
        )),
    }
}

fn version(text: &str) -> Option<UserAgentVersion> {
    let digits = text.strip_prefix("OMA").unwrap_or(text);
    let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
    Some(UserAgentVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

fn folder(text: &str) -> std::result::Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{} is no folder (a path)", shown(text)));
    }
    let path = Path::new(text);
    if path.exists() && !path.is_dir() {
        return Err(format!("{} is a file (a folder, which is made if it does not exist)", shown(text)));
    }
    Ok(path.to_owned())
}

fn xcap_root(text: &str) -> std::result::Result<Box<str>, String> {
    let root = text.strip_suffix('/').unwrap_or(text);
    let segments_ok = root.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        })
    });
    if !segments_ok {
        return Err(format!("{} is no path (such as \"/xcap\")", shown(text)));
    }
    let first = root.split('/').nth(1).unwrap_or_default();
    if RESERVED_PATHS.contains(&first) {
        return Err(format!("{} is taken (not below /{})", shown(text), RESERVED_PATHS.join(", /")));
    }
    Ok(root.into())
}

fn http_url(text: &str) -> std::result::Result<Box<str>, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.split('/').next().unwrap_or_default());
    let host = authority.map(|authority| match authority.find(']') {
        Some(bracket) => authority.split_at(bracket + 1),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    });
    let port_ok =
        |port: &str| port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    match host {
        Some((host, port))
            if peer::is_host(host) && port_ok(port) && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(text.trim_end_matches('/').into())
        }
        _ => Err(format!("{} is no URL (such as \"http://xdms.example/services\")", shown(text))),
    }
}

const DEFAULT_CORE: &str = "127.0.0.1:5070";
const DEFAULT_CORE_IPV6: &str = "[::1]:5070";
const DEFAULT_TRUSTED: &[&str] = &["127.0.0.0/8", "::1/128"];
/// The types of SPEC §2.7, and the containers they travel in.
const DEFAULT_ACCEPT_TYPES: &[&str] = &[
    "message/cpim",
    "text/plain",
    "message/imdn+xml",
    "application/im-iscomposing+xml",
    "application/vnd.gsma.rcs-ft-http+xml",
    "application/vnd.oma.cpm-groupdata+xml",
    "application/vnd.oma.cpm-eventfw+xml",
    "multipart/mixed",
    "multipart/related",
    "multipart/alternative",
];
/// The draft tag, every CPM service identifier, and the combined capability of SPEC §2.7.
const DEFAULT_CPM_TAGS: &[&str] =
    &["+g.oma.sip-cpm", "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.*", "+g.gsma.rcs.cpm.pager-large"];
const LISTENER_COUNT_MAX: usize = 16;
/// Larger rows would make a group commit slow for everyone who shares it.
const CONTENT_THRESHOLD_MAX: i64 = 16 << 20;
const RESERVED_PATHS: &[&str] = &["admin", "metrics", "healthz"];

const ISF_FAILURES: &[(&str, InterworkingFailure)] =
    &[("relay", InterworkingFailure::Relay), ("defer", InterworkingFailure::Defer)];
const OVERSIZES: &[(&str, Oversize)] = &[
    ("415", Oversize::UnsupportedMediaType),
    ("413", Oversize::RequestEntityTooLarge),
    ("403-133", Oversize::SizeExceeded),
];
const EXPIREDS: &[(&str, Expired)] =
    &[("202-discard", Expired::AcceptAndDiscard), ("410", Expired::Gone), ("480", Expired::TemporarilyUnavailable)];
const HANDLINGS: &[(&str, Handling)] = &[
    ("defer", Handling::Defer),
    ("reject", Handling::Reject),
    ("store", Handling::Store),
    ("interwork", Handling::Interwork),
];
const UNKNOWN_USERS: &[(&str, UnknownUser)] = &[("404", UnknownUser::NotFound), ("serve", UnknownUser::Serve)];
const LOG_LEVELS: &[(&str, LogLevel)] =
    &[("info", LogLevel::Info), ("error", LogLevel::Error), ("warn", LogLevel::Warn), ("debug", LogLevel::Debug)];
const MSRP_ACKS: &[(&str, Acknowledgement)] =
    &[("end-to-end", Acknowledgement::EndToEnd), ("hop-by-hop", Acknowledgement::HopByHop)];
const PATH_MODES: &[(&str, PathMode)] = &[("prepend", PathMode::Prepend), ("replace", PathMode::Replace)];
