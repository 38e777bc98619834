// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page traces of guests: which pages they put, got and flushed, written to a file.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tmem_admin_api::TraceStatus;
use tmem_pages::Guest;
use tmem_pages::trace::{Header, Limits, Recorder, Summary, TraceError};

use crate::status::TierError;
use crate::told::Told;

/// A trace under way, or about to end.
#[derive(Debug)]
pub(crate) struct GuestTrace {
    pub(crate) recorder: Recorder,
    status: Mutex<Option<TraceStatus>>,
    /// When it began, on the links' clock.
    began: AtomicU64,
}

impl GuestTrace {
    /// Of a guest with so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            recorder: Recorder::new(workers),
            status: Mutex::new(None),
            began: AtomicU64::new(0),
        }
    }

    /// What has been recorded, while something is.
    pub(crate) fn status(&self) -> Option<TraceStatus> {
        self.status.lock().clone()
    }

    /// The time of an event at `now`, on the links' clock.
    pub(crate) fn since(&self, now: u64) -> u64 {
        now.saturating_sub(self.began.load(Ordering::Relaxed))
    }

    /// Writes what has been recorded. Returns whether anything is.
    pub(crate) fn pump(&self) -> bool {
        if !self.recorder.is_on() {
            return false;
        }
        match self.recorder.pump() {
            Ok(summary) => {
                if let Some(status) = &mut *self.status.lock() {
                    fill(status, summary);
                }
                true
            }
            Err(error) => {
                let status = self.status.lock().take();
                let path = status.map(|status| status.path);
                tracing::error!(path, %error, "a page trace cannot be written and is over");
                false
            }
        }
    }
}

fn fill(status: &mut TraceStatus, summary: Summary) {
    status.records = summary.events;
    status.bytes = summary.bytes;
    status.lost = summary.lost;
}

/// Where traces go.
pub(crate) struct Traces {
    dir: Option<PathBuf>,
    told: Arc<Told>,
}

impl Traces {
    pub(crate) fn new(dir: Option<PathBuf>, told: Arc<Told>) -> Self {
        Self { dir, told }
    }

    /// Begins one.
    pub(crate) fn start(
        &self,
        trace: &GuestTrace,
        guest: &Guest,
        name: &str,
        now: u64,
    ) -> Result<TraceStatus, TierError> {
        let dir = self.dir.as_ref().ok_or_else(|| TierError::NotAvailable {
            what: "page traces: the configuration has no trace_dir".to_owned(),
        })?;
        let path = dir.join(format!("{name}.trace"));
        let mut status = trace.status.lock();
        if let Some(under_way) = &*status {
            let reason = format!(
                "the guest's pages are traced already, to {}",
                under_way.path
            );
            return Err(TierError::Refused { reason });
        }
        let failed = |source| TierError::Failed {
            what: format!("cannot write {}", path.display()),
            source,
        };
        let file = if self.told.has_keeper() {
            self.told.open_trace(name).map_err(failed)?
        } else {
            create(&path).map_err(failed)?
        };
        let pools = guest.pools().into_iter();
        let header = Header {
            guest: guest.name().to_owned(),
            pools: pools.map(|pool| (pool.id(), pool.spec())).collect(),
        };
        trace.began.store(now, Ordering::Relaxed);
        (trace.recorder)
            .start(Box::new(file), &header, Limits::default())
            .map_err(|error| refused(&error))?;
        let begun = TraceStatus {
            guest: header.guest,
            path: path.display().to_string(),
            ..TraceStatus::default()
        };
        *status = Some(begun.clone());
        Ok(begun)
    }

    /// Ends the one under way.
    pub(crate) fn stop(&self, trace: &GuestTrace) -> Result<TraceStatus, TierError> {
        let Some(mut status) = trace.status.lock().take() else {
            let reason = "the guest's pages are not traced".to_owned();
            return Err(TierError::Refused { reason });
        };
        let summary = trace.recorder.stop();
        let summary = summary.map_err(|error| refused(&error))?;
        fill(&mut status, summary);
        Ok(status)
    }
}

/// Makes a trace's file, or empties it.
///
/// # Errors
/// The kernel's.
pub(crate) fn create(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    // How a guest uses its pages is nobody else's business.
    let options = options.write(true).create(true).truncate(true).mode(0o640);
    options.open(path)
}

fn refused(error: &TraceError) -> TierError {
    TierError::Refused {
        reason: crate::error::tell(error),
    }
}
