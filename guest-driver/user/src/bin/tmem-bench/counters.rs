// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's counters of notifications, where they can be read.

/// Notifications so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    pub(crate) kicks: u64,
    pub(crate) interrupts: u64,
}

impl Counters {
    /// Reads those of device `number`.
    pub(crate) fn read(number: u32) -> Option<Self> {
        let path = format!("/sys/kernel/debug/virtio_tmem/vtmem{number}/stats");
        Self::of(&std::fs::read_to_string(path).ok()?)
    }

    fn of(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines
                .find(|(other, _)| *other == name)?
                .1
                .trim()
                .parse()
                .ok()
        };
        Some(Self {
            kicks: value("kicks")?,
            interrupts: value("interrupts")?,
        })
    }

    /// What has come since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            kicks: self.kicks.saturating_sub(before.kicks),
            interrupts: self.interrupts.saturating_sub(before.interrupts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_among_others() {
        let counters = Counters::of("pages_put 7\nkicks 12\ninterrupts 3\n").expect("both");
        assert_eq!((counters.kicks, counters.interrupts), (12, 3));
        assert!(Counters::of("kicks 12\n").is_none());
    }
}
