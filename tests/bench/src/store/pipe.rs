// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One connection that is polled and never waits: requests go out as far as the socket takes them,
//! replies are taken as far as they are there.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tmem_pages::PageBytes;

use super::wire::Wire;
use crate::{Error, Result};

/// Bytes that are read at a time, at most.
const INPUT: usize = 1 << 20;
/// Bytes left in the buffer below which what is in it moves to its front.
const ROOM: usize = 64 << 10;
/// How long a server may leave requests without any reply.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Where a server listens.
#[derive(Clone, Debug)]
pub(super) enum Address {
    /// On the loopback.
    Tcp(SocketAddr),
    /// At a path.
    Unix(PathBuf),
}

/// A socket of either kind that never blocks.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn connect(address: &Address) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Self::Tcp(stream)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Self::Unix(stream)
            }
        };
        Ok(socket)
    }

    /// What is there, perhaps nothing. An error if the other side is gone.
    pub(super) fn read_now(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        };
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            other => nothing(other),
        }
    }

    /// As much as the socket takes now.
    pub(super) fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        nothing(match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        })
    }
}

fn nothing(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(0)
        }
        other => other,
    }
}

/// A request without its reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) key: u32,
    /// The version that a get must bring; `None` of a put.
    pub(super) version: Option<u32>,
    pub(super) at: Option<Instant>,
}

/// See the module's head.
pub(super) struct Pipe {
    socket: Socket,
    wire: Box<dyn Wire>,
    out: BytesMut,
    input: Vec<u8>,
    /// Where in `input` what is not taken yet begins and ends.
    taken: usize,
    filled: usize,
    asked: VecDeque<Asked>,
    heard: Instant,
}

impl Pipe {
    /// Connects, and says hello.
    pub(super) fn open(address: &Address, mut wire: Box<dyn Wire>) -> Result<Self> {
        let socket = Socket::connect(address).map_err(Error::system("connect to a store"))?;
        let mut out = BytesMut::with_capacity(ROOM);
        wire.hello(&mut out)?;
        let mut pipe = Self {
            socket,
            wire,
            out,
            input: vec![0; INPUT],
            taken: 0,
            filled: 0,
            asked: VecDeque::new(),
            heard: Instant::now(),
        };
        loop {
            pipe.send()?;
            if let Some(len) = pipe.wire.welcome(&pipe.input[..pipe.filled])? {
                pipe.taken = len;
                return Ok(pipe);
            }
            pipe.receive()?;
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.asked.len()
    }

    /// Queues a put of a page.
    pub(super) fn put(&mut self, key: u32, page: &PageBytes, at: Option<Instant>) {
        self.wire.put(&mut self.out, key, page);
        self.asked.push_back(Asked {
            key,
            version: None,
            at,
        });
    }

    /// Queues a get of a page whose version is known.
    pub(super) fn get(&mut self, key: u32, version: u32, at: Option<Instant>) {
        self.wire.get(&mut self.out, key);
        self.asked.push_back(Asked {
            key,
            version: Some(version),
            at,
        });
    }

    /// Sends what is queued, as far as it goes.
    pub(super) fn send(&mut self) -> Result<()> {
        self.wire.together(&mut self.out);
        while !self.out.is_empty() {
            let sent = (self.socket.write_now(&self.out)).map_err(Error::system("send pages"))?;
            if sent == 0 {
                break;
            }
            self.out.advance(sent);
        }
        Ok(())
    }

    /// Takes the replies that are there and gives each to `done`.
    pub(super) fn poll(
        &mut self,
        done: &mut dyn FnMut(Asked, Option<&PageBytes>) -> Result<()>,
    ) -> Result<()> {
        if self.asked.is_empty() {
            return Ok(());
        }
        self.receive()?;
        while self.taken < self.filled {
            let (asked, server) = (&mut self.asked, self.wire.server());
            let mut next = |page: Option<&PageBytes>| {
                let asked = asked.pop_front().ok_or_else(|| Error::Refused {
                    what: server,
                    answer: "what it was not asked".to_owned(),
                })?;
                done(asked, page)
            };
            let input = &self.input[self.taken..self.filled];
            let Some(len) = self.wire.reply(input, &mut next)? else {
                break;
            };
            self.taken += len;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        if self.taken == self.filled {
            (self.taken, self.filled) = (0, 0);
        } else if self.input.len() - self.filled < ROOM {
            self.input.copy_within(self.taken..self.filled, 0);
            (self.taken, self.filled) = (0, self.filled - self.taken);
        }
        let read = (self.socket.read_now(&mut self.input[self.filled..]))
            .map_err(Error::system("receive pages"))?;
        self.filled += read;
        if read > 0 {
            self.heard = Instant::now();
        } else if self.heard.elapsed() > SILENCE_MAX {
            return Err(Error::Refused {
                what: self.wire.server(),
                answer: format!("nothing for {} s", SILENCE_MAX.as_secs()),
            });
        }
        Ok(())
    }
}
