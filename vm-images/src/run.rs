// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Running programs: the output goes to a log file, and its tail into the error when one fails.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Error, IoContext, Result};
use crate::progress::Step;

/// Lines of a failed program's output that its error repeats.
const TAIL_LINES: usize = 25;

/// How often a running program's log is looked at to show its last line.
const POLL: Duration = Duration::from_millis(100);

/// Runs `command` to its end with its output appended to `log`; the log's last line is shown in
/// `step` while it runs.
pub(crate) fn logged(command: &mut Command, what: &str, log: &Path, step: &mut Step) -> Result<()> {
    let mut file = open_log(log)?;
    writeln!(file, "$ {}", shell_line(command)).context("write", log)?;
    let error_output = file.try_clone().context("open", log)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(error_output)
        .spawn()
        .map_err(|source| spawn_error(command, source))?;
    let status = loop {
        match child.try_wait().context("wait for", log)? {
            Some(status) => break status,
            None => {
                std::thread::sleep(POLL);
                if let Some(line) = last_lines(log, 1).lines().last() {
                    step.update(&line.chars().take(70).collect::<String>());
                }
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(Error::Command {
        what: what.to_owned(),
        status: status.to_string(),
        log: log.to_path_buf(),
        tail: last_lines(log, TAIL_LINES),
    })
}

/// Runs `command` and gives its standard output; standard error goes to `log`.
pub(crate) fn output(command: &mut Command, what: &str, log: &Path) -> Result<String> {
    let mut file = open_log(log)?;
    writeln!(file, "$ {}", shell_line(command)).context("write", log)?;
    let output = command
        .stdin(Stdio::null())
        .stderr(file)
        .output()
        .map_err(|source| spawn_error(command, source))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(Error::Command {
        what: what.to_owned(),
        status: output.status.to_string(),
        log: log.to_path_buf(),
        tail: last_lines(log, TAIL_LINES),
    })
}

fn open_log(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).context("create folder", folder)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .context("open", log)
}

fn spawn_error(command: &Command, source: std::io::Error) -> Error {
    Error::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

/// The command as a person could type it; only for logs and messages.
pub(crate) fn shell_line(command: &Command) -> String {
    let quote = |part: &OsStr| {
        let part = part.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+~@%".contains(c);
        if !part.is_empty() && part.chars().all(plain) {
            part.into_owned()
        } else {
            format!("'{}'", part.replace('\'', r"'\''"))
        }
    };
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quote)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The end of a file that may be large: the last `count` lines of its last 16 KiB.
fn last_lines(path: &Path, count: usize) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 << 10)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    #[test]
    fn failed_command_carries_the_end_of_its_output() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let log = dir.path().join("log");
        let mut step = Progress::hidden().step("t");
        let error = logged(
            Command::new("sh").args(["-c", "seq 100; echo last words >&2; exit 3"]),
            "The test",
            &log,
            &mut step,
        )
        .expect_err("exit status 3");
        let text = error.to_string();
        assert!(text.contains("The test failed (exit status: 3)"), "{text}");
        assert!(text.ends_with("100\nlast words"), "{text}");
        assert!(!text.contains("\n50\n"), "{text}");
    }

    #[test]
    fn missing_program_is_named() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let error = output(
            &mut Command::new("no-such-program"),
            "x",
            &dir.path().join("l"),
        )
        .expect_err("not there");
        assert!(error.to_string().contains("`no-such-program`"));
    }

    #[test]
    fn shell_line_quotes_what_a_shell_would_take_apart() {
        let mut command = Command::new("make");
        command.args(["CC=gcc-14", "A B", "it's", ""]);
        assert_eq!(shell_line(&command), r"make CC=gcc-14 'A B' 'it'\''s' ''");
    }
}
