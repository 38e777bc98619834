// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `remote-store` program: one that is named, or the one that cargo builds now.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;

/// Names a program to use instead of building one.
pub const PROGRAM: &str = "TMEM_REMOTE_STORE";

/// The store's program, optimised; built at most once in this process.
///
/// # Errors
/// If it cannot be built.
pub fn remote_store() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(built) = BUILT.get() {
        return Ok(built);
    }
    let path = match std::env::var_os(PROGRAM) {
        Some(named) => PathBuf::from(named),
        None => {
            let [path] = tmem_programs::host_programs(["remote-store"])?;
            path
        }
    };
    Ok(BUILT.get_or_init(|| path))
}
