//! The usual stage: the appliance, Alice who sends, the core behind which Bob's devices are.

use super::appliance::{Appliance, Config};
use super::documents::{BODY_MARK, Device, PROBE, pager, policy, third_party_register};
use super::endpoint::{Endpoint, Sent, Transport};
use super::message::{Received, Request};
use std::net::SocketAddr;

/// One of the ways in which every acceptance case must hold.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Between Alice, the appliance and the core.
    pub transport: Transport,
    /// Shards of the appliance.
    pub shards: u16,
}

/// Every acceptance case runs in all of these.
pub const VARIANTS: [Variant; 4] = [
    Variant { transport: Transport::Udp, shards: 1 },
    Variant { transport: Transport::Udp, shards: 2 },
    Variant { transport: Transport::Tcp, shards: 1 },
    Variant { transport: Transport::Tcp, shards: 2 },
];

/// Runs a case in all variants, saying which one failed.
pub fn in_all_variants(case: impl Fn(Variant)) {
    for variant in VARIANTS {
        println!("variant {variant:?}");
        case(variant);
    }
}

/// The stage.
pub struct World {
    /// The appliance.
    pub appliance: Appliance,
    /// The SIP/IP core: S-CSCF and devices.
    pub core: Endpoint,
    /// A sender.
    pub alice: Endpoint,
    /// How they talk.
    pub transport: Transport,
}

impl World {
    /// A stage with default settings.
    pub fn new(variant: Variant) -> Self {
        Self::with(variant, |config| config)
    }

    /// A stage with some settings changed.
    pub fn with(variant: Variant, change: impl FnOnce(Config) -> Config) -> Self {
        let core = Endpoint::new();
        let config = change(Config::new(&core.uri(variant.transport), variant.shards));
        let appliance = Appliance::start(config);
        Self { appliance, core, alice: Endpoint::new(), transport: variant.transport }
    }

    /// Over UDP with one shard, for rules that do not depend on either.
    pub fn udp() -> Self {
        Self::new(VARIANTS[0])
    }

    /// The appliance's SIP address.
    pub fn addr(&self) -> SocketAddr {
        self.appliance.addr()
    }

    /// The S-CSCF registers a user's devices, and the registration holds when this returns.
    pub fn register(&mut self, user: &str, devices: &[Device]) {
        let request = self.third_party_register(user, devices, 600_000);
        let response = self.core_exchange(&request);
        assert_eq!(response.status(), Some(200), "{response:?}");
    }

    /// The S-CSCF says that a user is gone.
    pub fn deregister(&mut self, user: &str) {
        let request = self.third_party_register(user, &[], 0).without("Content-Type");
        let response = self.core_exchange(&Request { body: Vec::new(), ..request });
        assert_eq!(response.status(), Some(200), "{response:?}");
    }

    /// A third-party REGISTER from this stage's S-CSCF.
    pub fn third_party_register(&self, user: &str, devices: &[Device], expires: u32) -> Request {
        let (pf, scscf) = (format!("sip:{}", self.addr()), self.core.uri(self.transport));
        third_party_register(&pf, &scscf, user, devices, expires)
    }

    /// The core sends a request and gets the final response. Requests that arrive meanwhile stay for the test.
    pub fn core_exchange(&mut self, request: &Request) -> Received {
        // A registration can set off a deferred delivery that overtakes the 200: another socket keeps them apart.
        let mut scscf = Endpoint::new();
        let sent = scscf.send(request, self.transport, self.appliance.addr());
        scscf.response(&sent)
    }

    /// Alice's request leaves.
    pub fn send(&mut self, request: &Request) -> Sent {
        let to = self.addr();
        self.alice.send(request, self.transport, to)
    }

    /// Alice's request leaves and its final response comes back.
    #[track_caller]
    pub fn exchange(&mut self, request: &Request) -> Received {
        let sent = self.send(request);
        self.alice.response(&sent)
    }

    /// Alice's message must reach the core, which answers 200, which must reach Alice.
    #[track_caller]
    pub fn assert_delivered(&mut self, request: &Request) -> Received {
        let sent = self.send(request);
        let forwarded = self.core.request("MESSAGE");
        assert_eq!(forwarded.call_id(), sent.call_id, "another message was forwarded:\n{forwarded:?}");
        self.core.answer(&forwarded, 200);
        let response = self.alice.response(&sent);
        assert_eq!(response.status(), Some(200), "{response:?}");
        forwarded
    }

    /// Alice's message must be refused with this status, and must not reach the core.
    #[track_caller]
    pub fn assert_refused(&mut self, request: &Request, status: u16) -> Received {
        let response = self.exchange(request);
        assert_eq!(response.status(), Some(status), "{response:?}");
        self.assert_nothing_forwarded();
        response
    }

    /// Proves that nothing has been forwarded so far: a message to another user must be the first that the core sees,
    /// and its answer the only thing that Alice gets.
    #[track_caller]
    pub fn assert_nothing_forwarded(&mut self) {
        // A document makes the user known, a registration reachable.
        self.register(PROBE, &[Device::new()]);
        let probe = pager(ALICE_THE_PROBER, PROBE);
        let sent = self.send(&probe);
        let forwarded = self.core.request("MESSAGE");
        assert_eq!(forwarded.call_id(), sent.call_id, "this must not have been forwarded:\n{forwarded:?}");
        self.core.answer(&forwarded, 200);
        let response = self.alice.response(&sent);
        assert_eq!(response.status(), Some(200), "{response:?}");
        self.core.assert_silent();
        self.alice.assert_silent();
    }

    /// Makes a user known who has no registration.
    pub fn know(&self, user: &str) {
        self.appliance.put_policy(user, &policy(&[]));
    }

    /// Kills the appliance without warning and starts it on the same store.
    pub fn crash_and_restart(&mut self) {
        self.appliance.kill9();
        self.appliance.restart();
        self.core.close_connections();
        self.alice.close_connections();
    }

    /// Asserts what must hold at the end of every test: nobody's words are in the log, and nothing panicked.
    fn check_log(&self) {
        let log = self.appliance.log();
        assert!(!log.contains(BODY_MARK), "a message body stands in the log");
        assert!(!log.contains("panicked at"), "something panicked:\n{log}");
    }
}

/// Nobody's policy names this sender.
const ALICE_THE_PROBER: &str = "sip:prober@probe.example";

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_log();
        }
    }
}

/// Asserts a 403 that carries a Warning with this text (SPEC G-5): clients re-register on a 403 without one.
#[track_caller]
pub fn assert_warning(response: &Received, text: &str) {
    assert_eq!(response.status(), Some(403), "{response:?}");
    let warning = response.must("Warning");
    let mut words = warning.splitn(3, ' ');
    assert_eq!(words.next(), Some("399"), "{warning}");
    assert!(words.next().is_some_and(|agent| !agent.is_empty()), "{warning}");
    assert_eq!(words.next(), Some(format!("\"{text}\"").as_str()), "{warning}");
}

/// What every final response of the appliance has (SPEC G-6).
#[track_caller]
pub fn assert_generated(response: &Received) {
    let to = response.must("To");
    assert!(to.contains(";tag="), "a To-tag in {to:?}");
    assert_eq!(response.must("Content-Length"), "0");
    let server = response.must("Server");
    assert!(server.starts_with("CPM-serv/OMA1.0 "), "Server {server:?}");
    assert!(response.header("Contact").is_none(), "no Contact in\n{response:?}");
    assert!(response.header("Record-Route").is_none(), "no Record-Route in\n{response:?}");
}
