//! Session descriptions as the tests write and read them (RFC 8866).

use super::msrp::Peer;
use std::net::{IpAddr, SocketAddr};

/// A description in the making: one `m=message` line.
#[derive(Clone, Debug)]
pub struct Media {
    /// The address in `c=` and the port in `m=`.
    pub addr: SocketAddr,
    /// `a=path`.
    pub path: String,
    /// `a=setup`.
    pub setup: Option<&'static str>,
    /// `a=sendonly` and the like; none leaves it out.
    pub direction: Option<&'static str>,
    /// `a=accept-types`.
    pub accept_types: &'static str,
    /// `a=max-size`.
    pub max_size: Option<u64>,
    /// Further attribute lines, without `a=`.
    pub attributes: Vec<String>,
    /// Whole media sections before the message line.
    pub before: String,
    /// Whole media sections behind it.
    pub behind: String,
    /// The version in `o=`.
    pub version: u64,
}

impl Media {
    /// What a sender of a large message offers.
    pub fn offer(peer: &Peer) -> Self {
        Self {
            addr: peer.addr(),
            path: peer.uri.clone(),
            setup: Some("actpass"),
            direction: Some("sendonly"),
            accept_types: "message/cpim",
            max_size: None,
            attributes: vec!["accept-wrapped-types:*".into()],
            before: String::new(),
            behind: String::new(),
            version: 1,
        }
    }

    /// What its receiver answers.
    pub fn answer(peer: &Peer) -> Self {
        Self { setup: Some("active"), direction: Some("recvonly"), ..Self::offer(peer) }
    }

    /// The text.
    pub fn text(&self) -> String {
        let (family, ip) = match self.addr.ip() {
            IpAddr::V4(ip) => ("IP4", ip.to_string()),
            IpAddr::V6(ip) => ("IP6", ip.to_string()),
        };
        let mut text = format!(
            "v=0\r\no=- 4711 {} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n{}\
             m=message {} TCP/MSRP *\r\na=accept-types:{}\r\n",
            self.version,
            self.before,
            self.addr.port(),
            self.accept_types
        );
        for attribute in &self.attributes {
            text.push_str(&format!("a={attribute}\r\n"));
        }
        if let Some(setup) = self.setup {
            text.push_str(&format!("a=setup:{setup}\r\n"));
        }
        if let Some(direction) = self.direction {
            text.push_str(&format!("a={direction}\r\n"));
        }
        if let Some(max_size) = self.max_size {
            text.push_str(&format!("a=max-size:{max_size}\r\n"));
        }
        text.push_str(&format!("a=path:{}\r\n", self.path));
        text.push_str(&self.behind);
        text
    }
}

/// A description that arrived.
#[derive(Clone, Debug)]
pub struct Sdp {
    /// Session lines: type and value.
    pub session: Vec<(char, String)>,
    /// Sections: the `m=` value, then its lines.
    pub media: Vec<(String, Vec<(char, String)>)>,
}

impl Sdp {
    /// Reads a description, strictly.
    #[track_caller]
    pub fn read(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).expect("SDP is UTF-8");
        assert!(text.ends_with("\r\n"), "every line of SDP ends with CRLF: {text:?}");
        let mut sdp = Self { session: Vec::new(), media: Vec::new() };
        for line in text.split_terminator("\r\n") {
            let mut characters = line.chars();
            let (kind, equals) = (characters.next(), characters.next());
            assert_eq!(equals, Some('='), "SDP line {line:?}");
            let (kind, value) = (kind.expect("a type"), characters.as_str().to_owned());
            match (kind, sdp.media.last_mut()) {
                ('m', _) => sdp.media.push((value, Vec::new())),
                (_, Some((_, lines))) => lines.push((kind, value)),
                (_, None) => sdp.session.push((kind, value)),
            }
        }
        let kinds: String = sdp.session.iter().map(|(kind, _)| *kind).filter(|kind| "vost".contains(*kind)).collect();
        assert_eq!(kinds, "vost", "the session lines in order (RFC 8866 §5): {text}");
        sdp
    }

    /// The section of the accepted message line.
    #[track_caller]
    pub fn message(&self) -> &(String, Vec<(char, String)>) {
        let found = self.media.iter().find(|(line, _)| line.starts_with("message ") && !line.starts_with("message 0 "));
        found.unwrap_or_else(|| panic!("an open message line in {self:?}"))
    }

    /// An attribute of the message line: its value, empty for a flag.
    #[track_caller]
    pub fn attribute(&self, name: &str) -> Option<String> {
        let (_, lines) = self.message();
        let mut found = lines.iter().filter(|(kind, _)| *kind == 'a').filter_map(|(_, value)| {
            let (key, value) = value.split_once(':').unwrap_or((value, ""));
            (key == name).then(|| value.to_owned())
        });
        let first = found.next();
        assert!(found.next().is_none(), "one a={name} in {self:?}");
        first
    }

    /// An attribute that must be there.
    #[track_caller]
    pub fn must(&self, name: &str) -> String {
        self.attribute(name).unwrap_or_else(|| panic!("a={name} in {self:?}"))
    }

    /// The entries of `a=path`.
    #[track_caller]
    pub fn path(&self) -> Vec<String> {
        self.must("path").split(' ').map(str::to_owned).collect()
    }

    /// Where the message line says to connect: `c=` and the port of `m=`.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let (line, lines) = self.message();
        let connection =
            lines.iter().find(|(kind, _)| *kind == 'c').or(self.session.iter().find(|(kind, _)| *kind == 'c'));
        let (_, connection) = connection.unwrap_or_else(|| panic!("c= in {self:?}"));
        let words: Vec<&str> = connection.split(' ').collect();
        assert_eq!(words.len(), 3, "c={connection}");
        let ip: IpAddr = words[2].parse().unwrap_or_else(|_| panic!("an address in c={connection}"));
        assert_eq!(words[..2], ["IN", if ip.is_ipv4() { "IP4" } else { "IP6" }], "c={connection}");
        let port = line.split(' ').nth(1).and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("m={line}"));
        SocketAddr::new(ip, port)
    }

    /// The direction of the message line; `sendrecv` when none is written.
    #[track_caller]
    pub fn direction(&self) -> &'static str {
        let found: Vec<_> = ["sendonly", "recvonly", "sendrecv", "inactive"]
            .into_iter()
            .filter(|name| self.attribute(name).is_some())
            .collect();
        assert!(found.len() <= 1, "one direction in {self:?}");
        found.first().copied().unwrap_or("sendrecv")
    }

    /// The fields of `o=`.
    #[track_caller]
    pub fn origin(&self) -> Vec<String> {
        let (_, value) = self.session.iter().find(|(kind, _)| *kind == 'o').expect("checked when read");
        let words: Vec<String> = value.split(' ').map(str::to_owned).collect();
        assert_eq!(words.len(), 6, "o={value}");
        words
    }
}
