//! Access policy evaluation (PM-1a to PM-1d, SPEC §3), pure and without allocation.

use super::preferences::Media;
use crate::base::time::UnixMillis;

/// What an access policy is asked about.
#[derive(Clone, Copy, Debug)]
pub struct PolicyRequest<'a> {
    /// Canonical addresses of the authenticated originator: one P-Asserted-Identity may have a SIP and a tel URI.
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

/// A compiled access policy document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccessPolicy {}

impl AccessPolicy {
    /// True when a rule that applies to the request has `<allow-reject-invite>` true (PM-1d, OR of all rules).
    pub fn rejects(&self, _request: &PolicyRequest<'_>) -> bool {
        false
    }
}
