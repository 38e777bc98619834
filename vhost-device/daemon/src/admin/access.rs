// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who may use the admin API, decided by what the kernel says of the peer.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Error;

/// Users whom the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// These user ids.
    pub uids: Vec<u32>,
    /// And processes that have this group, as their own or among the supplementary ones.
    pub group: Option<u32>,
}

/// Credentials of a peer at the moment when it connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups.
    pub(super) groups: Vec<u32>,
}

impl Access {
    /// Root, the daemon's own user, and the members of `group`.
    #[must_use]
    pub fn new(group: Option<u32>) -> Self {
        // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
        let own = unsafe { libc::geteuid() };
        Self {
            uids: vec![0, own],
            group,
        }
    }

    /// Whether `peer` may ask.
    pub(super) fn admits(&self, peer: &Peer) -> bool {
        self.uids.contains(&peer.uid)
            || self
                .group
                .is_some_and(|group| peer.gid == group || peer.groups.contains(&group))
    }
}

impl Peer {
    /// Asks the kernel about the other end of a connected Unix socket.
    ///
    /// The groups come from the socket as well (`SO_PEERGROUPS`): they are those of the process
    /// that connected, so neither a reused process id nor a slow user database can mislead.
    ///
    /// # Errors
    /// What `getsockopt` said.
    pub(super) fn of(stream: &tokio::net::UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        // SAFETY: the descriptor belongs to `stream`, which outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
        Ok(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: peer_groups(fd)?,
        })
    }
}

/// Supplementary groups of the peer of a Unix socket.
fn peer_groups(fd: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // Most users have a handful; the kernel says how many there are if it is more.
    let mut groups = vec![0u32; 32];
    loop {
        let size = size_of::<u32>();
        let mut length = libc::socklen_t::try_from(groups.len() * size)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: `groups` has `length` writable bytes, and `length` is a valid socklen_t; the
        // kernel writes at most that many bytes of gid_t, which is u32.
        let result = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size;
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Number of the group called `name`; a name that is a number stands for itself.
///
/// # Errors
/// [`Error::NoGroup`] if there is none, [`Error::GroupLookup`] if the group database failed.
pub fn group_id(name: &str) -> Result<u32, Error> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let no_group = || Error::NoGroup { name: name.into() };
    let c_name = CString::new(name).map_err(|_| no_group())?;
    // A group's members stand in the buffer too; large groups need more than the first try.
    let mut buffer: Vec<libc::c_char> = vec![0; 4096];
    loop {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is to a live local of the type that the function asks for, and
        // the buffer's length is the true one.
        let result = unsafe {
            libc::getgrnam_r(
                c_name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match result {
            0 if found.is_null() => return Err(no_group()),
            0 => {
                // SAFETY: a result of 0 with `found` set means that the entry was filled in.
                return Ok(unsafe { entry.assume_init() }.gr_gid);
            }
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            // The C library may say "no such entry" by any of these.
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Err(no_group()),
            other => {
                let source = io::Error::from_raw_os_error(other);
                return Err(Error::GroupLookup {
                    name: name.into(),
                    source,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Peer, group_id};
    use crate::admin::Error;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn root_own_user_and_group_members_are_admitted_and_nobody_else() {
        let access = Access {
            uids: vec![0, 990],
            group: Some(77),
        };
        assert!(access.admits(&peer(0, 0, &[])), "root");
        assert!(access.admits(&peer(990, 5, &[])), "the daemon's own user");
        assert!(access.admits(&peer(1000, 77, &[])), "by primary group");
        assert!(
            access.admits(&peer(1000, 1000, &[4, 77])),
            "by supplementary group"
        );
        assert!(!access.admits(&peer(1000, 1000, &[4, 27])), "a stranger");
        assert!(!access.admits(&peer(77, 990, &[])), "ids of the wrong kind");
    }

    #[test]
    fn without_a_group_only_users_count() {
        let access = Access {
            uids: vec![0],
            group: None,
        };
        assert!(
            !access.admits(&peer(1000, 0, &[0])),
            "group root is not user root"
        );
        assert!(access.admits(&peer(0, 1000, &[])));
    }

    #[test]
    fn the_daemons_own_user_is_always_among_the_users() {
        let access = Access::new(Some(12));
        assert!(access.uids.contains(&0));
        assert_eq!(access.group, Some(12));
        // SAFETY: geteuid takes nothing, touches nothing and cannot fail.
        assert!(access.uids.contains(&unsafe { libc::geteuid() }));
    }

    #[tokio::test]
    async fn the_kernel_tells_the_peers_ids() {
        let (one, _other) = tokio::net::UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| -> Vec<u32> {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            line.split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect()
        };
        assert_eq!(peer.uid, field("Uid:")[1]);
        assert_eq!(peer.gid, field("Gid:")[1]);
        assert_eq!(peer.groups, field("Groups:"));
    }

    #[test]
    fn groups_are_found_by_name_and_by_number() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert_eq!(group_id("4711").unwrap(), 4711);
        assert!(matches!(
            group_id("no-such-group-here"),
            Err(Error::NoGroup { .. })
        ));
        assert!(matches!(group_id("a\0b"), Err(Error::NoGroup { .. })));
    }
}
