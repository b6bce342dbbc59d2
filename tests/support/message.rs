//! SIP messages as the tests write and read them.

use rsip::message::HasHeaders;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that no other call in this process got.
pub fn unique() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A token that no other test process has used: for branches, tags, Call-IDs.
pub fn token(prefix: &str) -> String {
    format!("{prefix}{:x}x{:x}", std::process::id(), unique())
}

/// A request in the making. Header order is kept.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The Request-URI.
    pub uri: String,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A request with a start line alone.
    pub fn new(method: &str, uri: &str) -> Self {
        Self { method: method.into(), uri: uri.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// A request with every header that RFC 3261 §8.1.1 asks for except Via, which the sender adds.
    pub fn between(method: &str, from: &str, to: &str) -> Self {
        Self::new(method, to)
            .header("Max-Forwards", "70")
            .header("From", &format!("<{from}>;tag={}", token("f")))
            .header("To", &format!("<{to}>"))
            .header("Call-ID", &format!("{}@test.example", token("c")))
            .header("CSeq", &format!("1 {method}"))
    }

    /// Adds a header after the others.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a header before the others.
    pub fn header_first(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(0, (name.into(), value.into()));
        self
    }

    /// Takes out every header of this name.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(candidate, _)| !candidate.eq_ignore_ascii_case(name));
        self
    }

    /// Puts this value in place of every header of this name.
    pub fn replace(self, name: &str, value: &str) -> Self {
        self.without(name).header(name, value)
    }

    /// Sets the body and its type.
    pub fn body(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = self.replace("Content-Type", content_type);
        request.body = body.into();
        request
    }

    /// The first value of a header.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(candidate, _)| candidate.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The bytes, with a Content-Length unless one is set. Written by rsip where rsip knows the start line.
    pub fn encode(&self) -> Vec<u8> {
        let mut headers = self.headers.clone();
        if self.value("Content-Length").is_none() {
            headers.push(("Content-Length".into(), self.body.len().to_string()));
        }
        let head = self.encode_with_rsip(&headers).unwrap_or_else(|| {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            format!("{} {} SIP/2.0\r\n{lines}\r\n", self.method, self.uri)
        });
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn encode_with_rsip(&self, headers: &[(String, String)]) -> Option<String> {
        let uri = rsip::Uri::try_from(self.uri.as_str()).ok()?;
        // A URI that rsip would write differently is not its to write.
        if uri.to_string() != self.uri {
            return None;
        }
        let request = rsip::Request {
            method: self.method.parse().ok()?,
            uri,
            version: rsip::Version::V2,
            headers: headers.iter().map(|(name, value)| rsip_header(name, value)).collect::<Vec<_>>().into(),
            body: Vec::new(),
        };
        Some(request.to_string())
    }
}

/// A header in rsip's words.
pub fn rsip_header(name: &str, value: &str) -> rsip::Header {
    let tokenizer = rsip::headers::header::Tokenizer { name: name.as_bytes(), value: value.as_bytes() };
    tokenizer.try_into().expect("headers of the tests are UTF-8")
}

/// A message that arrived, read by rsip.
#[derive(Clone)]
pub struct Received {
    /// Every byte of it.
    pub raw: Vec<u8>,
    /// How it came.
    pub origin: Origin,
    start: Start,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// As a datagram from this address.
    Udp(std::net::SocketAddr),
    /// On this connection of the endpoint.
    Tcp(u64),
}

#[derive(Clone, Debug)]
enum Start {
    Request { method: String, uri: String },
    Response { status: u16 },
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n{}", self.origin, String::from_utf8_lossy(&self.raw))
    }
}

impl Received {
    /// Reads a message. Panics when it is no SIP, or when rsip refuses it for any reason but those it is known for:
    /// what the appliance writes must satisfy an independent parser.
    pub fn read(raw: Vec<u8>, origin: Origin) -> Self {
        let head_len = raw.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let head_len = head_len.unwrap_or_else(|| panic!("no end of headers in {:?}", String::from_utf8_lossy(&raw)));
        let head = std::str::from_utf8(&raw[..head_len]).expect("heads are UTF-8").to_owned();
        let start_line = head.lines().next().unwrap_or_default().to_owned();
        let (start, headers) = match rsip::SipMessage::try_from(head.as_bytes()) {
            Ok(message) => {
                let start = match &message {
                    rsip::SipMessage::Request(request) => {
                        let words: Vec<&str> = start_line.split(' ').collect();
                        assert_eq!(words.len(), 3, "start line {start_line:?}");
                        Start::Request { method: request.method.to_string(), uri: words[1].to_owned() }
                    }
                    rsip::SipMessage::Response(response) => Start::Response { status: response.status_code.code() },
                };
                let headers = message.headers().iter().map(|header| split_header(&header.to_string())).collect();
                (start, headers)
            }
            Err(error) => {
                let excused = start_line.contains("tel:") || start_line.contains('[');
                assert!(excused, "rsip refuses ({error}):\n{head}");
                let words: Vec<&str> = start_line.split(' ').collect();
                let headers = head.split("\r\n").skip(1).filter(|line| !line.is_empty()).map(split_header).collect();
                (Start::Request { method: words[0].to_owned(), uri: words[1].to_owned() }, headers)
            }
        };
        let body = raw[head_len..].to_vec();
        let message = Self { raw, origin, start, headers, body };
        let announced = message.header("Content-Length").map(|value| value.trim().parse::<usize>());
        assert_eq!(announced, Some(Ok(message.body.len())), "Content-Length of\n{message:?}");
        message
    }

    /// The status, if this is a response.
    pub fn status(&self) -> Option<u16> {
        match self.start {
            Start::Response { status } => Some(status),
            Start::Request { .. } => None,
        }
    }

    /// The method, if this is a request.
    pub fn method(&self) -> Option<&str> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// The Request-URI, if this is a request.
    pub fn uri(&self) -> Option<&str> {
        match &self.start {
            Start::Request { uri, .. } => Some(uri),
            Start::Response { .. } => None,
        }
    }

    /// Every value of a header, lines of comma lists taken apart, in order.
    pub fn values(&self, name: &str) -> Vec<String> {
        self.lines(name).iter().flat_map(|line| split_list(line)).collect()
    }

    /// Every line of a header, in order, as written.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let wanted = plain(name);
        self.headers.iter().filter(|(name, _)| plain(name) == wanted).map(|(_, value)| value.clone()).collect()
    }

    /// The first line of a header.
    pub fn header(&self, name: &str) -> Option<String> {
        self.lines(name).into_iter().next()
    }

    /// The first line of a header that must be there.
    pub fn must(&self, name: &str) -> String {
        self.header(name).unwrap_or_else(|| panic!("{name} in\n{self:?}"))
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The topmost Via's branch.
    pub fn branch(&self) -> String {
        let via = self.values("Via").into_iter().next().unwrap_or_else(|| panic!("a Via in\n{self:?}"));
        parameter(&via, "branch").unwrap_or_else(|| panic!("a branch in {via:?}"))
    }

    /// The Call-ID.
    pub fn call_id(&self) -> String {
        self.must("Call-ID")
    }
}

/// A parameter's value in a header value such as a Via; empty when it has none.
pub fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).map(str::trim).find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// Takes a comma list apart, leaving quoted strings and angle brackets whole.
pub fn split_list(line: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let (mut quoted, mut angle, mut escaped) = (false, false, false);
    for character in line.chars() {
        match character {
            ',' if !quoted && !angle => {
                items.push(String::new());
                continue;
            }
            '"' if !escaped => quoted = !quoted,
            '<' if !quoted => angle = true,
            '>' if !quoted => angle = false,
            _ => {}
        }
        escaped = character == '\\' && !escaped;
        items.last_mut().expect("one item from the start").push(character);
    }
    items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn split_header(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.trim().to_owned(), value.trim().to_owned())
}

/// rsip writes some names its own way (`Mime-Version`): dashes and case tell nothing apart here.
fn plain(name: &str) -> String {
    name.chars().filter(|character| *character != '-').map(|character| character.to_ascii_lowercase()).collect()
}
