//! The stage of large message mode itself: Alice and the device without an appliance between them.

use crate::support::dialog::{Dialog, address_in, tag_of, uri_in};
use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::large::*;
use crate::support::message::token;
use crate::support::msrp::{Arrival, Chunk, Peer, Wire, address_of, decode, first};
use crate::support::sdp::{Media, Sdp};
use std::time::Duration;

/// Two parties that know each other's path and are connected.
fn pair() -> (Peer, Peer) {
    let (mut a, mut b) = (Peer::new(), Peer::new());
    a.remote_path = b.uri.clone();
    b.remote_path = a.uri.clone();
    a.connect();
    b.accept();
    (a, b)
}

#[test]
fn peers_exchange_a_large_message_in_chunks() {
    let (mut a, mut b) = pair();
    let body = large_cpim(1 << 20);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| b.receive_message());
        let statuses = a.send_message("message1", CPIM, &body, 10_240, 8);
        assert_eq!(statuses, vec![200; body.len().div_ceil(10_240)]);
        let whole = receiver.join().expect("the receiver saw what it should");
        assert_eq!((whole.message_id.as_str(), whole.content_type.as_str()), ("message1", CPIM));
        assert_eq!(sha256(&whole.bytes), sha256(&body));
        assert_eq!(whole.total, Some(body.len() as u64));
    });
}

#[test]
fn peers_answer_bodiless_sends_and_report() {
    let (mut a, mut b) = pair();
    let binding = a.send_request("empty");
    a.send(&binding);
    let chunk = a.whole("m1", CPIM, b"hello").header("Success-Report", "yes");
    a.send(&chunk);
    let frame = b.next_send();
    assert_eq!(b.bindings.len(), 1);
    assert_eq!(a.response_to(&binding).status, Some(200));
    b.answer(&frame, 413);
    assert_eq!(a.response_to(&chunk).status, Some(413));
    b.send(&Chunk::report(&frame, "200 OK", "1-5/5"));
    let report = a.next();
    assert!(report.is("REPORT"));
    assert_eq!((report.must("Status").as_str(), report.range()), ("000 200 OK", (1, Some(5), Some(5))));
    assert_eq!((report.must("To-Path"), report.must("From-Path")), (a.uri.clone(), b.uri.clone()));
}

#[test]
fn peers_see_silence_closing_and_resets() {
    let (mut a, mut b) = pair();
    assert!(matches!(b.arrival(Duration::from_millis(1)), Arrival::Silence));
    let chunk = a.whole("m1", CPIM, b"hello").encode();
    a.wire().write(&chunk[..chunk.len() - 3]);
    a.wire().half_close();
    assert!(matches!(b.arrival(Duration::from_secs(5)), Arrival::Closed));
    assert!(b.wire().carry().starts_with(b"MSRP "));
    let (mut a, b) = pair();
    let mut wire: Wire = { b }.take_wire();
    a.take_wire().reset();
    assert!(wire.until_closed().is_empty());
    assert!(wire.try_write(b"x").is_err());
}

#[test]
fn the_codec_is_strict_and_finds_the_end_of_a_chunk() {
    let text = "MSRP a123 SEND\r\nTo-Path: msrp://b:1/x;tcp\r\nFrom-Path: msrp://a:1/y;tcp\r\nMessage-ID: 7\r\n\
                Byte-Range: 1-*/*\r\nContent-Type: text/plain\r\n\r\na\r\n-------a124$\r\n-------a123x\r\n\r\n-------a123+\r\nMSRP";
    let (frame, len) = decode(text.as_bytes()).expect("legal").expect("whole");
    assert_eq!(len, text.len() - 4);
    assert_eq!(frame.body.as_deref(), Some(&b"a\r\n-------a124$\r\n-------a123x\r\n"[..]));
    assert_eq!((frame.flag, frame.range()), ('+', (1, None, None)));
    for end in 0..len {
        assert_eq!(decode(&text.as_bytes()[..end]), Ok(None), "cut at {end}");
    }
    let response = "MSRP a123 200 OK\r\nTo-Path: msrp://b:1/x;tcp\r\nFrom-Path: msrp://a:1/y;tcp\r\n-------a123$\r\n";
    assert_eq!(decode(response.as_bytes()).expect("legal").expect("whole").0.status, Some(200));
    for wrong in [
        text.replace("MSRP a123", "MSRP a1"),
        text.replace("From-Path", "X-Path"),
        text.replace("Message-ID: 7\r\n", ""),
        text.replace("Byte-Range: 1-*/*\r\nContent-Type: text/plain", "Content-Type: text/plain\r\nByte-Range: 1-*/*"),
        text.replace("1-*/*", "1-4/*").replace("-------a123+", "-------a123$"),
        response.replace("$\r\n", "+\r\n"),
    ] {
        assert!(decode(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn descriptions_are_written_and_read() {
    let peer = Peer::new();
    let media = Media {
        max_size: Some(1000),
        before: "m=audio 4000 RTP/AVP 0\r\n".into(),
        behind: "m=video 0 RTP/AVP 31\r\n".into(),
        ..Media::offer(&peer)
    };
    let sdp = Sdp::read(media.text().as_bytes());
    assert_eq!(sdp.media.len(), 3);
    assert_eq!(sdp.address(), peer.addr());
    assert_eq!(sdp.path().concat(), peer.uri);
    assert_eq!(address_of(&sdp.path()[0]), peer.addr());
    assert_eq!((sdp.direction(), sdp.must("setup").as_str()), ("sendonly", "actpass"));
    assert_eq!((sdp.must("accept-types").as_str(), sdp.must("max-size").as_str()), (CPIM, "1000"));
    assert_eq!(sdp.origin()[1], "4711");
    assert_eq!(first("msrp://a;tcp msrp://b;tcp"), "msrp://a;tcp");
}

#[test]
fn dialogs_carry_requests_both_ways() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let (mut alice, mut core) = (Endpoint::new(), Endpoint::new());
        let peer = Peer::new();
        let contact = alice.contact("alice", transport);
        let invite = invite_bare(ALICE, BOB, &Media::offer(&peer).text()).header("Contact", &contact);
        let sent = alice.send(&invite, transport, core.addr());
        let received = core.request("INVITE");
        assert_eq!(Sdp::read(received.body()).path().concat(), peer.uri);
        let (tag, core_contact) = (token("bt"), core.contact("bob", transport));
        core.answer_as(&received, 180, &tag, &[("Contact", &core_contact)], None);
        assert_eq!(alice.response_with(&sent, 180).status(), Some(180));
        let answer = Media::answer(&peer).text();
        let body = Some(("application/sdp", answer.as_bytes()));
        core.answer_as(&received, 200, &tag, &[("Contact", &core_contact)], body);
        let mut callee = Dialog::callee(&received, &tag, &core_contact, transport);
        let ok = alice.final_response(&sent);
        assert_eq!((ok.body(), tag_of(&ok.must("To"))), (answer.as_bytes(), tag));
        let mut caller = Dialog::caller(&invite, &ok, transport);
        caller.send(&mut alice, &caller.ack(caller.cseq));
        assert_eq!(callee.expect(&mut core, "ACK").must("CSeq"), "1 ACK");
        let update = callee.request("UPDATE");
        let sent = callee.send(&mut core, &update);
        let arrived = caller.expect(&mut alice, "UPDATE");
        alice.answer(&arrived, 200);
        assert_eq!(core.final_response(&sent).status(), Some(200));
        let bye = caller.request("BYE");
        let sent = caller.send(&mut alice, &bye);
        let arrived = callee.expect(&mut core, "BYE");
        assert_eq!(arrived.must("CSeq"), "2 BYE");
        core.answer(&arrived, 200);
        assert_eq!(alice.final_response(&sent).status(), Some(200));
    }
}

#[test]
fn a_failed_invite_is_acknowledged_and_can_be_cancelled() {
    let (mut alice, mut core) = (Endpoint::new(), Endpoint::new());
    let invite = invite_bare(ALICE, BOB, "").header("Contact", &alice.contact("alice", Transport::Udp));
    let sent = alice.send(&invite, Transport::Udp, core.addr());
    let received = core.request("INVITE");
    let cancelling = alice.cancel(&sent);
    let cancel = core.request("CANCEL");
    assert_eq!(cancel.branch(), received.branch());
    core.answer(&cancel, 200);
    core.answer(&received, 487);
    assert_eq!(alice.final_response(&cancelling).status(), Some(200));
    assert_eq!(alice.final_response(&sent).status(), Some(487));
    assert_eq!(core.request("ACK").branch(), received.branch());
}

#[test]
fn addresses_are_found_in_uris() {
    assert_eq!(uri_in("\"B\" <sip:b@127.0.0.1:7;transport=tcp>;x"), "sip:b@127.0.0.1:7;transport=tcp");
    assert_eq!(uri_in("sip:b@127.0.0.1:7;tag=x"), "sip:b@127.0.0.1:7");
    assert_eq!(address_in("sip:b@127.0.0.1:7;transport=tcp").port(), 7);
    assert_eq!(address_of("msrp://[::1]:2855/s;tcp").to_string(), "[::1]:2855");
    assert_eq!(tag_of("<sip:b@h;user=phone>;x=y;tag=7"), "7");
}
