//! Third-party REGISTER (SPEC §2.1): devices come and go.

use crate::support::documents::*;
use crate::support::eventually;
use crate::support::world::*;

#[test]
fn a_registration_creates_devices_with_their_features() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        let mut device = Device::new();
        device.q = Some("0.5");
        world.register(BOB, std::slice::from_ref(&device));
        let user = world.appliance.admin(BOB, "");
        assert_eq!(user["registered"], true, "{user}");
        assert_eq!(user["availability"], "available", "{user}");
        let devices = world.appliance.admin(BOB, "/devices");
        assert_eq!(devices.as_array().map(Vec::len), Some(1), "{devices}");
        assert_eq!(devices[0]["instance"], device.instance());
        assert_eq!(devices[0]["contact"], device.contact.as_str());
        assert_eq!(devices[0]["cpm"], true);
        assert_eq!(devices[0]["q"].as_f64(), Some(0.5));
        assert!(devices[0]["features"].as_str().is_some_and(|text| text.contains("icsi-ref")), "{devices}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let expires = devices[0]["expires"].as_u64().expect("seconds");
        assert!((now + 3500..=now + 3700).contains(&expires), "{expires} at {now}");
    });
}

#[test]
fn a_registration_inside_a_multipart_body_counts() {
    let mut world = World::udp();
    let (pf, scscf) = (format!("sip:{}", world.addr()), world.core.uri(world.transport));
    let device = Device::new();
    let request = third_party_register_multipart(&pf, &scscf, BOB, std::slice::from_ref(&device), 600_000);
    assert_eq!(world.core_exchange(&request).status(), Some(200));
    let devices = world.appliance.admin(BOB, "/devices");
    assert_eq!(devices[0]["instance"], device.instance());
    world.assert_delivered(&pager(ALICE, BOB));
}

#[test]
fn a_registration_without_body_counts_its_own_contact() {
    let mut world = World::udp();
    let (pf, scscf) = (format!("sip:{}", world.addr()), world.core.uri(world.transport));
    let request = third_party_register_bare(&pf, &scscf, BOB, 600_000);
    let response = world.core_exchange(&request);
    assert_eq!(response.status(), Some(200));
    assert_generated_register(&response);
    assert_eq!(world.appliance.admin_count(BOB, "/devices"), 1);
    world.assert_delivered(&pager(ALICE, BOB));
}

#[test]
fn a_registration_runs_out_by_itself() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.know(BOB);
        world.register(BOB, &[Device::new().expiring(2)]);
        world.assert_delivered(&pager(ALICE, BOB));
        eventually("the registration runs out", || {
            (world.appliance.admin(BOB, "")["registered"] == false).then_some(())
        });
        world.assert_refused(&pager(ALICE, BOB), 202);
    });
}

#[test]
fn the_third_party_expiry_bounds_that_of_the_contacts() {
    let mut world = World::udp();
    world.know(BOB);
    let request = world.third_party_register(BOB, &[Device::new().expiring(3600)], 2);
    assert_eq!(world.core_exchange(&request).status(), Some(200));
    eventually("the registration runs out", || (world.appliance.admin(BOB, "")["registered"] == false).then_some(()));
}

#[test]
fn a_deregistration_ends_delivery_at_once() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.know(BOB);
        world.register(BOB, &[Device::new(), Device::new()]);
        world.assert_delivered(&pager(ALICE, BOB));
        world.deregister(BOB);
        assert_eq!(world.appliance.admin(BOB, "")["registered"], false);
        assert_eq!(world.appliance.admin_count(BOB, "/devices"), 0);
        world.assert_refused(&pager(ALICE, BOB), 202);
    });
}

#[test]
fn a_contact_that_leaves_leaves_alone() {
    let mut world = World::udp();
    world.know(BOB);
    let (stays, mut leaves) = (Device::new(), Device::new());
    world.register(BOB, std::slice::from_ref(&stays));
    world.register(BOB, std::slice::from_ref(&leaves));
    assert_eq!(world.appliance.admin_count(BOB, "/devices"), 2);
    leaves.expires = Some(0);
    world.register(BOB, &[leaves]);
    let devices = world.appliance.admin(BOB, "/devices");
    assert_eq!(devices.as_array().map(Vec::len), Some(1), "{devices}");
    assert_eq!(devices[0]["instance"], stays.instance());
}

#[test]
fn an_end_that_names_one_device_leaves_the_others() {
    let mut world = World::udp();
    let (stays, leaves) = (Device::new(), Device::new());
    world.register(BOB, &[stays.clone(), leaves.clone()]);
    let request = world.third_party_register(BOB, &[leaves], 0);
    assert_eq!(world.core_exchange(&request).status(), Some(200));
    let devices = world.appliance.admin(BOB, "/devices");
    assert_eq!(devices.as_array().map(Vec::len), Some(1), "{devices}");
    assert_eq!(devices[0]["instance"], stays.instance());
}

#[test]
fn a_refreshed_contact_stays_one_device() {
    let mut world = World::udp();
    let mut device = Device::new();
    world.register(BOB, std::slice::from_ref(&device));
    device.contact = "sip:moved@192.0.2.8:5062".into();
    world.register(BOB, std::slice::from_ref(&device));
    let devices = world.appliance.admin(BOB, "/devices");
    assert_eq!(devices.as_array().map(Vec::len), Some(1), "{devices}");
    assert_eq!(devices[0]["contact"], device.contact.as_str());
}

#[test]
fn a_user_whose_contacts_do_not_support_cpm_is_not_registered_for_it() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        world.know(BOB);
        world.register(BOB, &[Device::new().without_cpm()]);
        let devices = world.appliance.admin(BOB, "/devices");
        assert_eq!(devices[0]["cpm"], false, "{devices}");
        world.assert_refused(&pager(ALICE, BOB), 202);
    });
}

#[test]
fn registrations_and_documents_survive_a_crash() {
    in_all_variants(|variant| {
        let mut world = World::new(variant);
        let device = Device::new();
        world.register(BOB, std::slice::from_ref(&device));
        world.appliance.put_policy(BOB, &policy_blocking(ALICE));
        let preferences = Preferences { recording: "active", ..Preferences::default() };
        world.appliance.put_preferences(BOB, &preferences.document());
        world.crash_and_restart();
        assert_eq!(world.appliance.admin(BOB, "/devices")[0]["instance"], device.instance());
        world.assert_delivered(&pager(CAROL, BOB));
        world.assert_refused(&pager(ALICE, BOB), 403);
        assert_eq!(world.appliance.admin_count(BOB, "/history"), 1);
    });
}

#[test]
fn a_registration_from_an_untrusted_peer_is_refused() {
    let mut world = World::with(VARIANTS[0], |config| config.set("sip.trusted", r#"["192.0.2.0/24"]"#));
    world.know(BOB);
    let request = world.third_party_register(BOB, &[Device::new()], 600_000);
    let response = world.core_exchange(&request);
    assert_eq!(response.status(), Some(403), "{response:?}");
    assert!(response.header("Warning").is_some(), "every 403 has a Warning: {response:?}");
    assert_eq!(world.appliance.admin(BOB, "")["registered"], false);
}

fn assert_generated_register(response: &crate::support::message::Received) {
    assert!(response.must("To").contains(";tag="));
    assert_eq!(response.must("Content-Length"), "0");
    assert!(response.must("Server").starts_with("CPM-serv/OMA1.0 "));
}
