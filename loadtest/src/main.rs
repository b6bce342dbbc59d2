//! ringpost-loadtest: measures a running ringpost from outside, on loopback.
//!
//! The generator plays the sender and the SIP/IP core behind which the devices are. Its codec is its own: rsip writes
//! the message templates once, the hot loop patches fixed places in them and moves datagrams in batches, so that the
//! generator's cost per message stays a fraction of the appliance's.
//!
//! | file | subject |
//! | --- | --- |
//! | `cli.rs` | arguments and their bounds |
//! | `template.rs` | messages with places to patch; what is read out of answers |
//! | `udp.rs`, `tcp.rs`, `wire.rs` | batches of datagrams, framed streams, one face for both |
//! | `appliance.rs` | the process under test: start, CPU time, memory |
//! | `setup.rs` | registrations and documents before the measurement |
//! | `answers.rs` | the core's 200 to everything |
//! | `pager.rs`, `deferral.rs`, `storm.rs` | the scenarios |
//! | `msrp.rs`, `poller.rs`, `media.rs` | MSRP: codec, readiness, both ends of all sessions |
//! | `calls.rs` | SIP dialogs of large message mode, both ends |
//! | `peers.rs` | HAProxy and Kamailio, started for one row |
//! | `rig.rs` | sessions through one of the programs |
//! | `chunks.rs`, `compare.rs`, `sessions.rs`, `idle.rs`, `message.rs` | the scenarios of large message mode |
//! | `report.rs`, `table.rs` | what is printed |

mod answers;
mod appliance;
mod calls;
mod chunks;
mod cli;
mod compare;
mod deferral;
mod http;
mod idle;
mod media;
mod message;
mod msrp;
mod pager;
mod peers;
mod poller;
mod report;
mod rig;
mod sessions;
mod setup;
mod storm;
mod table;
mod tcp;
mod template;
mod udp;
mod wire;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringpost-loadtest: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the scenario; true when every message ended as it should.
fn run(arguments: cli::Arguments) -> Result<bool, String> {
    let (common, scenario) = arguments.split();
    common.check()?;
    scenario.check()?;
    let stage = || {
        setup::Stage::print_store(&common);
        setup::Stage::new(&common)
    };
    match &scenario {
        cli::Scenario::Pager(options) => pager::run(&common, options, &mut stage()?),
        cli::Scenario::Deferral(options) => deferral::run(&common, options, &mut stage()?),
        cli::Scenario::Storm(options) => storm::run(&common, options, &mut stage()?),
        cli::Scenario::Chunks(options) => chunks::run(&common, options),
        cli::Scenario::Compare(options) => compare::run(&common, options),
        cli::Scenario::Sessions(options) => sessions::run(&common, options),
        cli::Scenario::Idle(options) => idle::run(&common, options),
        cli::Scenario::Message(options) => message::run(&common, options),
    }
}
