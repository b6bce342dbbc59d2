//! The `ringpost` command: arguments, configuration, start, signals.

use clap::{Parser, Subcommand};
use ringpost::appliance::Appliance;
use ringpost::config::Config;
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// CPM Participating Function of the terminating user.
#[derive(Parser)]
#[command(name = "ringpost", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the appliance until SIGTERM or SIGINT
    Serve {
        /// Configuration file; without one the defaults run, everything on loopback
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Checks a configuration file: exit code 0, or 2 and one line that says what is wrong
    CheckConfig {
        /// Configuration file
        file: PathBuf,
    },
    /// Plays the main job on loopback, step by step; exit code 0 if every step passes
    Demo,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve { config } => serve(config.as_deref()),
        Command::CheckConfig { file } => check_config(&file),
        Command::Demo => ringpost::demo::run(),
    }
}

fn serve(file: Option<&Path>) -> ExitCode {
    let config = match file.map_or_else(|| Ok(Config::default()), Config::load) {
        Ok(config) => config,
        Err(error) => return failed(&error, EXIT_CONFIG),
    };
    if let Err(error) = start_logs(&config) {
        return failed(&error, EXIT_CONFIG);
    }
    // Signals are taken before anything starts, so that none is lost in between.
    let mut signals = match Signals::new([SIGTERM, SIGINT]) {
        Ok(signals) => signals,
        Err(error) => return failed(&format_args!("signals: {error}"), EXIT_START),
    };
    // Over a limit on file sizes the store's write shall fail as on a full disk, not end the process.
    if let Err(error) = signal_hook::flag::register(SIGXFSZ, Arc::default()) {
        return failed(&format_args!("signals: {error}"), EXIT_START);
    }
    let appliance = match Appliance::start(&config) {
        Ok(appliance) => appliance,
        Err(error) => return failed(&error, EXIT_START),
    };
    if let Err(error) = announce(&appliance) {
        tracing::warn!(%error, "stdout does not take the ready line");
    }
    let signal = signals.forever().next();
    tracing::info!(signal, "stopping");
    abort_on_next_signal();
    appliance.stop();
    ExitCode::SUCCESS
}

/// Prints the line that scripts wait for, with real ports.
fn announce(appliance: &Appliance) -> std::io::Result<()> {
    let sip: Vec<_> = appliance.sip_addresses().iter().map(ToString::to_string).collect();
    let msrp: Vec<_> = appliance.msrp_addresses().iter().map(ToString::to_string).collect();
    let (http, shards) = (appliance.http_address(), appliance.shard_count());
    let mut out = std::io::stdout().lock();
    writeln!(out, "ringpost ready sip={} http={http} msrp={} shards={shards}", sip.join(","), msrp.join(","))?;
    out.flush()
}

/// An operator who asks twice does not want to wait for the orderly end.
fn abort_on_next_signal() {
    let stopping = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 1, stopping.clone());
        if let Err(error) = armed {
            tracing::warn!(%error, "a second signal will be ignored");
        }
    }
}

fn start_logs(config: &Config) -> Result<(), String> {
    let filter = match std::env::var("RINGPOST_LOG") {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| format!("RINGPOST_LOG: {error}"))?,
        Err(_) => EnvFilter::new(config.log.level.as_str()),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

fn check_config(file: &Path) -> ExitCode {
    match Config::load(file) {
        Ok(_) => {
            println!("{}: ok", file.display());
            ExitCode::SUCCESS
        }
        // Bare, so that editors jump to FILE:LINE.
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn failed(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("ringpost: {error}");
    ExitCode::from(code)
}

const EXIT_START: u8 = 1;
const EXIT_CONFIG: u8 = 2;
