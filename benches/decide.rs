//! The cost of one access policy decision, and of the canonical address it is asked with.

use criterion::{Criterion, criterion_group, criterion_main};
use ringpost::base::time::UnixMillis;
use ringpost::documents::{Lists, compile_access_policy};
use ringpost::participating::policy::{AccessPolicy, MemberSet, PolicyRequest};
use ringpost::participating::preferences::Media;
use ringpost::sip::uri;
use std::hint::black_box;
use std::sync::Arc;

fn decide(criterion: &mut Criterion) {
    let policy = twenty_rules(3);
    let long = twenty_rules(180);
    let mut group = criterion.benchmark_group("decide");
    // Nobody's rule: every condition of every rule is looked at, and `other-identity` asks all of them once more.
    let stranger = ["sip:carol@home.example", "tel:+15550100", "sip:+15550100@home.example"];
    group.bench_function("20 rules, none matches", |bench| {
        bench.iter(|| policy.rejects(black_box(&from(&stranger))));
    });
    group.bench_function("20 rules, the last by identity matches", |bench| {
        let spammer = ["sip:eve@spam18.example"];
        bench.iter(|| policy.rejects(black_box(&from(&spammer))));
    });
    group.bench_function("20 rules, the external list matches", |bench| {
        let listed = ["sip:user7@blocked.example"];
        bench.iter(|| policy.rejects(black_box(&from(&listed))));
    });
    group.bench_function("20 rules with 180 addresses each, none matches", |bench| {
        bench.iter(|| long.rejects(black_box(&from(&stranger))));
    });
    group.finish();
}

fn canonical(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("canonical address");
    for text in ["sip:alice@home.example", "sip:+15550100@home.example;user=phone"] {
        group.bench_function(text, |bench| bench.iter(|| uri::canonical(black_box(text.as_bytes())).is_some()));
    }
    group.finish();
}

/// 18 rules of some addresses and a domain each, an external list, and `other-identity` that accepts.
fn twenty_rules(address_count: usize) -> AccessPolicy {
    let mut rules = String::new();
    for rule in 0..18 {
        let ones: String =
            (0..address_count).map(|n| format!(r#"<cr:one id="sip:user{n}@rule{rule}.example"/>"#)).collect();
        rules += &format!(
            r#"<cr:rule id="r{rule}"><cr:conditions><cr:identity>{ones}<cr:many domain="spam{rule}.example">
               <cr:except id="sip:friend@spam{rule}.example"/></cr:many></cr:identity>{CPM}{PAGER}</cr:conditions>{REJECT}</cr:rule>"#
        );
    }
    rules += &format!(
        r#"<cr:rule id="list"><cr:conditions><ocp:external-list><ocp:entry anc="x"/></ocp:external-list>{CPM}
           </cr:conditions>{REJECT}</cr:rule>
           <cr:rule id="rest"><cr:conditions><ocp:other-identity/><cr:validity><cr:from>2020-01-01T00:00:00Z</cr:from>
           <cr:until>2020-01-02T00:00:00Z</cr:until><cr:from>2029-01-01T00:00:00Z</cr:from>
           <cr:until>2099-01-02T00:00:00Z</cr:until></cr:validity></cr:conditions>{ACCEPT}</cr:rule>"#
    );
    let document = format!(
        r#"<cr:ruleset xmlns:cr="urn:ietf:params:xml:ns:common-policy" xmlns:ocp="urn:oma:xml:xdm:common-policy"
           xmlns:oxe="urn:oma:xml:xdm:extensions">{rules}</cr:ruleset>"#
    );
    compile_access_policy(document.as_bytes(), &Blocked(address_count)).expect("the document is well-formed")
}

fn from<'a>(originator: &'a [&'a str]) -> PolicyRequest<'a> {
    let service = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg";
    let at = UnixMillis(1_893_535_200_000);
    PolicyRequest { originator, anonymous: false, service, media: Media::PagerModeMessage, at }
}

struct Blocked(usize);

impl Lists for Blocked {
    fn members(&self, _anchor: &str) -> Option<Arc<MemberSet>> {
        Some(Arc::new((0..self.0).map(|n| format!("sip:user{n}@blocked.example").into_boxed_str()).collect()))
    }
}

const CPM: &str = r#"<oxe:service-list><oxe:service featuretag="+g.oma.sip-cpm"/></oxe:service-list>"#;
const PAGER: &str = "<oxe:media-list><oxe:pager-mode-message/></oxe:media-list>";
const REJECT: &str = "<cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>";
const ACCEPT: &str = "<cr:actions><oxe:allow-reject-invite>false</oxe:allow-reject-invite></cr:actions>";

criterion_group!(benches, decide, canonical);
criterion_main!(benches);
