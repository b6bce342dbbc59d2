//! One line for everything that can be wrong with a configuration.

use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a configuration: `FILE:LINE: key: what is wrong (what is allowed)`, always one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: Box<str>,
    line: Option<usize>,
    key: Option<Box<str>>,
    problem: Box<str>,
}

impl ConfigError {
    /// The configuration cannot be read at all.
    pub(super) fn unreadable(file: &str, cause: &std::io::Error) -> Self {
        Self { file: file.into(), line: None, key: None, problem: one_line(&format!("cannot be read: {cause}")) }
    }

    /// The key at fault, such as `sip.listen`; `None` when the file is no TOML or cannot be read.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The line at fault, counted from 1; `None` when the value is a default that clashes with another key.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// A configuration file's text, for finding lines and keys.
pub(super) struct Document<'a> {
    /// The name errors show.
    pub file: &'a str,
    /// The TOML text.
    pub text: &'a str,
}

impl Document<'_> {
    /// An error at a key whose place may be known.
    pub fn fault(&self, key: &str, place: Option<Range<usize>>, problem: &str) -> ConfigError {
        ConfigError {
            file: self.file.into(),
            line: place.map(|span| self.line_of(span.start)),
            key: Some(key.into()),
            problem: one_line(problem),
        }
    }

    /// Translates what the TOML reader says, which knows places but no keys.
    pub fn translate(&self, error: &toml::de::Error) -> ConfigError {
        let place = error.span().map(|span| span.start);
        let key = place.and_then(|offset| self.key_at(offset));
        let problem = match key {
            Some(_) => plain_words(error.message()),
            None => {
                let at = error.span().and_then(|span| self.text.get(span)).unwrap_or_default();
                let named = matches!(error.message(), "duplicate key").then(|| format!(" `{at}`")).unwrap_or_default();
                format!("no valid TOML: {}{named}", error.message())
            }
        };
        ConfigError {
            file: self.file.into(),
            line: place.map(|offset| self.line_of(offset)),
            key: key.map(String::into_boxed_str),
            problem: one_line(&problem),
        }
    }

    fn line_of(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// The dotted key whose name or value covers a place; `None` when the text is no TOML.
    fn key_at(&self, offset: usize) -> Option<String> {
        let root = DeTable::parse(self.text).ok()?;
        let mut table = root.get_ref();
        let mut path = String::new();
        // A section may be continued elsewhere, so that its own span says nothing: names decide, then values.
        loop {
            let step = table.iter().find(|(name, value)| {
                name.span().contains(&offset) || value.span().contains(&offset) || covers(value, offset)
            });
            let Some((name, value)) = step else { break };
            if !path.is_empty() {
                path.push('.');
            }
            match name.get_ref().contains(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')) {
                true => path.push_str(&format!("{:?}", name.get_ref())),
                false => path.push_str(name.get_ref()),
            }
            match value.get_ref() {
                DeValue::Table(inner) if !name.span().contains(&offset) => table = inner,
                _ => break,
            }
        }
        (!path.is_empty()).then_some(path)
    }
}

fn covers(value: &Spanned<DeValue<'_>>, offset: usize) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => table.iter().any(|(name, value)| {
            name.span().contains(&offset) || value.span().contains(&offset) || covers(value, offset)
        }),
        _ => false,
    }
}

/// Says in an operator's words what the TOML reader says in serde's.
fn plain_words(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let known = rest.split_once(", expected ").map_or("none", |(_, known)| known);
        let known = known.trim_start_matches("one of ").replace('`', "");
        return format!("unknown key (known: {known})");
    }
    match message.split_once(", expected ") {
        Some((what, expected)) => {
            let expected = match expected {
                "i64" => "an integer",
                "a boolean" => "true or false",
                "a sequence" => "a list",
                other if other.starts_with("struct ") || other == "a map" => "a table",
                other => other,
            };
            let what = what.strip_prefix("invalid type: ").unwrap_or(what);
            format!("{what} does not fit here ({expected})")
        }
        None => message.to_owned(),
    }
}

fn one_line(text: &str) -> Box<str> {
    text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ").into()
}
