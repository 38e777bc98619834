// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Builds `virtio_tmem.ko` from a folder of driver sources against a prepared kernel tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::chroot::Bind;
use crate::error::{Error, IoContext, Result};
use crate::kernel::Kernel;
use crate::key::{self, KeyBuilder};
use crate::run;

/// Counted up when the way the module is built changes.
const RECIPE: u32 = 1;

/// How many builds of the module stay in the cache.
const KEPT: usize = 8;

/// The module's file name.
pub(crate) const FILE_NAME: &str = "virtio_tmem.ko";

/// A built module.
#[derive(Clone, Debug)]
pub struct Module {
    /// The module without debugging information, as it goes into guests.
    pub ko: PathBuf,
    /// The module with debugging information.
    pub debug_ko: PathBuf,
    /// What `modinfo` says of it.
    pub modinfo: String,
    /// The compilers' warnings, with the lines that belong to them; empty when there are none.
    pub warnings: String,
}

impl Module {
    /// Copies `driver_dir` (links followed, build leftovers left behind) into the cache and builds
    /// it there, unless the same contents were built for the same tree before. Warnings are
    /// printed each time, also when nothing had to be built.
    ///
    /// # Errors
    /// [`Error::NoDriver`] when the folder has no Kbuild, and [`Error::WithKernel`] around
    /// [`Error::Command`] when make fails, or [`Error::NoModule`] when it leaves no module.
    pub fn build(kernel: &Kernel, driver_dir: &Path) -> Result<Self> {
        let has = |name: &str| driver_dir.join(name).exists();
        if !has("Kbuild") && !has("Makefile") {
            return Err(Error::NoDriver {
                path: driver_dir.to_path_buf(),
            });
        }
        let sources = sources(driver_dir)?;
        let mut key = KeyBuilder::new("module", RECIPE).text(&kernel.tree().to_string_lossy());
        for (name, path) in &sources {
            key = key.text(&name.to_string_lossy()).file(path)?;
        }
        let toolchain = kernel.toolchain();
        let (cache, progress) = (&toolchain.cache, &toolchain.progress);
        let folder = cache.artefact("module", &key.finish(), progress, |partial| {
            let work = partial.join("build");
            for (name, path) in &sources {
                let to = work.join(name);
                if let Some(parent) = to.parent() {
                    fs::create_dir_all(parent).context("create folder", parent)?;
                }
                fs::copy(path, &to).context("copy", path)?;
            }
            make(kernel, partial, &work).map_err(kernel.failed("Building the module"))
        })?;
        cache.prune("module", KEPT)?;
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).context("read", &path)
        };
        let module = Self {
            ko: folder.join(FILE_NAME),
            debug_ko: folder.join("build").join(FILE_NAME),
            modinfo: read("modinfo")?,
            warnings: read("warnings")?,
        };
        if !module.warnings.is_empty() {
            progress.line("Warnings of the module's build:");
            eprintln!("{}", module.warnings);
        }
        Ok(module)
    }

    /// The stock modules that it needs.
    pub(crate) fn depends(&self) -> impl Iterator<Item = String> {
        let words = self
            .modinfo
            .lines()
            .find_map(|line| line.strip_prefix("depends:"))
            .unwrap_or_default();
        let names = words.split(',').map(str::trim);
        names.filter(|name| !name.is_empty()).map(str::to_owned)
    }
}

/// Runs make, and keeps what came of it in `folder`.
fn make(kernel: &Kernel, folder: &Path, work: &Path) -> Result<()> {
    let toolchain = kernel.toolchain();
    let label = format!("Module for {}", kernel.release());
    let mut step = toolchain.progress.step(&label);
    let log = toolchain.cache.log("module");
    match fs::remove_file(&log) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("remove", &log);
        }
        _ => {}
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let (local, compiler) = (kernel.local_version(), kernel.compiler());
    let script = format!(
        "make -j{jobs} -C /kernel {compiler} LOCALVERSION={local} M=/output modules\n\
         [ -e /output/{FILE_NAME} ] || exit 0
\
         strip --strip-debug -o /output/stripped.ko /output/{FILE_NAME}
\
         modinfo /output/stripped.ko > /output/modinfo"
    );
    let binds = [
        Bind {
            host: kernel.tree(),
            inside: "/kernel",
        },
        Bind {
            host: work,
            inside: "/output",
        },
    ];
    let mut command = toolchain.command(&binds, &["sh", "-ec", &script]);
    run::logged(&mut command, "Building the module", &log, &mut step)?;
    let stripped = work.join("stripped.ko");
    if !stripped.exists() {
        return Err(Error::NoModule {
            path: work.to_path_buf(),
            log,
        });
    }
    let ko = folder.join(FILE_NAME);
    fs::rename(&stripped, &ko).context("put in place", &ko)?;
    let description = work.join("modinfo");
    let text = fs::read_to_string(&description).context("read", &description)?;
    let text = text.replace("/output/stripped.ko", FILE_NAME);
    let output = fs::read_to_string(&log).context("read", &log)?;
    for (name, text) in [("modinfo", text), ("warnings", warnings(&output))] {
        let path = folder.join(name);
        fs::write(&path, text).context("write", &path)?;
    }
    let size = fs::metadata(&ko).context("read", &ko)?.len();
    step.done(&format!("{FILE_NAME}, {} KiB", size.div_ceil(1024)));
    Ok(())
}

/// The files of the driver's folder, by relative name, without what a build leaves.
fn sources(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let leftover = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let ends = [
            ".o", ".ko", ".mod", ".mod.c", ".cmd", ".order", ".symvers", ".rmeta", ".d",
        ];
        name.starts_with('.') || ends.iter().any(|end| name.ends_with(end))
    };
    // A folder with a Cargo.toml holds programs of the guest, whose changes are none of the module's.
    let crates = |name: &Path| {
        let first = name.components().next();
        first.is_some_and(|first| folder.join(first).join("Cargo.toml").exists())
    };
    Ok(key::files_below(folder)?
        .into_iter()
        .filter(|path| !leftover(path))
        .map(|path| {
            let name = path.strip_prefix(folder).unwrap_or(&path).to_path_buf();
            (name, path)
        })
        .filter(|(name, _)| !crates(name))
        .collect())
}

/// The part of make's output from the first warning on, without make's own lines.
fn warnings(output: &str) -> String {
    let own = |line: &&str| {
        line.starts_with("make")
            || line.starts_with("$ ")
            || line.starts_with("  ") && {
                // Kbuild's short lines: "  CC [M]  file".
                let word = line.trim_start().split(' ').next().unwrap_or_default();
                line.len() - line.trim_start().len() == 2
                    && !word.is_empty()
                    && word.chars().all(|c| c.is_ascii_uppercase())
            }
    };
    let lines: Vec<&str> = output.lines().filter(|line| !own(line)).collect();
    let first = lines
        .iter()
        .position(|l| l.contains("warning:") || l.contains("WARNING:"));
    first.map(|at| lines[at..].join("\n")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_found_among_the_lines_of_make() {
        let output = "$ unshare x\nmake: Entering directory '/kernel'\n  RUSTC [M] a.o\n\
            warning: unused variable: `x`\n --> /output/a.rs:3:9\n  |\n3 |     let x = 1;\n\
            \n  MODPOST Module.symvers\n  LD [M]  virtio_tmem.ko\nmake: Leaving directory\n";
        assert_eq!(
            warnings(output),
            "warning: unused variable: `x`\n --> /output/a.rs:3:9\n  |\n3 |     let x = 1;\n"
        );
        assert_eq!(warnings("  CC [M]  a.o\n  LD [M]  a.ko\n"), "");
    }

    #[test]
    fn modules_that_ours_needs_are_read_from_its_description() {
        let module = |modinfo: &str| Module {
            ko: PathBuf::new(),
            debug_ko: PathBuf::new(),
            modinfo: modinfo.to_owned(),
            warnings: String::new(),
        };
        let two = module("license: GPL\ndepends:        dm-mod,other\nname: x\n");
        assert_eq!(two.depends().collect::<Vec<_>>(), ["dm-mod", "other"]);
        assert_eq!(module("depends:        \n").depends().count(), 0);
    }

    #[test]
    fn build_leftovers_and_programs_are_not_sources() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for name in [
            "Kbuild",
            "a.rs",
            "a.o",
            "virtio_tmem.ko",
            ".a.o.cmd",
            "Module.symvers",
        ] {
            fs::write(dir.path().join(name), "").expect("write");
        }
        let program = dir.path().join("user/src");
        fs::create_dir_all(&program).expect("folder");
        fs::write(dir.path().join("user/Cargo.toml"), "").expect("write");
        fs::write(program.join("main.rs"), "").expect("write");
        let names: Vec<PathBuf> = sources(dir.path())
            .expect("list")
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, [PathBuf::from("Kbuild"), PathBuf::from("a.rs")]);
    }
}
