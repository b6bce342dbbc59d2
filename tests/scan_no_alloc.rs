//! Reading a message allocates nothing, since it happens for every one.

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;
use ringpost::participating::content;
use ringpost::participating::facts;
use ringpost::sip::message::Message;
use ringpost::sip::scan::{Name, Scan};
use ringpost::sip::transport::ViaStamp;
use ringpost::sip::uri::canonical;
use ringpost::sip::write::{self, Forward, Response};
use ringpost::testing::scene;

#[test]
fn reading_a_message_allocates_nothing() {
    let bytes = scene::cpm_message(1);
    assert!((1_500..1_800).contains(&bytes.len()), "{} bytes", bytes.len());
    let settings = scene::settings(0, 1);
    let mut scan = Scan::default();
    let mut out = Vec::with_capacity(8192);
    let count = allocations(|| {
        for _ in 0..3 {
            assert!(scan.scan(&bytes).is_ok());
            let view = Message { bytes: &bytes, scan: &scan };
            assert!(view.check_request().is_ok());
            let way = facts::way(&view, &settings);
            assert!(canonical(way.served).is_some() && way.own_routes == 1);
            let service = facts::service(&view, &settings.cpm_tags);
            assert!(matches!(service, facts::Service::Cpm(_)));
            let originator = facts::Originator::of(&view, facts::PAGER_SERVICE, false);
            assert!(originator.is_some_and(|found| found.main() == "sip:alice@a.example"));
            assert!(!facts::is_anonymous(&view));
            assert!(!facts::validity(&view, scene::WALL_START).expired);
            let body = (view.value(Name::ContentType), view.value(Name::ContentEncoding), view.body());
            assert!(content::check(body.0, body.1, body.2, &settings.accept_types).is_ok());
        }
    });
    assert_eq!(count, 0, "reading");
    let count = allocations(|| {
        let view = Message { bytes: &bytes, scan: &scan };
        let stamp = ViaStamp { received: Some(scene::CORE.ip()), rport: Some(5060) };
        write::forward_request(&mut out, &view, &Forward { via: b"v", stamp, pop_routes: 1, ..Forward::default() });
        out.clear();
        write::response(&mut out, &view, &Response { status: 202, reason: "Accepted", stamp, ..Response::default() });
    });
    assert_eq!(count, 0, "writing into a buffer that has grown");
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1_u64)))), 1);
}
