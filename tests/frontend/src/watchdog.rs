// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Ends a socket on which the device does not answer, because the front-end's reads never time out.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;

use crate::WAIT;

/// Watches one socket; a step that takes longer than [`WAIT`] finds it closed and fails.
#[derive(Debug)]
pub(crate) struct Watchdog {
    steps: Sender<bool>,
}

impl Watchdog {
    /// Starts the thread; it ends with the watchdog.
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (steps, received) = channel();
        thread::spawn(move || {
            let mut busy = false;
            loop {
                let next = if busy {
                    received.recv_timeout(WAIT)
                } else {
                    received.recv().map_err(|_| RecvTimeoutError::Disconnected)
                };
                match next {
                    Ok(now) => busy = now,
                    Err(RecvTimeoutError::Timeout) => {
                        // The peer may have closed it already; the step fails either way.
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { steps }
    }

    /// Runs one step under watch.
    pub(crate) fn watch<T>(&self, step: impl FnOnce() -> T) -> T {
        // The thread is gone only after it has closed the socket, which fails the step by itself.
        let _ = self.steps.send(true);
        let done = step();
        let _ = self.steps.send(false);
        done
    }
}
