// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can stop a benchmark.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a benchmark gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The in-process front-end failed.
    #[error("Cannot drive {what}")]
    Frontend {
        /// Which server.
        what: &'static str,
        /// The front-end's reason.
        source: tmem_frontend::Error,
    },
    /// The system refused something.
    #[error("Cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The machine has one processor.
    #[error("The benchmark pins server and client to two processors, and this machine has {found}")]
    Processors {
        /// Processors found.
        found: usize,
    },
    /// There is no telling which process serves.
    #[error("The keeper (process {keeper}) has {found} workers, not one; its log says why")]
    Worker {
        /// The keeper's process id.
        keeper: u32,
        /// Workers found.
        found: usize,
    },
    /// The keeper hid a worker's death, so that the figures include it.
    #[error("The worker (process {worker}) was replaced under load; the daemon's log says why")]
    Replaced {
        /// The first worker's process id.
        worker: u32,
    },
    /// A server does not keep to the processor it was started on.
    #[error(
        "{what} (process {process}) left processor {processor}; the figures would mean nothing"
    )]
    Unpinned {
        /// Which server.
        what: &'static str,
        /// Its process id.
        process: u32,
        /// Where it was started.
        processor: usize,
    },
    /// A request came back with an error.
    #[error("{what} failed a request with status {status}; its log says why")]
    Status {
        /// Which server.
        what: &'static str,
        /// The status byte.
        status: u8,
    },
    /// A page came back wrong.
    #[error("{what} returned other bytes than were put at page {index}")]
    Mismatch {
        /// Which server.
        what: &'static str,
        /// The page.
        index: u32,
    },
    /// An engine, a slot file or a store of others failed.
    #[error("Cannot {what}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// Its reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A store gave another answer than it should.
    #[error("{what} answered {answer}")]
    Refused {
        /// Which store.
        what: &'static str,
        /// What it answered.
        answer: String,
    },
    /// A recorded trace is not sound.
    #[error("Cannot replay {}", path.display())]
    Trace {
        /// Its file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: tmem_pages::trace::TraceError,
    },
}

impl Error {
    /// For `map_err` of a system call that tried `what`.
    pub(crate) fn system<E: Into<std::io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::System {
            what,
            source: source.into(),
        }
    }

    /// For `map_err` of a call of an engine or another store that tried `what`.
    pub(crate) fn other<E: std::error::Error + Send + Sync + 'static>(
        what: &'static str,
    ) -> impl Fn(E) -> Self {
        move |source| Self::Other {
            what,
            source: Box::new(source),
        }
    }

    /// For `map_err` of a front-end call for server `what`.
    pub(crate) fn frontend(what: &'static str) -> impl Fn(tmem_frontend::Error) -> Self {
        move |source| Self::Frontend { what, source }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System {
            what: "use the processors",
            source: errno.into(),
        }
    }
}
