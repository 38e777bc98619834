// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A network of its own for a store, joined to ours by a pair of virtual interfaces, which nftables
//! cut: all, or what goes to the store, or what comes from it. A cut drops packets without a word, as
//! a broken switch does.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

/// What is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything.
    Both,
    /// What goes to the store.
    To,
    /// What comes from the store.
    From,
}

/// A network namespace. It goes with this value; what runs in it must have ended.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    address: String,
}

/// Why there can be no namespaces here, if so.
#[must_use]
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for program in ["ip", "nft"] {
        let mut command = Command::new(program);
        let version = command.arg(if program == "ip" { "-V" } else { "-v" });
        if run(version).is_err() {
            return Some(format!("there is no program {program}"));
        }
    }
    None
}

impl Namespace {
    /// Makes one, with its interfaces.
    ///
    /// # Errors
    /// If the kernel or the rights do not allow it.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed) % 64;
        let process = std::process::id();
        let name = format!("tmem-{process}-{count}");
        let (ours, its) = (
            format!("tm{process}a{count}"),
            format!("tm{process}b{count}"),
        );
        // Each pair has the four addresses of a /30; processes that run beside each other get others.
        let subnet = format!("10.213.{}", process % 250);
        let ours_at = format!("{subnet}.{}/30", 4 * count + 1);
        let address = format!("{subnet}.{}", 4 * count + 2);
        ip(&["netns", "add", &name])?;
        let namespace = Self { name, address };
        let name = namespace.name.as_str();
        ip(&[
            "link", "add", &ours, "type", "veth", "peer", "name", &its, "netns", name,
        ])?;
        ip(&["addr", "add", &ours_at, "dev", &ours])?;
        ip(&["link", "set", &ours, "up"])?;
        let its_at = format!("{}/30", namespace.address);
        ip(&["-n", name, "addr", "add", &its_at, "dev", &its])?;
        ip(&["-n", name, "link", "set", &its, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A command that runs in it. The process has the command's own id.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        // nsenter replaces itself by the program, so that its id is the one to send signals to.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name));
        command.arg(program);
        command
    }

    /// Cuts it off.
    ///
    /// # Errors
    /// If nft fails.
    pub fn cut(&self, cut: Cut) -> Result<()> {
        let (drops_in, drops_out) = match cut {
            Cut::Both => ("drop", "drop"),
            Cut::To => ("drop", "accept"),
            Cut::From => ("accept", "drop"),
        };
        let rules = [
            "add table inet cut".to_owned(),
            format!(
                "add chain inet cut in {{ type filter hook input priority 0; policy {drops_in}; }}"
            ),
            format!(
                "add chain inet cut out {{ type filter hook output priority 0; policy {drops_out}; }}"
            ),
        ];
        self.nft(&rules.join("\n"))
    }

    /// Ends every cut.
    ///
    /// # Errors
    /// If nft fails.
    pub fn heal(&self) -> Result<()> {
        self.nft("flush ruleset")
    }

    fn nft(&self, rules: &str) -> Result<()> {
        run(self.command(Path::new("nft")).arg(rules))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The interfaces go with it.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("Cannot run {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {told}");
    Ok(())
}
