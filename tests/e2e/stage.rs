//! The stage itself: endpoints that cannot talk to each other prove nothing about what stands between them.

use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::message::{Origin, Received, Request, parameter, split_list};

#[test]
fn endpoints_exchange_messages_over_udp_and_tcp() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let (mut alice, mut core) = (Endpoint::new(), Endpoint::new());
        let request = pager(ALICE, BOB);
        let sent = alice.send(&request, transport, core.addr());
        let received = core.request("MESSAGE");
        assert_eq!(received.raw, sent.bytes);
        assert_eq!(received.uri(), Some(BOB));
        assert_eq!(received.body(), request.body);
        assert_eq!(received.values("Accept-Contact"), [ACCEPT_CONTACT]);
        core.answer_with(&received, 202, &[("Warning", "399 core \"seen\"")]);
        let response = alice.response(&sent);
        assert_eq!(response.status(), Some(202));
        assert_eq!(response.must("Warning"), "399 core \"seen\"");
        // A repeat gets the same answer, and the test does not see it twice.
        alice.resend(&sent);
        core.assert_silent_after(&mut alice, transport);
        assert_eq!(alice.response(&sent).raw, response.raw);
    }
}

#[test]
fn requests_that_rsip_cannot_write_are_written_all_the_same() {
    let request = Request::between("FROBNICATE", "tel:+15550100", "sip:bob@[::1]:5060");
    let text = String::from_utf8(request.encode()).expect("UTF-8");
    assert!(text.starts_with("FROBNICATE sip:bob@[::1]:5060 SIP/2.0\r\n"), "{text}");
    assert!(text.ends_with("Content-Length: 0\r\n\r\n"), "{text}");
    let message = Request::between("MESSAGE", ALICE, "tel:+15550100").header("Via", "SIP/2.0/UDP h;branch=z9hG4bKx");
    let read = Received::read(message.encode(), Origin::Tcp(0));
    assert_eq!(
        (read.method(), read.uri(), read.branch().as_str()),
        (Some("MESSAGE"), Some("tel:+15550100"), "z9hG4bKx")
    );
}

#[test]
fn header_values_are_taken_apart() {
    assert_eq!(split_list("a;x=\"1,2\", <sip:b,c>;d , e"), ["a;x=\"1,2\"", "<sip:b,c>;d", "e"]);
    assert_eq!(parameter("SIP/2.0/UDP h:1;rport;branch=z", "rport").as_deref(), Some(""));
    assert_eq!(parameter("SIP/2.0/UDP h:1;rport=7;branch=z", "rport").as_deref(), Some("7"));
    assert_eq!(parameter("<sip:a@b>", "tag"), None);
}

#[test]
fn documents_name_what_they_should() {
    let body = cpim(ALICE, BOB, "id1", "positive-delivery", "text/plain", "hello");
    assert!(body.contains("\r\nNS: imdn<urn:ietf:params:imdn>\r\nimdn.Message-ID: id1\r\n"), "{body}");
    assert!(body.ends_with("\r\n\r\nContent-Type: text/plain\r\n\r\nhello"), "{body}");
    let register = third_party_register("sip:pf", "sip:scscf", BOB, &[Device::new()], 600_000);
    assert!(String::from_utf8_lossy(&register.body).contains("+sip.instance=\"<urn:uuid:"));
    let preferences = Preferences { selected: vec!["urn:uuid:1".into()], ..Preferences::handling("store") };
    assert!(preferences.document().contains("<device instance=\"urn:uuid:1\"/>"));
}
