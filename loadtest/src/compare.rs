//! The same rows through several programs, interleaved, each in a fresh process; ratios pair by pair.

use crate::chunks::{self, Outcome};
use crate::cli::{Chunks, Common, Compare, Via};
use crate::peers::Program;
use crate::table::{self, Spread};
use std::path::PathBuf;

/// One row of the comparison.
struct Row {
    name: &'static str,
    sessions: usize,
    size: usize,
    rate: Option<u32>,
    /// What ringpost is to reach against HAProxy.
    target: &'static str,
}

const ROWS: [Row; 5] = [
    Row { name: "16 × 300 B", sessions: 16, size: 300, rate: None, target: "CPU ≤ 1.00" },
    Row { name: "16 × 2 KB", sessions: 16, size: 2048, rate: None, target: "CPU ≤ 0.95" },
    Row { name: "16 × 64 KB", sessions: 16, size: 65_536, rate: None, target: "CPU ≤ 0.60" },
    Row { name: "256 × 300 B", sessions: 256, size: 300, rate: None, target: "CPU ≤ 1.00" },
    Row { name: "16 × 300 B at 20,000/s", sessions: 16, size: 300, rate: Some(20_000), target: "p50, p99 ≤ 1.00" },
];

const WINDOW: u32 = 8;

/// What one program did in one row, repetition by repetition.
struct Cell {
    row: usize,
    via: Via,
    outcomes: Vec<Option<Outcome>>,
}

impl Cell {
    fn figures(&self, figure: impl Fn(&Outcome) -> f64) -> Vec<Option<f64>> {
        self.outcomes.iter().map(|outcome| outcome.as_ref().map(&figure)).collect()
    }
}

/// Runs everything and prints the table.
pub fn run(common: &Common, options: &Compare) -> Result<bool, String> {
    let mut common = common.clone();
    let programs = available(&mut common, &options.via);
    if programs.is_empty() {
        return Err("none of the programs is there".into());
    }
    let rows: Vec<usize> = match options.rows.as_slice() {
        [] => (0..ROWS.len()).collect(),
        some => some.iter().filter_map(|row| row.checked_sub(1)).filter(|row| *row < ROWS.len()).collect(),
    };
    let mut cells: Vec<Cell> = rows
        .iter()
        .flat_map(|row| programs.iter().map(|via| Cell { row: *row, via: *via, outcomes: Vec::new() }))
        .collect();
    let mut is_clean = true;
    for repetition in 0..options.repetitions {
        for row in &rows {
            let mut order: Vec<usize> = (0..cells.len()).filter(|cell| cells[*cell].row == *row).collect();
            // Who comes first changes: a machine that slows down or speeds up favours nobody.
            if repetition % 2 == 1 {
                order.reverse();
            }
            for cell in order {
                let via = cells[cell].via;
                let outcome = match chunks::is_beyond(via, ROWS[*row].size) {
                    Some(_) => None,
                    None => measure(&common, options, &ROWS[*row], via, repetition, &mut is_clean),
                };
                cells[cell].outcomes.push(outcome);
            }
        }
    }
    print_tables(&cells, &programs, options);
    Ok(is_clean)
}

/// The programs that are there; says loudly which are not.
fn available(common: &mut Common, wanted: &[Via]) -> Vec<Via> {
    let mut found = Vec::new();
    for via in wanted {
        let version = match via {
            Via::Direct => Ok("no server: the generator alone".to_owned()),
            Via::Haproxy | Via::Kamailio => {
                let program = if *via == Via::Haproxy { Program::Haproxy } else { Program::Kamailio };
                if program.find().is_some() {
                    Ok(program.version())
                } else {
                    Err(format!("{0} is not installed (apt-get install {0})", program.name()))
                }
            }
            Via::Ringpost => {
                common.spawn = common.spawn.take().or_else(beside_this_program);
                match &common.spawn {
                    Some(binary) => Ok(binary.display().to_string()),
                    None => Err("no ringpost beside this program; --spawn names one".into()),
                }
            }
        };
        match version {
            Ok(version) => {
                println!("{via}: {version}");
                found.push(*via);
            }
            Err(why) => {
                println!("********************************************************************");
                println!("** {via} IS NOT MEASURED: {why}");
                println!("********************************************************************");
            }
        }
    }
    found
}

/// The appliance's binary of the same build.
fn beside_this_program() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?.with_file_name("ringpost");
    binary.is_file().then_some(binary)
}

fn measure(
    common: &Common,
    options: &Compare,
    row: &Row,
    via: Via,
    repetition: u32,
    is_clean: &mut bool,
) -> Option<Outcome> {
    let chunks = Chunks {
        via,
        size: row.size,
        sessions: row.sessions,
        window: WINDOW,
        rate: row.rate,
        chunks_per_message: 1000,
        open_range: options.open_range,
        seconds: options.seconds,
        warm_up: options.warm_up,
        count: None,
        ends: options.ends,
    };
    let name = format!("{}/{} {} {via}", repetition + 1, options.repetitions, row.name);
    match chunks::measure(common, &chunks) {
        Ok(outcome) if outcome.is_clean() => {
            println!(
                "{name}: {:.3} µs CPU a chunk, {:.0} chunks/s, p50 {:.0} p99 {:.0} µs, {:.1} chunks a read, generator {:.0} % busy, others {:.0} %{}",
                outcome.server_us(),
                outcome.rate(),
                outcome.micros(0.5),
                outcome.micros(0.99),
                outcome.measured.chunks_per_read,
                outcome.measured.generator.run_time().as_secs_f64() * 100.0
                    / outcome.measured.elapsed.as_secs_f64().max(1e-9),
                outcome.others_percent(),
                outcome.noise(),
            );
            Some(outcome)
        }
        Ok(outcome) => {
            *is_clean = false;
            println!("{name}: FAILED {:?}", outcome.measured.errors);
            None
        }
        Err(error) => {
            *is_clean = false;
            println!("{name}: FAILED {error}");
            None
        }
    }
}

fn print_tables(cells: &[Cell], programs: &[Via], options: &Compare) {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name.trim());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "\n{} repetitions of {} s, window {WINDOW}{}; server on one CPU, generator on another; {}, Linux {}; median (range)\n",
        options.repetitions,
        options.seconds,
        if options.open_range { ", open ranges" } else { "" },
        model.unwrap_or("unknown CPU"),
        kernel.trim(),
    );
    let header = [
        "row",
        "program",
        "CPU s a million chunks",
        "chunks/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "chunks a read",
        "RSS MB",
        "others %",
    ];
    let rows: Vec<Vec<String>> = cells.iter().map(figures_of).collect();
    println!("{}", table::markdown(&header, &rows));
    let Some(first) = programs.first() else { return };
    let header = ["row", "ratio", "CPU a chunk", "rate", "p50", "p99", "target"];
    let mut rows = Vec::new();
    for theirs in cells.iter().filter(|cell| cell.via != *first) {
        let Some(ours) = cells.iter().find(|cell| cell.row == theirs.row && cell.via == *first) else { continue };
        let ratio = |figure: &dyn Fn(&Outcome) -> f64| {
            let ratios = table::pair_ratios(&ours.figures(figure), &theirs.figures(figure));
            Spread::of(ratios).map_or("-".to_owned(), |spread| spread.text(2))
        };
        rows.push(vec![
            ROWS[theirs.row].name.to_owned(),
            format!("{first} / {}", theirs.via),
            ratio(&Outcome::server_us),
            ratio(&Outcome::rate),
            ratio(&|outcome: &Outcome| outcome.micros(0.5)),
            ratio(&|outcome: &Outcome| outcome.micros(0.99)),
            if (*first, theirs.via) == (Via::Ringpost, Via::Haproxy) { ROWS[theirs.row].target } else { "" }.to_owned(),
        ]);
    }
    if !rows.is_empty() {
        println!("Ratios of neighbours in time: below 1 is less for the first; for the rate above 1 is more.\n");
        println!("{}", table::markdown(&header, &rows));
    }
}

fn figures_of(cell: &Cell) -> Vec<String> {
    let row = &ROWS[cell.row];
    let spread = |decimals: usize, figure: &dyn Fn(&Outcome) -> f64| {
        let figures = cell.figures(figure).into_iter().flatten();
        Spread::of(figures).map_or("-".to_owned(), |spread| spread.text(decimals))
    };
    let note = chunks::is_beyond(cell.via, row.size).map_or(String::new(), |why| format!(" ({why})"));
    vec![
        row.name.to_owned(),
        format!("{}{note}", cell.via),
        spread(2, &Outcome::server_us),
        spread(0, &Outcome::rate),
        spread(0, &|outcome: &Outcome| outcome.micros(0.5)),
        spread(0, &|outcome: &Outcome| outcome.micros(0.99)),
        spread(0, &|outcome: &Outcome| outcome.micros(0.999)),
        spread(1, &|outcome: &Outcome| outcome.measured.chunks_per_read),
        spread(0, &|outcome: &Outcome| outcome.resident as f64 / 1e6),
        spread(0, &Outcome::others_percent),
    ]
}
