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
//! | `report.rs` | what is printed |

mod answers;
mod appliance;
mod cli;
mod deferral;
mod http;
mod pager;
mod report;
mod setup;
mod storm;
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
    let mut stage = setup::Stage::new(&common, &scenario)?;
    match scenario {
        cli::Scenario::Pager(options) => pager::run(&common, &options, &mut stage),
        cli::Scenario::Deferral(options) => deferral::run(&common, &options, &mut stage),
        cli::Scenario::Storm(options) => storm::run(&common, &options, &mut stage),
    }
}
