// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The test guest's whole user space in one initramfs: real kmod and util-linux, the workloads,
//! busybox for the rest, the module, and the caller's files and scenario.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::chroot::Bind;
use crate::cpio::Archive;
use crate::error::{Error, IoContext, Result};
use crate::kernel::Kernel;
use crate::key::KeyBuilder;
use crate::module::{self, Module};
use crate::run;
use crate::toolchain::Toolchain;

/// Counted up when the way it is put together changes.
const RECIPE: u32 = 2;

/// How many builds stay in the cache.
const KEPT: usize = 8;

/// The first process.
const INIT: &str = include_str!("guest-init.sh");

/// Programs that the tests are about, so they must be the real ones; the rest is busybox.
const PROGRAMS: &[&str] = &[
    "usr/bin/bash",
    "usr/bin/dash",
    "usr/bin/kmod",
    "usr/bin/mount",
    "usr/bin/umount",
    "usr/sbin/mkswap",
    "usr/sbin/swapon",
    "usr/sbin/swapoff",
    "usr/sbin/blkdiscard",
    "usr/bin/dmesg",
    "usr/bin/fallocate",
    "usr/bin/taskset",
    "usr/bin/sort",
    "usr/bin/dd",
    "usr/bin/sha256sum",
    "usr/bin/shuf",
    "usr/bin/head",
    "usr/bin/tail",
    "usr/bin/stat",
    "usr/bin/cmp",
    "usr/bin/free",
    "usr/bin/vmstat",
    "usr/bin/ps",
];

/// Other names of these programs.
const LINKS: &[(&str, &str)] = &[
    ("usr/bin/sh", "dash"),
    ("usr/bin/lsmod", "kmod"),
    ("usr/sbin/modprobe", "../bin/kmod"),
    ("usr/sbin/rmmod", "../bin/kmod"),
    ("usr/sbin/insmod", "../bin/kmod"),
    ("usr/sbin/modinfo", "../bin/kmod"),
    ("usr/sbin/depmod", "../bin/kmod"),
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];

const FOLDERS: &[&str] = &[
    "dev", "proc", "sys", "tmp", "run", "root", "etc", "mnt", "var/lib",
];

const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const BUSYBOX: &str = "usr/bin/busybox";

/// A file of the host that goes into the guest.
#[derive(Clone, Debug)]
pub struct GuestFile {
    /// Absolute path in the guest.
    pub path: String,
    /// The file on the host. A program linked against the host's C library runs in the guest
    /// when that library is not newer than the guest's, and needs no other.
    pub source: PathBuf,
    /// Permission bits, such as 0o755.
    pub mode: u32,
}

/// What a caller puts into an initramfs.
#[derive(Clone, Debug)]
pub struct InitramfsSpec {
    /// Files of the host.
    pub files: Vec<GuestFile>,
    /// The text of the script (with its `#!` line) that the guest runs, with the words of the
    /// kernel command line as arguments. When it ends, the guest prints
    /// `guest: scenario ended with status N` and switches itself off.
    pub scenario: String,
    /// Programs of the toolchain root, by path without a leading slash. They lie in the guest's
    /// memory, so a small guest is better off with only those it runs.
    pub programs: Vec<String>,
    /// Stock kernel modules that `modprobe` shall find, such as `virtio_blk`; what they depend on
    /// comes along.
    pub modules: Vec<String>,
}

/// Paths of stress-ng in the toolchain root, for [`InitramfsSpec::programs`].
pub const STRESS_NG: &[&str] = &["usr/bin/stress-ng"];

/// Paths of redis in the toolchain root, for [`InitramfsSpec::programs`].
pub const REDIS: &[&str] = &[
    "usr/bin/redis-server",
    "usr/bin/redis-cli",
    "usr/bin/redis-benchmark",
];

/// Path of fio in the toolchain root, for [`InitramfsSpec::programs`].
pub const FIO: &[&str] = &["usr/bin/fio"];

impl InitramfsSpec {
    /// All workloads, no files, no stock modules, and this scenario.
    #[must_use]
    pub fn new(scenario: &str) -> Self {
        Self {
            files: Vec::new(),
            scenario: scenario.to_owned(),
            programs: [STRESS_NG, REDIS]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            modules: Vec::new(),
        }
    }
}

/// Builds initramfs files.
#[derive(Debug)]
pub struct Initramfs;

impl Initramfs {
    /// Gives the path of an initramfs made of these parts, building it when there is none.
    ///
    /// # Errors
    /// [`Error::NotInRoot`] for a program that the root lacks, [`Error::Io`] for a caller's file
    /// that cannot be read, [`Error::Command`] when depmod fails.
    pub fn build(
        toolchain: &Toolchain,
        kernel: &Kernel,
        module: &Module,
        spec: &InitramfsSpec,
    ) -> Result<PathBuf> {
        let key = key(toolchain, kernel, module, spec)?;
        let (cache, progress) = (toolchain.cache(), toolchain.progress());
        let folder = cache.artefact("initramfs", &key, progress, |partial| {
            let step = progress.step("Initramfs");
            let mut archive = Archive::default();
            base(toolchain, spec, &mut archive)?;
            modules(kernel, module, spec, &partial.join("stage"), &mut archive)?;
            for file in &spec.files {
                let content = fs::read(&file.source).context("read", &file.source)?;
                archive.file(&file.path, file.mode, content);
            }
            archive.file("scenario", 0o755, spec.scenario.clone().into_bytes());
            archive.file("init", 0o755, INIT.as_bytes().to_vec());
            let path = partial.join("initramfs.cpio");
            let out = File::create(&path).context("create", &path)?;
            archive.write(BufWriter::new(out)).context("write", &path)?;
            let size = fs::metadata(&path).context("read", &path)?.len();
            step.done(&format!("{:.1} MiB", mebibytes(size)));
            Ok(())
        })?;
        cache.prune("initramfs", KEPT)?;
        Ok(folder.join("initramfs.cpio"))
    }
}

fn mebibytes(bytes: u64) -> f64 {
    // A tenth of a MiB is as exact as this is shown.
    let tenths = bytes.div_ceil((1 << 20) / 10);
    f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
}

fn key(
    toolchain: &Toolchain,
    kernel: &Kernel,
    module: &Module,
    spec: &InitramfsSpec,
) -> Result<String> {
    let mut key = KeyBuilder::new("initramfs", RECIPE)
        .text(&toolchain.root().to_string_lossy())
        .text(kernel.version())
        .file(&module.ko)?
        .text(INIT)
        .text(&spec.scenario)
        .text(&format!("{:?} {:?}", spec.programs, spec.modules));
    for file in &spec.files {
        key = key
            .text(&file.path)
            .text(&file.mode.to_string())
            .file(&file.source)?;
    }
    Ok(key.finish())
}

/// Programs with their libraries, links, folders and the few files in etc.
fn base(toolchain: &Toolchain, spec: &InitramfsSpec, archive: &mut Archive) -> Result<()> {
    let root = toolchain.root();
    let add = |path: &str, archive: &mut Archive| -> Result<()> {
        let file = root.join(path);
        let content = fs::read(&file).context("read", &file)?;
        let mode = fs::metadata(&file)
            .context("read", &file)?
            .permissions()
            .mode();
        archive.file(path, mode, content);
        Ok(())
    };
    let mut libraries = BTreeSet::from([PathBuf::from(LOADER)]);
    let programs = PROGRAMS
        .iter()
        .copied()
        .chain(spec.programs.iter().map(String::as_str));
    for program in programs {
        libraries.extend(toolchain.libraries(program)?);
        // Programs that go by several names are links to one file.
        let target = fs::canonicalize(root.join(program)).context("read", &root.join(program))?;
        let real = target.strip_prefix(root).unwrap_or(&target);
        let real = real.to_string_lossy().into_owned();
        if !archive.has(&real) {
            add(&real, archive)?;
        }
        if real != program {
            archive.link(program, &format!("/{real}"));
        }
    }
    for library in &libraries {
        add(&library.to_string_lossy(), archive)?;
    }
    for (path, target) in LINKS {
        archive.link(path, target);
    }
    add(BUSYBOX, archive)?;
    for applet in applets(&root.join(BUSYBOX))? {
        let taken = |folder: &str| archive.has(&format!("{folder}/{applet}"));
        if !taken("usr/bin") && !taken("usr/sbin") {
            archive.link(&format!("usr/bin/{applet}"), "busybox");
        }
    }
    for folder in FOLDERS {
        archive.folder(folder);
    }
    for name in ["etc/passwd", "etc/group", "etc/hosts"] {
        add(name, archive)?;
    }
    Ok(())
}

/// The names that busybox answers to. It is static, so it runs as it is.
fn applets(busybox: &Path) -> Result<Vec<String>> {
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .map_err(|source| Error::Spawn {
            program: busybox.display().to_string(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// `lib/modules/RELEASE` with our module, the stock modules asked for, and depmod's index.
fn modules(
    kernel: &Kernel,
    module: &Module,
    spec: &InitramfsSpec,
    stage: &Path,
    archive: &mut Archive,
) -> Result<()> {
    let release = kernel.release();
    let folder = stage.join("lib/modules").join(release);
    let mut add = |name: &str, content: &[u8]| -> Result<()> {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context("create folder", parent)?;
        }
        fs::write(&path, content).context("write", &path)?;
        archive.file(
            &format!("usr/lib/modules/{release}/{name}"),
            0o644,
            content.to_vec(),
        );
        Ok(())
    };
    let ko = fs::read(&module.ko).context("read", &module.ko)?;
    add(&format!("extra/{}", module::FILE_NAME), &ko)?;
    // What our own module builds on comes along as well.
    let mut wanted = spec.modules.clone();
    wanted.extend(module.depends());
    for name in kernel.stock_modules(&wanted)? {
        let content = kernel.read_module(&name)?;
        add(name.trim_end_matches(".xz"), &content)?;
    }
    for name in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        let path = kernel.modules().join(name);
        fs::write(folder.join(name), fs::read(&path).context("read", &path)?)
            .context("write", &folder)?;
    }
    let toolchain = kernel.toolchain();
    let binds = [Bind {
        host: stage,
        inside: "/output",
    }];
    let mut depmod = toolchain.command(&binds, &["depmod", "-b", "/output", release]);
    run::output(&mut depmod, "depmod", &toolchain.cache().log("initramfs"))?;
    for entry in fs::read_dir(&folder).context("read folder", &folder)? {
        let path = entry.context("read folder", &folder)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("modules.") {
            let content = fs::read(&path).context("read", &path)?;
            archive.file(&format!("usr/lib/modules/{release}/{name}"), 0o644, content);
        }
    }
    fs::remove_dir_all(stage).context("remove", stage)
}
