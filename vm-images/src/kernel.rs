// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's kernel: Debian's stock cloud kernel from backports, and beside it a source tree of
//! the very same version, prepared so that Rust modules can be built that load into it.
//!
//! The suite moves, so no version is written down here: the newest for which image, headers and
//! source agree is taken (`choice`), and the tree is prepared by `tree`.

mod choice;
mod stock;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, IoContext, Result};
use crate::key::KeyBuilder;
use crate::toolchain::{self, Toolchain};
use choice::Candidate;
pub(crate) use tree::CC;

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
    /// Chooses a kernel, newest first or the one named by `wanted` (an upstream version such as
    /// 7.2.12, or a full release), unpacks its packages and prepares the source tree.
    ///
    /// # Errors
    /// [`Error::NoKernel`] with what each candidate lacks, [`Error::KernelUnfit`] when the one
    /// that was asked for cannot take Rust modules, [`Error::SymbolsDiffer`] when the rebuilt
    /// crates are not Debian's, and errors of apt and make.
    pub fn ensure(toolchain: &Toolchain, wanted: Option<&str>) -> Result<Self> {
        let mut reasons = Vec::new();
        let mut tries = 0;
        for candidate in choice::candidates(&toolchain.apt)? {
            if wanted.is_some_and(|wanted| !candidate.is(wanted)) {
                continue;
            }
            if let Some(missing) = candidate.missing() {
                reasons.push(format!("  {}: {missing}", candidate.release));
                continue;
            }
            if tries == TRIES {
                break;
            }
            tries += 1;
            let files = unpack(toolchain, &candidate)?;
            if let Some(reason) = unfit(toolchain, &files)? {
                if wanted.is_some() {
                    return Err(Error::KernelUnfit {
                        release: candidate.release,
                        reason,
                    });
                }
                reasons.push(format!("  {}: {reason}", candidate.release));
                continue;
            }
            let tree = tree::ensure(toolchain, &candidate, &files)?;
            toolchain.cache.prune("kernel-packages", KEPT)?;
            toolchain.cache.prune("kernel-tree", KEPT)?;
            return Ok(Self {
                toolchain: toolchain.clone(),
                release: candidate.release,
                version: candidate.version,
                files,
                tree,
            });
        }
        Err(Error::NoKernel {
            wanted: wanted.map(|w| format!(" --kernel {w}")).unwrap_or_default(),
            reasons: match reasons.is_empty() {
                true => "  nothing of that name in the suites".to_owned(),
                false => reasons.join("\n"),
            },
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

    /// The bootable image.
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

    /// What follows the upstream version in the release: make calls it LOCALVERSION.
    pub(crate) fn local_version(&self) -> &str {
        choice::local_version(&self.release)
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
