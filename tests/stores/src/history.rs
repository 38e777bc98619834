// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What several threads did to keys, in the order in which it began and ended, and whether each key
//! behaved like one register: the judge is the checker of the crate todc-utils (Wing, Gong, Lowe).
//!
//! Pages are independent of each other, so each key is checked by itself, which keeps the search
//! small. A change that failed may take effect at any time after it began, also never: it is recorded
//! as ending after everything else. A read that failed says nothing and is left out.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use todc_utils::linearizability::history::Action;
use todc_utils::specifications::Specification;
use todc_utils::{History, WGLChecker};

/// What was done to a key. Versions are unique within a key; 0 is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A write of a version, or a flush as the write of 0.
    Write(u64),
    /// A read that returned this version.
    Read(u64),
}

/// A register that has no page at first.
struct Register;

impl Specification for Register {
    type State = u64;
    type Operation = Operation;

    fn init() -> u64 {
        0
    }

    fn apply(operation: &Operation, state: &u64) -> (bool, u64) {
        match operation {
            Operation::Write(version) => (true, *version),
            Operation::Read(version) => (version == state, *state),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Begin,
    End(Option<Operation>),
}

#[derive(Debug, Default)]
struct Keys {
    operations: usize,
    /// Events of each key, in order: which operation, and what happened to it.
    events: BTreeMap<u32, Vec<(usize, Event)>>,
    /// Writes, so that one that never ended is known.
    writes: BTreeMap<usize, u64>,
}

/// An operation that was begun.
#[derive(Debug)]
#[must_use = "an operation that is not ended counts as failed"]
pub struct Begun {
    key: u32,
    number: usize,
}

/// A history being recorded, by any number of threads.
#[derive(Debug, Default)]
pub struct Recorder {
    keys: Mutex<Keys>,
}

/// A key whose history no register could have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: u32,
    /// Its events, one a line.
    pub text: String,
}

impl Recorder {
    fn begin(&self, key: u32, write: Option<u64>) -> Begun {
        let mut keys = self.keys.lock();
        let number = keys.operations;
        keys.operations += 1;
        keys.events
            .entry(key)
            .or_default()
            .push((number, Event::Begin));
        if let Some(version) = write {
            keys.writes.insert(number, version);
        }
        Begun { key, number }
    }

    fn end(&self, begun: &Begun, operation: Option<Operation>) {
        let mut keys = self.keys.lock();
        let event = (begun.number, Event::End(operation));
        keys.events.entry(begun.key).or_default().push(event);
    }

    /// A write of a version begins; a flush is the write of 0.
    pub fn begin_write(&self, key: u32, version: u64) -> Begun {
        self.begin(key, Some(version))
    }

    /// A read begins.
    pub fn begin_read(&self, key: u32) -> Begun {
        self.begin(key, None)
    }

    /// A write was acknowledged, or failed.
    pub fn end_write(&self, begun: Begun, acknowledged: bool) {
        let version = self.keys.lock().writes.get(&begun.number).copied();
        self.end(
            &begun,
            version.filter(|_| acknowledged).map(Operation::Write),
        );
        drop(begun);
    }

    /// A read returned a version, or failed.
    pub fn end_read(&self, begun: Begun, version: Option<u64>) {
        self.end(&begun, version.map(Operation::Read));
        drop(begun);
    }

    /// How many operations there are, and of how many keys.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        let keys = self.keys.lock();
        (keys.operations, keys.events.len())
    }

    /// Checks each key.
    ///
    /// # Errors
    /// The first key that no register explains.
    pub fn check(&self) -> Result<(), Violation> {
        let keys = self.keys.lock();
        for (key, events) in &keys.events {
            if !is_register(events, &keys.writes) {
                let text = events
                    .iter()
                    .map(|(number, event)| format!("{number} {event:?}\n"))
                    .collect();
                return Err(Violation { key: *key, text });
            }
        }
        Ok(())
    }
}

/// Whether the events of one key are those of a register.
fn is_register(events: &[(usize, Event)], writes: &BTreeMap<usize, u64>) -> bool {
    let mut ended = BTreeMap::new();
    for (number, event) in events {
        if let Event::End(operation) = event {
            ended.insert(*number, *operation);
        }
    }
    // The checker takes "processes" for numbers: here each operation is one of its own.
    let mut processes = BTreeMap::new();
    let mut actions = Vec::new();
    let mut last = Vec::new();
    for (number, event) in events {
        let done = ended.get(number).copied().flatten();
        let operation = match (done, writes.get(number)) {
            (Some(operation), _) => operation,
            (None, Some(version)) => Operation::Write(*version),
            (None, None) => continue,
        };
        let next = processes.len();
        let process = *processes.entry(*number).or_insert(next);
        match event {
            Event::Begin => {
                actions.push((process, Action::Call(operation)));
                if done.is_none() {
                    last.push((process, Action::Response(operation)));
                }
            }
            Event::End(Some(_)) => actions.push((process, Action::Response(operation))),
            Event::End(None) => {}
        }
    }
    actions.extend(last);
    actions.is_empty() || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_of_the_last_write_is_linearizable() {
        let recorder = Recorder::default();
        let write = recorder.begin_write(1, 1);
        recorder.end_write(write, true);
        let flush = recorder.begin_write(1, 0);
        let read = recorder.begin_read(1);
        recorder.end_read(read, Some(1));
        let read = recorder.begin_read(1);
        recorder.end_read(read, Some(0));
        recorder.end_write(flush, true);
        assert_eq!(recorder.check(), Ok(()));
        assert_eq!(recorder.sizes(), (4, 1));
    }

    #[test]
    fn read_of_an_older_write_is_not() {
        let recorder = Recorder::default();
        for version in [1, 2] {
            let write = recorder.begin_write(7, version);
            recorder.end_write(write, true);
        }
        let read = recorder.begin_read(7);
        recorder.end_read(read, Some(1));
        assert_eq!(recorder.check().map_err(|found| found.key), Err(7));
    }

    #[test]
    fn failed_write_may_show_late_or_never_but_not_vanish_again() {
        let history = |reads: &[u64]| {
            let recorder = Recorder::default();
            let write = recorder.begin_write(1, 1);
            recorder.end_write(write, true);
            let write = recorder.begin_write(1, 2);
            recorder.end_write(write, false);
            for version in reads {
                let read = recorder.begin_read(1);
                recorder.end_read(read, Some(*version));
            }
            recorder.check().is_ok()
        };
        assert!(history(&[1, 1]));
        assert!(history(&[1, 2]));
        assert!(!history(&[2, 1]));
        assert!(!history(&[1, 2, 1]));
    }

    #[test]
    fn failed_read_says_nothing() {
        let recorder = Recorder::default();
        let read = recorder.begin_read(1);
        recorder.end_read(read, None);
        assert_eq!(recorder.check(), Ok(()));
    }

    #[test]
    fn write_that_never_ended_counts_as_failed() {
        let recorder = Recorder::default();
        let _cut_short = recorder.begin_write(1, 1);
        for version in [0, 1] {
            let read = recorder.begin_read(1);
            recorder.end_read(read, Some(version));
        }
        assert_eq!(recorder.check(), Ok(()));
    }
}
