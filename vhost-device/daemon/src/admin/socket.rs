// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The socket file: made fresh, with the modes that its callers need.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::Error;

/// Listens at `path`. A socket that an ended daemon left there is replaced; anything else at that
/// path is left alone. The file is open to its owner, and to `group` if there is one.
///
/// # Errors
/// [`Error::InUse`] if somebody answers at `path`, [`Error::Bind`] for all else.
pub fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, Error> {
    let name = || path.display().to_string();
    if UnixStream::connect(path).is_ok() {
        return Err(Error::InUse { path: name() });
    }
    make(path, group).map_err(|source| Error::Bind {
        path: name(),
        source,
    })
}

fn make(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => fs::remove_file(path)?,
        // bind says that the address is taken.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Until here the file has the umask's modes. That opens nothing: callers are judged by their
    // credentials, whatever the file says.
    chown(path, None, group)?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_left_over_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(bind(&path, None).unwrap());
        assert!(path.exists(), "closing a listener leaves its file");
        let _again = bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let _first = bind(&path, None).unwrap();
        assert!(matches!(bind(&path, None), Err(Error::InUse { .. })));
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, None), Err(Error::Bind { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_group_may_open_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let own = fs::metadata(dir.path()).unwrap().gid();
        let _listener = bind(&path, Some(own)).unwrap();
        let file = fs::metadata(&path).unwrap();
        assert_eq!((file.mode() & 0o777, file.gid()), (0o660, own));
    }
}
