//! Under full load, and then without warning: everything that was promised is there afterwards.
//!
//! A promise is an answer that the sender got. What had no answer may be there or not, and nothing comes twice or out of
//! a user's order but the one message that was in a device's hands.

use crate::support::appliance::{Appliance, Config};
use crate::support::documents::*;
use crate::support::eventually;
use crate::support::flood::{Core, Flood, Kind, Promises};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Users with a deferral in flight. All their answers together fit a receive buffer.
const DEFERRING: usize = 250;
/// Users with a request of another kind in flight, each kind.
const OTHERS: usize = 20;
/// More than any flood gets to.
const ENDLESS: u32 = 1_000_000;

#[test]
fn everything_acknowledged_under_load_survives_kill_nine() {
    let core = Core::start();
    let mut appliance = Appliance::start(quick(Config::new(&core.uri(), 2)));
    let mut promises = Promised::new();
    let mut register_recorders = Promises::new(OTHERS);
    for round in 0..2 {
        make_known(&appliance, &mut register_recorders);
        let load = Load::start(&appliance, promises);
        let target = random_between(200, 1500);
        println!("round {round}: killed after {target} deferrals");
        eventually("the deferrals of this round", || (load.deferring.answered() >= target).then_some(()));
        appliance.kill9();
        promises = load.stop();
        appliance.restart();
        promises.check_what_can_be_looked_up(&appliance);
    }
    let counts = [&promises.defer, &promises.store, &promises.record, &promises.register].map(Promises::count);
    println!("promised: deferred, stored, recorded, registered {counts:?}, documents {}", promises.document.0);
    assert!(counts.iter().all(|count| *count > OTHERS), "the kill came in the middle of everything: {counts:?}");
    assert!(core.taken_by(Kind::Defer, DEFERRING).iter().all(Vec::is_empty), "nobody was there to take them");

    let registered = register_deferring(&appliance, Promises::new(DEFERRING));
    registered.finish();
    queues_empty(&appliance);
    for (user, taken) in core.taken_by(Kind::Defer, DEFERRING).into_iter().enumerate() {
        assert!(taken.is_sorted_by(|one, next| one < next), "user {user}: in order and once each: {taken:?}");
        holds_promise(&promises.defer, user, &taken);
    }
}

#[test]
fn a_kill_in_the_middle_of_deliveries_loses_nothing_and_keeps_the_order() {
    const EACH: u32 = 8;
    let core = Core::start();
    let mut appliance = Appliance::start(quick(Config::new(&core.uri(), 2)));
    make_deferring_known(&appliance);
    let promises = Flood::start(Kind::Defer, appliance.addr(), Promises::new(DEFERRING), EACH).finish();
    let target = random_between(50, DEFERRING * EACH as usize / 2);
    println!("killed after {target} deliveries");
    let registering = register_deferring(&appliance, Promises::new(DEFERRING));
    eventually("deliveries", || (core.taken().len() >= target).then_some(()));
    appliance.kill9();
    let registered = registering.stop();
    let before = core.taken_by(Kind::Defer, DEFERRING);
    appliance.restart();
    // Whoever has been told that he is registered need not register again.
    register_deferring(&appliance, registered).finish();
    queues_empty(&appliance);
    for (user, taken) in core.taken_by(Kind::Defer, DEFERRING).into_iter().enumerate() {
        let after = &taken[before[user].len()..];
        let (last, next) = (before[user].last().copied(), after.first().copied());
        let repeats = last.is_some() && last == next;
        let mut once = taken.clone();
        if repeats {
            once.remove(before[user].len());
        }
        assert!(once.is_sorted_by(|one, next| one < next), "user {user}: {:?} then {after:?}", before[user]);
        holds_promise(&promises, user, &once);
    }
}

#[test]
fn sigterm_in_the_middle_of_deliveries_delivers_nothing_twice() {
    const EACH: u32 = 8;
    let core = Core::start();
    let mut appliance = Appliance::start(quick(Config::new(&core.uri(), 2)));
    make_deferring_known(&appliance);
    let promises = Flood::start(Kind::Defer, appliance.addr(), Promises::new(DEFERRING), EACH).finish();
    let target = random_between(50, DEFERRING * EACH as usize / 2);
    let registering = register_deferring(&appliance, Promises::new(DEFERRING));
    eventually("deliveries", || (core.taken().len() >= target).then_some(()));
    appliance.sigterm();
    assert_eq!(appliance.wait().code(), Some(0));
    let registered = registering.stop();
    println!("stopped after {} deliveries", core.taken().len());
    appliance.restart();
    register_deferring(&appliance, registered).finish();
    queues_empty(&appliance);
    for (user, taken) in core.taken_by(Kind::Defer, DEFERRING).into_iter().enumerate() {
        assert_eq!(taken, promises.answered[user], "user {user}");
    }
}

#[test]
fn sigterm_under_load_ends_soon_and_leaves_nobody_in_doubt() {
    let core = Core::start();
    let mut appliance = Appliance::start(quick(Config::new(&core.uri(), 2)));
    let mut register_recorders = Promises::new(OTHERS);
    make_known(&appliance, &mut register_recorders);
    let load = Load::start(&appliance, Promised::new());
    let target = random_between(200, 1500);
    eventually("the deferrals", || (load.deferring.answered() >= target).then_some(()));
    let started = Instant::now();
    appliance.sigterm();
    let status = appliance.wait();
    let took = started.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    let promises = load.stop();
    println!("stopped within {took:?} after {} deferrals", promises.defer.count());
    appliance.restart();
    promises.check_what_can_be_looked_up(&appliance);
    let deferred = appliance.metric("ringpost_store_deferred_messages", &[]);
    assert_eq!(
        deferred,
        promises.defer.count() as u64,
        "every message in a queue was answered, and the other way round"
    );
    register_deferring(&appliance, Promises::new(DEFERRING)).finish();
    queues_empty(&appliance);
    for (user, taken) in core.taken_by(Kind::Defer, DEFERRING).into_iter().enumerate() {
        assert_eq!(taken, promises.defer.answered[user], "user {user}");
    }
}

#[test]
fn sigterm_leaves_nobody_on_a_connection_in_doubt_who_keeps_sending() {
    use std::io::{Read, Write};
    let core = Core::start();
    let mut appliance = Appliance::start(quick(Config::new(&core.uri(), 2)));
    make_deferring_known(&appliance);
    let mut stream = std::net::TcpStream::connect(appliance.addr()).expect("the SIP port accepts");
    stream.set_read_timeout(Some(crate::support::DEADLINE)).expect("a read timeout");
    let mut writer = stream.try_clone().expect("a second handle");
    let writing = std::thread::spawn(move || {
        let messages = (0..).flat_map(|sequence| (0..DEFERRING).map(move |user| (user, sequence)));
        for (user, sequence) in messages {
            // Until the appliance has closed the connection.
            if writer.write_all(&Kind::Defer.on_a_stream(user, sequence)).is_err() {
                return;
            }
        }
    });
    let (mut answers, mut chunk) = (Vec::new(), vec![0; 65_536]);
    let mut terminated = false;
    loop {
        // After the end of the connection an error may follow the last bytes: both mean that all has been said.
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(len) => answers.extend_from_slice(&chunk[..len]),
        }
        if !terminated && answers.len() > 200_000 {
            terminated = true;
            appliance.sigterm();
        }
    }
    assert!(terminated);
    assert_eq!(appliance.wait().code(), Some(0));
    writing.join().expect("the writer only stops");
    let answers = String::from_utf8(answers).expect("answers are text");
    let promised = answers.matches("SIP/2.0 202 ").count();
    println!("{promised} promises, {} answers in all", answers.matches("SIP/2.0 2").count());
    appliance.restart();
    let deferred = appliance.metric("ringpost_store_deferred_messages", &[]);
    assert_eq!(deferred, promised as u64, "every message in a queue was answered, and the other way round");
}

/// Every kind of promise.
struct Promised {
    defer: Promises,
    store: Promises,
    record: Promises,
    register: Promises,
    /// The last version of a document that was answered, and the last that was sent.
    document: (u32, u32),
}

impl Promised {
    fn new() -> Self {
        let others = || Promises::new(OTHERS);
        let (store, record, register) = (others(), others(), others());
        Self { defer: Promises::new(DEFERRING), store, record, register, document: (0, 0) }
    }

    /// Message store, history, registrations and documents; the queues show when they are delivered.
    fn check_what_can_be_looked_up(&self, appliance: &Appliance) {
        for (kind, promises, shelf) in [(Kind::Store, &self.store, "messages"), (Kind::Record, &self.record, "history")]
        {
            for user in 0..OTHERS {
                let objects = appliance.admin(&kind.user(user), &format!("/{shelf}?limit=1000"));
                let kept: Vec<&str> = objects
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|object| object["imdn_message_id"].as_str().expect("an id"))
                    .collect();
                for sequence in &promises.answered[user] {
                    let id = kind.message_id(user, *sequence);
                    assert_eq!(kept.iter().filter(|kept| **kept == id).count(), 1, "{id} in the {shelf}: {kept:?}");
                }
                assert!(kept.len() as u32 <= promises.sent[user], "nothing that was not sent: {kept:?}");
            }
        }
        for user in 0..OTHERS {
            let devices = appliance.admin(&Kind::Register.user(user), "/devices");
            let Some(last) = self.register.answered[user].last() else { continue };
            let contact = devices[0]["contact"].as_str().unwrap_or_default().to_owned();
            let possible: Vec<String> =
                (*last..self.register.sent[user]).map(|sequence| Kind::Register.contact(user, sequence)).collect();
            assert!(possible.contains(&contact), "{contact:?} is none of {possible:?}");
        }
        let document = appliance.http("GET", DOCUMENT, &[], b"");
        assert_eq!(document.status, 200);
        let (answered, sent) = self.document;
        let found = (answered..=sent).any(|version| document.text() == policy_of(version));
        assert!(found, "version {answered} or {sent}, not {}", document.text());
    }
}

/// Requests of every kind at full speed.
struct Load {
    deferring: Flood,
    storing: Flood,
    recording: Flood,
    registering: Flood,
    documents: std::thread::JoinHandle<()>,
    document: Arc<(AtomicU32, AtomicU32)>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(appliance: &Appliance, promises: Promised) -> Self {
        let to = appliance.addr();
        let stop = Arc::new(AtomicBool::new(false));
        let document = Arc::new((AtomicU32::new(promises.document.0), AtomicU32::new(promises.document.1)));
        let documents = {
            let (stop, document, http) = (stop.clone(), document.clone(), appliance.http);
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let version = document.1.fetch_add(1, Ordering::SeqCst) + 1;
                    match try_put(http, DOCUMENT, &policy_of(version)) {
                        Some(status) => assert!(matches!(status, 200 | 201), "PUT: {status}"),
                        // The appliance is gone.
                        None => return,
                    }
                    document.0.store(version, Ordering::SeqCst);
                }
            })
        };
        Self {
            deferring: Flood::start(Kind::Defer, to, promises.defer, ENDLESS),
            storing: Flood::start(Kind::Store, to, promises.store, 400),
            recording: Flood::start(Kind::Record, to, promises.record, 400),
            registering: Flood::start(Kind::Register, to, promises.register, ENDLESS),
            documents,
            document,
            stop,
        }
    }

    fn stop(self) -> Promised {
        self.stop.store(true, Ordering::SeqCst);
        self.documents.join().expect("every PUT was answered as it should be");
        Promised {
            defer: self.deferring.stop(),
            store: self.storing.stop(),
            record: self.recording.stop(),
            register: self.registering.stop(),
            document: (self.document.0.load(Ordering::SeqCst), self.document.1.load(Ordering::SeqCst)),
        }
    }
}

const DOCUMENT: &str = "/xcap/org.openmobilealliance.access-rules/users/sip:documents@home.example/access-rules";

fn policy_of(version: u32) -> String {
    policy_blocking(&format!("sip:eve{version}@a.example"))
}

/// The status, or `None` when the server died before it had said one.
fn try_put(to: std::net::SocketAddr, path: &str, document: &str) -> Option<u16> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(crate::support::DEADLINE)).ok()?;
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/auth-policy+xml\r\n\
         Content-Length: {}\r\n\r\n{document}",
        document.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    std::str::from_utf8(&answer).ok()?.split(' ').nth(1)?.parse().ok()
}

/// Deliveries as fast as the core takes them, queues as long as the flood makes them.
fn quick(config: Config) -> Config {
    config.set("deferred.pace", "100000").set("deferred.per_user_count", "1000000").set("log.level", "\"info\"")
}

fn make_deferring_known(appliance: &Appliance) {
    for user in 0..DEFERRING {
        appliance.put_preferences(&Kind::Defer.user(user), &Preferences::handling("defer").document());
    }
}

/// Preferences for everybody; those whose messages are recorded are registered, too.
fn make_known(appliance: &Appliance, recorders: &mut Promises) {
    if recorders.count() > 0 {
        // Documents and registrations are still there after a crash.
        return;
    }
    make_deferring_known(appliance);
    for user in 0..OTHERS {
        appliance.put_preferences(&Kind::Store.user(user), &Preferences::handling("store").document());
        let recording = Preferences { recording: "active", ..Preferences::handling("defer") };
        appliance.put_preferences(&Kind::Record.user(user), &recording.document());
    }
    appliance.put_document(DOCUMENT, "application/auth-policy+xml", &policy_of(0));
    *recorders = register(appliance, Kind::Record, recorders.clone()).finish();
}

fn register_deferring(appliance: &Appliance, registered: Promises) -> Flood {
    register(appliance, Kind::Defer, registered)
}

/// Registers each user of a kind once.
fn register(appliance: &Appliance, kind: Kind, registered: Promises) -> Flood {
    Flood::start_registering(kind, appliance.addr(), registered)
}

fn queues_empty(appliance: &Appliance) {
    eventually("every queue is empty", || {
        (appliance.metric("ringpost_store_deferred_messages", &[]) == 0).then_some(())
    });
}

fn holds_promise(promises: &Promises, user: usize, found: &[u32]) {
    let answered = &promises.answered[user];
    let lost: Vec<u32> = answered.iter().filter(|sequence| !found.contains(sequence)).copied().collect();
    assert!(lost.is_empty(), "user {user}: {lost:?} of {answered:?} were promised, found {found:?}");
    assert!(found.iter().all(|sequence| *sequence < promises.sent[user]), "user {user}: {found:?}");
}

fn random_between(low: usize, high: usize) -> usize {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    low + now.subsec_nanos() as usize / 1_000 % (high - low)
}
