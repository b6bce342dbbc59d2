//! A small HTTP/1.1 client with one kept connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection to the appliance's HTTP port.
pub struct Client {
    addr: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    /// Connects when it is first used.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None }
    }

    /// Stores a document; 200 and 201 are good.
    pub fn put(&mut self, path: &str, content_type: &str, body: &str) -> Result<(), String> {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            self.addr,
            body.len()
        );
        match self.exchange(&format!("{head}{body}"))? {
            (200 | 201, _) => Ok(()),
            (status, text) => Err(format!("PUT {path}: {status} {text}")),
        }
    }

    /// Reads a resource; `None` when it is not there.
    pub fn get(&mut self, path: &str) -> Result<Option<String>, String> {
        match self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr))? {
            (200, text) => Ok(Some(text)),
            (404, _) => Ok(None),
            (status, text) => Err(format!("GET {path}: {status} {text}")),
        }
    }

    /// One request; a kept connection that the server has closed is replaced once.
    fn exchange(&mut self, request: &str) -> Result<(u16, String), String> {
        let was_kept = self.stream.is_some();
        match self.try_exchange(request) {
            Err(_) if was_kept => self.try_exchange(request),
            other => other,
        }
        .map_err(|error| format!("HTTP at {}: {error}", self.addr))
    }

    fn try_exchange(&mut self, request: &str) -> std::io::Result<(u16, String)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.addr, Duration::from_secs(5))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(20)))?;
                stream
            }
        };
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        let mut chunk = [0; 65_536];
        let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
        loop {
            if let Some(head_len) = crate::template::head_len(&bytes) {
                let head = std::str::from_utf8(&bytes[..head_len]).map_err(|_| invalid())?.to_ascii_lowercase();
                let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
                let body_len = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:"))
                    .map_or(Some(0), |value| value.trim().parse::<usize>().ok())
                    .ok_or_else(invalid)?;
                if bytes.len() >= head_len + body_len {
                    let body = String::from_utf8_lossy(&bytes[head_len..head_len + body_len]).into_owned();
                    if !head.contains("\r\nconnection: close") {
                        self.stream = Some(stream);
                    }
                    return Ok((status, body));
                }
            }
            match stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                len => bytes.extend_from_slice(&chunk[..len]),
            }
        }
    }
}
