//! Sessions that are set up, bound and silent: what each keeps of the server's memory.

use crate::appliance::Usage;
use crate::cli::{Common, Idle};
use crate::media::Shape;
use crate::poller;
use crate::rig::{self, Rig, Sessions};
use std::time::{Duration, Instant};

/// Sets them up, looks at the server's memory, and ends them.
pub fn run(common: &Common, options: &Idle) -> Result<bool, String> {
    // The server has two descriptors a session, and so has the generator.
    let limit = poller::raise_descriptor_limit(2 * options.sessions as u64 + DESCRIPTORS_BESIDE)
        .map_err(|error| format!("limit of descriptors: {error}"))?;
    let possible = usize::try_from(limit.saturating_sub(DESCRIPTORS_BESIDE) / 2).unwrap_or(usize::MAX);
    let wanted = options.sessions;
    let options = &Idle { sessions: wanted.min(possible), ..options.clone() };
    if wanted > possible {
        println!(
            "** only {possible} of {wanted} sessions: {limit} descriptors are allowed to each process (ulimit -Hn)"
        );
    }
    let chunk_len = options.chunk.unwrap_or(1);
    let shape = Shape { chunk_len, message_len: chunk_len as u64, open_range: false };
    let users = common.users.min(options.sessions as u32).max(1);
    let habits = rig::habits(options.ends.a_setup, options.ends.b_setup, users);
    let mut rig = Rig::start(common, options.via, shape, habits, options.sessions)?;
    rig.exchange.pump(Duration::from_millis(200)).map_err(|error| error.to_string())?;
    let before = rig.watch.usage();
    let sources = u8::try_from(options.sessions / SESSIONS_PER_SOURCE + 1).unwrap_or(u8::MAX);
    let sessions = Sessions { count: options.sessions, window: options.window, sources };
    let longest = Duration::from_secs(u64::from(options.seconds));
    // Pools and tables that any number of sessions needs are there after the first of them.
    let first = Sessions { count: (options.sessions / 10).max(1), ..sessions };
    let mut took = rig.establish(&first, longest)?;
    if options.chunk.is_some() {
        one_chunk_each(&mut rig, 0..first.count)?;
    }
    let early = quiet(&mut rig)?;
    took += rig.establish(&sessions, longest.saturating_sub(took))?;
    if options.chunk.is_some() {
        one_chunk_each(&mut rig, first.count..options.sessions)?;
    }
    let after = quiet(&mut rig)?;
    let count = options.sessions as f64;
    let grown = after.resident.saturating_sub(before.resident) as f64;
    println!(
        "idle via {}: {} sessions, {} connections at the server, set up in {:.2} s ({:.0}/s)",
        options.via,
        options.sessions,
        2 * options.sessions,
        took.as_secs_f64(),
        count / took.as_secs_f64().max(1e-9)
    );
    println!(
        "  resident   {:.1} MB before, {:.1} MB with them",
        before.resident as f64 / 1e6,
        after.resident as f64 / 1e6
    );
    println!("  memory     {:.0} B a session, {:.0} B a connection", grown / count, grown / count / 2.0);
    let later = after.resident.saturating_sub(early.resident) as f64 / (options.sessions - first.count).max(1) as f64;
    println!("  memory     {later:.0} B a session, {:.0} B a connection after the first {}", later / 2.0, first.count);
    rig.release(&sessions, longest)?;
    let end = quiet(&mut rig)?;
    println!("  resident   {:.1} MB after they ended", end.resident as f64 / 1e6);
    println!(
        "RESULT sessions={} setup_rate={:.1} before_mb={:.2} with_mb={:.2} after_mb={:.2} session_b={:.0} connection_b={:.0} \
         later_connection_b={:.0}",
        options.sessions,
        count / took.as_secs_f64().max(1e-9),
        before.resident as f64 / 1e6,
        after.resident as f64 / 1e6,
        end.resident as f64 / 1e6,
        grown / count,
        grown / count / 2.0,
        later / 2.0
    );
    Ok(true)
}

fn one_chunk_each(rig: &mut Rig, sessions: std::ops::Range<usize>) -> Result<(), String> {
    let deadline = Instant::now() + CHUNKS_MAX;
    let count = sessions.len();
    for index in sessions {
        rig.exchange.send_one(index);
        while !rig.exchange.is_settled(index) {
            rig.exchange.pump(Duration::from_millis(5)).map_err(|error| error.to_string())?;
            if let Some(error) = rig.exchange.error_text() {
                return Err(error);
            }
            if Instant::now() > deadline {
                return Err(format!("session {index} of {count} did not carry its chunk within {CHUNKS_MAX:?}"));
            }
        }
    }
    Ok(())
}

/// Memory once the server has had a moment to let go of what it needed for the way there.
fn quiet(rig: &mut Rig) -> Result<Usage, String> {
    let until = Instant::now() + QUIET;
    let mut events = Vec::new();
    while Instant::now() < until {
        if rig.turn(&mut events)? == 0 {
            rig.wait()?;
        }
    }
    Ok(rig.watch.usage())
}

/// Connections from one address to one listener are bounded by the ports there are.
const SESSIONS_PER_SOURCE: usize = 5_000;
/// What a process holds open besides connections.
const DESCRIPTORS_BESIDE: u64 = 160;
const QUIET: Duration = Duration::from_secs(2);
const CHUNKS_MAX: Duration = Duration::from_secs(60);
