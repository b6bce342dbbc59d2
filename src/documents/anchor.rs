//! References into resource-lists documents, as external lists and `entry-ref`s make them.

use crate::base::id::Aor;
use crate::sip::uri;

/// Where an anchor leads: a list in a user's document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListAnchor {
    /// The application unique id, such as `resource-lists`.
    pub auid: Box<str>,
    /// The user whose document it is.
    pub user: Aor,
    /// The document's name, such as `index`.
    pub document: Box<str>,
    /// The names of the list and the lists around it, outermost first; never empty.
    pub list: Vec<Box<str>>,
}

/// Splits an anchor into user, document and list. Escaped and plain forms are read alike; the host and what stands
/// before the application unique id are not looked at, so a relative reference does as well.
///
/// `http://xdms.example/resource-lists/users/sip:bob@home.example/index/~~/resource-lists/list%5B@name=%22friends%22%5D`
///
/// RFC 4826 §3.1, RFC 4825 §6.
pub fn parse_anchor(anchor: &str) -> Option<ListAnchor> {
    match parse_reference(anchor)? {
        (list, None) => Some(list),
        (_, Some(_)) => None,
    }
}

/// An anchor, or a reference to one entry of a list by its `uri`.
pub(super) fn parse_reference(reference: &str) -> Option<(ListAnchor, Option<Box<str>>)> {
    let (path, _query) = reference.trim().split_once('?').unwrap_or((reference.trim(), ""));
    let (document, selector) = path.split_once("/~~/")?;
    let (root, document) = document.split_once("/users/")?;
    let auid = root.rsplit('/').next().filter(|auid| !auid.is_empty())?;
    let (user, document) = document.split_once('/')?;
    let user = uri::canonical_aor(&decoded(user)?)?;
    let document = decoded(document).filter(|name| !name.is_empty())?;
    let Selector { list, entry } = parse_selector(&decoded(selector)?)?;
    Some((ListAnchor { auid: decoded(auid)?.into(), user, document: document.into(), list }, entry))
}

struct Selector {
    list: Vec<Box<str>>,
    entry: Option<Box<str>>,
}

/// `resource-lists/list[@name="a"]/list[@name="b"]`, perhaps with `/entry[@uri="…"]` at the end.
fn parse_selector(selector: &str) -> Option<Selector> {
    let mut rest = selector.strip_prefix('/').unwrap_or(selector);
    let mut is_root = true;
    let mut list = Vec::new();
    while !rest.is_empty() {
        let name_end = rest.find(['/', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        let name = name.rsplit(':').next().unwrap_or(name);
        if is_root {
            is_root = false;
            rest = after.strip_prefix('/').filter(|_| name == "resource-lists")?;
            continue;
        }
        let (attribute, value, after) = parse_predicate(after)?;
        match (name, attribute) {
            ("list", "name") => list.push(value.into()),
            ("entry", "uri") if after.is_empty() && !list.is_empty() => {
                return Some(Selector { list, entry: Some(value.into()) });
            }
            _ => return None,
        }
        rest = match after.strip_prefix('/') {
            Some(next) => next,
            None if after.is_empty() => after,
            None => return None,
        };
    }
    if list.is_empty() { None } else { Some(Selector { list, entry: None }) }
}

/// `[@name="value"]` and what follows it.
fn parse_predicate(text: &str) -> Option<(&str, &str, &str)> {
    let (attribute, rest) = text.strip_prefix("[@")?.split_once('=')?;
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let (value, rest) = rest[1..].split_once(quote)?;
    Some((attribute, value, rest.strip_prefix(']')?))
}

fn decoded(text: &str) -> Option<String> {
    let mut out = vec![0; text.len()];
    uri::percent_decode(text.as_bytes(), &mut out).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_anchor_names_user_document_and_list() {
        let blocked = ListAnchor {
            auid: "resource-lists".into(),
            user: Aor::from_canonical("sip:bob@home.example"),
            document: "index".into(),
            list: vec!["oma_blockedcontacts".into()],
        };
        for anchor in [
            "http://xdms.example/resource-lists/users/sip:bob@home.example/index/~~/resource-lists/list%5B@name=%22oma_blockedcontacts%22%5D",
            "https://x:80/root/resource-lists/users/sip%3abob%40HOME.example/index/~~/resource-lists/list[@name=\"oma_blockedcontacts\"]",
            "resource-lists/users/sip:bob@home.example/index/~~/rl:resource-lists/rl:list%5b%40name%3d%27oma_blockedcontacts%27%5d?xmlns(rl=urn:x)",
        ] {
            assert_eq!(parse_anchor(anchor).as_ref(), Some(&blocked), "{anchor}");
        }
    }

    #[test]
    fn an_anchor_may_lead_into_lists_of_lists() {
        let anchor = parse_anchor(
            "/resource-lists/users/tel:+1-555/index/~~/resource-lists/list[@name='a/b']/list%5B@name=%22c%20d%22%5D",
        );
        let anchor = anchor.expect("it is an anchor");
        assert_eq!(anchor.user.as_str(), "tel:+1555");
        assert_eq!(anchor.list, ["a/b".into(), "c d".into()]);
    }

    #[test]
    fn an_entry_reference_names_list_and_entry() {
        let reference =
            "resource-lists/users/sip:bob@x/index/~~/resource-lists/list[@name=\"a\"]/entry[@uri=\"sip:c@x\"]";
        let (list, entry) = parse_reference(reference).expect("it is a reference");
        assert_eq!((&*list.list[0], entry.as_deref()), ("a", Some("sip:c@x")));
        assert_eq!(parse_anchor(reference), None);
    }

    #[test]
    fn what_leads_to_no_list_of_a_user_is_no_anchor() {
        for anchor in [
            "",
            "http://xdms.example/",
            "http://x/resource-lists/global/index/~~/resource-lists/list[@name='a']",
            "http://x/resource-lists/users/bob/index/~~/resource-lists/list[@name='a']",
            "http://x/resource-lists/users/sip:bob@x/index",
            "http://x/resource-lists/users/sip:bob@x/index/~~/",
            "http://x/resource-lists/users/sip:bob@x/index/~~/resource-lists",
            "http://x/resource-lists/users/sip:bob@x/~~/resource-lists/list[@name='a']",
            "http://x/resource-lists/users/sip:bob@x/index/~~/other/list[@name='a']",
            "http://x/resource-lists/users/sip:bob@x/index/~~/resource-lists/list[2]",
            "http://x/resource-lists/users/sip:bob@x/index/~~/resource-lists/list[@name=a]",
            "http://x/resource-lists/users/sip:bob@x/index/~~/resource-lists/list[@name='a]",
            "http://x/resource-lists/users/sip:bob@x/index/~~/resource-lists/list[@name='a']x",
            "http://x/resource-lists/users/sip:bob@x/index/~~/resource-lists/entry[@uri='a']",
        ] {
            assert_eq!(parse_anchor(anchor), None, "{anchor}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            text in "\\PC{0,60}",
            like in "resource-lists/users/sip:b@x/i/~~/resource-lists/(list)?[\\[\\]@name='\"/%5Bé]{0,30}",
        ) {
            let _ = (parse_anchor(&text), parse_anchor(&like));
        }
    }
}
