// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the daemon of a test is set up, and where its files are.

use std::path::{Path, PathBuf};

/// How the daemon is set up.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Names of its guests.
    pub guests: &'a [&'a str],
    /// Grant of each guest in MiB.
    pub grant_mib: u32,
    /// Queue pairs of each guest.
    pub queue_pairs: u16,
    /// Further lines of the `[daemon]` table.
    pub daemon: &'a str,
    /// Whether it runs under a service manager, which keeps its descriptors.
    pub managed: bool,
}

/// Its configuration file.
pub(super) fn configuration_file(sockets: &Path) -> PathBuf {
    sockets.join("daemon.toml")
}

/// Where it answers `tmemctl`.
pub(super) fn admin_socket(sockets: &Path) -> PathBuf {
    sockets.join("admin.sock")
}

/// Where the monitor of guest `name` connects.
pub(super) fn guest_socket(sockets: &Path, name: &str) -> PathBuf {
    sockets.join(format!("{name}.sock"))
}

/// The text of its configuration file.
pub(super) fn configuration(setup: &Setup<'_>, sockets: &Path) -> String {
    let dram_mib = setup.grant_mib * u32::try_from(setup.guests.len()).unwrap_or(u32::MAX);
    let mut text = format!(
        "[daemon]\nadmin_socket = {:?}\ndram = \"{dram_mib}MiB\"\n{}\n",
        admin_socket(sockets),
        setup.daemon
    );
    for name in setup.guests {
        text.push_str(&format!(
            "\n[[guest]]\nname = {name:?}\nsocket = {:?}\ngrant = \"{}MiB\"\nqueue_pairs = {}\n",
            guest_socket(sockets, name),
            setup.grant_mib,
            setup.queue_pairs
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_has_its_section() {
        let setup = Setup {
            guests: &["a", "b"],
            grant_mib: 512,
            queue_pairs: 2,
            daemon: "crash_limit = 7",
            managed: false,
        };
        let text = configuration(&setup, Path::new("/s"));
        assert!(text.starts_with("[daemon]\nadmin_socket = \"/s/admin.sock\"\ndram = \"1024MiB\""));
        assert!(text.contains("\ncrash_limit = 7\n\n[[guest]]"));
        assert_eq!(text.matches("[[guest]]").count(), 2);
        assert!(text.contains("name = \"b\"\nsocket = \"/s/b.sock\"\ngrant = \"512MiB\""));
    }
}
