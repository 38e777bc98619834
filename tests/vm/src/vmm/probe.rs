// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Does KVM work here? Only a guest that runs can tell: the device file may open, and a vCPU may
//! start, where a kernel still does not get through its own decompressor.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

const DEVICE: &str = "/dev/kvm";
/// The first words of every kernel's log.
const SIGN_OF_LIFE: &str = "Linux version";
/// QEMU says this when a vCPU cannot go on; it then waits for ever.
const SIGN_OF_DEATH: &str = "KVM internal error";
/// With KVM a kernel prints its first line within a fraction of a second.
const PATIENCE: Duration = Duration::from_secs(8);

/// Boots `kernel` under `qemu` with KVM until its first line of output; `None` if it came, else
/// the reason why KVM cannot be used.
pub(super) fn kvm_refusal(qemu: &mut Command, kernel: &Path) -> Option<String> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
        return Some(format!("cannot open {DEVICE}: {error}"));
    }
    let spawned = qemu
        .args(["-accel", "kvm", "-cpu", "host", "-machine", "q35"])
        .args(["-m", "128M", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Some(format!("cannot start QEMU: {error}")),
    };
    let (sender, lines) = channel();
    if let Some(output) = child.stdout.take() {
        forward(output, sender.clone());
    }
    if let Some(output) = child.stderr.take() {
        forward(output, sender);
    }
    let mut said = String::new();
    let refusal = loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if line.contains(SIGN_OF_LIFE) => break None,
            Ok(line) if line.contains(SIGN_OF_DEATH) => {
                break Some(format!("a guest stopped: {line}"));
            }
            Ok(line) => said = line,
            Err(RecvTimeoutError::Timeout) => {
                break Some(format!(
                    "a guest's kernel printed nothing for {} s",
                    PATIENCE.as_secs()
                ));
            }
            Err(RecvTimeoutError::Disconnected) => {
                break Some(format!("QEMU ended, saying \"{said}\""));
            }
        }
    };
    // It may have ended by itself; either way it is gone after this.
    let _ = child.kill();
    let _ = child.wait();
    refusal
}

/// Sends the lines of `output` until it or the receiver ends.
fn forward(output: impl Read + Send + 'static, sender: std::sync::mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
}
