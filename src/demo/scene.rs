//! The stage: the appliance, everyone around it, and the moves that steps are made of. Every move is drawn.

use super::appliance::Running;
use super::documents::{BOB, Letter, Names, Preferences, Registration, configuration, register};
use super::endpoint::{Arrival, Endpoint, INTERRUPTED, PATIENCE, TICK, Transport};
use super::http::{self, Answer, Body};
use super::ladder::{Column, Ladder};
use super::message::{entries, response_to, status, telling, title, value};
use super::sip_core::Devices;
use rsip::{Method, SipMessage};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{IsTerminal, Stdout};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tempfile::TempDir;

/// Everything the demo has.
pub struct Scene {
    /// Where moves are drawn.
    pub ladder: Ladder<Stdout>,
    /// Source of names.
    pub names: Names,
    /// Alice, and other senders.
    pub sender: Endpoint,
    /// The SIP/IP core.
    pub core: Endpoint,
    /// The interworking selection function.
    pub isf: Endpoint,
    /// Bob's devices behind the core.
    pub devices: Devices,
    appliance: Option<Running>,
    /// Decisions of appliances that were killed.
    past_decisions: BTreeMap<String, u64>,
    config: PathBuf,
    log: PathBuf,
    /// Dropped last: the appliance writes into it.
    folder: TempDir,
}

impl Scene {
    /// Everyone but the appliance.
    pub fn set() -> Result<Self, String> {
        let words = |what: &'static str| move |cause: std::io::Error| format!("{what}: {cause}");
        let folder = tempfile::Builder::new().prefix("ringpost-demo-").tempdir().map_err(words("temporary folder"))?;
        let bind = |name| Endpoint::bind(name).map_err(words("loopback socket"));
        let (sender, core, isf) = (bind("alice")?, bind("the core")?, bind("the ISF")?);
        let config = folder.path().join("ringpost.toml");
        let text = configuration(core.address(), isf.address(), &folder.path().join("data"));
        std::fs::write(&config, text).map_err(words("configuration"))?;
        Ok(Self {
            ladder: Ladder::new(std::io::stdout(), std::io::stdout().is_terminal()),
            names: Names::new()?,
            sender,
            core,
            isf,
            devices: Devices::new(),
            appliance: None,
            past_decisions: BTreeMap::new(),
            config,
            log: folder.path().join("ringpost.log"),
            folder,
        })
    }

    /// Starts the appliance, the first time or again.
    pub fn start_appliance(&mut self) -> Result<(), String> {
        let running = Running::start(&self.config, &self.log)?;
        self.note(format_args!("process {}: {}", running.id(), running.ready))?;
        self.appliance = Some(running);
        Ok(())
    }

    /// Kills the appliance without warning.
    pub fn kill_appliance(&mut self) -> Result<(), String> {
        self.past_decisions = self.decisions()?;
        let running = self.appliance.take().ok_or("no appliance runs")?;
        self.note(format_args!("kill -9 {}", running.id()))?;
        running.kill_hard()
    }

    /// The folder of configuration, store and log.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// An error when no appliance runs.
    pub fn check_appliance(&mut self) -> Result<(), String> {
        self.appliance.as_mut().ok_or_else(|| "no appliance runs".to_owned())?.check_alive()
    }

    /// Where the appliance takes SIP.
    pub fn sip(&self) -> Result<SocketAddr, String> {
        self.appliance.as_ref().map(|running| running.sip).ok_or_else(|| "no appliance runs".to_owned())
    }

    fn http_address(&self) -> Result<SocketAddr, String> {
        self.appliance.as_ref().map(|running| running.http).ok_or_else(|| "no appliance runs".to_owned())
    }

    /// Draws a note.
    pub fn note(&mut self, text: impl Display) -> Result<(), String> {
        self.ladder.note(&text.to_string()).map_err(no_output)
    }

    /// Draws an arrow.
    pub fn draw(&mut self, from: Column, to: Column, label: &str, details: &[String]) -> Result<(), String> {
        self.ladder.arrow(from, to, label, details).map_err(no_output)
    }
}

/// SIP moves.
impl Scene {
    /// Someone sends bob a message.
    pub fn send(&mut self, letter: &Letter, transport: Transport) -> Result<SipMessage, String> {
        let request = letter.request(self.sender.address(), &transport.to_string(), &mut self.names)?;
        self.send_request(request, transport)
    }

    /// Someone sends bob a message that is built already.
    pub fn send_request(&mut self, request: SipMessage, transport: Transport) -> Result<SipMessage, String> {
        let label = format!("{} ({transport})", title(&request));
        let shown = ["Route", "P-Asserted-Identity", "Call-ID", "Content-Type"];
        self.draw(Column::Sender, Column::Ringpost, &label, &telling(&request, &shown))?;
        let to = self.sip()?;
        self.sender.send(&request, to, transport)?;
        Ok(request)
    }

    /// The sender waits for the final response, which must have this status.
    pub fn sender_gets(&mut self, request: &SipMessage, expected: u16) -> Result<SipMessage, String> {
        let response = self.sender.expect_final(request)?;
        let shown = telling(&response, &["Warning", "Accept"]);
        self.draw(Column::Ringpost, Column::Sender, &title(&response), &shown)?;
        expect(status(&response) == expected, || format!("{} instead of {expected}", title(&response)))?;
        let vias = entries(&response, "Via").len();
        expect(vias == 1, || format!("the response has {vias} Via entries, one is the sender's"))?;
        Ok(response)
    }

    /// The core waits for a forwarded message.
    pub fn core_gets_message(&mut self) -> Result<Arrival, String> {
        let arrival = self.core.expect_request(Method::Message)?;
        let label = format!("{} ({})", title(&arrival.message), arrival.transport());
        let mut shown = telling(&arrival.message, &["Route", "P-Asserted-Identity", "Call-ID", "Date"]);
        for value in entries(&arrival.message, "Accept-Contact") {
            if value.contains("+sip.instance") {
                shown.push(format!("Accept-Contact: {value}"));
            }
        }
        self.draw(Column::Ringpost, Column::Core, &label, &shown)?;
        Ok(arrival)
    }

    /// The core waits for a request of a session.
    pub fn core_gets(&mut self, method: Method) -> Result<Arrival, String> {
        let arrival = self.core.expect_request(method)?;
        let label = format!("{} ({})", title(&arrival.message), arrival.transport());
        let shown = telling(&arrival.message, &["P-Asserted-Identity", "Call-ID"]);
        self.draw(Column::Ringpost, Column::Core, &label, &shown)?;
        Ok(arrival)
    }

    /// The core forks a message to bob's devices and answers with the best of their answers.
    pub fn core_delivers(&mut self, arrival: &Arrival) -> Result<Vec<&'static str>, String> {
        let fork = self.devices.fork(&arrival.message);
        let to = if fork.devices.is_empty() { "no device".to_owned() } else { fork.devices.join(", ") };
        self.note(format_args!("the core forks it to: {to}; best answer {}", fork.status))?;
        let response = response_to(&arrival.message, fork.status, &self.names.hex());
        self.core.answer(arrival, &response)?;
        self.draw(Column::Core, Column::Ringpost, &title(&response), &[])?;
        Ok(fork.devices)
    }

    /// The interworking selection function takes a message with 202.
    pub fn isf_takes_message(&mut self) -> Result<Arrival, String> {
        let arrival = self.isf.expect_request(Method::Message)?;
        let shown = telling(&arrival.message, &["Route", "P-Asserted-Identity", "Accept-Contact"]);
        self.draw(Column::Ringpost, Column::Core, &format!("{} (to the ISF)", title(&arrival.message)), &shown)?;
        let response = response_to(&arrival.message, 202, &self.names.hex());
        self.isf.answer(&arrival, &response)?;
        self.draw(Column::Core, Column::Ringpost, &title(&response), &[])?;
        Ok(arrival)
    }

    /// The core tells the appliance of a registration, and gets 200.
    pub fn register(&mut self, user: &str, what: &Registration) -> Result<(), String> {
        let request = register(user, what, self.core.address(), self.sip()?, &mut self.names)?;
        let shown = telling(&request, &["To", "Expires", "Content-Type"]);
        let whose = match what {
            Registration::Device(device) | Registration::DeviceAmongParts(device) => device.name,
            Registration::Nobody => "de-registration",
        };
        self.draw(Column::Core, Column::Ringpost, &format!("REGISTER ({whose})"), &shown)?;
        let to = self.sip()?;
        self.core.send(&request, to, Transport::Udp)?;
        let response = self.core.expect_final(&request)?;
        self.draw(Column::Ringpost, Column::Core, &format!("{} (REGISTER)", title(&response)), &[])?;
        expect(status(&response) == 200, || format!("{} to REGISTER instead of 200", title(&response)))
    }

    /// Proves that a message was not forwarded: no decision to deliver was counted, and nothing is at the core or ISF.
    pub fn nothing_was_forwarded(&mut self, decisions_before: &BTreeMap<String, u64>) -> Result<(), String> {
        let now = self.decisions()?;
        for kind in ["deliver", "interwork"] {
            let (before, after) = (decisions_before.get(kind).copied(), now.get(kind).copied());
            expect(before == after, || format!("decisions to {kind}: {before:?} before, {after:?} after"))?;
        }
        self.core.expect_nothing()?;
        self.isf.expect_nothing()
    }
}

/// HTTP moves.
impl Scene {
    /// One HTTP exchange, which must have this status.
    pub fn http(&mut self, method: &str, path: &str, body: Option<Body<'_>>, expected: u16) -> Result<Answer, String> {
        let answer = http::ask(self.http_address()?, method, path, body)?;
        let sent = match body {
            Some(("text/plain", text)) => format!(" {}", String::from_utf8_lossy(text)),
            _ => String::new(),
        };
        self.note(format_args!("{method} {path}{sent}: {}", answer.status))?;
        expect(answer.status == expected, || {
            format!("{method} {path}: {} instead of {expected}: {}", answer.status, answer.text())
        })?;
        Ok(answer)
    }

    /// Bob's preference document is PUT.
    pub fn put_preferences(&mut self, preferences: &Preferences, expected: u16) -> Result<(), String> {
        let document = preferences.document();
        let body = ("application/vnd.cpm-pf.user-preferences+xml", document.as_bytes());
        let path = format!("/xcap/cpm-pf-user-preferences/users/{BOB}/index");
        self.http("PUT", &path, Some(body), expected).map(drop)
    }

    /// One part of what the admin API knows of a user, not drawn.
    pub fn admin(&self, user: &str, part: &str) -> Result<Value, String> {
        let path = format!("/admin/users/{user}{part}");
        let answer = http::ask(self.http_address()?, "GET", &path, None)?;
        expect(answer.status == 200, || format!("GET {path}: {}: {}", answer.status, answer.text()))?;
        answer.json()
    }

    /// A list of the admin API, not drawn.
    pub fn admin_list(&self, user: &str, part: &str) -> Result<Vec<Value>, String> {
        match self.admin(user, part)? {
            Value::Array(items) => Ok(items),
            other => Err(format!("/admin/users/{user}{part}: no list: {other}")),
        }
    }

    /// Waits until a list of the admin API is as wanted.
    pub fn wait_for_list(
        &self,
        user: &str,
        part: &str,
        what: &str,
        is_wanted: impl Fn(&[Value]) -> bool,
    ) -> Result<Vec<Value>, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list = self.admin_list(user, part)?;
            if is_wanted(&list) {
                return Ok(list);
            }
            if INTERRUPTED.load(Ordering::Relaxed) || Instant::now() >= deadline {
                return Err(format!("{what} did not come: {part} is {}", Value::from(list)));
            }
            // Polling, with a deadline: HTTP has no way to tell.
            std::thread::sleep(TICK);
        }
    }

    /// Pager mode decisions of the running appliance, by kind.
    pub fn decisions(&self) -> Result<BTreeMap<String, u64>, String> {
        let answer = http::ask(self.http_address()?, "GET", "/metrics", None)?;
        expect(answer.status == 200, || format!("GET /metrics: {}", answer.status))?;
        Ok(read_decisions(&answer.text()))
    }

    /// Pager mode decisions of all appliances of this demo, as the metrics page names them.
    pub fn all_decisions(&self) -> Vec<(String, u64)> {
        let mut all = self.past_decisions.clone();
        for (kind, count) in self.decisions().unwrap_or_default() {
            *all.entry(kind).or_default() += count;
        }
        all.into_iter().map(|(kind, count)| (format!("{DECISIONS}{{kind=\"{kind}\"}}"), count)).collect()
    }
}

/// An error unless something holds.
pub fn expect(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}

/// An error unless a header came through as it was sent.
pub fn expect_same(sent: &SipMessage, got: &SipMessage, names: &[&str]) -> Result<(), String> {
    for name in names {
        let (sent, got) = (value(sent, name), value(got, name));
        expect(sent == got, || format!("{name} was {sent:?} and is {got:?}"))?;
    }
    Ok(())
}

fn read_decisions(page: &str) -> BTreeMap<String, u64> {
    let mut decisions = BTreeMap::new();
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(DECISIONS) else { continue };
        let kind = rest.split_once("kind=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(kind, _)| kind);
        // Counters may be written as decimals.
        let count = rest.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        if let (Some(kind), Some(count)) = (kind, count) {
            *decisions.entry(kind.to_owned()).or_default() += count as u64;
        }
    }
    decisions
}

fn no_output(cause: std::io::Error) -> String {
    format!("stdout: {cause}")
}

const DECISIONS: &str = "ringpost_pager_decisions_total";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_of_all_shards_are_added_up() {
        let page = "# HELP ringpost_pager_decisions_total what became of messages\n\
            ringpost_pager_decisions_total{kind=\"deliver\",shard=\"0\"} 2\n\
            ringpost_pager_decisions_total{shard=\"1\",kind=\"deliver\"} 3\n\
            ringpost_pager_decisions_total{kind=\"defer\"} 1.0\n\
            ringpost_udp_datagrams_total{direction=\"in\"} 9\n";
        let decisions = read_decisions(page);
        assert_eq!(decisions, BTreeMap::from([("deliver".to_owned(), 5), ("defer".to_owned(), 1)]));
    }
}
