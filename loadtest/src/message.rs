//! One large message through one session: how fast, in how much memory, and whether it arrives as it was.

use crate::cli::{Common, Message};
use crate::media::{Pace, Plan, Shape};
use crate::rig::{self, Rig, Sessions};
use std::time::Duration;

/// Sends it and compares the hashes.
pub fn run(common: &Common, options: &Message) -> Result<bool, String> {
    let shape = Shape { chunk_len: options.chunk, message_len: options.size.max(1), open_range: options.open_range };
    let habits = rig::habits(options.ends.a_setup, options.ends.b_setup, 1);
    let mut rig = Rig::start(common, options.via, shape, habits, 1)?;
    let sessions = Sessions { count: 1, window: 1, sources: 1 };
    rig.establish(&sessions, Duration::from_secs(30))?;
    rig.exchange.hash_session(0);
    let plan = Plan {
        pace: Pace::Closed { window: options.window },
        warm_up: Duration::ZERO,
        measured: Duration::from_secs(u64::from(options.seconds)),
        count_max: None,
        one_message: true,
    };
    let before = rig.watch.usage();
    let measured = rig.exchange.drive(&plan, &mut rig.watch)?;
    let (low, high) = rig.watch.resident.unwrap_or_default();
    let hashes = rig.exchange.hashes(0);
    let (messages, len) = rig.exchange.received(0);
    let is_same =
        hashes.as_ref().is_some_and(|[sent, received]| sent == received) && messages == 1 && len == options.size;
    let seconds = measured.elapsed.as_secs_f64().max(1e-9);
    let gigabytes = options.size as f64 / 1e9;
    println!(
        "message via {}: {} bytes in chunks of {}, window {}",
        options.via, options.size, options.chunk, options.window
    );
    println!(
        "  passed     {len} bytes in {seconds:.2} s, {:.3} GB/s, {} chunks",
        len as f64 / 1e9 / seconds,
        measured.chunks
    );
    for (kind, count) in &measured.errors {
        println!("  ERROR      {count:>12}   {kind}");
    }
    match &hashes {
        Some([sent, received]) if is_same => println!("  SHA-256    {received} at both ends ({sent})"),
        Some([sent, received]) => {
            println!("  ERROR      SHA-256 {sent} sent, {received} received, {messages} messages")
        }
        None => println!("  ERROR      no hashes"),
    }
    println!(
        "  server     {:.3} s CPU a GB, {:.1} % of one CPU; resident {:.1} MB before, {:.2} to {:.2} MB meanwhile ({:.2} MB apart)",
        measured.server.stat.as_secs_f64() / gigabytes,
        measured.server.stat.as_secs_f64() * 100.0 / seconds,
        before.resident as f64 / 1e6,
        low as f64 / 1e6,
        high as f64 / 1e6,
        (high - low) as f64 / 1e6
    );
    println!(
        "  generator  {:.1} % of one CPU, hashing at both ends included",
        measured.generator.run_time().as_secs_f64() * 100.0 / seconds
    );
    println!(
        "RESULT bytes={len} seconds={seconds:.3} gb_per_s={:.3} intact={is_same} server_s_per_gb={:.3} rss_low_mb={:.2} \
         rss_high_mb={:.2} rss_spread_mb={:.2}",
        len as f64 / 1e9 / seconds,
        measured.server.stat.as_secs_f64() / gigabytes,
        low as f64 / 1e6,
        high as f64 / 1e6,
        (high - low) as f64 / 1e6
    );
    let is_clean = is_same && measured.errors.is_empty();
    rig.release(&sessions, Duration::from_secs(40))?;
    Ok(is_clean)
}
