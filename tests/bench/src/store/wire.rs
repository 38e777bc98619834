// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Three protocols, spoken by clients of one shape: each turns puts and gets of numbered pages into
//! bytes, and finds the replies in what came back. None of them knows a socket.
//!
//! Gets that go out together are one request where a protocol has such: a frame of several pages in ours, an
//! `MGET` in Valkey's. memcached's short commands go one by one.
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

    /// Appends a get, now or when it is [together](Self::together) with others.
    fn get(&mut self, out: &mut BytesMut, key: u32);

    /// Appends what was kept back: now all of it is to go out.
    fn together(&mut self, _out: &mut BytesMut) {}

    /// Takes the reply that `input` begins with, once it is whole, and gives `done` what it says of each
    /// page: the page, of a get that hit. Returns its length.
    fn reply(&mut self, input: &[u8], done: &mut Done<'_>) -> Result<Option<usize>>;
}

/// What is done with each page of a reply.
pub(super) type Done<'a> = dyn FnMut(Option<&PageBytes>) -> Result<()> + 'a;

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
    /// Gets that will go out together.
    gets: Vec<GetEntry>,
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
            gets: Vec::new(),
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
        self.together(out);
        self.generation += 1;
        let entry = PutEntry::new(pool::PERSISTENT, key, self.generation, checksum(page));
        let encoder = self.encoder();
        encoder.put(out, self.request, &[entry], &[page]);
    }

    fn get(&mut self, _out: &mut BytesMut, key: u32) {
        self.gets.push(GetEntry::new(pool::PERSISTENT, key));
    }

    fn together(&mut self, out: &mut BytesMut) {
        if !self.gets.is_empty() {
            let encoder = self.encoder();
            encoder.get(out, self.request, &self.gets);
            self.gets.clear();
        }
    }

    fn reply(&mut self, input: &[u8], done: &mut Done<'_>) -> Result<Option<usize>> {
        use tmem_remote_protocol::Reply as Theirs;
        let Decoded::Whole { message, len } = self.next(input)? else {
            return Ok(None);
        };
        match message {
            Theirs::PutDone {
                statuses: [Status::Ok],
                ..
            } => done(None)?,
            // All of them are hits, and whole.
            Theirs::GetDone { entries, pages, .. }
                if entries.len() == pages.len()
                    && entries
                        .iter()
                        .zip(pages)
                        .all(|(entry, page)| checksum(page) == entry.crc()) =>
            {
                pages.iter().try_for_each(|page| done(Some(page)))?;
            }
            other => {
                let mut text = format!("{other:?}");
                text.truncate(200);
                return Err(refused(Self::NAME, text));
            }
        }
        Ok(Some(len))
    }
}

/// RESP, with SET, GET and MGET.
#[derive(Debug, Default)]
pub(super) struct Resp {
    /// Gets that will go out together.
    gets: Vec<u32>,
}

impl Wire for Resp {
    fn server(&self) -> &'static str {
        "valkey-server"
    }

    fn put(&mut self, out: &mut BytesMut, key: u32, page: &PageBytes) {
        self.together(out);
        out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$8\r\n");
        hexadecimal(out, key);
        out.extend_from_slice(b"\r\n$4096\r\n");
        out.extend_from_slice(page);
        out.extend_from_slice(b"\r\n");
    }

    fn get(&mut self, _out: &mut BytesMut, key: u32) {
        self.gets.push(key);
    }

    fn together(&mut self, out: &mut BytesMut) {
        match self.gets.len() {
            0 => return,
            1 => out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n"),
            many => {
                out.extend_from_slice(format!("*{}\r\n$4\r\nMGET\r\n", many + 1).as_bytes());
            }
        }
        for key in self.gets.drain(..) {
            out.extend_from_slice(b"$8\r\n");
            hexadecimal(out, key);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn reply(&mut self, input: &[u8], done: &mut Done<'_>) -> Result<Option<usize>> {
        // The head of an MGET's reply; each of its pages follows as that of a GET.
        if input.first() == Some(&b'*') {
            return Ok(line(input).map(|line| line.len() + END));
        }
        text_reply(self.server(), input, b"+OK", b"$4096", done)
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

    fn reply(&mut self, input: &[u8], done: &mut Done<'_>) -> Result<Option<usize>> {
        text_reply(self.server(), input, b"HD", b"VA 4096", done)
    }
}

fn hexadecimal(out: &mut BytesMut, key: u32) {
    let digits: [u8; 8] = std::array::from_fn(|at| {
        let digit = (key >> (28 - 4 * at)) & 15;
        b"0123456789abcdef"[digit as usize]
    });
    out.extend_from_slice(&digits);
}

/// Bytes at the end of a line.
const END: usize = b"\r\n".len();

/// The first line, without its end.
fn line(input: &[u8]) -> Option<&[u8]> {
    // All answers that are expected are short.
    let end = input.iter().take(512).position(|byte| *byte == b'\n')?;
    input.get(..end.checked_sub(1)?)
}

/// A line, and after the line `hit` a page and the end of another line.
fn text_reply(
    server: &'static str,
    input: &[u8],
    stored: &[u8],
    hit: &[u8],
    done: &mut Done<'_>,
) -> Result<Option<usize>> {
    let Some(line) = line(input) else {
        return Ok(None);
    };
    let len = line.len() + END;
    if line == stored {
        done(None)?;
        return Ok(Some(len));
    }
    if line != hit {
        return Err(refused(server, String::from_utf8_lossy(line)));
    }
    let page = input.get(len..).and_then(|rest| rest.first_chunk());
    let len = len + PAGE_SIZE + END;
    if input.len() < len {
        return Ok(None);
    }
    done(page)?;
    Ok(Some(len))
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
        let mut resp = Resp::default();
        resp.get(&mut out, 0x12ab);
        resp.together(&mut out);
        assert_eq!(&out[..], b"*2\r\n$3\r\nGET\r\n$8\r\n000012ab\r\n");
        out.clear();
        resp.get(&mut out, 1);
        resp.get(&mut out, 2);
        // What is asked for before a put goes out before it.
        resp.put(&mut out, 1, &page());
        let gets = b"*3\r\n$4\r\nMGET\r\n$8\r\n00000001\r\n$8\r\n00000002\r\n";
        let after = out.strip_prefix(gets).unwrap();
        assert!(after.starts_with(b"*3\r\n$3\r\nSET\r\n"));
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
            (Box::<Resp>::default() as Box<dyn Wire>, &b"$4096\r\n"[..]),
            (Box::new(Memcached), b"VA 4096\r\n"),
        ] {
            let mut input = head.to_vec();
            input.extend_from_slice(&page());
            input.extend_from_slice(b"\r\n");
            for len in 0..input.len() {
                let none = wire.reply(&input[..len], &mut |_| panic!("{len}"));
                assert!(none.unwrap().is_none(), "{len}");
            }
            let whole = input.len();
            input.extend_from_slice(b"more");
            let mut pages = Vec::new();
            let len = wire.reply(&input, &mut |found| {
                pages.push(found.copied());
                Ok(())
            });
            assert_eq!((len.unwrap(), pages), (Some(whole), vec![Some(page())]));
        }
        // Before the pages that were asked for together comes their number.
        let none = &mut |_: Option<&PageBytes>| panic!("no page is there");
        let mut resp = Resp::default();
        assert_eq!(resp.reply(b"*2\r\n$4096\r\n", none).unwrap(), Some(4));
        assert_eq!(resp.reply(b"*2\r", none).unwrap(), None);
    }

    #[test]
    fn what_is_no_page_and_no_yes_is_an_error() {
        let none = &mut |_: Option<&PageBytes>| panic!("no page is there");
        for text in [&b"$-1\r\n"[..], b"-OOM no\r\n"] {
            assert!(Resp::default().reply(text, none).is_err());
        }
        for text in [b"EN\r\n", b"NS\r\n"] {
            assert!(Memcached.reply(text, none).is_err());
        }
    }
}
