// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A running guest: boot it, give it commands, and end it with its kernel log checked.
//!
//! The guest's `init` answers on the command port. A command is a line `NUMBER WORDS`; its output
//! follows, standard error included, and then `TMEM-END NUMBER STATUS`. The kernel's log goes
//! elsewhere, so nothing mixes into an answer.

use crate::klog;
use crate::process::Process;
use crate::vmm::{Lines, Machine, Vmm};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// An emulated guest on a busy machine takes most of a minute at worst.
const BOOT_DEADLINE: Duration = Duration::from_secs(150);
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(60);
/// How often a wait looks whether the guest still lives.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The guest's terminal takes no longer line.
const COMMAND_BYTES_MAX: usize = 4000;
/// Lines of a log that an error repeats.
const TAIL_LINES: usize = 30;
const READY: &str = "TMEM-READY";
const END: &str = "TMEM-END";
const RESULT: &str = "TMEM-RESULT ";

/// What can go wrong with a guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a socket of the guest's.
    #[error("Cannot {action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or program.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The monitor ended while an answer was awaited.
    #[error("The guest ended during `{during}`; the end of {log} is:\n{tail}")]
    Ended {
        /// What it was doing.
        during: String,
        /// The kernel's log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The answer did not come in time.
    #[error(
        "`{during}` took longer than {seconds} s; it said:\n{said}\nThe end of {log} is:\n{tail}"
    )]
    Deadline {
        /// What it was doing.
        during: String,
        /// The deadline.
        seconds: u64,
        /// The last lines that it printed.
        said: String,
        /// The kernel's log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// A command ended with another status than 0.
    #[error("`{command}` ended with status {status} in the guest; it said:\n{said}")]
    Failed {
        /// The command.
        command: String,
        /// Its exit status.
        status: i32,
        /// All that it printed.
        said: String,
    },
    /// The kernel complained.
    #[error("The guest's kernel complained (all of it is in {log}):\n{lines}")]
    Kernel {
        /// The kernel's log.
        log: PathBuf,
        /// The lines that should not be there.
        lines: String,
    },
    /// A command's output held no result, or one that is not JSON.
    #[error("`{command}` printed no result that can be read; it said:\n{said}")]
    NoResult {
        /// The command.
        command: String,
        /// All that it printed.
        said: String,
    },
    /// A command is too long for the guest's terminal.
    #[error("A command of {0} bytes is too long for the guest's terminal; put it into a scenario")]
    CommandTooLong(usize),
}

/// This module's result.
pub type Result<T> = std::result::Result<T, Error>;

/// What a command did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command itself.
    pub command: String,
    /// Its exit status.
    pub status: i32,
    /// The lines that it printed, standard error included.
    pub lines: Vec<String>,
}

impl Output {
    /// The output as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// This output, if the command ended well.
    ///
    /// # Errors
    /// [`Error::Failed`] for any status but 0.
    pub fn ok(self) -> Result<Self> {
        if self.status == 0 {
            return Ok(self);
        }
        Err(Error::Failed {
            said: self.text(),
            status: self.status,
            command: self.command,
        })
    }

    /// The last result that the command printed.
    ///
    /// # Errors
    /// [`Error::NoResult`] if there is none, or it is not JSON.
    pub fn result(&self) -> Result<serde_json::Value> {
        self.lines
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix(RESULT))
            .and_then(|json| serde_json::from_str(json).ok())
            .ok_or_else(|| Error::NoResult {
                command: self.command.clone(),
                said: self.text(),
            })
    }
}

/// A booted guest. Dropping it ends its monitor.
#[derive(Debug)]
pub struct Guest {
    process: Process,
    control: UnixStream,
    answers: Receiver<String>,
    console: PathBuf,
    commands: u32,
    patience: u32,
    excused: &'static [&'static str],
}

impl Guest {
    /// Boots `machine` under `vmm` until its `init` takes commands. What the monitor itself says
    /// goes to a file beside the console's.
    ///
    /// # Errors
    /// If the monitor does not start, the guest ends early, or takes longer than 150 s.
    pub fn boot(vmm: &Vmm, machine: &Machine, lines: Lines) -> Result<Self> {
        Self::boot_patiently(vmm, machine, lines, 1)
    }

    /// As [`boot`](Self::boot), for a guest that takes up to `patience` times as long for everything.
    ///
    /// # Errors
    /// As [`boot`](Self::boot).
    pub fn boot_patiently(
        vmm: &Vmm,
        machine: &Machine,
        lines: Lines,
        patience: u32,
    ) -> Result<Self> {
        let log = lines.console.with_extension(vmm.name());
        let process = Process::spawn(vmm.command(machine, &lines), &log)
            .map_err(|source| io("start", vmm.name(), source))?;
        let control = connect(&process, &lines, &log)?;
        let input = control
            .try_clone()
            .map_err(|source| io("share", &lines.control, source))?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(input)
                .split(b'\n')
                .map_while(std::result::Result::ok)
            {
                let text = String::from_utf8_lossy(&line);
                if sender.send(text.trim_end_matches('\r').to_owned()).is_err() {
                    break;
                }
            }
        });
        let mut guest = Self {
            process,
            control,
            answers,
            console: lines.console,
            commands: 0,
            patience,
            excused: &[],
        };
        guest.wait_for("boot", BOOT_DEADLINE, &mut |line| line == READY, &mut || {})?;
        Ok(guest)
    }

    /// Runs `command` by the guest's shell and waits for its end.
    ///
    /// # Errors
    /// If the guest ends, the kernel complains, or `deadline` passes. The command's own failure is
    /// no error: see [`Output::ok`].
    pub fn run(&mut self, command: &str, deadline: Duration) -> Result<Output> {
        self.run_watched(command, deadline, &mut || {})
    }

    /// As [`run`](Self::run), and calls `tick` about four times a second until the command's end.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_watched(
        &mut self,
        command: &str,
        deadline: Duration,
        tick: &mut dyn FnMut(),
    ) -> Result<Output> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(Error::CommandTooLong(command.len()));
        }
        self.commands += 1;
        let number = self.commands;
        self.control
            .write_all(format!("{number} {command}\n").as_bytes())
            .map_err(|source| io("write to", &self.console, source))?;
        let end = format!("{END} {number} ");
        let mut status = None;
        let mut is_end = |line: &str| {
            status = line.strip_prefix(&end).and_then(|text| text.parse().ok());
            status.is_some()
        };
        let mut lines = self.wait_for(command, deadline, &mut is_end, tick)?;
        // The end is announced on a line of its own, with an empty one before it.
        if lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        Ok(Output {
            command: command.to_owned(),
            status: status.unwrap_or(-1),
            lines,
        })
    }

    /// What `deadline` is for this guest, which may be a slow one. Those of commands are lengthened
    /// without being asked.
    #[must_use]
    pub fn patiently(&self, deadline: Duration) -> Duration {
        deadline.saturating_mul(self.patience)
    }

    /// Powers the guest off and checks all of its kernel's log.
    ///
    /// # Errors
    /// If it does not end within 60 s, or the kernel complained at any time.
    pub fn shut_down(self) -> Result<()> {
        self.end_by("poweroff -f")
    }

    /// As [`shut_down`](Self::shut_down), by a restart, which ends the VMM as well: after a sleep QEMU's
    /// ACPI does not switch off any more.
    ///
    /// # Errors
    /// As [`shut_down`](Self::shut_down).
    pub fn shut_down_after_sleep(self) -> Result<()> {
        self.end_by("reboot -f")
    }

    fn end_by(mut self, command: &str) -> Result<()> {
        let deadline = self.patiently(SHUTDOWN_DEADLINE);
        self.control
            .write_all(format!("0 {command}\n").as_bytes())
            .map_err(|source| io("write to", &self.console, source))?;
        let start = Instant::now();
        while !self.process.has_ended() {
            if start.elapsed() > deadline {
                return Err(self.deadline(command, deadline, &[]));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.check_log()
    }

    /// As [`shut_down`](Self::shut_down), where the kernel had reason to complain in lines that hold one
    /// of `excused`, and in no others.
    ///
    /// # Errors
    /// As [`shut_down`](Self::shut_down).
    pub fn shut_down_excusing(mut self, excused: &'static [&'static str]) -> Result<()> {
        self.excused = excused;
        self.shut_down()
    }

    /// Checks the kernel's log as it is now.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the lines that a healthy kernel does not print.
    pub fn check_log(&self) -> Result<()> {
        let log = self.log();
        let mut offences = klog::offences(&log);
        offences.retain(|line| !self.excused.iter().any(|excused| line.contains(excused)));
        if offences.is_empty() {
            return Ok(());
        }
        Err(Error::Kernel {
            log: self.console.clone(),
            lines: offences.join("\n"),
        })
    }

    /// The kernel's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Collects lines until `is_end` says so of one.
    fn wait_for(
        &mut self,
        during: &str,
        deadline: Duration,
        is_end: &mut dyn FnMut(&str) -> bool,
        tick: &mut dyn FnMut(),
    ) -> Result<Vec<String>> {
        let start = Instant::now();
        let deadline = self.patiently(deadline);
        let mut lines = Vec::new();
        loop {
            match self.answers.recv_timeout(LOOK_EVERY) {
                Ok(line) if is_end(&line) => return Ok(lines),
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Timeout) => tick(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.check_log()?;
                    return Err(self.ended(during));
                }
            }
            if start.elapsed() > deadline {
                self.check_log()?;
                return Err(self.deadline(during, deadline, &lines));
            }
        }
    }

    fn ended(&self, during: &str) -> Error {
        Error::Ended {
            during: during.to_owned(),
            log: self.console.clone(),
            tail: tail(&self.log()),
        }
    }

    fn deadline(&self, during: &str, deadline: Duration, lines: &[String]) -> Error {
        Error::Deadline {
            during: during.to_owned(),
            seconds: deadline.as_secs(),
            said: tail(&lines.join("\n")),
            log: self.console.clone(),
            tail: tail(&self.log()),
        }
    }
}

/// Connects to the command port, which the monitor opens shortly after its start.
fn connect(process: &Process, lines: &Lines, log: &Path) -> Result<UnixStream> {
    let start = Instant::now();
    loop {
        let source = match UnixStream::connect(&lines.control) {
            Ok(stream) => return Ok(stream),
            Err(source) => source,
        };
        if process.has_ended() {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(Error::Ended {
                during: "start of the monitor".to_owned(),
                log: log.to_owned(),
                tail: tail(&said),
            });
        }
        if start.elapsed() > BOOT_DEADLINE {
            return Err(io("connect to", &lines.control, source));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Error {
    Error::Io {
        action,
        path: path.as_ref().to_owned(),
        source,
    }
}

/// The last lines of `text`.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(status: i32, lines: &[&str]) -> Output {
        Output {
            command: "x".to_owned(),
            status,
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
        }
    }

    #[test]
    fn last_result_is_read() {
        let output = output(
            0,
            &["TMEM-RESULT {\"a\": 1}", "noise", "TMEM-RESULT {\"a\": 2}"],
        );
        assert_eq!(output.result().expect("JSON")["a"], 2);
    }

    #[test]
    fn missing_and_broken_results_are_errors() {
        assert!(output(0, &["noise"]).result().is_err());
        assert!(output(0, &["TMEM-RESULT {"]).result().is_err());
    }

    #[test]
    fn failed_command_tells_what_it_said() {
        let error = output(3, &["no such thing"]).ok().expect_err("status 3");
        let text = error.to_string();
        assert!(text.contains("status 3") && text.ends_with("no such thing"));
    }
}
