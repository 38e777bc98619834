// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client that says to a store exactly what it is told to say: for what no proper client would say.

use std::io;

use bytes::{Buf, BytesMut};
use tmem_pages::PageBytes;
use tmem_remote_protocol::{
    Capabilities, Decoded, Encoder, Farewell, FlushEntry, GetEntry, Hello, Namespace, PutEntry,
    Reply, ReplyDecoder, Session, Status, Versions, Wants, Welcome, checksum, pool,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This, and with a get that found something, the page.
    Status(Status, Option<Box<PageBytes>>),
    /// It says that this is the end.
    Goodbye(Farewell),
    /// The connection ended, or brought nothing that makes sense.
    Ended(String),
}

impl Answer {
    /// The request was carried out.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Status(Status::Ok, _))
    }
}

/// How a store greeted.
#[derive(Debug)]
pub enum Greeting<S> {
    /// It welcomed: the connection.
    Welcome(Box<RawPeer<S>>, Welcome),
    /// It refused.
    Refused(Farewell),
}

/// A connection to a store.
#[derive(Debug)]
pub struct RawPeer<S> {
    stream: S,
    read: BytesMut,
    decoder: ReplyDecoder,
    encoder: Encoder,
    requests: u64,
}

/// The hello of a client with this name and epoch, which wants a small pool of each kind.
///
/// # Errors
/// If no namespace may have this name.
pub fn hello(namespace: &str, epoch: u64, session: Session) -> io::Result<Hello> {
    let namespace = Namespace::new(namespace).map_err(io::Error::other)?;
    Ok(Hello {
        versions: Versions::OWN,
        capabilities: Capabilities::NONE,
        namespace,
        epoch,
        session,
        advert_period_ms: if session == Session::Control { 100 } else { 0 },
        wants: Wants {
            persistent_indices: 4096,
            ephemeral_indices: 0,
            quota_pages: 0,
        },
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawPeer<S> {
    /// Says hello.
    ///
    /// # Errors
    /// If the connection ends before the store has greeted.
    pub async fn greet(mut stream: S, hello: &Hello) -> io::Result<Greeting<S>> {
        let mut bytes = BytesMut::new();
        Encoder::hello(&mut bytes, hello);
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        let mut peer = Self {
            stream,
            read: BytesMut::new(),
            decoder: ReplyDecoder::new(),
            encoder: Encoder::new(hello.versions.max),
            requests: 0,
        };
        let greeting = peer
            .next(|reply| match reply {
                Reply::Welcome(welcome) => Some(Ok(welcome.clone())),
                Reply::Refused(farewell) => Some(Err(farewell.clone())),
                _ => None,
            })
            .await?;
        Ok(match greeting {
            Ok(welcome) => {
                peer.decoder.open(welcome.version, welcome.max_pages);
                peer.encoder = Encoder::new(welcome.version);
                Greeting::Welcome(Box::new(peer), welcome)
            }
            Err(farewell) => Greeting::Refused(farewell),
        })
    }

    /// Reads until a reply is one that `pick` takes.
    async fn next<T>(&mut self, mut pick: impl FnMut(&Reply<'_>) -> Option<T>) -> io::Result<T> {
        loop {
            loop {
                let decoded = self.decoder.next(&self.read).map_err(io::Error::other)?;
                let Decoded::Whole { message, len } = decoded else {
                    break;
                };
                let picked = pick(&message);
                self.read.advance(len);
                if let Some(picked) = picked {
                    return Ok(picked);
                }
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Says `bytes`, whatever they are.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn ask(&mut self, bytes: &[u8]) -> Answer {
        if let Err(error) = self.say(bytes).await {
            // The store may have said why before it closed.
            let last = self.answer().await;
            return match last {
                Answer::Ended(_) => Answer::Ended(error.to_string()),
                other => other,
            };
        }
        self.answer().await
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Answer {
        let answer = self
            .next(|reply| match reply {
                Reply::PutDone { statuses, .. } | Reply::FlushDone { statuses, .. } => {
                    let status = statuses.first().copied().unwrap_or(Status::Unsupported);
                    Some(Answer::Status(status, None))
                }
                Reply::GetDone { entries, pages, .. } => {
                    let status = entries.first().map(|entry| entry.status());
                    let page = pages.first().map(|page| Box::new(*page));
                    Some(Answer::Status(status.unwrap_or(Status::Unsupported), page))
                }
                Reply::Pong { .. } => Some(Answer::Status(Status::Ok, None)),
                Reply::Goodbye(farewell) => Some(Answer::Goodbye(farewell.clone())),
                _ => None,
            })
            .await;
        answer.unwrap_or_else(|error| Answer::Ended(error.to_string()))
    }

    fn request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// The bytes of a put of one page.
    pub fn put_frame(&mut self, index: u32, generation: u64, page: &PageBytes) -> BytesMut {
        let mut bytes = BytesMut::new();
        let entry = PutEntry::new(pool::PERSISTENT, index, generation, checksum(page));
        let request = self.request();
        self.encoder.put(&mut bytes, request, &[entry], &[page]);
        bytes
    }

    /// Puts a page.
    pub async fn put(&mut self, index: u32, generation: u64, page: &PageBytes) -> Answer {
        let bytes = self.put_frame(index, generation, page);
        self.ask(&bytes).await
    }

    /// Gets a page.
    pub async fn get(&mut self, index: u32) -> Answer {
        let mut bytes = BytesMut::new();
        let request = self.request();
        let entry = GetEntry::new(pool::PERSISTENT, index);
        self.encoder.get(&mut bytes, request, &[entry]);
        self.ask(&bytes).await
    }

    /// Flushes a page.
    pub async fn flush(&mut self, index: u32, generation: u64) -> Answer {
        let mut bytes = BytesMut::new();
        let request = self.request();
        let entry = FlushEntry::new(pool::PERSISTENT, index, generation);
        self.encoder.flush(&mut bytes, request, &[entry]);
        self.ask(&bytes).await
    }

    /// Asks whether the store is there.
    pub async fn ping(&mut self) -> Answer {
        let mut bytes = BytesMut::new();
        let request = self.request();
        self.encoder.ping(&mut bytes, request);
        self.ask(&bytes).await
    }
}
