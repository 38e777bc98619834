// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one error type of this crate. A message says what was tried, on what, and what to do next;
//! the cause is in `source()` and never repeated in the text.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong while an image, a tree or a root is built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("Cannot {action} {path}")]
    Io {
        /// The verb, such as "read" or "create folder".
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("Cannot start `{program}`: is it installed and in PATH?")]
    Spawn {
        /// The program's name.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{what} failed ({status}); the whole output is in {log}, its end is:\n{tail}")]
    Command {
        /// The step, as a person would name it.
        what: String,
        /// Exit status in words.
        status: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of the output.
        tail: String,
    },
    /// Neither `TMEM_CACHE`, `XDG_CACHE_HOME` nor `HOME` says where the cache is.
    #[error("No place for the cache: set TMEM_CACHE to a folder with 8 GB free")]
    NoCacheFolder,
    /// The host's apt configuration names no Debian mirror.
    #[error(
        "No Debian mirror found: the host's apt sources name none (searched {searched}). \
         Set DEBIAN_MIRROR to the URL of one, such as the host of a mirror followed by /debian"
    )]
    NoMirror {
        /// The files that were read.
        searched: String,
    },
    /// No keyring to check Debian's signatures with.
    #[error(
        "No Debian archive keyring found at {searched}: install the package debian-archive-keyring"
    )]
    NoKeyring {
        /// The paths that were tried.
        searched: String,
    },
    /// Host packages are missing and nobody agreed to install them.
    #[error(
        "Missing on this machine:\n{reasons}Install with:\n    {command}\nor run again with --yes"
    )]
    MissingPrerequisites {
        /// One line a package, with its reason.
        reasons: String,
        /// What to type.
        command: String,
    },
    /// A host program that no package of ours can bring.
    #[error("`{program}` is not on this machine, and {why}")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// What it is for and where it comes from.
        why: &'static str,
    },
    /// This user may not create the namespaces that builds run in.
    #[error(
        "Builds run in a mount namespace, and this machine refuses one ({answer}). Run as root, \
         or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu \
         kernel.apparmor_restrict_unprivileged_userns=0); in a container, give it CAP_SYS_ADMIN"
    )]
    NoNamespaces {
        /// What `unshare` said.
        answer: String,
    },
    /// No kernel of the wanted suite can be used.
    #[error("No kernel fits{wanted}. What was looked at, newest first:\n{reasons}")]
    NoKernel {
        /// Empty, or the version that was asked for, with a leading space.
        wanted: String,
        /// One line a kernel: what it lacks.
        reasons: String,
    },
    /// The kernel's configuration rules out a Rust module built with the toolchain root.
    #[error("Kernel {release} cannot take the module: {reason}")]
    KernelUnfit {
        /// The kernel's release.
        release: String,
        /// What is wrong with it, and what to try.
        reason: String,
    },
    /// A step failed with the kernel that was chosen.
    #[error("{what} failed for kernel {release}. {advice}")]
    WithKernel {
        /// The step, as a person would name it.
        what: &'static str,
        /// The kernel's release.
        release: String,
        /// How to choose another, and which there are.
        advice: String,
        /// What failed.
        source: Box<Error>,
    },
    /// The rebuilt Rust crates are not those of Debian's kernel.
    #[error(
        "Kernel {release}: only {matched} of {total} Rust symbols of Debian's Module.symvers were \
         rebuilt with the same hash (first that differs: {example}); a module built against this \
         tree would not load. The compiler of the root is not the one the kernel was built with"
    )]
    SymbolsDiffer {
        /// The kernel's release.
        release: String,
        /// How many agree.
        matched: usize,
        /// How many there are.
        total: usize,
        /// One that does not.
        example: String,
    },
    /// A kernel's configuration is not the one that was asked for.
    #[error(
        "The configuration of kernel {release} does not take what vm-images/debug-kernel.config asks \
         for; the source knows these options by another name, or they need others:\n{options}"
    )]
    NotTaken {
        /// The kernel's release.
        release: String,
        /// One line an option, with what it is instead.
        options: String,
    },
    /// The driver's folder holds nothing that can be built.
    #[error("No driver sources in {path}: it must hold a Kbuild or Makefile")]
    NoDriver {
        /// The folder.
        path: PathBuf,
    },
    /// The build ended well but left no module.
    #[error("The module build left no virtio_tmem.ko in {path}; see {log}")]
    NoModule {
        /// The build folder.
        path: PathBuf,
        /// The build's log.
        log: PathBuf,
    },
    /// A program that should be in the root is not there.
    #[error("{path} is not in the toolchain root; delete {root} and run again")]
    NotInRoot {
        /// Path inside the root.
        path: String,
        /// The root.
        root: PathBuf,
    },
    /// The output of a program was not what this crate understands.
    #[error("Cannot understand the output of {what}: {detail}")]
    Output {
        /// Which program.
        what: &'static str,
        /// What was odd.
        detail: String,
    },
}

impl Error {
    /// Says of an error which kernel it came with, and how to choose another.
    pub(crate) fn with_kernel(
        what: &'static str,
        release: &str,
        advice: &str,
    ) -> impl FnOnce(Self) -> Self {
        let (release, advice) = (release.to_owned(), advice.to_owned());
        move |error| Self::WithKernel {
            what,
            release,
            advice,
            source: Box::new(error),
        }
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Adds verb and path to an [`io::Error`].
pub(crate) trait IoContext<T> {
    /// Turns the error into [`Error::Io`].
    fn context(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            action,
            path: path.to_path_buf(),
            source,
        })
    }
}
