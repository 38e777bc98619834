// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One log for all shards, and a thread that commits what they append.
//!
//! A shard appends and goes on; the reply waits until the [`Progress`] has come to its record. What is
//! appended while a batch is written goes into the next one, so the busier a store is, the more requests
//! share an `fdatasync`. Nobody holds the log's lock while the disk works.
//!
//! Where there is no thread (in tests, and in the simulation), [`SharedLog::commit_now`] does the same in
//! the caller's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::error::LogError;
use super::{Appended, LogStats, Medium, PageLog, Record};

/// How far the log is safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All records up to this one.
    pub committed: u64,
    /// The log has failed: it will not come any further.
    pub failed: bool,
}

/// A log that many use.
#[derive(Debug)]
pub struct SharedLog {
    log: Mutex<PageLog>,
    /// Held by whoever works on the medium.
    at_work: Mutex<()>,
    /// There is something to commit, or an end.
    news: Condvar,
    medium: Arc<dyn Medium>,
    progress: watch::Sender<Progress>,
    stopping: AtomicBool,
}

impl SharedLog {
    /// Shares a log.
    #[must_use]
    pub fn new(log: PageLog) -> Arc<Self> {
        let progress = Progress {
            committed: log.committed(),
            failed: false,
        };
        Arc::new(Self {
            medium: Arc::clone(&log.medium),
            log: Mutex::new(log),
            at_work: Mutex::new(()),
            news: Condvar::new(),
            progress: watch::Sender::new(progress),
            stopping: AtomicBool::new(false),
        })
    }

    /// Appends a record. Never waits for the medium, unless the log is so far behind that there is no
    /// room for it: then it commits first.
    ///
    /// # Errors
    /// [`LogError`] if the log has failed.
    pub fn append(&self, record: Record<'_>) -> Result<Appended, LogError> {
        self.or_commit(|log| log.append(record))
    }

    /// Sets room for so many puts aside, as [`PageLog::reserve`] does.
    ///
    /// # Errors
    /// [`LogError`] if the log has failed.
    pub fn reserve(&self, puts: u32) -> Result<Appended, LogError> {
        self.or_commit(|log| log.check().map(|()| log.reserve(puts)))
    }

    fn or_commit(
        &self,
        mut what: impl FnMut(&mut PageLog) -> Result<Appended, LogError>,
    ) -> Result<Appended, LogError> {
        // One commit makes room, if there is any to be made; a few, if others take it.
        for _ in 0..8 {
            let appended = what(&mut self.log.lock())?;
            if appended != Appended::Wait {
                self.news.notify_one();
                return Ok(appended);
            }
            self.commit_now()?;
        }
        Ok(Appended::Full)
    }

    /// Gives room for so many puts back.
    pub fn release(&self, puts: u32) {
        self.log.lock().release(puts);
    }

    /// How far the log is safe now, and a way to wait for more.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How far the log is safe now.
    #[must_use]
    pub fn now(&self) -> Progress {
        *self.progress.borrow()
    }

    /// All records up to this one are safe.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.progress.borrow().committed
    }

    /// How full it is, and what it has done.
    #[must_use]
    pub fn stats(&self) -> LogStats {
        self.log.lock().stats()
    }

    /// Commits what was appended, and cleans as far as there is need: what one round of [`Self::run`]
    /// does.
    ///
    /// # Errors
    /// [`LogError`] if the log has failed, or fails now: then all who wait hear of it.
    pub fn commit_now(&self) -> Result<u64, LogError> {
        let _working = self.at_work.lock();
        let done = self.round();
        if done.is_err() {
            self.progress.send_modify(|progress| progress.failed = true);
        }
        done
    }

    fn round(&self) -> Result<u64, LogError> {
        self.log.lock().check()?;
        loop {
            let job = self.log.lock().begin();
            if let Some(job) = job {
                let result = job.run();
                let committed = self.log.lock().finish(&job, result)?;
                self.progress
                    .send_modify(|progress| progress.committed = committed);
            }
            let read = self.log.lock().clean_read();
            let Some(read) = read else {
                if self.log.lock().wants_release() {
                    continue;
                }
                break;
            };
            let mut piece = vec![0; read.length];
            let came = self.medium.read(read.at, &mut piece);
            let mut log = self.log.lock();
            if came.is_err() {
                log.clean_failed(read);
                continue;
            }
            if !log.clean(read, &piece) && !log.wants_release() {
                break;
            }
        }
        Ok(self.log.lock().committed())
    }

    /// Commits what is appended, as soon as it is, until [`Self::stop`]: for a thread of its own.
    ///
    /// # Errors
    /// [`LogError`] when the log fails.
    pub fn run(&self) -> Result<(), LogError> {
        loop {
            {
                let mut log = self.log.lock();
                while log.is_settled() {
                    if self.stopping.load(Ordering::Acquire) {
                        return Ok(());
                    }
                    self.news.wait(&mut log);
                }
            }
            self.commit_now()?;
        }
    }

    /// Ends [`Self::run`], once all that was appended is committed.
    pub fn stop(&self) {
        let _log = self.log.lock();
        self.stopping.store(true, Ordering::Release);
        self.news.notify_all();
    }
}
