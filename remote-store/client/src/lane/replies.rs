// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which reply belongs to which request: they come in order.

use tmem_remote_protocol::{Decoded, Reply, ReplyDecoder};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Lane, LaneError, RequestId};

/// What the reply to a request must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Put(usize),
    Get(usize),
    Flush(usize),
    FlushPool,
    List,
    Ping,
}

impl Expected {
    fn fits(self, reply: &Reply<'_>) -> bool {
        match (self, reply) {
            (Self::Put(pages), Reply::PutDone { statuses, .. })
            | (Self::Flush(pages), Reply::FlushDone { statuses, .. }) => statuses.len() == pages,
            (Self::Get(pages), Reply::GetDone { entries, .. }) => entries.len() == pages,
            (Self::FlushPool, Reply::FlushPoolDone { .. })
            | (Self::List, Reply::Listed { .. })
            | (Self::Ping, Reply::Pong { .. }) => true,
            _ => false,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    /// Gives `take` the reply if all of it is here.
    pub(crate) fn try_take(
        &mut self,
        id: RequestId,
        take: &mut dyn FnMut(Reply<'_>),
    ) -> Result<bool, LaneError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        loop {
            let Some(at) = self.pending.iter().position(|p| p.id == id.0) else {
                return Err(LaneError::Mismatch);
            };
            if at == 0 && self.pending.front().is_some_and(|p| p.reply.is_none()) {
                return self.take_first(take);
            }
            let kept = self.pending.get_mut(at).and_then(|p| p.reply.take());
            if let Some(frame) = kept {
                self.pending.remove(at);
                self.drop_unwanted();
                if let Decoded::Whole { message, .. } = self.decoder.next(&frame)? {
                    take(message);
                }
                return Ok(true);
            }
            if !self.step()? {
                return Ok(false);
            }
        }
    }

    /// The reply that is awaited is the next: it goes to `take` from where it was read to.
    fn take_first(&mut self, take: &mut dyn FnMut(Reply<'_>)) -> Result<bool, LaneError> {
        loop {
            let decoded = match next(&self.decoder, self.input.full()) {
                Ok(decoded) => decoded,
                Err(error) => return Err(self.kill(error)),
            };
            let (message, len) = match decoded {
                Decoded::More { total } => {
                    self.input.make_room(total);
                    return Ok(false);
                }
                Decoded::Whole { message, len } => (message, len),
            };
            match message {
                Reply::Advert(advert) => {
                    self.advert = Some(advert);
                    self.input.consume(len);
                }
                Reply::Goodbye(farewell) => {
                    return Err(self.kill(LaneError::Goodbye(farewell)));
                }
                reply => {
                    let fits = self.pending.front().is_some_and(|first| {
                        reply.request() == Some(first.id) && first.expected.fits(&reply)
                    });
                    if !fits {
                        return Err(self.kill(LaneError::Mismatch));
                    }
                    take(reply);
                    self.input.consume(len);
                    self.pending.pop_front();
                    self.drop_unwanted();
                    return Ok(true);
                }
            }
        }
    }

    /// Deals with one message that nobody polls for. False if none is whole.
    pub(super) fn step(&mut self) -> Result<bool, LaneError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let decoded = match next(&self.decoder, self.input.full()) {
            Ok(decoded) => decoded,
            Err(error) => return Err(self.kill(error)),
        };
        let (message, len) = match decoded {
            Decoded::More { total } => {
                self.input.make_room(total);
                return Ok(false);
            }
            Decoded::Whole { message, len } => (message, len),
        };
        match message {
            Reply::Advert(advert) => self.advert = Some(advert),
            Reply::Goodbye(farewell) => return Err(self.kill(LaneError::Goodbye(farewell))),
            reply => {
                let Some(first) = self.pending.iter_mut().find(|p| p.reply.is_none()) else {
                    return Err(self.kill(LaneError::Mismatch));
                };
                if reply.request() != Some(first.id) || !first.expected.fits(&reply) {
                    return Err(self.kill(LaneError::Mismatch));
                }
                let frame = self.input.full().get(..len).unwrap_or_default();
                first.reply = Some(if first.wanted {
                    frame.to_vec()
                } else {
                    Vec::new()
                });
            }
        }
        self.input.consume(len);
        self.drop_unwanted();
        Ok(true)
    }
}

fn next<'a>(decoder: &ReplyDecoder, bytes: &'a [u8]) -> Result<Decoded<Reply<'a>>, LaneError> {
    Ok(decoder.next(bytes)?)
}
