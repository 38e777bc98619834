// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! cloud-hypervisor's command line for a guest with a virtio-tmem device (version 52 or newer).

use super::{Accelerator, Lines, Machine, QUEUE_SIZE, Qemu};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use tmem_abi::VIRTIO_ID;

/// Environment variable with the path of the program; otherwise it is looked for in PATH.
const PROGRAM_VARIABLE: &str = "TMEM_CLOUD_HYPERVISOR";
/// The first version whose generic vhost-user device can be given any virtio id.
const VERSION_MIN: u32 = 52;
/// The first version that calls the id `device_type`.
const VERSION_DEVICE_TYPE: u32 = 53;

/// A cloud-hypervisor program.
#[derive(Clone, Debug)]
pub struct CloudHypervisor {
    program: OsString,
    version: u32,
}

impl CloudHypervisor {
    /// Finds the program and checks that it can run a guest here.
    ///
    /// # Errors
    /// Why not, in words: no program, too old, or no KVM that works (as `qemu` found out).
    pub fn find(qemu: &Qemu, kvm_refusal: Option<&str>) -> Result<Self, String> {
        let program =
            std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| "cloud-hypervisor".into());
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .map_err(|error| {
                format!(
                    "cannot run {}: {error}; set {PROGRAM_VARIABLE} to its path",
                    Path::new(&program).display()
                )
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = version(&text)
            .ok_or_else(|| format!("cannot read a version in \"{}\"", text.trim()))?;
        if version < VERSION_MIN {
            return Err(format!(
                "version {version} has no generic vhost-user device, {VERSION_MIN} has"
            ));
        }
        if qemu.accelerator != Accelerator::Kvm {
            let reason = kvm_refusal.unwrap_or("KVM was not chosen");
            return Err(format!("it needs a KVM that works: {reason}"));
        }
        Ok(Self { program, version })
    }

    pub(super) fn command(&self, machine: &Machine, lines: &Lines) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kernel").arg(&machine.kernel);
        command.arg("--initramfs").arg(&machine.initramfs);
        // Its one serial port carries commands, so the console is the virtio one.
        command.arg("--cmdline").arg(format!(
            "console=hvc0 panic=-1 tmem.control=ttyS0 {}",
            machine.cmdline
        ));
        command
            .arg("--console")
            .arg(format!("file={}", lines.console.display()));
        command
            .arg("--serial")
            .arg(format!("socket={}", lines.control.display()));
        command.arg("--cpus").arg(format!("boot={}", machine.cpus));
        command
            .arg("--memory")
            .arg(format!("size={}M,shared=on", machine.memory_mib));
        if let Some(disk) = &machine.disk {
            command
                .arg("--disk")
                .arg(format!("path={},direct=on", disk.display()));
        }
        for tmem in &machine.tmem {
            let key = if self.version < VERSION_DEVICE_TYPE {
                "virtio_id"
            } else {
                "device_type"
            };
            let sizes = vec![QUEUE_SIZE.to_string(); usize::from(tmem.queues())].join(",");
            command.arg("--generic-vhost-user").arg(format!(
                "socket={},{key}={VIRTIO_ID},queue_sizes=[{sizes}]",
                tmem.socket.display()
            ));
        }
        command
    }
}

/// The major version in text such as `cloud-hypervisor v52.0`.
fn version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once(" v")?;
    rest.split(|letter: char| !letter.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, words};
    use super::*;

    fn command_of(version: u32) -> String {
        let vmm = CloudHypervisor {
            program: "cloud-hypervisor".into(),
            version,
        };
        words(&vmm.command(
            &machine(),
            &Lines::of("g", Path::new("/l"), Path::new("/s")),
        ))
    }

    #[test]
    fn command_line_names_device_memory_and_lines() {
        let words = command_of(53);
        for part in [
            "--memory size=256M,shared=on",
            "--console file=/l/g.console.log",
            "--serial socket=/s/g.control.sock",
            "socket=/run/vm0.sock,device_type=13,queue_sizes=[256,256,256,256,256,256,256,256]",
        ] {
            assert!(words.contains(part), "no {part} in {words}");
        }
    }

    #[test]
    fn version_52_knows_the_older_key() {
        assert!(command_of(52).contains(",virtio_id=13,"));
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("cloud-hypervisor v54.0-dev\n"), Some(54));
        assert_eq!(version("cloud-hypervisor v52.0.0"), Some(52));
        assert_eq!(version("usage"), None);
    }
}
