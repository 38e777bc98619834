// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One guest under one monitor: a daemon of its own, the monitor, and the guest's lines until the
//! verdict or a deadline.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::report::{BANNER, Line, VERDICT};
use super::vmm::{Machine, QUEUE_PAIRS, Vmm};

/// Until the daemon listens.
const DAEMON_START: Duration = Duration::from_secs(30);
/// Until the daemon has ended after it was asked to.
const DAEMON_END: Duration = Duration::from_secs(20);
/// Until the guest's first line.
const BOOT: Duration = Duration::from_secs(20);
/// Between two lines of the guest: longer than the guest's own patience with a device that does not
/// answer.
const SILENCE: Duration = Duration::from_secs(60);
/// For the whole run, on an emulated processor of a busy machine.
const WHOLE: Duration = Duration::from_secs(600);
/// Between two looks at the serial port's file.
const LOOK: Duration = Duration::from_millis(2);
/// The guest's grant: small, since a check fills it.
const GRANT: &str = "4MiB";
/// The daemon's memory: more than the grant, for ephemeral pages.
const DRAM: &str = "16MiB";

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options<'a> {
    /// The guest's ELF file.
    pub(super) guest: &'a Path,
    /// The daemon's program.
    pub(super) daemon: &'a Path,
    /// Part of the names of the checks to run.
    pub(super) only: Option<&'a str>,
    /// Seed of the random checks.
    pub(super) seed: u64,
}

/// How far a guest came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It printed nothing; why, as far as is known.
    NotBooted(String),
    /// It printed no verdict; why, as far as is known.
    Stopped(String),
    /// It printed its verdict, and the daemon ended well.
    Done,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) stage: Stage,
    /// From the monitor's start to the guest's first line.
    pub(super) boot: Option<Duration>,
    /// From the monitor's start to its end.
    pub(super) total: Duration,
    /// The guest's lines, and when each came after the monitor's start.
    pub(super) lines: Vec<Line>,
}

/// Runs the guest with its logs in `logs`; `told` is called with each line.
///
/// # Errors
/// If the daemon or the monitor cannot be started at all.
pub(super) fn run(
    vmm: &Vmm,
    options: &Options<'_>,
    logs: &Path,
    mut told: impl FnMut(&str),
) -> Result<Finished> {
    fs::create_dir_all(logs).with_context(|| format!("Cannot create {}", logs.display()))?;
    // A socket's path must be short.
    let sockets = tempfile::tempdir().context("Cannot make a temporary folder")?;
    let socket = sockets.path().join("guest.sock");
    let mut daemon = daemon(options.daemon, &socket, &logs.join("daemon.log"))?;
    let serial = logs.join("serial.log");
    // What an earlier run left would be taken for this run's.
    File::create(&serial).with_context(|| format!("Cannot create {}", serial.display()))?;
    let mut line = format!("seed={}", options.seed);
    if let Some(only) = options.only {
        line.push_str(&format!(" only={only}"));
    }
    let command = vmm.command(Machine {
        guest: options.guest,
        line: &line,
        socket: &socket,
        serial: &serial,
    });
    let log = logs.join("vmm.log");
    let mut monitor = Running::start(command, &log)?;
    let (mut finished, verdict) = watch(&mut monitor, &serial, &mut told)?;
    if finished.boot.is_none() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if let (Stage::NotBooted(reason), Some(last)) =
            (&mut finished.stage, said.trim().lines().last())
        {
            reason.push_str(&format!(", saying \"{last}\""));
        }
    }
    drop(monitor);
    if let Some(reason) = end(&mut daemon)
        && verdict
    {
        finished.stage = Stage::Stopped(reason);
    }
    Ok(finished)
}

/// Starts a daemon for one guest, and waits until it listens.
fn daemon(program: &Path, socket: &Path, log: &Path) -> Result<Running> {
    let mut command = Command::new(program);
    command
        .arg("--socket-path")
        .arg(socket)
        .args(["--name", "conformance", "--grant", GRANT, "--dram", DRAM])
        .args(["--queue-pairs", &QUEUE_PAIRS.to_string()]);
    let mut daemon = Running::start(command, log)?;
    let start = Instant::now();
    while !socket.exists() {
        if let Some(status) = daemon.ended() {
            bail!(
                "The daemon ended at its start ({status}), see {}",
                log.display()
            );
        }
        if start.elapsed() > DAEMON_START {
            bail!("The daemon does not listen, see {}", log.display());
        }
        std::thread::sleep(LOOK);
    }
    Ok(daemon)
}

/// Asks the daemon to end; gives what went wrong with it, if something did.
fn end(daemon: &mut Running) -> Option<String> {
    if let Some(status) = daemon.ended() {
        return Some(format!("the daemon ended during the run ({status})"));
    }
    daemon.terminate();
    let start = Instant::now();
    while start.elapsed() < DAEMON_END {
        if let Some(status) = daemon.ended() {
            let ended = format!("the daemon ended with a failure ({status})");
            return (!status.success()).then_some(ended);
        }
        std::thread::sleep(LOOK);
    }
    Some("the daemon does not end".to_owned())
}

/// Reads the guest's lines until the verdict, the monitor's end or a deadline. Also returns whether
/// there was a verdict.
fn watch(
    monitor: &mut Running,
    serial: &Path,
    told: &mut impl FnMut(&str),
) -> Result<(Finished, bool)> {
    let start = Instant::now();
    let mut finished = Finished {
        stage: Stage::NotBooted("it printed nothing".to_owned()),
        boot: None,
        total: Duration::ZERO,
        lines: Vec::new(),
    };
    let (mut read, mut last, mut verdict) = (0, start, false);
    while !verdict {
        // Asked before the file is read, so that the last lines of a monitor that ended are seen.
        let ended = monitor.ended();
        let bytes =
            fs::read(serial).with_context(|| format!("Cannot read {}", serial.display()))?;
        let fresh = bytes.get(read..).unwrap_or_default();
        // Half a line is left for the next look.
        let whole = fresh
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        read += whole;
        for text in String::from_utf8_lossy(&fresh[..whole]).lines() {
            let text = text.trim_end().to_owned();
            last = Instant::now();
            if finished.boot.is_none() && text == BANNER {
                finished.boot = Some(start.elapsed());
                finished.stage = Stage::Stopped("it printed no verdict".to_owned());
            }
            told(&text);
            verdict |= text.starts_with(VERDICT);
            finished.lines.push(Line {
                after: start.elapsed(),
                text,
            });
        }
        let (patience, silence) = match finished.boot {
            None => (BOOT, BOOT),
            Some(_) => (WHOLE, SILENCE),
        };
        let why = if verdict {
            None
        } else if let Some(status) = ended {
            Some(format!("the monitor ended ({status})"))
        } else if start.elapsed() > patience {
            Some(format!("{} s were over", patience.as_secs()))
        } else if last.elapsed() > silence {
            Some(format!("it printed nothing for {} s", silence.as_secs()))
        } else {
            None
        };
        if let Some(why) = why {
            finished.stage = match finished.boot {
                None => Stage::NotBooted(why),
                Some(_) => Stage::Stopped(why),
            };
            break;
        }
        if !verdict {
            std::thread::sleep(LOOK);
        }
    }
    if verdict {
        finished.stage = Stage::Done;
    }
    finished.total = start.elapsed();
    Ok((finished, verdict))
}

/// A child that is killed and waited for on drop.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output =
            File::create(log).with_context(|| format!("Cannot create {}", log.display()))?;
        let errors = output
            .try_clone()
            .with_context(|| format!("Cannot share {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("Cannot start {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    fn terminate(&self) {
        let id = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            // Fails for a child that has ended, which is looked for next.
            let _ = kill_process(id, Signal::TERM);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::FAIL;
    use super::*;

    /// Runs a shell script that plays the monitor.
    fn watched(script: &str) -> (Finished, bool) {
        let folder = tempfile::tempdir().expect("a folder");
        let serial = folder.path().join("serial");
        fs::write(&serial, "").expect("a file");
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(&serial);
        let mut monitor = Running::start(command, &folder.path().join("log")).expect("a shell");
        watch(&mut monitor, &serial, &mut |_| {}).expect("watched")
    }

    #[test]
    fn verdict_ends_the_watch_of_a_monitor_that_goes_on() {
        let script =
            format!("printf '{BANNER}\\nok a\\n{VERDICT} 1 ok, 0 failed\\n' >> $1; sleep 60");
        let (finished, verdict) = watched(&script);
        assert!(verdict);
        assert_eq!(finished.stage, Stage::Done);
        assert!(finished.boot.is_some());
        assert_eq!(finished.lines.len(), 3);
    }

    #[test]
    fn monitor_that_ends_early_is_told_with_its_last_lines() {
        let (finished, verdict) = watched(&format!("printf '{BANNER}\\n{FAIL} a: b\\n' >> $1"));
        assert!(!verdict);
        assert!(matches!(finished.stage, Stage::Stopped(_)));
        assert_eq!(finished.lines.len(), 2);
        let (finished, _) = watched("exit 3");
        assert!(matches!(finished.stage, Stage::NotBooted(_)));
    }
}
