// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The keeper's file tree: made of parts of the host's, with nothing else in it.
//!
//! ```text
//! /            an empty tmpfs, read-only
//! ├─ lib …     the system's libraries          read-only
//! ├─ …         what may be started             read-only
//! ├─ …         the sockets' folders            writable, nothing in them can be started
//! ├─ …         folders of stores' sockets      read-only
//! ├─ dev/null
//! └─ proc      this process and its children
//! ```
//! The parts are taken as detached copies before the process leaves the host's mounts, so that
//! whatever is missing is found while nothing has changed yet, and the empty root may cover any of
//! their places.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::{Absent, KeeperPlan};

/// Where a dynamically linked program's libraries are, and the list of them.
pub(super) const LIBRARIES: [&str; 7] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
];

/// Where the tree is put together, since it is on every host and nothing in it is needed meanwhile.
const STAGE: &str = "/proc";

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const WRITABLE: u64 = libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const DEVICE: u64 = libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID;

/// A part of the host's tree, detached.
struct Part {
    mount: OwnedFd,
    directory: bool,
}

/// What the private tree is made of.
pub(super) struct Tree {
    /// By path without links, so that what holds another comes first.
    parts: BTreeMap<PathBuf, Part>,
    /// Links on the way to them, and where they point.
    links: BTreeMap<PathBuf, PathBuf>,
}

impl Tree {
    /// Takes copies of the parts.
    pub(super) fn gather(plan: &KeeperPlan) -> Result<Self, Absent> {
        let mut tree = Self {
            parts: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        let libraries = LIBRARIES.map(Path::new);
        for path in libraries.into_iter().filter(|path| path.exists()) {
            tree.add(path, READ_ONLY)?;
        }
        for path in &plan.executable {
            tree.add(path, READ_ONLY)?;
        }
        for path in plan.writable_dirs.iter().chain(&plan.trace_dir) {
            tree.add(path, WRITABLE)?;
        }
        // To connect to a socket is not to write to its folder.
        for path in plan.reach.iter().flat_map(|reach| &reach.folders) {
            if !plan.writable_dirs.contains(path) {
                tree.add(path, READ_ONLY | libc::MOUNT_ATTR_NOEXEC)?;
            }
        }
        tree.add(Path::new("/dev/null"), DEVICE)?;
        Ok(tree)
    }

    fn add(&mut self, path: &Path, attributes: u64) -> Result<(), Absent> {
        let step = || format!("taking {} into the private tree", path.display());
        let found = self.resolve(path).map_err(Absent::broke(step()))?;
        let directory = fs::metadata(&found)
            .map_err(Absent::broke(step()))?
            .is_dir();
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags |= OpenTreeFlags::AT_RECURSIVE;
        let mount = match open_tree(CWD, &found, flags) {
            Err(Errno::NOSYS | Errno::PERM) => {
                return Err(Absent::Reason(
                    "the kernel does not let this process copy mounts; Linux 5.12 does".into(),
                ));
            }
            other => other.map_err(|error| Absent::broke(step())(error.into()))?,
        };
        set_attributes(&mount, attributes).map_err(Absent::broke(step()))?;
        self.parts.insert(found, Part { mount, directory });
        Ok(())
    }

    /// The path without links; the links are noted, so that the given path leads there too.
    fn resolve(&mut self, path: &Path) -> io::Result<PathBuf> {
        let whole = std::path::absolute(path)?;
        let mut at = PathBuf::from("/");
        for component in whole.components() {
            match component {
                Component::Normal(name) => at.push(name),
                Component::ParentDir => {
                    at.pop();
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
            if at.is_symlink() {
                // Points where the kernel would end up, however many links that takes.
                let target = at.canonicalize()?;
                self.links.insert(at, target.clone());
                at = target;
            }
        }
        Ok(at)
    }

    /// Makes the tree this process's root. Must be in a mount namespace of its own.
    pub(super) fn enter(self) -> Result<(), Absent> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(|error| broke("keeping mounts to itself", error))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        // Files are made in it as places to mount on, and hold nothing.
        let options = c"mode=0755,size=64k,nr_inodes=1k";
        mount("tmpfs", STAGE, "tmpfs", flags, options)
            .map_err(|error| broke("mounting an empty root", error))?;
        for (path, part) in &self.parts {
            let step = || format!("placing {}", path.display());
            place(path, part).map_err(Absent::broke(step()))?;
        }
        for (link, target) in &self.links {
            let step = || format!("placing link {}", link.display());
            place_link(link, target).map_err(Absent::broke(step()))?;
        }
        place_proc().map_err(Absent::broke("mounting /proc"))?;
        let root = open_tree(CWD, STAGE, OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .map_err(|error| broke("opening the new root", error))?;
        set_flags(&root, READ_ONLY | libc::MOUNT_ATTR_NOEXEC, 0)
            .map_err(Absent::broke("making the new root read-only"))?;
        chdir(STAGE).map_err(|error| broke("going to the new root", error))?;
        // The old root lies on top of the new one after this, and is taken off.
        pivot_root(".", ".").map_err(|error| broke("changing roots", error))?;
        unmount(".", UnmountFlags::DETACH).map_err(|error| broke("leaving the old root", error))?;
        chdir("/").map_err(|error| broke("going to the new root", error))
    }
}

fn broke(step: &str, error: Errno) -> Absent {
    Absent::broke(step)(error.into())
}

/// Where `path` will be, as long as the tree is being put together.
fn staged(path: &Path) -> PathBuf {
    Path::new(STAGE).join(path.strip_prefix("/").unwrap_or(path))
}

fn place(path: &Path, part: &Part) -> io::Result<()> {
    let target = staged(path);
    // A part within another part finds its place there.
    if !target.exists() {
        if part.directory {
            fs::create_dir_all(&target)?;
        } else {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::File::create(&target)?;
        }
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&part.mount, "", CWD, &target, flags)?;
    Ok(())
}

fn place_link(link: &Path, target: &Path) -> io::Result<()> {
    let at = staged(link);
    if at.is_symlink() {
        // It lies within a part.
        return Ok(());
    }
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    std::os::unix::fs::symlink(target, at)
}

/// A `/proc` that shows only processes which this one may look into.
fn place_proc() -> io::Result<()> {
    let target = staged(Path::new(STAGE));
    fs::create_dir_all(&target)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = c"subset=pid,hidepid=ptraceable";
    mount("proc", &target, "proc", flags, options)?;
    Ok(())
}

/// Sets attributes on a detached mount and those in it, and takes it out of the host's propagation.
fn set_attributes(mount: &OwnedFd, attributes: u64) -> io::Result<()> {
    set_flags(mount, attributes, libc::AT_RECURSIVE)
}

fn set_flags(mount: &OwnedFd, attributes: u64, flags: libc::c_int) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the path is a C string, and the structure is the one that the
    // call reads, with its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
