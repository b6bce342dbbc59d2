//! SIP messages as the demo's endpoints read and write them: rsip, and text helpers for what rsip leaves out.

use rsip::headers::{CSeq, CallId, ContentLength, ContentType, From, To, UntypedHeader, Via};
use rsip::message::HasHeaders;
use rsip::{Header, Headers, Request, Response, SipMessage, StatusCode};

/// Reads one whole message.
pub fn decode(bytes: &[u8]) -> Result<SipMessage, String> {
    SipMessage::try_from(bytes).map_err(|error| error.to_string())
}

/// Writes one whole message. rsip writes the head alone: it would force a body into UTF-8.
pub fn encode(message: &SipMessage) -> Vec<u8> {
    let mut head = message.clone();
    let body = std::mem::take(head.body_mut());
    head.headers_mut().retain(|header| !matches!(header, Header::ContentLength(_)));
    head.headers_mut().push(ContentLength::new(body.len().to_string()).into());
    let mut bytes = head.to_string().into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// The values of all header lines of a name, as written.
pub fn values(message: &SipMessage, name: &str) -> Vec<String> {
    let lines = message.headers().iter().map(ToString::to_string);
    lines
        .filter_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
        .collect()
}

/// The value of a header's first line, empty when there is none.
pub fn value(message: &SipMessage, name: &str) -> String {
    values(message, name).into_iter().next().unwrap_or_default()
}

/// The entries of a header that may be a comma list, several lines, or both. Commas in quotes and in `<>` are no commas.
pub fn entries(message: &SipMessage, name: &str) -> Vec<String> {
    let mut entries = Vec::new();
    for value in values(message, name) {
        let (mut quoted, mut bracketed, mut start) = (false, false, 0);
        for (index, character) in value.char_indices() {
            match character {
                '"' => quoted = !quoted,
                '<' if !quoted => bracketed = true,
                '>' if !quoted => bracketed = false,
                ',' if !quoted && !bracketed => {
                    entries.push(value[start..index].trim().to_owned());
                    start = index + 1;
                }
                _ => {}
            }
        }
        entries.push(value[start..].trim().to_owned());
    }
    entries
}

/// The branch of the topmost Via: what a transaction is known by. RFC 3261 §17.1.3.
pub fn branch(message: &SipMessage) -> String {
    let via = entries(message, "Via").into_iter().next().unwrap_or_default();
    let branch = via.split(';').find_map(|part| part.trim().strip_prefix("branch=").map(str::to_owned));
    branch.unwrap_or_default()
}

/// The status of a response, 0 for a request.
pub fn status(message: &SipMessage) -> u16 {
    match message {
        SipMessage::Response(response) => response.status_code.code(),
        SipMessage::Request(_) => 0,
    }
}

/// True for a request of this method.
pub fn is_request(message: &SipMessage, method: rsip::Method) -> bool {
    matches!(message, SipMessage::Request(request) if request.method == method)
}

/// The first line, for a ladder.
pub fn title(message: &SipMessage) -> String {
    match message {
        SipMessage::Request(request) => format!("{} {}", request.method, request.uri),
        SipMessage::Response(response) => format!("{} {}", status(message), reason(&response.status_code)),
    }
}

/// The lines of some headers, for a ladder.
pub fn telling(message: &SipMessage, names: &[&str]) -> Vec<String> {
    let lines = names.iter().flat_map(|name| values(message, name).into_iter().map(move |value| (name, value)));
    lines.map(|(name, value)| format!("{name}: {value}")).collect()
}

/// The response to a request, as a server that takes no dialog writes it. RFC 3261 §8.2.6.2.
pub fn response_to(request: &SipMessage, status: u16, tag: &str) -> SipMessage {
    let mut headers = Headers::default();
    for via in values(request, "Via") {
        headers.push(Via::new(via).into());
    }
    headers.push(From::new(value(request, "From")).into());
    let to = value(request, "To");
    let tagged = if to.contains(";tag=") { to } else { format!("{to};tag={tag}") };
    headers.push(To::new(tagged).into());
    headers.push(CallId::new(value(request, "Call-ID")).into());
    headers.push(CSeq::new(value(request, "CSeq")).into());
    // rsip writes a known code's reason without its spaces, and takes 202 for unknown.
    let phrase = if status == 202 { "Accepted".to_owned() } else { reason(&StatusCode::from(status)) };
    let status_code = StatusCode::Other(status, phrase);
    Response { status_code, version: rsip::Version::V2, headers, body: Vec::new() }.into()
}

/// A request with the headers that every request has; more headers and a body follow.
pub fn request(
    method: rsip::Method,
    uri: &str,
    headers: Vec<Header>,
    body: (&str, Vec<u8>),
) -> Result<SipMessage, String> {
    let uri = rsip::Uri::try_from(uri).map_err(|error| format!("{uri}: {error}"))?;
    let mut request = Request { method, uri, version: rsip::Version::V2, headers: headers.into(), body: body.1 };
    if !body.0.is_empty() {
        request.headers.push(ContentType::new(body.0).into());
    }
    Ok(request.into())
}

/// The status phrase, words apart: rsip has `RequestTimeout`.
fn reason(code: &StatusCode) -> String {
    let text = code.to_string();
    let words = text.split_once(' ').map_or("", |(_, words)| words);
    let mut phrase = String::new();
    let mut after_lower = false;
    for character in words.chars() {
        if after_lower && character.is_uppercase() {
            phrase.push(' ');
        }
        after_lower = character.is_lowercase();
        phrase.push(character);
    }
    phrase
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "MESSAGE sip:bob@home.example SIP/2.0\r\n\
        Via: SIP/2.0/UDP 127.0.0.1:5080;branch=z9hG4bKpf, SIP/2.0/UDP 127.0.0.1:6000;branch=z9hG4bKa;rport=6000\r\n\
        Via: SIP/2.0/UDP 127.0.0.1:6001;branch=z9hG4bKb\r\n\
        From: <sip:alice@a.example>;tag=8\r\nTo: <sip:bob@home.example>\r\nCall-ID: x@a.example\r\nCSeq: 1 MESSAGE\r\n\
        P-Asserted-Identity: <sip:alice@a.example>, <tel:+15550100>\r\n\
        Accept-Contact: *;+g.3gpp.icsi-ref=\"a,b\"\r\nContent-Type: image/png\r\nContent-Length: 3\r\n\r\n";

    fn decoded() -> SipMessage {
        let mut bytes = REQUEST.as_bytes().to_vec();
        bytes.extend_from_slice(&[0x89, 0xff, 0x00]);
        decode(&bytes).unwrap()
    }

    #[test]
    fn bodies_that_are_no_text_survive_reading_and_writing() {
        let again = decode(&encode(&decoded())).unwrap();
        assert_eq!(again.body(), &[0x89, 0xff, 0x00]);
        assert_eq!(value(&again, "content-length"), "3");
    }

    #[test]
    fn entries_are_split_at_commas_outside_quotes_and_brackets() {
        let message = decoded();
        assert_eq!(entries(&message, "Via").len(), 3);
        assert_eq!(entries(&message, "P-Asserted-Identity"), ["<sip:alice@a.example>", "<tel:+15550100>"]);
        assert_eq!(entries(&message, "Accept-Contact").len(), 1);
        assert_eq!(branch(&message), "z9hG4bKpf");
    }

    #[test]
    fn a_response_copies_what_tells_whose_it_is() {
        let response = response_to(&decoded(), 480, "core");
        assert_eq!(title(&response), "480 Temporarily Unavailable");
        assert_eq!(entries(&response, "Via"), entries(&decoded(), "Via"));
        assert_eq!(value(&response, "To"), "<sip:bob@home.example>;tag=core");
        let again = decode(&encode(&response)).unwrap();
        assert_eq!((status(&again), value(&again, "CSeq")), (480, "1 MESSAGE".to_owned()));
    }
}
