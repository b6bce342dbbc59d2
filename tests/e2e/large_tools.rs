//! Strangers as witnesses of large message mode: tshark reads what the appliance writes, sipp calls through it.

use super::tools::{Capture, decode_as, fields, is_installed, read, tail};
use crate::support::documents::*;
use crate::support::endpoint::Endpoint;
use crate::support::large::*;
use crate::support::message::token;
use crate::support::msrp::Peer;
use crate::support::sdp::Media;
use crate::support::world::*;
use crate::support::{eventually, skip};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn tshark_finds_nothing_malformed_in_a_session() {
    if !is_installed("tshark") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("large.pcapng");
    let Some(capture) = Capture::start(&file, "udp or tcp") else {
        skip("tshark may not capture on lo here");
        return;
    };
    let mut decode = Vec::new();
    let mut last = String::new();
    for (variant, plan) in [(VARIANTS[0], Plan::default()), (VARIANTS[3], Plan::both_passive())] {
        let mut world = World::with_bob(variant);
        let mut call = Call::start(&mut world, &plan);
        call.ring(&mut world, 180);
        call.answer(&mut world);
        call.acknowledge(&mut world);
        call.join();
        let mut ports = vec![world.addr().port(), world.alice.addr().port(), world.core.addr().port()];
        ports.extend([call.a_dialog().next_hop().port(), call.b_dialog().next_hop().port()]);
        decode.extend(decode_as(&ports));
        for port in [call.a.addr(), call.b.addr(), call.a.remote_addr(), call.b.remote_addr()].map(|addr| addr.port()) {
            decode.extend(["-d".to_owned(), format!("tcp.port=={port},msrp")]);
        }
        call.transfer(&large_cpim(30_000), 2_000, 4);
        let refused = call.a.whole("no", "image/png", b"png");
        call.a.send(&refused);
        assert_eq!(call.a.response_to(&refused).status, Some(415));
        call.hang_up(&mut world);
        let refused = world.invite(BOB, &Media::offer(&Peer::new()).text(), &[]).header("Session-Expires", "60");
        let sent = world.send(&refused);
        assert_eq!(world.alice.final_response(&sent).status(), Some(422));
        last = sent.call_id;
    }
    eventually("the last answer is captured", || {
        fields(&file, &decode, "sip.Status-Code", "sip.Call-ID").contains(&last).then_some(())
    });
    capture.stop();
    // Other tests run meanwhile: only what these ports carry counts.
    let ours: Vec<&str> = decode.iter().filter_map(|word| word.split_once(',').map(|(port, _)| port)).collect();
    let filter = format!("({})", ours.join(" || "));
    let wrong = format!("{filter} && (_ws.malformed || _ws.expert.severity >= 8388608) && (sip || sdp || msrp)");
    let malformed = fields(&file, &decode, &wrong, "frame.number");
    assert!(malformed.is_empty(), "frames {malformed:?}\n{}", read(&file, &decode, &["-Y", &wrong, "-V"]));
    let methods = fields(&file, &decode, &format!("{filter} && sip.Method"), "sip.Method").join(",");
    for method in ["INVITE", "ACK", "BYE"] {
        assert!(methods.contains(method), "{method} in {methods}");
    }
    let requests = fields(&file, &decode, &format!("{filter} && msrp.method"), "msrp.method").join(",");
    assert!(requests.contains("SEND"), "{requests}");
    let media = fields(&file, &decode, &format!("{filter} && sdp.media"), "sdp.media").join(",");
    assert!(media.contains("message"), "{media}");
}

#[test]
fn sipp_calls_through() {
    if !is_installed("sipp") {
        return;
    }
    for (variant, mode) in [(VARIANTS[1], "u1"), (VARIANTS[3], "t1")] {
        let mut world = World::with_bob(variant);
        let core = std::mem::replace(&mut world.core, Endpoint::new());
        let device = Device200::start(core, &world);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let scenario = dir.path().join("invite.xml");
        std::fs::write(&scenario, SCENARIO).expect("the temporary folder takes the file");
        let output = Command::new("sipp")
            .arg(world.addr().to_string())
            .args(["-sf".as_ref(), scenario.as_os_str()])
            .args(["-i", "127.0.0.1", "-t", mode, "-m", "40", "-r", "40", "-l", "40", "-nostdin"])
            .args(["-timeout", "40s", "-timeout_error"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("sipp runs");
        assert!(output.status.success(), "{mode}: {}", tail(&output));
        let (invites, byes) = device.stop();
        assert_eq!((invites, byes), (40, 40), "{mode}");
        eventually("no session is left", || (world.gauge("ringpost_msrp_sessions") == 0).then_some(()));
    }
}

/// A device that takes every call and every hang-up.
struct Device200 {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 2]>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Device200 {
    fn start(mut core: Endpoint, world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let contact = core.contact("bob-device", world.transport);
        let (thread_stop, thread_counts) = (stop.clone(), counts.clone());
        let thread = std::thread::spawn(move || {
            let peer = Peer::new();
            while !thread_stop.load(Ordering::Relaxed) {
                let Some(message) = core.next_new_within(Duration::from_millis(50)) else { continue };
                match message.method() {
                    Some("INVITE") => {
                        thread_counts[0].fetch_add(1, Ordering::SeqCst);
                        let text = Media::answer(&peer).text();
                        let body = Some(("application/sdp", text.as_bytes()));
                        core.answer_as(&message, 200, &token("bt"), &[("Contact", &contact)], body);
                    }
                    Some("BYE") => {
                        thread_counts[1].fetch_add(1, Ordering::SeqCst);
                        core.answer(&message, 200);
                    }
                    _ => {}
                }
            }
        });
        Self { stop, counts, thread: Some(thread) }
    }

    /// INVITEs and BYEs that came. The last BYE may still be on its way.
    fn stop(self) -> (usize, usize) {
        let [invites, byes] = &*self.counts;
        eventually("a BYE for every call", || {
            (byes.load(Ordering::SeqCst) >= invites.load(Ordering::SeqCst)).then_some(())
        });
        (invites.load(Ordering::SeqCst), byes.load(Ordering::SeqCst))
    }
}

impl Drop for Device200 {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// INVITE, 200, ACK, BYE, 200: sipp counts anything else as a failed call.
const SCENARIO: &str = r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<!DOCTYPE scenario SYSTEM "sipp.dtd">
<scenario name="large message mode">
  <send retrans="500">
    <![CDATA[

      INVITE sip:bob@home.example SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
      Max-Forwards: 70
      From: <sip:alice@a.example>;tag=[pid]sipp[call_number]
      To: <sip:bob@home.example>
      Call-ID: [call_id]
      CSeq: 1 INVITE
      Contact: <sip:alice@[local_ip]:[local_port];transport=[transport]>
      P-Asserted-Identity: <sip:alice@a.example>
      P-Asserted-Service: urn:urn-7:3gpp-service.ims.icsi.oma.cpm.largemsg
      Accept-Contact: *;+g.3gpp.icsi-ref="urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg"
      Conversation-ID: conv[call_number]
      Contribution-ID: contr[call_number]
      Content-Type: application/sdp
      Content-Length: [len]

      v=0
      o=- 4711 1 IN IP4 [local_ip]
      s=-
      c=IN IP4 [local_ip]
      t=0 0
      m=message 9 TCP/MSRP *
      a=accept-types:message/cpim
      a=setup:active
      a=sendonly
      a=path:msrp://[local_ip]:9/sipp[call_number];tcp
    ]]>
  </send>
  <recv response="100" optional="true"></recv>
  <recv response="180" optional="true"></recv>
  <recv response="200" rtd="true" rrs="true"></recv>
  <send>
    <![CDATA[

      ACK [next_url] SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
      [routes]
      Max-Forwards: 70
      From: <sip:alice@a.example>;tag=[pid]sipp[call_number]
      To: <sip:bob@home.example>[peer_tag_param]
      Call-ID: [call_id]
      CSeq: 1 ACK
      Content-Length: 0

    ]]>
  </send>
  <pause milliseconds="100"/>
  <send retrans="500">
    <![CDATA[

      BYE [next_url] SIP/2.0
      Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch];rport
      [routes]
      Max-Forwards: 70
      From: <sip:alice@a.example>;tag=[pid]sipp[call_number]
      To: <sip:bob@home.example>[peer_tag_param]
      Call-ID: [call_id]
      CSeq: 2 BYE
      Content-Length: 0

    ]]>
  </send>
  <recv response="200"></recv>
</scenario>
"#;
