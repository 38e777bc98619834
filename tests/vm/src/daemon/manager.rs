// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A service manager, as far as the daemon needs one to outlive its own end: it keeps descriptors by
//! name (`sd_pid_notify_with_fds(3)`) and hands them to the next process of the service
//! (`sd_listen_fds_with_names(3)`).

use command_fds::{CommandFdExt, FdMapping};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::collections::BTreeMap;
use std::io::{Error, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A message takes less.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Descriptors with one message; the daemon sends one.
const MESSAGE_FILES_MAX: usize = 8;

/// The service manager. Its thread ends with the test's process.
#[derive(Debug)]
pub(super) struct Manager {
    socket: PathBuf,
    kept: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
}

impl Manager {
    /// A manager that listens at `socket`.
    pub(super) fn listen(socket: PathBuf) -> Result<Self> {
        let listener = UnixDatagram::bind(&socket)?;
        let kept = Arc::default();
        let into = Arc::clone(&kept);
        std::thread::spawn(move || while hear(&listener, &into).is_ok() {});
        Ok(Self { socket, kept })
    }

    /// A command that runs `program`, with what is kept where a service finds it.
    pub(super) fn command(&self, program: &Path) -> Result<Command> {
        let mut names = Vec::new();
        let mut mappings = Vec::new();
        for (child_fd, (name, file)) in (3..).zip(lock(&self.kept).iter()) {
            names.push(name.clone());
            mappings.push(FdMapping {
                parent_fd: file.try_clone()?,
                child_fd,
            });
        }
        // The shell knows the process id that the program will have.
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
            .arg(program)
            .env("NOTIFY_SOCKET", &self.socket)
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("LISTEN_FDS", names.len().to_string())
            .fd_mappings(mappings)
            .map_err(Error::other)?;
        Ok(command)
    }
}

/// Receives a message and does what it says about descriptors.
fn hear(listener: &UnixDatagram, kept: &Mutex<BTreeMap<String, OwnedFd>>) -> Result<()> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MESSAGE_FILES_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(listener, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let file: Option<OwnedFd> = files.flatten().next();
    let text = String::from_utf8_lossy(bytes.get(..received.bytes).unwrap_or_default());
    if let Some(name) = text.lines().find_map(|line| line.strip_prefix("FDNAME=")) {
        let says = |what: &str| text.lines().any(|line| line == what);
        match file {
            Some(file) if says("FDSTORE=1") => {
                lock(kept).insert(name.to_owned(), file);
            }
            None if says("FDSTOREREMOVE=1") => {
                lock(kept).remove(name);
            }
            _ => {}
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds it can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    fn say(manager: &Manager, text: &str, file: Option<&OwnedFd>) {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.connect(&manager.socket).expect("it listens");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files: Vec<_> = file.map(AsFd::as_fd).into_iter().collect();
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        }
        let bytes = [IoSlice::new(text.as_bytes())];
        sendmsg(&socket, &bytes, &mut control, SendFlags::empty()).expect("it is taken");
    }

    /// What a program that the manager starts finds, once it has heard all that it was told.
    fn found(manager: &Manager, names: usize) -> String {
        let start = std::time::Instant::now();
        while lock(&manager.kept).len() != names {
            assert!(start.elapsed().as_secs() < 30, "the manager heard nothing");
            std::thread::yield_now();
        }
        let mut command = manager.command(Path::new("/bin/sh")).expect("a command");
        command.args([
            "-c",
            "echo $LISTEN_FDNAMES; [ $LISTEN_PID = $$ ] && cat <&3",
        ]);
        let output = command.output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn what_is_kept_is_found_by_the_next_process_and_what_is_forgotten_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let manager = Manager::listen(folder.path().join("notify")).expect("it listens");
        let path = folder.path().join("file");
        std::fs::write(&path, "kept").expect("written");
        let file = OwnedFd::from(std::fs::File::open(&path).expect("it is there"));
        say(&manager, "READY=1", None);
        say(&manager, "FDSTORE=1\nFDNAME=b", Some(&file));
        say(&manager, "FDSTORE=1\nFDNAME=a", Some(&file));
        assert_eq!(found(&manager, 2), "a:b\nkept");
        // The first one has been read to its end.
        let file = OwnedFd::from(std::fs::File::open(&path).expect("it is there"));
        say(&manager, "FDSTORE=1\nFDNAME=b", Some(&file));
        say(&manager, "FDSTOREREMOVE=1\nFDNAME=a", None);
        assert_eq!(found(&manager, 1), "b\nkept");
    }
}
