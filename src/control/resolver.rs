//! Names of next hops to addresses, off the SIP path.

use crate::base::time::UnixMillis;
use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore, oneshot};
use tracing::debug;

/// How a name is looked up; blocks. The system's resolver, or a table in tests.
pub type LookUp = Arc<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

/// A cache over a blocking resolver. Askers for one name share one look-up.
///
/// Each look-up has a thread of its own, at most [`LOOK_UP_COUNT_MAX`] at a time: the resolver of the C library can
/// neither be cancelled nor waited for at shutdown, and a detached thread needs neither.
pub struct Resolver {
    look_up: LookUp,
    slots: Mutex<HashMap<Box<str>, Slot, RandomState>>,
    permits: Arc<Semaphore>,
}

#[derive(Clone)]
struct Slot {
    addrs: Arc<OnceCell<Vec<IpAddr>>>,
    asked: UnixMillis,
}

impl Slot {
    fn is_fresh(&self, now: UnixMillis) -> bool {
        let ttl = match self.addrs.get() {
            None => TTL_UNANSWERED,
            Some(addrs) if addrs.is_empty() => TTL_NEGATIVE,
            Some(_) => TTL,
        };
        // A clock that was set back must not keep an answer forever.
        now.0.abs_diff(self.asked.0) < ttl.as_millis() as u64
    }
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(Arc::new(|host| {
            // The port is not part of the question.
            (host, 0).to_socket_addrs().map(|addrs| addrs.map(|addr| addr.ip()).collect()).unwrap_or_default()
        }))
    }
}

impl Resolver {
    /// A resolver that asks `look_up`.
    pub fn new(look_up: LookUp) -> Self {
        Self { look_up, slots: Mutex::default(), permits: Arc::new(Semaphore::new(LOOK_UP_COUNT_MAX)) }
    }

    /// The addresses of a host within [`ANSWER_TIME_MAX`], best first; empty when there is none.
    pub async fn resolve(&self, host: &str, port: u16, now: UnixMillis) -> Vec<SocketAddr> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(addr) = literal.parse::<IpAddr>() {
            return vec![SocketAddr::new(addr, port)];
        }
        let host = host.to_ascii_lowercase();
        let cell = self.slot(&host, now);
        // A task of its own, so that an answer that comes too late for this asker is there for the next one.
        let asking = ask(self.look_up.clone(), self.permits.clone(), host);
        let asking = tokio::spawn(async move { cell.get_or_init(|| asking).await.clone() });
        let mut found: Vec<SocketAddr> = Vec::new();
        for addr in tokio::time::timeout(ANSWER_TIME_MAX, asking).await.into_iter().flatten().flatten() {
            let addr = SocketAddr::new(addr, port);
            if !found.contains(&addr) {
                found.push(addr);
            }
        }
        debug!(found = found.len(), "resolved a host name");
        found
    }

    fn slot(&self, host: &str, now: UnixMillis) -> Arc<OnceCell<Vec<IpAddr>>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(host)
            && slot.is_fresh(now)
        {
            return slot.addrs.clone();
        }
        if slots.len() >= NAME_COUNT_MAX {
            slots.retain(|_, slot| slot.is_fresh(now));
            if slots.len() >= NAME_COUNT_MAX {
                slots.clear(); // a cache may forget
            }
        }
        let slot = Slot { addrs: Arc::default(), asked: now };
        slots.insert(host.into(), slot.clone());
        slot.addrs
    }
}

async fn ask(look_up: LookUp, permits: Arc<Semaphore>, host: String) -> Vec<IpAddr> {
    let Ok(permit) = permits.acquire_owned().await else { return Vec::new() };
    let (found, answer) = oneshot::channel();
    let thread = std::thread::Builder::new().name("resolve".into()).spawn(move || {
        let _ = found.send(look_up(&host));
        drop(permit);
    });
    match thread {
        Ok(_) => answer.await.unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

/// Longest wait for an answer; after it the name counts as unknown.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Look-ups at a time.
pub const LOOK_UP_COUNT_MAX: usize = 16;
/// Names remembered.
const NAME_COUNT_MAX: usize = 1024;
/// How long an answer holds. The C library does not tell the records' own.
const TTL: Duration = Duration::from_secs(30);
/// How long it holds that a name has no address.
const TTL_NEGATIVE: Duration = Duration::from_secs(5);
/// How long a look-up without answer is shared before the name is asked again.
const TTL_UNANSWERED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn counting(answer: Vec<IpAddr>) -> (Resolver, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let resolver = Resolver::new(Arc::new(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            answer.clone()
        }));
        (resolver, asked)
    }

    #[test]
    fn an_address_needs_no_look_up() {
        let (resolver, asked) = counting(vec![]);
        let now = UnixMillis(0);
        assert_eq!(run(resolver.resolve("192.0.2.7", 5060, now)), ["192.0.2.7:5060".parse().unwrap()]);
        assert_eq!(run(resolver.resolve("[2001:db8::1]", 5060, now)), ["[2001:db8::1]:5060".parse().unwrap()]);
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn answers_are_shared_for_a_while_and_then_asked_again() {
        let (resolver, asked) = counting(vec!["192.0.2.7".parse().unwrap(), "192.0.2.7".parse().unwrap()]);
        run(async {
            let (first, second) = tokio::join!(
                resolver.resolve("core.example", 1, UnixMillis(0)),
                resolver.resolve("Core.Example", 2, UnixMillis(0))
            );
            assert_eq!(first, ["192.0.2.7:1".parse().unwrap()]);
            assert_eq!(second, ["192.0.2.7:2".parse().unwrap()]);
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            resolver.resolve("core.example", 1, UnixMillis(29_999)).await;
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            resolver.resolve("core.example", 1, UnixMillis(30_000)).await;
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        });
    }

    #[test]
    fn an_unknown_name_is_asked_again_soon() {
        let (resolver, asked) = counting(vec![]);
        run(async {
            assert_eq!(resolver.resolve("nowhere.example", 1, UnixMillis(0)).await, []);
            resolver.resolve("nowhere.example", 1, UnixMillis(4_999)).await;
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            resolver.resolve("nowhere.example", 1, UnixMillis(5_000)).await;
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        });
    }

    #[test]
    fn a_look_up_that_hangs_counts_as_unknown_in_time() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let resolver = Resolver::new(Arc::new(move |_| {
            let _ = held.lock().unwrap().recv();
            vec!["192.0.2.7".parse().unwrap()]
        }));
        let started = std::time::Instant::now();
        assert_eq!(run(resolver.resolve("slow.example", 1, UnixMillis(0))), []);
        assert!(started.elapsed() < ANSWER_TIME_MAX * 3);
        drop(release);
    }

    #[test]
    fn an_answer_too_late_for_one_asker_is_there_for_the_next() {
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let resolver = Resolver::new(Arc::new(move |_| {
            let _ = held.lock().unwrap().recv();
            vec!["192.0.2.7".parse().unwrap()]
        }));
        run(async {
            assert_eq!(resolver.resolve("slow.example", 1, UnixMillis(0)).await, []);
            release.send(()).unwrap();
            let found = resolver.resolve("slow.example", 1, UnixMillis(0)).await;
            assert_eq!(found, ["192.0.2.7:1".parse().unwrap()]);
        });
    }

    #[test]
    fn the_cache_is_bounded() {
        let (resolver, _) = counting(vec![]);
        run(async {
            for index in 0..NAME_COUNT_MAX + 10 {
                drop(resolver.slot(&format!("{index}.example"), UnixMillis(0)));
            }
        });
        assert!(resolver.slots.lock().unwrap().len() <= NAME_COUNT_MAX);
    }
}
