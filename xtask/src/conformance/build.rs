// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds the guest: bare metal, and without SSE, which a KVM that emulates the guest's kernel mode
//! does not know. So it needs a `core` without SSE. No such one is installed with Debian's compiler
//! or with rustup's default, so `core` is compiled from the toolchain root's own source with the
//! toolchain root's own compiler, once, in half a minute, as the kernel's build does. The host's
//! Rust is not used: its source of `core` would be one more download.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vm_images::Toolchain;

use crate::workspace;

/// The compiler inside the root.
const RUSTC: &str = "usr/bin/rustc";
/// The linker inside the root.
const LINKER: &str = "usr/bin/ld.lld";
/// The source of `core` inside the root.
const CORE: &str = "usr/lib/rustlib/src/rust/library/core/src/lib.rs";

/// One set of flags for everything. The target is known to every compiler, without SSE and red
/// zone; it asks for position-independent code at the top of memory, which is changed.
const FLAGS: &[&str] = &[
    "--target=x86_64-unknown-none",
    "-Copt-level=2",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    "-Ccode-model=small",
    "-Cdebug-assertions=off",
];

/// Every crate is linked with this one, which holds what processors cannot do; this guest does not
/// need any of it, and has its own memory functions.
const BUILTINS: &str = "\
#![no_std]
#![feature(compiler_builtins)]
#![compiler_builtins]
#![allow(internal_features)]
";

/// Builds the guest into `folder`, unless it is there and nothing has changed; returns its ELF file.
///
/// # Errors
/// If the root has no compiler or no source of `core`, or something does not compile.
pub(super) fn guest(toolchain: &Toolchain, folder: &Path) -> Result<PathBuf> {
    let core = core(toolchain)?;
    let source = workspace::root().join("tests/conformance-guest");
    let (object, elf) = (folder.join("guest.o"), folder.join("guest.elf"));
    let (key, key_file) = (key(&source, &core)?, folder.join("guest.key"));
    if elf.exists() && fs::read_to_string(&key_file).is_ok_and(|built| built == key) {
        return Ok(elf);
    }
    let mut command = rustc(toolchain, &core);
    command
        .args(["--edition=2024", "--crate-name=conformance_guest"])
        .args(["--crate-type=bin", "--emit=obj", "-Ccodegen-units=1"])
        // A newer compiler of the root may warn of more.
        .args(["--cap-lints=allow", "-L"])
        .arg(&core)
        .arg("-o")
        .arg(&object)
        .arg(source.join("src/main.rs"));
    succeed(&mut command, "compile the conformance guest")?;
    let mut command = toolchain.program(LINKER);
    command
        .args([
            "--gc-sections",
            "--no-eh-frame-hdr",
            "-z",
            "max-page-size=4096",
            "-T",
        ])
        .arg(source.join("layout.ld"))
        .arg("-o")
        .arg(&elf)
        .arg(&object)
        .arg(core.join("libcore.rlib"));
    succeed(&mut command, "link the conformance guest")?;
    fs::write(&key_file, key).with_context(|| format!("Cannot write {}", key_file.display()))?;
    Ok(elf)
}

/// Stands for all that the guest is made of.
fn key(source: &Path, core: &Path) -> Result<String> {
    let mut files = vec![
        source.join("layout.ld"),
        workspace::root().join("vhost-device/abi/src/wire.rs"),
    ];
    let mut folders = vec![source.join("src")];
    while let Some(folder) = folders.pop() {
        let read = || format!("Cannot read {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(read)? {
            let entry = entry.with_context(read)?;
            if entry.file_type().with_context(read)?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    let mut key = DefaultHasher::new();
    (core, FLAGS).hash(&mut key);
    for file in files {
        let text = fs::read(&file).with_context(|| format!("Cannot read {}", file.display()))?;
        (file, text).hash(&mut key);
    }
    Ok(format!("{:016x}", key.finish()))
}

/// The folder with `core` for the root's compiler, from the cache or built into it.
fn core(toolchain: &Toolchain) -> Result<PathBuf> {
    let output = toolchain
        .program(RUSTC)
        .arg("-vV")
        .output()
        .context("Cannot start the toolchain root's rustc")?;
    let mut key = DefaultHasher::new();
    (output.stdout, FLAGS, BUILTINS).hash(&mut key);
    let cache = toolchain.cache().folder();
    let ready = cache.join(format!("conformance-core-{:016x}", key.finish()));
    if ready.is_dir() {
        return Ok(ready);
    }
    let source = toolchain.root().join(CORE);
    ensure!(
        source.exists(),
        "{} is missing; the package rust-src holds it",
        source.display()
    );
    let step = toolchain.progress().step("core without SSE");
    // Two runs at once each build their own, and one of them is put in place.
    let partial = tempfile::Builder::new()
        .prefix("conformance-core-partial-")
        .tempdir_in(cache)
        .with_context(|| format!("Cannot make a folder in {}", cache.display()))?;
    let mut command = rustc(toolchain, partial.path());
    command
        .args(["--edition=2021", "--crate-name=core", "--crate-type=rlib"])
        .args(["--cap-lints=allow", "--out-dir"])
        .arg(partial.path())
        .arg(&source);
    succeed(&mut command, "compile core")?;
    let builtins = partial.path().join("builtins.rs");
    fs::write(&builtins, BUILTINS)
        .with_context(|| format!("Cannot write {}", builtins.display()))?;
    let mut command = rustc(toolchain, partial.path());
    command
        .args(["--edition=2021", "--crate-name=compiler_builtins"])
        .args(["--crate-type=rlib", "-L"])
        .arg(partial.path())
        .arg("--out-dir")
        .arg(partial.path())
        .arg(&builtins);
    succeed(&mut command, "compile the empty compiler_builtins")?;
    match fs::rename(partial.path(), &ready) {
        Ok(()) => {
            // It is no longer there to be removed.
            let _ = partial.keep();
        }
        Err(_) if ready.is_dir() => {}
        Err(error) => {
            return Err(error).with_context(|| format!("Cannot put {} in place", ready.display()));
        }
    }
    step.done("built");
    Ok(ready)
}

/// The root's compiler, without the standard library that it comes with, and with the features that
/// compiling `core` takes.
fn rustc(toolchain: &Toolchain, sysroot: &Path) -> Command {
    let mut command = toolchain.program(RUSTC);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .arg("--sysroot")
        .arg(sysroot)
        .args(FLAGS);
    command
}

/// Runs a command whose messages matter only when it fails.
fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("Cannot start {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "Cannot {what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
