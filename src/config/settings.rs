//! From the configuration to what a shard's core reads.

use super::values::Config;
use crate::msrp::settings::RelaySettings;
use crate::participating::settings::{Listener, Settings};
use crate::participating::storage::Quota;
use std::net::SocketAddr;

/// What a shard's settings need that only binding the sockets tells.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The shard's addresses, one for each entry of `sip.listen`.
    pub listeners: Vec<Listener>,
    /// The shard's MSRP addresses as peers reach them, one for each entry of `msrp.listen`.
    pub msrp: Vec<SocketAddr>,
    /// Every address of every shard.
    pub own_addresses: Vec<SocketAddr>,
    /// How many shards there are.
    pub shard_count: u16,
    /// The secret that all shards share.
    pub steering_seed: u64,
}

impl Config {
    /// The settings of one shard.
    ///
    /// The pace of deferred messages is divided among the shards; each gets at least one message per second.
    pub fn settings(&self, placement: Placement) -> Settings {
        let Placement { listeners, msrp, own_addresses, shard_count, steering_seed } = placement;
        assert!(shard_count > 0, "an appliance has at least one shard");
        assert_eq!(listeners.len(), self.sip.listen.len(), "one listener for each entry of sip.listen");
        Settings {
            host: self.sip.host.clone(),
            listeners,
            own_addresses,
            shard_count,
            steering_seed,
            core: self.sip.core.clone(),
            isf: self.sip.isf.clone(),
            trusted: self.sip.trusted.clone(),
            require_route: self.sip.require_route,
            path_mtu: self.sip.path_mtu,
            identity_from_header: self.sip.identity_from_header,
            isf_failure: self.sip.isf_failure,
            hosts: self.sip.hosts.clone(),
            accept_types: self.policy.accept_types.clone(),
            pager_body_len_max: self.policy.pager_body_len_max,
            oversize: self.policy.oversize,
            expired: self.policy.expired,
            cpm_tags: self.policy.cpm_tags.clone(),
            defer_on: self.deferred.defer_on.clone(),
            deferred_age_max: self.deferred.age_max,
            deferred_quota: Quota { count: self.deferred.per_user_count, bytes: self.deferred.per_user_bytes },
            deferred_pace: (self.deferred.pace / u32::from(shard_count)).max(1),
            device_count_max: self.preferences.device_count_max,
            default_handling: self.preferences.default,
            unknown_user: self.preferences.unknown_user,
            ua_min: self.policy.ua_min,
            ua_absent_allowed: self.policy.ua_absent_allowed,
            anonymous_allowed: self.policy.anonymous_allowed,
            large_size_max: self.large.size_max,
            invite_timeout: self.large.invite_timeout,
            msrp: RelaySettings { listeners: msrp, acknowledgement: self.msrp.ack, path_mode: self.msrp.path_mode },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(shard_count: u16) -> Placement {
        let address = "127.0.0.1:5060".parse().unwrap();
        let listeners = vec![Listener { well_known: address, own: address }];
        let msrp = vec!["127.0.0.1:2855".parse().unwrap()];
        Placement { listeners, msrp, own_addresses: vec![address], shard_count, steering_seed: 0 }
    }

    #[test]
    fn the_pace_of_deferred_messages_is_divided_among_the_shards() {
        let config = Config::parse("test", "[deferred]\npace = 500").unwrap();
        assert_eq!(config.settings(placement(4)).deferred_pace, 125);
    }

    #[test]
    fn a_pace_below_the_number_of_shards_still_moves_every_shard() {
        let config = Config::parse("test", "[deferred]\npace = 3").unwrap();
        assert_eq!(config.settings(placement(8)).deferred_pace, 1);
    }

    #[test]
    fn settings_take_over_what_is_configured() {
        let config = Config::parse(
            "test",
            "[sip]\nhost = \"PF.example\"\nisf = \"127.0.0.1:5090\"\n[deferred]\nper_user_count = 7\n\
             [sip.hosts]\n\"SCSCF.example\" = \"127.0.0.9:5061\"",
        )
        .unwrap();
        let settings = config.settings(placement(1));
        assert_eq!(&*settings.host, "pf.example");
        assert_eq!(settings.deferred_quota.count, 7);
        assert_eq!(&*settings.isf.unwrap().uri, "sip:127.0.0.1:5090;lr");
        assert_eq!(settings.hosts, [("scscf.example".into(), "127.0.0.9:5061".parse().unwrap())]);
    }
}
