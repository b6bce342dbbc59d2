//! Sessions from INVITE to BYE: what each costs, how long it takes until the sender is answered.

use crate::appliance::Usage;
use crate::calls::Event;
use crate::cli::{Common, Sessions, Via};
use crate::media::{Shape, new_histogram};
use crate::poller;
use crate::rig::{self, Rig};
use std::time::{Duration, Instant};

/// What is known of a session on its way.
#[derive(Clone, Copy, Default)]
struct Progress {
    confirmed: bool,
    has_sent: bool,
    leaving: bool,
    ended: bool,
    released: bool,
}

/// Runs sessions through a window and prints what they cost.
pub fn run(common: &Common, options: &Sessions) -> Result<bool, String> {
    poller::need_descriptors(8 * options.window as u64 + 1024)?;
    let shape = Shape { chunk_len: CHUNK_LEN, message_len: CHUNK_LEN as u64, open_range: false };
    let mut habits = rig::habits(options.ends.a_setup, options.ends.b_setup, common.users);
    habits.ringing = options.ringing;
    let total = options.warm_up + options.count;
    let mut rig = Rig::start(common, Via::Ringpost, shape, habits, total)?;
    let wanted = rig::Sessions { count: total, window: options.window, sources: 1 };
    let mut states = vec![Progress::default(); total];
    let mut offers = vec![String::new(); total];
    let mut events = Vec::new();
    let mut waiting: Vec<usize> = Vec::new();
    let (mut next, mut done) = (0, 0);
    let mut before: Option<(Usage, Usage, Instant, usize)> = None;
    let mut whole = new_histogram();
    let mut started_at = vec![Instant::now(); total];
    let mut last_progress = Instant::now();
    while done < total {
        if before.is_none() && done >= options.warm_up {
            let own = Usage::of(std::process::id()).unwrap_or_default();
            before = Some((rig.watch.usage(), own, Instant::now(), done));
            whole.clear();
            if let Some(sip) = &mut rig.sip {
                sip.calls.setup_ns.clear();
            }
        }
        while next < total && next - done < options.window {
            started_at[next] = Instant::now();
            rig.invite();
            next += 1;
        }
        let moved = rig.turn(&mut events)?;
        let mut leave = Vec::new();
        for event in events.drain(..) {
            match &event {
                Event::Confirmed { call } => {
                    states[*call].confirmed = true;
                    if options.chunk { waiting.push(*call) } else { leave.push(*call) }
                }
                Event::Released { call } => states[*call].released = true,
                Event::Ended { call } => states[*call].ended = true,
                Event::Offered { .. } | Event::Answered { .. } => {}
            }
            let over = match &event {
                Event::Released { call } | Event::Ended { call } => Some(*call),
                _ => None,
            };
            if options.chunk {
                rig.on_event(event, &mut offers, &wanted)?;
            }
            if let Some(call) = over.filter(|call| states[*call].ended && states[*call].released) {
                done += 1;
                last_progress = Instant::now();
                whole.saturating_record(started_at[call].elapsed().as_nanos() as u64);
                rig.exchange.close(call);
            }
        }
        let exchange = &mut rig.exchange;
        waiting.retain(|call| {
            let state = &mut states[*call];
            if !state.has_sent && exchange.is_bound(*call) {
                state.has_sent = true;
                exchange.send_one(*call);
            }
            let is_over = state.has_sent && exchange.is_settled(*call);
            if is_over {
                leave.push(*call);
            }
            !is_over
        });
        for call in leave {
            if !std::mem::replace(&mut states[call].leaving, true) {
                rig.exchange.retire_session(call);
                if let Some(sip) = &mut rig.sip {
                    sip.calls.bye(&mut sip.stage, call, Instant::now());
                }
            }
        }
        if last_progress.elapsed() > STALL {
            return Err(format!("{done} of {total} sessions ended, {next} began; none in the last {STALL:?}"));
        }
        if moved == 0 {
            rig.wait()?;
        }
    }
    let (server0, own0, from, _) = before.ok_or("nothing was measured")?;
    let (server, own) =
        (rig.watch.usage().since(&server0), Usage::of(std::process::id()).unwrap_or_default().since(&own0));
    let seconds = from.elapsed().as_secs_f64();
    let count = options.count as f64;
    let mut setup = new_histogram();
    let mut resends = 0;
    if let Some(sip) = &rig.sip {
        sip.calls.setup_ns.iter().for_each(|nanos| setup.saturating_record(*nanos));
        resends = sip.calls.resends;
    }
    let micros =
        |histogram: &hdrhistogram::Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "sessions {} window {} {} users {}",
        rig::transport_name(common.transport),
        options.window,
        if options.chunk { "with connections and one chunk" } else { "without MSRP" },
        common.users
    );
    println!("  good       {:>12}   {:>12.1} /s over {seconds:.2} s", options.count, count / seconds);
    if resends > 0 {
        println!("  note       {resends:>12}   requests and responses sent again");
    }
    for (name, histogram) in [("INVITE to 200", &setup), ("INVITE to both BYEs answered", &whole)] {
        println!(
            "  latency µs p50 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}   {name}",
            micros(histogram, 0.5),
            micros(histogram, 0.99),
            micros(histogram, 0.999),
            micros(histogram, 1.0)
        );
    }
    let per = |time: Duration| time.as_secs_f64() * 1e6 / count;
    println!(
        "  server     {:.2} µs CPU a session (scheduler {:.2}), {:.1} % of one CPU, {:.1} MB resident",
        per(server.stat),
        per(server.run_time()),
        server.stat.as_secs_f64() * 100.0 / seconds,
        server.resident as f64 / 1e6
    );
    for (name, time) in server.threads.iter().filter(|(_, time)| per(**time) >= 0.01) {
        println!("    thread   {name:<16} {:.2} µs a session", per(*time));
    }
    println!(
        "  generator  {:.2} µs CPU a session, {:.1} % of one CPU",
        per(own.run_time()),
        own.run_time().as_secs_f64() * 100.0 / seconds
    );
    println!(
        "RESULT good={} rate={:.1} setup_p50_us={:.1} setup_p99_us={:.1} server_cpu_us={:.3} server_sched_us={:.3} \
         generator_cpu_us={:.3} resident_mb={:.1}",
        options.count,
        count / seconds,
        micros(&setup, 0.5),
        micros(&setup, 0.99),
        per(server.stat),
        per(server.run_time()),
        per(own.run_time()),
        server.resident as f64 / 1e6
    );
    Ok(true)
}

const CHUNK_LEN: usize = 300;
const STALL: Duration = Duration::from_secs(40);
