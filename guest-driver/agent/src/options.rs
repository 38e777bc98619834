// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line.

use std::path::PathBuf;
use std::time::Duration;

const PAGE_BYTES: u64 = 4096;

pub(crate) const HELP: &str = "\
Tells virtio-tmem's driver how much the programs of this guest wait for memory, so that the host's
balloon gives memory back before they suffer. Runs until it is ended; needs root.

Usage: tmem-agent [OPTIONS]

Options:
  --floor SIZE      Memory that the balloon must leave to this guest, such as 256MiB [default: none
                    of its own; the driver's and the host's floors hold in any case]
  --trigger S/W     Wake up when programs waited for S in a window of W [default: 50ms/1s]
  --refresh TIME    Write a record so often even if nobody waits [default: 30s]
  --device PATH     Where the driver takes records [default: /dev/tmem-balloon]
  --pressure PATH   The kernel's figures [default: /proc/pressure/memory]
  --meminfo PATH    Where swap in use is told [default: /proc/meminfo]
  --show            Print what would be written now, and end
  --help            Print this
  --version         Print the version

As long as it runs it holds the device open, and so the module cannot be unloaded; what it wrote is
forgotten when it ends.

Examples:
  tmem-agent                            as its systemd unit runs it
  tmem-agent --floor 512MiB             never less than 512 MiB for this guest
  tmem-agent --trigger 20ms/500ms       for programs that must not wait
  tmem-agent --show                     does this kernel tell about pressure at all?

Exit codes: 0 done, 1 the kernel does not tell about pressure, 2 a wrong command line.
";

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Help,
    Version,
    Show(Options),
    Run(Options),
}

/// How to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) floor_pages: u64,
    pub(crate) stall: Duration,
    pub(crate) window: Duration,
    pub(crate) refresh: Duration,
    pub(crate) device: PathBuf,
    pub(crate) pressure: PathBuf,
    pub(crate) meminfo: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            floor_pages: 0,
            stall: Duration::from_millis(50),
            window: Duration::from_secs(1),
            refresh: Duration::from_secs(30),
            device: "/dev/tmem-balloon".into(),
            pressure: "/proc/pressure/memory".into(),
            meminfo: "/proc/meminfo".into(),
        }
    }
}

impl Options {
    /// Reads the words after the program's name.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
        let mut options = Self::default();
        let mut show = false;
        while let Some(word) = words.next() {
            let (name, mut inline) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            let mut value = || {
                inline
                    .take()
                    .or_else(|| words.next())
                    .ok_or_else(|| format!("{name} needs a value"))
            };
            match name.as_str() {
                "--help" | "-h" => return Ok(Asked::Help),
                "--version" | "-V" => return Ok(Asked::Version),
                "--show" => show = true,
                "--floor" => options.floor_pages = size(&value()?)?.div_ceil(PAGE_BYTES),
                "--trigger" => (options.stall, options.window) = trigger(&value()?)?,
                "--refresh" => options.refresh = refresh(&value()?)?,
                "--device" => options.device = value()?.into(),
                "--pressure" => options.pressure = value()?.into(),
                "--meminfo" => options.meminfo = value()?.into(),
                other => return Err(format!("{other} is no option")),
            }
        }
        Ok(if show {
            Asked::Show(options)
        } else {
            Asked::Run(options)
        })
    }
}

/// Bytes: `256MiB`, with KiB, MiB, GiB, or B or nothing.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("{other} is no unit of {text}: use KiB, MiB or GiB")),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| format!("{text} is no size such as 256MiB"))
}

/// A time: `50ms` or `1s`.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: Option<u64> = digits.parse().ok();
    match (number, &text[digits.len()..]) {
        (Some(number), "ms") => Ok(Duration::from_millis(number)),
        (Some(number), "s") => Ok(Duration::from_secs(number)),
        _ => Err(format!("{text} is no time such as 50ms or 1s")),
    }
}

/// The kernel takes windows from half a second to ten seconds.
fn trigger(text: &str) -> Result<(Duration, Duration), String> {
    let (stall, window) = text
        .split_once('/')
        .ok_or_else(|| format!("{text} is no trigger such as 50ms/1s"))?;
    let (stall, window) = (time(stall)?, time(window)?);
    if window < Duration::from_millis(500) || window > Duration::from_secs(10) {
        return Err(format!("the window of {text} is not from 500ms to 10s"));
    }
    if stall.is_zero() || stall > window {
        return Err(format!("the stall of {text} does not fit into its window"));
    }
    Ok((stall, window))
}

fn refresh(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time < Duration::from_secs(1) || time > Duration::from_secs(3600) {
        return Err(format!("{text} is not from 1s to 3600s"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Asked, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn nothing_said_is_what_the_unit_runs() {
        assert_eq!(parse(""), Ok(Asked::Run(Options::default())));
    }

    #[test]
    fn values_come_as_words_or_behind_an_equals_sign() {
        let options = Options {
            floor_pages: 65536,
            stall: Duration::from_millis(20),
            window: Duration::from_millis(500),
            refresh: Duration::from_secs(5),
            device: "/d".into(),
            ..Options::default()
        };
        let line = "--floor 256MiB --trigger=20ms/500ms --refresh 5s --device=/d";
        assert_eq!(parse(line), Ok(Asked::Run(options)));
    }

    #[test]
    fn a_floor_is_whole_pages() {
        for (text, pages) in [("1", 1), ("4KiB", 1), ("4097B", 2), ("1GiB", 1 << 18)] {
            let asked = parse(&format!("--floor {text}")).expect("well formed");
            assert!(matches!(asked, Asked::Run(options) if options.floor_pages == pages));
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        for line in [
            "--floor",
            "--floor many",
            "--floor 5MB",
            "--floor 99999999999GiB",
            "--trigger 50ms",
            "--trigger 2s/1s",
            "--trigger 0ms/1s",
            "--trigger 50ms/100ms",
            "--trigger 50ms/11s",
            "--refresh 0s",
            "--refresh 5",
            "--unknown",
            "word",
        ] {
            assert!(parse(line).is_err(), "{line} was taken");
        }
    }

    #[test]
    fn help_shows_every_option() {
        assert_eq!(parse("--help --unknown"), Ok(Asked::Help));
        assert_eq!(parse("-V"), Ok(Asked::Version));
        for option in [
            "--floor",
            "--trigger",
            "--refresh",
            "--device",
            "--pressure",
            "--meminfo",
            "--show",
        ] {
            assert!(HELP.contains(option));
        }
    }
}
