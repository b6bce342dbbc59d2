//! MSRP streams made to be misread: `tests/torture/msrp/verdicts.txt` says what each holds.

use ringpost::msrp::framer::{Event, Framer};
use ringpost::msrp::head::Kind;
use std::path::{Path, PathBuf};

#[test]
fn msrp_streams_get_their_verdicts_however_they_are_cut() {
    let verdicts = std::fs::read_to_string(folder().join("verdicts.txt")).expect("the verdicts are in the repository");
    let mut wrong = Vec::new();
    for line in verdicts.lines().filter(|line| !line.starts_with('#')) {
        let line = line.split(';').next().expect("a line");
        let (file, verdict) = line.split_once(' ').expect("a file and a verdict");
        let words: Vec<&str> = verdict.split_whitespace().collect();
        let (is_uncut, words) = words.strip_prefix(&["uncut"]).map_or((false, &words[..]), |words| (true, words));
        let verdict = words.join(" ");
        let bytes =
            std::fs::read(folder().join(file).with_extension("msrp")).unwrap_or_else(|error| panic!("{file}: {error}"));
        let cut_len_max = if is_uncut { 0 } else { bytes.len().min(64) };
        for step in (1..cut_len_max).chain([bytes.len()]) {
            let outcome = outcome(&bytes, step);
            if outcome != verdict {
                wrong.push(format!("{file} in pieces of {step}: {outcome}, not {verdict}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_msrp_stream_has_a_verdict() {
    let verdicts = std::fs::read_to_string(folder().join("verdicts.txt")).expect("the verdicts are in the repository");
    let named: Vec<&str> = verdicts.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut count = 0;
    for entry in std::fs::read_dir(folder()).expect("the folder is in the repository") {
        let path = entry.expect("it can be listed").path();
        if path.extension().is_some_and(|extension| extension == "msrp") {
            let name = path.file_stem().and_then(|name| name.to_str()).expect("plain names");
            assert!(named.contains(&name), "{name} has no verdict");
            count += 1;
        }
    }
    assert!(count > 70, "the streams are there");
}

/// What the framer makes of a stream, in the words of the verdicts.
fn outcome(bytes: &[u8], step: usize) -> String {
    let mut framer = Framer::new();
    let mut words = Vec::new();
    let mut body_len = 0;
    for mut input in bytes.chunks(step) {
        loop {
            match framer.next(&mut input) {
                Event::Head(head) => {
                    let mut word = match head.kind {
                        Kind::Send => "SEND".to_owned(),
                        Kind::Report => "REPORT".to_owned(),
                        Kind::Auth => "AUTH".to_owned(),
                        Kind::Nickname => "NICKNAME".to_owned(),
                        Kind::Unknown => "?".to_owned(),
                        Kind::Response(status) => status.to_string(),
                    };
                    word.extend(head.fault.map(|fault| format!("!{fault:?}")));
                    word.extend(head.report_status.map(|status| format!("={status}")));
                    words.push(word);
                }
                Event::Body(part) => body_len += part.len(),
                Event::End(flag) => {
                    words.extend((body_len > 0).then(|| body_len.to_string()));
                    words.push(format!("{}{}", char::from(flag.byte()), if framer.keeps_range() { "" } else { "~" }));
                    body_len = 0;
                }
                Event::Incomplete => break,
                Event::Fault(fault) => {
                    words.push(format!("lost:{fault:?}"));
                    return words.join(" ");
                }
            }
        }
    }
    words.extend((body_len > 0).then(|| body_len.to_string()));
    words.extend((!framer.is_idle()).then(|| "open".to_owned()));
    words.join(" ")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture/msrp")
}
