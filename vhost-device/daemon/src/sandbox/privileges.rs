// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What this process is now, it is for good, and nobody looks inside.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

use super::{Absent, State};

/// No exec gives rights from here on, and processes of the same user can neither trace this one nor
/// read its memory, which guests' pages are in; nor is that written to a core file.
pub(super) fn fix() -> Result<State, Absent> {
    set_no_new_privs(true)
        .map_err(|error| Absent::broke("promising that an exec gives no rights")(error.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Absent::broke("closing the memory to other processes")(error.into()))?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)
        .map_err(|error| Absent::broke("forbidding core files")(error.into()))?;
    Ok(State::Entered)
}
