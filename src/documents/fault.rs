//! What can be wrong with a document, and how an XCAP server says so.

use std::fmt;

/// A place in a document, counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in the line.
    pub column: u32,
}

/// Why a document is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not UTF-8, or declared to be something else.
    NotUtf8,
    /// Not well-formed XML.
    NotWellFormed {
        /// Where it was noticed.
        at: Position,
    },
    /// More bytes or nodes than are read.
    TooLarge,
    /// Elements nested too deeply.
    TooDeep,
    /// An access policy with too many rules.
    TooManyRules,
    /// It has a document type declaration.
    Doctype,
    /// Well-formed, but not as its schema says.
    Schema {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: Position,
    },
    /// A value that must be unique is there twice.
    NotUnique {
        /// The path of the element or attribute, such as `ruleset/rule/@id`.
        field: &'static str,
        /// The second occurrence.
        at: Position,
    },
}

impl Fault {
    /// The body of a 409 response, `application/xcap-error+xml`; `None` for what is no conflict (size: 413).
    ///
    /// RFC 4825 §11.
    pub fn xcap_error(&self) -> Option<String> {
        let phrase = escape(&self.to_string());
        let element = match self {
            Self::TooLarge => return None,
            Self::NotUtf8 => format!(r#"<not-utf-8 phrase="{phrase}"/>"#),
            Self::NotWellFormed { .. } => format!(r#"<not-well-formed phrase="{phrase}"/>"#),
            Self::Schema { .. } => format!(r#"<schema-validation-error phrase="{phrase}"/>"#),
            Self::NotUnique { field, .. } => {
                format!(r#"<uniqueness-failure phrase="{phrase}"><exists field="{field}"/></uniqueness-failure>"#)
            }
            Self::TooDeep | Self::TooManyRules | Self::Doctype => {
                format!(r#"<constraint-failure phrase="{phrase}"/>"#)
            }
        };
        Some(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <xcap-error xmlns=\"urn:ietf:params:xml:ns:xcap-error\">{element}</xcap-error>\n"
        ))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 => f.write_str("the document is not UTF-8"),
            Self::NotWellFormed { at } => write!(f, "not well-formed at {at}"),
            Self::TooLarge => f.write_str("the document is too large"),
            Self::TooDeep => f.write_str("elements are nested too deeply"),
            Self::TooManyRules => f.write_str("the document has too many rules"),
            Self::Doctype => f.write_str("document type declarations are not accepted"),
            Self::Schema { what, at } => write!(f, "{what} at {at}"),
            Self::NotUnique { field, at } => write!(f, "{field} is not unique at {at}"),
        }
    }
}

impl std::error::Error for Fault {}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_conflict_has_an_error_document() {
        let at = Position { line: 3, column: 7 };
        for (fault, element) in [
            (Fault::NotUtf8, "not-utf-8"),
            (Fault::NotWellFormed { at }, "not-well-formed"),
            (Fault::TooDeep, "constraint-failure"),
            (Fault::TooManyRules, "constraint-failure"),
            (Fault::Doctype, "constraint-failure"),
            (Fault::Schema { what: "a \"strange\" <element>", at }, "schema-validation-error"),
            (Fault::NotUnique { field: "ruleset/rule/@id", at }, "uniqueness-failure"),
        ] {
            let body = fault.xcap_error().expect("a conflict has a body");
            let document = roxmltree::Document::parse(&body).expect("the body is well-formed");
            let root = document.root_element();
            assert!(root.has_tag_name(("urn:ietf:params:xml:ns:xcap-error", "xcap-error")));
            let child = root.first_element_child().expect("the error has an element");
            assert_eq!(child.tag_name().name(), element);
            assert_eq!(child.attribute("phrase"), Some(&*fault.to_string()));
        }
        assert_eq!(Fault::TooLarge.xcap_error(), None);
    }

    #[test]
    fn a_uniqueness_failure_names_the_field() {
        let fault = Fault::NotUnique { field: "ruleset/rule/@id", at: Position::default() };
        assert!(fault.xcap_error().expect("a conflict has a body").contains(r#"<exists field="ruleset/rule/@id"/>"#));
    }

    #[test]
    fn faults_are_one_line() {
        let at = Position { line: 3, column: 7 };
        assert_eq!(
            Fault::Schema { what: "a rule without id", at }.to_string(),
            "a rule without id at line 3, column 7"
        );
    }
}
