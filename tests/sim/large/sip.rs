//! The other side's SIP, as text: enough of it for a caller and for devices, and nothing of the appliance's own.

use std::time::Duration;

pub const T1: Duration = Duration::from_millis(500);
pub const T2: Duration = Duration::from_secs(4);

/// A message, taken apart.
#[derive(Clone, Debug)]
pub struct Sip {
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Sip {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("SIP is text here");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head has an end");
        let mut lines = head.split("\r\n");
        let start = lines.next().expect("a start line").to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("a field: {line}"));
            (name.to_owned(), value.trim().to_owned())
        };
        let sip = Self { start, fields: lines.map(field).collect(), body: body.to_owned() };
        assert_eq!(sip.get("Content-Length").parse(), Ok(sip.body.len()), "{text}");
        sip
    }

    pub fn find(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The status of a response, 0 for a request.
    pub fn status(&self) -> u16 {
        self.start.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    /// The method, of a response too.
    pub fn method(&self) -> &str {
        self.get("CSeq").split(' ').nth(1).expect("a method in CSeq")
    }

    pub fn cseq(&self) -> u32 {
        self.get("CSeq").split(' ').next().and_then(|number| number.parse().ok()).expect("a number in CSeq")
    }

    pub fn branch(&self) -> &str {
        let via = self.get("Via");
        let at = via.find("branch=").expect("a branch") + 7;
        via[at..].split([';', ',']).next().unwrap_or_default()
    }

    pub fn tag(&self, name: &str) -> Option<&str> {
        self.get(name).split("tag=").nth(1).map(|tag| tag.split(';').next().unwrap_or_default())
    }

    /// The URI in Contact.
    pub fn contact(&self) -> &str {
        let value = self.get("Contact");
        value.split('<').nth(1).and_then(|rest| rest.split('>').next()).expect("a URI in brackets")
    }

    /// An attribute of the session description.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.body.lines().find_map(|line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
    }

    pub fn is_over_tcp(&self) -> bool {
        self.get("Via").starts_with("SIP/2.0/TCP")
    }

    /// A response to it.
    pub fn response(&self, status: u16, to_tag: &str, lines: &str, body: &str) -> Vec<u8> {
        let mut text = format!("SIP/2.0 {status} Whatever\r\n");
        for via in self.all("Via") {
            text.push_str(&format!("Via: {via}\r\n"));
        }
        let to = self.get("To");
        let to = if to.contains("tag=") || to_tag.is_empty() { to.to_owned() } else { format!("{to};tag={to_tag}") };
        text.push_str(&format!(
            "From: {}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
            self.get("From"),
            self.get("Call-ID"),
            self.get("CSeq"),
            body.len()
        ));
        text.into_bytes()
    }
}

/// One side of a dialog: what its requests hold.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub call_id: String,
    pub local: String,
    pub remote: String,
    pub target: String,
    pub contact: String,
    pub cseq: u32,
}

impl Dialog {
    pub fn request(&self, method: &str, cseq: u32, branch: &str, via: &str, body: &str) -> Vec<u8> {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP {via};branch={branch};rport\r\nMax-Forwards: 70\r\nFrom: {}\r\n\
             To: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <{}>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.target,
            self.local,
            self.remote,
            self.call_id,
            self.contact,
            body.len()
        )
        .into_bytes()
    }
}
