//! Messages written once by rsip, with fixed places that the hot loop patches; and what is read out of messages that
//! come back, by searching for the marks that the templates carry.

use crate::cli::Transport;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::SystemTime;

/// Before the message number in branches, Call-IDs and message ids.
const MARK: &str = "ltn";
/// Sixteen hexadecimal digits stand behind the mark.
const NUMBER_LEN: usize = 16;
/// Before the user number in addresses.
const USER_MARK: &str = "ltuser";
/// Six decimal digits stand behind it.
const USER_LEN: usize = 6;
/// Before the user's own sequence number in bodies.
const SEQUENCE_MARK: &str = "ltseq";

/// What tells this run's messages from an earlier run's against the same server: eight digits.
pub fn run() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{:08x}", since.as_millis() as u32 ^ std::process::id().rotate_left(20))
    })
}

/// A message with places for a number, a user and a sequence number.
pub struct Template {
    bytes: Vec<u8>,
    numbers: Vec<usize>,
    users: Vec<usize>,
    sequences: Vec<usize>,
}

impl Template {
    fn new(bytes: Vec<u8>) -> Self {
        let places = |mark: &str| find_all(&bytes, mark.as_bytes()).map(|at| at + mark.len()).collect();
        let (numbers, users, sequences) = (places(MARK), places(USER_MARK), places(SEQUENCE_MARK));
        Self { bytes, numbers, users, sequences }
    }

    /// The message with these numbers in it, valid until the next call.
    pub fn patch(&mut self, number: u64, user: u32, sequence: u32) -> &[u8] {
        for at in &self.numbers {
            write_hex(&mut self.bytes[*at..*at + NUMBER_LEN], number);
        }
        for at in &self.users {
            write_decimal(&mut self.bytes[*at..*at + USER_LEN], user);
        }
        for at in &self.sequences {
            write_decimal(&mut self.bytes[*at..*at + USER_LEN], sequence);
        }
        &self.bytes
    }

    /// Its length, which patching does not change.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The address of a user.
pub fn user_uri(user: u32) -> String {
    format!("sip:{USER_MARK}{user:06}@home.example")
}

/// Where things are, as the templates name them.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// The generator as sender.
    pub sender: SocketAddr,
    /// The generator as core.
    pub core: SocketAddr,
    /// The appliance.
    pub target: SocketAddr,
    /// How messages travel.
    pub transport: Transport,
}

/// A pager mode message as it reaches the terminating participating function in a home network: four Vias, the Routes
/// of the S-CSCF, asserted identity and service, charging and access information, a CPIM body filled up to the length.
pub fn message(places: &Places, with_routes: bool, len: usize) -> Result<Template, String> {
    let protocol = protocol(places.transport);
    let zeros = "0".repeat(NUMBER_LEN);
    let user = user_uri(0);
    let mut headers: Vec<(&str, String)> = vec![
        ("Via", format!("SIP/2.0/{protocol} {};branch=z9hG4bK{MARK}{zeros}.{};rport", places.sender, run())),
        ("Via", "SIP/2.0/UDP icscf.home.example:5060;branch=z9hG4bK4b43c2ff8.1;received=192.0.2.11".into()),
        ("Via", "SIP/2.0/UDP pcscf.a.example:5060;branch=z9hG4bK240f34.1;received=192.0.2.12".into()),
        ("Via", "SIP/2.0/UDP 192.0.2.77:5060;branch=z9hG4bKnashds7".into()),
        ("Max-Forwards", "67".into()),
    ];
    if with_routes {
        let transport = protocol.to_ascii_lowercase();
        headers.push(("Route", format!("<sip:term@{};lr>", places.target)));
        headers.push(("Route", format!("<sip:orig-7c3f@{};lr;transport={transport}>", places.core)));
    }
    headers.extend([
        ("From", "\"Alice\" <sip:alice@a.example>;tag=31415926".to_owned()),
        ("To", format!("<{user}>")),
        ("Call-ID", format!("{MARK}{zeros}.{}@a.example", run())),
        ("CSeq", "666 MESSAGE".into()),
        ("P-Asserted-Identity", "\"Alice\" <sip:alice@a.example>, <tel:+15550123>".into()),
        ("P-Asserted-Service", "urn:urn-7:3gpp-service.ims.icsi.oma.cpm.msg".into()),
        ("P-Charging-Vector", "icid-value=\"AyretyU0dm+6O2IrT5tAFrbHLso=023551024\";orig-ioi=a.example".into()),
        ("P-Access-Network-Info", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=234151D0FCE11".into()),
        (
            "Accept-Contact",
            "*;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg\";require;explicit".into(),
        ),
        ("User-Agent", "CPM-client/OMA2.2 RCS-client/UP_2.4 load/1.0".into()),
        ("Conversation-ID", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6".into()),
        ("Contribution-ID", format!("{MARK}{zeros}.{}", run())),
        ("Content-Type", "message/cpim".into()),
    ]);
    let run = run();
    let body_of = |filler: usize| {
        format!(
            "From: <sip:anonymous@anonymous.invalid>\r\nTo: <sip:anonymous@anonymous.invalid>\r\n\
             NS: imdn<urn:ietf:params:imdn>\r\nimdn.Message-ID: {MARK}{zeros}.{run}\r\nDateTime: 2031-05-04T09:30:00Z\r\n\
             imdn.Disposition-Notification: positive-delivery, display\r\n\r\n\
             Content-Type: text/plain;charset=UTF-8\r\n\r\n{SEQUENCE_MARK}000000 {USER_MARK}000000 {}",
            "x".repeat(filler)
        )
    };
    let short = request("MESSAGE", &user, &headers, &body_of(0))?.len();
    // Content-Length has three digits with and without the filler.
    let filler = len.checked_sub(short).ok_or_else(|| format!("--message-len {len}: at least {short}"))?;
    Ok(Template::new(request("MESSAGE", &user, &headers, &body_of(filler))?))
}

/// A third-party REGISTER of a user with one CPM device.
pub fn register(places: &Places) -> Result<Template, String> {
    let protocol = protocol(places.transport);
    let zeros = "0".repeat(NUMBER_LEN);
    let user = user_uri(0);
    let contact = format!(
        "<sip:{USER_MARK}000000@192.0.2.9:5060>;+sip.instance=\"<urn:uuid:f81d4fae-7dec-11d0-a765-000000000000>\";\
         +g.3gpp.icsi-ref=\"urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.msg,\
         urn%3Aurn-7%3A3gpp-service.ims.icsi.oma.cpm.largemsg\";expires=7200"
    );
    let inner = [
        ("Via", "SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKue".to_owned()),
        ("Max-Forwards", "70".into()),
        ("From", format!("<{user}>;tag=ue1")),
        ("To", format!("<{user}>")),
        ("Call-ID", "ue@192.0.2.9".into()),
        ("CSeq", "2 REGISTER".into()),
        ("Contact", contact),
    ];
    let body = String::from_utf8(request("REGISTER", "sip:home.example", &inner, "")?).map_err(|e| e.to_string())?;
    let scscf = format!("sip:{}", places.core);
    let headers = [
        ("Via", format!("SIP/2.0/{protocol} {};branch=z9hG4bK{MARK}{zeros}.{};rport", places.sender, run())),
        ("Max-Forwards", "70".to_owned()),
        ("From", format!("<{scscf}>;tag=scscf")),
        ("To", format!("<{user}>")),
        ("Call-ID", format!("{MARK}{zeros}.{}@scscf.home.example", run())),
        ("CSeq", "1 REGISTER".into()),
        ("Contact", format!("<{scscf}>")),
        ("Expires", "600000".into()),
        ("Content-Type", "message/sip".into()),
    ];
    Ok(Template::new(request("REGISTER", &format!("sip:{}", places.target), &headers, &body)?))
}

fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    }
}

/// A request written by rsip. IPv6 references are beyond it and stand in for themselves as text.
fn request(method: &str, uri: &str, headers: &[(&str, String)], body: &str) -> Result<Vec<u8>, String> {
    let mut list = Vec::new();
    for (name, value) in headers {
        list.push(header(name, value)?);
    }
    list.push(header("Content-Length", &body.len().to_string())?);
    let placeholder = "sip:placeholder.invalid";
    let written = rsip::Request {
        method: method.parse().map_err(|error| format!("{method}: {error}"))?,
        uri: rsip::Uri::try_from(placeholder).map_err(|error| format!("{placeholder}: {error}"))?,
        version: rsip::Version::V2,
        headers: list.into(),
        body: Vec::new(),
    };
    Ok(format!("{}{body}", written.to_string().replacen(placeholder, uri, 1)).into_bytes())
}

fn header(name: &str, value: &str) -> Result<rsip::Header, String> {
    let tokenizer = rsip::headers::header::Tokenizer { name: name.as_bytes(), value: value.as_bytes() };
    tokenizer.try_into().map_err(|error: rsip::Error| format!("{name}: {error}"))
}

/// The number of the message that this one belongs to.
pub fn number(message: &[u8]) -> Option<u64> {
    let at = find(message, MARK.as_bytes())? + MARK.len();
    let digits = message.get(at..at + NUMBER_LEN)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The user and the sequence number in a message's body.
pub fn user_and_sequence(message: &[u8]) -> Option<(u32, u32)> {
    let body = &message[head_len(message)?..];
    let decimal = |mark: &str| -> Option<u32> {
        let at = find(body, mark.as_bytes())? + mark.len();
        std::str::from_utf8(body.get(at..at + USER_LEN)?).ok()?.parse().ok()
    };
    Some((decimal(USER_MARK)?, decimal(SEQUENCE_MARK)?))
}

/// The status of a response; `None` for a request.
pub fn status(message: &[u8]) -> Option<u16> {
    let digits = message.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    digits.iter().try_fold(0, |sum: u16, digit| digit.is_ascii_digit().then(|| sum * 10 + u16::from(digit - b'0')))
}

/// Bytes up to and including the empty line.
pub fn head_len(message: &[u8]) -> Option<usize> {
    find(message, b"\r\n\r\n").map(|at| at + 4)
}

/// A 200 for a request: Vias, From, To with a tag, Call-ID and CSeq, in the request's order.
pub fn write_ok(request: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"SIP/2.0 200 OK\r\n");
    let head = &request[..head_len(request).unwrap_or(request.len())];
    for line in lines(head).skip(1) {
        match line.first() {
            Some(b'V' | b'v') if is_named(line, b"via", b'v') => out.extend_from_slice(line),
            Some(b'F' | b'f') if is_named(line, b"from", b'f') => out.extend_from_slice(line),
            Some(b'C' | b'c') if is_named(line, b"cseq", 0) || is_named(line, b"call-id", 0) => {
                out.extend_from_slice(line);
            }
            Some(b'I' | b'i') if is_named(line, b"i", b'i') => out.extend_from_slice(line),
            Some(b'T' | b't') if is_named(line, b"to", b't') => {
                out.extend_from_slice(line);
                if find(line, b";tag=").is_none() {
                    out.extend_from_slice(b";tag=ltcore");
                }
            }
            _ => continue,
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

/// The sent-by of the topmost Via.
pub fn sent_by(request: &[u8]) -> Option<&[u8]> {
    let line = lines(request).skip(1).find(|line| is_named(line, b"via", b'v'))?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = line[colon + 1..].trim_ascii_start();
    let after_protocol = value[value.iter().position(|byte| *byte == b' ')?..].trim_ascii_start();
    let end = after_protocol.iter().position(|byte| matches!(byte, b';' | b' ' | b',')).unwrap_or(after_protocol.len());
    Some(&after_protocol[..end])
}

/// The value of the first header of this name; `compact` is its short form, or zero.
pub fn value<'a>(message: &'a [u8], name: &[u8], compact: u8) -> Option<&'a [u8]> {
    let head = &message[..head_len(message).unwrap_or(message.len())];
    let line = lines(head).skip(1).find(|line| is_named(line, name, compact))?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some(line[colon + 1..].trim_ascii())
}

/// Content-Length, which every message here has.
pub fn content_len(head: &[u8]) -> Option<usize> {
    let line = lines(head).skip(1).find(|line| is_named(line, b"content-length", b'l'))?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    std::str::from_utf8(line[colon + 1..].trim_ascii()).ok()?.parse().ok()
}

/// True for a header line of this name.
pub fn is_named(line: &[u8], name: &[u8], compact: u8) -> bool {
    let Some(colon) = line.iter().take(name.len() + 4).position(|byte| *byte == b':') else { return false };
    let written = line[..colon].trim_ascii_end();
    written.eq_ignore_ascii_case(name) || (written.len() == 1 && written[0].eq_ignore_ascii_case(&compact))
}

/// Lines without their ends.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = find(rest, b"\r\n").unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 2..).unwrap_or_default();
        Some(line)
    })
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = text.get(from..)?.iter().position(|byte| *byte == first) {
        if text[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

fn find_all<'a>(text: &'a [u8], wanted: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + find(&text[from..], wanted)?;
        from = at + wanted.len();
        Some(at)
    })
}

/// Fills a place with hexadecimal digits.
pub fn write_hex(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn write_decimal(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Places { sender: addr(6000), core: addr(5070), target: addr(5060), transport: Transport::Udp }
    }

    #[test]
    fn a_message_has_the_asked_length_and_rsip_reads_it() {
        let mut template = message(&places(), true, 1660).expect("the template is valid");
        assert_eq!(template.len(), 1660);
        let bytes = template.patch(0xabcdef, 42, 7).to_vec();
        assert_eq!(bytes.len(), 1660);
        let read = rsip::Request::try_from(bytes.as_slice()).expect("rsip reads it");
        assert_eq!(read.uri.to_string(), "sip:ltuser000042@home.example");
        assert_eq!(content_len(&bytes), Some(read.body.len()));
        assert_eq!(number(&bytes), Some(0xabcdef));
        assert_eq!(user_and_sequence(&bytes), Some((42, 7)));
        assert_eq!(status(&bytes), None);
        assert_eq!(sent_by(&bytes), Some(b"127.0.0.1:6000".as_slice()));
    }

    #[test]
    fn an_answer_carries_what_a_response_must() {
        let mut template = message(&places(), false, 1660).expect("the template is valid");
        let mut answer = Vec::new();
        write_ok(template.patch(5, 1, 1), &mut answer);
        let read = rsip::Response::try_from(answer.as_slice()).expect("rsip reads it");
        let text = read.to_string();
        assert_eq!(text.matches("Via: ").count(), 4);
        for part in ["From: \"Alice\"", ";tag=ltcore", "Call-ID: ltn0000000000000005.", "CSeq: 666 MESSAGE"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(status(&answer), Some(200));
        assert_eq!(number(&answer), Some(5));
    }

    #[test]
    fn a_register_names_its_user_everywhere() {
        let mut template = register(&places()).expect("the template is valid");
        let text = String::from_utf8(template.patch(1, 99, 0).to_vec()).expect("ASCII");
        assert_eq!(text.matches("ltuser000099").count(), 4, "{text}");
        assert!(!text.contains("ltuser000000"));
    }
}
