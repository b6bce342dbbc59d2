//! The appliance's own XCAP root (RFC 4825, whole documents) and the admin API, from an HTTP client's side.

use crate::support::documents::*;
use crate::support::http::Response;
use crate::support::world::*;

const POLICY: &str = "/xcap/org.openmobilealliance.access-rules/users/sip:bob@home.example/access-rules";
const POLICY_TYPE: &str = "application/auth-policy+xml";
const PREFERENCES: &str = "/xcap/cpm-pf-user-preferences/users/sip:bob@home.example/index";
const PREFERENCES_TYPE: &str = "application/vnd.cpm-pf.user-preferences+xml";
const LISTS: &str = "/xcap/resource-lists/users/sip:bob@home.example/index";
const LISTS_TYPE: &str = "application/resource-lists+xml";

fn put(world: &World, path: &str, content_type: &str, body: &str, more: &[(&str, &str)]) -> Response {
    let mut headers = vec![("Content-Type", content_type)];
    headers.extend_from_slice(more);
    world.appliance.http("PUT", path, &headers, body.as_bytes())
}

fn lists() -> String {
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<resource-lists xmlns=\"urn:ietf:params:xml:ns:resource-lists\">\
     <list name=\"oma_blockedcontacts\"><entry uri=\"sip:alice@a.example\"/></list></resource-lists>"
        .to_owned()
}

#[test]
fn documents_are_created_replaced_read_and_deleted() {
    let world = World::udp();
    let documents = [
        (POLICY, POLICY_TYPE, policy_blocking(ALICE), policy(&[])),
        (PREFERENCES, PREFERENCES_TYPE, Preferences::handling("store").document(), Preferences::default().document()),
        (LISTS, LISTS_TYPE, lists(), lists().replace("alice", "carol")),
    ];
    for (path, content_type, first, second) in documents {
        assert_eq!(world.appliance.http("GET", path, &[], b"").status, 404);
        let created = put(&world, path, content_type, &first, &[]);
        assert_eq!(created.status, 201, "{path}: {}", created.text());
        let etag = created.header("etag").expect("an ETag").to_owned();
        assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "a strong tag: {etag}");
        let read = world.appliance.http("GET", path, &[], b"");
        assert_eq!(read.status, 200);
        assert_eq!(read.text(), first, "byte for byte");
        assert_eq!(read.header("etag"), Some(etag.as_str()));
        assert!(read.header("content-type").is_some_and(|value| value.starts_with(content_type)), "{read:?}");
        let replaced = put(&world, path, content_type, &second, &[]);
        assert_eq!(replaced.status, 200, "{}", replaced.text());
        assert_ne!(replaced.header("etag"), Some(etag.as_str()));
        assert_eq!(world.appliance.http("GET", path, &[], b"").text(), second);
        assert_eq!(world.appliance.http("DELETE", path, &[], b"").status, 200);
        assert_eq!(world.appliance.http("GET", path, &[], b"").status, 404);
        assert_eq!(world.appliance.http("DELETE", path, &[], b"").status, 404);
    }
}

#[test]
fn conditional_requests_follow_the_etag() {
    let world = World::udp();
    let document = policy(&[]);
    let etag = put(&world, POLICY, POLICY_TYPE, &document, &[]).header("etag").expect("an ETag").to_owned();
    let get = |headers: &[(&str, &str)]| world.appliance.http("GET", POLICY, headers, b"");
    let unchanged = get(&[("If-None-Match", &etag)]);
    assert_eq!(unchanged.status, 304);
    assert!(unchanged.body.is_empty());
    assert_eq!(get(&[("If-None-Match", "\"other\"")]).status, 200);
    assert_eq!(get(&[("If-Match", "\"other\"")]).status, 412);
    assert_eq!(put(&world, POLICY, POLICY_TYPE, &document, &[("If-Match", "\"other\"")]).status, 412);
    assert_eq!(put(&world, POLICY, POLICY_TYPE, &document, &[("If-None-Match", "*")]).status, 412);
    assert_eq!(put(&world, POLICY, POLICY_TYPE, &document, &[("If-Match", &etag)]).status, 200);
    let delete = |headers: &[(&str, &str)]| world.appliance.http("DELETE", POLICY, headers, b"").status;
    assert_eq!(delete(&[("If-Match", "\"other\"")]), 412);
    let etag = get(&[]).header("etag").expect("an ETag").to_owned();
    assert_eq!(delete(&[("If-Match", &etag)]), 200);
    assert_eq!(put(&world, POLICY, POLICY_TYPE, &document, &[("If-Match", "*")]).status, 412);
    assert_eq!(put(&world, POLICY, POLICY_TYPE, &document, &[("If-None-Match", "*")]).status, 201);
}

#[test]
fn what_cannot_be_served_gets_its_own_status() {
    let world = World::udp();
    let status = |method: &str, path: &str| world.appliance.http(method, path, &[], b"").status;
    assert_eq!(status("GET", "/xcap/unknown-auid/users/sip:bob@home.example/index"), 404);
    assert_eq!(status("GET", "/nothing/here"), 404);
    let response = world.appliance.http("POST", POLICY, &[("Content-Type", POLICY_TYPE)], b"<x/>");
    assert_eq!(response.status, 405);
    let allow = response.header("allow").expect("a 405 has Allow").to_owned();
    assert!(allow.contains("PUT") && allow.contains("GET") && allow.contains("DELETE"), "{allow}");
    assert_eq!(put(&world, POLICY, "text/plain", &policy(&[]), &[]).status, 415);
    assert_eq!(put(&world, POLICY, PREFERENCES_TYPE, &policy(&[]), &[]).status, 415);
    let bad_user = "/xcap/org.openmobilealliance.access-rules/users/nobody%20at%20all/access-rules";
    let refused = put(&world, bad_user, POLICY_TYPE, &policy(&[]), &[]).status;
    assert!(matches!(refused, 400 | 404 | 409), "{refused}");
}

#[test]
fn a_document_that_is_not_valid_gets_409_with_the_reason() {
    let world = World::udp();
    let open =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\">";
    let cases = [
        ("<not-xml", "not-well-formed"),
        ("", "not-well-formed"),
        ("<a></b>", "not-well-formed"),
        ("<other/>", "schema-validation-error"),
        (&format!("{open}<cr:rule/></cr:ruleset>"), "schema-validation-error"),
        // Two rules with one xs:ID: the schema says so, and so does RFC 4825 §11.2 of identifiers.
        (&format!("{open}<cr:rule id=\"a\"/><cr:rule id=\"a\"/></cr:ruleset>"), "uniqueness-failure"),
        (
            &format!("{open}<cr:rule id=\"a\"><cr:conditions><cr:identity/></cr:conditions></cr:rule></cr:ruleset>"),
            "schema-validation-error",
        ),
    ];
    for (document, reason) in cases {
        let response = put(&world, POLICY, POLICY_TYPE, document, &[]);
        assert_eq!(response.status, 409, "{document:?}: {}", response.text());
        let content_type = response.header("content-type").unwrap_or_default().to_owned();
        assert!(content_type.starts_with("application/xcap-error+xml"), "{content_type}");
        assert!(response.text().contains(reason), "{document:?}: {}", response.text());
        assert!(response.text().contains("urn:ietf:params:xml:ns:xcap-error"), "{}", response.text());
    }
    let headers = [("Content-Type", POLICY_TYPE)];
    let response = world.appliance.http("PUT", POLICY, &headers, b"<?xml version=\"1.0\"?><a>\xff\xfe</a>");
    assert_eq!(response.status, 409);
    assert!(response.text().contains("not-utf-8"), "{}", response.text());
    assert_eq!(world.appliance.http("GET", POLICY, &[], b"").status, 404, "nothing was stored");
}

#[test]
fn a_document_that_grows_or_nests_without_end_is_refused() {
    let mut world = World::udp();
    let laughs = "<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">\
                  <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\"><!ENTITY d \"&c;&c;&c;&c;&c;&c;&c;&c;\">]><lolz>&d;</lolz>";
    assert_eq!(put(&world, POLICY, POLICY_TYPE, laughs, &[]).status, 409);
    let deep = format!("{}{}", "<a>".repeat(20_000), "</a>".repeat(20_000));
    assert_eq!(put(&world, POLICY, POLICY_TYPE, &deep, &[]).status, 409);
    let rules: Vec<Rule> = (0..1_001).map(|index| Rule::new(one(&format!("sip:u{index}@a.example")), "true")).collect();
    let many = policy(&rules);
    assert!(matches!(put(&world, POLICY, POLICY_TYPE, &many, &[]).status, 409 | 413));
    let long = format!("{}{}", policy(&[]), " ".repeat(257 * 1024));
    assert_eq!(put(&world, POLICY, POLICY_TYPE, &long, &[]).status, 413);
    world.register(BOB, &[Device::new()]);
    world.assert_delivered(&pager(ALICE, BOB));
}

#[test]
fn the_published_examples_are_taken_and_work() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    world.appliance.put_policy(BOB, EXAMPLE_A);
    world.assert_refused(&pager("sip:mallory@evil.example", BOB), 403);
    world.assert_refused(&pager("tel:+15550100", BOB), 403);
    world.assert_refused(&pager("sip:x@spam.example", BOB), 403);
    world.assert_delivered(&pager("sip:friend@spam.example", BOB));
    // All media except pager mode messages.
    world.appliance.put_policy(BOB, EXAMPLE_C);
    world.assert_delivered(&pager("sip:mallory@evil.example", BOB));
}

#[test]
fn an_external_list_is_read_from_the_appliances_own_root() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    world.appliance.put_document(LISTS, LISTS_TYPE, &lists());
    let anchor = format!(
        "http://{}/xcap/resource-lists/users/sip:bob@home.example/index/~~/resource-lists/list%5B@name=%22oma_blockedcontacts%22%5D",
        world.appliance.http
    );
    let external = format!("<ocp:external-list><ocp:entry anc=\"{anchor}\"/></ocp:external-list>");
    world.appliance.put_policy(BOB, &policy(&[Rule::new(external, "true")]));
    let response = world.assert_refused(&pager(ALICE, BOB), 403);
    assert_warning(&response, "122 Function not allowed");
    world.assert_delivered(&pager(CAROL, BOB));
    // A changed list counts without touching the policy.
    world.appliance.put_document(LISTS, LISTS_TYPE, &lists().replace("alice", "carol"));
    world.assert_delivered(&pager(ALICE, BOB));
    world.assert_refused(&pager(CAROL, BOB), 403);
}

#[test]
fn anonymous_senders_can_be_rejected() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    world.appliance.put_policy(BOB, &policy(&[Rule::new("<ocp:anonymous-request/>", "true")]));
    world.assert_refused(&pager(ALICE, BOB).header("Privacy", "id"), 403);
    world.assert_delivered(&pager(ALICE, BOB).header("Privacy", "none"));
    world.assert_delivered(&pager(ALICE, BOB));
}

#[test]
fn other_identity_validity_and_unknown_conditions_follow_common_policy() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    let past =
        "<cr:validity><cr:from>2001-01-01T00:00:00Z</cr:from><cr:until>2001-01-02T00:00:00Z</cr:until></cr:validity>";
    let always = "<cr:validity><cr:from>2001-01-01T00:00:00+01:00</cr:from><cr:until>2101-01-02T00:00:00Z</cr:until></cr:validity>";
    let unknown = "<x:phase-of-the-moon xmlns:x=\"urn:example:moon\"/>";
    let decisions = [
        (vec![Rule::new(past, "true")], 200),
        (vec![Rule::new(always, "true")], 403),
        (vec![Rule::new(unknown, "true")], 200),
        (vec![Rule::new(format!("{always}{unknown}"), "true")], 200),
        // Everybody whom no other rule names (OMA XDM): Alice is named, Carol would not be.
        (vec![Rule::new(one(ALICE), "false"), Rule::new("<ocp:other-identity/>", "true")], 200),
        (vec![Rule::new(one(CAROL), "false"), Rule::new("<ocp:other-identity/>", "true")], 403),
        (vec![Rule::new("<cr:identity><cr:many/></cr:identity>", "true")], 403),
    ];
    for (rules, status) in decisions {
        world.appliance.put_policy(BOB, &policy(&rules));
        if status == 200 {
            world.assert_delivered(&pager(ALICE, BOB));
        } else {
            world.assert_refused(&pager(ALICE, BOB), status);
        }
    }
}

#[test]
fn a_deleted_policy_rejects_nobody() {
    let mut world = World::new(VARIANTS[1]);
    world.register(BOB, &[Device::new()]);
    world.appliance.put_policy(BOB, &policy_blocking(ALICE));
    world.assert_refused(&pager(ALICE, BOB), 403);
    assert_eq!(world.appliance.http("DELETE", POLICY, &[], b"").status, 200);
    world.assert_delivered(&pager(ALICE, BOB));
}

#[test]
fn a_user_is_one_whether_written_with_escapes_or_as_a_telephone_number() {
    let mut world = World::udp();
    world.register(BOB, &[Device::new()]);
    let escaped = "/xcap/org.openmobilealliance.access-rules/users/sip%3Abob%40home.example/access-rules";
    assert_eq!(put(&world, escaped, POLICY_TYPE, &policy_blocking(ALICE), &[]).status, 201);
    assert_eq!(world.appliance.http("GET", POLICY, &[], b"").status, 200);
    world.assert_refused(&pager(ALICE, BOB), 403);
    let user = world.appliance.http("GET", "/admin/users/sip%3Abob%40home.example", &[], b"");
    assert_eq!(user.json()["policy"], true);
}

#[test]
fn the_admin_api_knows_who_is_known() {
    let mut world = World::udp();
    assert_eq!(world.appliance.http("GET", &format!("/admin/users/{BOB}"), &[], b"").status, 404);
    world.appliance.put_preferences(BOB, &Preferences::default().document());
    let user = world.appliance.admin(BOB, "");
    assert_eq!(user["aor"], BOB);
    assert_eq!(user["registered"], false);
    assert_eq!(user["policy"], false);
    assert_eq!(user["preferences"], true);
    world.register(BOB, &[Device::new()]);
    let user = world.appliance.admin(BOB, "");
    assert_eq!(user["registered"], true);
    assert_eq!(user["devices"].as_array().map(Vec::len), Some(1), "{user}");
}

const EXAMPLE_A: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<cr:ruleset xmlns:cr="urn:ietf:params:xml:ns:common-policy"
            xmlns:oxe="urn:oma:xml:xdm:extensions"
            xmlns:lm="urn:cpm-pf:xml:media:1.0">
  <cr:rule id="blk1">
    <cr:conditions>
      <cr:identity>
        <cr:one id="sip:mallory@evil.example"/>
        <cr:one id="tel:+15550100"/>
        <cr:many domain="spam.example">
          <cr:except id="sip:friend@spam.example"/>
        </cr:many>
      </cr:identity>
      <oxe:service-list><oxe:service featuretag="+g.oma.sip-cpm"/></oxe:service-list>
      <oxe:media-list><oxe:pager-mode-message/><lm:large-message/></oxe:media-list>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
</cr:ruleset>
"#;

const EXAMPLE_C: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<cr:ruleset xmlns:cr="urn:ietf:params:xml:ns:common-policy"
            xmlns:oxe="urn:oma:xml:xdm:extensions">
  <cr:rule id="bulk">
    <cr:conditions>
      <cr:identity><cr:many/></cr:identity>
      <oxe:service-list><oxe:all-services-except>
        <oxe:service enabler="urn:urn-7:3gpp-service.ims.icsi.oma.cpm.systemmsg"/>
      </oxe:all-services-except></oxe:service-list>
      <oxe:media-list><oxe:all-media-except><oxe:pager-mode-message/></oxe:all-media-except></oxe:media-list>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>1</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
</cr:ruleset>
"#;
