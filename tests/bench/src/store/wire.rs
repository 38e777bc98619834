// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Three protocols, spoken by clients of one shape: each turns puts and gets of numbered pages into
//! bytes, and finds the replies in what came back. None of them knows a socket.
//!
//! A key is 8 hexadecimal digits to the others and a number to ours. Ours computes the checksum of each
//! page that it sends and that it gets, as its protocol asks for; the others have none.

use bytes::BytesMut;
use tmem_pages::{PAGE_SIZE, PageBytes};
use tmem_remote_protocol::{
    Capabilities, Decoded, Encoder, GetEntry, Hello, Namespace, PutEntry, ReplyDecoder, Session,
    Status, Versions, Wants, checksum, pool,
};

use crate::{Error, Result};

/// A protocol.
pub(super) trait Wire {
    /// What the server is called when it answers wrongly.
    fn server(&self) -> &'static str;

    /// What is said first, if anything is.
    fn hello(&mut self, _out: &mut BytesMut) -> Result<()> {
        Ok(())
    }

    /// Reads the answer to that: its length, once it is whole.
    fn welcome(&mut self, _input: &[u8]) -> Result<Option<usize>> {
        Ok(Some(0))
    }

    /// Appends a put.
    fn put(&mut self, out: &mut BytesMut, key: u32, page: &PageBytes);

    /// Appends a get.
    fn get(&mut self, out: &mut BytesMut, key: u32);

    /// The reply that `input` begins with, once it is whole.
    fn reply<'a>(&mut self, input: &'a [u8]) -> Result<Option<Reply<'a>>>;
}

/// A reply.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    /// Its bytes.
    pub(super) len: usize,
    /// The page, of a get that hit.
    pub(super) page: Option<&'a PageBytes>,
}

fn refused(what: &'static str, answer: impl Into<String>) -> Error {
    Error::Refused {
        what,
        answer: answer.into(),
    }
}

/// `remote-store`'s.
pub(super) struct Ours {
    encoder: Option<Encoder>,
    decoder: ReplyDecoder,
    hello: Hello,
    request: u64,
    generation: u64,
}

impl Ours {
    const NAME: &'static str = "remote-store";

    /// One of the connections of a client that keeps pages below `keys`.
    pub(super) fn new(keys: u32) -> Result<Self> {
        let namespace =
            Namespace::new("bench").map_err(Error::other("name the benchmark's namespace"))?;
        Ok(Self {
            encoder: None,
            decoder: ReplyDecoder::new(),
            hello: Hello {
                versions: Versions::OWN,
                capabilities: Capabilities::ALL,
                namespace,
                epoch: 1,
                session: Session::Data,
                advert_period_ms: 1000,
                wants: Wants {
                    persistent_indices: keys,
                    ephemeral_indices: 0,
                    quota_pages: 0,
                },
            },
            request: 0,
            generation: 0,
        })
    }

    fn encoder(&mut self) -> Encoder {
        self.request += 1;
        self.encoder
            .unwrap_or_else(|| Encoder::new(Versions::OWN.max))
    }

    fn next<'a>(&self, input: &'a [u8]) -> Result<Decoded<tmem_remote_protocol::Reply<'a>>> {
        (self.decoder.next(input)).map_err(Error::other("understand remote-store"))
    }
}

impl Wire for Ours {
    fn server(&self) -> &'static str {
        Self::NAME
    }

    fn hello(&mut self, out: &mut BytesMut) -> Result<()> {
        Encoder::hello(out, &self.hello);
        Ok(())
    }

    fn welcome(&mut self, input: &[u8]) -> Result<Option<usize>> {
        let Decoded::Whole { message, len } = self.next(input)? else {
            return Ok(None);
        };
        let tmem_remote_protocol::Reply::Welcome(welcome) = message else {
            return Err(refused(Self::NAME, format!("{message:?}")));
        };
        let agreed =
            (welcome.check(&self.hello)).map_err(Error::other("agree with remote-store"))?;
        self.encoder = Some(Encoder::new(agreed.version));
        self.decoder.open(agreed.version, welcome.max_pages);
        Ok(Some(len))
    }

    fn put(&mut self, out: &mut BytesMut, key: u32, page: &PageBytes) {
        self.generation += 1;
        let entry = PutEntry::new(pool::PERSISTENT, key, self.generation, checksum(page));
        let encoder = self.encoder();
        encoder.put(out, self.request, &[entry], &[page]);
    }

    fn get(&mut self, out: &mut BytesMut, key: u32) {
        let encoder = self.encoder();
        encoder.get(out, self.request, &[GetEntry::new(pool::PERSISTENT, key)]);
    }

    fn reply<'a>(&mut self, input: &'a [u8]) -> Result<Option<Reply<'a>>> {
        use tmem_remote_protocol::Reply as Theirs;
        let Decoded::Whole { message, len } = self.next(input)? else {
            return Ok(None);
        };
        let page = match message {
            Theirs::PutDone {
                statuses: [Status::Ok],
                ..
            } => None,
            Theirs::GetDone {
                entries: [entry],
                pages: [page],
                ..
            } if checksum(page) == entry.crc() => Some(page),
            other => {
                let mut text = format!("{other:?}");
                text.truncate(200);
                return Err(refused(Self::NAME, text));
            }
        };
        Ok(Some(Reply { len, page }))
    }
}

/// RESP, with SET and GET.
#[derive(Debug, Default)]
pub(super) struct Resp;

impl Wire for Resp {
    fn server(&self) -> &'static str {
        "valkey-server"
    }

    fn put(&mut self, out: &mut BytesMut, key: u32, page: &PageBytes) {
        out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$8\r\n");
        hexadecimal(out, key);
        out.extend_from_slice(b"\r\n$4096\r\n");
        out.extend_from_slice(page);
        out.extend_from_slice(b"\r\n");
    }

    fn get(&mut self, out: &mut BytesMut, key: u32) {
        out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$8\r\n");
        hexadecimal(out, key);
        out.extend_from_slice(b"\r\n");
    }

    fn reply<'a>(&mut self, input: &'a [u8]) -> Result<Option<Reply<'a>>> {
        text_reply(self.server(), input, b"+OK", b"$4096")
    }
}

/// memcached's text protocol, with its short "meta" commands.
#[derive(Debug, Default)]
pub(super) struct Memcached;

impl Wire for Memcached {
    fn server(&self) -> &'static str {
        "memcached"
    }

    fn put(&mut self, out: &mut BytesMut, key: u32, page: &PageBytes) {
        out.extend_from_slice(b"ms ");
        hexadecimal(out, key);
        out.extend_from_slice(b" 4096\r\n");
        out.extend_from_slice(page);
        out.extend_from_slice(b"\r\n");
    }

    fn get(&mut self, out: &mut BytesMut, key: u32) {
        out.extend_from_slice(b"mg ");
        hexadecimal(out, key);
        out.extend_from_slice(b" v\r\n");
    }

    fn reply<'a>(&mut self, input: &'a [u8]) -> Result<Option<Reply<'a>>> {
        text_reply(self.server(), input, b"HD", b"VA 4096")
    }
}

fn hexadecimal(out: &mut BytesMut, key: u32) {
    let digits: [u8; 8] = std::array::from_fn(|at| {
        let digit = (key >> (28 - 4 * at)) & 15;
        b"0123456789abcdef"[digit as usize]
    });
    out.extend_from_slice(&digits);
}

/// The first line, without its end.
fn line(input: &[u8]) -> Option<&[u8]> {
    // All answers that are expected are short.
    let end = input.iter().take(512).position(|byte| *byte == b'\n')?;
    input.get(..end.checked_sub(1)?)
}

/// A line, and after the line `hit` a page and the end of another line.
fn text_reply<'a>(
    server: &'static str,
    input: &'a [u8],
    stored: &[u8],
    hit: &[u8],
) -> Result<Option<Reply<'a>>> {
    const END: usize = b"\r\n".len();
    let Some(line) = line(input) else {
        return Ok(None);
    };
    let len = line.len() + END;
    if line == stored {
        return Ok(Some(Reply { len, page: None }));
    }
    if line != hit {
        return Err(refused(server, String::from_utf8_lossy(line)));
    }
    let page = input.get(len..).and_then(|rest| rest.first_chunk());
    let len = len + PAGE_SIZE + END;
    Ok((input.len() >= len).then_some(Reply { len, page }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> PageBytes {
        let mut page = [b'\n'; PAGE_SIZE];
        page[7] = 0xff;
        page
    }

    #[test]
    fn others_requests_are_as_their_manuals_say() {
        let mut out = BytesMut::new();
        Resp.get(&mut out, 0x12ab);
        assert_eq!(&out[..], b"*2\r\n$3\r\nGET\r\n$8\r\n000012ab\r\n");
        out.clear();
        Memcached.get(&mut out, u32::MAX);
        assert_eq!(&out[..], b"mg ffffffff v\r\n");
        out.clear();
        Memcached.put(&mut out, 1, &page());
        assert!(out.starts_with(b"ms 00000001 4096\r\n") && out.ends_with(b"\n\r\n"));
        assert_eq!(out.len(), 18 + PAGE_SIZE + 2);
    }

    #[test]
    fn page_is_found_once_all_of_it_is_there() {
        for (mut wire, head) in [
            (Box::new(Resp) as Box<dyn Wire>, &b"$4096\r\n"[..]),
            (Box::new(Memcached), b"VA 4096\r\n"),
        ] {
            let mut input = head.to_vec();
            input.extend_from_slice(&page());
            input.extend_from_slice(b"\r\n");
            for len in 0..input.len() {
                assert!(wire.reply(&input[..len]).unwrap().is_none(), "{len}");
            }
            let whole = input.len();
            input.extend_from_slice(b"more");
            let reply = wire.reply(&input).unwrap().unwrap();
            assert_eq!((reply.len, reply.page), (whole, Some(&page())));
        }
    }

    #[test]
    fn what_is_no_page_and_no_yes_is_an_error() {
        assert!(Resp.reply(b"$-1\r\n").is_err());
        assert!(Resp.reply(b"-OOM no\r\n").is_err());
        assert!(Memcached.reply(b"EN\r\n").is_err());
        assert!(Memcached.reply(b"NS\r\n").is_err());
    }
}
