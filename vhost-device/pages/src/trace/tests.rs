// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What was written is read again; what was damaged is not; what was lost is counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::form::PART_MAX;
use super::*;
use crate::handle::{ObjectId, PoolId};
use crate::pool::{Layout, PoolKind, PoolSpec};

/// Numbers that depend on a seed alone (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        object_hash(ObjectId([self.0, 0, 0]))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A number with any number of bits.
    fn any(&mut self) -> u64 {
        let bits = self.below(64);
        self.next() >> bits
    }

    fn any_u32(&mut self) -> u32 {
        u32::try_from(self.any() >> 32).unwrap()
    }
}

/// The seed of this run: `TMEM_SEED`, or a new one. Printed with the command that runs it again.
fn draw(test: &str) -> Draw {
    use std::hash::{BuildHasher, RandomState};
    let seed = std::env::var("TMEM_SEED").map_or_else(
        |_| RandomState::new().hash_one(test),
        |seed| seed.parse().expect("TMEM_SEED is a number"),
    );
    println!("replay: TMEM_SEED={seed} cargo test -p tmem-pages {test} -- --nocapture");
    Draw(seed)
}

fn header() -> Header {
    let dense = PoolSpec {
        kind: PoolKind::Persistent,
        layout: Layout::Dense { pages: 1 << 20 },
    };
    let sparse = PoolSpec {
        kind: PoolKind::Ephemeral,
        layout: Layout::Sparse,
    };
    Header {
        guest: "Gäste-1".into(),
        pools: vec![(PoolId(0), dense), (PoolId(7), sparse)],
    }
}

/// Records as a guest makes them, and such as nobody makes.
fn records(draw: &mut Draw, count: usize) -> Vec<Record> {
    let mut at = 0;
    let mut last = (PoolId(0), 0, 0);
    let ops = [Op::Put, Op::Get, Op::Flush, Op::FlushObject, Op::FlushPool];
    let one = |_| {
        if draw.below(50) == 0 {
            return Record::Lost(draw.any().max(1) >> 20 | 1);
        }
        at = match draw.below(20) {
            0 => draw.any(),
            1 => u64::wrapping_sub(at, draw.below(1000)),
            _ => u64::wrapping_add(at, draw.below(5000)),
        };
        last.2 += 1;
        if draw.below(5) == 0 {
            last = (PoolId(draw.any_u32()), draw.any(), draw.any_u32() >> 1);
        }
        Record::Event(Event {
            at,
            op: ops[usize::try_from(draw.below(5)).unwrap()],
            pool: last.0,
            object: last.1,
            index: last.2,
            pages: if draw.below(4) == 0 {
                draw.any_u32()
            } else {
                1
            },
        })
    };
    (0..count).map(one).collect()
}

fn write(records: &[Record]) -> Vec<u8> {
    let mut writer = TraceWriter::new(Vec::new(), &header()).unwrap();
    for record in records {
        match record {
            Record::Event(event) => writer.event(event).unwrap(),
            Record::Lost(count) => writer.lost(*count).unwrap(),
        }
    }
    writer.finish().unwrap()
}

/// All records there are before the end or the first error, and that.
fn read(bytes: &[u8]) -> (Vec<Record>, Result<(), TraceError>) {
    let mut reader = match TraceReader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut records = Vec::new();
    for record in reader.by_ref() {
        match record {
            Ok(record) => records.push(record),
            Err(error) => return (records, Err(error)),
        }
    }
    assert!(reader.next().is_none());
    (records, Ok(()))
}

#[test]
fn what_is_written_is_read_again() {
    let mut draw = draw("what_is_written_is_read_again");
    for count in [0, 1, 2, 1000, 60_000] {
        let records = records(&mut draw, count);
        let bytes = write(&records);
        let (found, end) = read(&bytes);
        end.unwrap();
        assert!(found == records);
        assert_eq!(TraceReader::new(&*bytes).unwrap().header(), &header());
    }
}

#[test]
fn a_reader_takes_what_its_source_gives_however_little() {
    struct Drops<'a>(&'a [u8], bool);
    impl io::Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let some = into.len().min(3);
            self.0.read(&mut into[..some])
        }
    }
    let records = records(&mut Draw(1), 2000);
    let bytes = write(&records);
    let reader = TraceReader::new(Drops(&bytes, false)).unwrap();
    let found: Result<Vec<_>, _> = reader.collect();
    assert!(found.unwrap() == records);
}

#[test]
fn a_trace_that_was_cut_short_anywhere_gives_what_is_whole_and_says_so() {
    let records = records(&mut Draw(2), 3000);
    let bytes = write(&records);
    let mut most = 0;
    for len in 0..bytes.len() {
        let (found, end) = read(&bytes[..len]);
        assert!(records.starts_with(&found));
        most = most.max(found.len());
        match end {
            Err(TraceError::Truncated { at, events }) => {
                assert_eq!(at, len as u64);
                let counted = found.iter().filter(|one| matches!(one, Record::Event(_)));
                assert_eq!(events, counted.count() as u64);
            }
            Err(TraceError::Foreign) => assert!(len < 8),
            other => panic!("{other:?} after {len} bytes"),
        }
    }
    assert_eq!(most, records.len(), "all of them, without the end");
}

#[test]
fn a_changed_byte_is_found() {
    let mut draw = draw("a_changed_byte_is_found");
    let records = records(&mut draw, 3000);
    let bytes = write(&records);
    let mut damaged = 0;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << draw.below(8);
        let (found, end) = read(&changed);
        assert!(records.starts_with(&found), "wrong records for byte {at}");
        let error = end.expect_err("a changed byte is noticed");
        match error {
            TraceError::Foreign => assert!(at < 8),
            TraceError::Version { found } => assert!((8..10).contains(&at) && found != VERSION),
            // A length that changed may lead beyond the end.
            TraceError::Truncated { .. } => {}
            TraceError::Damaged { .. } => damaged += 1,
            other => panic!("{other:?} for byte {at}"),
        }
    }
    assert!(damaged > bytes.len() * 9 / 10);
}

#[test]
fn any_bytes_are_read_without_a_panic() {
    let mut draw = draw("any_bytes_are_read_without_a_panic");
    let good = write(&[]);
    let (mut sound, mut unsound) = (0, 0);
    for _ in 0..20_000 {
        // A block with a right sum and any bytes.
        let len = draw.below(40);
        let mut block: Vec<u8> = (0..len).map(|_| draw.next().to_le_bytes()[0]).collect();
        if let Some(first) = block.first_mut() {
            *first &= 0x7f;
        }
        let mut bytes = good[..good.len() - 11].to_vec();
        bytes.push(form::BLOCK);
        bytes.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        bytes.extend(form::sum(&block).to_le_bytes());
        bytes.extend(block);
        match read(&bytes) {
            (_, Err(TraceError::Damaged { .. })) => unsound += 1,
            (_, Err(TraceError::Truncated { .. })) => sound += 1,
            (_, other) => panic!("{other:?}"),
        }
    }
    assert!(sound > 100 && unsound > 100, "{sound} {unsound}");
}

#[test]
fn other_files_and_other_versions_are_told_apart() {
    let (_, end) = read(b"#!/bin/sh\necho hello\n");
    assert_eq!(
        end.unwrap_err().to_string(),
        "this is not a trace: it does not begin as one"
    );
    let mut next = write(&[]);
    next[8] = 2;
    let (_, end) = read(&next);
    assert_eq!(
        end.unwrap_err().to_string(),
        "the trace has version 2, and only version 1 can be read"
    );
    let mut longer = write(&[]);
    longer.push(0);
    let (_, end) = read(&longer);
    assert!(
        end.unwrap_err()
            .to_string()
            .ends_with("something follows the end")
    );
}

#[test]
fn a_header_that_is_too_large_is_refused() {
    let mut header = header();
    header.guest = "g".repeat(NAME_MAX + 1);
    let refused = TraceWriter::new(Vec::new(), &header);
    assert!(matches!(refused, Err(TraceError::Header)));
    header.guest.pop();
    let pool = header.pools[1];
    header.pools = vec![pool; POOLS_MAX];
    let bytes = TraceWriter::new(Vec::new(), &header).unwrap().finish();
    assert_eq!(
        TraceReader::new(&*bytes.unwrap()).unwrap().header(),
        &header
    );
    header.pools.push(pool);
    let refused = TraceWriter::new(Vec::new(), &header);
    assert!(matches!(refused, Err(TraceError::Header)));
}

#[test]
fn sequential_gets_take_four_bytes_each() {
    let get = |index: u32| {
        Record::Event(Event {
            at: u64::from(index) * 1500,
            op: Op::Get,
            pool: PoolId(0),
            object: 0,
            index,
            pages: 1,
        })
    };
    let records: Vec<_> = (0..100_000).map(get).collect();
    let bytes = write(&records).len();
    assert!(bytes < 4 * records.len(), "{bytes}");
}

#[test]
fn an_object_is_known_by_its_hash() {
    assert_eq!(object_hash(ObjectId::ZERO), 0);
    let mut hashes: Vec<u64> = (0..1000_u64)
        .flat_map(|word| [[word, 0, 1], [0, word, 1], [1, 1, word]])
        .map(|words| object_hash(ObjectId(words)))
        .collect();
    hashes.sort_unstable();
    hashes.dedup();
    // [0, 0, 1] occurs twice.
    assert_eq!(hashes.len(), 2999);
}

/// A file that a test can look into, and that may be full.
#[derive(Clone, Default)]
struct Shared {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
    largest: Arc<Mutex<usize>>,
}

impl Write for Shared {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut largest = self.largest.lock();
        *largest = from.len().max(*largest);
        self.bytes.lock().extend(from);
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn event(at: u64, index: u32) -> Event {
    Event {
        at,
        op: Op::Put,
        pool: PoolId(1),
        object: 0,
        index,
        pages: 1,
    }
}

fn start(recorder: &Recorder, limits: Limits) -> Shared {
    let file = Shared::default();
    let to = Box::new(file.clone());
    recorder.start(to, &header(), limits).unwrap();
    file
}

#[test]
fn events_of_all_workers_come_in_the_order_of_time() {
    let recorder = Recorder::new(3);
    recorder.record(0, event(1, 1));
    let file = start(&recorder, Limits::default());
    for (worker, at) in [(0, 5), (1, 2), (2, 9), (0, 6), (1, 7), (4, 8)] {
        recorder.record(worker, event(at, 1));
    }
    recorder.pump().unwrap();
    recorder.record(2, event(10, 1));
    let summary = recorder.stop().unwrap();
    assert_eq!((summary.events, summary.lost), (7, 0));
    let (found, end) = read(&file.bytes.lock());
    end.unwrap();
    let expected = [2, 5, 6, 7, 8, 9, 10].map(|at| Record::Event(event(at, 1)));
    assert_eq!(found, expected);
    // Off again: nothing is recorded, and a new recording is another file.
    recorder.record(0, event(11, 1));
    assert!(!recorder.is_on());
    let file = start(&recorder, Limits::default());
    recorder.stop().unwrap();
    assert_eq!(read(&file.bytes.lock()).0, []);
}

#[test]
fn what_finds_a_full_lane_is_lost_and_counted_in_the_file() {
    let recorder = Recorder::new(2);
    let limits = Limits {
        lane_events: 100,
        ..Limits::default()
    };
    let file = start(&recorder, limits);
    for index in 0..250 {
        recorder.record(0, event(u64::from(index), index));
    }
    assert_eq!(recorder.pump().unwrap().lost, 150);
    recorder.record(0, event(300, 300));
    let summary = recorder.stop().unwrap();
    assert_eq!((summary.events, summary.lost), (101, 150));
    let (found, end) = read(&file.bytes.lock());
    end.unwrap();
    assert_eq!(found.len(), 102);
    assert_eq!(found[100], Record::Lost(150));
    assert_eq!(found[101], Record::Event(event(300, 300)));
}

#[test]
fn a_file_grows_to_its_limit_and_counts_the_rest() {
    let recorder = Recorder::new(1);
    let limits = Limits {
        lane_events: 10_000,
        file_bytes: 2000,
    };
    let file = start(&recorder, limits);
    for index in 0..10_000 {
        recorder.record(0, event(u64::from(index), index));
    }
    let summary = recorder.stop().unwrap();
    assert_eq!(summary.events + summary.lost, 10_000);
    assert!(summary.lost > 8000 && file.bytes.lock().len() < 2100);
    read(&file.bytes.lock()).1.unwrap();
}

#[test]
fn a_full_disk_ends_the_recording_with_an_error() {
    let recorder = Recorder::new(1);
    let limits = Limits::default();
    let file = start(&recorder, limits);
    let again = recorder.start(Box::new(file.clone()), &header(), limits);
    assert!(matches!(again, Err(TraceError::Recording)));
    file.full.store(true, Ordering::Relaxed);
    let mut at = 0;
    let error = loop {
        for _ in 0..10_000 {
            at += 1;
            recorder.record(0, event(at, 1));
        }
        if let Err(error) = recorder.pump() {
            break error;
        }
        assert!(at < 1_000_000);
    };
    assert_eq!(error.to_string(), "cannot write the trace");
    assert!(!recorder.is_on());
    assert_eq!(recorder.stop().unwrap(), Summary::default());
}

#[test]
fn a_writer_keeps_one_block_and_no_more() {
    let file = Shared::default();
    let mut writer = TraceWriter::new(file.clone(), &header()).unwrap();
    for index in 0..300_000 {
        writer.event(&event(u64::from(index) << 20, index)).unwrap();
    }
    assert!(file.bytes.lock().len() > 10 * PART_MAX);
    assert!(*file.largest.lock() <= PART_MAX + 9);
    writer.finish().unwrap();
}

#[test]
fn every_event_of_many_threads_is_written_or_counted() {
    const EVENTS: u32 = 50_000;
    let recorder = Recorder::new(4);
    let limits = Limits {
        lane_events: 500,
        ..Limits::default()
    };
    let file = start(&recorder, limits);
    let working = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let workers = [0, 1, 2, 3].map(|worker| {
            let recorder = &recorder;
            scope.spawn(move || {
                for index in 0..EVENTS {
                    recorder.record(worker, event(index.into(), index));
                }
            })
        });
        scope.spawn(|| {
            while working.load(Ordering::Relaxed) {
                recorder.pump().unwrap();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        working.store(false, Ordering::Relaxed);
    });
    let summary = recorder.stop().unwrap();
    assert_eq!(summary.events + summary.lost, 4 * u64::from(EVENTS));
    assert!(summary.events >= 500);
    let mut reader = TraceReader::new(io::Cursor::new(file.bytes.lock().clone())).unwrap();
    assert!(reader.by_ref().all(|record| record.is_ok()));
    assert_eq!(
        (reader.events(), reader.events_lost()),
        (summary.events, summary.lost)
    );
}
