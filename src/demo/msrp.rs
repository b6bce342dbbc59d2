//! An MSRP party on real sockets, with a codec of its own: the appliance's must not check itself.

use super::endpoint::PATIENCE;
use memchr::memmem;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One connection of one session.
pub struct Party {
    stream: TcpStream,
    /// Own URI.
    own: String,
    /// The other side's path.
    peer: String,
    gathered: Vec<u8>,
    /// Transactions begun.
    begun: u64,
}

/// A request or response that arrived.
pub struct Frame {
    /// `SEND`, `REPORT`, or a status code.
    pub kind: String,
    /// The transaction.
    pub transaction: String,
    /// Header lines.
    pub head: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// `$`, `+` or `#`.
    pub flag: u8,
}

impl Frame {
    /// A header's value, empty when there is none.
    pub fn value(&self, name: &str) -> &str {
        self.head.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

impl Party {
    /// Connects to the first URI of the path that SDP named.
    pub fn connect(own: &str, peer: &str) -> Result<Self, String> {
        let first = peer.split(' ').next().unwrap_or_default();
        let address = address_of(first).ok_or_else(|| format!("no address in {first}"))?;
        let words = |cause: std::io::Error| format!("MSRP connection to {address}: {cause}");
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(words)?;
        stream.set_nodelay(true).map_err(words)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(words)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(words)?;
        Ok(Self { stream, own: own.to_owned(), peer: peer.to_owned(), gathered: Vec::new(), begun: 0 })
    }

    /// Sends one chunk of a message, or a bodiless SEND when there is no content.
    pub fn send(
        &mut self,
        message_id: &str,
        range: (u64, u64, u64),
        content: &[u8],
        flag: u8,
    ) -> Result<String, String> {
        self.begun += 1;
        let transaction = format!("demo{:08x}", self.begun);
        let (first, last, total) = range;
        let mut bytes = format!(
            "MSRP {transaction} SEND\r\nTo-Path: {}\r\nFrom-Path: {}\r\nMessage-ID: {message_id}\r\n\
             Byte-Range: {first}-{last}/{total}\r\n",
            self.peer, self.own
        )
        .into_bytes();
        if !content.is_empty() {
            bytes.extend_from_slice(b"Content-Type: message/cpim\r\n\r\n");
            bytes.extend_from_slice(content);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("-------{transaction}").as_bytes());
        bytes.extend_from_slice(&[flag, b'\r', b'\n']);
        self.stream.write_all(&bytes).map_err(|cause| format!("MSRP write: {cause}"))?;
        Ok(transaction)
    }

    /// Answers a request with 200.
    pub fn accept(&mut self, request: &Frame) -> Result<(), String> {
        let to = request.value("From-Path").split(' ').next().unwrap_or_default().to_owned();
        let text = format!(
            "MSRP {tid} 200 OK\r\nTo-Path: {to}\r\nFrom-Path: {}\r\n-------{tid}$\r\n",
            self.own,
            tid = request.transaction
        );
        self.stream.write_all(text.as_bytes()).map_err(|cause| format!("MSRP write: {cause}"))
    }

    /// The next request or response; `None` when the connection has ended.
    pub fn next(&mut self) -> Result<Option<Frame>, String> {
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if let Some((frame, len)) = read_frame(&self.gathered)? {
                self.gathered.drain(..len);
                return Ok(Some(frame));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(len) => self.gathered.extend_from_slice(&buffer[..len]),
                Err(cause) => return Err(format!("MSRP read: {cause}")),
            }
        }
    }

    /// Waits for the 200 to a transaction; answers bodiless SENDs on the way.
    pub fn expect_ok(&mut self, transaction: &str) -> Result<(), String> {
        loop {
            let frame = self.next()?.ok_or("the MSRP connection ended before a response")?;
            match frame.kind.as_str() {
                "SEND" if frame.body.is_empty() => self.accept(&frame)?,
                "200" if frame.transaction == transaction => return Ok(()),
                other => {
                    return Err(format!("MSRP {other} for {} instead of 200 for {transaction}", frame.transaction));
                }
            }
        }
    }
}

/// What a receiver has got.
pub struct Received {
    /// SHA-256 of the message.
    pub sha256: [u8; 32],
    /// Its length.
    pub len: u64,
    /// The message ended with `#`.
    pub aborted: bool,
    /// The From-Path of its chunks.
    pub from_path: String,
}

/// Takes one message: answers each chunk with 200, counted in `answered` before it leaves.
pub fn receive(party: &mut Party, answered: &Arc<AtomicU64>) -> Result<Received, String> {
    let mut hash = Sha256::new();
    let mut received = Received { sha256: [0; 32], len: 0, aborted: false, from_path: String::new() };
    loop {
        let Some(frame) = party.next()? else { return Err("the MSRP connection ended inside a message".to_owned()) };
        match frame.kind.as_str() {
            "SEND" if frame.body.is_empty() && frame.flag == b'$' => party.accept(&frame)?,
            "SEND" => {
                hash.update(&frame.body);
                received.len += frame.body.len() as u64;
                received.from_path = frame.value("From-Path").to_owned();
                answered.fetch_add(1, Ordering::SeqCst);
                party.accept(&frame)?;
                if frame.flag != b'+' {
                    received.aborted = frame.flag == b'#';
                    received.sha256 = hash.finalize().into();
                    return Ok(received);
                }
            }
            // The answer to our own binding SEND.
            "200" => {}
            other => return Err(format!("MSRP {other} at the receiver")),
        }
    }
}

/// The address in an MSRP URI. RFC 4975 §9.
pub fn address_of(uri: &str) -> Option<SocketAddr> {
    let authority = uri.strip_prefix("msrp://")?.split('/').next()?;
    authority.rsplit('@').next()?.parse().ok()
}

/// One whole frame and its length; `None` when more bytes are needed. RFC 4975 §7.1.
fn read_frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let Some(line_end) = memmem::find(bytes, b"\r\n") else { return Ok(None) };
    let start = String::from_utf8_lossy(&bytes[..line_end]).into_owned();
    let mut words = start.split(' ');
    let (Some("MSRP"), Some(transaction), Some(kind)) = (words.next(), words.next(), words.next()) else {
        return Err(format!("no MSRP: {start:?}"));
    };
    let end = format!("\r\n-------{transaction}");
    let Some(end_at) = memmem::find(bytes, end.as_bytes()) else { return Ok(None) };
    let flag_at = end_at + end.len();
    let Some(&flag) = bytes.get(flag_at + 2).and(bytes.get(flag_at)) else { return Ok(None) };
    let content = bytes.get(line_end + 2..end_at).unwrap_or_default();
    let (head, body) = match memmem::find(content, b"\r\n\r\n") {
        Some(at) => (&content[..at], &content[at + 4..]),
        None => (content, &content[content.len()..]),
    };
    let head = String::from_utf8_lossy(head);
    let head = head.split("\r\n").filter_map(|line| line.split_once(": "));
    let frame = Frame {
        kind: kind.to_owned(),
        transaction: transaction.to_owned(),
        head: head.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        body: body.to_vec(),
        flag,
    };
    Ok(Some((frame, flag_at + 3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_when_its_last_byte_is_there() {
        let text = b"MSRP t1 SEND\r\nTo-Path: a\r\nFrom-Path: b c\r\nContent-Type: x/y\r\n\r\nhi\r\n-------t0$\r\n\r\n-------t1+\r\nMSRP";
        for cut in 0..text.len() - 4 {
            assert!(read_frame(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let (frame, len) = read_frame(text).unwrap().unwrap();
        assert_eq!((frame.kind.as_str(), frame.flag, len), ("SEND", b'+', text.len() - 4));
        assert_eq!(frame.body, b"hi\r\n-------t0$\r\n");
        assert_eq!(frame.value("from-path"), "b c");
        let (frame, _) =
            read_frame(b"MSRP t2 200 OK\r\nTo-Path: a\r\nFrom-Path: b\r\n-------t2$\r\n").unwrap().unwrap();
        assert_eq!((frame.kind.as_str(), frame.body.len()), ("200", 0));
    }

    #[test]
    fn the_address_stands_in_the_uri() {
        assert_eq!(address_of("msrp://127.0.0.1:2855/abc;tcp"), Some("127.0.0.1:2855".parse().unwrap()));
        assert_eq!(address_of("msrp://[::1]:9/abc;tcp"), Some("[::1]:9".parse().unwrap()));
        assert_eq!(address_of("sip:127.0.0.1"), None);
    }
}
