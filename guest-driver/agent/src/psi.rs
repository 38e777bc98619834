// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's pressure stall information: its figures, and a trigger that can be waited for.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// For how long tasks have waited for memory since the boot, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stalls {
    /// At least one of them.
    pub(crate) some_us: u64,
    /// All of them.
    pub(crate) full_us: u64,
}

/// Reads the figures.
pub(crate) fn read(path: &Path) -> Result<Stalls, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!(
            "cannot read {}: {error}; the kernel must be built with CONFIG_PSI, and booted with \
             psi=1 if that is off by default",
            path.display()
        )
    })?;
    parse(&text).ok_or_else(|| format!("{} does not tell total stall times", path.display()))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same of `full`.
fn parse(text: &str) -> Option<Stalls> {
    let total = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        let mut words = line.split_whitespace();
        words
            .find_map(|word| word.strip_prefix("total="))?
            .parse()
            .ok()
    };
    Some(Stalls {
        some_us: total("some ")?,
        full_us: total("full ")?,
    })
}

/// Wakes its waiter when some task has waited for long enough.
pub(crate) struct Trigger(File);

impl Trigger {
    /// Asks the kernel to wake us when some task waited for `stall` within `window`.
    pub(crate) fn set(path: &Path, stall: Duration, window: Duration) -> Result<Self, String> {
        let set = || {
            let flags = rustix::fs::OFlags::NONBLOCK.bits();
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(i32::try_from(flags).unwrap_or(0))
                .open(path)?;
            // The kernel takes the line with one write, and counts its end as a part of it.
            let line = format!("some {} {}\0", stall.as_micros(), window.as_micros());
            file.write_all(line.as_bytes())?;
            Ok(file)
        };
        set().map(Self).map_err(|error: std::io::Error| {
            format!(
                "cannot set a trigger in {}: {error}; without CAP_SYS_RESOURCE the kernel takes \
                 only windows of a multiple of 2s",
                path.display()
            )
        })
    }

    /// Waits until it fires, but at most for `limit`; returns whether it did.
    pub(crate) fn wait(&self, limit: Duration) -> Result<bool, String> {
        let mut wait = [PollFd::new(&self.0, PollFlags::PRI)];
        let limit = Timespec::try_from(limit).map_err(|error| error.to_string())?;
        match poll(&mut wait, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for the trigger: {error}")),
        }
        let came = wait[0].revents();
        if came.intersects(PollFlags::ERR) && !came.intersects(PollFlags::PRI) {
            return Err("the kernel has taken the trigger away".to_owned());
        }
        Ok(came.intersects(PollFlags::PRI))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let text = "some avg10=1.00 avg60=0.50 avg300=0.10 total=123456\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=789\n";
        let stalls = Stalls {
            some_us: 123_456,
            full_us: 789,
        };
        assert_eq!(parse(text), Some(stalls));
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "some avg10=0.00\nfull total=1\n",
            "some total=x\nfull total=1\n",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
