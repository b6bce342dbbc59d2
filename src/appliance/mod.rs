//! The whole appliance: store, control plane, HTTP and shards, started and stopped in order.
//!
//! Owns nothing but the order: what is needed by others starts first and stops last. Doors: [`Appliance`].

mod links;

use crate::admin::serve::{Stop, run};
use crate::admin::state::{AdminState, Patience, Traffic};
use crate::base::id::{NodeId, ShardId};
use crate::base::limits::{CONTROL_MAILBOX_LEN, SPOOL_FILE_COUNT_MAX, SPOOL_MAILBOX_LEN};
use crate::base::mailbox::Mailbox;
use crate::base::rng::Rng;
use crate::config::{Config, Placement};
use crate::control::plane::{self, ControlPlane, ControlSignal, Restored};
use crate::control::resolver::Resolver;
use crate::control::spool::Spool;
use crate::control::subscribers::Subscribers;
use crate::metrics::counters::ShardMetrics;
use crate::participating::core::Core;
use crate::participating::settings::Listener;
use crate::shard::{self, Doors, ListenerSockets, MediaListener, Plan, ShardThread, clock};
use crate::store::{self, Options, Store, StoreMetrics, StoreThread};
use crate::uring::probe::{Missing, probe};
use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

/// Free space below which nothing more is deferred or stored: room for the log to be written back.
const DISK_FREE_MIN: u64 = 64 << 20;
/// This machine among several that may share stored rows one day.
const NODE: NodeId = NodeId(0);

/// A running appliance.
pub struct Appliance {
    sip: Vec<SocketAddr>,
    msrp: Vec<SocketAddr>,
    http: SocketAddr,
    shards: Vec<ShardThread>,
    admin: JoinHandle<()>,
    admin_stop: Stop,
    store: StoreThread,
    shards_gone: Arc<AtomicBool>,
}

/// Why the appliance did not start, in one line.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Says what was attempted when the world refused.
fn attempt<T, E: fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, StartError> {
    result.map_err(|error| StartError(format!("{what}{}", links::plain(&error))))
}

impl Appliance {
    /// Starts everything; returns once everything listens.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let missing = probe();
        if !missing.is_empty() {
            let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
            return Err(StartError(lines.join("\nringpost: ")));
        }
        let shard_count = config.shard_count();
        let sockets = attempt("sip.listen ", shard::bind(&config.sip.listen, config.sip.shard_port, shard_count))?;
        let sip = sockets.first().map(|first| first.iter().map(|one| one.well_known).collect()).unwrap_or_default();
        let media = attempt("msrp.listen ", shard::bind_media(&config.msrp.listen, shard_count))?;
        let msrp = media.first().map(|first| first.iter().map(|one| one.addr).collect()).unwrap_or_default();
        let listener =
            TcpListener::bind(config.http.listen).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (http, listener) = attempt(&format!("http.listen {}: ", config.http.listen), listener)?;

        let options = Options {
            data_dir: config.store.data_dir.clone(),
            content_dir: config.store.content_dir.clone(),
            content_threshold: config.store.content_threshold,
            node: NODE,
            disk_free_min: DISK_FREE_MIN,
        };
        let (opened, image) = attempt("", Store::open(options))?;

        let doors = attempt("eventfd: ", Doors::new(shard_count))?;
        let shards_gone = Arc::new(AtomicBool::new(false));
        let (store_mailbox, waker) = store::mailbox();
        let store_metrics = Arc::new(StoreMetrics::default());
        let answers = links::StoreAnswers { doors: doors.clone(), shards_gone: shards_gone.clone() };
        let store = opened.start(store_mailbox.clone(), waker, Box::new(answers), store_metrics.clone());
        let store = attempt("store thread: ", store)?;

        let signal = ControlSignal::default();
        let control_mailbox = Arc::new(Mailbox::new(CONTROL_MAILBOX_LEN, Box::new(signal.clone())));
        let spool_signal = ControlSignal::default();
        let spool_mailbox = Arc::new(Mailbox::new(SPOOL_MAILBOX_LEN, Box::new(spool_signal.clone())));
        let subscribers = Arc::new(Subscribers::with_capacity(image.devices.len()));
        let plane = ControlPlane::new(
            plane::Doors {
                subscribers: subscribers.clone(),
                shards: doors.clone(),
                store: store_mailbox.clone(),
                clock: Arc::new(|| clock::now().wall),
                resolver: Arc::new(Resolver::default()),
            },
            Restored {
                devices: image.devices,
                availabilities: image.availability,
                documents: image.documents,
                users_with_deferred: image.users_with_deferred,
            },
        );

        let metrics: Vec<Arc<ShardMetrics>> = (0..shard_count).map(|_| Arc::default()).collect();
        let shared = Shared {
            doors: &doors,
            store: &store_mailbox,
            spool: &spool_mailbox,
            control: &control_mailbox,
            subscribers: &subscribers,
        };
        let shards = start_shards(config, sockets.into_iter().zip(media).collect(), &metrics, &shared)?;

        let admin_stop = Stop::default();
        let state = AdminState {
            plane,
            mailbox: control_mailbox,
            signal,
            spool: Spool {
                mailbox: spool_mailbox,
                signal: spool_signal,
                shards: doors.clone(),
                directory: config.store.content_dir.clone(),
                disk_free_min: DISK_FREE_MIN,
                file_count_max: SPOOL_FILE_COUNT_MAX,
            },
            store: store_mailbox,
            shards: metrics,
            scrape: Arc::new(links::Histograms(doors)),
            rows: Arc::new(move || links::store_rows(&store_metrics)),
            xcap_root: config.http.xcap_root.to_string(),
            patience: Patience::default(),
            traffic: Arc::new(Traffic::default()),
        };
        let stop = admin_stop.clone();
        let admin = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            if let Err(error) = run(listener, state, stop) {
                // Registrations and documents would wait for ever: recovery is the restart.
                tracing::error!(%error, "the control plane ended");
                std::process::abort();
            }
        });
        let admin = attempt("control thread: ", admin)?;
        Ok(Self { sip, msrp, http, shards, admin, admin_stop, store, shards_gone })
    }

    /// The addresses SIP is taken on, in the order of `sip.listen`, with real ports.
    pub fn sip_addresses(&self) -> Vec<SocketAddr> {
        self.sip.clone()
    }

    /// The addresses the first shard takes MSRP on, in the order of `msrp.listen`, with real ports.
    pub fn msrp_addresses(&self) -> Vec<SocketAddr> {
        self.msrp.clone()
    }

    /// The address HTTP is taken on.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// How many shards run.
    pub fn shard_count(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Stops in order: no new messages, answers that wait for the disk still leave, then HTTP, then the store.
    pub fn stop(self) {
        let Self { shards, admin, admin_stop, store, shards_gone, .. } = self;
        for shard in &shards {
            shard.ask_to_stop();
        }
        for shard in shards {
            shard.join();
        }
        shards_gone.store(true, std::sync::atomic::Ordering::Release);
        admin_stop.stop();
        if admin.join().is_err() {
            tracing::error!("the control thread panicked");
        }
        store.stop();
        tracing::info!("stopped");
    }
}

/// What every shard is linked to.
struct Shared<'a> {
    doors: &'a Arc<Doors>,
    store: &'a Arc<crate::participating::storage::StoreMailbox>,
    spool: &'a Arc<crate::participating::storage::SpoolMailbox>,
    control: &'a Arc<crate::participating::input::ControlMailbox>,
    subscribers: &'a Arc<Subscribers>,
}

fn start_shards(
    config: &Config,
    sockets: Vec<(Vec<ListenerSockets>, Vec<MediaListener>)>,
    metrics: &[Arc<ShardMetrics>],
    shared: &Shared<'_>,
) -> Result<Vec<ShardThread>, StartError> {
    let shard_count = config.shard_count();
    let advertised = |index: usize, addr: SocketAddr| -> SocketAddr {
        let ip = config.sip.advertise.get(index).copied().filter(|_| addr.ip().is_unspecified());
        SocketAddr::new(ip.unwrap_or(addr.ip()), addr.port())
    };
    let own_addresses: Vec<SocketAddr> = sockets
        .iter()
        .flat_map(|(listeners, _)| listeners)
        .zip((0..config.sip.listen.len()).cycle())
        .flat_map(|(one, index)| [advertised(index, one.well_known), advertised(index, one.own)])
        .collect();
    let steering_seed = u64::from_le_bytes(random()?);
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let mut threads = Vec::with_capacity(sockets.len());
    for (index, ((listeners, media_listeners), metrics)) in sockets.into_iter().zip(metrics).enumerate() {
        let shard = ShardId(index as u16);
        let addresses = listeners.iter().enumerate().map(|(index, one)| Listener {
            well_known: advertised(index, one.well_known),
            own: advertised(index, one.own),
        });
        // The port names the shard, whatever address peers are told.
        let msrp = media_listeners.iter().zip(&config.msrp.advertise);
        let settings = Arc::new(config.settings(Placement {
            listeners: addresses.collect(),
            msrp: msrp.map(|(one, ip)| SocketAddr::new(*ip, one.addr.port())).collect(),
            own_addresses: own_addresses.clone(),
            shard_count,
            steering_seed,
        }));
        let cpu = cpus.get(index % cpus.len().max(1)).map(|core| core.id).filter(|_| config.shards.pin);
        let plan = Plan {
            shard,
            cpu,
            listeners,
            media_listeners,
            doors: shared.doors.clone(),
            store: shared.store.clone(),
            spool: shared.spool.clone(),
            control: shared.control.clone(),
            metrics: metrics.clone(),
        };
        let (directory, metrics) = (shared.subscribers.clone(), metrics.clone());
        let rng = Rng::from_seed(random()?);
        let thread = shard::spawn(plan, move |now| Core::new(shard, settings, directory, rng, metrics, now));
        let thread = thread.map_err(|error| match error.kind() {
            ErrorKind::OutOfMemory => Missing::Ring(error).to_string(),
            _ => error.to_string(),
        });
        threads.push(attempt(&format!("shard {index}: "), thread)?);
    }
    Ok(threads)
}

fn random<const LEN: usize>() -> Result<[u8; LEN], StartError> {
    let mut bytes = [0; LEN];
    attempt("random numbers: ", getrandom::fill(&mut bytes))?;
    Ok(bytes)
}
