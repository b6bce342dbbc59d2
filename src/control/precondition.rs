//! Conditional requests on documents: If-Match and If-None-Match.
//!
//! RFC 4825 §7.11, RFC 9110 §13.

/// What a client says about the version that it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `If-Match`: only if the document is one of these.
    pub if_match: Option<EntityTags>,
    /// `If-None-Match`: only if it is none of these.
    pub if_none_match: Option<EntityTags>,
}

/// The value of one of the two header fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityTags {
    /// `*`: any version that exists.
    Any,
    /// Listed versions.
    These(Vec<EntityTag>),
}

/// One entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityTag {
    /// It starts with `W/`.
    pub weak: bool,
    /// The text between the quotes.
    pub opaque: Box<str>,
}

/// Which preconditions fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// `If-Match`: somebody else changed the document, or it is gone.
    Match,
    /// `If-None-Match`: the document is a version that the client has, or exists at all.
    NoneMatch,
}

impl Preconditions {
    /// Compares with the current version; `None` if there is no document.
    ///
    /// RFC 9110 §13.2.2.
    pub fn check(&self, current: Option<&str>) -> Result<(), Unmet> {
        if let Some(tags) = &self.if_match
            && !tags.contain(current, Comparison::Strong)
        {
            return Err(Unmet::Match);
        }
        if let Some(tags) = &self.if_none_match
            && tags.contain(current, Comparison::Weak)
        {
            return Err(Unmet::NoneMatch);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

impl EntityTags {
    /// Reads a field value; `None` where it is neither `*` nor a list of entity tags.
    ///
    /// RFC 9110 §8.8.3.
    pub fn parse(value: &str) -> Option<Self> {
        let mut rest = value.trim_matches(BLANK);
        if rest == "*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        loop {
            // Empty list elements are allowed (RFC 9110 §5.6.1.2).
            rest = rest.trim_start_matches([' ', '\t', ',']);
            if rest.is_empty() {
                break;
            }
            let weak = rest.starts_with("W/");
            let quoted = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
            let (opaque, behind) = quoted.split_once('"')?;
            if tags.len() == TAG_COUNT_MAX || opaque.contains(BLANK) {
                return None;
            }
            tags.push(EntityTag { weak, opaque: opaque.into() });
            rest = behind.trim_start_matches(BLANK);
            if !rest.is_empty() && !rest.starts_with(',') {
                return None;
            }
        }
        (!tags.is_empty()).then_some(Self::These(tags))
    }

    fn contain(&self, current: Option<&str>, comparison: Comparison) -> bool {
        let Some(current) = current else { return false };
        match self {
            Self::Any => true,
            Self::These(tags) => {
                // Our own tags are strong.
                tags.iter().any(|tag| &*tag.opaque == current && (comparison == Comparison::Weak || !tag.weak))
            }
        }
    }
}

const BLANK: [char; 2] = [' ', '\t'];
/// Tags of one field.
const TAG_COUNT_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_values_are_read_as_rfc_9110_writes_them() {
        let tag = |weak, opaque: &str| EntityTag { weak, opaque: opaque.into() };
        assert_eq!(EntityTags::parse(" * "), Some(EntityTags::Any));
        assert_eq!(EntityTags::parse("\"a\""), Some(EntityTags::These(vec![tag(false, "a")])));
        assert_eq!(
            EntityTags::parse("\"a\", W/\"b,c\" ,,\"\""),
            Some(EntityTags::These(vec![tag(false, "a"), tag(true, "b,c"), tag(false, "")]))
        );
        for bad in ["", ",", "a", "\"a", "\"a\" \"b\"", "w/\"a\"", "\"a b\"", "*, \"a\""] {
            assert_eq!(EntityTags::parse(bad), None, "{bad}");
        }
        assert_eq!(EntityTags::parse(&"\"a\",".repeat(TAG_COUNT_MAX + 1)), None);
    }

    #[test]
    fn every_combination_has_its_verdict() {
        let conditions = |if_match: &str, if_none_match: &str| Preconditions {
            if_match: EntityTags::parse(if_match),
            if_none_match: EntityTags::parse(if_none_match),
        };
        let (current, other, weak) = ("\"now\"", "\"then\"", "W/\"now\"");
        let table = [
            ("", "", None, Ok(())),
            ("", "", Some("now"), Ok(())),
            (current, "", Some("now"), Ok(())),
            (other, "", Some("now"), Err(Unmet::Match)),
            (weak, "", Some("now"), Err(Unmet::Match)),
            (current, "", None, Err(Unmet::Match)),
            ("*", "", Some("now"), Ok(())),
            ("*", "", None, Err(Unmet::Match)),
            ("", current, Some("now"), Err(Unmet::NoneMatch)),
            ("", weak, Some("now"), Err(Unmet::NoneMatch)),
            ("", other, Some("now"), Ok(())),
            ("", "*", Some("now"), Err(Unmet::NoneMatch)),
            ("", "*", None, Ok(())),
            (other, current, Some("now"), Err(Unmet::Match)),
            (current, current, Some("now"), Err(Unmet::NoneMatch)),
        ];
        for (if_match, if_none_match, document, verdict) in table {
            assert_eq!(conditions(if_match, if_none_match).check(document), verdict, "{if_match} {if_none_match}");
        }
    }
}
