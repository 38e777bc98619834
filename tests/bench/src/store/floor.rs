// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the sockets allow: messages of the same sizes there and back, with nothing in between. Both
//! sides poll a socket that never blocks, each on its processor.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tempfile::TempDir;
use tmem_remote_protocol::HEADER_LEN;

use super::pipe::{Address, Socket};
use crate::pin::{self, Processors};
use crate::row::histogram;
use crate::{Error, Result};

/// Bytes of a get: its header and one entry.
pub(super) const ASK: usize = HEADER_LEN + 8;
/// Bytes of its reply: header, entry and page.
pub(super) const ANSWER: usize = HEADER_LEN + 16 + 4096;

/// A server that answers each 40 bytes with 4144, and a connection to it.
pub(super) struct PingPong {
    socket: Socket,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<std::io::Result<()>>>,
    _folder: TempDir,
}

impl PingPong {
    pub(super) fn start(unix: bool, processors: Processors) -> Result<Self> {
        let failed = "make a socket to play ping-pong with";
        let folder = tempfile::tempdir().map_err(Error::system(failed))?;
        let path = folder.path().join("socket");
        let (socket, mut other) = if unix {
            let listener = UnixListener::bind(&path).map_err(Error::system(failed))?;
            let socket = Socket::connect(&Address::Unix(path)).map_err(Error::system(failed))?;
            let (stream, _) = listener.accept().map_err(Error::system(failed))?;
            (stream.set_nonblocking(true)).map_err(Error::system(failed))?;
            (socket, Socket::Unix(stream))
        } else {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::system(failed))?;
            let address = listener.local_addr().map_err(Error::system(failed))?;
            let socket = Socket::connect(&Address::Tcp(address)).map_err(Error::system(failed))?;
            let (stream, _) = listener.accept().map_err(Error::system(failed))?;
            (stream.set_nonblocking(true))
                .and_then(|()| stream.set_nodelay(true))
                .map_err(Error::system(failed))?;
            (socket, Socket::Tcp(stream))
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let server = thread::spawn(move || {
            pin::on(processors.server, || serve(&mut other, &stopped))
                .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        });
        Ok(Self {
            socket,
            stop,
            server: Some(server),
            _folder: folder,
        })
    }

    /// Plays for some time; nanoseconds of each turn.
    pub(super) fn run(&mut self, time: Duration) -> Result<Histogram<u64>> {
        let mut times = histogram();
        let (ask, mut answer) = ([1; ASK], [0; ANSWER]);
        let never = AtomicBool::new(false);
        let failed = "play ping-pong";
        let start = Instant::now();
        while start.elapsed() < time {
            let sent = Instant::now();
            whole(&mut self.socket, &ask, &never).map_err(Error::system(failed))?;
            fill(&mut self.socket, &mut answer, &never).map_err(Error::system(failed))?;
            times.saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(0));
        }
        Ok(times)
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            // What it failed at has failed the client as well.
            drop(server.join());
        }
    }
}

fn serve(socket: &mut Socket, stop: &AtomicBool) -> std::io::Result<()> {
    let (mut ask, answer) = ([0; ASK], [2; ANSWER]);
    while fill(socket, &mut ask, stop)? {
        whole(socket, &answer, stop)?;
    }
    Ok(())
}

/// Reads all of `bytes`; false if it was stopped.
fn fill(socket: &mut Socket, bytes: &mut [u8], stop: &AtomicBool) -> std::io::Result<bool> {
    let mut at = 0;
    while at < bytes.len() {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        at += socket.read_now(&mut bytes[at..])?;
    }
    Ok(true)
}

/// Writes all of `bytes`, unless it is stopped.
fn whole(socket: &mut Socket, bytes: &[u8], stop: &AtomicBool) -> std::io::Result<()> {
    let mut at = 0;
    while at < bytes.len() && !stop.load(Ordering::Relaxed) {
        at += socket.write_now(&bytes[at..])?;
    }
    Ok(())
}
