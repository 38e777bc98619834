// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files and sockets around a probe, made by the process that starts it.

use std::fs::{self, Permissions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A folder for one probe; removed when dropped.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    /// Handed to the probe, which inherits it.
    pub(crate) listener: UnixListener,
    /// Held open for the probe to find.
    _stranger: UnixListener,
    _abstract: UnixListener,
    _store: UnixListener,
    /// Of a store, and of somebody else.
    ports: [TcpListener; 2],
}

/// Paths beneath a probe's folder.
#[derive(Clone, Debug)]
pub(crate) struct Paths(pub(crate) PathBuf);

impl Paths {
    /// The folder of sockets, in which the keeper may remove and make some.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.0.join("sockets")
    }

    /// The probe's own listener.
    pub(crate) fn own_socket(&self) -> PathBuf {
        self.sockets().join("own")
    }

    /// A folder of stores' sockets.
    pub(crate) fn stores(&self) -> PathBuf {
        self.0.join("stores")
    }

    /// A store's.
    pub(crate) fn store_socket(&self) -> PathBuf {
        self.stores().join("socket")
    }

    /// A folder of programs that may be started.
    pub(crate) fn programs(&self) -> PathBuf {
        self.0.join("programs")
    }

    /// A folder that has nothing to do with the daemon.
    pub(crate) fn foreign(&self) -> PathBuf {
        self.0.join("foreign")
    }

    /// A program there.
    pub(crate) fn foreign_program(&self) -> PathBuf {
        self.foreign().join("true")
    }

    /// A socket there, on which another process listens.
    pub(crate) fn foreign_socket(&self) -> PathBuf {
        self.foreign().join("socket")
    }

    /// An abstract socket of another process.
    pub(crate) fn abstract_socket(&self) -> io::Result<SocketAddr> {
        SocketAddr::from_abstract_name(self.0.as_os_str().as_encoded_bytes())
    }
}

impl Place {
    /// Makes it, so that any user finds its way in.
    pub(crate) fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let paths = Paths(dir.path().to_owned());
        open_to_all(dir.path())?;
        fs::create_dir(paths.sockets())?;
        fs::set_permissions(paths.sockets(), Permissions::from_mode(0o777))?;
        // A program in either could be trusted, and only one folder is allowed.
        for folder in [paths.programs(), paths.foreign(), paths.stores()] {
            fs::create_dir(&folder)?;
            open_to_all(&folder)?;
        }
        fs::write(paths.foreign().join("file"), "not yours")?;
        for program in [paths.programs().join("true"), paths.foreign_program()] {
            fs::copy("/bin/true", &program)?;
            open_to_all(&program)?;
        }
        let listener = UnixListener::bind(paths.own_socket())?;
        let stranger = UnixListener::bind(paths.foreign_socket())?;
        let store = UnixListener::bind(paths.store_socket())?;
        for socket in [
            paths.own_socket(),
            paths.foreign_socket(),
            paths.store_socket(),
        ] {
            fs::set_permissions(socket, Permissions::from_mode(0o777))?;
        }
        let port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        Ok(Self {
            _store: store,
            ports: [port()?, port()?],
            _abstract: UnixListener::bind_addr(&paths.abstract_socket()?)?,
            dir,
            listener,
            _stranger: stranger,
        })
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths(self.dir.path().to_owned())
    }

    /// TCP ports of a store and of somebody else.
    pub(crate) fn ports(&self) -> io::Result<[u16; 2]> {
        let [store, other] = &self.ports;
        Ok([store.local_addr()?.port(), other.local_addr()?.port()])
    }

    pub(crate) fn listener(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

/// Where this program lies once more, for every user to start.
static COPY: Mutex<Option<(tempfile::TempDir, PathBuf)>> = Mutex::new(None);

/// This program, where every user may start it; until [`clean_up`].
pub(crate) fn program() -> io::Result<PathBuf> {
    let mut copy = COPY
        .lock()
        .map_err(|_| io::Error::other("a test panicked"))?;
    if let Some((_, path)) = &*copy {
        return Ok(path.clone());
    }
    let dir = tempfile::tempdir()?;
    open_to_all(dir.path())?;
    let path = dir.path().join("probe");
    // Another name is quicker than another file, where the file system allows it.
    let own = std::env::current_exe()?;
    if fs::hard_link(&own, &path).is_err() {
        fs::copy(&own, &path)?;
    }
    open_to_all(&path)?;
    *copy = Some((dir, path.clone()));
    Ok(path)
}

/// Removes what [`program`] has made.
pub(crate) fn clean_up() {
    if let Ok(mut copy) = COPY.lock() {
        *copy = None;
    }
}

fn open_to_all(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o755))
}
