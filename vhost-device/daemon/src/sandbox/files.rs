// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Landlock: which files may be touched, and whom signals may reach.
//!
//! It holds for the process and all that it starts, binds root as well, and needs no right. What it
//! does not look at: descriptors that are open already, which is how the worker gets its files.
//!
//! Of what a worker may connect to, it knows ports and folders; rules of a keeper and of its worker both
//! have to allow it.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::tree::LIBRARIES;
use super::{Absent, KeeperPlan, Reach, State};

/// The newest version of Landlock whose rights are all thought of here. An older kernel enforces
/// what it knows.
const VERSION: ABI = ABI::V9;

/// Lets the keeper read its libraries, start what it may start, and make and remove sockets.
pub(super) fn restrict_keeper(plan: &KeeperPlan) -> Result<State, Absent> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let start = read | AccessFs::Execute;
    let sockets =
        AccessFs::ReadDir | AccessFs::RemoveFile | AccessFs::MakeSock | AccessFs::ResolveUnix;
    let mut rules = rules()?;
    for path in LIBRARIES.map(Path::new) {
        if path.exists() {
            rules = allow(rules, path, start)?;
        }
    }
    for path in &plan.executable {
        rules = allow(rules, path, start)?;
    }
    for path in &plan.writable_dirs {
        rules = allow(rules, path, sockets)?;
    }
    if let Some(path) = &plan.trace_dir {
        let mut make = AccessFs::ReadDir | AccessFs::MakeReg;
        make |= AccessFs::WriteFile | AccessFs::Truncate;
        // It may be one of the above.
        rules = allow(rules, path, make)?;
    }
    // A worker looks at its own figures; other processes' are hidden by the mount, or by Landlock
    // itself, which keeps a process from looking into one outside.
    rules = allow(rules, Path::new("/proc"), read)?;
    rules = allow(
        rules,
        Path::new("/dev/null"),
        AccessFs::ReadFile | AccessFs::WriteFile,
    )?;
    rules = connect(rules, plan.reach.as_ref())?;
    enforce(rules)
}

/// Leaves the worker no file at all, and nothing to connect to but `reach`.
pub(super) fn restrict_worker(reach: Option<&Reach>) -> Result<State, Absent> {
    enforce(connect(rules()?, reach)?)
}

fn connect(mut rules: RulesetCreated, reach: Option<&Reach>) -> Result<RulesetCreated, Absent> {
    let Some(reach) = reach else {
        return Ok(rules);
    };
    for path in &reach.folders {
        rules = allow(rules, path, AccessFs::ResolveUnix.into())?;
    }
    for port in &reach.ports {
        let rule = NetPort::new(*port, AccessNet::ConnectTcp);
        let step = || format!("allowing TCP port {port}");
        rules = rules.add_rule(rule).map_err(broke(step()))?;
    }
    Ok(rules)
}

fn rules() -> Result<RulesetCreated, Absent> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(VERSION)))
        .and_then(|rules| rules.scope(Scope::from_all(VERSION)))
        .and_then(Ruleset::create)
        .map_err(broke("making rules"))
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Absent> {
    let step = || format!("allowing {}", path.display());
    let file = PathFd::new(path).map_err(|error| broke(step())(error))?;
    // A file takes none of the rights that only folders have.
    let access = if path.is_dir() {
        access
    } else {
        access & AccessFs::from_file(VERSION)
    };
    rules
        .add_rule(PathBeneath::new(file, access))
        .map_err(broke(step()))
}

fn enforce(rules: RulesetCreated) -> Result<State, Absent> {
    let status = rules.restrict_self().map_err(broke("enforcing rules"))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(State::Entered),
        RulesetStatus::PartiallyEnforced => Ok(State::Partly(beyond(status.landlock).into())),
        RulesetStatus::NotEnforced => Err(Absent::Reason(
            "the kernel has no Landlock, or it is switched off at boot; Linux 5.13 has it".into(),
        )),
    }
}

/// What an older kernel does not enforce.
fn beyond(landlock: LandlockStatus) -> &'static str {
    match landlock {
        LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V6 => {
            "this kernel does not restrict to which sockets' files one connects; Linux 7.1 does"
        }
        LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V4 => {
            "this kernel does not restrict signals and abstract sockets; Linux 6.12 does"
        }
        _ => {
            "this kernel does not restrict signals, abstract sockets, TCP ports and perhaps \
             truncation; Linux 6.12 does"
        }
    }
}

fn broke<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    step: impl Into<String>,
) -> impl FnOnce(E) -> Absent {
    let step = step.into();
    move |error| Absent::broke(step)(io::Error::other(error))
}
