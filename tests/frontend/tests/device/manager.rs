// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A service manager, as far as the daemon needs one: it keeps descriptors by name, and forgets them.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;

/// Comes after all that was said before.
const BARRIER: &[u8] = b"BARRIER";

type Kept = Arc<Mutex<BTreeMap<String, OwnedFd>>>;

/// Keeps what is sent to its socket until it is dropped.
pub(crate) struct Manager {
    folder: TempDir,
    kept: Kept,
    /// Barriers that were heard.
    barriers: Arc<AtomicUsize>,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let kept = Kept::default();
        let into = Arc::clone(&kept);
        let barriers = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&barriers);
        // Ends with the process: nobody closes the socket before.
        thread::spawn(move || {
            loop {
                hear(&socket, &into, &count);
            }
        });
        Self {
            folder,
            kept,
            barriers,
        }
    }

    /// Where it listens: `NOTIFY_SOCKET`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    /// Copies of what it keeps, by name, once it has heard all that was said.
    pub(crate) fn kept(&self) -> Vec<(String, OwnedFd)> {
        let own = UnixDatagram::unbound().unwrap();
        let heard = self.barriers.load(Ordering::Acquire);
        own.send_to(BARRIER, self.socket()).unwrap();
        while self.barriers.load(Ordering::Acquire) == heard {
            thread::yield_now();
        }
        let kept = self.kept.lock().unwrap();
        kept.iter()
            .map(|(name, file)| (name.clone(), file.try_clone().unwrap()))
            .collect()
    }
}

fn hear(socket: &UnixDatagram, kept: &Kept, barriers: &AtomicUsize) {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file: Option<OwnedFd> = files.flatten().next();
    if &bytes[..received.bytes] == BARRIER {
        barriers.fetch_add(1, Ordering::Release);
        return;
    }
    let text = String::from_utf8_lossy(&bytes[..received.bytes]).into_owned();
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
    let Some(name) = name else { return };
    let mut kept = kept.lock().unwrap();
    match file {
        Some(file) if text.contains("FDSTORE=1") => drop(kept.insert(name.to_owned(), file)),
        _ if text.contains("FDSTOREREMOVE=1") => drop(kept.remove(name)),
        _ => {}
    }
}

/// A command whose process finds `files` where a service manager puts them.
pub(crate) fn hand_over(program: &Path, files: Vec<(String, OwnedFd)>) -> std::process::Command {
    use command_fds::{CommandFdExt, FdMapping};
    // The shell knows the process id that the program will have.
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
        .arg(program);
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    command.env("LISTEN_FDNAMES", names.join(":"));
    command.env("LISTEN_FDS", files.len().to_string());
    let mappings = (3..)
        .zip(files)
        .map(|(child_fd, (_, parent_fd))| FdMapping {
            parent_fd,
            child_fd,
        });
    command.fd_mappings(mappings.collect()).unwrap();
    command
}
