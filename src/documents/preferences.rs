//! Preference documents.
//!
//! SPEC §3.5.

use super::fault::Fault;
use super::xml::{
    self, attribute, boolean, elements, namespace, position, require_attributes, require_elements_only,
    require_text_only, text_of, wrong,
};
use crate::base::limits::DEVICE_COUNT_MAX;
use crate::participating::preferences::{Availability, DeviceSelection, Handling, LegacyService, Media, Profile};
use roxmltree::{Document, Node};
use std::collections::HashSet;

/// Reads the active profile of a preference document: the one that `active` names, the first one when it names none.
/// What is not understood is left to the provider's defaults.
pub fn compile_preferences(body: &[u8]) -> Result<Profile, Fault> {
    let document = xml::parse(body)?;
    let root = root_of(&document)?;
    let profiles = || elements(root).filter(|child| is(*child, "profile"));
    let active = attribute(root, "active");
    let named = profiles().find(|profile| active.is_some() && attribute(*profile, "id") == active);
    Ok(named.or_else(|| profiles().next()).map(read_profile).unwrap_or_default())
}

fn root_of<'a, 'input>(document: &'a Document<'input>) -> Result<Node<'a, 'input>, Fault> {
    let root = document.root_element();
    if is(root, "cpm-preferences") { Ok(root) } else { Err(wrong(root, "the root is not cpm-preferences")) }
}

fn read_profile(node: Node<'_, '_>) -> Profile {
    let child = |name| elements(node).find(move |child| is(*child, name));
    let handling = |media| {
        let unavailable = child("when-unavailable")?;
        elements(unavailable)
            .filter(|handling| is(*handling, "handling") && covers(*handling, media))
            .find_map(|handling| parse_handling(&text_of(handling)))
    };
    let availability = child("availability").and_then(|availability| parse_availability(&text_of(availability)));
    let deferred = child("deferred");
    Profile {
        availability: availability.unwrap_or_default(),
        pager_handling: handling(Media::PagerModeMessage),
        large_handling: handling(Media::LargeMessage),
        records_history: child("history").and_then(|history| attribute(history, "recording")) == Some("active"),
        devices: child("devices").map(read_devices).unwrap_or_default(),
        interworking: child("interworking")
            .and_then(|order| attribute(order, "order"))
            .map_or_else(Vec::new, read_order),
        deferred_notify: deferred.and_then(|node| boolean(attribute(node, "notify")?)).unwrap_or(false),
        deferred_age_max_seconds: deferred.and_then(|node| attribute(node, "max-age")?.parse().ok()),
    }
}

fn covers(handling: Node<'_, '_>, media: Media) -> bool {
    match attribute(handling, "media") {
        Some(name) => parse_media(name) == Some(media),
        None => true,
    }
}

/// Selecting no device at all is taken for not having chosen.
fn read_devices(node: Node<'_, '_>) -> DeviceSelection {
    let selected: Vec<Box<str>> = elements(node)
        .filter(|device| is(*device, "device"))
        .filter_map(|device| attribute(device, "instance"))
        .map(|instance| instance.trim_start_matches('<').trim_end_matches('>').into())
        .take(DEVICE_COUNT_MAX)
        .collect();
    if attribute(node, "mode") == Some("selected") && !selected.is_empty() {
        DeviceSelection::Selected(selected)
    } else {
        DeviceSelection::All
    }
}

fn read_order(order: &str) -> Vec<LegacyService> {
    let mut services = Vec::new();
    for service in order.split_ascii_whitespace().filter_map(parse_service) {
        if !services.contains(&service) {
            services.push(service);
        }
    }
    services
}

/// Checks a document: known elements at most once with values from their lists, profiles with unique ids. Unknown
/// elements are ignored, those without namespace are not.
pub(super) fn check(body: &[u8]) -> Result<(), Fault> {
    let document = xml::parse(body)?;
    let root = root_of(&document)?;
    require_attributes(root, &["active"])?;
    require_qualified(root)?;
    let mut ids = HashSet::new();
    for profile in elements(root).filter(|child| is(*child, "profile")) {
        let id = attribute(profile, "id").filter(|id| !id.is_empty());
        if !ids.insert(id.ok_or_else(|| wrong(profile, "a profile without id"))?) {
            return Err(Fault::NotUnique { field: "cpm-preferences/profile/@id", at: position(profile) });
        }
        check_profile(profile)?;
    }
    if ids.is_empty() { Err(wrong(root, "no profile")) } else { Ok(()) }
}

fn check_profile(profile: Node<'_, '_>) -> Result<(), Fault> {
    require_attributes(profile, &["id"])?;
    require_qualified(profile)?;
    let mut seen = HashSet::new();
    for child in elements(profile).filter(|child| namespace(*child) == Some(NAMESPACE)) {
        let name = child.tag_name().name();
        if PROFILE_PARTS.contains(&name) && !seen.insert(name) {
            return Err(wrong(child, "an element that a profile has once is there twice"));
        }
        match name {
            "availability" => {
                require_text_only(child)?;
                known(child, parse_availability(&text_of(child)), "availability is available or not-available")?;
            }
            "when-unavailable" => check_handlings(child)?,
            "history" => {
                let recording = attribute(child, "recording").filter(|word| matches!(*word, "active" | "inactive"));
                known(child, recording, "recording is active or inactive")?;
            }
            "interworking" => {
                let order = attribute(child, "order");
                let order =
                    order.filter(|order| order.split_ascii_whitespace().all(|word| parse_service(word).is_some()));
                known(child, order, "order is of sms, mms and email")?;
            }
            "devices" => check_devices(child)?,
            "deferred" => {
                let is_boolean = attribute(child, "notify").is_none_or(|word| boolean(word).is_some());
                let is_number = attribute(child, "max-age").is_none_or(|age| age.parse::<u32>().is_ok());
                known(child, (is_boolean && is_number).then_some(()), "notify is a boolean, max-age is seconds")?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_handlings(unavailable: Node<'_, '_>) -> Result<(), Fault> {
    require_qualified(unavailable)?;
    for handling in elements(unavailable).filter(|child| is(*child, "handling")) {
        require_text_only(handling)?;
        if attribute(handling, "media").is_some_and(|media| parse_media(media).is_none()) {
            return Err(wrong(handling, "media is pager-mode-message or large-message"));
        }
        known(handling, parse_handling(&text_of(handling)), "handling is reject, defer, store or interwork")?;
    }
    Ok(())
}

fn check_devices(devices: Node<'_, '_>) -> Result<(), Fault> {
    require_qualified(devices)?;
    let instances = || elements(devices).filter(|child| is(*child, "device"));
    let mode = attribute(devices, "mode");
    known(devices, mode.filter(|mode| matches!(*mode, "all" | "selected")), "mode is all or selected")?;
    if let Some(device) = instances().find(|device| attribute(*device, "instance").is_none_or(str::is_empty)) {
        return Err(wrong(device, "a device without instance"));
    }
    let count = instances().count();
    if mode == Some("selected") && count == 0 {
        return Err(wrong(devices, "no device is selected"));
    }
    if count > DEVICE_COUNT_MAX { Err(wrong(devices, "too many devices")) } else { Ok(()) }
}

/// Refuses text and elements without namespace.
fn require_qualified(node: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(node)?;
    match elements(node).find(|child| namespace(*child).is_none()) {
        Some(child) => Err(wrong(child, "an element without namespace")),
        None => Ok(()),
    }
}

fn known<T>(node: Node<'_, '_>, value: Option<T>, what: &'static str) -> Result<T, Fault> {
    value.ok_or_else(|| wrong(node, what))
}

fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.has_tag_name((NAMESPACE, name))
}

fn parse_availability(word: &str) -> Option<Availability> {
    match word {
        "available" => Some(Availability::Available),
        "not-available" => Some(Availability::NotAvailable),
        _ => None,
    }
}

fn parse_handling(word: &str) -> Option<Handling> {
    match word {
        "reject" => Some(Handling::Reject),
        "defer" => Some(Handling::Defer),
        "store" => Some(Handling::Store),
        "interwork" => Some(Handling::Interwork),
        _ => None,
    }
}

fn parse_media(word: &str) -> Option<Media> {
    match word {
        "pager-mode-message" => Some(Media::PagerModeMessage),
        "large-message" => Some(Media::LargeMessage),
        _ => None,
    }
}

fn parse_service(word: &str) -> Option<LegacyService> {
    match word {
        "sms" => Some(LegacyService::Sms),
        "mms" => Some(LegacyService::Mms),
        "email" => Some(LegacyService::Email),
        _ => None,
    }
}

const NAMESPACE: &str = "urn:cpm-pf:xml:user-preferences:1.0";

/// Elements that a profile has at most once.
const PROFILE_PARTS: [&str; 6] = ["availability", "when-unavailable", "history", "interworking", "devices", "deferred"];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_active_profile_is_read() {
        assert_eq!(check(EXAMPLE.as_bytes()), Ok(()));
        assert_eq!(compile(EXAMPLE), work());
        let night = Profile {
            availability: Availability::NotAvailable,
            pager_handling: Some(Handling::Reject),
            large_handling: Some(Handling::Reject),
            ..Profile::default()
        };
        assert_eq!(compile(&EXAMPLE.replace("active=\"work\"", "active=\"night\"")), night);
    }

    #[test]
    fn without_a_named_profile_the_first_is_active() {
        assert_eq!(compile(&EXAMPLE.replace("active=\"work\"", "active=\"gone\"")), work());
        assert_eq!(compile(&EXAMPLE.replace("active=\"work\"", "")), work());
        assert_eq!(compile(&format!("<cpm-preferences xmlns='{NAMESPACE}'/>")), Profile::default());
    }

    #[test]
    fn the_first_handling_that_applies_counts() {
        for (handlings, pager, large) in [
            ("<handling>store</handling><handling media='large-message'>reject</handling>", STORE, STORE),
            ("<handling media='large-message'>reject</handling><handling>store</handling>", STORE, REJECT),
            ("<handling media='pager-mode-message'>store</handling>", STORE, None),
            ("<handling media='video'>store</handling>", None, None),
            ("<handling>burn</handling><handling>store</handling>", STORE, STORE),
            ("", None, None),
        ] {
            let profile = compile(&document(&format!("<when-unavailable>{handlings}</when-unavailable>")));
            assert_eq!((profile.pager_handling, profile.large_handling), (pager, large), "{handlings}");
        }
    }

    #[test]
    fn what_is_not_understood_is_left_to_defaults() {
        for inside in [
            "<availability>maybe</availability>",
            "<history recording='sometimes'/>",
            "<history/>",
            "<devices/>",
            "<devices mode='selected'/>",
            "<devices mode='none'><device instance='a'/></devices>",
            "<interworking order='telex'/>",
            "<deferred notify='perhaps' max-age='-1'/>",
            "<x:availability xmlns:x='urn:x'>not-available</x:availability>",
            "<moon/>text",
        ] {
            assert_eq!(compile(&document(inside)), Profile::default(), "{inside}");
        }
    }

    #[test]
    fn selected_devices_are_bounded() {
        let devices: String = (0..100).map(|n| format!("<device instance='&lt;urn:uuid:{n}>'/>")).collect();
        let document = document(&format!("<devices mode='selected'>{devices}</devices>"));
        let DeviceSelection::Selected(selected) = compile(&document).devices else { panic!("devices are selected") };
        assert_eq!((selected.len(), &*selected[0]), (DEVICE_COUNT_MAX, "urn:uuid:0"));
        assert!(matches!(check(document.as_bytes()), Err(Fault::Schema { .. })));
    }

    #[test]
    fn invalid_profiles_fail_the_strict_check() {
        for inside in [
            "text",
            "<availability xmlns=''>available</availability>",
            "<availability>maybe</availability>",
            "<availability><b/>available</availability>",
            "<availability>available</availability><availability>available</availability>",
            "<when-unavailable>defer</when-unavailable>",
            "<when-unavailable><handling>burn</handling></when-unavailable>",
            "<when-unavailable><handling media='video'>defer</handling></when-unavailable>",
            "<history/>",
            "<history recording='yes'/>",
            "<interworking/>",
            "<interworking order='sms telex'/>",
            "<devices/>",
            "<devices mode='some'/>",
            "<devices mode='selected'/>",
            "<devices mode='all'><device/></devices>",
            "<deferred notify='yes'/>",
            "<deferred max-age='long'/>",
            "<deferred max-age='4294967296'/>",
        ] {
            let fault = check(document(inside).as_bytes());
            assert!(matches!(fault, Err(Fault::Schema { .. })), "{inside}: {fault:?}");
        }
        for inside in ["", "<moon/>", "<x:y xmlns:x='urn:x'>z</x:y>", "<deferred/>", "<when-unavailable/>"] {
            assert_eq!(check(document(inside).as_bytes()), Ok(()), "{inside}");
        }
    }

    #[test]
    fn profiles_have_unique_ids() {
        let root = |profiles: &str| format!("<cpm-preferences xmlns='{NAMESPACE}'>{profiles}</cpm-preferences>");
        assert!(matches!(check(root("").as_bytes()), Err(Fault::Schema { .. })));
        assert!(matches!(check(root("<profile/>").as_bytes()), Err(Fault::Schema { .. })));
        let twice = root("<profile id='a'/><profile id='a'/>");
        assert!(matches!(check(twice.as_bytes()), Err(Fault::NotUnique { .. })));
        assert!(matches!(check(b"<cpm-preferences/>"), Err(Fault::Schema { .. })));
        assert!(matches!(compile_preferences(b"<cpm-preferences/>"), Err(Fault::Schema { .. })));
    }

    proptest! {
        #[test]
        fn mutated_documents_never_panic(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..40_usize, "\\PC{0,12}"), 1..5),
        ) {
            let mut document: Vec<char> = EXAMPLE.chars().collect();
            for (index, len, text) in changes {
                let at = index.index(document.len() + 1);
                let end = (at + len).min(document.len());
                document.splice(at..end, text.chars());
            }
            let document: String = document.into_iter().collect();
            let strict = check(document.as_bytes());
            prop_assert!(strict.is_err() || compile_preferences(document.as_bytes()).is_ok());
        }
    }

    const STORE: Option<Handling> = Some(Handling::Store);
    const REJECT: Option<Handling> = Some(Handling::Reject);

    fn work() -> Profile {
        Profile {
            availability: Availability::Available,
            pager_handling: Some(Handling::Defer),
            large_handling: STORE,
            records_history: true,
            devices: DeviceSelection::All,
            interworking: vec![LegacyService::Sms, LegacyService::Mms, LegacyService::Email],
            deferred_notify: true,
            deferred_age_max_seconds: Some(604_800),
        }
    }

    fn compile(document: &str) -> Profile {
        compile_preferences(document.as_bytes()).expect("the document is well-formed")
    }

    fn document(profile: &str) -> String {
        format!("<cpm-preferences xmlns='{NAMESPACE}'><profile id='a'>{profile}</profile></cpm-preferences>")
    }

    const EXAMPLE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<cpm-preferences xmlns="urn:cpm-pf:xml:user-preferences:1.0" active="work">
  <profile id="work">
    <availability>available</availability>          <!-- available | not-available -->
    <when-unavailable>                                 <!-- first that applies -->
      <handling media="pager-mode-message">defer</handling>  <!-- reject | defer | store | interwork -->
      <handling media="large-message">store</handling>
    </when-unavailable>
    <history recording="active"/>                      <!-- active | inactive -->
    <interworking order="sms mms email"/>
    <devices mode="all">                               <!-- all | selected -->
      <device instance="urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"/>
    </devices>
    <deferred notify="true" max-age="604800"/>
  </profile>
  <profile id="night"><availability>not-available</availability>
    <when-unavailable><handling>reject</handling></when-unavailable>
    <history recording="inactive"/></profile>
</cpm-preferences>"#;
}
