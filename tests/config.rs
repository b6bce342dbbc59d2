//! The configuration from outside: error lines as an operator sees them, the annotated file, the commands.

use ringpost::config::Config;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GOLDEN: &str = "tests/golden/config_errors.txt";

/// Each case of the golden file is a configuration and, after `-->`, the line it is refused with.
#[test]
fn every_bad_configuration_is_refused_with_one_line_that_names_line_and_key() {
    let golden = read(GOLDEN);
    let mut produced = String::new();
    for case in golden.split_inclusive("--> ").filter(|case| case.ends_with("--> ")) {
        // A case begins after the line that ended the case before it.
        let text = case.strip_suffix("--> ").unwrap();
        let text = if produced.is_empty() { text } else { text.split_once('\n').unwrap().1 };
        let line = match Config::parse("bad.toml", text.trim_start_matches('\n')) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(!line.contains('\n'), "one line: {line}");
        writeln!(produced, "{text}--> {line}").unwrap();
    }
    assert!(produced.lines().filter(|line| line.starts_with("--> ")).count() > 40, "the file has cases");
    if produced != golden {
        let first = produced.lines().zip(golden.lines()).find(|(new, old)| new != old);
        panic!("{GOLDEN} differs, first at {first:#?}; as produced:\n{produced}");
    }
}

#[test]
fn the_annotated_file_says_the_defaults() {
    let path = manifest("tuning/ringpost.toml");
    assert_eq!(Config::load(&path).unwrap(), Config::default());
}

#[test]
fn the_annotated_file_names_every_key_and_its_commented_keys_are_valid() {
    let text = read("tuning/ringpost.toml");
    let mut complete = String::new();
    for line in text.lines() {
        // A comment that holds an assignment is a key without a default.
        let candidate = line.strip_prefix("# ").unwrap_or(line);
        let is_key = candidate.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        complete.push_str(if is_key { candidate } else { line });
        complete.push('\n');
    }
    // The name server must not be asked here.
    let complete = complete.replace("sip:isf.home.example:5090", "sip:scscf.home.example");
    let config = Config::parse("complete", &complete).unwrap();
    assert!(config.sip.isf.is_some() && config.xdms.root.is_some() && config.policy.ua_min.is_some());
    assert_eq!(config.policy.pager_body_len_max, Some(1300));
    assert_eq!(config.sip.hosts.len(), 1);
}

#[test]
fn a_bind_address_of_any_kind_and_port_zero_are_accepted() {
    for text in [
        "[sip]\nlisten = \"127.0.0.1:0\"\nshard_port = 0",
        "[sip]\nlisten = [\"[::1]:5060\"]",
        "[sip]\nlisten = [\"127.0.0.1:5060\", \"[::1]:5060\"]\n[http]\nlisten = \"[::1]:0\"",
        "[sip]\nlisten = \"0.0.0.0:5060\"\nadvertise = \"192.0.2.1\"",
        "[sip]\ncore = \"sip:localhost:5071;transport=tcp\"",
        "[msrp]\nlisten = \"127.0.0.1:0\"",
        "[msrp]\nlisten = [\"127.0.0.1:2855\", \"[::1]:2855\", \"127.0.0.1:0\", \"127.0.0.1:0\"]",
        "[msrp]\nlisten = [\"0.0.0.0:2855\", \"[::]:2855\"]\nadvertise = [\"192.0.2.1\", \"2001:db8::1\"]",
    ] {
        Config::parse("good", text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn a_missing_file_is_one_line() {
    let error = Config::load(Path::new("/nowhere/ringpost.toml")).unwrap_err().to_string();
    assert_eq!(error, "/nowhere/ringpost.toml: cannot be read: No such file or directory (os error 2)");
}

#[test]
fn check_config_says_ok_or_one_line_and_exits_2() {
    let good = ringpost(&["check-config", manifest("tuning/ringpost.toml").to_str().unwrap()]);
    assert_eq!(good.status.code(), Some(0));
    assert!(String::from_utf8(good.stdout).unwrap().ends_with("tuning/ringpost.toml: ok\n"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    std::fs::write(&path, "[sip]\n\nlisten = \"nonsense\"\n").unwrap();
    for arguments in [&["check-config"][..], &["serve", "--config"]] {
        let bad = ringpost(&[arguments, &[path.to_str().unwrap()]].concat());
        assert_eq!(bad.status.code(), Some(2));
        assert!(bad.stdout.is_empty());
        let line = String::from_utf8(bad.stderr).unwrap();
        assert!(line.contains("bad.toml:3: sip.listen: \"nonsense\" is not an address"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn a_bad_command_line_is_refused() {
    assert_eq!(ringpost(&[]).status.code(), Some(2));
    assert_eq!(ringpost(&["fly"]).status.code(), Some(2));
}

fn ringpost(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringpost")).args(arguments).output().unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(manifest(path)).unwrap()
}

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
