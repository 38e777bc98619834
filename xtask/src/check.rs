// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask check`: all that can be said of the tree without running it. It never writes to
//! the tree, runs every check even when one fails, and names those that did at the end.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use vm_images::{Cache, Progress};

use crate::workspace;

/// Check formatting, lints, docs, licences, the crates' arrows and the SPDX lines.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the check of this name.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// A check: its name, what it proves, and how.
struct Check {
    name: &'static str,
    proves: &'static str,
    run: fn(&Progress) -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "fmt",
        proves: "formatting",
        run: |_| formatting(),
    },
    Check {
        name: "spdx",
        proves: "an SPDX line in every tracked file",
        run: |_| spdx(),
    },
    Check {
        name: "links",
        proves: "links between the documents lead to files",
        run: |_| links(),
    },
    Check {
        name: "arrows",
        proves: "tmem-pages has no socket or runtime crate",
        run: |_| arrows(),
    },
    Check {
        name: "no-std",
        proves: "tmem-abi builds without a standard library",
        run: |_| no_std(),
    },
    Check {
        name: "clippy",
        proves: "lints, as errors",
        run: |_| {
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ])
        },
    },
    Check {
        name: "conformance-guest",
        proves: "formatting and lints of the guest that is not in the workspace",
        run: |_| conformance_guest(),
    },
    Check {
        name: "docs",
        proves: "docs without warnings",
        run: |_| docs(),
    },
    Check {
        name: "deny",
        proves: "licences, bans and sources of dependencies",
        run: deny,
    },
];

/// Crates that the engine must not depend on: it knows no sockets and no runtime.
const NOT_IN_PAGES: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "axum",
    "hyper",
    "async-std",
    "vhost",
];

/// Ends of names of files that cannot hold a comment, or are not ours to mark.
const NO_SPDX: &[&str] = &["Cargo.lock", ".json", ".png", ".bin", ".seed"];

/// Folders of licence texts, and of what programs must print to the letter.
const NO_SPDX_IN: &[&str] = &["LICENSES/", "/golden/"];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let progress = Progress::stderr();
    let chosen: Vec<&Check> = CHECKS
        .iter()
        .filter(|check| {
            arguments
                .only
                .as_deref()
                .is_none_or(|name| name == check.name)
        })
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        bail!("No such check; there are: {}", names.join(", "));
    }
    let mut failed = Vec::new();
    for check in chosen {
        progress.line(&format!("check {}: {}", check.name, check.proves));
        if let Err(error) = (check.run)(&progress) {
            eprintln!("{error:#}");
            failed.push(check.name);
        }
    }
    ensure!(failed.is_empty(), "Failed checks: {}", failed.join(", "));
    progress.line("all checks passed");
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    succeed(tmem_programs::cargo().args(arguments))
}

/// Cargo's own check does not see modules that a macro declares, as that of the policies does.
fn formatting() -> Result<()> {
    cargo(&["fmt", "--all", "--", "--check"])?;
    let root = workspace::root();
    let files = output(
        Command::new("git")
            .arg("-C")
            .arg(&root)
            .args(["ls-files", "vhost-device/pages/src/policy/*.rs"]),
    )?;
    let mut rustfmt = Command::new("rustfmt");
    rustfmt
        .current_dir(&root)
        .args(["--check", "--edition", "2024"]);
    succeed(rustfmt.args(files.lines()))
}

/// Runs a command with its output on this terminal.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("Cannot start {}", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Runs a command and gives what it prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("Cannot start {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn docs() -> Result<()> {
    succeed(
        tmem_programs::cargo()
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// The guest is built for a bare machine, and checked for the host, which needs no other target.
fn conformance_guest() -> Result<()> {
    let manifest = ["--manifest-path", "tests/conformance-guest/Cargo.toml"];
    succeed(
        tmem_programs::cargo()
            .arg("fmt")
            .args(manifest)
            .args(["--", "--check"]),
    )?;
    succeed(
        tmem_programs::cargo()
            .arg("clippy")
            .args(manifest)
            .args(["--target-dir", "target/conformance/check"])
            .args(["--", "-D", "warnings"]),
    )
}

fn arrows() -> Result<()> {
    let tree = output(tmem_programs::cargo().args([
        "tree",
        "--package",
        "tmem-pages",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let found: Vec<&str> = forbidden(&tree);
    ensure!(
        found.is_empty(),
        "tmem-pages depends on {}",
        found.join(", ")
    );
    Ok(())
}

fn forbidden(tree: &str) -> Vec<&str> {
    let mut found: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| NOT_IN_PAGES.contains(name))
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The kernel includes one file of tmem-abi, so that file is compiled by itself, with `core` alone
/// and with the standard library out of reach. The host's target serves: what a bare-metal target
/// lacks is the standard library, and a second target would be one more download.
fn no_std() -> Result<()> {
    let folder = tempfile::tempdir().context("Cannot create a temporary folder")?;
    let wire = workspace::root().join("vhost-device/abi/src/wire.rs");
    let source = format!(
        "#![no_std]\n#![allow(dead_code)]\n#[path = {:?}]\npub mod wire;\n",
        wire.display().to_string()
    );
    let main = folder.path().join("bare.rs");
    std::fs::write(&main, source).with_context(|| format!("Cannot write {}", main.display()))?;
    succeed(
        Command::new("rustc")
            .args([
                "--edition=2021",
                "--crate-type=rlib",
                "--emit=metadata",
                "-Cpanic=abort",
            ])
            .args(["-D", "warnings", "--out-dir"])
            .arg(folder.path())
            .arg(&main),
    )
}

fn spdx() -> Result<()> {
    let root = workspace::root();
    let files = output(Command::new("git").arg("-C").arg(&root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let missing: Vec<&str> = files
        .lines()
        .filter(|name| !NO_SPDX.iter().any(|end| name.ends_with(end)))
        .filter(|name| !NO_SPDX_IN.iter().any(|part| name.contains(part)))
        .filter(|name| !marked(&root.join(name)))
        .collect();
    ensure!(
        missing.is_empty(),
        "No SPDX line in:\n  {}",
        missing.join("\n  ")
    );
    Ok(())
}

/// Links of Markdown files to files of this tree.
fn links() -> Result<()> {
    let root = workspace::root();
    let files = output(
        Command::new("git")
            .arg("-C")
            .arg(&root)
            .args(["ls-files", "*.md"]),
    )?;
    let mut broken = Vec::new();
    for name in files.lines() {
        let path = root.join(name);
        // A file that was just deleted has no links.
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let folder = path.parent().unwrap_or(&root);
        let missing = targets(&text).filter(|target| !folder.join(target).exists());
        broken.extend(missing.map(|target| format!("{name}: {target}")));
    }
    ensure!(
        broken.is_empty(),
        "Broken links:\n  {}",
        broken.join("\n  ")
    );
    Ok(())
}

/// What the links of a Markdown text lead to, without other sites and places within a page.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

/// Whether one of the first lines names the licence. Links and files just deleted count as marked.
fn marked(path: &Path) -> bool {
    const LINES: usize = 6;
    if path.is_symlink() || !path.exists() {
        return true;
    }
    std::fs::read(path).is_ok_and(|bytes| {
        String::from_utf8_lossy(&bytes)
            .lines()
            .take(LINES)
            .any(|line| line.contains("SPDX-License-Identifier:"))
    })
}

/// Runs cargo-deny, from PATH or else built once into the cache. Advisories are left out: their
/// list is fetched from the network, and a new one must not break an old commit.
fn deny(progress: &Progress) -> Result<()> {
    let tools = Cache::open()?.folder().join("tools");
    let own = tools.join("bin/cargo-deny");
    let program = if Command::new("cargo-deny").arg("--version").output().is_ok() {
        Path::new("cargo-deny")
    } else {
        if !own.exists() {
            progress.line("building cargo-deny once; this takes some minutes");
            succeed(
                Command::new("cargo")
                    .args(["install", "--locked", "--quiet", "cargo-deny", "--root"])
                    .arg(&tools),
            )?;
        }
        &own
    };
    succeed(
        Command::new(program)
            .current_dir(workspace::root())
            .args(["check", "licenses", "bans", "sources"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_crate_below_pages_is_named_once() {
        let tree =
            "tmem-pages v0.1.0 (/x)\nlibc v0.2.1\ntokio v1.0.0\nmio v1.0.0\ntokio v1.0.0 (*)\n";
        assert_eq!(forbidden(tree), ["mio", "tokio"]);
        assert!(forbidden("tmem-pages v0.1.0\ntokio-like v1.0.0\n").is_empty());
    }

    #[test]
    fn only_links_to_files_are_followed() {
        let text = "[a](b.md#c) [d](https://e.org) [f](#g)\n[h](../i)";
        assert_eq!(targets(text).collect::<Vec<_>>(), ["b.md", "../i"]);
    }

    #[test]
    fn file_without_licence_line_is_not_marked() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("a.rs");
        std::fs::write(&file, "//! no licence\n").expect("write");
        assert!(!marked(&file));
        let identifier = ["SPDX", "License-Identifier: MIT"].join("-");
        std::fs::write(&file, format!("#!/bin/sh\n# {identifier}\n")).expect("write");
        assert!(marked(&file));
    }
}
