// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's kernel: Debian's stock cloud kernel from backports, and beside it a source tree of
//! the very same version, prepared so that Rust modules can be built that load into it.
//!
//! The suite moves, so no version is written down here, but the series that is proven: the newest for
//! which image, headers and source agree is taken, of that series if there is one (`choice`), and the
//! tree is prepared by `tree`.
//!
//! Of the same source comes, when it is asked for, a kernel with the kernel's own checkers on, which is
//! built here and takes its time (`debug`).

mod choice;
mod debug;
mod options;
mod stock;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::key::KeyBuilder;
use crate::toolchain::{self, Toolchain};
use choice::{Candidate, VARIABLE, Wish};

/// How many kernels are looked into when the newest turn out unfit: each costs a download.
const TRIES: usize = 3;

/// How many kernels stay in the cache.
const KEPT: usize = 3;

/// Counted up when the way packages are unpacked changes.
const RECIPE: u32 = 2;

/// A kernel that guests run and modules are built for.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(crate) toolchain: Toolchain,
    release: String,
    version: String,
    files: Files,
    tree: PathBuf,
    compiler: &'static str,
    /// How to come by another.
    advice: String,
}

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// Debian's, as it is.
    #[default]
    Stock,
    /// Built here from Debian's source, with the kernel's checkers on.
    Debug,
}

impl Flavour {
    /// The debug kernel, if `debug` is wanted.
    #[must_use]
    pub const fn debug_if(debug: bool) -> Self {
        if debug { Self::Debug } else { Self::Stock }
    }
}

/// A kernel of Debian's, unpacked and found fit.
struct Chosen {
    candidate: Candidate,
    files: Files,
    advice: String,
}

/// Where the packages keep things, which changed over time.
#[derive(Clone, Debug)]
struct Files {
    vmlinuz: PathBuf,
    config: PathBuf,
    modules: PathBuf,
    headers: PathBuf,
}

impl Kernel {
    /// One of the two kernels: see [`ensure`](Self::ensure) and [`ensure_debug`](Self::ensure_debug).
    ///
    /// # Errors
    /// As theirs.
    pub fn of(flavour: Flavour, toolchain: &Toolchain, wanted: Option<&str>) -> Result<Self> {
        match flavour {
            Flavour::Stock => Self::ensure(toolchain, wanted),
            Flavour::Debug => Self::ensure_debug(toolchain, wanted),
        }
    }

    /// Chooses a kernel, the newest of the proven series, then the newest of all, or the one named by
    /// `wanted` (an upstream version such as
    /// 7.2.12, or a full release), unpacks its packages and prepares the source tree. The
    /// environment's `TMEM_KERNEL` is looked at when nothing is wanted.
    ///
    /// A newer one that is passed over is named on the screen. One that looks fit and then fails
    /// is an error, never a reason to take an older one.
    ///
    /// # Errors
    /// [`Error::NoKernel`] with what each candidate lacks, [`Error::KernelUnfit`] when the one
    /// that was asked for cannot take Rust modules, and [`Error::WithKernel`] around what failed
    /// with the chosen one, such as errors of apt and make, or [`Error::SymbolsDiffer`] when the
    /// rebuilt crates are not Debian's.
    pub fn ensure(toolchain: &Toolchain, wanted: Option<&str>) -> Result<Self> {
        let Chosen {
            candidate,
            files,
            advice,
        } = Self::choose(toolchain, wanted)?;
        let release = candidate.release.clone();
        let failed = Error::with_kernel("Preparing the source tree", &release, &advice);
        let tree = tree::ensure(toolchain, &candidate, &files).map_err(failed)?;
        toolchain.cache.prune("kernel-packages", KEPT)?;
        toolchain.cache.prune("kernel-tree", KEPT)?;
        Ok(Self {
            toolchain: toolchain.clone(),
            release,
            version: candidate.version,
            files,
            tree,
            compiler: tree::CC,
            advice,
        })
    }

    /// The kernel with checkers: of the same source as the one that [`ensure`](Self::ensure) chooses,
    /// configured by `debug-kernel.config` of this crate, and built here unless it is there.
    ///
    /// # Errors
    /// Those of [`ensure`](Self::ensure), and [`Error::WithKernel`] around [`Error::NotTaken`] when an
    /// option does not come out as wanted, or around [`Error::Command`] when the build fails.
    pub fn ensure_debug(toolchain: &Toolchain, wanted: Option<&str>) -> Result<Self> {
        let Chosen {
            candidate, advice, ..
        } = Self::choose(toolchain, wanted)?;
        let failed = Error::with_kernel("Building the debug kernel", &candidate.release, &advice);
        let built = debug::ensure(toolchain, &candidate).map_err(failed)?;
        toolchain.cache.prune("debug-kernel", debug::KEPT)?;
        Ok(Self {
            toolchain: toolchain.clone(),
            version: format!("{}{}", candidate.version, debug::LOCAL_VERSION),
            release: built.release,
            files: built.files,
            tree: built.tree,
            compiler: debug::COMPILER,
            advice,
        })
    }

    /// The packages of the kernel that [`ensure`](Self::ensure) speaks of.
    fn choose(toolchain: &Toolchain, wanted: Option<&str>) -> Result<Chosen> {
        let wish = Wish::new(wanted, std::env::var(VARIABLE).ok());
        let all = choice::candidates(&toolchain.apt)?;
        let mut reasons = Vec::new();
        let mut tries = 0;
        let order = match &wish {
            Some(_) => all.iter().collect(),
            None => choice::proven_first(&all),
        };
        for candidate in order {
            if wish.as_ref().is_some_and(|wish| !wish.means(candidate)) {
                continue;
            }
            if let Some(missing) = candidate.missing() {
                reasons.push(format!("{}: {missing}", candidate.release));
                continue;
            }
            if tries == TRIES {
                break;
            }
            tries += 1;
            let release = &candidate.release;
            let advice = choice::advice(&all, release);
            let failed = Error::with_kernel("Getting the packages", release, &advice);
            let files = unpack(toolchain, candidate).map_err(failed)?;
            if let Some(reason) = unfit(toolchain, &files)? {
                if wish.is_some() {
                    return Err(Error::KernelUnfit {
                        release: release.clone(),
                        reason,
                    });
                }
                reasons.push(format!("{release}: {reason}"));
                continue;
            }
            if wish.is_none() {
                let newer = choice::unproven_before(&all, candidate);
                reasons.extend(newer.map(|newer| newer.not_proven()));
            }
            for reason in &reasons {
                toolchain
                    .progress
                    .line(&format!("Passing over kernel {reason}"));
            }
            return Ok(Chosen {
                candidate: candidate.clone(),
                files,
                advice,
            });
        }
        if reasons.is_empty() {
            let releases: Vec<&str> = all.iter().map(|c| c.release.as_str()).collect();
            reasons.push(format!("none of the suites': {}", releases.join(", ")));
        }
        Err(Error::NoKernel {
            wanted: wish
                .map(|wish| format!(" {}", wish.said))
                .unwrap_or_default(),
            reasons: format!("  {}", reasons.join("\n  ")),
        })
    }

    /// The kernel's release, as `uname -r` prints it.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The packages' version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The bootable image; of the debug kernel, the ELF file that is entered by the PVH note.
    #[must_use]
    pub fn vmlinuz(&self) -> &Path {
        &self.files.vmlinuz
    }

    /// The prepared source tree.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// The folder of stock modules, `lib/modules/RELEASE` in a guest.
    #[must_use]
    pub fn modules(&self) -> &Path {
        &self.files.modules
    }

    /// The toolchain root that the tree was prepared with.
    #[must_use]
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// Says of an error that it is this kernel's, and how to come by another.
    pub(crate) fn failed(&self, what: &'static str) -> impl FnOnce(Error) -> Error {
        Error::with_kernel(what, &self.release, &self.advice)
    }

    /// What follows the upstream version in the release: make calls it LOCALVERSION.
    pub(crate) fn local_version(&self) -> &str {
        choice::local_version(&self.release)
    }

    /// The word that tells make which compiler this kernel was built with.
    pub(crate) fn compiler(&self) -> &'static str {
        self.compiler
    }
}

/// Unpacks image and headers; the source only comes when the configuration fits.
fn unpack(toolchain: &Toolchain, candidate: &Candidate) -> Result<Files> {
    let mut key = KeyBuilder::new("kernel-packages", RECIPE);
    for package in candidate.binary_packages() {
        key = key.text(&package);
    }
    let release = candidate.release.as_str();
    let (cache, progress) = (&toolchain.cache, &toolchain.progress);
    let folder = cache.artefact("kernel-packages", &key.finish(), progress, |partial| {
        let mut step = progress.step(&format!("Kernel {release}: packages"));
        let debs = partial.join("debs");
        let files = toolchain
            .apt
            .fetch(&candidate.binary_packages(), &debs, &mut step)?;
        let log = cache.log("kernel");
        toolchain::unpack_all(&files, &partial.join("x"), &log, &mut step)?;
        fs::remove_dir_all(&debs).context("remove", &debs)?;
        let x = partial.join("x");
        stock::index(toolchain, &modules_folder(&x, release)?, release)?;
        step.done("");
        Ok(())
    })?;
    let x = folder.join("x");
    let modules = modules_folder(&x, release)?;
    Ok(Files {
        vmlinuz: first(&[
            modules.join("vmlinuz"),
            x.join(format!("boot/vmlinuz-{release}")),
        ])?,
        config: first(&[
            modules.join("config"),
            x.join(format!("boot/config-{release}")),
        ])?,
        headers: first(&[x.join(format!("usr/src/linux-headers-{release}"))])?,
        modules,
    })
}

fn modules_folder(unpacked: &Path, release: &str) -> Result<PathBuf> {
    let places = ["usr/lib/modules", "lib/modules"];
    first(&places.map(|place| unpacked.join(place).join(release)))
}

fn first(paths: &[PathBuf]) -> Result<PathBuf> {
    let missing = || Error::Output {
        what: "the kernel's packages",
        detail: format!("none of {paths:?} is there"),
    };
    paths
        .iter()
        .find(|path| path.exists())
        .cloned()
        .ok_or_else(missing)
}

/// Why the kernel cannot take a Rust module built with this root, if so.
fn unfit(toolchain: &Toolchain, files: &Files) -> Result<Option<String>> {
    let config = fs::read_to_string(&files.config).context("read", &files.config)?;
    let value = |name: &str| {
        config
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    if value("CONFIG_RUST") != Some("y") {
        return Ok(Some("it is built without CONFIG_RUST=y".to_owned()));
    }
    let ours = toolchain.rustc_version()?;
    let theirs = value("CONFIG_RUSTC_VERSION").unwrap_or("nothing");
    if theirs != ours.to_string() {
        return Ok(Some(format!(
            "it was built by rustc {theirs}, and the suite's compiler is {ours} \
             (108501 means 1.85.1): wait for a rebuild, or choose another with --kernel"
        )));
    }
    Ok(None)
}
