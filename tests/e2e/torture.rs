//! Messages made to be misread: those of RFC 4475 (SPEC case A42) and the project's own.

use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::message::Request;
use crate::support::world::*;
use crate::support::{DEADLINE, skip};
use std::path::{Path, PathBuf};

/// What came of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Forwarded,
    Answered(u16),
    Dropped,
}

impl Outcome {
    fn is_allowed_by(&self, verdict: &str) -> bool {
        verdict.split('/').any(|allowed| match self {
            Self::Forwarded => allowed == "forward",
            Self::Answered(status) => allowed == status.to_string(),
            Self::Dropped => allowed == "drop",
        })
    }
}

/// Sends a datagram from a socket of its own and watches what comes of it. A verdict that expects an answer alone is
/// waited for; otherwise a good message follows on the same path, and what has not happened when it is through does not.
fn try_message(world: &mut World, message: &[u8], verdict: &str) -> Outcome {
    let mut sender = Endpoint::new();
    let addr = world.addr();
    sender.send_bytes(message, Transport::Udp, addr);
    let must_be_answered = !verdict.split('/').any(|allowed| matches!(allowed, "drop" | "forward"));
    if must_be_answered {
        // A REGISTER is answered after its commit: what follows it can overtake it.
        let answer = sender.next_raw(DEADLINE);
        return answer.map_or(Outcome::Dropped, |answer| Outcome::Answered(status(&answer).unwrap_or(0)));
    }
    let probe = sender.send(&pager(CAROL, BOB), Transport::Udp, addr);
    let mut outcome = Outcome::Dropped;
    loop {
        let raw = world.core.next_raw(DEADLINE).expect("the good message is forwarded");
        let forwarded = String::from_utf8_lossy(&raw).into_owned();
        world.core.reply_text(&crate::sip_rules::plain_answer(&forwarded, 200), Transport::Udp, sent_by(&forwarded));
        if forwarded.contains(&probe.call_id) {
            break;
        }
        outcome = Outcome::Forwarded;
    }
    loop {
        let answer = sender.next_raw(DEADLINE).expect("the good message is answered");
        if String::from_utf8_lossy(&answer).contains(&probe.branch) {
            return outcome;
        }
        match (&outcome, status(&answer)) {
            (Outcome::Forwarded, Some(200)) => {}
            (_, answered) => outcome = Outcome::Answered(answered.unwrap_or(0)),
        }
    }
}

fn torture_world() -> World {
    let mut world = World::udp();
    world.register(BOB, &[Device::new()]);
    world
}

#[test]
fn our_own_torture_messages_get_their_verdicts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torture");
    let verdicts = std::fs::read_to_string(dir.join("verdicts.txt")).expect("the verdicts are in the repository");
    let mut world = torture_world();
    let mut wrong = Vec::new();
    let mut files = 0;
    for line in verdicts.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (file, verdict) = (words.next().expect("a file"), words.next().expect("a verdict"));
        let message = std::fs::read(dir.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        println!("{file}");
        let outcome = try_message(&mut world, &message, verdict);
        if !outcome.is_allowed_by(verdict) {
            wrong.push(format!("{file}: {outcome:?}, not {verdict}"));
        }
        files += 1;
    }
    assert!(world.appliance.is_running());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let kept = std::fs::read_dir(&dir)
        .expect("readable")
        .flatten()
        .filter(|file| file.path().extension().is_some_and(|e| e == "sip"));
    assert_eq!(kept.count(), files, "every file has a verdict");
}

#[test]
fn a42_the_valid_messages_of_rfc_4475_get_correct_answers() {
    check_rfc_4475(&[
        ("wsinv", "481"),
        ("intmeth", "405/501"),
        ("esc01", "488"),
        ("escnull", "200"),
        ("esc02", "405/501"),
        ("lwsdisp", "200"),
        ("longreq", "488"),
        ("dblreq", "200"),
        ("semiuri", "200"),
        ("transports", "200"),
        // No asserted identity, an unknown user, a part that is not accepted: each a reason, none a malformation.
        ("mpart01", "403/404/415"),
        ("noreason", "drop"),
    ]);
}

#[test]
fn the_other_messages_of_rfc_4475_are_answered_or_dropped() {
    check_rfc_4475(&[
        ("badaspec", "400/200"),
        ("badbranch", "400/200"),
        ("baddate", "400/488"),
        ("baddn", "400/200"),
        ("badinv01", "400/drop"),
        ("badvers", "505/400/drop"),
        ("bcast", "drop"),
        ("bext01", "420"),
        ("bigcode", "drop"),
        ("clerr", "400"),
        ("cparam01", "200"),
        ("cparam02", "200"),
        ("escruri", "400/405"),
        ("insuf", "400"),
        ("inv2543", "488"),
        ("invut", "488"),
        ("ltgtruri", "400"),
        ("lwsruri", "400"),
        ("lwsstart", "400"),
        ("mcl01", "400"),
        ("mismatch01", "400"),
        ("mismatch02", "400/405/501"),
        ("multi01", "400"),
        ("ncl", "400"),
        ("novelsc", "200/400/416"),
        ("quotbal", "400"),
        ("regaut01", "200"),
        ("regbadct", "200/400"),
        ("regescrt", "200"),
        ("scalar02", "400"),
        ("scalarlg", "drop"),
        ("sdp01", "488"),
        ("trws", "400"),
        ("unkscm", "200/400/416"),
        ("unksm2", "200/400/404/416"),
        ("unreason", "drop"),
        ("zeromf", "483/200"),
    ]);
}

fn check_rfc_4475(verdicts: &[(&str, &str)]) {
    let Some(dir) = rfc_4475_dir() else {
        skip("the RFC 4475 messages are not beside the repository (../shared/torture/rfc4475)");
        return;
    };
    let mut wrong = Vec::new();
    for (name, verdict) in verdicts {
        println!("{name}");
        // Many of the messages share branch and sent-by: to one appliance they would be retransmissions.
        let mut world = torture_world();
        let message = std::fs::read(dir.join(format!("{name}.dat"))).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = try_message(&mut world, &with_rport(&message), verdict);
        if !outcome.is_allowed_by(verdict) {
            wrong.push(format!("{name}: {outcome:?}, not {verdict}"));
        }
        let sent = world.send(&Request::between("OPTIONS", ALICE, BOB));
        assert_eq!(world.alice.response(&sent).status(), Some(200), "after {name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The folder with the RFC's messages: beside the repository, or beside the folder that it stands in.
fn rfc_4475_dir() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["../shared/torture/rfc4475", "../../shared/torture/rfc4475"]
        .iter()
        .map(|relative| root.join(relative))
        .find(|dir| dir.join("wsinv.dat").is_file())
}

/// Puts `rport` into the topmost Via, so that the answer comes to the socket that sent the message and not to port
/// 5060 of this machine. Nothing else is changed.
fn with_rport(message: &[u8]) -> Vec<u8> {
    if message.starts_with(b"SIP/2.0 ") || message.windows(6).any(|window| window == b";rport") {
        return message.to_vec();
    }
    let mut line_start = 0;
    while let Some(len) = message[line_start..].iter().position(|byte| *byte == b'\n') {
        let line = &message[line_start..line_start + len];
        let name: Vec<u8> = line
            .iter()
            .take_while(|byte| **byte != b':')
            .map(u8::to_ascii_lowercase)
            .filter(|byte| *byte != b' ')
            .collect();
        if name == b"via" || name == b"v" {
            // The value ends at a comma or at a line end that no folding follows.
            let mut at = line_start;
            loop {
                match message[at] {
                    b';' | b',' => break,
                    b'\r' if !matches!(message.get(at + 2), Some(b' ' | b'\t')) => break,
                    _ => at += 1,
                }
            }
            return [&message[..at], b";rport", &message[at..]].concat();
        }
        line_start += len + 1;
    }
    message.to_vec()
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(8..11)?).ok()?.parse().ok().filter(|_| answer.starts_with(b"SIP/2.0 "))
}

/// The address in the topmost Via.
pub fn sent_by(request: &str) -> std::net::SocketAddr {
    let via = request.lines().find(|line| line.to_ascii_lowercase().starts_with("via")).expect("a Via");
    let sent_by = via.split_whitespace().nth(2).and_then(|word| word.split(';').next()).expect("sent-by");
    sent_by.parse().unwrap_or_else(|_| panic!("the appliance's Via names an address and port: {via}"))
}
