// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes cpio archives of the kind that the kernel unpacks as its first root ("newc"): everything
//! belongs to root and has no date, so the same inputs give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The files of an archive by their path, without a leading slash. Folders above a file come by
/// themselves.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    entries: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Archive {
    /// Adds or replaces a regular file; `mode` holds the permission bits.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.add(path, REGULAR | (mode & 0o7777), content);
    }

    /// Adds a folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.add(path, FOLDER | 0o755, Vec::new());
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.add(path, LINK | 0o777, target.as_bytes().to_vec());
    }

    /// Whether something has this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        let path = path.trim_matches('/');
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        for parent in parents {
            if !self.has(parent) {
                self.entries
                    .insert(parent.to_owned(), (FOLDER | 0o755, Vec::new()));
            }
        }
        self.entries.insert(path.to_owned(), (mode, content));
    }

    /// Writes the archive.
    pub(crate) fn write(&self, mut out: impl Write) -> io::Result<()> {
        // Folders sort before what is in them, so each exists when its files come.
        for (number, (path, (mode, content))) in (1..).zip(&self.entries) {
            entry(&mut out, number, path, *mode, content)?;
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[])?;
        out.flush()
    }
}

fn entry(out: &mut impl Write, number: u32, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
    let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, path.to_owned());
    let size = u32::try_from(data.len()).map_err(too_large)?;
    let name_size = u32::try_from(path.len() + 1).map_err(too_large)?;
    let links = if mode & FOLDER != 0 && mode & REGULAR == 0 {
        2
    } else {
        1
    };
    // Inode, mode, owner, group, links, date, size, four device numbers, length of name, checksum.
    let header = [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
    write!(out, "070701")?;
    for field in header {
        write!(out, "{field:08x}")?;
    }
    out.write_all(path.as_bytes())?;
    // The header has 110 bytes; name and data end on multiples of four.
    let name_end = 110 + path.len() + 1;
    out.write_all(&[0; 4][..1 + padding(name_end)])?;
    out.write_all(data)?;
    out.write_all(&[0; 4][..padding(data.len())])
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn every_part_is_aligned_and_the_trailer_is_last() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o755, b"12345".to_vec());
        archive.link("l", "a/b/c");
        let mut bytes = Vec::new();
        archive.write(&mut bytes).expect("write");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("ASCII");
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 5, "a, a/b, a/b/c, l and the trailer");
        assert!(starts.iter().all(|at| at % 4 == 0));
        let names: Vec<&str> = starts
            .iter()
            .filter_map(|at| text[at + 110..].split('\0').next())
            .collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "l", "TRAILER!!!"]);
        assert!(text[starts[2]..].starts_with("0707010000000300008" /* inode 3, regular */));
    }

    #[test]
    fn real_cpio_reads_what_was_written() {
        let there = Command::new("cpio").arg("--version").output().is_ok();
        if !there {
            eprintln!("skipped: no cpio on this machine");
            return;
        }
        let dir = tempfile::tempdir().expect("temporary folder");
        let mut archive = Archive::default();
        archive.file("x/y", 0o640, vec![7; 4097]);
        archive.link("x/l", "y");
        archive.folder("empty");
        let mut child = Command::new("cpio")
            .args(["-idm", "--quiet"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("start");
        archive
            .write(child.stdin.take().expect("pipe"))
            .expect("write");
        assert!(child.wait().expect("end").success());
        let read = std::fs::read(dir.path().join("x/l")).expect("read by the link");
        assert_eq!(read, vec![7; 4097]);
        assert!(dir.path().join("empty").is_dir());
    }
}
