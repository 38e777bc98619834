// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Keys of cached artefacts: a hash over everything that went into one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{IoContext, Result};

/// Collects labelled inputs. Lengths are hashed as well, so that two lists of inputs never run
/// into each other.
pub(crate) struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// A key for one kind of artefact; `recipe` is counted up when the way it is built changes.
    pub(crate) fn new(kind: &str, recipe: u32) -> Self {
        Self(Sha256::new()).text(kind).text(&recipe.to_string())
    }

    /// Adds a piece of text.
    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds bytes.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0
            .update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a file's contents and mode, following links.
    pub(crate) fn file(self, path: &Path) -> Result<Self> {
        let mode = fs::metadata(path)
            .context("read", path)?
            .permissions()
            .mode();
        let content = fs::read(path).context("read", path)?;
        Ok(self.bytes(&mode.to_le_bytes()).bytes(&content))
    }

    /// The key: 16 hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        let hash = self.0.finalize();
        hash.iter().take(8).map(|b| format!("{b:02x}")).collect()
    }
}

/// All files below `folder`, sorted, links followed, hidden files included.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).context("read folder", &next)? {
            let path = entry.context("read folder", &next)?.path();
            if fs::metadata(&path).context("read", &path)?.is_dir() {
                open.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_join_to_the_same_text_have_different_keys() {
        let a = KeyBuilder::new("t", 1).text("ab").text("c").finish();
        let b = KeyBuilder::new("t", 1).text("a").text("bc").finish();
        assert_ne!(a, b);
        assert_eq!(a.len(), 16);
    }

    #[test]
    fn key_changes_with_content_and_mode_of_a_file() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("a");
        fs::write(&file, "1").expect("write");
        let key = || {
            let key = KeyBuilder::new("t", 1).file(&file).expect("hash");
            key.finish()
        };
        let first = key();
        assert_eq!(first, key());
        fs::write(&file, "2").expect("write");
        let second = key();
        assert_ne!(first, second);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("chmod");
        assert_ne!(second, key());
    }
}
