// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Namespaces: a network without interfaces, a file tree of one's own.
//!
//! Sockets that were bound before go on to work: a Unix socket's path belongs to the file system,
//! and whoever finds the file reaches the socket. There is no user namespace, because then every
//! caller of the admin API would look like user 65534, and no process-id namespace, because that
//! would need a first process that never ends.
//!
//! Stores that are reached by TCP are reached through the host's network, which is kept then.

use rustix::thread::{CapabilitySet, UnshareFlags, unshare_unsafe};

use super::{Absent, KeeperPlan, Reach, State, capabilities, tree};

/// Leaves the host's mounts, network, System V IPC and host name.
pub(super) fn enter(plan: &KeeperPlan) -> Result<State, Absent> {
    if !capabilities::has(CapabilitySet::SYS_ADMIN) {
        return inherited(plan.reach.as_ref());
    }
    // Everything that may be missing is looked for before anything is changed.
    let tree = tree::Tree::gather(plan)?;
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    let network = host_network(plan.reach.as_ref());
    if network.is_none() {
        flags |= UnshareFlags::NEWNET;
    }
    // SAFETY: none of these flags gives the thread a descriptor table of its own, which is what
    // descriptors held elsewhere could not bear.
    unsafe { unshare_unsafe(flags) }
        .map_err(|error| Absent::Reason(format!("the kernel refuses them: {error}")))?;
    tree.enter()?;
    Ok(network.map_or(State::Entered, State::Partly))
}

/// Why the host's network is kept, if it is.
fn host_network(reach: Option<&Reach>) -> Option<String> {
    let reach = reach.filter(|reach| reach.is_beyond_files())?;
    let ports: Vec<_> = reach.ports.iter().map(u16::to_string).collect();
    Some(format!(
        "the network is the host's, for stores at TCP ports {}",
        ports.join(", ")
    ))
}

/// Whether whoever started this process has put it into namespaces: systemd, or the keeper.
pub(super) fn inherited(reach: Option<&Reach>) -> Result<State, Absent> {
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let read_only = rustix::fs::statvfs("/")
        .is_ok_and(|root| root.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    let network = host_network(reach);
    match (network.is_some() || only_loopback(&devices), read_only) {
        (true, true) => Ok(network.map_or(State::Entered, State::Partly)),
        (network, _) => Err(Absent::Reason(format!(
            "started without the right to leave the host's {}; start it as root, or by a unit \
             with PrivateNetwork= and ProtectSystem=strict",
            if network { "mounts" } else { "network" }
        ))),
    }
}

/// Whether the kernel's table of network devices has the loopback device and no other.
fn only_loopback(table: &str) -> bool {
    let mut names = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim());
    names.next() == Some("lo") && names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::only_loopback;

    const HEAD: &str = "Inter-|   Receive       |  Transmit\n face |bytes    packets|bytes\n";

    #[test]
    fn a_network_is_private_if_it_has_nothing_but_loopback() {
        let lo = "    lo:    1032      12    0\n";
        assert!(only_loopback(&format!("{HEAD}{lo}")));
        assert!(!only_loopback(&format!("{HEAD}{lo}  eth0: 1 2 3\n")));
        assert!(!only_loopback(HEAD));
        assert!(!only_loopback(""));
    }
}
