//! Comma lists and parameters, with respect for quoted strings and angle brackets.

/// Splits a field value at its first comma outside quotes and angle brackets: the first element and what follows.
///
/// RFC 3261 §7.3.1.
pub fn split_first(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    match find_outside(value, b',') {
        Some(comma) => (trim(&value[..comma]), Some(trim(&value[comma + 1..]))),
        None => (trim(value), None),
    }
}

/// The elements of a comma list; empty ones are left out.
///
/// RFC 3261 §7.3.1.
pub fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let (first, tail) = split_first(rest?);
        rest = tail;
        Some(first)
    })
    .filter(|element| !element.is_empty())
}

/// One `name=value` parameter; the value is empty for a flag. Quotes around a value are kept.
///
/// RFC 3261 §25.1 (`generic-param`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The value, `None` for a flag.
    pub value: Option<&'a [u8]>,
}

impl<'a> Param<'a> {
    /// The value without surrounding quotes; escapes stay.
    ///
    /// RFC 3261 §25.1.
    pub fn unquoted(&self) -> &'a [u8] {
        let value = self.value.unwrap_or_default();
        match value {
            [b'"', inner @ .., b'"'] => inner,
            _ => value,
        }
    }

    /// True when the name is this one, in any case.
    ///
    /// RFC 3261 §7.3.1.
    pub fn is(&self, name: &str) -> bool {
        self.name.len() == name.len() && self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The parameters in `text`, which begins behind the value they belong to (with or without the first semicolon).
///
/// RFC 3261 §7.3.1.
pub fn params(text: &[u8]) -> impl Iterator<Item = Param<'_>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (one, tail) = match find_outside(text, b';') {
            Some(semicolon) => (&text[..semicolon], Some(&text[semicolon + 1..])),
            None => (text, None),
        };
        rest = tail;
        let one = trim(one);
        let (name, value) = match memchr::memchr(b'=', one) {
            Some(equals) => (trim(&one[..equals]), Some(trim(&one[equals + 1..]))),
            None => (one, None),
        };
        Some(Param { name, value })
    })
    .filter(|param| !param.name.is_empty())
}

/// The parameter of a name.
///
/// RFC 3261 §7.3.1.
pub fn param<'a>(text: &'a [u8], name: &str) -> Option<Param<'a>> {
    params(text).find(|param| param.is(name))
}

/// The place of `wanted` outside quoted strings and angle brackets.
///
/// RFC 3261 §25.1 (`quoted-string`).
pub fn find_outside(text: &[u8], wanted: u8) -> Option<usize> {
    let mut at = memchr::memchr3(wanted, b'"', b'<', text)?;
    loop {
        let byte = text[at];
        if byte == wanted {
            return Some(at);
        }
        at = if byte == b'"' { skip_quoted(text, at) } else { at + 1 + memchr::memchr(b'>', &text[at + 1..])? } + 1;
        at += memchr::memchr3(wanted, b'"', b'<', text.get(at..)?)?;
    }
}

/// The place of the quote that ends the string beginning at `open`; the text's last byte when there is none.
///
/// RFC 3261 §25.1 (`quoted-string`, `quoted-pair`).
pub fn skip_quoted(text: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(step) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += step;
        if text[at] == b'"' {
            return at;
        }
        at += 2;
    }
    text.len() - 1
}

/// The text without white space and line ends around it.
///
/// RFC 3261 §25.1 (`LWS`).
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t' | b'\r' | b'\n'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_and_brackets_do_not_split() {
        let value = br#""a, \"b" <sip:x,y@z>;p=1, <sip:c> ,, sip:d"#;
        let all: Vec<&[u8]> = elements(value).collect();
        assert_eq!(all, [&br#""a, \"b" <sip:x,y@z>;p=1"#[..], b"<sip:c>", b"sip:d"]);
    }

    #[test]
    fn an_open_quote_ends_with_the_text() {
        assert_eq!(split_first(br#""open, never closed"#).1, None);
        assert_eq!(split_first(br#"a"x\"#).1, None);
    }

    #[test]
    fn parameters_have_names_values_and_flags() {
        let text = br#";lr ; tag = a;x="q;r" ;;"#;
        let all: Vec<_> = params(text).collect();
        assert_eq!(all.len(), 3);
        assert_eq!(param(text, "TAG").unwrap().value, Some(&b"a"[..]));
        assert_eq!(param(text, "x").unwrap().unquoted(), b"q;r");
        assert_eq!(param(text, "lr").unwrap().value, None);
    }
}
