//! The core's 200 to everything that reaches it.

use crate::template;
use crate::wire::{Peer, Side};
use std::net::SocketAddr;

/// Answers in batches; buffers are used again.
#[derive(Default)]
pub struct Answers {
    queue: Vec<(Vec<u8>, Peer)>,
    spare: Vec<Vec<u8>>,
    /// Addresses by the text of a Via's sent-by.
    sent_by: Vec<(Vec<u8>, SocketAddr)>,
}

impl Answers {
    /// Shows every request that has arrived to `look` and answers it 200.
    pub fn serve(&mut self, side: &mut Side, mut look: impl FnMut(&[u8])) -> std::io::Result<usize> {
        let Self { queue, spare, sent_by } = self;
        let count = side.receive(|request, from| {
            look(request);
            let mut answer = spare.pop().unwrap_or_default();
            answer.clear();
            template::write_ok(request, &mut answer);
            queue.push((answer, target(request, from, sent_by)));
        })?;
        for (answer, to) in self.queue.drain(..) {
            side.queue(&answer, to);
            self.spare.push(answer);
        }
        side.flush()?;
        Ok(count)
    }
}

/// Where an answer goes: the sent-by of the topmost Via, or the connection the request came on.
pub fn target(request: &[u8], from: Peer, known: &mut Vec<(Vec<u8>, SocketAddr)>) -> Peer {
    let Peer::Addr(_) = from else { return from };
    let Some(sent_by) = template::sent_by(request) else { return from };
    if let Some((_, addr)) = known.iter().find(|(text, _)| text == sent_by) {
        return Peer::Addr(*addr);
    }
    let Some(addr) = std::str::from_utf8(sent_by).ok().and_then(|text| text.parse().ok()) else { return from };
    // A shard has one sent-by; a peer that invents new ones all the time is not remembered for ever.
    if known.len() < 1024 {
        known.push((sent_by.to_vec(), addr));
    }
    Peer::Addr(addr)
}
