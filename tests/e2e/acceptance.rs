//! SPEC §5.1, cases A01 to A27, each over UDP and TCP, with one and with two shards.

use crate::support::documents::*;
use crate::support::endpoint::{Endpoint, Transport};
use crate::support::eventually;
use crate::support::message::{Received, Request, token, unique};
use crate::support::world::*;
use std::time::SystemTime;

#[test]
fn a01_a_message_for_a_registered_user_is_forwarded_and_its_answer_comes_back() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let request = pager(ALICE, BOB).header("X-Unknown", "kept as it is");
        let sent = world.send(&request);
        let forwarded = world.core.request("MESSAGE");
        assert_eq!(forwarded.uri(), Some(BOB));
        let vias = forwarded.values("Via");
        assert_eq!(vias.len(), 2, "{forwarded:?}");
        assert!(vias[0].starts_with(&format!("SIP/2.0/{} ", variant.transport.name())), "{}", vias[0]);
        assert!(vias[0].contains(";branch=z9hG4bK"), "{}", vias[0]);
        assert!(vias[1].contains(&sent.branch), "{}", vias[1]);
        assert_eq!(forwarded.must("Max-Forwards"), "69");
        let kept = [
            "Call-ID",
            "CSeq",
            "From",
            "To",
            "Date",
            "P-Asserted-Identity",
            "P-Asserted-Service",
            "Accept-Contact",
            "Conversation-ID",
            "Contribution-ID",
            "Content-Type",
            "X-Unknown",
        ];
        for name in kept {
            assert_eq!(Some(forwarded.must(name).as_str()), request.value(name), "{name}");
        }
        assert_eq!(forwarded.body(), request.body);
        assert!(forwarded.header("Record-Route").is_none() && forwarded.header("Contact").is_none());

        world.core.answer_with(&forwarded, 200, &[("X-From-Device", "seen")]);
        let response = world.alice.response(&sent);
        assert_eq!(response.status(), Some(200));
        assert_eq!(response.values("Via").len(), 1, "{response:?}");
        assert_eq!(response.must("X-From-Device"), "seen");
        for name in ["Call-ID", "CSeq", "From"] {
            assert_eq!(Some(response.must(name).as_str()), request.value(name), "{name}");
        }
        assert!(response.must("To").contains(";tag="));
        world.core.assert_silent();
        world.alice.assert_silent();
    });
}

#[test]
fn a02_a_sender_whom_the_access_policy_rejects_gets_403_with_a_warning() {
    in_all_variants(|variant| {
        let mut world = blocked_world(variant);
        let response = world.assert_refused(&pager(ALICE, BOB), 403);
        assert_warning(&response, "122 Function not allowed");
        assert_generated(&response);
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
        assert_eq!(world.appliance.admin_count(BOB, "/messages"), 0);
        assert_eq!(world.appliance.admin_count(BOB, "/history"), 0);
    });
}

#[test]
fn a03_a_rule_against_one_sender_leaves_the_others_alone() {
    in_all_variants(|variant| {
        let mut world = blocked_world(variant);
        world.assert_delivered(&pager(CAROL, BOB));
    });
}

#[test]
fn a04_a_rule_that_does_not_reject_lets_its_sender_through() {
    let conditions = format!("{}{SERVICE_CPM}{MEDIA_PAGER}", one(ALICE));
    passes_under(policy(&[Rule::new(conditions, "false")]));
}

#[test]
fn a05_a_rule_for_another_service_lets_messages_through() {
    let service =
        "<oxe:service-list><oxe:service enabler=\"urn:urn-7:3gpp-service.ims.icsi.mmtel\"/></oxe:service-list>";
    passes_under(policy(&[Rule::new(format!("{}{service}{MEDIA_PAGER}", one(ALICE)), "true")]));
}

#[test]
fn a06_a_rule_for_other_media_lets_messages_through() {
    let media = "<oxe:media-list><oxe:message-session/></oxe:media-list>";
    passes_under(policy(&[Rule::new(format!("{}{SERVICE_CPM}{media}", one(ALICE)), "true")]));
}

#[test]
fn a07_a_rule_without_service_and_media_applies_to_everything() {
    is_rejected_under(policy(&[Rule::new(one(ALICE), "true")]));
}

#[test]
fn a08_one_rejecting_rule_is_enough_whatever_other_rules_say() {
    let domain = "<cr:identity><cr:many domain=\"a.example\"/></cr:identity>";
    is_rejected_under(policy(&[Rule::new(domain, "true"), Rule::new(one(ALICE), "false")]));
    is_rejected_under(policy(&[Rule::new(one(ALICE), "0"), Rule::new(domain, "1")]));
}

#[test]
fn a09_a_rule_against_a_domain_spares_its_exception() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let domain = "<cr:identity><cr:many domain=\"spam.example\"><cr:except id=\"sip:friend@spam.example\"/></cr:many></cr:identity>";
        world.appliance.put_policy(BOB, &policy(&[Rule::new(domain, "true")]));
        world.assert_delivered(&pager("sip:friend@spam.example", BOB));
        let response = world.assert_refused(&pager("sip:other@spam.example", BOB), 403);
        assert_warning(&response, "122 Function not allowed");
    });
}

#[test]
fn a10_a_media_type_that_is_not_accepted_gets_415_with_the_accepted_ones() {
    in_all_variants(|variant| {
        let mut world = picky_world(variant);
        let response = world.assert_refused(&pager_bare(ALICE, BOB).body("image/png", "\u{1}png"), 415);
        assert_accepts(&response);
        assert_generated(&response);
    });
}

#[test]
fn a11_a_media_type_inside_cpim_is_checked_too() {
    in_all_variants(|variant| {
        let mut world = picky_world(variant);
        let request = pager_with(ALICE, BOB, &token("id"), "positive-delivery", "application/x-evil", BODY_MARK);
        assert_accepts(&world.assert_refused(&request, 415));
    });
}

#[test]
fn a11_every_part_of_a_multipart_body_is_checked() {
    in_all_variants(|variant| {
        let mut world = World::with(variant, |config| {
            config.set("policy.accept_types", r#"["message/cpim", "text/plain", "multipart/mixed"]"#)
        });
        world.register(BOB, &[Device::new()]);
        let parts = |second: &str| {
            format!(
                "--bx\r\nContent-Type: text/plain\r\n\r\n{BODY_MARK}\r\n--bx\r\nContent-Type: {second}\r\n\r\nx\r\n--bx--\r\n"
            )
        };
        let bad = pager_bare(ALICE, BOB).body("multipart/mixed;boundary=bx", parts("application/x-evil"));
        assert_accepts(&world.assert_refused(&bad, 415));
        let good = pager_bare(ALICE, BOB).body("multipart/mixed;boundary=bx", parts("text/plain"));
        world.assert_delivered(&good);
    });
}

#[test]
fn a12_a_blocked_sender_learns_nothing_about_media_types() {
    in_all_variants(|variant| {
        let mut world = World::with(variant, accept_two_types);
        world.register(BOB, &[Device::new()]);
        world.appliance.put_policy(BOB, &policy_blocking(ALICE));
        let response = world.assert_refused(&pager_bare(ALICE, BOB).body("image/png", "png"), 403);
        assert_warning(&response, "122 Function not allowed");
    });
}

#[test]
fn a13_a_body_over_the_limit_gets_415_by_default() {
    in_all_variants(|variant| {
        let mut world = small_world(variant, None);
        let response = world.assert_refused(&sized(2001), 415);
        assert!(response.header("Accept").is_some(), "{response:?}");
        world.assert_delivered(&sized(2000));
    });
}

#[test]
fn a13_the_answer_to_a_body_over_the_limit_can_be_413_or_403() {
    in_all_variants(|variant| {
        let mut world = small_world(variant, Some("413"));
        world.assert_refused(&sized(2001), 413);
        let mut world = small_world(variant, Some("\"403-133\""));
        let response = world.assert_refused(&sized(2001), 403);
        assert_warning(&response, "133 Size Exceeded");
    });
}

#[test]
fn a13_without_a_body_limit_a_request_over_udp_is_limited_by_the_path() {
    for (setting, status) in [("415", 415), ("413", 413), ("\"403-133\"", 403)] {
        for (variant, len, fits) in [(VARIANTS[1], 2_000, 100), (VARIANTS[3], 9_000, 2_000)] {
            let mut world = World::with(variant, |config| config.unset("sip.path_mtu").set("policy.oversize", setting));
            world.register(BOB, &[Device::new()]);
            let request = |len: usize| pager_bare(ALICE, BOB).body("text/plain", "x".repeat(len));
            let response = world.exchange(&request(len));
            assert_eq!(response.status(), Some(status), "{response:?}");
            assert_generated(&response);
            match status {
                403 => assert_warning(&response, "133 Size Exceeded"),
                415 => assert!(response.values("Accept").contains(&"message/cpim".to_owned()), "{response:?}"),
                _ => {}
            }
            world.assert_delivered(&request(fits));
        }
    }
}

#[test]
fn a10_a_content_encoding_gets_415_with_the_encodings_that_are_taken() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let response = world.assert_refused(&pager(ALICE, BOB).header("Content-Encoding", "gzip"), 415);
        assert_eq!(response.values("Accept-Encoding"), ["identity"]);
        let accept = response.values("Accept");
        for media_type in ["message/cpim", "text/plain", "message/imdn+xml"] {
            assert!(accept.iter().any(|value| value == media_type), "{media_type} in {accept:?}");
        }
        world.assert_delivered(&pager(ALICE, BOB).header("Content-Encoding", "identity"));
    });
}

#[test]
fn a14_a_message_that_has_not_expired_is_forwarded() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let forwarded = world.assert_delivered(&pager(ALICE, BOB).header("Expires", "60"));
        assert_eq!(forwarded.must("Expires"), "60");
    });
}

#[test]
fn a15_an_expired_message_is_not_forwarded_and_gets_one_final_response() {
    in_all_variants(|variant| {
        for (setting, status) in [(None, 202), (Some("410"), 410), (Some("480"), 480)] {
            let mut world = World::with(variant, |config| match setting {
                None => config,
                Some(code) => config.set("policy.expired", code),
            });
            world.register(BOB, &[Device::new()]);
            let request = pager(ALICE, BOB).header("Expires", "60").replace("Date", &date(seconds_ago(600)));
            let response = world.assert_refused(&request, status);
            assert_generated(&response);
            assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 0);
            if variant.transport == Transport::Tcp {
                // The settings do not depend on the transport.
                break;
            }
        }
    });
}

#[test]
fn a16_a_message_for_an_unregistered_user_who_prefers_rejection_gets_403() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.appliance.put_preferences(BOB, &Preferences::handling("reject").document());
        let response = world.assert_refused(&pager(ALICE, BOB), 403);
        assert_warning(&response, "122 Function not allowed");
    });
}

#[test]
fn a17_a_message_for_an_unregistered_user_is_deferred() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.appliance.put_preferences(BOB, &Preferences::handling("defer").document());
        let request = pager(ALICE, BOB);
        let response = world.assert_refused(&request, 202);
        assert_generated(&response);
        assert!(response.body().is_empty());
        let queue = world.appliance.admin(BOB, "/deferred");
        assert_eq!(queue.as_array().map(Vec::len), Some(1), "{queue}");
        assert_eq!(queue[0]["originator"], ALICE);
        assert_eq!(queue[0]["attempts"], 0);
        assert!(queue[0]["size"].as_u64() >= Some(request.body.len() as u64), "{queue}");
    });
}

#[test]
fn a17_the_queue_does_not_name_a_sender_who_asked_for_anonymity() {
    let mut world = World::udp();
    world.know(BOB);
    world.assert_refused(&pager(ALICE, BOB).header("Privacy", "id"), 202);
    assert_eq!(world.appliance.admin(BOB, "/deferred")[0]["originator"], "anonymous");
}

#[test]
fn a17_the_providers_default_decides_for_a_user_without_preferences() {
    for (handling, status) in [("reject", 403), ("store", 200), ("defer", 202)] {
        let mut world = World::with(VARIANTS[0], |config| config.set("preferences.default", &format!("{handling:?}")));
        world.know(BOB);
        world.assert_refused(&pager(ALICE, BOB), status);
    }
}

#[test]
fn a17_deferring_is_the_default_for_a_known_user_without_preferences() {
    let mut world = World::udp();
    world.know(BOB);
    world.assert_refused(&pager(ALICE, BOB), 202);
    assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
}

#[test]
fn a18_a_message_for_an_unregistered_user_who_prefers_the_message_store_is_stored() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.appliance.put_preferences(BOB, &Preferences::handling("store").document());
        let id = token("imdn");
        let request = pager_with(ALICE, BOB, &id, "positive-delivery", "text/plain", BODY_MARK);
        let response = world.assert_refused(&request, 200);
        assert_generated(&response);
        let list = world.appliance.admin(BOB, "/messages");
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
        let object = &list[0];
        assert_eq!(object["imdn_message_id"], id);
        assert_eq!(object["conversation_id"].as_str(), request.value("Conversation-ID"));
        assert_eq!(object["contribution_id"].as_str(), request.value("Contribution-ID"));
        assert_eq!(object["peer"], ALICE);
        assert_eq!(object["direction"], "received");
        assert_eq!(object["outcome"], "stored");
        let path = format!("/admin/users/{BOB}/messages/{}", object["id"]);
        let stored = world.appliance.http("GET", &path, &[], b"");
        assert_eq!(stored.status, 200);
        assert!(stored.body.ends_with(&request.body), "the CPIM bytes are kept:\n{}", stored.text());
        let head = stored.text().to_ascii_lowercase();
        assert!(head.contains("\r\ncontent-type: message/cpim\r\n"), "{head}");
        assert!(head.contains("\r\nimdn-message-id: "), "{head}");
        assert!(head.contains("\r\nconversation-id: "), "{head}");
    });
}

#[test]
fn a18_an_object_has_the_header_lines_of_the_store() {
    let mut world = World::udp();
    world.appliance.put_preferences(BOB, &Preferences::handling("store").document());
    let mut stored_head = |request: &Request| {
        world.assert_refused(request, 200);
        let newest = world.appliance.admin(BOB, "/messages")[0].clone();
        assert_eq!(newest["size"].as_u64(), Some(request.body.len() as u64), "{newest}");
        let path = format!("/admin/users/{BOB}/messages/{}", newest["id"]);
        let text = world.appliance.http("GET", &path, &[], b"").text();
        (text.split("\r\n\r\n").next().unwrap_or_default().to_owned() + "\r\n", newest["peer"].clone())
    };
    let has = |head: &str, line: &str| assert!(head.contains(&format!("{line}\r\n")), "{line} in\n{head}");

    let request = pager(ALICE, BOB)
        .header("Subject", "Lunch")
        .header("InReplyTo-Contribution-ID", "earlier")
        .header("Accept-Contact", "*;+g.oma.sip-cpm");
    let (head, _) = stored_head(&request);
    for name in [
        "To",
        "Date",
        "Subject",
        "P-Asserted-Service",
        "Conversation-ID",
        "Contribution-ID",
        "InReplyTo-Contribution-ID",
    ] {
        has(&head, &format!("{name}: {}", request.value(name).expect(name)));
    }
    has(&head, &format!("From: <{ALICE}>"));
    has(&head, &format!("Accept-Contact: {ACCEPT_CONTACT}"));
    has(&head, "Accept-Contact: *;+g.oma.sip-cpm");
    has(&head, "Message-Direction: received");
    has(&head, "Content-Type: message/cpim");
    assert!(!head.contains("Message-Context"), "{head}");

    // The service is known from Accept-Contact alone, a Date and an id are made.
    let request = pager_bare(ALICE, BOB).without("P-Asserted-Service").without("Date").body("text/plain", BODY_MARK);
    let (head, _) = stored_head(&request);
    has(&head, &format!("P-Asserted-Service: {ICSI_PAGER}"));
    assert!(head.contains("\r\nDate: ") && head.contains("\r\nIMDN-Message-ID: "), "{head}");

    let (head, peer) = stored_head(&pager(ALICE, BOB).header("Privacy", "id"));
    has(&head, "From: anonymous");
    assert!(peer == "anonymous" && !head.contains("alice"), "{head}");

    // From an interworking function: what the message was.
    let legacy = pager(ALICE, BOB).header("Message-Context", "pager-message").header("Message-Correlator", "m1");
    let (head, _) = stored_head(&legacy);
    has(&head, "Message-Context: pager-message");
    has(&head, "Message-Correlator: m1");

    // From a controlling function: whom it speaks for (G-3).
    let group = pager("sip:focus@home.example", BOB)
        .replace("P-Asserted-Service", &format!("{ICSI_PAGER}.group"))
        .header("Referred-By", &format!("\"Alice\" <{ALICE}>"));
    let (head, peer) = stored_head(&group);
    has(&head, &format!("From: \"Alice\" <{ALICE}>"));
    assert_eq!(peer, ALICE);
}

#[test]
fn a18_a_large_part_goes_to_the_content_store_and_comes_back_whole() {
    let mut world = World::with(VARIANTS[2], |config| {
        config.set("store.content_threshold", "2048").set("policy.pager_max_body", "16000")
    });
    world.appliance.put_preferences(BOB, &Preferences::handling("store").document());
    let content = format!("{BODY_MARK}{}", "0123456789".repeat(900));
    let request = pager_with(ALICE, BOB, &token("id"), "positive-delivery", "text/plain", &content);
    world.assert_refused(&request, 200);
    let list = world.appliance.admin(BOB, "/messages");
    let path = format!("/admin/users/{BOB}/messages/{}", list[0]["id"]);
    assert!(world.appliance.http("GET", &path, &[], b"").body.ends_with(&request.body));
    let content_dir = world.appliance.config().dir().join("data/content");
    let files = count_files(&content_dir);
    assert!(files > 0, "a file in {content_dir:?}");
}

#[test]
fn a19_a_message_for_an_unregistered_user_who_prefers_interworking_goes_to_the_isf() {
    in_all_variants(|variant| {
        let mut isf = Endpoint::new();
        let isf_uri = isf.uri(variant.transport);
        let mut world = World::with(variant, |config| config.set("sip.isf", &format!("{isf_uri:?}")));
        world.appliance.put_preferences(BOB, &Preferences::handling("interwork").document());
        let request = pager(ALICE, BOB);
        let sent = world.send(&request);
        let handed_over = isf.request("MESSAGE");
        assert_eq!(handed_over.uri(), Some(BOB));
        let routes = handed_over.values("Route");
        assert!(routes.first().is_some_and(|route| route.contains(&isf.addr().to_string())), "{routes:?}");
        assert_eq!(Some(handed_over.must("Accept-Contact").as_str()), request.value("Accept-Contact"));
        assert_eq!(Some(handed_over.must("P-Asserted-Identity").as_str()), request.value("P-Asserted-Identity"));
        assert_eq!(handed_over.body(), request.body);
        isf.answer(&handed_over, 202);
        let response = world.alice.response(&sent);
        assert_eq!(response.status(), Some(202));
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a16_to_a20_every_preference_holds_for_everybody_who_cannot_be_reached() {
    let mut isf = Endpoint::new();
    let isf_uri = isf.uri(Transport::Udp);
    let mut world = World::with(VARIANTS[1], |config| config.set("sip.isf", &format!("{isf_uri:?}")));
    for (handling, status) in [("reject", 403), ("defer", 202), ("store", 200), ("interwork", 299)] {
        for reason in ["unregistered", "not available", "registered without CPM", "ended"] {
            let user = format!("sip:{handling}-{}@home.example", reason.replace(' ', "-"));
            let mut preferences = Preferences { recording: "active", ..Preferences::handling(handling) };
            match reason {
                "not available" => {
                    preferences.availability = "not-available";
                    world.register(&user, &[Device::new()]);
                }
                "registered without CPM" => world.register(&user, &[Device::new().without_cpm()]),
                "ended" => {
                    world.register(&user, &[Device::new()]);
                    world.deregister(&user);
                }
                _ => {}
            }
            world.appliance.put_preferences(&user, &preferences.document());
            let sent = world.send(&pager(ALICE, &user));
            if handling == "interwork" {
                let handed_over = isf.request("MESSAGE");
                isf.answer(&handed_over, status);
            }
            let response = world.alice.response(&sent);
            assert_eq!(response.status(), Some(status), "{handling}, {reason}: {response:?}");
            if status == 403 {
                assert_warning(&response, "122 Function not allowed");
            }
            let count = |resource| world.appliance.admin_count(&user, resource);
            assert_eq!(count("/deferred"), usize::from(handling == "defer"), "{handling}, {reason}");
            assert_eq!(count("/messages"), usize::from(handling == "store"), "{handling}, {reason}");
            assert_eq!(count("/history"), 0, "step 4a ends the procedure before step 5: {handling}, {reason}");
        }
    }
    world.assert_nothing_forwarded();
}

#[test]
fn a16_to_a20_the_active_profile_decides_by_kind_of_message() {
    let mut world = World::udp();
    let document = |active: &str| {
        format!(
            "<cpm-preferences xmlns=\"urn:cpm-pf:xml:user-preferences:1.0\"{active}>\
             <profile id=\"day\"><when-unavailable><handling media=\"large-message\">reject</handling>\
             <handling>store</handling></when-unavailable></profile>\
             <profile id=\"night\"><availability>not-available</availability><when-unavailable>\
             <handling media=\"pager-mode-message\">reject</handling><handling>store</handling></when-unavailable>\
             </profile></cpm-preferences>"
        )
    };
    for (active, status) in
        [("", 200), (" active=\"day\"", 200), (" active=\"night\"", 403), (" active=\"nobody's\"", 200)]
    {
        world.appliance.put_preferences(BOB, &document(active));
        let response = world.exchange(&pager(ALICE, BOB));
        assert_eq!(response.status(), Some(status), "{active}: {response:?}");
    }
    world.assert_nothing_forwarded();
}

#[test]
fn a20_a_registered_user_who_is_not_available_gets_messages_deferred() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let preferences = Preferences { availability: "not-available", ..Preferences::handling("defer") };
        world.appliance.put_preferences(BOB, &preferences.document());
        world.assert_refused(&pager(ALICE, BOB), 202);
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
    });
}

#[test]
fn a21_a_deferred_message_is_delivered_when_its_user_registers() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.appliance.put_preferences(BOB, &Preferences::handling("defer").document());
        let request = pager(ALICE, BOB)
            .header("InReplyTo-Contribution-ID", "earlier")
            .header("Expires", "3600")
            .replace("Date", &date(seconds_ago(100)));
        world.assert_refused(&request, 202);
        world.register(BOB, &[Device::new()]);
        let delivered = world.core.request("MESSAGE");
        assert_eq!(delivered.uri(), Some(BOB));
        assert_eq!(delivered.values("Via").len(), 1, "the appliance is the sender now: {delivered:?}");
        assert_ne!(Some(delivered.call_id().as_str()), request.value("Call-ID"));
        let kept = [
            "P-Asserted-Identity",
            "Date",
            "Conversation-ID",
            "Contribution-ID",
            "InReplyTo-Contribution-ID",
            "P-Asserted-Service",
            "Accept-Contact",
            "Content-Type",
        ];
        for name in kept {
            assert_eq!(Some(delivered.must(name).as_str()), request.value(name), "{name}");
        }
        assert!(delivered.must("From").contains(ALICE) && delivered.must("To").contains(BOB));
        assert_eq!(delivered.body(), request.body);
        let left: u64 = delivered.must("Expires").parse().expect("Expires is a number");
        assert!((3400..=3500).contains(&left), "what is left of 3600 s, 100 s later: {left}");
        assert!(delivered.header("Contact").is_none());
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1, "kept until a device has it");
        world.core.answer(&delivered, 200);
        queue_empties(&world);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a22_a_message_is_recorded_when_history_recording_is_active() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let preferences = Preferences { recording: "active", ..Preferences::default() };
        world.appliance.put_preferences(BOB, &preferences.document());
        let id = token("imdn");
        let request = pager_with(ALICE, BOB, &id, "positive-delivery", "text/plain", BODY_MARK);
        world.assert_delivered(&request);
        let object = eventually("the history knows the outcome", || {
            let list = world.appliance.admin(BOB, "/history");
            assert!(list.as_array().is_some_and(|list| list.len() <= 1), "recorded once: {list}");
            (list[0]["outcome"] == "delivered").then(|| list[0].clone())
        });
        assert_eq!(object["imdn_message_id"], id);
        assert_eq!(object["conversation_id"].as_str(), request.value("Conversation-ID"));
        let path = format!("/admin/users/{BOB}/history/{}", object["id"]);
        let stored = world.appliance.http("GET", &path, &[], b"");
        assert!(stored.body.ends_with(&request.body), "{}", stored.text());
        // What no device took is recorded as failed.
        let sent = world.send(&pager(ALICE, BOB));
        let forwarded = world.core.request("MESSAGE");
        world.core.answer(&forwarded, 404);
        assert_eq!(world.alice.response(&sent).status(), Some(404));
        eventually("the history knows of the failure", || {
            let list = world.appliance.admin(BOB, "/history");
            list.as_array()?.iter().any(|object| object["outcome"] == "failed").then_some(())
        });
    });
}

#[test]
fn a22_a_deferred_message_is_recorded_when_it_is_delivered() {
    let mut world = World::udp();
    let preferences = Preferences { recording: "active", ..Preferences::handling("defer") };
    world.appliance.put_preferences(BOB, &preferences.document());
    world.assert_refused(&pager(ALICE, BOB), 202);
    world.register(BOB, &[Device::new()]);
    let delivered = world.core.request("MESSAGE");
    world.core.answer(&delivered, 200);
    queue_empties(&world);
    let outcome = eventually("the history has the message", || {
        let list = world.appliance.admin(BOB, "/history");
        assert!(list.as_array().is_some_and(|list| list.len() <= 1), "recorded once: {list}");
        (list[0]["outcome"] == "delivered").then(|| list[0]["outcome"].clone())
    });
    assert_eq!(outcome, "delivered");
}

#[test]
fn a22_the_same_message_sent_again_is_recorded_once_and_stays_delivered() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    let preferences = Preferences { recording: "active", ..Preferences::default() };
    world.appliance.put_preferences(BOB, &preferences.document());
    let id = token("imdn");
    let again = || pager_with(ALICE, BOB, &id, "positive-delivery", "text/plain", BODY_MARK);
    world.assert_delivered(&again());
    let outcome = |world: &World| world.appliance.admin(BOB, "/history")[0]["outcome"].clone();
    eventually("the history knows the outcome", || (outcome(&world) == "delivered").then_some(()));
    // The sender's client tries once more (another Call-ID, the same imdn.Message-ID); now the device is busy.
    let sent = world.send(&again());
    let forwarded = world.core.request("MESSAGE");
    world.core.answer(&forwarded, 486);
    assert_eq!(world.alice.response(&sent).status(), Some(486));
    // The store works in order: once a later message is there, every word about this one is as well.
    world.assert_delivered(&pager(CAROL, BOB));
    let list = world.appliance.admin(BOB, "/history");
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
    assert_eq!(list[1]["outcome"], "delivered", "{list}");
}

#[test]
fn a23_a_message_is_not_recorded_when_history_recording_is_inactive() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        world.appliance.put_preferences(BOB, &Preferences::default().document());
        world.assert_delivered(&pager(ALICE, BOB));
        assert_eq!(world.appliance.admin_count(BOB, "/history"), 0);
    });
}

#[test]
fn a24_a_devices_refusal_reaches_the_sender_once() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        let sent = world.send(&pager(ALICE, BOB));
        let forwarded = world.core.request("MESSAGE");
        // A provisional response to a MESSAGE is absorbed (RFC 4320 §4.1).
        world.core.answer(&forwarded, 100);
        world.core.answer(&forwarded, 183);
        world.core.answer_with(&forwarded, 486, &[("Warning", "399 device \"busy\"")]);
        let response = world.alice.response(&sent);
        assert_eq!(response.status(), Some(486));
        assert_eq!(response.must("Warning"), "399 device \"busy\"");
        // A late 200 is a stray: the transaction has its final response.
        world.core.answer(&forwarded, 200);
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a25_a_retransmitted_message_is_deferred_once_and_answered_alike() {
    in_all_variants(|variant| {
        if variant.transport == Transport::Tcp {
            return; // Nothing is retransmitted over TCP (RFC 3261 §17.1.2.2).
        }
        let mut world = World::new(variant);
        world.know(BOB);
        let sent = world.send(&pager(ALICE, BOB));
        let first = world.alice.response(&sent);
        assert_eq!(first.status(), Some(202));
        for _ in 0..3 {
            world.alice.resend(&sent);
            assert_eq!(world.alice.response(&sent).raw, first.raw);
        }
        assert_eq!(world.appliance.admin_count(BOB, "/deferred"), 1);
    });
}

#[test]
fn a26_a_selected_device_is_named_in_accept_contact() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        let devices = [Device::new(), Device::new(), Device::new()];
        world.register(BOB, &devices);
        let selected = devices[1].instance();
        let preferences = Preferences { selected: vec![selected.into()], ..Preferences::default() };
        world.appliance.put_preferences(BOB, &preferences.document());
        let forwarded = world.assert_delivered(&pager(ALICE, BOB));
        assert_eq!(forwarded.uri(), Some(BOB));
        let values = forwarded.values("Accept-Contact");
        assert_eq!(values.len(), 2, "{values:?}");
        assert!(values.contains(&ACCEPT_CONTACT.to_owned()), "the original stays: {values:?}");
        let added = values.iter().find(|value| value.contains("+sip.instance")).expect("the instance is named");
        assert!(added.contains(&format!("+sip.instance=\"<{selected}>\"")), "{added}");
        assert!(added.contains(";require") && added.contains(";explicit"), "{added}");
        world.assert_nothing_forwarded();
    });
}

#[test]
fn a27_without_a_selection_no_device_is_named() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new(), Device::new(), Device::new()]);
        let forwarded = world.assert_delivered(&pager(ALICE, BOB));
        assert_eq!(forwarded.lines("Accept-Contact"), [ACCEPT_CONTACT]);
        world.assert_nothing_forwarded();
    });
}

// Helpers.

/// Bob is registered and blocks Alice.
fn blocked_world(variant: Variant) -> World {
    let mut world = World::new(variant);
    world.register(BOB, &[Device::new()]);
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    world
}

fn passes_under(document: String) {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        world.appliance.put_policy(BOB, &document);
        world.assert_delivered(&pager(ALICE, BOB));
    });
}

fn is_rejected_under(document: String) {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.register(BOB, &[Device::new()]);
        world.appliance.put_policy(BOB, &document);
        let response = world.assert_refused(&pager(ALICE, BOB), 403);
        assert_warning(&response, "122 Function not allowed");
    });
}

fn accept_two_types(config: crate::support::appliance::Config) -> crate::support::appliance::Config {
    config.set("policy.accept_types", r#"["message/cpim", "text/plain"]"#)
}

/// Bob is registered, and only message/cpim and text/plain are accepted.
fn picky_world(variant: Variant) -> World {
    let mut world = World::with(variant, accept_two_types);
    world.register(BOB, &[Device::new()]);
    world
}

fn assert_accepts(response: &Received) {
    let accept = response.values("Accept");
    for media_type in ["message/cpim", "text/plain"] {
        assert!(accept.iter().any(|value| value == media_type), "{media_type} in {accept:?}");
    }
}

fn small_world(variant: Variant, oversize: Option<&str>) -> World {
    let mut world = World::with(variant, |config| {
        let config = config.set("policy.pager_max_body", "2000");
        match oversize {
            None => config,
            Some(value) => config.set("policy.oversize", value),
        }
    });
    world.register(BOB, &[Device::new()]);
    world
}

/// A message with a body of this length.
fn sized(len: usize) -> Request {
    let mut body = format!("{BODY_MARK} {} {:?}", unique(), SystemTime::UNIX_EPOCH);
    body.truncate(len);
    let body = format!("{body:x<len$}");
    pager_bare(ALICE, BOB).body("text/plain", body)
}

fn queue_empties(world: &World) {
    eventually("the deferred queue empties", || (world.appliance.admin_count(BOB, "/deferred") == 0).then_some(()));
}

fn count_files(dir: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}
