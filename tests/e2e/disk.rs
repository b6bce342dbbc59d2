//! A disk that is full or refuses: no promise that cannot be kept, deliveries go on, and it comes back by itself.

use crate::support::appliance::Config;
use crate::support::documents::*;
use crate::support::world::*;
use crate::support::{eventually, skip};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const CARLA: &str = "sip:carla@home.example";

/// Bob waits for his messages, Carla is registered and wants a history.
fn stage(change: impl FnOnce(Config) -> Config) -> World {
    let mut world = World::with(VARIANTS[1], |config| change(config.set("log.level", "\"info\"")));
    world.know(BOB);
    let recording = Preferences { recording: "active", ..Preferences::handling("defer") };
    world.appliance.put_preferences(CARLA, &recording.document());
    world.register(CARLA, &[Device::new()]);
    world.assert_delivered(&pager(ALICE, CARLA));
    assert_eq!(world.appliance.admin_count(CARLA, "/history"), 1);
    assert_eq!(world.exchange(&pager(ALICE, BOB)).status(), Some(202));
    assert_eq!(health(&world), 200);
    world
}

fn health(world: &World) -> u16 {
    world.appliance.http("GET", "/healthz", &[], b"").status
}

/// Nothing is promised, what needs no disk goes on.
fn assert_refuses_what_it_cannot_keep(world: &mut World) {
    let response = world.exchange(&pager(ALICE, BOB));
    assert_eq!(response.status(), Some(503), "{response:?}");
    assert!(response.header("Retry-After").is_some(), "{response:?}");
    assert_eq!(health(world), 503);
    // A record that fails keeps nobody from their message (PM-5).
    world.assert_delivered(&pager(ALICE, CARLA));
    assert_eq!(world.appliance.admin(CARLA, "")["registered"], true, "what is there can be read");
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
}

/// Documents and registrations are refused, too, and change nothing.
fn assert_takes_no_change(world: &mut World) {
    let path = format!("/xcap/org.openmobilealliance.access-rules/users/{BOB}/access-rules");
    let headers = [("Content-Type", "application/auth-policy+xml")];
    let response = world.appliance.http("PUT", &path, &headers, policy_blocking(ALICE).as_bytes());
    assert_eq!(response.status, 503, "{}", response.text());
    let register = world.third_party_register(BOB, &[Device::new()], 600_000);
    let status = world.core_exchange(&register).status();
    assert!(status.is_some_and(|status| status >= 500), "{status:?}");
    assert_eq!(world.appliance.admin(BOB, "")["registered"], false);
}

fn assert_recovers(world: &mut World) {
    eventually("the appliance is healthy by itself", || (health(world) == 200).then_some(()));
    assert_eq!(world.exchange(&pager(ALICE, BOB)).status(), Some(202));
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 2, "two promises, two messages");
    world.register(BOB, &[Device::new()]);
    for _ in 0..2 {
        let delivered = world.core.request("MESSAGE");
        world.core.answer(&delivered, 200);
    }
    eventually("the queue is empty", || (world.appliance.admin_count(BOB, "/deferred") == 0).then_some(()));
    assert!(world.appliance.is_running());
    let log = world.appliance.log();
    assert!(log.contains("WARN") || log.contains("ERROR"), "the operator hears of it: {log}");
    assert!(!log.contains("home.example") && !log.contains("a.example"), "and of nobody's name: {log}");
}

#[test]
fn a_disk_that_fills_up_refuses_what_it_cannot_keep_and_recovers() {
    let Some(unshare) = private_mounts() else {
        skip("no file system can be mounted here, not even in a namespace of its own");
        return;
    };
    let mut mountpoint = PathBuf::new();
    let mut world = stage(|config| {
        // The file system lives and dies with the process.
        mountpoint = config.dir().join("disk");
        std::fs::create_dir(&mountpoint).expect("a folder");
        let script = "mount -t tmpfs -o size=96m ringpost-test \"$0\" && exec \"$@\"";
        let at = mountpoint.to_str().expect("UTF-8").to_owned();
        let data_dir = format!("{:?}", mountpoint.join("data"));
        let words: Vec<&str> = unshare.iter().copied().chain(["sh", "-c", script, &at]).collect();
        config.wrapped(&words).set("store.data_dir", &data_dir)
    });
    let inside = PathBuf::from(format!("/proc/{}/root{}", world.appliance.pid(), mountpoint.display()));
    let ballast = inside.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("the file system of the appliance can be entered");

    // Above the high-water mark: what only adds is refused, what makes room or is small goes on.
    let block = vec![0_u8; 1 << 20];
    for _ in 0..48 {
        file.write_all(&block).expect("room for the ballast");
    }
    assert_refuses_what_it_cannot_keep(&mut world);
    assert!(world.appliance.http("GET", "/healthz", &[], b"").text().contains("disk is full"));

    // To the last byte. The log may have room of its own left: writing goes on until that is used up.
    let mut one = block.len();
    while one > 0 {
        if file.write_all(&block[..one]).is_err() {
            one /= 2;
        }
    }
    let path = format!("/admin/users/{BOB}/availability");
    eventually("a write fails", || {
        let response = world.appliance.http("PUT", &path, &[("Content-Type", "text/plain")], b"available");
        (response.status == 503).then_some(())
    });
    assert_takes_no_change(&mut world);
    assert_refuses_what_it_cannot_keep(&mut world);

    drop(file);
    std::fs::remove_file(&ballast).expect("the ballast can be thrown off");
    assert_recovers(&mut world);
}

#[test]
fn a_store_whose_files_may_not_grow_refuses_what_it_cannot_keep_and_recovers() {
    let mut world = stage(|config| config);
    // Every write beyond this offset fails, and brings a signal that would end the process.
    if !limit_files(&world, "4096") {
        skip("prlimit is not installed");
        return;
    }
    assert_refuses_what_it_cannot_keep(&mut world);
    assert_takes_no_change(&mut world);
    assert_refuses_what_it_cannot_keep(&mut world);
    assert_eq!(world.appliance.metric("ringpost_store_broken", &[]), 1);
    assert!(limit_files(&world, "unlimited"));
    assert_recovers(&mut world);
    assert_eq!(world.appliance.metric("ringpost_store_broken", &[]), 0);
}

/// Sets the bound on file sizes of the running appliance; false where that cannot be done.
fn limit_files(world: &World, soft: &str) -> bool {
    let pid = world.appliance.pid().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={soft}:")]).status();
    set.is_ok_and(|status| status.success())
}

/// The command that gives a program mounts of its own, where there is one.
fn private_mounts() -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [&["unshare", "--mount"], &["unshare", "--user", "--map-root-user", "--mount"]];
    WAYS.into_iter().find(|words| {
        let probe = "mount -t tmpfs -o size=1m ringpost-test /tmp";
        let tried = Command::new(words[0]).args(&words[1..]).args(["sh", "-c", probe]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    })
}
