//! A client for the appliance's XCAP root, admin API and metrics: one request a connection.

use super::endpoint::PATIENCE;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines: lower-case name, value.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value, empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("no JSON: {error}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A body and its media type.
pub type Body<'a> = (&'a str, &'a [u8]);

/// Sends one request and reads the whole answer.
pub fn ask(to: SocketAddr, method: &str, path: &str, body: Option<Body<'_>>) -> Result<Answer, String> {
    exchange(to, method, path, body).map_err(|problem| format!("{method} http://{to}{path}: {problem}"))
}

fn exchange(to: SocketAddr, method: &str, path: &str, body: Option<Body<'_>>) -> Result<Answer, String> {
    let words = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(words)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(words)?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n").into_bytes();
    if let Some((media_type, bytes)) = body {
        let head = format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n\r\n", bytes.len());
        request.extend_from_slice(head.as_bytes());
        request.extend_from_slice(bytes);
    } else {
        request.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    }
    stream.write_all(&request).map_err(words)?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_LEN_MAX).read_to_end(&mut bytes).map_err(words)?;
    read_answer(&bytes).ok_or_else(|| "no HTTP answer".to_owned())
}

fn read_answer(bytes: &[u8]) -> Option<Answer> {
    let head_len = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..head_len]).ok()?;
    let (start, lines) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = start.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let headers: Vec<_> = lines
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: bytes[head_len + 4..].to_vec() };
    if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        answer.body = unchunked(&answer.body)?;
    } else if let Ok(len) = answer.header("content-length").parse::<usize>() {
        // A connection that broke off in the middle is no answer.
        if answer.body.len() < len {
            return None;
        }
        answer.body.truncate(len);
    }
    Some(answer)
}

/// Puts the chunks of a body together. RFC 9112 §7.1.
fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line_len = memchr::memmem::find(bytes, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..line_len]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = &bytes[line_len + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

const ANSWER_LEN_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one request with fixed bytes and gives back what was asked.
    fn serve(answer: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1_000];
            while !asked.ends_with(b"\r\n\r\n") && !asked.ends_with(b"<x/>") {
                let len = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..len]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (address, thread)
    }

    #[test]
    fn a_put_carries_its_body_and_the_answer_its_headers() {
        let (address, server) = serve(b"HTTP/1.1 201 Created\r\nETag: \"e1\"\r\nContent-Length: 0\r\n\r\n");
        let answer = ask(address, "PUT", "/xcap/a", Some(("text/xml", b"<x/>"))).unwrap();
        assert_eq!((answer.status, answer.header("etag")), (201, "\"e1\""));
        let asked = server.join().unwrap();
        assert!(asked.starts_with("PUT /xcap/a HTTP/1.1\r\n"), "{asked}");
        assert!(asked.ends_with("Content-Type: text/xml\r\nContent-Length: 4\r\n\r\n<x/>"), "{asked}");
    }

    #[test]
    fn chunks_are_put_together() {
        let (address, server) =
            serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n3;x=y\r\n,2]\r\n0\r\n\r\n");
        let answer = ask(address, "GET", "/", None).unwrap();
        assert_eq!(answer.json().unwrap(), serde_json::json!([1, 2]));
        server.join().unwrap();
    }

    #[test]
    fn an_answer_that_breaks_off_is_none() {
        let (address, server) = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        let problem = ask(address, "GET", "/metrics", None).unwrap_err();
        assert!(problem.ends_with("/metrics: no HTTP answer"), "{problem}");
        server.join().unwrap();
    }
}
