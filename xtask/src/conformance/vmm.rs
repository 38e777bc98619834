// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The monitors that may run the guest here, and how each is told.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tmem_abi::{Config, VIRTIO_ID, queue_count};
use vm_images::Toolchain;

/// Environment variable with cloud-hypervisor's path; otherwise it is looked for in PATH.
const CLOUD_HYPERVISOR_VARIABLE: &str = "TMEM_CLOUD_HYPERVISOR";
/// The first cloud-hypervisor with a generic vhost-user device.
const CLOUD_HYPERVISOR_MIN: u32 = 52;
/// The first that calls the virtio id `device_type`.
const CLOUD_HYPERVISOR_DEVICE_TYPE: u32 = 53;
/// The first QEMU whose generic vhost-user device a user may create.
const QEMU_MIN: (u32, u32) = (10, 2);
const KVM: &str = "/dev/kvm";

/// Queue pairs of the device; the guest's checks use two.
pub(super) const QUEUE_PAIRS: u16 = 2;
const QUEUE_SIZE: u16 = 256;
/// The guest's memory; it uses half of it and takes addresses beyond it for wrong ones.
const MEMORY_MIB: u32 = 64;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accelerator {
    /// QEMU's own translator, which runs everywhere.
    Tcg,
    /// The kernel's.
    Kvm,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        })
    }
}

/// A kind of monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Qemu,
    CloudHypervisor,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
        }
    }
}

/// A monitor that can be started.
#[derive(Clone, Debug)]
pub(super) struct Vmm {
    kind: Kind,
    /// Major and minor version.
    version: (u32, u32),
    program: OsString,
    leading: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    accelerator: Accelerator,
}

/// A monitor with an accelerator, or why it cannot be had here.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) name: &'static str,
    pub(super) accelerator: Accelerator,
    pub(super) vmm: Result<Vmm, String>,
}

/// What a run needs of a monitor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    /// The guest's ELF file.
    pub(super) guest: &'a Path,
    /// The guest's command line.
    pub(super) line: &'a str,
    /// The daemon's socket.
    pub(super) socket: &'a Path,
    /// Where the guest's serial port goes.
    pub(super) serial: &'a Path,
}

/// All monitors and accelerators, or those asked for.
///
/// # Errors
/// If one that was asked for cannot be had.
pub(super) fn candidates(
    toolchain: &Toolchain,
    program: Option<&Path>,
    accelerator: Option<Accelerator>,
) -> Result<Vec<Candidate>> {
    let all = [Accelerator::Tcg, Accelerator::Kvm];
    let chosen = all
        .into_iter()
        .filter(|each| accelerator.is_none_or(|wanted| wanted == *each));
    if let Some(program) = program {
        let found = Vmm::at(&Command::new(program))?;
        let chosen = chosen.filter(|each| found.can(*each));
        let candidates: Vec<Candidate> = chosen.map(|each| found.clone().with(each)).collect();
        ensure!(
            !candidates.is_empty(),
            "{} runs no guest by {}",
            program.display(),
            accelerator.unwrap_or(Accelerator::Tcg)
        );
        return Ok(candidates);
    }
    let qemu = Vmm::at(&toolchain.qemu()).context("The toolchain root's QEMU does not do")?;
    let mut candidates = Vec::new();
    for accelerator in chosen {
        candidates.push(qemu.clone().with(accelerator));
        if accelerator == Accelerator::Kvm {
            let path = std::env::var_os(CLOUD_HYPERVISOR_VARIABLE);
            let program = path.unwrap_or_else(|| "cloud-hypervisor".into());
            candidates.push(match Vmm::at(&Command::new(program)) {
                Ok(vmm) => vmm.with(accelerator),
                Err(error) => Candidate {
                    name: Kind::CloudHypervisor.name(),
                    accelerator,
                    vmm: Err(format!("{error:#}; {CLOUD_HYPERVISOR_VARIABLE} names it")),
                },
            });
        }
    }
    Ok(candidates)
}

impl Vmm {
    /// The monitor that `command` starts, as its version says.
    fn at(command: &Command) -> Result<Self> {
        let mut vmm = Self {
            kind: Kind::Qemu,
            version: (0, 0),
            program: command.get_program().to_owned(),
            leading: command.get_args().map(OsString::from).collect(),
            environment: command
                .get_envs()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
            accelerator: Accelerator::Kvm,
        };
        let program = vmm.program.display().to_string();
        let output = vmm
            .base()
            .arg("--version")
            .output()
            .with_context(|| format!("Cannot run {program}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        (vmm.kind, vmm.version) = kind(&text).with_context(|| {
            let first = text.lines().next().unwrap_or_default();
            format!("{program} is no monitor known here; it says \"{first}\"")
        })?;
        match vmm.kind {
            Kind::Qemu if vmm.version < QEMU_MIN => {
                bail!("{program} has no generic vhost-user device; QEMU 10.2 has")
            }
            Kind::CloudHypervisor if vmm.version.0 < CLOUD_HYPERVISOR_MIN => {
                bail!("{program} has no generic vhost-user device; version 52 has")
            }
            _ => Ok(vmm),
        }
    }

    fn with(mut self, accelerator: Accelerator) -> Candidate {
        self.accelerator = accelerator;
        let name = self.kind.name();
        let missing = match accelerator {
            Accelerator::Kvm => fs_error(KVM),
            Accelerator::Tcg => None,
        };
        Candidate {
            name,
            accelerator,
            vmm: missing.map_or(Ok(self), Err),
        }
    }

    fn can(&self, accelerator: Accelerator) -> bool {
        self.kind == Kind::Qemu || accelerator == Accelerator::Kvm
    }

    /// Its name, for people and programs.
    pub(super) const fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Its version, for people.
    pub(super) fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// What it runs guests by.
    pub(super) const fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// A name for its folder of logs.
    pub(super) fn file_name(&self) -> String {
        format!("{}-{}", self.name(), self.accelerator)
    }

    fn base(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.leading);
        command.envs(self.environment.iter().cloned());
        command
    }

    /// The command that runs the guest.
    pub(super) fn command(&self, machine: Machine<'_>) -> Command {
        match self.kind {
            Kind::Qemu => self.qemu(machine),
            Kind::CloudHypervisor => self.cloud_hypervisor(machine),
        }
    }

    fn qemu(&self, machine: Machine<'_>) -> Command {
        let mut command = self.base();
        command.args(match self.accelerator {
            Accelerator::Tcg => ["-accel", "tcg", "-cpu", "max"],
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
        });
        // Where there can be no other processor, TCG makes locked instructions plain ones, which order
        // nothing: the guest looks whether to kick before the daemon sees what it has made available.
        command.args(["-smp", "1,maxcpus=2"]);
        command
            .args(["-machine", "q35,memory-backend=ram", "-m"])
            .arg(format!("{MEMORY_MIB}M"))
            .arg("-object")
            .arg(format!(
                "memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on"
            ))
            // A firmware that does no more than start a PVH kernel.
            .args(["-bios", "qboot.rom", "-nodefaults", "-display", "none"])
            .args([
                "-no-reboot",
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=4",
            ])
            .arg("-serial")
            .arg(with_path("file:", machine.serial))
            .arg("-kernel")
            .arg(machine.guest)
            .args(["-append", machine.line])
            .arg("-chardev")
            .arg(with_path("socket,id=tmem,path=", machine.socket))
            .arg("-device")
            .arg(format!(
                "vhost-user-test-device-pci,chardev=tmem,virtio-id={VIRTIO_ID},num_vqs={},\
                 vq_size={QUEUE_SIZE},config_size={}",
                queue_count(QUEUE_PAIRS),
                Config::SIZE
            ));
        command
    }

    fn cloud_hypervisor(&self, machine: Machine<'_>) -> Command {
        let key = if self.version.0 < CLOUD_HYPERVISOR_DEVICE_TYPE {
            "virtio_id"
        } else {
            "device_type"
        };
        let sizes = vec![QUEUE_SIZE.to_string(); usize::from(queue_count(QUEUE_PAIRS))].join(",");
        let mut command = self.base();
        command
            .arg("--kernel")
            .arg(machine.guest)
            .args(["--cmdline", machine.line])
            .args(["--cpus", "boot=1", "--memory"])
            .arg(format!("size={MEMORY_MIB}M,shared=on"))
            .args(["--console", "off", "--serial"])
            .arg(format!("file={}", machine.serial.display()))
            .arg("--generic-vhost-user")
            .arg(format!(
                "socket={},{key}={VIRTIO_ID},queue_sizes=[{sizes}]",
                machine.socket.display()
            ));
        command
    }
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}, {}",
            self.name(),
            self.version(),
            self.accelerator
        )
    }
}

/// `before` and a path as one argument of QEMU's, which wants commas in a path doubled.
fn with_path(before: &str, path: &Path) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{before}{path}").into()
}

/// Why a device file cannot be opened, if it cannot.
fn fs_error(path: &str) -> Option<String> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path);
    opened
        .err()
        .map(|error| format!("cannot open {path}: {error}"))
}

/// The kind and version of a monitor, from what it prints for `--version`.
fn kind(text: &str) -> Option<(Kind, (u32, u32))> {
    let (kind, rest) = if let Some(rest) = text.strip_prefix("QEMU emulator version ") {
        (Kind::Qemu, rest)
    } else {
        (
            Kind::CloudHypervisor,
            text.strip_prefix("cloud-hypervisor v")?,
        )
    };
    let mut numbers = rest.split(|letter: char| !letter.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next().and_then(|minor| minor.parse().ok());
    Some((kind, (major, minor.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmm(kind: Kind, version: (u32, u32), accelerator: Accelerator) -> Vmm {
        Vmm {
            kind,
            version,
            program: "loader".into(),
            leading: vec!["program".into()],
            environment: Vec::new(),
            accelerator,
        }
    }

    fn words(vmm: &Vmm) -> String {
        let machine = Machine {
            guest: Path::new("/g.elf"),
            line: "seed=1",
            socket: Path::new("/s,1.sock"),
            serial: Path::new("/l.log"),
        };
        let command = vmm.command(machine);
        let words = command.get_args().map(|word| word.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn qemu_is_told_the_device_and_the_accelerator() {
        let tcg = words(&vmm(Kind::Qemu, (11, 1), Accelerator::Tcg));
        assert!(tcg.starts_with("program -accel tcg -cpu max "), "{tcg}");
        for part in [
            "-serial file:/l.log",
            "path=/s,,1.sock",
            "virtio-id=13,num_vqs=8,vq_size=256,config_size=64",
            "-append seed=1",
        ] {
            assert!(tcg.contains(part), "no {part} in {tcg}");
        }
        let kvm = words(&vmm(Kind::Qemu, (11, 1), Accelerator::Kvm));
        assert!(kvm.contains("-accel kvm -cpu host"));
    }

    #[test]
    fn cloud_hypervisor_is_told_the_key_of_its_version() {
        for (version, key) in [(52, ",virtio_id=13,"), (53, ",device_type=13,")] {
            let vmm = vmm(Kind::CloudHypervisor, (version, 0), Accelerator::Kvm);
            let words = words(&vmm);
            assert!(words.contains(key), "no {key} in {words}");
            assert!(words.contains("queue_sizes=[256,256,256,256,256,256,256,256]"));
            assert!(!vmm.can(Accelerator::Tcg));
        }
    }

    #[test]
    fn monitors_are_told_apart_by_their_version_line() {
        let qemu = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)\nCopyright";
        assert_eq!(kind(qemu), Some((Kind::Qemu, (11, 1))));
        assert_eq!(
            kind("cloud-hypervisor v54.0-dev\n"),
            Some((Kind::CloudHypervisor, (54, 0)))
        );
        assert_eq!(kind("cat (GNU coreutils) 9.1"), None);
    }
}
