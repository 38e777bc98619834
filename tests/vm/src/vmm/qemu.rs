// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's command line for a guest with a virtio-tmem device (QEMU 10.2 or newer).

use super::{Lines, Machine, QUEUE_SIZE, probe};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use tmem_abi::{Config, VIRTIO_ID};

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's CPU.
    Kvm,
    /// QEMU's own translator: slow, but it runs everywhere.
    Tcg,
}

/// A QEMU program, its leading arguments, and what it accelerates with.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: OsString,
    leading: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// KVM or TCG.
    pub accelerator: Accelerator,
}

impl Qemu {
    /// Takes program, environment and leading arguments from `base`; KVM is used if a guest with `kernel` gets
    /// as far as its first line of output with it.
    ///
    /// Also returns why KVM is not used, where it is not.
    #[must_use]
    pub fn probe(base: &Command, kernel: &Path) -> (Self, Option<String>) {
        let mut qemu = Self {
            program: base.get_program().to_owned(),
            leading: base.get_args().map(OsString::from).collect(),
            environment: base
                .get_envs()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
            accelerator: Accelerator::Tcg,
        };
        let refusal = probe::kvm_refusal(&mut qemu.base(), kernel);
        if refusal.is_none() {
            qemu.accelerator = Accelerator::Kvm;
        }
        (qemu, refusal)
    }

    fn base(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.leading);
        command.envs(self.environment.iter().cloned());
        command
    }

    pub(super) fn command(&self, machine: &Machine, lines: &Lines) -> Command {
        let mut command = self.base();
        command.args(match self.accelerator {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        });
        command.args(["-machine", "q35,memory-backend=ram"]);
        command.arg("-object").arg(format!(
            "memory-backend-memfd,id=ram,size={}M,share=on",
            machine.memory_mib
        ));
        command.args(["-m", &format!("{}M", machine.memory_mib)]);
        command.args(["-smp", &machine.cpus.to_string()]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        // The first serial port is the console, the second carries commands.
        command
            .arg("-serial")
            .arg(option("file:", &lines.console, ""));
        command.arg("-chardev").arg(option(
            "socket,id=control,path=",
            &lines.control,
            ",server=on,wait=off",
        ));
        command.args(["-serial", "chardev:control"]);
        command.arg("-kernel").arg(&machine.kernel);
        command.arg("-initrd").arg(&machine.initramfs);
        command.arg("-append").arg(format!(
            "console=ttyS0 panic=-1 tmem.control=ttyS1 {}",
            machine.cmdline
        ));
        if let Some(disk) = &machine.disk {
            // Without the host's page cache below, a read of the disk is a read of a disk.
            command.arg("-drive").arg(option(
                "if=none,id=disk,format=raw,cache=none,discard=unmap,file=",
                disk,
                "",
            ));
            command.args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        for (nth, tmem) in machine.tmem.iter().enumerate() {
            command.arg("-chardev").arg(option(
                &format!("socket,id=tmem{nth},path="),
                &tmem.socket,
                "",
            ));
            command.arg("-device").arg(format!(
                "vhost-user-test-device-pci,chardev=tmem{nth},virtio-id={VIRTIO_ID},num_vqs={},\
                 vq_size={QUEUE_SIZE},config_size={}",
                tmem.queues(),
                Config::SIZE
            ));
        }
        command
    }
}

/// `before`, a path and `after` as one argument; QEMU wants commas in a path doubled.
fn option(before: &str, path: &Path, after: &str) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{before}{path}{after}").into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, words};
    use super::*;

    fn qemu(accelerator: Accelerator) -> Qemu {
        Qemu {
            program: "loader".into(),
            leading: vec!["qemu".into()],
            environment: Vec::new(),
            accelerator,
        }
    }

    #[test]
    fn command_line_names_device_memory_and_lines() {
        let command = qemu(Accelerator::Tcg).command(
            &machine(),
            &Lines::of("g", Path::new("/l,o"), Path::new("/s,o")),
        );
        let words = words(&command);
        assert_eq!(command.get_program(), "loader");
        assert!(words.starts_with("qemu -accel tcg,thread=multi -cpu max "));
        for part in [
            "-object memory-backend-memfd,id=ram,size=256M,share=on",
            "-serial file:/l,,o/g.console.log",
            "-chardev socket,id=control,path=/s,,o/g.control.sock,server=on,wait=off",
            "-chardev socket,id=tmem0,path=/run/vm0.sock",
            "virtio-id=13,num_vqs=8,vq_size=256,config_size=64",
            "-append console=ttyS0 panic=-1 tmem.control=ttyS1 quiet",
            "-drive if=none,id=disk,format=raw,cache=none,discard=unmap,file=/i/disk.raw",
            "-device virtio-blk-pci,drive=disk",
        ] {
            assert!(words.contains(part), "no {part} in {words}");
        }
    }

    #[test]
    fn machine_without_device_has_no_back_end() {
        let bare = Machine {
            tmem: Vec::new(),
            ..machine()
        };
        let command = qemu(Accelerator::Kvm)
            .command(&bare, &Lines::of("g", Path::new("/l"), Path::new("/s")));
        let words = words(&command);
        assert!(words.contains("-accel kvm -cpu host"));
        assert!(!words.contains("vhost-user"), "{words}");
    }
}
