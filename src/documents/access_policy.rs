//! Access policy documents: common policy with OMA's extensions.
//!
//! RFC 4745; SPEC §3.1 to §3.4.

use super::fault::Fault;
use super::xml::{
    attribute, boolean, elements, namespace, position, require_attributes, require_elements_only, require_empty,
    require_text_only, text_of, wrong,
};
use super::{date_time, xml};
use crate::base::limits::RULE_COUNT_MAX;
use crate::participating::policy::{
    AccessPolicy, Condition, Except, IdentityCondition, MediaList, MemberSet, Period, Rule, ServiceList,
};
use roxmltree::{Document, Node};
use std::collections::HashSet;
use std::sync::Arc;

/// Where members of external lists come from.
pub trait Lists {
    /// The members of the list that an anchor names; `None` if it cannot be had, and then nobody is in it.
    fn members(&self, anchor: &str) -> Option<Arc<MemberSet>>;
}

/// Reads an access policy document. Elements that are not understood are passed over, except conditions: a rule with
/// an unknown condition does not apply.
///
/// RFC 4745 §6.2.
pub fn compile_access_policy(body: &[u8], lists: &dyn Lists) -> Result<AccessPolicy, Fault> {
    let document = xml::parse(body)?;
    let rules: Vec<Rule> = rules_of(&document)?.map(|rule| read_rule(rule, lists)).collect();
    Ok(AccessPolicy::new(&rules))
}

/// The rules of a document, when it is a ruleset and has not too many.
fn rules_of<'a, 'input>(document: &'a Document<'input>) -> Result<impl Iterator<Item = Node<'a, 'input>>, Fault> {
    let root = document.root_element();
    if !root.has_tag_name((CP, "ruleset")) {
        return Err(wrong(root, "the root is not a ruleset of common policy"));
    }
    let rules = || elements(root).filter(|child| child.has_tag_name((CP, "rule")));
    if rules().count() > RULE_COUNT_MAX { Err(Fault::TooManyRules) } else { Ok(rules()) }
}

fn read_rule(rule: Node<'_, '_>, lists: &dyn Lists) -> Rule {
    let children = |name| elements(rule).filter(move |child| child.has_tag_name((CP, name))).flat_map(elements);
    Rule {
        conditions: children("conditions").map(|condition| read_condition(condition, lists)).collect(),
        rejects: children("actions")
            .filter(|action| action.has_tag_name((OXE, "allow-reject-invite")))
            .any(|action| boolean(&text_of(action)) == Some(true)),
    }
}

fn read_condition(condition: Node<'_, '_>, lists: &dyn Lists) -> Condition {
    match (namespace(condition), condition.tag_name().name()) {
        (Some(CP), "identity") => Condition::Identity(elements(condition).filter_map(read_identity).collect()),
        (Some(CP), "sphere") => Condition::Sphere,
        (Some(CP), "validity") => Condition::Validity(read_periods(condition)),
        (Some(OCP), "external-list") => Condition::ExternalList(
            elements(condition)
                .filter(|entry| entry.has_tag_name((OCP, "entry")))
                .filter_map(|entry| lists.members(attribute(entry, "anc")?))
                .collect(),
        ),
        (Some(OCP), "other-identity") => Condition::OtherIdentity,
        (Some(OCP), "anonymous-request") => Condition::AnonymousRequest,
        (Some(OXE), "service-list") => Condition::Services(read_services(condition)),
        (Some(OXE), "media-list") => Condition::Media(read_media(condition)),
        _ => Condition::Unknown,
    }
}

fn read_identity(node: Node<'_, '_>) -> Option<IdentityCondition> {
    if node.has_tag_name((CP, "one")) {
        return attribute(node, "id").map(|id| IdentityCondition::One(id.into()));
    }
    if !node.has_tag_name((CP, "many")) {
        return None;
    }
    let except = elements(node).filter(|child| child.has_tag_name((CP, "except"))).flat_map(|except| {
        let id = attribute(except, "id").map(|id| Except::Id(id.into()));
        let domain = attribute(except, "domain").map(|domain| Except::Domain(domain.into()));
        id.into_iter().chain(domain)
    });
    Some(IdentityCondition::Many { domain: attribute(node, "domain").map(Into::into), except: except.collect() })
}

/// Pairs of `from` and `until`. A moment that cannot be read makes its pair no period.
fn read_periods(validity: Node<'_, '_>) -> Vec<Period> {
    let mut periods = Vec::new();
    let mut from = None;
    for bound in elements(validity) {
        if bound.has_tag_name((CP, "from")) {
            from = date_time::parse(&text_of(bound));
        } else if bound.has_tag_name((CP, "until"))
            && let Some((from, until)) = from.take().zip(date_time::parse(&text_of(bound)))
        {
            periods.push(Period { from, until });
        }
    }
    periods
}

fn read_services(list: Node<'_, '_>) -> ServiceList {
    let values = |parent| {
        elements(parent)
            .filter(|child| child.has_tag_name((OXE, "service")))
            .flat_map(|service| service.attributes())
            .filter(|attribute| matches!(attribute.name(), "featuretag" | "enabler"))
            .map(|attribute| attribute.value().into())
            .collect()
    };
    match elements(list).find(|child| child.has_tag_name((OXE, "all-services-except"))) {
        Some(except) => ServiceList::AllExcept(values(except)),
        None => ServiceList::Listed(values(list)),
    }
}

fn read_media(list: Node<'_, '_>) -> MediaList {
    let names = |parent| elements(parent).map(|media| media.tag_name().name().into()).collect();
    match elements(list).find(|child| child.has_tag_name((OXE, "all-media-except"))) {
        Some(except) => MediaList::AllExcept(names(except)),
        None => MediaList::Listed(names(list)),
    }
}

/// Checks a document against the schemas of common policy and of OMA's conditions and actions.
///
/// RFC 4745 §13.
pub(super) fn check(body: &[u8]) -> Result<(), Fault> {
    let document = xml::parse(body)?;
    let mut ids = HashSet::new();
    let rules = rules_of(&document)?;
    let root = document.root_element();
    require_elements_only(root)?;
    require_attributes(root, &[])?;
    if let Some(strange) = elements(root).find(|child| !child.has_tag_name((CP, "rule"))) {
        return Err(wrong(strange, "only rules may be in a ruleset"));
    }
    for rule in rules {
        let id = attribute(rule, "id").ok_or_else(|| wrong(rule, "a rule without id"))?;
        if !is_ncname(id) {
            return Err(wrong(rule, "a rule's id must be a name that starts with a letter"));
        }
        if !ids.insert(id) {
            return Err(Fault::NotUnique { field: "ruleset/rule/@id", at: position(rule) });
        }
        check_rule(rule)?;
    }
    Ok(())
}

fn check_rule(rule: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(rule)?;
    require_attributes(rule, &["id"])?;
    let mut expected = ["conditions", "actions", "transformations"].iter();
    for part in elements(rule) {
        let is_expected = namespace(part) == Some(CP) && expected.any(|&name| name == part.tag_name().name());
        if !is_expected {
            return Err(wrong(part, "a rule has conditions, actions and transformations, once each, in this order"));
        }
        require_elements_only(part)?;
        require_attributes(part, &[])?;
        let is_conditions = part.tag_name().name() == "conditions";
        for child in elements(part) {
            match namespace(child) {
                None => return Err(wrong(child, "an element without namespace")),
                Some(CP) if !is_conditions => {
                    return Err(wrong(child, "an element of common policy that does not belong here"));
                }
                _ if is_conditions => check_condition(child)?,
                _ => check_action(child)?,
            }
        }
    }
    Ok(())
}

fn check_action(action: Node<'_, '_>) -> Result<(), Fault> {
    if action.has_tag_name((OXE, "allow-reject-invite")) {
        require_text_only(action)?;
        if boolean(&text_of(action)).is_none() {
            return Err(wrong(action, "allow-reject-invite is not a boolean"));
        }
    }
    Ok(())
}

fn check_condition(condition: Node<'_, '_>) -> Result<(), Fault> {
    match (namespace(condition), condition.tag_name().name()) {
        (Some(CP), "identity") => check_identity(condition),
        (Some(CP), "sphere") => {
            require_attributes(condition, &["value"])?;
            match attribute(condition, "value") {
                Some(_) => Ok(()),
                None => Err(wrong(condition, "a sphere without value")),
            }
        }
        (Some(CP), "validity") => check_validity(condition),
        (Some(CP), _) => Err(wrong(condition, "a condition that common policy does not have")),
        (Some(OCP), "external-list") => check_external_list(condition),
        (Some(OCP), "other-identity" | "anonymous-request") => require_empty(condition),
        (Some(OXE), "service-list") => check_services(condition),
        (Some(OXE), "media-list") => check_media(condition),
        _ => Ok(()),
    }
}

fn check_identity(identity: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(identity)?;
    require_attributes(identity, &[])?;
    require_child(identity, "an identity without one or many")?;
    for child in elements(identity) {
        match (namespace(child), child.tag_name().name()) {
            (Some(CP), "one") => {
                require_attributes(child, &["id"])?;
                if attribute(child, "id").is_none() {
                    return Err(wrong(child, "one without id"));
                }
                check_extensions(child, &[])?;
            }
            (Some(CP), "many") => {
                require_attributes(child, &["domain"])?;
                check_extensions(child, &["except"])?;
                for except in elements(child).filter(|child| child.has_tag_name((CP, "except"))) {
                    require_attributes(except, &["domain", "id"])?;
                    require_empty(except)?;
                }
            }
            (None | Some(CP), _) => return Err(wrong(child, "an identity holds one and many")),
            _ => {}
        }
    }
    Ok(())
}

/// Elements of other namespaces may stand in `node`, and these of common policy.
fn check_extensions(node: Node<'_, '_>, known: &[&str]) -> Result<(), Fault> {
    require_elements_only(node)?;
    let is_strange = |child: &Node<'_, '_>| match namespace(*child) {
        None => true,
        Some(CP) => !known.contains(&child.tag_name().name()),
        Some(_) => false,
    };
    match elements(node).find(is_strange) {
        Some(child) => Err(wrong(child, "an element that does not belong here")),
        None => Ok(()),
    }
}

fn check_validity(validity: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(validity)?;
    require_attributes(validity, &[])?;
    require_child(validity, "a validity without from and until")?;
    let mut expected = ["from", "until"].iter().cycle();
    let mut count = 0;
    for bound in elements(validity) {
        let name = expected.next().copied().unwrap_or_default();
        if !bound.has_tag_name((CP, name)) {
            return Err(wrong(bound, "a validity is pairs of from and until"));
        }
        require_text_only(bound)?;
        if date_time::parse(&text_of(bound)).is_none() {
            return Err(wrong(bound, "not a dateTime"));
        }
        count += 1;
    }
    if count % 2 == 0 { Ok(()) } else { Err(wrong(validity, "a from without until")) }
}

fn check_external_list(list: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(list)?;
    for child in elements(list) {
        match (namespace(child), child.tag_name().name()) {
            (Some(OCP), "entry") if attribute(child, "anc").is_none() => {
                return Err(wrong(child, "an entry without anc"));
            }
            (Some(OCP), "entry") => {}
            (None | Some(OCP), _) => return Err(wrong(child, "an external-list holds entries")),
            _ => {}
        }
    }
    Ok(())
}

fn check_services(list: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(list)?;
    require_child(list, "an empty service-list")?;
    let is = |name| move |child: &Node<'_, '_>| child.has_tag_name((OXE, name));
    if let Some(except) = elements(list).find(is("all-services-except")) {
        require_elements_only(except)?;
        return match elements(list).find(|child| *child != except).or_else(|| elements(except).find(not(is("service"))))
        {
            Some(strange) => Err(wrong(strange, "all-services-except stands alone and holds services")),
            None => Ok(()),
        };
    }
    match elements(list).find(not(is("service"))) {
        Some(strange) => Err(wrong(strange, "a service-list holds services")),
        None => Ok(()),
    }
}

fn check_media(list: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(list)?;
    require_child(list, "an empty media-list")?;
    let is_strange = |media: &Node<'_, '_>| match namespace(*media) {
        None => true,
        Some(OXE) => !MEDIA.contains(&media.tag_name().name()),
        Some(_) => false,
    };
    if let Some(except) = elements(list).find(|child| child.has_tag_name((OXE, "all-media-except"))) {
        require_elements_only(except)?;
        return match elements(list).find(|child| *child != except).or_else(|| elements(except).find(is_strange)) {
            Some(strange) => Err(wrong(strange, "all-media-except stands alone and holds media")),
            None => Ok(()),
        };
    }
    match elements(list).find(is_strange) {
        Some(strange) => Err(wrong(strange, "a medium that the namespace does not have")),
        None => Ok(()),
    }
}

fn require_child(node: Node<'_, '_>, what: &'static str) -> Result<(), Fault> {
    if elements(node).next().is_some() { Ok(()) } else { Err(wrong(node, what)) }
}

fn not<T>(test: impl Fn(&T) -> bool) -> impl Fn(&T) -> bool {
    move |value| !test(value)
}

/// An XML name without colon, as `xs:ID` has it.
fn is_ncname(text: &str) -> bool {
    let is_start = |c: char| c == '_' || c.is_alphabetic();
    text.starts_with(is_start)
        && text.chars().all(|c| is_start(c) || c.is_numeric() || matches!(c, '-' | '.' | '\u{b7}'))
}

/// Common policy.
const CP: &str = "urn:ietf:params:xml:ns:common-policy";
/// OMA's conditions.
const OCP: &str = "urn:oma:xml:xdm:common-policy";
/// OMA's extensions.
const OXE: &str = "urn:oma:xml:xdm:extensions";

/// Elements that a media-list may have of OMA's extensions (SPEC finding 2).
const MEDIA: [&str; 7] =
    ["audio", "file-transfer", "group-advertisement", "message-session", "pager-mode-message", "video", "poc-speech"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixMillis;
    use crate::participating::policy::PolicyRequest;
    use crate::participating::preferences::Media;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    #[test]
    fn example_a_blocks_a_sender_and_a_domain_for_pager_and_large_messages() {
        assert_eq!(check(EXAMPLE_A.as_bytes()), Ok(()));
        let policy = compile(EXAMPLE_A);
        for (originator, rejected) in [
            ("sip:mallory@evil.example", true),
            ("tel:+15550100", true),
            ("sip:eve@spam.example", true),
            ("sip:friend@spam.example", false),
            ("sip:carol@home.example", false),
        ] {
            for media in [Media::PagerModeMessage, Media::LargeMessage] {
                assert_eq!(policy.rejects(&PolicyRequest { media, ..from(&[originator]) }), rejected, "{originator}");
            }
        }
    }

    #[test]
    fn example_b_blocks_a_list_anonymous_senders_and_others_at_night() {
        assert_eq!(check(EXAMPLE_B.as_bytes()), Ok(()));
        let policy = compile(EXAMPLE_B);
        let night = UnixMillis(1_893_535_200_000);
        let day = UnixMillis(night.0 - 1);
        for (originator, anonymous, at, rejected) in [
            (LISTED, false, day, true),
            (LISTED, false, night, true),
            (LISTED, true, day, true),
            (CAROL, false, day, false),
            (CAROL, true, day, true),
            (CAROL, false, night, true),
            (CAROL, false, UnixMillis(night.0 + 8 * 3_600_000), false),
        ] {
            let originator = [originator];
            let request = PolicyRequest { anonymous, at, ..from(&originator) };
            assert_eq!(policy.rejects(&request), rejected, "{request:?}");
        }
        let large = PolicyRequest { media: Media::LargeMessage, at: day, ..from(&[LISTED]) };
        assert!(!policy.rejects(&large), "the list is for pager messages, and the listed are no others");
    }

    #[test]
    fn example_c_blocks_large_messages_of_all_services_but_system_messages() {
        assert_eq!(check(EXAMPLE_C.as_bytes()), Ok(()));
        let policy = compile(EXAMPLE_C);
        let large = PolicyRequest { media: Media::LargeMessage, ..from(&[CAROL]) };
        assert!(!policy.rejects(&from(&[CAROL])));
        assert!(policy.rejects(&large));
        assert!(!policy.rejects(&PolicyRequest { service: SYSTEM, ..large }));
    }

    #[test]
    fn acceptance_cases_a02_to_a09() {
        let cpm = r#"<oxe:service-list><oxe:service featuretag="+g.oma.sip-cpm"/></oxe:service-list>"#;
        let pager = "<oxe:media-list><oxe:pager-mode-message/></oxe:media-list>";
        let alice = r#"<cr:identity><cr:one id="sip:alice@home.example"/></cr:identity>"#;
        let spam = r#"<cr:identity><cr:many domain="spam.example"><cr:except id="sip:friend@spam.example"/></cr:many></cr:identity>"#;
        let domain = r#"<cr:identity><cr:many domain="home.example"/></cr:identity>"#;
        let other = r#"<oxe:service-list><oxe:service featuretag="+g.poc.talkburst"/></oxe:service-list>"#;
        let session = "<oxe:media-list><oxe:message-session/></oxe:media-list>";
        for (case, rules, originator, rejected) in [
            ("A02", rule("a", &[alice, cpm, pager], "true"), ALICE, true),
            ("A03", rule("a", &[alice, cpm, pager], "true"), CAROL, false),
            ("A04", rule("a", &[alice, cpm, pager], "false"), ALICE, false),
            ("A05", rule("a", &[alice, other, pager], "true"), ALICE, false),
            ("A06", rule("a", &[alice, cpm, session], "true"), ALICE, false),
            ("A07", rule("a", &[alice], "true"), ALICE, true),
            ("A08", rule("a", &[domain], "true") + &rule("b", &[alice], "false"), ALICE, true),
            ("A09 friend", rule("a", &[spam], "1"), "sip:friend@spam.example", false),
            ("A09 other", rule("a", &[spam], "1"), "sip:eve@spam.example", true),
        ] {
            let document = ruleset(&rules);
            assert_eq!(check(document.as_bytes()), Ok(()), "{case}");
            assert_eq!(compile(&document).rejects(&from(&[originator])), rejected, "{case}");
        }
    }

    #[test]
    fn what_is_not_understood_is_read_with_care() {
        let alice = r#"<cr:identity><cr:one id="sip:alice@home.example"/></cr:identity>"#;
        for (conditions, action, rejected) in [
            ("", "true", true),
            ("", " 1\n", true),
            ("", "<!-- not -->true", true),
            ("", "TRUE", false),
            ("", "", false),
            ("<x:moon xmlns:x='urn:x'/>", "true", false),
            ("<cr:moon/>", "true", false),
            ("<identity xmlns=''/>", "true", false),
            ("<cr:identity/>", "true", false),
            ("<cr:identity><cr:one/><cr:many/></cr:identity>", "true", true),
            ("<cr:identity><cr:some/></cr:identity>", "true", false),
            ("<cr:sphere value='work'/>", "true", false),
            ("<oxe:media-list/>", "true", false),
            ("<oxe:media-list><oxe:carrier-pigeon/></oxe:media-list>", "true", false),
            ("<oxe:media-list><x:pager-mode-message xmlns:x='urn:x'/></oxe:media-list>", "true", true),
            ("<oxe:service-list><oxe:service/></oxe:service-list>", "true", false),
            ("<ocp:external-list/>", "true", false),
            ("<ocp:external-list><ocp:entry anc='http://nowhere'/></ocp:external-list>", "true", false),
            ("<cr:validity><cr:from>x</cr:from><cr:until>2999-01-01T00:00:00Z</cr:until></cr:validity>", "true", false),
            ("<cr:validity><cr:until>2999-01-01T00:00:00Z</cr:until></cr:validity>", "true", false),
            ("<ocp:other-identity/>", "true", true),
        ] {
            let document = ruleset(&rule("a", &[conditions], action));
            assert_eq!(compile(&document).rejects(&from(&[ALICE])), rejected, "{conditions} {action}");
        }
        let no_id = format!("<cr:rule><cr:conditions>{alice}</cr:conditions>{REJECT}</cr:rule><x/>text");
        assert!(compile(&ruleset(&no_id)).rejects(&from(&[ALICE])));
        let no_conditions = format!("<cr:rule id='a'>{REJECT}</cr:rule>");
        assert!(compile(&ruleset(&no_conditions)).rejects(&from(&[ALICE])));
        let foreign_action = "<cr:rule id='a'><cr:actions><x:allow-reject-invite xmlns:x='urn:x'>true</x:allow-reject-invite></cr:actions></cr:rule>";
        assert!(!compile(&ruleset(foreign_action)).rejects(&from(&[ALICE])));
    }

    #[test]
    fn another_root_is_refused_by_both_readings() {
        for root in ["<ruleset/>", "<x:ruleset xmlns:x='urn:x'/>", "<p xmlns='urn:ietf:params:xml:ns:common-policy'/>"]
        {
            assert!(matches!(compile_access_policy(root.as_bytes(), &Fixed), Err(Fault::Schema { .. })), "{root}");
            assert!(matches!(check(root.as_bytes()), Err(Fault::Schema { .. })), "{root}");
        }
    }

    #[test]
    fn valid_documents_pass_the_strict_check() {
        let many = "<cr:identity><cr:many><cr:except domain='a'/><cr:except id='sip:a@b'/><x:y xmlns:x='urn:x'/></cr:many></cr:identity>";
        let two = "<oxe:service-list><oxe:service enabler='a'/><oxe:service enabler='b'><oxe:group-media/></oxe:service></oxe:service-list>";
        for conditions in [
            "",
            many,
            two,
            &two.repeat(2),
            "<x:moon xmlns:x='urn:x'>full</x:moon>",
            "<cr:sphere value='home'/>",
            "<ocp:external-list/>",
            "<oxe:media-list><oxe:video/><x:hologram xmlns:x='urn:x'/></oxe:media-list>",
        ] {
            assert_eq!(check(ruleset(&rule("a", &[conditions], " true ")).as_bytes()), Ok(()), "{conditions}");
        }
        for rules in [
            "",
            "<cr:rule id='a'/>",
            "<cr:rule id='_1-x.y'><cr:transformations/></cr:rule><cr:rule id='b'><cr:actions/></cr:rule>",
            "<cr:rule id='a'><cr:actions><oxe:allow-offline-storage allow='true'/></cr:actions></cr:rule>",
        ] {
            assert_eq!(check(ruleset(rules).as_bytes()), Ok(()), "{rules}");
        }
    }

    #[test]
    fn invalid_conditions_and_actions_fail_the_strict_check() {
        let validity = |inside: &str| format!("<cr:validity>{inside}</cr:validity>");
        for conditions in [
            "<cr:identity/>",
            "<cr:identity> </cr:identity>",
            "<cr:identity>bob<cr:many/></cr:identity>",
            "<cr:identity><cr:one/></cr:identity>",
            "<cr:identity><cr:one id='a' name='b'/></cr:identity>",
            "<cr:identity><cr:one id='a'><cr:except id='b'/></cr:one></cr:identity>",
            "<cr:identity><cr:some/></cr:identity>",
            "<cr:identity><many xmlns=''/></cr:identity>",
            "<cr:identity><cr:many><cr:except id='a'>b</cr:except></cr:many></cr:identity>",
            "<cr:identity><cr:many><cr:one id='a'/></cr:many></cr:identity>",
            "<cr:sphere/>",
            "<cr:moon/>",
            "<identity xmlns=''/>",
            "text",
            "<oxe:media-list/>",
            "<oxe:media-list>video</oxe:media-list>",
            "<oxe:media-list><oxe:large-message/></oxe:media-list>",
            "<oxe:media-list><video xmlns=''/></oxe:media-list>",
            "<oxe:media-list><oxe:video/><oxe:all-media-except/></oxe:media-list>",
            "<oxe:media-list><oxe:all-media-except><oxe:large-message/></oxe:all-media-except></oxe:media-list>",
            "<oxe:service-list/>",
            "<oxe:service-list><oxe:video/></oxe:service-list>",
            "<oxe:service-list><oxe:service/><oxe:all-services-except/></oxe:service-list>",
            "<oxe:service-list><oxe:all-services-except><oxe:x/></oxe:all-services-except></oxe:service-list>",
            "<ocp:external-list><ocp:entry/></ocp:external-list>",
            "<ocp:external-list><ocp:list anc='x'/></ocp:external-list>",
            "<ocp:other-identity>x</ocp:other-identity>",
            "<ocp:anonymous-request><cr:many/></ocp:anonymous-request>",
            &validity(""),
            &validity("<cr:from>2030-01-01T22:00:00Z</cr:from>"),
            &validity("<cr:until>2030-01-01T22:00:00Z</cr:until><cr:from>2030-01-01T22:00:00Z</cr:from>"),
            &validity("<cr:from>tonight</cr:from><cr:until>2030-01-01T22:00:00Z</cr:until>"),
            &validity("<cr:from>2030-01-01T22:00:00Z<cr:x/></cr:from><cr:until>2030-01-01T22:00:00Z</cr:until>"),
        ] {
            let fault = check(ruleset(&rule("a", &[conditions], "true")).as_bytes());
            assert!(matches!(fault, Err(Fault::Schema { .. })), "{conditions}: {fault:?}");
        }
        for action in ["", "yes", "TRUE", "2", "<cr:x/>true"] {
            let fault = check(ruleset(&rule("a", &[], action)).as_bytes());
            assert!(matches!(fault, Err(Fault::Schema { .. })), "{action}: {fault:?}");
        }
    }

    #[test]
    fn invalid_rules_fail_the_strict_check() {
        for rules in [
            "<cr:rule/>",
            "<cr:rule id=''/>",
            "<cr:rule id='1'/>",
            "<cr:rule id='a b'/>",
            "<cr:rule id='a' name='b'/>",
            "<cr:rule id='a'>text</cr:rule>",
            "<cr:rule id='a'><cr:actions/><cr:conditions/></cr:rule>",
            "<cr:rule id='a'><cr:conditions/><cr:conditions/></cr:rule>",
            "<cr:rule id='a'><cr:transformations/><cr:actions/></cr:rule>",
            "<cr:rule id='a'><x:actions xmlns:x='urn:x'/></cr:rule>",
            "<cr:rule id='a'><cr:actions><cr:allow-reject-invite>true</cr:allow-reject-invite></cr:actions></cr:rule>",
            "<cr:rule id='a'><cr:actions><allow xmlns=''/></cr:actions></cr:rule>",
            "<cr:rule id='a'><cr:actions>true</cr:actions></cr:rule>",
            "<rule xmlns='' id='a'/>",
            "<x:rule xmlns:x='urn:x' id='a'/>",
            "text",
        ] {
            let fault = check(ruleset(rules).as_bytes());
            assert!(matches!(fault, Err(Fault::Schema { .. })), "{rules}: {fault:?}");
        }
    }

    #[test]
    fn rule_ids_are_unique() {
        let fault = check(ruleset("<cr:rule id='a'/>\n<cr:rule id='a'/>").as_bytes()).expect_err("ids must differ");
        assert!(matches!(fault, Fault::NotUnique { field: "ruleset/rule/@id", at } if at.line == 2));
    }

    #[test]
    fn rules_are_counted_before_anything_is_compiled() {
        let rules = |count: usize| {
            let rules: String = (0..count).map(|n| format!("<cr:rule id='r{n}'/>")).collect();
            ruleset(&rules)
        };
        assert_eq!(check(rules(RULE_COUNT_MAX).as_bytes()), Ok(()));
        for (count, fault) in [(RULE_COUNT_MAX + 1, Fault::TooManyRules), (100_000, Fault::TooLarge)] {
            let document = rules(count);
            let started = Instant::now();
            assert_eq!(check(document.as_bytes()), Err(fault));
            assert_eq!(compile_access_policy(document.as_bytes(), &Fixed).err(), Some(fault));
            assert!(started.elapsed() < Duration::from_secs(10));
        }
    }

    proptest! {
        #[test]
        fn mutated_documents_never_panic(
            example in proptest::sample::select(&[EXAMPLE_A, EXAMPLE_B, EXAMPLE_C][..]),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..40_usize, "\\PC{0,12}"), 1..5),
        ) {
            let mut document: Vec<char> = example.chars().collect();
            for (index, len, text) in changes {
                let at = index.index(document.len() + 1);
                let end = (at + len).min(document.len());
                document.splice(at..end, text.chars());
            }
            let document: String = document.into_iter().collect();
            let strict = check(document.as_bytes());
            let tolerant = compile_access_policy(document.as_bytes(), &Fixed);
            prop_assert!(strict.is_err() || tolerant.is_ok());
            if let Ok(policy) = tolerant {
                let _ = policy.rejects(&from(&[ALICE, "tel:+15550100"]));
            }
        }

        #[test]
        fn documents_with_parts_exchanged_never_panic(
            example in proptest::sample::select(&[EXAMPLE_A, EXAMPLE_B, EXAMPLE_C][..]),
            names in proptest::collection::vec(proptest::sample::select(&NAMES[..]), 2..12),
        ) {
            let document = names.chunks_exact(2).fold(example.to_owned(), |text, pair| text.replace(pair[0], pair[1]));
            let strict = check(document.as_bytes());
            let tolerant = compile_access_policy(document.as_bytes(), &Fixed);
            prop_assert!(strict.is_err() || tolerant.is_ok());
        }
    }

    const NAMES: [&str; 16] = [
        "cr:identity",
        "cr:one",
        "cr:many",
        "cr:except",
        "cr:rule",
        "cr:conditions",
        "cr:actions",
        "cr:validity",
        "ocp:external-list",
        "ocp:other-identity",
        "oxe:service-list",
        "oxe:service",
        "oxe:media-list",
        "oxe:pager-mode-message",
        "oxe:all-services-except",
        "id=",
    ];
    const ALICE: &str = "sip:alice@home.example";
    const CAROL: &str = "sip:carol@home.example";
    const LISTED: &str = "sip:listed@x.example";
    const MSG: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg";
    const SYSTEM: &str = "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.systemmsg";
    const REJECT: &str = "<cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>";

    /// Knows Bob's block list and no other.
    struct Fixed;

    impl Lists for Fixed {
        fn members(&self, anchor: &str) -> Option<Arc<MemberSet>> {
            anchor.contains("oma_blockedcontacts").then(|| Arc::new(MemberSet::of_addresses([LISTED])))
        }
    }

    fn compile(document: &str) -> AccessPolicy {
        compile_access_policy(document.as_bytes(), &Fixed).expect("the document is well-formed")
    }

    fn from<'a>(originator: &'a [&'a str]) -> PolicyRequest<'a> {
        PolicyRequest { originator, anonymous: false, service: MSG, media: Media::PagerModeMessage, at: UnixMillis(0) }
    }

    fn ruleset(rules: &str) -> String {
        format!(r#"<cr:ruleset xmlns:cr="{CP}" xmlns:ocp="{OCP}" xmlns:oxe="{OXE}">{rules}</cr:ruleset>"#)
    }

    fn rule(id: &str, conditions: &[&str], reject: &str) -> String {
        let conditions = conditions.concat();
        format!(
            r#"<cr:rule id="{id}"><cr:conditions>{conditions}</cr:conditions>
               <cr:actions><oxe:allow-reject-invite>{reject}</oxe:allow-reject-invite></cr:actions></cr:rule>"#
        )
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
</cr:ruleset>"#;

    const EXAMPLE_B: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<cr:ruleset xmlns:cr="urn:ietf:params:xml:ns:common-policy"
            xmlns:ocp="urn:oma:xml:xdm:common-policy"
            xmlns:oxe="urn:oma:xml:xdm:extensions">
  <cr:rule id="list">
    <cr:conditions>
      <ocp:external-list>
        <ocp:entry anc="http://xdms.example/resource-lists/users/sip:bob@home.example/index/~~/resource-lists/list%5B@name=%22oma_blockedcontacts%22%5D"/>
      </ocp:external-list>
      <oxe:service-list><oxe:service enabler="urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg"/></oxe:service-list>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
  <cr:rule id="anon">
    <cr:conditions><ocp:anonymous-request/></cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
  <cr:rule id="night">
    <cr:conditions>
      <ocp:other-identity/>
      <cr:validity>
        <cr:from>2030-01-01T22:00:00Z</cr:from><cr:until>2030-01-02T06:00:00Z</cr:until>
      </cr:validity>
    </cr:conditions>
    <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
  <cr:rule id="rest">
    <cr:conditions><ocp:other-identity/></cr:conditions>
    <cr:actions><oxe:allow-reject-invite>false</oxe:allow-reject-invite></cr:actions>
  </cr:rule>
</cr:ruleset>"#;

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
</cr:ruleset>"#;
}
