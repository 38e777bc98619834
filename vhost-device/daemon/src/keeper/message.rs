// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! vhost-user messages as the keeper needs them: a number, bytes and descriptors, passed on as they
//! came. The format is that of QEMU's `docs/interop/vhost-user.rst`: a header of three 32-bit words
//! (request, flags, bytes of the body) in the byte order of the host.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::ipc;

/// Requests that the keeper looks at.
pub(super) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const RESET_OWNER: u32 = 4;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const RESET_DEVICE: u32 = 34;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

const HEADER: usize = 12;
/// Bytes of a body; what the vhost-user crate takes.
const BODY_MAX: usize = 4096;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// A message. Its descriptors are closed with it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) request: u32,
    flags: u32,
    pub(super) body: Vec<u8>,
    pub(super) files: Vec<OwnedFd>,
}

impl Message {
    /// A request to a back-end that wants no acknowledgement.
    pub(super) const fn new(request: u32, body: Vec<u8>, files: Vec<OwnedFd>) -> Self {
        Self {
            request,
            flags: VERSION,
            body,
            files,
        }
    }

    /// A message as it once arrived.
    pub(super) const fn restore(
        request: u32,
        flags: u32,
        body: Vec<u8>,
        files: Vec<OwnedFd>,
    ) -> Self {
        Self {
            request,
            flags,
            body,
            files,
        }
    }

    /// Its flags, for [`Message::restore`].
    pub(super) const fn flags(&self) -> u32 {
        self.flags
    }

    /// The answer to this message.
    pub(super) const fn reply(&self, body: Vec<u8>) -> Self {
        Self {
            request: self.request,
            flags: VERSION | REPLY,
            body,
            files: Vec::new(),
        }
    }

    /// The back-end answers this with more than an acknowledgement.
    pub(super) const fn asks(&self) -> bool {
        use request::{
            GET_CONFIG, GET_FEATURES, GET_MAX_MEM_SLOTS, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
            GET_VRING_BASE,
        };
        matches!(
            self.request,
            GET_FEATURES
                | GET_PROTOCOL_FEATURES
                | GET_QUEUE_NUM
                | GET_CONFIG
                | GET_MAX_MEM_SLOTS
                | GET_VRING_BASE
        )
    }

    /// The front-end wants to know that this was done.
    pub(super) const fn wants_acknowledgement(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }

    /// The 32-bit word at `at` of the body, if there is one.
    pub(super) fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.body.get(at * 4..at * 4 + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// The 64-bit word at `at` of the body, if there is one.
    pub(super) fn long(&self, at: usize) -> Option<u64> {
        let bytes = self.body.get(at * 8..at * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// Sends it, without waiting.
    ///
    /// # Errors
    /// The kernel's, or `WouldBlock` if the other side does not read its messages.
    pub(super) fn send(&self, socket: &UnixStream) -> io::Result<()> {
        let size = u32::try_from(self.body.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        for word in [self.request, self.flags, size] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(&self.body);
        let files: Vec<_> = self.files.iter().map(AsFd::as_fd).collect();
        if ipc::send(socket, &bytes, &files)? == bytes.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }
}

/// What a look at a socket brought.
#[derive(Debug)]
pub(super) enum Read {
    /// A whole message.
    Message(Message),
    /// Not yet.
    Later,
    /// The other side has hung up.
    Closed,
}

/// Puts messages together from what a socket has at a time.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
    /// Bytes of the body that the message's head promises, before it is taken.
    peeked: Option<usize>,
}

impl Reader {
    /// Reads on, without waiting, at most to the end of one message.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` for a body or a number of descriptors that no message has.
    pub(super) fn read(&mut self, socket: &UnixStream) -> io::Result<Read> {
        if self.bytes.is_empty() {
            // All of a message in one step where it is there: a keeper that dies in between would leave
            // the rest of it to the next, who could not know what it is.
            self.peeked = None;
            let mut head = [0; HEADER];
            if matches!(ipc::peek(socket, &mut head), Ok(HEADER)) {
                self.peeked = header(&head).map(|(_, _, size)| size);
            }
        }
        loop {
            let wanted = match self.header() {
                None => HEADER + self.peeked.filter(|size| *size <= BODY_MAX).unwrap_or(0),
                Some((_, _, size)) if size > BODY_MAX => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Some((_, _, size)) => HEADER + size,
            };
            let have = self.bytes.len();
            if have == wanted
                && let Some((request, flags, _)) = self.header()
            {
                let body = self.bytes.split_off(HEADER);
                self.bytes.clear();
                return Ok(Read::Message(Message {
                    request,
                    flags,
                    body,
                    files: std::mem::take(&mut self.files),
                }));
            }
            self.bytes.resize(wanted, 0);
            let received = ipc::receive(socket, &mut self.bytes[have..], &mut self.files);
            let got = *received.as_ref().unwrap_or(&0);
            self.bytes.truncate(have + got);
            match received {
                Ok(0) => return Ok(Read::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Later),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn header(&self) -> Option<(u32, u32, usize)> {
        header(&self.bytes)
    }
}

/// Request, flags and length of the body.
fn header(bytes: &[u8]) -> Option<(u32, u32, usize)> {
    let word = |at: usize| {
        let bytes = bytes.get(at * 4..at * 4 + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some((word(0)?, word(1)?, word(2)? as usize))
}
