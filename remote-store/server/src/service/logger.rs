// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that writes the log: what all shards have appended meanwhile goes in one batch.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::error::{ServiceError, trying};
use crate::log::SharedLog;
use crate::store::Store;

/// The running thread. When this is dropped it ends, once all that was appended is written.
pub(super) struct LogThread {
    log: Arc<SharedLog>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts it, if the store has a log.
    pub(super) fn start(store: &Store) -> Result<Option<Self>, ServiceError> {
        let Some(journal) = &store.journal else {
            return Ok(None);
        };
        let log = Arc::clone(&journal.log);
        let written = Arc::clone(&log);
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                if let Err(error) = written.run() {
                    let why = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, why, "the log has failed: puts and flushes are refused");
                }
            })
            .map_err(trying("start the log's thread"))?;
        Ok(Some(Self {
            log,
            thread: Some(thread),
        }))
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.log.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log's thread panicked");
        }
    }
}
