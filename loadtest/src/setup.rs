//! Before the measurement: sockets, CPUs, the appliance, registrations and documents.

use crate::appliance::{Setting, Spawned, Usage};
use crate::cli::{Common, Transport};
use crate::http::Client;
use crate::rig::Place;
use crate::template::{self, Places};
use crate::wire::{self, Side};
use core_affinity::CoreId;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Everything that a scenario plays with.
pub struct Stage {
    /// The generator as sender.
    pub sender: Side,
    /// The generator as core.
    pub core: Side,
    /// Where things are.
    pub places: Places,
    /// The appliance's HTTP port.
    pub http: Client,
    /// The appliance's process, when it is known.
    pub server_pid: Option<u32>,
    /// Kept alive for as long as the measurement runs.
    _spawned: Option<Spawned>,
}

/// Moves this thread, and what it starts from here on, to its CPU.
pub fn move_to(common: &Common, place: Place) {
    let cpus = cpus();
    if !common.no_pin && cpus.len() > 1 {
        core_affinity::set_for_current(if place == Place::Server { cpus[0] } else { cpus[cpus.len() - 1] });
    }
}

/// All CPUs of the process at its start: a thread that was moved sees only its own.
fn cpus() -> &'static [CoreId] {
    static CPUS: OnceLock<Vec<CoreId>> = OnceLock::new();
    CPUS.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default())
}

impl Stage {
    /// Opens sockets, starts the appliance when asked to, and moves the generator to its CPU.
    pub fn new(common: &Common) -> Result<Self, String> {
        let core_at = if common.spawn.is_some() { SocketAddr::new(common.core.ip(), 0) } else { common.core };
        let core = Side::listen(common.transport, core_at).map_err(|error| format!("--core {core_at}: {error}"))?;
        let mut spawned = None;
        if let Some(binary) = &common.spawn {
            let transport = if common.transport == Transport::Udp { "udp" } else { "tcp" };
            let next_hop = format!("sip:{};transport={transport}", core.addr());
            let ip = common.target.ip();
            let temporary = std::env::temp_dir();
            let data_dir = common.data_dir.as_deref().unwrap_or(&temporary);
            let pin = !common.no_pin && cpus().len() > 1;
            let setting = Setting { binary, data_dir, core: &next_hop, ip, shards: common.shards, pin };
            // A child starts on its parent's CPUs: one shard gets the first, with every helper thread of its process.
            if common.shards == 1 {
                move_to(common, Place::Server);
            }
            spawned = Some(Spawned::start(&setting)?);
        }
        move_to(common, Place::Generator);
        let target = spawned.as_ref().map_or(common.target, |spawned| spawned.sip);
        let http = spawned.as_ref().map_or(common.http, |spawned| spawned.http);
        let sender = Side::connect(common.transport, target, common.connections)
            .map_err(|error| format!("--target {target}: {error}"))?;
        let places = Places { sender: sender.addr(), core: core.addr(), target, transport: common.transport };
        let server_pid = spawned.as_ref().map(Spawned::pid).or(common.server_pid);
        Ok(Self { sender, core, places, http: Client::new(http), server_pid, _spawned: spawned })
    }

    /// What the appliance has used so far.
    pub fn usage(&self) -> Usage {
        self.server_pid.and_then(Usage::of).unwrap_or_default()
    }

    /// Where the store of a started appliance is, for the record.
    pub fn print_store(common: &Common) {
        if common.spawn.is_some() {
            let temporary = std::env::temp_dir();
            println!("store below {}", common.data_dir.as_deref().unwrap_or(&temporary).display());
        }
    }

    /// Registers users, a window at a time. What arrives at the core meanwhile goes to `at_core`.
    pub fn register(
        &mut self,
        users: u32,
        window: u32,
        longest: Duration,
        mut at_core: impl FnMut(&mut Side) -> std::io::Result<usize>,
    ) -> Result<Duration, String> {
        let mut template = template::register(&self.places)?;
        let started = Instant::now();
        let mut waiting: Vec<(u32, Instant)> = Vec::new();
        let (mut next, mut done) = (0, 0);
        let mut refused = None;
        while done < users {
            if started.elapsed() > longest {
                return Err(format!("{done} of {users} users registered within {longest:?}"));
            }
            let now = Instant::now();
            while next < users && (waiting.len() as u32) < window {
                self.send_register(&mut template, next);
                waiting.push((next, now));
                next += 1;
            }
            // A lost datagram is sent again, as a UAC does.
            for (user, sent) in &mut waiting {
                if now - *sent > RETRY_AFTER && matches!(self.sender, Side::Udp(_)) {
                    *sent = now;
                    let peer = self.sender.peer_for(u64::from(*user), self.places.target);
                    let bytes = template.patch(REGISTER_NUMBERS + u64::from(*user), *user, 0);
                    self.sender.queue(bytes, peer);
                }
            }
            self.sender.flush().map_err(|error| error.to_string())?;
            let mut moved = self
                .sender
                .receive(|message, _| {
                    let Some(number) = template::number(message) else { return };
                    let Some(user) = number.checked_sub(REGISTER_NUMBERS) else { return };
                    if let Some(at) = waiting.iter().position(|(waiting, _)| u64::from(*waiting) == user) {
                        match template::status(message) {
                            Some(200) => {
                                waiting.swap_remove(at);
                                done += 1;
                            }
                            status => refused = Some(status),
                        }
                    }
                })
                .map_err(|error| error.to_string())?;
            if let Some(status) = refused {
                return Err(format!("REGISTER was answered {status:?}"));
            }
            moved += at_core(&mut self.core).map_err(|error| error.to_string())?;
            if moved == 0 {
                wire::wait([&self.sender, &self.core], Duration::from_millis(5)).map_err(|error| error.to_string())?;
            }
        }
        Ok(started.elapsed())
    }

    fn send_register(&mut self, template: &mut template::Template, user: u32) {
        let peer = self.sender.peer_for(u64::from(user), self.places.target);
        self.sender.queue(template.patch(REGISTER_NUMBERS + u64::from(user), user, 0), peer);
    }

    /// Gives every user an access policy of this many rules, none of which rejects the sender.
    pub fn put_policies(&mut self, users: u32, rules: u32) -> Result<(), String> {
        let rules: String = (0..rules).map(rule).collect();
        let document = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\" \
             xmlns:oxe=\"urn:oma:xml:xdm:extensions\">{rules}</cr:ruleset>"
        );
        for user in 0..users {
            let user = template::user_uri(user);
            let path = format!("/xcap/org.openmobilealliance.access-rules/users/{user}/access-rules");
            self.http.put(&path, "application/auth-policy+xml", &document)?;
        }
        Ok(())
    }

    /// Makes every user known, with deferral as preference.
    pub fn put_preferences(&mut self, users: u32) -> Result<(), String> {
        let document = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <cpm-preferences xmlns=\"urn:cpm-pf:xml:user-preferences:1.0\" active=\"a\"><profile id=\"a\">\
             <availability>available</availability><when-unavailable><handling>defer</handling></when-unavailable>\
             </profile></cpm-preferences>";
        for user in 0..users {
            let path = format!("/xcap/cpm-pf-user-preferences/users/{}/index", template::user_uri(user));
            self.http.put(&path, "application/vnd.cpm-pf.user-preferences+xml", document)?;
        }
        Ok(())
    }
}

/// A rule that is evaluated to its end for the generator's sender and does not apply.
fn rule(index: u32) -> String {
    let identity = match index % 3 {
        0 => format!("<cr:one id=\"sip:stranger{index}@elsewhere.example\"/>"),
        1 => format!("<cr:many domain=\"d{index}.example\"/>"),
        _ => format!("<cr:one id=\"tel:+1555{index:07}\"/>"),
    };
    format!(
        "<cr:rule id=\"r{index}\"><cr:conditions><cr:identity>{identity}</cr:identity>\
         <oxe:service-list><oxe:service featuretag=\"+g.oma.sip-cpm\"/></oxe:service-list>\
         <oxe:media-list><oxe:pager-mode-message/></oxe:media-list></cr:conditions>\
         <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions></cr:rule>"
    )
}

/// Numbers of REGISTER requests start here, those of messages at zero.
const REGISTER_NUMBERS: u64 = 1 << 60;
const RETRY_AFTER: Duration = Duration::from_millis(1000);
