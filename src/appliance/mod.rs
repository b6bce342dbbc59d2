//! The whole appliance: store, control plane, HTTP and shards, started and stopped in order.

use crate::config::Config;
use std::fmt;
use std::net::SocketAddr;

/// A running appliance.
pub struct Appliance(std::convert::Infallible);

/// Why the appliance did not start, in one line.
#[derive(Debug)]
pub struct StartError(&'static str);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for StartError {}

impl Appliance {
    /// Starts everything; returns once everything listens.
    pub fn start(_config: &Config) -> Result<Self, StartError> {
        Err(StartError("not linked yet"))
    }

    /// The addresses SIP is taken on, in the order of `sip.listen`, with real ports.
    pub fn sip_addresses(&self) -> Vec<SocketAddr> {
        match self.0 {}
    }

    /// The address HTTP is taken on.
    pub fn http_address(&self) -> SocketAddr {
        match self.0 {}
    }

    /// How many shards run.
    pub fn shard_count(&self) -> u16 {
        match self.0 {}
    }

    /// Stops in order.
    pub fn stop(self) {
        match self.0 {}
    }
}
