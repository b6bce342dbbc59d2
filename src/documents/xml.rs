//! From hostile bytes to a tree, within bounds.

use super::fault::{Fault, Position};
use crate::base::limits::{
    DOCUMENT_DEPTH_MAX, DOCUMENT_LEN_MAX, DOCUMENT_NODE_COUNT_MAX, ELEMENT_ATTRIBUTE_COUNT_MAX, NAMESPACE_COUNT_MAX,
};
use roxmltree::{Document, Node, ParsingOptions};

/// Parses a document after checking that parsing it is cheap.
pub(super) fn parse(body: &[u8]) -> Result<Document<'_>, Fault> {
    if body.len() > DOCUMENT_LEN_MAX {
        return Err(Fault::TooLarge);
    }
    let text = std::str::from_utf8(body).map_err(|_| Fault::NotUtf8)?;
    if declares_other_encoding(text) {
        return Err(Fault::NotUtf8);
    }
    scan(text)?;
    let limit = u32::try_from(DOCUMENT_NODE_COUNT_MAX).unwrap_or(u32::MAX);
    let options = ParsingOptions { allow_dtd: false, nodes_limit: limit, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| match error {
        roxmltree::Error::DtdDetected => Fault::Doctype,
        roxmltree::Error::NodesLimitReached
        | roxmltree::Error::AttributesLimitReached
        | roxmltree::Error::NamespacesLimitReached => Fault::TooLarge,
        error => Fault::NotWellFormed { at: error.pos().into() },
    })
}

/// The child elements.
pub(super) fn elements<'a, 'input>(node: Node<'a, 'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(Node::is_element)
}

/// All the text directly inside an element, without blanks at its ends.
pub(super) fn text_of(node: Node<'_, '_>) -> String {
    let text: String = node.children().filter(Node::is_text).filter_map(|text| text.text()).collect();
    text.trim().to_owned()
}

/// The value of an attribute without namespace, without blanks at its ends.
pub(super) fn attribute<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    node.attribute(name).map(str::trim)
}

/// The namespace of an element's name.
pub(super) fn namespace<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    node.tag_name().namespace().filter(|namespace| !namespace.is_empty())
}

/// An `xs:boolean`.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A schema fault at a node.
pub(super) fn wrong(node: Node<'_, '_>, what: &'static str) -> Fault {
    Fault::Schema { what, at: position(node) }
}

/// Where a node starts.
pub(super) fn position(node: Node<'_, '_>) -> Position {
    node.document().text_pos_at(node.range().start).into()
}

/// Refuses text where only elements may be.
pub(super) fn require_elements_only(node: Node<'_, '_>) -> Result<(), Fault> {
    let is_blank = |text: &str| text.chars().all(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
    match node.children().find(|child| child.is_text() && !child.text().is_none_or(is_blank)) {
        Some(text) => Err(wrong(text, "text where only elements may be")),
        None => Ok(()),
    }
}

/// Refuses any content.
pub(super) fn require_empty(node: Node<'_, '_>) -> Result<(), Fault> {
    require_elements_only(node)?;
    match elements(node).next() {
        Some(child) => Err(wrong(child, "an element in one that must be empty")),
        None => Ok(()),
    }
}

/// Refuses elements in a place of plain text.
pub(super) fn require_text_only(node: Node<'_, '_>) -> Result<(), Fault> {
    match elements(node).next() {
        Some(child) => Err(wrong(child, "an element where only text may be")),
        None => Ok(()),
    }
}

/// Refuses attributes without namespace other than these.
pub(super) fn require_attributes(node: Node<'_, '_>, known: &[&str]) -> Result<(), Fault> {
    let is_strange = |name: &str| !known.contains(&name);
    if node.attributes().any(|attribute| attribute.namespace().is_none() && is_strange(attribute.name())) {
        return Err(wrong(node, "an attribute that the element does not have"));
    }
    Ok(())
}

impl From<roxmltree::TextPos> for Position {
    fn from(at: roxmltree::TextPos) -> Self {
        Self { line: at.row, column: at.col }
    }
}

/// True when the XML declaration names an encoding that is not a subset of UTF-8.
fn declares_other_encoding(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some((declaration, _)) = text.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")) else {
        return false;
    };
    let Some((_, value)) = declaration.split_once("encoding") else { return false };
    let name = value.trim_start_matches(['=', ' ', '\t', '\r', '\n']).trim_matches(['"', '\'', ' ']);
    let name = name.split(['"', '\'']).next().unwrap_or(name);
    !name.eq_ignore_ascii_case("utf-8") && !name.eq_ignore_ascii_case("us-ascii")
}

/// Looks at the tags alone, in one pass without allocation, and refuses documents that would make the parser work more
/// than in proportion to their size: it compares every attribute of an element with every other, and copies the
/// namespaces in scope for each element that declares one.
///
/// It need not notice that a document is not well-formed: up to the first fault it sees what the parser sees, and the
/// parser stops there.
fn scan(text: &str) -> Result<(), Fault> {
    let bytes = text.as_bytes();
    let mut namespaces = [0_usize; DOCUMENT_DEPTH_MAX + 1];
    let mut depth = 0;
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'<', rest)) {
        at += found;
        let rest = &text[at..];
        let skip = |end: &str| rest.find(end).map(|found| found + end.len());
        let len = if rest.starts_with("<!--") {
            skip("-->")
        } else if rest.starts_with("<![CDATA[") {
            skip("]]>")
        } else if rest.starts_with("<?") {
            skip("?>")
        } else if rest.starts_with("<!DOCTYPE") {
            return Err(Fault::Doctype);
        } else if rest.starts_with("</") {
            depth = usize::saturating_sub(depth, 1);
            skip(">")
        } else {
            let tag = scan_tag(&bytes[at..]);
            let declared = namespaces[depth] + tag.namespace_count;
            if tag.attribute_count > ELEMENT_ATTRIBUTE_COUNT_MAX || declared > NAMESPACE_COUNT_MAX {
                return Err(Fault::TooLarge);
            }
            if depth == DOCUMENT_DEPTH_MAX {
                return Err(Fault::TooDeep);
            }
            if !tag.is_closed {
                depth += 1;
                namespaces[depth] = declared;
            }
            tag.len
        };
        match len {
            Some(len) => at += len,
            None => break,
        }
    }
    Ok(())
}

struct Tag {
    /// Bytes up to and with the `>`; `None` when there is no end.
    len: Option<usize>,
    is_closed: bool,
    attribute_count: usize,
    namespace_count: usize,
}

fn scan_tag(bytes: &[u8]) -> Tag {
    let mut tag = Tag { len: None, is_closed: false, attribute_count: 0, namespace_count: 0 };
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => match memchr::memchr(byte, &bytes[at + 1..]) {
                Some(found) => at += 1 + found,
                None => break,
            },
            b'=' => tag.attribute_count += 1,
            b'x' if bytes[at..].starts_with(b"xmlns") && bytes[at - 1].is_ascii_whitespace() => {
                tag.namespace_count += 1;
            }
            b'>' => {
                tag.len = Some(at + 1);
                tag.is_closed = bytes[at - 1] == b'/';
                break;
            }
            _ => {}
        }
        at += 1;
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn plain_documents_are_parsed() {
        for text in [
            "<a/>",
            "\u{feff}<?xml version=\"1.0\" encoding='utf-8'?><a/>",
            "<?xml version='1.0'?><!-- <b> --><a x='>' y=\"&lt;/a>\"><![CDATA[<c>]]><?p <d>?></a>",
        ] {
            assert!(parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn faults_are_told_apart() {
        let deep = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        let laughs = r#"<!DOCTYPE a [<!ENTITY b "lol"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>"#;
        let large = format!("<a>{}</a>", " ".repeat(DOCUMENT_LEN_MAX));
        let at = |line, column| Fault::NotWellFormed { at: Position { line, column } };
        for (text, fault) in [
            (&b"<a>\xff</a>"[..], Fault::NotUtf8),
            (b"\xff\xfe<\0a\0/\0>\0", Fault::NotUtf8),
            (b"<?xml version='1.0' encoding='ISO-8859-1'?><a/>", Fault::NotUtf8),
            (b"<a>\n <b></a>", at(2, 5)),
            (b"", at(1, 1)),
            (b"<a", at(1, 1)),
            (b"<a x='1' x='2'/>", at(1, 10)),
            (b"<b:a/>", at(1, 2)),
            (laughs.as_bytes(), Fault::Doctype),
            (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", Fault::Doctype),
            (large.as_bytes(), Fault::TooLarge),
            (deep(DOCUMENT_DEPTH_MAX + 1).as_bytes(), Fault::TooDeep),
            (deep(20_000).as_bytes(), Fault::TooDeep),
        ] {
            let shown = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
            assert_eq!(parse(text).err(), Some(fault), "{shown}");
        }
        assert!(parse(deep(DOCUMENT_DEPTH_MAX).as_bytes()).is_ok());
    }

    #[test]
    fn documents_that_are_costly_to_parse_are_refused_quickly() {
        let attributes: String = (0..20_000).map(|n| format!(" a{n}=''")).collect();
        let namespaces: String = (0..10_000).map(|n| format!(" xmlns:a{n}='b'")).collect();
        let nested: String = (0..31).map(|n| format!("<a xmlns:n{n}='u' xmlns:m{n}='u'>")).collect();
        for text in [
            format!("<a{attributes}/>"),
            format!("<a{namespaces}/>"),
            format!("{nested}{}", "<b xmlns:x='y'/>".repeat(10_000)),
            format!("<a>{}</a>", "<b/>".repeat(65_530 / 2 * 2)),
        ] {
            let started = Instant::now();
            let fault = parse(text.as_bytes()).err();
            assert_eq!(fault.unwrap_or(Fault::TooLarge), Fault::TooLarge);
            assert!(started.elapsed() < Duration::from_secs(10), "{}", &text[..40]);
        }
    }

    #[test]
    fn the_costliest_document_that_is_taken_is_still_cheap() {
        let namespaces: String = (0..31).map(|n| format!(" xmlns:n{n}='u{n}'")).collect();
        let text = format!("<a{namespaces}>{}</a>", "<b xmlns:x='y'/>".repeat(16_000));
        let started = Instant::now();
        assert!(parse(text.as_bytes()).is_ok());
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
