// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Copies of an engine's files: what a kill at this moment would leave.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, ftruncate, seek};
use rustix::io::Errno;
use tmem_pages::EngineFiles;

/// Copies both files as they are now.
pub(crate) fn copy(files: &EngineFiles) -> EngineFiles {
    let copy = EngineFiles::anonymous().unwrap();
    copy_data(&files.map, &copy.map);
    copy_data(&files.frames, &copy.frames);
    copy
}

/// Copies the parts of a file that take memory; the rest is holes in the copy as well.
fn copy_data(from: &OwnedFd, to: &OwnedFd) {
    let from: File = from.try_clone().unwrap().into();
    let to: File = to.try_clone().unwrap().into();
    let length = from.metadata().unwrap().len();
    ftruncate(&to, length).unwrap();
    let mut at = 0;
    while at < length {
        let data = match seek(&from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => panic!("{error}"),
        };
        at = seek(&from, SeekFrom::Hole(data)).unwrap();
        let mut bytes = vec![0; usize::try_from(at - data).unwrap()];
        from.read_exact_at(&mut bytes, data).unwrap();
        to.write_all_at(&bytes, data).unwrap();
    }
}
