// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A bootable Debian with the stock kernel, systemd, the module and the swap unit, as a qcow2
//! disk. It boots by firmware (EFI, systemd-boot) and with `-kernel` and `-initrd`.
//!
//! ```text
//!  mmdebstrap ──► tar ──► mke2fs -d ──┐
//!  vmlinuz, initrd, systemd-boot ─────┴─► raw disk: GPT, EFI partition, root ──► qcow2
//! ```
//! No loop device and no mount is used, so root rights are not needed. Users: root, without a
//! password, logged in on the serial console; nothing listens on the network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt;
use crate::chroot::Bind;
use crate::error::{IoContext, Result};
use crate::kernel::Kernel;
use crate::key::KeyBuilder;
use crate::mirror;
use crate::module::{self, Module};
use crate::progress::Step;
use crate::run;
use crate::toolchain::Toolchain;

/// Counted up when the way it is put together changes.
const RECIPE: u32 = 1;

/// How many builds stay in the cache: each has 1 GB.
const KEPT: usize = 2;

/// What is installed besides the minimal system and the kernel.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "util-linux",
    "mount",
    "e2fsprogs",
    "procps",
    "iproute2",
    "initramfs-tools",
    "zstd",
    "less",
    "nano-tiny",
    "stress-ng",
    "redis-server",
    "redis-tools",
    "dmsetup",
    "fio",
];

/// The kernel's packages come from backports, the rest from the release.
const PREFERENCES: &str = "Package: linux-*\nPin: release n=trixie-backports\nPin-Priority: 600\n";

/// Files of the image, by path.
const OVERLAY: &[(&str, &str)] = &[
    (
        "etc/udev/rules.d/90-virtio-tmem.rules",
        include_str!("image/90-virtio-tmem.rules"),
    ),
    (
        "etc/systemd/system/tmem-swap@.service",
        include_str!("image/tmem-swap@.service"),
    ),
    (
        "etc/systemd/system/serial-getty@.service.d/autologin.conf",
        include_str!("image/autologin.conf"),
    ),
    (
        "etc/systemd/network/80-dhcp.network",
        include_str!("image/dhcp.network"),
    ),
    ("etc/hostname", "tmem-guest\n"),
    ("etc/fstab", "LABEL=tmem-root / ext4 defaults 0 1\n"),
];

/// Files that must be there before packages are installed: the initrd holds the one driver that
/// finding the root needs, because a small initrd boots much faster under emulation.
const BEFORE: &[(&str, &str)] = &[
    ("etc/apt/preferences.d/kernel", PREFERENCES),
    ("etc/initramfs-tools/conf.d/virtio", "MODULES=list\n"),
    ("etc/initramfs-tools/modules", "virtio_blk\n"),
];

/// Units that would take memory or time when a test least expects it.
const IDLE: &str = "redis-server apt-daily.timer apt-daily-upgrade.timer";

/// The kernel command line of the image, without the console.
const ROOT: &str = "root=LABEL=tmem-root rw";

/// Both consoles get a login: QEMU's serial port and cloud-hypervisor's virtio console.
const CONSOLES: &str = "console=hvc0 console=ttyS0";

/// Sizes in MiB: where the EFI partition begins, and its and the root file system's size. The
/// image file holds only what is used of it.
const EFI_START: u64 = 1;
const EFI_SIZE: u64 = 128;
const ROOT_SIZE: u64 = 4096;
/// The last MiB holds the second partition table.
const DISK_SIZE: u64 = EFI_START + EFI_SIZE + ROOT_SIZE + 1;

/// A built disk, and what a direct kernel boot of it takes.
#[derive(Clone, Debug)]
pub struct DiskImage {
    /// The disk, to be used through an overlay or a copy: other runs share it.
    pub qcow2: PathBuf,
    /// The kernel.
    pub vmlinuz: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
    /// The kernel command line, without `console=`.
    pub append: &'static str,
}

impl DiskImage {
    /// Gives the image with this kernel and module, building it when there is none.
    ///
    /// # Errors
    /// [`Error::Command`](crate::Error::Command) when mmdebstrap or a tool fails, and errors of
    /// files.
    pub fn build(toolchain: &Toolchain, kernel: &Kernel, module: &Module) -> Result<Self> {
        let image_package = format!("linux-image-{}", kernel.release());
        let packages = [PACKAGES, &[image_package.as_str()]].concat();
        let mut key = KeyBuilder::new("image", RECIPE)
            .text(&toolchain.root().to_string_lossy())
            .file(&module.ko)?;
        for (path, text) in OVERLAY.iter().chain(BEFORE) {
            key = key.text(path).text(text);
        }
        for package in toolchain.apt.resolve(&packages)? {
            key = key.text(&package);
        }
        let (cache, progress) = (toolchain.cache(), toolchain.progress());
        let folder = cache.artefact("image", &key.finish(), progress, |partial| {
            let mut step = progress.step("Disk image: installing Debian");
            let tar = install(toolchain, kernel, module, &packages, partial, &mut step)?;
            step.done("");
            let mut step = progress.step("Disk image: writing the disk");
            assemble(toolchain, &tar, partial, &mut step)?;
            step.done("");
            Ok(())
        })?;
        cache.prune("image", KEPT)?;
        Ok(Self {
            qcow2: folder.join("disk.qcow2"),
            vmlinuz: folder.join("vmlinuz"),
            initrd: folder.join("initrd.img"),
            append: ROOT,
        })
    }
}

/// Installs into a tar file, which keeps owners without needing the rights to set them.
fn install(
    toolchain: &Toolchain,
    kernel: &Kernel,
    module: &Module,
    packages: &[&str],
    folder: &Path,
    step: &mut Step,
) -> Result<PathBuf> {
    let log = toolchain.cache().log("image");
    let release = kernel.release();
    let before = folder.join("before");
    write_all(&before, BEFORE)?;
    let overlay = folder.join("overlay");
    write_all(&overlay, OVERLAY)?;
    let extra = overlay.join(format!("usr/lib/modules/{release}/extra"));
    fs::create_dir_all(&extra).context("create folder", &extra)?;
    let ko = extra.join(module::FILE_NAME);
    fs::copy(&module.ko, &ko).context("copy", &module.ko)?;
    for tree in [&before, &overlay] {
        let mut pack = Command::new("tar");
        pack.args([
            "--create",
            "--owner=0",
            "--group=0",
            "--mode=u=rwX,go=rX",
            "--file",
        ])
        .arg(tree.with_extension("tar"))
        .arg("--directory")
        .arg(tree)
        .arg(".");
        run::logged(&mut pack, "Packing files for the image", &log, step)?;
        fs::remove_dir_all(tree).context("remove", tree)?;
    }

    let tar = folder.join("image.tar");
    let keyring = mirror::keyring()?;
    let source = |suite: &str| {
        let (key, url) = (keyring.display(), toolchain.apt.mirror());
        format!("deb [signed-by={key}] {url} {suite} main")
    };
    // The hooks' words are split by a shell; the file names stay out of it by the working folder.
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .current_dir(folder)
        .env("LC_ALL", "C")
        .args(["--mode=auto", "--variant=minbase", "--architectures=amd64"])
        .arg(format!(
            "--aptopt={}",
            toolchain.apt.acquire_settings().display()
        ))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg(format!("--keyring={}", keyring.display()))
        .arg(format!("--include={}", packages.join(",")))
        .arg("--setup-hook=tar-in before.tar /")
        .arg("--customize-hook=tar-in overlay.tar /")
        .arg(format!(
            "--customize-hook=chroot \"$1\" depmod -a {release}"
        ))
        .arg("--customize-hook=chroot \"$1\" systemctl enable systemd-networkd")
        .arg(format!(
            "--customize-hook=chroot \"$1\" systemctl disable {IDLE}"
        ))
        .arg(format!(
            "--customize-hook=copy-out /boot/vmlinuz-{release} ."
        ))
        .arg(format!(
            "--customize-hook=copy-out /boot/initrd.img-{release} ."
        ))
        .arg(apt::SUITE)
        .arg(&tar)
        .arg(source(apt::SUITE))
        .arg(source(&format!("{}-backports", apt::SUITE)));
    run::logged(&mut mmdebstrap, "Installing the image's Debian", &log, step)?;
    for name in ["vmlinuz", "initrd.img"] {
        let from = folder.join(format!("{name}-{release}"));
        fs::rename(&from, folder.join(name)).context("rename", &from)?;
    }
    for name in ["before.tar", "overlay.tar"] {
        let path = folder.join(name);
        fs::remove_file(&path).context("remove", &path)?;
    }
    Ok(tar)
}

/// Partitions a sparse file, fills both partitions in place, and packs it as qcow2.
fn assemble(toolchain: &Toolchain, tar: &Path, folder: &Path, step: &mut Step) -> Result<()> {
    let log = toolchain.cache().log("image");
    let loader = "timeout 0\n";
    let entry = format!(
        "title Debian with virtio-tmem\nlinux /vmlinuz\ninitrd /initrd.img\n\
         options {ROOT} {CONSOLES}\n"
    );
    write_all(folder, &[("loader.conf", loader), ("debian.conf", &entry)])?;
    let root_start = EFI_START + EFI_SIZE;
    let script = format!(
        "cd /output\n\
         truncate -s {DISK_SIZE}M disk.raw\n\
         sfdisk --quiet disk.raw <<END\n\
         label: gpt\n\
         start={EFI_START}MiB, size={EFI_SIZE}MiB, type=U, name=efi\n\
         start={root_start}MiB, size={ROOT_SIZE}MiB, type=L, name=root\n\
         END\n\
         mke2fs -q -t ext4 -L tmem-root -d image.tar -E offset=$(({root_start} << 20)) \
             disk.raw {ROOT_SIZE}M\n\
         export MTOOLS_SKIP_CHECK=1\n\
         efi=disk.raw@@{EFI_START}M\n\
         mformat -i $efi -F -T $(({EFI_SIZE} << 11)) -c 2 -v EFI ::\n\
         mmd -i $efi ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries\n\
         mcopy -i $efi /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI\n\
         mcopy -i $efi loader.conf ::/loader/\n\
         mcopy -i $efi debian.conf ::/loader/entries/\n\
         mcopy -i $efi vmlinuz initrd.img ::/\n\
         qemu-img convert -O qcow2 disk.raw disk.qcow2\n\
         rm disk.raw loader.conf debian.conf\n"
    );
    let binds = [Bind {
        host: folder,
        inside: "/output",
    }];
    let mut command = toolchain.command(&binds, &["sh", "-ec", &script]);
    run::logged(&mut command, "Writing the disk", &log, step)?;
    fs::remove_file(tar).context("remove", tar)
}

fn write_all(folder: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context("create folder", parent)?;
        }
        fs::write(&path, text).context("write", &path)?;
    }
    Ok(())
}
