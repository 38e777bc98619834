// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Traces recorded from a guest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use tmem_pages::trace::{Event, Op, Record, TraceError, TraceReader};

use super::{Step, Trace};
use crate::{Error, Result};

/// A page's name: pool, object, index.
type Name = (u32, u64, u32);

/// Reads a trace.
pub(super) fn read(path: &Path) -> Result<Trace> {
    let failed = |source| Error::Trace {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(|error| failed(TraceError::Read(error)))?;
    let name = path.file_name().unwrap_or(path.as_os_str());
    steps(BufReader::new(file), &name.to_string_lossy()).map_err(failed)
}

fn steps(from: impl Read, name: &str) -> std::result::Result<Trace, TraceError> {
    let mut reader = TraceReader::new(from)?;
    let name = format!("{name}: guest {}", reader.header().guest);
    let mut pages = Pages::default();
    for record in reader.by_ref() {
        if let Record::Event(event) = record? {
            pages.event(&event);
        }
    }
    let lost = reader.events_lost();
    Ok(Trace {
        name,
        footprint: pages.most,
        pages: u32::try_from(pages.numbers.len()).unwrap_or(u32::MAX),
        steps: pages.steps,
        remark: (lost > 0).then(|| {
            let events = reader.events();
            format!("{lost} events are missing beside {events}")
        }),
    })
}

/// The pages that a trace has named so far.
#[derive(Default)]
struct Pages {
    /// Of each, its number and whether it exists.
    numbers: BTreeMap<Name, (u32, bool)>,
    steps: Vec<Step>,
    exist: u32,
    /// Most that existed at a time.
    most: u32,
}

impl Pages {
    fn event(&mut self, event: &Event) {
        let pool = event.pool.0;
        match event.op {
            Op::Put | Op::Get => {
                for page in 0..event.pages {
                    if let Some(index) = event.index.checked_add(page) {
                        self.page(event.op, (pool, event.object, index));
                    }
                }
            }
            Op::Flush => {
                if let Some(after) = event.pages.checked_sub(1) {
                    let last = event.index.saturating_add(after);
                    let object = event.object;
                    self.flush((pool, object, event.index), (pool, object, last));
                }
            }
            Op::FlushObject => {
                self.flush((pool, event.object, 0), (pool, event.object, u32::MAX));
            }
            Op::FlushPool => self.flush((pool, 0, 0), (pool, u64::MAX, u32::MAX)),
        }
    }

    /// A get of a page that does not exist is not the policy's fault, and is left out.
    fn page(&mut self, op: Op, name: Name) {
        let new = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        if op == Op::Put {
            let (number, exists) = self.numbers.entry(name).or_insert((new, false));
            self.steps.push(Step::Put(*number));
            self.exist += u32::from(!*exists);
            *exists = true;
            self.most = self.most.max(self.exist);
        } else if let Some((number, true)) = self.numbers.get(&name) {
            self.steps.push(Step::Get(*number));
        }
    }

    fn flush(&mut self, first: Name, last: Name) {
        for (number, exists) in self.numbers.range_mut(first..=last).map(|page| page.1) {
            if std::mem::take(exists) {
                self.steps.push(Step::Flush(*number));
                self.exist -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tmem_pages::PoolId;
    use tmem_pages::trace::{Header, TraceWriter};

    use super::*;

    fn event(op: Op, object: u64, index: u32, pages: u32) -> Event {
        Event {
            at: 0,
            op,
            pool: PoolId(3),
            object,
            index,
            pages,
        }
    }

    #[test]
    fn a_recorded_trace_becomes_steps_of_the_pages_that_exist() {
        let header = Header {
            guest: "vm1".into(),
            ..Header::default()
        };
        let mut writer = TraceWriter::new(Vec::new(), &header).unwrap();
        for event in [
            event(Op::Get, 0, 5, 1),
            event(Op::Put, 0, 5, 2),
            event(Op::Put, 9, 1, 1),
            event(Op::Get, 0, 6, 2),
            event(Op::Flush, 0, 0, 6),
            event(Op::Flush, 0, 0, 6),
            event(Op::FlushObject, 9, 0, 0),
            event(Op::Get, 9, 1, 1),
            event(Op::Put, 9, 1, 1),
            event(Op::FlushPool, 0, 0, 0),
        ] {
            writer.event(&event).unwrap();
        }
        writer.lost(4).unwrap();
        let file = writer.finish().unwrap();
        let trace = steps(&*file, "t.trace").unwrap();
        use Step::{Flush, Get, Put};
        let expected = [
            Put(0),
            Put(1),
            Put(2),
            Get(1),
            Flush(0),
            Flush(2),
            Put(2),
            Flush(1),
            Flush(2),
        ];
        assert_eq!(trace.steps, expected);
        assert_eq!((trace.footprint, trace.pages), (3, 3));
        assert_eq!(trace.name, "t.trace: guest vm1");
        assert_eq!(
            trace.remark.as_deref(),
            Some("4 events are missing beside 10")
        );
    }

    #[test]
    fn a_trace_that_was_cut_short_is_an_error() {
        let writer = TraceWriter::new(Vec::new(), &Header::default()).unwrap();
        let file = writer.finish().unwrap();
        let error = steps(&file[..file.len() - 1], "t").unwrap_err();
        assert!(matches!(error, TraceError::Truncated { .. }), "{error}");
    }
}
