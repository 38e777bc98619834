// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `remote-store` program: one that is named, or the one that cargo builds now.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

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
        None => build()?,
    };
    Ok(BUILT.get_or_init(|| path))
}

fn build() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = here.ancestors().nth(2).unwrap_or(here);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace)
        .args(["build", "--release", "--bin", "remote-store", "--quiet"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("Cannot run cargo")?;
    if !output.status.success() {
        bail!("Cannot build remote-store: {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let artifact = |line: &str| -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == "remote-store";
        let path = message["executable"].as_str().filter(|_| is_it)?;
        Some(path.into())
    };
    text.lines()
        .find_map(artifact)
        .context("cargo built no program remote-store")
}
