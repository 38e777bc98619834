// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The user that the daemon runs as.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;

use rustix::process::{Gid, Uid, geteuid, getuid};
use rustix::thread::{CapabilitySet, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{Absent, State, capabilities};

/// Groups of one user; the kernel's own limit.
const GROUPS_MAX: usize = 65_536;

/// The largest entry of the user database that is read, in bytes.
const ENTRY_BYTES_MAX: usize = 1 << 20;

/// Whom the process becomes.
#[derive(Debug)]
pub(super) enum Target {
    /// Who it is already.
    Same,
    /// This user, with these groups.
    User {
        uid: Uid,
        gid: Gid,
        groups: Vec<Gid>,
    },
}

impl Target {
    /// Looks up `user`, as long as the user database can be read. A process that is not root stays
    /// who it is, whatever `user` says: it has given up being anyone else.
    pub(super) fn choose(user: Option<&str>) -> Result<Self, Absent> {
        if !getuid().is_root() && !geteuid().is_root() {
            return Ok(Self::Same);
        }
        let Some(name) = user else {
            return Err(Absent::Reason(
                "started as root, and no user to become is configured".into(),
            ));
        };
        let rights = CapabilitySet::SETUID | CapabilitySet::SETGID;
        if !capabilities::has(rights) {
            return Err(Absent::Reason(format!(
                "started as root without the capabilities to become {name:?}"
            )));
        }
        let c_name = CString::new(name)
            .map_err(|_| Absent::Reason(format!("no user can be called {name:?}")))?;
        let lookup = || format!("looking up user {name:?}");
        let Some((uid, gid)) = ids(&c_name).map_err(Absent::broke(lookup()))? else {
            return Err(Absent::Reason(format!(
                "there is no user {name:?} to become; systemd-sysusers makes it"
            )));
        };
        if uid == 0 {
            return Err(Absent::Reason(format!("user {name:?} is root itself")));
        }
        let groups = groups(&c_name, gid).map_err(Absent::broke(lookup()))?;
        Ok(Self::User {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: groups.into_iter().map(Gid::from_raw).collect(),
        })
    }

    /// Becomes it, with no way back.
    pub(super) fn become_it(self) -> Result<State, Absent> {
        if let Self::User { uid, gid, groups } = self {
            // The groups first: changing them takes a right that goes with the user.
            set_thread_groups(&groups)
                .map_err(|error| Absent::broke("taking the user's groups")(error.into()))?;
            set_thread_res_gid(gid, gid, gid)
                .map_err(|error| Absent::broke("taking the user's group")(error.into()))?;
            set_thread_res_uid(uid, uid, uid)
                .map_err(|error| Absent::broke("becoming the user")(error.into()))?;
        }
        unprivileged()
    }
}

/// Whether the process is anyone but root.
pub(super) fn unprivileged() -> Result<State, Absent> {
    if getuid().is_root() || geteuid().is_root() {
        return Err(Absent::Reason(
            "still root, without a user to become".into(),
        ));
    }
    Ok(State::Entered)
}

/// User and group number of user `name`.
pub(super) fn ids(name: &CStr) -> io::Result<Option<(u32, u32)>> {
    let mut buffer: Vec<libc::c_char> = vec![0; 4096];
    loop {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is to a live local of the type that the function asks for, and the
        // buffer's length is the true one.
        let result = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match result {
            0 if found.is_null() => return Ok(None),
            0 => {
                // SAFETY: a result of 0 with `found` set means that the entry was filled in.
                let entry = unsafe { entry.assume_init() };
                return Ok(Some((entry.pw_uid, entry.pw_gid)));
            }
            libc::ERANGE if buffer.len() < ENTRY_BYTES_MAX => buffer.resize(buffer.len() * 4, 0),
            // The C library may say "no such entry" by any of these.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            other => return Err(io::Error::from_raw_os_error(other)),
        }
    }
}

/// The groups that user `name` is a member of, with its own group `gid`.
fn groups(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0; 64];
    loop {
        let mut count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
        // SAFETY: the name is a C string, and `groups` has room for `count` numbers.
        let result =
            unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if result >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        if groups.len() >= GROUPS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        groups.resize(groups.len() * 4, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_their_groups_are_found_by_name() {
        assert_eq!(ids(c"root").unwrap(), Some((0, 0)));
        assert_eq!(ids(c"no-such-user-here").unwrap(), None);
        assert!(groups(c"root", 0).unwrap().contains(&0));
    }

    #[test]
    fn root_is_no_user_to_become() {
        let chosen = Target::choose(Some("root"));
        if getuid().is_root() {
            assert!(matches!(chosen, Err(Absent::Reason(_))));
        } else {
            assert!(matches!(chosen, Ok(Target::Same)));
        }
    }
}
