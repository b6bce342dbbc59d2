//! Resource-lists documents, and who is in a list.
//!
//! RFC 4826 §3.

use super::anchor::{ListAnchor, parse_anchor, parse_reference};
use super::fault::Fault;
use super::xml::{
    self, attribute, elements, namespace, position, require_attributes, require_elements_only, require_text_only, wrong,
};
use crate::base::limits::{EXTERNAL_LIST_COUNT_MAX, LIST_MEMBER_COUNT_MAX};
use crate::participating::policy::MemberSet;
use crate::sip::uri;
use roxmltree::{Document, Node};
use std::collections::HashSet;
use std::sync::Arc;

/// A user's lists as plain values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceLists {
    lists: Vec<List>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct List {
    name: Option<Box<str>>,
    /// Canonical addresses.
    entries: Vec<Box<str>>,
    /// References to entries elsewhere (`entry-ref`).
    references: Vec<Box<str>>,
    /// Anchors of lists elsewhere (`external`).
    externals: Vec<Box<str>>,
    lists: Vec<List>,
}

/// Reads a resource-lists document. Elements that are not understood, and entries that are no SIP or tel address, are
/// passed over.
///
/// RFC 4826 §3.1.
pub fn compile_resource_lists(body: &[u8]) -> Result<ResourceLists, Fault> {
    let document = xml::parse(body)?;
    Ok(ResourceLists {
        lists: elements(root_of(&document)?).filter(|child| is(*child, "list")).map(read_list).collect(),
    })
}

/// The members of the list that an anchor names, those of the lists inside it and of the lists that it refers to
/// included; `None` when that list cannot be had. References that lead nowhere, or in a circle, add nobody.
///
/// `read` finds the document that an anchor lies in, and decides whose documents may be looked into. It is asked for at
/// most [`EXTERNAL_LIST_COUNT_MAX`] documents, and no more than [`LIST_MEMBER_COUNT_MAX`] members are gathered.
///
/// RFC 4826 §3.1.
pub fn list_members(
    anchor: &str,
    read: &mut dyn FnMut(&ListAnchor) -> Option<Arc<ResourceLists>>,
) -> Option<MemberSet> {
    let first = parse_anchor(anchor)?;
    let mut found = HashSet::new();
    let mut seen = HashSet::from([first.clone()]);
    let mut waiting = vec![first];
    let mut reads_left = EXTERNAL_LIST_COUNT_MAX;
    let mut is_first = true;
    while let Some(anchor) = waiting.pop() {
        let Some(left) = reads_left.checked_sub(1) else { break };
        reads_left = left;
        let document = read(&anchor);
        let Some(list) = document.as_ref().and_then(|document| document.list(&anchor.list)) else {
            if is_first {
                return None;
            }
            continue;
        };
        is_first = false;
        for list in list.with_lists_inside() {
            let room = LIST_MEMBER_COUNT_MAX.saturating_sub(found.len());
            found.extend(list.entries.iter().take(room).cloned());
            for reference in &list.references {
                let Some((anchor, Some(entry))) = parse_reference(reference) else { continue };
                let Some(left) = reads_left.checked_sub(1) else { break };
                reads_left = left;
                let Some(address) = uri::canonical(entry.as_bytes()) else { continue };
                let document = read(&anchor);
                let list = document.as_ref().and_then(|document| document.list(&anchor.list));
                let is_there = list.is_some_and(|list| list.entries.iter().any(|one| **one == *address.as_str()));
                if is_there && found.len() < LIST_MEMBER_COUNT_MAX {
                    found.insert(address.as_str().into());
                }
            }
            for anchor in list.externals.iter().filter_map(|anchor| parse_anchor(anchor)) {
                if seen.len() < EXTERNAL_LIST_COUNT_MAX && seen.insert(anchor.clone()) {
                    waiting.push(anchor);
                }
            }
        }
    }
    Some(found.into_iter().collect())
}

impl ResourceLists {
    /// The list at the end of a path of names.
    fn list(&self, path: &[Box<str>]) -> Option<&List> {
        let mut lists = &self.lists;
        let mut found = None;
        for name in path {
            let list = lists.iter().find(|list| list.name.as_ref() == Some(name))?;
            lists = &list.lists;
            found = Some(list);
        }
        found
    }
}

impl List {
    /// The list and all lists in it. The document's depth bounds the work.
    fn with_lists_inside(&self) -> impl Iterator<Item = &List> {
        let mut waiting = vec![self];
        std::iter::from_fn(move || {
            let list = waiting.pop()?;
            waiting.extend(&list.lists);
            Some(list)
        })
    }
}

fn root_of<'a, 'input>(document: &'a Document<'input>) -> Result<Node<'a, 'input>, Fault> {
    let root = document.root_element();
    if is(root, "resource-lists") { Ok(root) } else { Err(wrong(root, "the root is not resource-lists")) }
}

/// Recursion is bounded by the depth of documents.
fn read_list(node: Node<'_, '_>) -> List {
    let mut list = List { name: attribute(node, "name").map(Into::into), ..List::default() };
    for child in elements(node).filter(|child| namespace(*child) == Some(NAMESPACE)) {
        match child.tag_name().name() {
            "entry" => {
                let address = attribute(child, "uri").and_then(|uri| uri::canonical(uri.as_bytes()));
                list.entries.extend(address.map(|address| address.as_str().into()));
            }
            "entry-ref" => list.references.extend(attribute(child, "ref").map(Into::into)),
            "external" => list.externals.extend(attribute(child, "anchor").map(Into::into)),
            "list" => list.lists.push(read_list(child)),
            _ => {}
        }
    }
    list
}

/// Checks a document against the schema and the uniqueness rules.
///
/// RFC 4826 §3.2, §3.4.5.
pub(super) fn check(body: &[u8]) -> Result<(), Fault> {
    let document = xml::parse(body)?;
    let root = root_of(&document)?;
    require_elements_only(root)?;
    let mut names = HashSet::new();
    for child in elements(root) {
        if !is(child, "list") {
            return Err(wrong(child, "only lists may be in resource-lists"));
        }
        check_name(child, &mut names)?;
        check_list(child)?;
    }
    Ok(())
}

fn check_list<'a>(list: Node<'a, '_>) -> Result<(), Fault> {
    require_elements_only(list)?;
    require_attributes(list, &["name"])?;
    let mut names = HashSet::new();
    let mut keys = HashSet::new();
    for child in elements(list) {
        let mut unique = |name: &str, what: &'static str, field: &'static str| {
            require_attributes(child, &[name])?;
            let value: &'a str = attribute(child, name).ok_or_else(|| wrong(child, what))?;
            if keys.insert((field, value)) { Ok(()) } else { Err(Fault::NotUnique { field, at: position(child) }) }
        };
        match (namespace(child), child.tag_name().name()) {
            (Some(NAMESPACE), "display-name") => require_text_only(child)?,
            (Some(NAMESPACE), "entry") => {
                unique("uri", "an entry without uri", "resource-lists/list/entry/@uri")?;
                check_content(child)?;
            }
            (Some(NAMESPACE), "entry-ref") => {
                unique("ref", "an entry-ref without ref", "resource-lists/list/entry-ref/@ref")?;
                check_content(child)?;
            }
            (Some(NAMESPACE), "external") => {
                // The anchor is optional in the schema, and without one the element says nothing.
                if attribute(child, "anchor").is_some() {
                    unique("anchor", "", "resource-lists/list/external/@anchor")?;
                }
                check_content(child)?;
            }
            (Some(NAMESPACE), "list") => {
                check_name(child, &mut names)?;
                check_list(child)?;
            }
            (None | Some(NAMESPACE), _) => return Err(wrong(child, "an element that a list does not have")),
            _ => {}
        }
    }
    Ok(())
}

/// Entries hold a display name and elements of other namespaces.
fn check_content(node: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(node)?;
    let is_strange = |child: &Node<'_, '_>| match namespace(*child) {
        None => true,
        Some(NAMESPACE) => child.tag_name().name() != "display-name",
        Some(_) => false,
    };
    match elements(node).find(is_strange) {
        Some(child) => Err(wrong(child, "an element that an entry does not have")),
        None => Ok(()),
    }
}

fn check_name<'a>(list: Node<'a, '_>, names: &mut HashSet<&'a str>) -> Result<(), Fault> {
    match attribute(list, "name") {
        Some(name) if !names.insert(name) => {
            Err(Fault::NotUnique { field: "resource-lists/list/@name", at: position(list) })
        }
        _ => Ok(()),
    }
}

fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.has_tag_name((NAMESPACE, name))
}

const NAMESPACE: &str = "urn:ietf:params:xml:ns:resource-lists";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_are_those_of_the_list_and_of_lists_inside() {
        let members = members_of(
            r#"<list name="a"><entry uri="SIP:Bob@X.example"><display-name>Bob</display-name></entry>
                 <entry uri="mailto:x@y"/><entry/><list><entry uri="tel:+1-555"/></list></list>
               <list name="b"><entry uri="sip:other@x"/></list>"#,
            "list[@name='a']",
        );
        assert_eq!(members, Some(vec!["sip:Bob@x.example".to_owned(), "tel:+1555".to_owned()]));
    }

    #[test]
    fn a_list_is_found_by_its_path() {
        let lists = r#"<list name="a"><list name="b"><entry uri="sip:in@x"/></list><entry uri="sip:out@x"/></list>"#;
        assert_eq!(members_of(lists, "list[@name='a']/list[@name='b']"), Some(vec!["sip:in@x".to_owned()]));
        assert_eq!(members_of(lists, "list[@name='b']"), None);
        assert_eq!(members_of(lists, "list[@name='a']").map(|members| members.len()), Some(2));
    }

    #[test]
    fn external_lists_are_followed_without_going_round_in_circles() {
        let lists = format!(
            r#"<list name="oma_blocked"><external anchor="{}"/><external anchor="http://nowhere"/></list>
               <list name="rcs_blocked"><entry uri="sip:evil@x"/><external anchor="{}"/></list>"#,
            anchor("list%5B@name=%22rcs_blocked%22%5D"),
            anchor("list[@name='oma_blocked']"),
        );
        assert_eq!(members_of(&lists, "list[@name='oma_blocked']"), Some(vec!["sip:evil@x".to_owned()]));
    }

    #[test]
    fn entry_references_count_where_the_entry_is_there() {
        let reference = |uri| anchor(&format!("list[@name='b']/entry[@uri='{uri}']"));
        let lists = format!(
            r#"<list name="a"><entry-ref ref="{}"/><entry-ref ref="{}"/></list><list name="b"><entry uri="sip:in@x"/></list>"#,
            reference("sip:in@x"),
            reference("sip:gone@x"),
        );
        assert_eq!(members_of(&lists, "list[@name='a']"), Some(vec!["sip:in@x".to_owned()]));
    }

    #[test]
    fn a_web_of_external_lists_is_read_only_so_far() {
        let externals: String =
            (0..1000).map(|n| format!("<external anchor=\"{}\"/>", anchor(&format!("list[@name='l{n}']")))).collect();
        let document = Arc::new(compile(&format!("<list name='a'>{externals}</list>")));
        let mut reads = 0;
        let members = list_members(&anchor("list[@name='a']"), &mut |_| {
            reads += 1;
            Some(Arc::clone(&document))
        });
        assert_eq!(members, Some(MemberSet::default()));
        assert!(reads <= EXTERNAL_LIST_COUNT_MAX, "{reads}");
    }

    #[test]
    fn valid_documents_pass_the_strict_check() {
        for lists in [
            "",
            "<list/>",
            "<list name='a'><display-name>A</display-name><entry uri='sip:a@x'/><entry-ref ref='r'/><external/></list>",
            "<list name='a'><list name='a'/><external anchor='x'><display-name/></external><x:y xmlns:x='urn:x'/></list>",
        ] {
            assert_eq!(check(document(lists).as_bytes()), Ok(()), "{lists}");
        }
    }

    #[test]
    fn invalid_documents_fail_the_strict_check() {
        for lists in [
            "text",
            "<entry uri='sip:a@x'/>",
            "<list>text</list>",
            "<list><entry/></list>",
            "<list><entry-ref/></list>",
            "<list><entry uri='sip:a@x' name='b'/></list>",
            "<list><member uri='sip:a@x'/></list>",
            "<list><entry xmlns='' uri='sip:a@x'/></list>",
            "<list><entry uri='sip:a@x'><list/></entry></list>",
            "<list id='a'/>",
        ] {
            let fault = check(document(lists).as_bytes());
            assert!(matches!(fault, Err(Fault::Schema { .. })), "{lists}: {fault:?}");
        }
        for lists in [
            "<list name='a'/><list name='a'/>",
            "<list><list name='a'/><list name='a'/></list>",
            "<list><entry uri='sip:a@x'/><entry uri='sip:a@x'/></list>",
            "<list><external anchor='a'/><external anchor='a'/></list>",
        ] {
            let fault = check(document(lists).as_bytes());
            assert!(matches!(fault, Err(Fault::NotUnique { .. })), "{lists}: {fault:?}");
        }
    }

    proptest! {
        #[test]
        fn mutated_documents_never_panic(
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..40_usize, "\\PC{0,12}"), 1..5),
        ) {
            let example = document(&format!(
                "<list name='a'><entry uri='sip:a@x'/><list><external anchor=\"{}\"/></list></list>",
                anchor("list[@name='a']"),
            ));
            let mut document: Vec<char> = example.chars().collect();
            for (index, len, text) in changes {
                let at = index.index(document.len() + 1);
                let end = (at + len).min(document.len());
                document.splice(at..end, text.chars());
            }
            let document: String = document.into_iter().collect();
            let strict = check(document.as_bytes());
            let tolerant = compile_resource_lists(document.as_bytes());
            prop_assert!(strict.is_err() || tolerant.is_ok());
            if let Ok(lists) = tolerant {
                let lists = Arc::new(lists);
                let _ = list_members(&anchor("list[@name='a']"), &mut |_| Some(Arc::clone(&lists)));
            }
        }
    }

    fn members_of(lists: &str, selector: &str) -> Option<Vec<String>> {
        let document = Arc::new(compile(lists));
        let members = list_members(&anchor(selector), &mut |anchor| {
            (anchor.user.as_str() == "sip:bob@home.example").then(|| Arc::clone(&document))
        })?;
        let mut members: Vec<String> = members.iter().map(str::to_owned).collect();
        members.sort();
        Some(members)
    }

    fn anchor(selector: &str) -> String {
        format!("http://x/resource-lists/users/sip:bob@home.example/index/~~/resource-lists/{selector}")
    }

    fn compile(lists: &str) -> ResourceLists {
        compile_resource_lists(document(lists).as_bytes()).expect("the document is well-formed")
    }

    fn document(lists: &str) -> String {
        format!("<resource-lists xmlns='{NAMESPACE}'>{lists}</resource-lists>")
    }
}
