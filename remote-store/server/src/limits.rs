// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bounds on what a client may do, each with a name.

use std::time::Duration;

use tmem_remote_protocol::PAGES_MAX;

/// Bytes that are read from a connection at a time.
pub(crate) const READ_BYTES: usize = 256 << 10;
/// Bytes of answers that are gathered before they are written; one answer may go beyond.
pub(crate) const WRITE_BYTES: usize = 256 << 10;
/// Reads of one connection in a row, before others have their turn.
pub(crate) const TURNS: u32 = 16;
/// A goodbye has this long to get away.
pub(crate) const GOODBYE: Duration = Duration::from_millis(200);

/// Bounds on what clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the connection to the whole of its Hello, TLS included.
    pub handshake: Duration,
    /// From the first byte of a request to its last.
    pub frame: Duration,
    /// From an answer to the time when the client has taken some of it.
    pub write: Duration,
    /// Without any request; nothing: for ever.
    pub idle: Option<Duration>,
    /// Pages in one request.
    pub pages: u32,
    /// Requests that a client may have under way on one connection. The server takes no more than it
    /// can answer, so this tells a client what makes sense.
    pub in_flight: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            frame: Duration::from_secs(10),
            write: Duration::from_secs(10),
            idle: None,
            pages: PAGES_MAX,
            in_flight: 1024,
        }
    }
}
