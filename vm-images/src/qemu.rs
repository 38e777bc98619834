// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The root's programs run on the host, without chroot: the root's own dynamic loader starts
//! them with the root's libraries. So host paths, sockets and devices are simply there, and no
//! rights are needed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::toolchain::Toolchain;

/// The first QEMU whose generic vhost-user device a user may create.
const OLDEST_QEMU: (u32, u32) = (10, 2);

/// Folders that QEMU looks for firmware in, below the root.
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Libraries of libraries of fio, which are found in a guest by a path that begins at its root.
const CEPH_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu/ceph";

impl Toolchain {
    /// A command that starts `qemu-system-x86_64`: the host's own when it is new enough (10.2),
    /// else the root's.
    #[must_use]
    pub fn qemu(&self) -> Command {
        let host = "qemu-system-x86_64";
        if version_of(host).is_some_and(|version| version >= OLDEST_QEMU) {
            return Command::new(host);
        }
        let mut command = self.program("usr/bin/qemu-system-x86_64");
        command.env("QEMU_MODULE_DIR", self.root().join(LIBRARIES).join("qemu"));
        for folder in FIRMWARE {
            command.arg("-L").arg(self.root().join(folder));
        }
        command
    }

    /// A command that starts the root's `qemu-storage-daemon`.
    #[must_use]
    pub fn storage_daemon(&self) -> Command {
        let mut command = self.program("usr/bin/qemu-storage-daemon");
        command.env("QEMU_MODULE_DIR", self.root().join(LIBRARIES).join("qemu"));
        command
    }

    /// A command that starts the root's `qemu-img`.
    #[must_use]
    pub fn qemu_img(&self) -> Command {
        self.program("usr/bin/qemu-img")
    }

    /// A command that starts any dynamic program of the root, such as `usr/bin/strip`, on the
    /// host. The program sees the host's files, not the root's.
    #[must_use]
    pub fn program(&self, path: &str) -> Command {
        let mut command = self.loader();
        command.arg(self.root().join(path));
        command
    }

    /// Writes a script into a folder that starts a program of the root, such as `usr/bin/etcd`, on the
    /// host. For those who want one path.
    ///
    /// # Errors
    /// [`Error`], if it cannot be written.
    pub fn start_script(&self, path: &str, folder: &Path) -> Result<PathBuf> {
        write_script(&self.program(path), path, folder)
    }

    /// The same for the root's `qemu-storage-daemon`.
    ///
    /// # Errors
    /// [`Error`], if it cannot be written.
    pub fn storage_daemon_script(&self, folder: &Path) -> Result<PathBuf> {
        write_script(&self.storage_daemon(), "qemu-storage-daemon", folder)
    }

    /// The root's loader, set to find the root's libraries and no others.
    fn loader(&self) -> Command {
        let mut command = Command::new(self.root().join("lib64/ld-linux-x86-64.so.2"));
        let folders = [LIBRARIES, CEPH_LIBRARIES];
        let folders = folders.map(|folder| self.root().join(folder).into_os_string());
        command
            .args(["--inhibit-cache", "--library-path"])
            .arg(folders.join(OsStr::new(":")));
        command
    }

    /// The libraries of a program of the root, as paths inside it, the loader included. Empty for
    /// a static program.
    pub(crate) fn libraries(&self, path: &str) -> Result<Vec<PathBuf>> {
        let file = self.root().join(path);
        if !file.exists() {
            return Err(Error::NotInRoot {
                path: path.to_owned(),
                root: self.root().to_path_buf(),
            });
        }
        let output = self
            .loader()
            .arg("--list")
            .arg(&file)
            .output()
            .map_err(|source| Error::Spawn {
                program: "ld-linux-x86-64.so.2".to_owned(),
                source,
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("statically linked") || errors.contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        if !output.status.success() || text.contains("not found") {
            return Err(Error::Output {
                what: "the dynamic loader",
                detail: format!("{path}: {text}{errors}"),
            });
        }
        Ok(text
            .lines()
            .filter_map(|line| library_path(line, self.root()))
            .collect())
    }
}

/// Writes a script that is another word for a command.
fn write_script(command: &Command, path: &str, folder: &Path) -> Result<PathBuf> {
    let mut script = String::from("#!/bin/sh\n");
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default();
        script.push_str(&format!(
            "export {}='{}'\n",
            name.display(),
            value.display()
        ));
    }
    script.push_str(&format!("exec '{}'", command.get_program().display()));
    for argument in command.get_args() {
        script.push_str(&format!(" '{}'", argument.display()));
    }
    script.push_str(" \"$@\"\n");
    let name = Path::new(path).file_name().unwrap_or_default();
    let path = folder.join(name);
    let written = fs::write(&path, script)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
    written.map_err(|source| Error::Io {
        action: "write",
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

/// Takes `/usr/...` out of `libc.so.6 => ROOT/usr/... (0x...)`.
fn library_path(line: &str, root: &Path) -> Option<PathBuf> {
    let path = line.split("=> ").nth(1)?.split(" (").next()?;
    Path::new(path)
        .strip_prefix(root)
        .ok()
        .map(Path::to_path_buf)
}

/// Major and minor version of a QEMU program, if there is one.
fn version_of(program: &str) -> Option<(u32, u32)> {
    let output = Command::new(program).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.split("version ").nth(1)?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_the_first_line() {
        let text = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)\nCopyright (c) ...\n";
        assert_eq!(parse_version(text), Some((11, 1)));
        assert!((10, 1) < OLDEST_QEMU && (11, 0) >= OLDEST_QEMU);
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn library_outside_the_root_is_not_taken() {
        let root = Path::new("/cache/root");
        let line = "\tlibc.so.6 => /cache/root/usr/lib/x86_64-linux-gnu/libc.so.6 (0x0)";
        assert_eq!(
            library_path(line, root),
            Some(PathBuf::from("usr/lib/x86_64-linux-gnu/libc.so.6"))
        );
        assert_eq!(
            library_path("\tlibx.so => /usr/lib/libx.so (0x0)", root),
            None
        );
        assert_eq!(library_path("\tlinux-vdso.so.1 (0x0)", root), None);
    }
}
