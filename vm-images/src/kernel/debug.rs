// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The debug kernel: the chosen kernel's source, built with the kernel's own checkers on.
//!
//! ```text
//! source ──► configuration ──► make ──► vmlinux, modules/ ──► slimmed tree
//!            allnoconfig from                                 what a module's build reads
//!            debug-kernel.config,
//!            each line checked
//! ```
//! Rust and KASAN together are only there with clang, so all of it is built by the root's LLVM. The
//! build takes long, so an interrupted one goes on where it was: each step finds what is done.

use std::fs;
use std::path::{Path, PathBuf};

use super::choice::{self, Candidate};
use super::{Files, options, stock, tree};
use crate::cache::remove_folder;
use crate::chroot::Bind;
use crate::error::{Error, IoContext, Result};
use crate::key::KeyBuilder;
use crate::run;
use crate::toolchain::Toolchain;

/// Counted up when the way the kernel is made changes.
const RECIPE: u32 = 1;

/// How many of them stay in the cache: they are large, and take long to come by.
pub(super) const KEPT: usize = 2;

/// What the configuration must come out with, and why.
pub(super) const CONFIG: &str = include_str!("../../debug-kernel.config");

/// Tells make to use clang and what belongs to it.
pub(super) const COMPILER: &str = "LLVM=1";

/// What its release ends in.
pub(super) const LOCAL_VERSION: &str = "+tmem-debug";

/// Large parts of the source that the configuration builds nothing of, as patterns of paths from the top
/// of the tree. A `*` matches slashes too.
const LEFT_OUT: &[&str] = &[
    "drivers/gpu/*.[ch]",
    "drivers/net/*/*.[ch]",
    "drivers/media/*.[ch]",
    "drivers/staging/*.[ch]",
    "drivers/infiniband/*.[ch]",
    "drivers/scsi/*.[ch]",
    "drivers/iio/*.[ch]",
    "sound/*.[ch]",
    "Documentation/*.rst",
    "Documentation/*.yaml",
    "tools/testing/*",
    "*.dts",
    "*.dtsi",
];

/// There once the source is unpacked as a whole.
const UNPACKED: &str = "unpacked";

/// Where the fragment lies in the tree while make reads it.
const FRAGMENT: &str = "debug-kernel.config";

/// A kernel that is ready to boot and to build modules for.
pub(super) struct Built {
    pub(super) release: String,
    pub(super) files: Files,
    pub(super) tree: PathBuf,
}

/// Gives the debug kernel of the candidate's source, building it when it is not there.
pub(super) fn ensure(toolchain: &Toolchain, candidate: &Candidate) -> Result<Built> {
    let release = format!("{}{LOCAL_VERSION}", choice::upstream(&candidate.release));
    let mut key = KeyBuilder::new("debug-kernel", RECIPE)
        .text(&candidate.version)
        .text(&options::without_remarks(CONFIG));
    for package in toolchain.tree_inputs() {
        key = key.text(package);
    }
    let (cache, progress) = (&toolchain.cache, &toolchain.progress);
    let folder = cache.artefact_resumed("debug-kernel", &key.finish(), progress, |partial| {
        let tree = partial.join("tree");
        source(toolchain, candidate, partial, &tree)?;
        configure(toolchain, &tree, &release)?;
        build(toolchain, &tree, &release)?;
        install(toolchain, &tree, partial, &release)
    })?;
    let tree = folder.join("tree");
    Ok(Built {
        files: Files {
            vmlinuz: folder.join("vmlinux"),
            config: tree.join(".config"),
            modules: modules_folder(&folder, &release),
            headers: tree.clone(),
        },
        tree,
        release,
    })
}

/// Unpacks the source, unless an earlier run has.
fn source(toolchain: &Toolchain, candidate: &Candidate, folder: &Path, tree: &Path) -> Result<()> {
    let mark = folder.join(UNPACKED);
    if mark.exists() {
        return Ok(());
    }
    remove_folder(tree)?;
    tree::unpack_source(toolchain, candidate, LEFT_OUT, folder, tree)?;
    fs::write(&mark, "").context("write", &mark)
}

/// Writes the configuration, and looks whether it is as it should be.
fn configure(toolchain: &Toolchain, tree: &Path, release: &str) -> Result<()> {
    let fragment = tree.join(FRAGMENT);
    fs::write(&fragment, CONFIG).context("write", &fragment)?;
    // The second one is for what the first may leave open, and changes nothing otherwise.
    let script = format!(
        "cd /kernel\n\
         make {COMPILER} KCONFIG_ALLCONFIG={FRAGMENT} allnoconfig\n\
         make {COMPILER} olddefconfig\n"
    );
    make(
        toolchain,
        tree,
        &script,
        release,
        "configuring the debug kernel",
    )?;
    let path = tree.join(".config");
    let config = fs::read_to_string(&path).context("read", &path)?;
    let missing = options::not_taken(CONFIG, &config);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::NotTaken {
        release: release.to_owned(),
        options: format!("  {}", missing.join("\n  ")),
    })
}

/// Builds kernel and symbol table.
fn build(toolchain: &Toolchain, tree: &Path, release: &str) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let script = format!(
        "cd /kernel\n\
         make -j{jobs} {COMPILER} LOCALVERSION={LOCAL_VERSION} vmlinux modules\n"
    );
    make(
        toolchain,
        tree,
        &script,
        release,
        "building the debug kernel, once",
    )
}

/// Puts what guests need beside the tree, and removes from the tree what no module's build reads.
fn install(toolchain: &Toolchain, tree: &Path, folder: &Path, release: &str) -> Result<()> {
    tree::check_release(tree, release)?;
    let modules = modules_folder(folder, release);
    fs::create_dir_all(&modules).context("create folder", &modules)?;
    for name in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        let from = tree.join(name);
        fs::copy(&from, modules.join(name)).context("copy", &from)?;
    }
    stock::index(toolchain, &modules, release)?;
    // The symbol table stays in the tree's vmlinux, for whoever has addresses to look up.
    let script = "cd /kernel\n\
        llvm-strip --strip-all -o vmlinux.boot vmlinux\n\
        find . -path ./scripts -prune -o -path ./tools -prune -o \
        -type f '(' -name '*.o' -o -name '*.a' -o -name '.tmp_vmlinux*' ')' -exec rm -f '{}' +\n";
    make(toolchain, tree, script, release, "tidying the tree")?;
    let (from, to) = (tree.join("vmlinux.boot"), folder.join("vmlinux"));
    fs::rename(&from, &to).context("put in place", &to)
}

/// Runs a script with the tree at `/kernel`.
fn make(
    toolchain: &Toolchain,
    tree: &Path,
    script: &str,
    release: &str,
    what: &'static str,
) -> Result<()> {
    let mut step = toolchain
        .progress
        .step(&format!("Kernel {release}: {what}"));
    let binds = [Bind {
        host: tree,
        inside: "/kernel",
    }];
    let mut command = toolchain.command(&binds, &["sh", "-ec", script]);
    let log = toolchain.cache.log("debug-kernel");
    run::logged(&mut command, "Building the debug kernel", &log, &mut step)?;
    step.done("");
    Ok(())
}

/// `lib/modules/RELEASE`, where depmod wants it.
fn modules_folder(folder: &Path, release: &str) -> PathBuf {
    folder.join("lib/modules").join(release)
}
