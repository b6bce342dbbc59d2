//! Sessions through one of the programs, with both ends in the generator.

use crate::calls::{Calls, Event, Habits};
use crate::cli::{Common, Transport, Via};
use crate::media::{End, Exchange, Shape, Watch};
use crate::msrp;
use crate::peers::{Peer, Program};
use crate::setup::{Stage, move_to};
use crate::wire;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// A server under test and the sessions through it.
pub struct Rig {
    /// Both MSRP ends.
    pub exchange: Exchange,
    /// The server's process.
    pub watch: Watch,
    /// SIP, when the server is the appliance.
    pub sip: Option<Sip>,
    sender_at: SocketAddr,
    receivers_at: Vec<SocketAddr>,
    via: Via,
    peer: Option<Peer>,
}

/// The SIP half of sessions through the appliance.
pub struct Sip {
    /// Sockets and the process.
    pub stage: Stage,
    /// Dialogs.
    pub calls: Calls,
    habits: Habits,
}

/// Sessions to set up.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    /// How many.
    pub count: usize,
    /// At most so many at a time between INVITE and both connections bound.
    pub window: usize,
    /// Local addresses that connections leave from, in turn.
    pub sources: u8,
}

impl Rig {
    /// Starts the server and opens listeners. The caller has set the limit on descriptors.
    pub fn start(common: &Common, via: Via, shape: Shape, habits: Habits, sessions: usize) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut exchange = Exchange::new(shape).map_err(failed)?;
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let sender_at = exchange.listen(ip).map_err(failed)?;
        // The relay takes one connection for all sessions with one next hop: separate ports keep them apart, as
        // they are behind the other programs.
        let receiver_count = if via == Via::Kamailio { sessions.min(RECEIVER_PORTS_MAX) } else { 1 };
        let receivers_at =
            (0..receiver_count).map(|_| exchange.listen(ip).map_err(failed)).collect::<Result<Vec<_>, _>>()?;
        let (mut sip, mut peer, mut pid) = (None, None, None);
        match via {
            Via::Direct => move_to(common, Place::Generator),
            Via::Haproxy | Via::Kamailio => {
                let program = if via == Via::Haproxy { Program::Haproxy } else { Program::Kamailio };
                move_to(common, Place::Server);
                let started = Peer::start(program, receivers_at[0]);
                move_to(common, Place::Generator);
                let started = started?;
                pid = Some(started.pid());
                peer = Some(started);
            }
            Via::Ringpost => {
                let mut stage = Stage::new(common)?;
                pid = stage.server_pid;
                stage.register(habits.users, 64, SETUP_MAX, |_| Ok(0))?;
                let calls = Calls::new(habits, stage.places);
                sip = Some(Sip { stage, calls, habits });
            }
        }
        Ok(Self { exchange, watch: Watch::new(pid), sip, sender_at, receivers_at, via, peer })
    }

    /// Sets up sessions beside those that there are, up to the count, and binds both of their ends.
    pub fn establish(&mut self, sessions: &Sessions, longest: Duration) -> Result<Duration, String> {
        let started = Instant::now();
        if self.sip.is_some() {
            self.establish_by_sip(sessions, started + longest)?;
        } else {
            self.establish_by_path(sessions, longest)?;
        }
        Ok(started.elapsed())
    }

    /// Without SIP: paths are what the generator says, the first SEND of the sender binds.
    fn establish_by_path(&mut self, sessions: &Sessions, longest: Duration) -> Result<(), String> {
        let peer_at = self.peer.as_ref().map(|peer| peer.listen);
        for number in self.exchange.session_count()..sessions.count {
            let receiver_at = self.receivers_at[number % self.receivers_at.len()];
            let to = peer_at.unwrap_or(receiver_at);
            let (index, [sender, receiver]) = self.exchange.add_session(self.sender_at, receiver_at);
            if self.via == Via::Kamailio {
                let relay = format!("msrp://{to}/relay;tcp");
                self.exchange.set_sender_path(index, &format!("{relay} {receiver}"), &sender);
                // Its second URI is the relay's own, with a session part of the relay's choice.
            } else {
                self.exchange.set_sender_path(index, &receiver, &sender);
                self.exchange.expect_from_path(index, &sender);
            }
            let from = source(sessions, number);
            self.exchange.connect(End::Sender, index, to, from).map_err(|error| format!("{to}: {error}"))?;
            if (number + 1).is_multiple_of(sessions.window.max(1)) {
                self.exchange.wait_bound(2 * (number + 1), longest)?;
            }
        }
        self.exchange.wait_bound(2 * sessions.count, longest)
    }

    fn establish_by_sip(&mut self, sessions: &Sessions, deadline: Instant) -> Result<(), String> {
        let mut next = self.exchange.session_count();
        let mut offers: Vec<String> = vec![String::new(); sessions.count];
        let mut events = Vec::new();
        while self.exchange.bound_count() < 2 * sessions.count {
            if Instant::now() > deadline {
                return Err(format!(
                    "{} of {} ends were bound in time; {next} INVITEs sent",
                    self.exchange.bound_count(),
                    2 * sessions.count
                ));
            }
            while next < sessions.count && next - self.exchange.bound_count() / 2 < sessions.window {
                self.invite();
                next += 1;
            }
            let moved = self.turn(&mut events)?;
            for event in events.drain(..) {
                self.on_event(event, &mut offers, sessions)?;
            }
            if moved == 0 {
                self.wait()?;
            }
        }
        Ok(())
    }

    /// Sends the INVITE of one more session.
    pub fn invite(&mut self) -> usize {
        let receiver_at = self.receivers_at[0];
        let (index, uris) = self.exchange.add_session(self.sender_at, receiver_at);
        if let Some(sip) = &mut self.sip {
            let call = sip.calls.invite(&mut sip.stage, &uris, self.sender_at, Instant::now());
            debug_assert_eq!(call, index);
        }
        index
    }

    /// One look at everything; what went wrong ends the run.
    pub fn turn(&mut self, events: &mut Vec<Event>) -> Result<usize, String> {
        let mut moved = 0;
        if let Some(sip) = &mut self.sip {
            moved += sip.calls.turn(&mut sip.stage, events)?;
            if let Some(error) = sip.calls.error_text() {
                return Err(error);
            }
        }
        let before = self.exchange.bound_count();
        self.exchange.pump(Duration::ZERO).map_err(|error| error.to_string())?;
        if let Some(error) = self.exchange.error_text() {
            return Err(error);
        }
        Ok(moved + self.exchange.bound_count() - before)
    }

    /// Sleeps until something arrives anywhere.
    pub fn wait(&mut self) -> Result<(), String> {
        let Some(sip) = &self.sip else {
            return self.exchange.pump(Duration::from_millis(5)).map_err(|error| error.to_string());
        };
        let sides = [&sip.stage.sender, &sip.stage.core];
        let more = Some(self.exchange.descriptor());
        wire::wait_also(sides, more, Duration::from_millis(5)).map_err(|error| error.to_string())
    }

    /// Connects where it is the generator's turn.
    pub fn on_event(&mut self, event: Event, offers: &mut [String], sessions: &Sessions) -> Result<(), String> {
        let connect = |exchange: &mut Exchange, end: End, call: usize, path: &str| {
            let uri = path.split(' ').next().unwrap_or_default();
            let to = msrp::address(uri).ok_or_else(|| format!("no address in the path {path:?}"))?;
            exchange.connect(end, call, to, source(sessions, call)).map_err(|error| format!("{to}: {error}"))
        };
        match event {
            Event::Offered { call, path } => {
                self.exchange.expect_from_path(call, &path);
                offers[call] = path;
            }
            Event::Answered { call, path, setup } => {
                let own = self.exchange.sender_uri(call, self.sender_at);
                self.exchange.set_sender_path(call, &path, &own);
                if setup != "active" {
                    connect(&mut self.exchange, End::Sender, call, &path)?;
                }
            }
            Event::Confirmed { call } => {
                let habits = self.sip.as_ref().map(|sip| sip.habits);
                if habits.is_some_and(|habits| habits.answer_setup == "active") {
                    connect(&mut self.exchange, End::Receiver, call, &offers[call])?;
                }
            }
            Event::Released { .. } | Event::Ended { .. } => {}
        }
        Ok(())
    }

    /// Ends all sessions; over SIP both legs must be gone.
    pub fn release(&mut self, sessions: &Sessions, longest: Duration) -> Result<(), String> {
        self.exchange.retire();
        if self.sip.is_some() {
            self.end_calls(sessions, longest)?;
        }
        for index in 0..sessions.count {
            self.exchange.close(index);
        }
        Ok(())
    }

    fn end_calls(&mut self, sessions: &Sessions, longest: Duration) -> Result<(), String> {
        let deadline = Instant::now() + longest;
        let (mut next, mut ended, mut released) = (0, 0, 0);
        let mut events = Vec::new();
        while ended < sessions.count || released < sessions.count {
            if Instant::now() > deadline {
                return Err(format!("{ended} and {released} of {} legs ended in time", sessions.count));
            }
            if let Some(sip) = &mut self.sip {
                while next < sessions.count && next - ended.min(released) < sessions.window {
                    sip.calls.bye(&mut sip.stage, next, Instant::now());
                    next += 1;
                }
            }
            let moved = self.turn(&mut events)?;
            for event in events.drain(..) {
                match event {
                    Event::Ended { .. } => ended += 1,
                    Event::Released { .. } => released += 1,
                    _ => {}
                }
            }
            if moved == 0 {
                self.wait()?;
            }
        }
        Ok(())
    }
}

/// Where a thread belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first CPU.
    Server,
    /// The last one.
    Generator,
}

/// The habits of ends that speak no SIP or the usual one.
pub fn habits(offer_setup: Setup, answer_setup: Setup, users: u32) -> Habits {
    Habits { offer_setup: offer_setup.word(), answer_setup: answer_setup.word(), ringing: false, users }
}

/// A value of `a=setup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Setup {
    /// Connects.
    Active,
    /// Is connected to.
    Passive,
    /// Either.
    Actpass,
}

impl Setup {
    const fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
            Self::Actpass => "actpass",
        }
    }
}

/// The local address that a session's connections leave from: one has some 28,000 ports toward one listener.
fn source(sessions: &Sessions, number: usize) -> Option<IpAddr> {
    let last = 1 + u8::try_from(number % usize::from(sessions.sources.max(1))).unwrap_or(0);
    (sessions.sources > 1).then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)))
}

/// UDP when nothing else is asked for.
pub const fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    }
}

const SETUP_MAX: Duration = Duration::from_secs(300);
const RECEIVER_PORTS_MAX: usize = 256;
