// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Prepares the source tree. Debian's headers package has no Rust crates, so they are rebuilt from
//! the source of the same version with the same compiler; their hashes then must be those that
//! Debian's kernel exports.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::Files;
use super::choice::{self, Candidate};
use crate::cache::remove_folder;
use crate::chroot::Bind;
use crate::error::{Error, IoContext, Result};
use crate::key::KeyBuilder;
use crate::run;
use crate::toolchain::{self, Toolchain};

/// Counted up when the way the tree is made changes.
const RECIPE: u32 = 2;

/// The compiler of Debian's kernel, by the name that its configuration was written with.
pub(super) const CC: &str = "CC=x86_64-linux-gnu-gcc-14";

/// Large parts of the source that neither `prepare` nor a module build reads, as patterns of paths
/// from the top of the tree. A `*` matches slashes too.
const LEFT_OUT: &[&str] = &[
    "drivers/*.c",
    "drivers/gpu/drm/amd/*.h",
    "sound/*.c",
    "fs/*.c",
    "net/*.c",
    "Documentation/*.rst",
    "Documentation/*.yaml",
    "tools/testing/*",
    "*.dts",
    "*.dtsi",
];

/// Gives the prepared tree, making it when it is not there.
pub(super) fn ensure(
    toolchain: &Toolchain,
    candidate: &Candidate,
    files: &Files,
) -> Result<PathBuf> {
    let mut key = KeyBuilder::new("kernel-tree", RECIPE)
        .text(&candidate.version)
        .file(&files.config)?;
    for package in toolchain.tree_inputs() {
        key = key.text(package);
    }
    let (cache, progress) = (&toolchain.cache, &toolchain.progress);
    let folder = cache.artefact("kernel-tree", &key.finish(), progress, |partial| {
        prepare(toolchain, candidate, files, partial)
    })?;
    Ok(folder.join("tree"))
}

fn prepare(
    toolchain: &Toolchain,
    candidate: &Candidate,
    files: &Files,
    folder: &Path,
) -> Result<()> {
    let release = &candidate.release;
    let tree = folder.join("tree");
    unpack_source(toolchain, candidate, LEFT_OUT, folder, &tree)?;
    let log = toolchain.cache.log("kernel");
    let progress = &toolchain.progress;

    let mut step = progress.step(&format!("Kernel {release}: preparing the tree"));
    copy(&files.config, &tree.join(".config"))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let make = format!("make -j{jobs} {CC}");
    let local = choice::local_version(release);
    let script = format!(
        "cd /kernel\n\
         scripts/config --set-str SYSTEM_TRUSTED_KEYS '' --set-str MODULE_SIG_KEY ''\n\
         {make} olddefconfig\n\
         {make} LOCALVERSION={local} prepare\n\
         {make} LOCALVERSION={local} modules_prepare\n"
    );
    let binds = [Bind {
        host: &tree,
        inside: "/kernel",
    }];
    let mut command = toolchain.command(&binds, &["sh", "-ec", &script]);
    run::logged(&mut command, "Preparing the kernel tree", &log, &mut step)?;
    for name in ["Module.symvers", "vmlinux"] {
        copy(&files.headers.join(name), &tree.join(name))?;
    }
    check_release(&tree, release)?;
    let symbols = check_symbols(&tree, release)?;
    step.done(&format!("{symbols} Rust symbols as in Debian's kernel"));
    Ok(())
}

/// Fetches the candidate's source and unpacks it to `tree`, without the `parts` that patterns name.
/// What comes in between lies in `folder` and goes.
pub(super) fn unpack_source(
    toolchain: &Toolchain,
    candidate: &Candidate,
    parts: &[&str],
    folder: &Path,
    tree: &Path,
) -> Result<()> {
    let log = toolchain.cache.log("kernel");
    let label = format!("Kernel {}: source", candidate.release);
    let mut step = toolchain.progress.step(&label);
    let source = format!("{}={}", candidate.source_package(), candidate.version);
    let debs = folder.join("debs");
    remove_folder(&debs)?;
    let packages = toolchain.apt.fetch(&[source], &debs, &mut step)?;
    toolchain::unpack_all(&packages, &debs, &log, &mut step)?;
    fs::create_dir_all(tree).context("create folder", tree)?;
    let package = candidate.source_package();
    let archive = format!("/output/usr/src/{package}.tar.xz");
    let left_out = left_out(&package, parts);
    let mut unpack = vec!["tar", "-xf", &archive, "-C", "/kernel"];
    unpack.push("--strip-components=1");
    unpack.extend(left_out.iter().map(String::as_str));
    let binds = [
        Bind {
            host: tree,
            inside: "/kernel",
        },
        Bind {
            host: &debs,
            inside: "/output",
        },
    ];
    let mut command = toolchain.command(&binds, &unpack);
    run::logged(
        &mut command,
        "Unpacking the kernel's source",
        &log,
        &mut step,
    )?;
    fs::remove_dir_all(&debs).context("remove", &debs)?;
    step.done("");
    Ok(())
}

/// What tells tar to leave parts out of the archive of `package`, whose top folder has that name.
fn left_out(package: &str, parts: &[&str]) -> Vec<String> {
    // Of itself, tar takes a pattern for the end of a path as well: `net/*.c` would be
    // rust/helpers/net/, too, which is needed.
    let mut options = vec![
        "--anchored".to_owned(),
        "--wildcards".to_owned(),
        "--wildcards-match-slash".to_owned(),
    ];
    options.extend(
        parts
            .iter()
            .map(|pattern| format!("--exclude={package}/{pattern}")),
    );
    options
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).context("copy", from)
}

/// The tree must call itself what the kernel does, or no module of it loads.
pub(super) fn check_release(tree: &Path, release: &str) -> Result<()> {
    let path = tree.join("include/config/kernel.release");
    let ours = fs::read_to_string(&path).context("read", &path)?;
    if ours.trim() == release {
        return Ok(());
    }
    Err(Error::KernelUnfit {
        release: release.to_owned(),
        reason: format!("its source calls itself {}", ours.trim()),
    })
}

/// Compares the Rust symbols that Debian's kernel exports with those just rebuilt; gives their
/// number.
fn check_symbols(tree: &Path, release: &str) -> Result<usize> {
    let path = tree.join("Module.symvers");
    let symvers = fs::read_to_string(&path).context("read", &path)?;
    let rust = tree.join("rust");
    let mut rebuilt = HashSet::new();
    for entry in fs::read_dir(&rust).context("read folder", &rust)? {
        let path = entry.context("read folder", &rust)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("exports_") && name.ends_with("_generated.h") {
            let text = fs::read_to_string(&path).context("read", &path)?;
            rebuilt.extend(exported(&text).map(str::to_owned));
        }
    }
    compare_symbols(&symvers, &rebuilt, release)
}

/// The names in lines like `EXPORT_SYMBOL_RUST_GPL(name);`.
fn exported(header: &str) -> impl Iterator<Item = &str> {
    header.lines().filter_map(|line| {
        line.split_once('(')?
            .1
            .split_once(')')
            .map(|(name, _)| name)
    })
}

fn compare_symbols(symvers: &str, rebuilt: &HashSet<String>, release: &str) -> Result<usize> {
    let mut total = 0;
    let mut example = None;
    let mut matched = 0;
    for line in symvers.lines() {
        let mut fields = line.split('\t').skip(1);
        let (Some(name), Some(owner)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !name.starts_with("_R") || owner != "vmlinux" {
            continue;
        }
        total += 1;
        if rebuilt.contains(name) {
            matched += 1;
        } else if example.is_none() {
            example = Some(name.to_owned());
        }
    }
    match example {
        None if total > 0 => Ok(total),
        _ => Err(Error::SymbolsDiffer {
            release: release.to_owned(),
            matched,
            total,
            example: example.unwrap_or_else(|| "none is exported at all".to_owned()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMVERS: &str = "0x00000000\t_RNvA_4core\tvmlinux\tEXPORT_SYMBOL_GPL\t\n\
        0x00000000\t_RNvB_6kernel\tvmlinux\tEXPORT_SYMBOL_GPL\t\n\
        0x00000000\t_RNvC_3drv\tdrivers/x/x\tEXPORT_SYMBOL_GPL\t\n\
        0x00000000\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n";

    #[test]
    fn parts_are_left_out_at_the_top_of_the_tree_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (top, to) = (dir.path().join("linux-source-9.9"), dir.path().join("tree"));
        let kept = [
            "rust/helpers/net/genetlink.c",
            "rust/helpers/drivers/bus.c",
            "tools/lib/api/fs/fs.c",
            "fs/Kconfig",
            "net/core/sock.h",
            "scripts/Documentation/head.rst",
        ];
        let dropped = [
            "net/socket.c",
            "net/core/sock.c",
            "fs/ext4/super.c",
            "drivers/gpu/drm/amd/include/regs.h",
            "tools/testing/selftests/Makefile",
            "arch/arm/boot/dts/board.dts",
        ];
        for name in kept.iter().chain(&dropped) {
            let path = top.join(name);
            fs::create_dir_all(path.parent().expect("has a folder")).expect("create folder");
            fs::write(path, name).expect("write");
        }
        fs::create_dir(&to).expect("create folder");
        let tar = |arguments: &[&str]| {
            let done = std::process::Command::new("tar")
                .current_dir(dir.path())
                .args(arguments)
                .status();
            assert!(done.expect("start tar").success(), "{arguments:?}");
        };
        tar(&["-cf", "source.tar", "linux-source-9.9"]);
        let options = left_out("linux-source-9.9", LEFT_OUT);
        let mut unpack = vec!["-xf", "source.tar", "-C", "tree", "--strip-components=1"];
        unpack.extend(options.iter().map(String::as_str));
        tar(&unpack);
        for name in kept {
            assert!(to.join(name).exists(), "{name} is missing");
        }
        for name in dropped {
            assert!(!to.join(name).exists(), "{name} is not left out");
        }
    }

    #[test]
    fn same_hashes_are_counted() {
        let header =
            "EXPORT_SYMBOL_RUST_GPL(_RNvA_4core);\nEXPORT_SYMBOL_RUST_GPL(_RNvB_6kernel);\n";
        let rebuilt = exported(header).map(str::to_owned).collect();
        assert_eq!(compare_symbols(SYMVERS, &rebuilt, "r").expect("same"), 2);
    }

    #[test]
    fn other_hash_is_named() {
        let rebuilt = HashSet::from(["_RNvA_4core".to_owned()]);
        let error = compare_symbols(SYMVERS, &rebuilt, "r").expect_err("B differs");
        let text = error.to_string();
        assert!(
            text.contains("only 1 of 2") && text.contains("_RNvB_6kernel"),
            "{text}"
        );
    }

    #[test]
    fn kernel_without_rust_symbols_does_not_pass() {
        assert!(compare_symbols("0x0\tprintk\tvmlinux\tE\t\n", &HashSet::new(), "r").is_err());
    }
}
