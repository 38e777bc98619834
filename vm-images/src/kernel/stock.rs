// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stock kernel's own modules: which files a module needs, and what is in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Kernel;
use crate::chroot::Bind;
use crate::error::{Error, IoContext, Result};
use crate::run;
use crate::toolchain::Toolchain;

/// Writes depmod's index beside the modules, as the package's script would.
pub(super) fn index(toolchain: &Toolchain, modules: &Path, release: &str) -> Result<()> {
    // depmod wants lib/modules/RELEASE below the folder it is given.
    let base = modules.ancestors().nth(3).unwrap_or(modules);
    let binds = [Bind {
        host: base,
        inside: "/output",
    }];
    let mut depmod = toolchain.command(&binds, &["depmod", "-b", "/output", release]);
    run::output(&mut depmod, "depmod", &toolchain.cache.log("kernel")).map(drop)
}

impl Kernel {
    /// The files, relative to [`Kernel::modules`], that `modprobe` of these modules loads. One
    /// that is built in needs none.
    pub(crate) fn stock_modules(&self, names: &[String]) -> Result<BTreeSet<String>> {
        let read = |name: &str| {
            let path = self.modules().join(name);
            fs::read_to_string(&path).context("read", &path)
        };
        let (index, built_in) = (read("modules.dep")?, read("modules.builtin")?);
        let mut files = BTreeSet::new();
        for name in names {
            match needed(&index, name) {
                Some(needed) => files.extend(needed),
                None if built_in.lines().any(|file| is_module(file, name)) => {}
                None => {
                    return Err(Error::KernelUnfit {
                        release: self.release().to_owned(),
                        reason: format!("it has no module {name}"),
                    });
                }
            }
        }
        Ok(files)
    }

    /// A stock module's content, unpacked.
    pub(crate) fn read_module(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.modules().join(file);
        if !file.ends_with(".xz") {
            return fs::read(&path).context("read", &path);
        }
        let mut xz = self.toolchain().program("usr/bin/xz");
        let output = xz
            .arg("-dc")
            .arg(&path)
            .output()
            .map_err(|source| Error::Spawn {
                program: "xz".to_owned(),
                source,
            })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::Output {
            what: "xz",
            detail: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// The line of `modules.dep` for a module: its file, then what it needs.
fn needed(index: &str, name: &str) -> Option<Vec<String>> {
    index.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        is_module(file, name).then(|| {
            std::iter::once(file)
                .chain(needs.split_whitespace())
                .map(str::to_owned)
                .collect()
        })
    })
}

/// File names write `-` where module names have `_`.
fn is_module(file: &str, name: &str) -> bool {
    let stem = file.rsplit('/').next().and_then(|f| f.split('.').next());
    stem.is_some_and(|stem| stem.replace('-', "_") == name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_along_and_dashes_do_not_matter() {
        let index = "kernel/a/virtio-blk.ko.xz: kernel/b/x.ko.xz\nkernel/b/x.ko.xz:\n";
        assert_eq!(
            needed(index, "virtio_blk").expect("there"),
            ["kernel/a/virtio-blk.ko.xz", "kernel/b/x.ko.xz"]
        );
        assert_eq!(needed(index, "virtio"), None);
    }
}
