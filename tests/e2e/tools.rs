//! Strangers as witnesses: sipp drives messages through the appliance, tshark looks at what it wrote.

use crate::support::documents::*;
use crate::support::endpoint::Endpoint;
use crate::support::world::*;
use crate::support::{eventually, skip};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// True where the tool can be run.
pub fn is_installed(tool: &str) -> bool {
    let found = Command::new(tool).arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        skip(&format!("{tool} is not installed"));
    }
    found.is_ok()
}

#[test]
fn sipp_drives_messages_through() {
    if !is_installed("sipp") {
        return;
    }
    for (variant, mode) in [(VARIANTS[1], "u1"), (VARIANTS[3], "t1")] {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let core = std::mem::replace(&mut world.core, Endpoint::new()).answer_everything(200);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let scenario = dir.path().join("message.xml");
        std::fs::write(&scenario, SCENARIO).expect("writable");
        let target = world.addr().to_string();
        let arguments = ["-nostdin", "-i", "127.0.0.1", "-t", mode, "-m", "300", "-r", "150", "-l", "30"];
        let output = Command::new("sipp")
            .current_dir(dir.path())
            .arg(&target)
            .arg("-sf")
            .arg(&scenario)
            .args(arguments)
            .args(["-timeout", "40s", "-timeout_error", "-recv_timeout", "15000", "-trace_err"])
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .output()
            .expect("sipp runs");
        assert!(output.status.success(), "{mode}: {}\n{}", output.status, tail(&output));
        assert_eq!(core.count(), 300, "{mode}: every message reached the core once");
    }
}

#[test]
fn tshark_finds_no_malformed_packet() {
    if !is_installed("tshark") {
        return;
    }
    let mut udp = World::new(VARIANTS[1]);
    let mut tcp = World::new(VARIANTS[3]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("capture.pcapng");
    let ports: Vec<u16> = [&udp, &tcp]
        .iter()
        .flat_map(|world| [world.addr().port(), world.core.addr().port(), world.alice.addr().port()])
        .collect();
    let filter = ports.iter().map(|port| format!("port {port}")).collect::<Vec<_>>().join(" or ");
    let Some(capture) = Capture::start(&file, &filter) else {
        skip("tshark may not capture on lo here");
        return;
    };
    for world in [&mut udp, &mut tcp] {
        world.register(BOB, &[Device::new()]);
        for _ in 0..10 {
            world.assert_delivered(&pager(ALICE, BOB));
        }
        world.appliance.put_policy(BOB, &policy_blocking(ALICE));
        world.assert_refused(&pager(ALICE, BOB), 403);
        world.assert_refused(&pager_bare(CAROL, BOB).body("image/png", "png"), 415);
        world.know("sip:dora@home.example");
        world.assert_refused(&pager(CAROL, "sip:dora@home.example"), 202);
        world.register("sip:dora@home.example", &[Device::new()]);
        let delivered = world.core.request("MESSAGE");
        world.core.answer(&delivered, 200);
        let last = world.exchange(&crate::support::message::Request::between("OPTIONS", ALICE, BOB));
        let last = last.call_id();
        let decode = decode_as(&ports);
        // The capture has a buffer: it is complete when the last answer is in it.
        eventually("the last answer is captured", || {
            let calls = fields(&file, &decode, "sip.Status-Code", "sip.Call-ID");
            calls.contains(&last).then_some(())
        });
    }
    capture.stop();
    let decode = decode_as(&ports);
    let malformed = fields(&file, &decode, "_ws.malformed || _ws.expert.severity >= 8388608", "frame.number");
    let listing = || read(&file, &decode, &["-Y", "_ws.malformed || _ws.expert.severity >= 8388608", "-V"]);
    assert!(malformed.is_empty(), "frames {malformed:?}\n{}", listing());
    let methods = fields(&file, &decode, "sip.Method", "sip.Method");
    let messages = methods.iter().filter(|method| method.contains("MESSAGE")).count();
    assert!(messages >= 2 * 2 * 10, "{messages} MESSAGE requests were dissected as SIP");
    let statuses = fields(&file, &decode, "sip.Status-Code", "sip.Status-Code").join(",");
    for status in ["200", "202", "403", "415"] {
        assert!(statuses.contains(status), "{status} in {statuses}");
    }
}

/// A running capture.
pub struct Capture(Child);

impl Capture {
    /// Starts capturing, or returns `None` where that is not allowed.
    pub fn start(file: &Path, filter: &str) -> Option<Self> {
        let mut child = Command::new("tshark")
            .args(["-i", "lo", "-f", filter, "-q", "-w"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let (door, lines) = std::sync::mpsc::channel();
        let stderr = child.stderr.take()?;
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = door.send(line);
            }
        });
        // The file exists once packets are being taken; "Capturing on" alone comes a little earlier.
        let started = loop {
            match lines.recv_timeout(crate::support::DEADLINE) {
                Ok(line) if line.starts_with("Capturing on") => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        let mut capture = Self(child);
        if !started {
            let _ = capture.0.kill();
            let _ = capture.0.wait();
            return None;
        }
        eventually("the capture file exists", || {
            let header = std::fs::metadata(file).is_ok_and(|file| file.len() > 0);
            let ended = capture.0.try_wait().expect("the child can be asked").is_some();
            (header || ended).then_some(())
        });
        if capture.0.try_wait().expect("the child can be asked").is_some() {
            return None;
        }
        Some(capture)
    }

    /// Ends it; the file is complete.
    pub fn stop(mut self) {
        crate::support::appliance::signal(self.0.id(), "INT");
        let child = &mut self.0;
        eventually("tshark ends", || child.try_wait().expect("the child can be asked"));
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Options that make tshark read these ports as SIP.
pub fn decode_as(ports: &[u16]) -> Vec<String> {
    ports
        .iter()
        .flat_map(|port| {
            ["-d".to_owned(), format!("udp.port=={port},sip"), "-d".to_owned(), format!("tcp.port=={port},sip")]
        })
        .collect()
}

/// One field of every frame that a display filter selects.
pub fn fields(file: &Path, decode: &[String], filter: &str, field: &str) -> Vec<String> {
    let text = read(file, decode, &["-Y", filter, "-T", "fields", "-e", field]);
    text.lines().flat_map(|line| line.split(',')).map(str::to_owned).filter(|value| !value.is_empty()).collect()
}

/// What tshark prints about a capture.
pub fn read(file: &Path, decode: &[String], more: &[&str]) -> String {
    let output = Command::new("tshark")
        .arg("-r")
        .arg(file)
        .args(decode)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .expect("tshark runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    // A file that is still being written may end in the middle of a packet; anything else would make checks empty.
    assert!(output.status.success() || errors.contains("cut short"), "tshark {more:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The last lines of a tool's output.
pub fn tail(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().rev().take(60).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// One MESSAGE, one 200: sipp counts anything else as a failed call.
const SCENARIO: &str = r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<!DOCTYPE scenario SYSTEM "sipp.dtd">
<scenario name="pager mode message">
  <send retrans="500">
    <![CDATA[

      MESSAGE sip:bob@home.example SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
      Max-Forwards: 70
      From: <sip:alice@a.example>;tag=[pid]sipp[call_number]
      To: <sip:bob@home.example>
      Call-ID: [call_id]
      CSeq: 1 MESSAGE
      P-Asserted-Identity: <sip:alice@a.example>
      P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg
      Accept-Contact: *;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg"
      Conversation-ID: conv[call_number]
      Contribution-ID: contr[call_number]
      Content-Type: text/plain
      Content-Length: [len]

      Hello number [call_number]
    ]]>
  </send>
  <recv response="200" rtd="true"></recv>
</scenario>
"#;
