// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds this workspace's own programs by cargo, and finds where cargo put them.
//!
//! Whoever asks, cargo sees the same: programs are built with the features that all crates of the workspace
//! want together, and without the variables that cargo sets for the program that asks. Otherwise crates
//! would be built anew whenever somebody else asks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What can go wrong with a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// cargo does not run.
    #[error("Cannot run {}", program().display())]
    Cargo(#[source] std::io::Error),
    /// The build failed; cargo has told why.
    #[error("`cargo {0}` failed; its messages are above")]
    Build(String),
    /// cargo built something else.
    #[error("`cargo {arguments}` built no program {program}")]
    NoProgram {
        /// cargo's arguments.
        arguments: String,
        /// The program that was expected.
        program: &'static str,
    },
}

/// Programs of the host, optimised, in the order of `programs`.
///
/// # Errors
/// If the build fails.
pub fn host_programs<const N: usize>(programs: [&'static str; N]) -> Result<[PathBuf; N], Error> {
    let mut arguments = vec!["build", "--release", "--workspace"];
    for program in programs {
        arguments.extend(["--bin", program]);
    }
    run(&arguments, &[], programs)
}

/// The workload program, linked statically so that it runs in a guest without any library.
///
/// # Errors
/// If the build fails.
pub fn workload() -> Result<PathBuf, Error> {
    static_program("tmem-workload", "tmem-workload")
}

/// The guest's agent, linked in the same way.
///
/// # Errors
/// If the build fails.
pub fn agent() -> Result<PathBuf, Error> {
    static_program("tmem-agent", "tmem-agent")
}

/// The programs of the pager's crate, linked in the same way: its name in the guest with each.
///
/// # Errors
/// If the build fails.
pub fn pager_programs() -> Result<Vec<(&'static str, PathBuf)>, Error> {
    let programs = [
        ("--bin", "tmem-pages"),
        ("--bin", "tmem-bench"),
        ("--bin", "tmem-fuzz"),
        ("--example", "buffer-manager"),
    ];
    let build = |(kind, name)| Ok((name, static_target("tmem-user", kind, name)?));
    programs.into_iter().map(build).collect()
}

fn static_program(package: &str, program: &'static str) -> Result<PathBuf, Error> {
    static_target(package, "--bin", program)
}

fn static_target(package: &str, kind: &str, program: &'static str) -> Result<PathBuf, Error> {
    let arguments = ["rustc", "--package", package, kind, program];
    let flags = [
        "--",
        "-Copt-level=3",
        "-Cstrip=symbols",
        "-Ctarget-feature=+crt-static",
    ];
    run(&arguments, &flags, [program]).map(|[path]| path)
}

/// The root of the workspace that this was built from.
#[must_use]
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here)
}

/// The cargo that runs this program, in the workspace's folder.
///
/// It does not hear of the package that runs: build scripts that ask to be run again when the name of their
/// own package changes, as that of *ring* does, would see another one each time.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(program());
    command.current_dir(workspace());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

fn program() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// Runs cargo with `arguments` and then `last`, and finds `programs` among what it built.
fn run<const N: usize>(
    arguments: &[&str],
    last: &[&str],
    programs: [&'static str; N],
) -> Result<[PathBuf; N], Error> {
    let output = cargo()
        .args(arguments)
        .args(["--quiet", "--message-format=json-render-diagnostics"])
        .args(last)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::Cargo)?;
    if !output.status.success() {
        return Err(Error::Build(arguments.join(" ")));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut paths = [const { None }; N];
    for (path, program) in paths.iter_mut().zip(programs) {
        *path = messages.lines().find_map(|line| executable(line, program));
        if path.is_none() {
            return Err(Error::NoProgram {
                arguments: arguments.join(" "),
                program,
            });
        }
    }
    Ok(paths.map(Option::unwrap_or_default))
}

/// The program's path, if `message` is cargo's word that it built `program`.
fn executable(message: &str, program: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["target"]["name"] != program {
        return None;
    }
    message["executable"].as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_program_is_found_in_cargos_messages() {
        let message = r#"{"reason": "compiler-artifact", "target": {"name": "tmemctl"},
            "executable": "/t/release/tmemctl"}"#;
        assert_eq!(
            executable(message, "tmemctl"),
            Some(PathBuf::from("/t/release/tmemctl"))
        );
        assert_eq!(executable(message, "xtask"), None);
        let library = r#"{"target": {"name": "tmemctl"}, "executable": null}"#;
        assert_eq!(executable(library, "tmemctl"), None);
        assert_eq!(executable("no JSON", "tmemctl"), None);
    }

    #[test]
    fn workspace_holds_this_crate() {
        assert!(workspace().join("tests/programs/src/lib.rs").exists());
    }

    #[test]
    fn cargo_hears_nothing_of_this_package() {
        // cargo sets it for a test as well.
        let name = std::ffi::OsStr::new("CARGO_PKG_NAME");
        assert!(std::env::var_os(name).is_some());
        let removed = (name, None);
        assert!(cargo().get_envs().any(|variable| variable == removed));
    }
}
