// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Commands that run inside the toolchain root, in a mount namespace of their own: all mounts
//! vanish with the process, whatever happens. Without root rights a user namespace stands in.

use std::path::Path;
use std::process::Command;

/// Mounts, then becomes the program. Arguments: root, then host and guest path of each bind mount,
/// then `--`, then the program.
const ENTER: &str = r#"
set -e
root=$1; shift
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done
shift
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ LC_ALL=C "$@"
"#;

/// Folders of the root that bind mounts go to.
pub(crate) const MOUNT_POINTS: [&str; 2] = ["kernel", "output"];

/// A folder of the host that is seen inside the root.
pub(crate) struct Bind<'a> {
    pub(crate) host: &'a Path,
    /// Path inside, one of [`MOUNT_POINTS`] with a leading slash.
    pub(crate) inside: &'static str,
}

/// A command that runs `arguments` inside `root`.
pub(crate) fn command(root: &Path, binds: &[Bind<'_>], arguments: &[&str]) -> Command {
    let mut command = namespace();
    command.args(["/bin/sh", "-c", ENTER, "enter"]).arg(root);
    for bind in binds {
        command.arg(bind.host).arg(bind.inside);
    }
    command.arg("--").args(arguments);
    command
}

/// `unshare` with what this user needs to be able to mount.
pub(crate) fn namespace() -> Command {
    let mut command = Command::new("unshare");
    // A plain user's PATH often lacks chroot's folder.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--"]);
    command
}
