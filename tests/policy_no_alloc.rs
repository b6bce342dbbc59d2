//! Evaluating an access policy allocates nothing, since it happens for every message.

#[path = "support/counting.rs"]
mod counting;

use counting::allocations;
use ringpost::base::time::UnixMillis;
use ringpost::documents::{Lists, compile_access_policy};
use ringpost::participating::policy::{MemberSet, PolicyRequest};
use ringpost::participating::preferences::Media;
use ringpost::sip::uri;
use std::sync::Arc;

#[test]
fn evaluating_a_policy_allocates_nothing() {
    let policy = compile_access_policy(DOCUMENT.as_bytes(), &Blocked).expect("the document is well-formed");
    let services = ["+g.oma.sip-cpm", "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg", "urn:x"];
    let originators: [&[&str]; 5] = [
        &["sip:alice@home.example", "tel:+15550100"],
        &["sip:user7@blocked.example"],
        &["sip:eve@spam.example"],
        &["sip:friend@spam.example"],
        &[],
    ];
    let mut rejected = 0;
    let count = allocations(|| {
        for service in services {
            for originator in originators {
                for media in [Media::PagerModeMessage, Media::LargeMessage] {
                    for anonymous in [false, true] {
                        let at = UnixMillis(1_893_535_200_000);
                        let request = PolicyRequest { originator, anonymous, service, media, at };
                        rejected += usize::from(policy.rejects(&request));
                    }
                }
            }
        }
    });
    assert_eq!(count, 0);
    assert!(rejected > 0 && rejected < 60, "some are rejected and some are not: {rejected}");
}

#[test]
fn finding_the_canonical_address_allocates_nothing() {
    let count = allocations(|| {
        for text in ["SIP:%62ob@Home.example;lr", "sip:+1-555-0100@home.example;user=phone", "sip:a@[2001:db8::1]"] {
            assert!(uri::canonical(text.as_bytes()).is_some_and(|aor| aor.as_str().len() > 5));
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1_u64)))), 1);
}

struct Blocked;

impl Lists for Blocked {
    fn members(&self, _anchor: &str) -> Option<Arc<MemberSet>> {
        Some(Arc::new((0..1000).map(|n| format!("sip:user{n}@blocked.example").into_boxed_str()).collect()))
    }
}

const DOCUMENT: &str = r#"
<cr:ruleset xmlns:cr="urn:ietf:params:xml:ns:common-policy" xmlns:ocp="urn:oma:xml:xdm:common-policy"
            xmlns:oxe="urn:oma:xml:xdm:extensions">
  <cr:rule id="domain">
    <cr:conditions>
      <cr:identity>
        <cr:many domain="spam.example"><cr:except id="sip:friend@spam.example"/></cr:many>
        <cr:one id="tel:+15550199"/>
      </cr:identity>
      <oxe:service-list><oxe:service enabler="urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg"/></oxe:service-list>
      <oxe:media-list><oxe:pager-mode-message/></oxe:media-list>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
  <cr:rule id="list">
    <cr:conditions>
      <ocp:external-list><ocp:entry anc="http://xdms.example/blocked"/></ocp:external-list>
      <oxe:service-list><oxe:all-services-except><oxe:service enabler="urn:x"/></oxe:all-services-except></oxe:service-list>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
  <cr:rule id="anonymous">
    <cr:conditions><ocp:anonymous-request/></cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
  <cr:rule id="others">
    <cr:conditions>
      <ocp:other-identity/>
      <cr:validity><cr:from>2030-01-01T22:00:00Z</cr:from><cr:until>2030-01-02T06:00:00Z</cr:until></cr:validity>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>false</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
</cr:ruleset>"#;
