// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the host itself must have. It is little: compilers, QEMU and the guest's programs come
//! from the toolchain root, so a Debian with apt is enough for modules and test guests.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::Command;

use crate::chroot;
use crate::error::{Error, Result};
use crate::mirror;
use crate::run;

/// Whether packages may be installed on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Install what is missing.
    Yes,
    /// Ask on the terminal.
    Ask,
    /// Say what is missing, and fail.
    No,
}

impl Consent {
    /// `--yes` or `CI=true` means yes; otherwise a terminal is asked, and without one the answer
    /// is no.
    #[must_use]
    pub fn new(yes: bool) -> Self {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        if yes || ci {
            Self::Yes
        } else if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            Self::Ask
        } else {
            Self::No
        }
    }
}

/// A package of the host, by a program of it, and what it is for.
struct Need {
    program: &'static str,
    package: &'static str,
    reason: &'static str,
}

const ALWAYS: &[Need] = &[
    Need {
        program: "unshare",
        package: "util-linux",
        reason: "runs the compilers in the toolchain root",
    },
    Need {
        program: "tar",
        package: "tar",
        reason: "dpkg-deb unpacks packages with it",
    },
];

const IMAGE: &[Need] = &[Need {
    program: "mmdebstrap",
    package: "mmdebstrap",
    reason: "installs the disk image's Debian",
}];

const IMAGE_WITHOUT_ROOT: &[Need] = &[Need {
    program: "newuidmap",
    package: "uidmap",
    reason: "lets mmdebstrap install a Debian without root rights",
}];

/// Checks the host, and installs what is missing if that is allowed.
#[derive(Debug)]
pub struct Prereqs;

impl Prereqs {
    /// What toolchain root, modules and test guests need.
    ///
    /// # Errors
    /// [`Error::MissingPrerequisites`] with the command to type when nothing may be installed,
    /// [`Error::MissingProgram`] on a machine without apt, [`Error::NoNamespaces`] where a plain
    /// user may not mount.
    pub fn ensure(consent: Consent) -> Result<()> {
        check(consent, &[ALWAYS])
    }

    /// The same for the bootable disk image.
    ///
    /// # Errors
    /// As [`Prereqs::ensure`].
    pub fn ensure_for_image(consent: Consent) -> Result<()> {
        if is_root() {
            check(consent, &[ALWAYS, IMAGE])
        } else {
            check(consent, &[ALWAYS, IMAGE, IMAGE_WITHOUT_ROOT])
        }
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn check(consent: Consent, needs: &[&[Need]]) -> Result<()> {
    for program in ["apt-get", "apt-cache", "apt-config", "dpkg-deb"] {
        if !in_path(program) {
            return Err(Error::MissingProgram {
                program,
                why: "everything here is made from Debian packages: use a Debian or a system \
                      derived from it, or a container of one",
            });
        }
    }
    let mut missing: Vec<(&str, &str)> = needs
        .iter()
        .flat_map(|list| list.iter())
        .filter(|need| !in_path(need.program))
        .map(|need| (need.package, need.reason))
        .collect();
    if mirror::keyring().is_err() {
        missing.push((
            "debian-archive-keyring",
            "proves that packages are Debian's",
        ));
    }
    if !missing.is_empty() {
        install(consent, &missing)?;
    }
    namespaces()
}

/// Tries what all builds do first, so that it fails here, with advice, and not in their midst.
fn namespaces() -> Result<()> {
    let output = chroot::namespace()
        .arg("true")
        .output()
        .map_err(|source| Error::Spawn {
            program: "unshare".to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::NoNamespaces {
        answer: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn install(consent: Consent, missing: &[(&str, &str)]) -> Result<()> {
    let mut command = as_root("apt-get");
    command.args(["install", "--yes", "--no-install-recommends"]);
    command.args(missing.iter().map(|(package, _)| package));
    let line = run::shell_line(&command);
    let reasons: String = missing
        .iter()
        .map(|(package, reason)| format!("  {package}: {reason}\n"))
        .collect();
    let agreed = match consent {
        Consent::Yes => true,
        Consent::No => false,
        Consent::Ask => ask(&reasons, &line),
    };
    if !agreed {
        return Err(Error::MissingPrerequisites {
            reasons,
            command: line,
        });
    }
    eprint!("Missing on this machine:\n{reasons}Running: {line}\n");
    // A fresh container image has no package lists.
    for mut command in [update(), command] {
        let status = command.status().map_err(|source| Error::Spawn {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        if !status.success() {
            return Err(Error::MissingPrerequisites {
                reasons,
                command: run::shell_line(&command),
            });
        }
    }
    Ok(())
}

fn update() -> Command {
    let mut command = as_root("apt-get");
    command.args(["update", "--quiet"]);
    command
}

fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

fn ask(reasons: &str, command: &str) -> bool {
    eprint!("Missing on this machine:\n{reasons}Run `{command}` now? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stderr()
        .flush()
        .and_then(|()| std::io::stdin().read_line(&mut answer));
    read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Whether a program is in PATH or in the folders for root's programs.
fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).collect::<Vec<_>>();
    let more = ["/usr/sbin", "/sbin"].map(Path::new);
    folders
        .iter()
        .map(std::path::PathBuf::as_path)
        .chain(more)
        .any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_consent_the_command_is_named_and_nothing_runs() {
        let error =
            install(Consent::No, &[("some-package", "is for a test")]).expect_err("nobody agreed");
        let text = error.to_string();
        assert!(text.contains("some-package: is for a test"), "{text}");
        assert!(
            text.contains("apt-get install --yes --no-install-recommends some-package"),
            "{text}"
        );
    }

    #[test]
    fn program_of_the_shell_is_found_and_an_odd_one_is_not() {
        assert!(in_path("sh"));
        assert!(!in_path("no-such-program-anywhere"));
    }
}
