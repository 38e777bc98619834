// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The toolchain root: a folder of unpacked Debian packages that holds the compilers the kernel
//! was built with, QEMU, and the programs that go into guests.
//!
//! Packages are unpacked, not installed: no maintainer script runs, so no rights are needed, all
//! files belong to the user, and it is quick. The few things that scripts would have done are in
//! [`finish`].

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::apt::Apt;
use crate::cache::Cache;
use crate::chroot::{self, Bind};
use crate::error::{Error, IoContext, Result};
use crate::key::KeyBuilder;
use crate::progress::{Progress, Step};
use crate::run;

/// Counted up when the way the root is made changes.
const RECIPE: u32 = 2;

/// Builds kernel trees and modules.
const COMPILERS: &[&str] = &[
    "rustc",
    "rust-src",
    "bindgen",
    "clang",
    "lld",
    "llvm",
    "make",
    "gcc-14",
    "gcc",
    "bc",
    "bison",
    "flex",
    "libelf-dev",
    "libssl-dev",
    "dwarves",
    "python3-minimal",
    "rsync",
    "kmod",
];

/// What a shell script expects to find.
const BASE: &[&str] = &[
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "mawk",
    "perl-base",
    "sed",
    "tar",
    "xz-utils",
    "zstd",
    "hostname",
    "libc-bin",
    "debianutils",
];

/// Runs guests, and makes their disks.
const MACHINES: &[&str] = &[
    "qemu-system-x86",
    "qemu-utils",
    "qemu-system-common",
    "ovmf",
    "e2fsprogs",
    "libarchive13t64",
    "fdisk",
    "mtools",
    "systemd-boot-efi",
];

/// Goes into guests.
const GUEST: &[&str] = &[
    "stress-ng",
    "redis-server",
    "redis-tools",
    "fio",
    "util-linux",
    "mount",
    "procps",
    "busybox-static",
];

/// What tests and benchmarks of remote stores start beside them.
const STORES: &[&str] = &[
    "valkey-server",
    "valkey-tools",
    "etcd-server",
    "memcached",
    "nftables",
    "iproute2",
];

/// Packages whose change makes a built kernel tree useless.
const TREE_INPUTS: &[&str] = &[
    "rustc_",
    "rust-src_",
    "libstd-rust",
    "bindgen_",
    "libclang1-",
    "gcc-14-x86-64",
    "binutils_",
    "dwarves_",
    "pahole_",
    "libelf-dev_",
];

/// The root, ready for use.
#[derive(Clone, Debug)]
pub struct Toolchain {
    pub(crate) cache: Cache,
    pub(crate) progress: Progress,
    pub(crate) apt: Apt,
    root: PathBuf,
    packages: Vec<String>,
}

impl Toolchain {
    /// Resolves the packages, and builds the root when they are others than last time.
    ///
    /// # Errors
    /// Any [`Error`] of apt, of unpacking, or of the cache's files.
    pub fn ensure(cache: &Cache, progress: &Progress) -> Result<Self> {
        let apt = Apt::open(cache, progress)?;
        let wanted: Vec<&str> = [COMPILERS, BASE, MACHINES, GUEST, STORES].concat();
        let packages = apt.resolve(&wanted)?;
        let mut key = KeyBuilder::new("toolchain", RECIPE);
        for package in &packages {
            key = key.text(package);
        }
        let folder = cache.artefact("toolchain", &key.finish(), progress, |partial| {
            let count = packages.len();
            let mut step = progress.step(&format!("Toolchain root: downloading {count} packages"));
            let files = {
                let _lock = cache.lock("apt", progress)?;
                apt.download(&wanted, &packages, &mut step)?
            };
            step.done("");
            let mut step = progress.step("Toolchain root: unpacking");
            let root = partial.join("root");
            unpack_all(&files, &root, &cache.log("toolchain"), &mut step)?;
            finish(&root)?;
            step.done(&format!("{count} packages"));
            Ok(())
        })?;
        cache.prune("toolchain", 2)?;
        Ok(Self {
            cache: cache.clone(),
            progress: progress.clone(),
            apt,
            root: folder.join("root"),
            packages,
        })
    }

    /// The root's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where steps are shown.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The cache that holds the root.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// A command that runs inside the root, with folders of the host bound in.
    pub(crate) fn command(&self, binds: &[Bind<'_>], arguments: &[&str]) -> Command {
        chroot::command(&self.root, binds, arguments)
    }

    /// File names (name and version) of the packages that a kernel tree depends on.
    pub(crate) fn tree_inputs(&self) -> impl Iterator<Item = &str> {
        self.packages
            .iter()
            .map(String::as_str)
            .filter(|file| TREE_INPUTS.iter().any(|prefix| file.starts_with(prefix)))
    }

    /// The version of the root's Rust compiler as the kernel writes it: 1.85.1 is 108501.
    pub(crate) fn rustc_version(&self) -> Result<u32> {
        let log = self.cache.log("toolchain");
        let mut command = self.command(&[], &["rustc", "--version"]);
        let text = run::output(&mut command, "Asking for the compiler's version", &log)?;
        let odd = || Error::Output {
            what: "rustc --version",
            detail: text.clone(),
        };
        let version = text.split_whitespace().nth(1).ok_or_else(odd)?;
        let numbers: Vec<u32> = version.split('.').filter_map(|n| n.parse().ok()).collect();
        match numbers[..] {
            [major, minor, patch] => Ok(major * 100_000 + minor * 100 + patch),
            _ => Err(odd()),
        }
    }
}

/// Unpacks packages side by side, the one with the top-level links first.
pub(crate) fn unpack_all(
    files: &[PathBuf],
    root: &Path,
    log: &Path,
    step: &mut Step,
) -> Result<()> {
    fs::create_dir_all(root).context("create folder", root)?;
    let is_base = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("base-files_")
    };
    if let Some(base) = files.iter().find(is_base) {
        unpack(base, root, log)?;
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            unpack(file, root, log)?;
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        while !threads
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let done = next.load(Ordering::Relaxed).min(files.len());
            step.update(&format!("{done} of {} packages", files.len()));
        }
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn unpack(file: &Path, root: &Path, log: &Path) -> Result<()> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--extract").arg(file).arg(root);
    run::output(&mut command, "Unpacking a package", log).map(drop)
}

/// Does what the maintainer scripts would have done, as far as a build needs it.
fn finish(root: &Path) -> Result<()> {
    let links = [("gcc", "usr/bin/cc"), ("mawk", "usr/bin/awk")];
    for (target, link) in links {
        let path = root.join(link);
        symlink(target, &path).context("create link", &path)?;
    }
    for folder in chroot::MOUNT_POINTS {
        let path = root.join(folder);
        fs::create_dir_all(&path).context("create folder", &path)?;
    }
    let files = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nredis:x:100:100::/run:/bin/false\n",
        ),
        ("etc/group", "root:x:0:\nredis:x:100:\n"),
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ];
    for (name, text) in files {
        let path = root.join(name);
        fs::write(&path, text).context("write", &path)?;
    }
    Ok(())
}
