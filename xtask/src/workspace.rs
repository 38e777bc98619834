// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things lie in the working tree.

use std::path::{Path, PathBuf};

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The folder of the guest driver's sources.
pub(crate) fn driver() -> PathBuf {
    root().join("guest-driver")
}
