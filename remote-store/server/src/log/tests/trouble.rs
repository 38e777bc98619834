// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One test for each kind of trouble: damage, a full log, a full disk, a medium that fails, a boot.

use std::collections::BTreeMap;
use std::sync::Arc;

use tmem_remote_protocol::{PAGE_SIZE, checksum};

use super::lossy::Lossy;
use super::work::Content;
use super::{SMALL, open, options, place};
use crate::log::layout::{HEADER_LEN, UNIT, bytes};
use crate::log::{
    Appended, Begun, FileMedium, LOG_SIZE_MIN, LogError, LogOptions, LogSync, PageLog, Place,
    Record, SharedLog,
};

fn blank() -> Arc<Lossy> {
    let size = bytes(SMALL.segment_units) * u64::from(SMALL.slots);
    Arc::new(Lossy::new(usize::try_from(size).unwrap()))
}

/// A page that is not one byte repeated.
fn content(number: u64) -> Content {
    Content(number * 4 + 1)
}

fn put(log: &mut PageLog, index: u32, generation: u64) -> Appended {
    let page = content(generation).bytes();
    let put = Record::Put {
        place: place(index),
        generation,
        crc: checksum(&page),
        page: &page,
    };
    log.append(put).expect("a log that works")
}

fn flush(log: &mut PageLog, index: u32, generation: u64) -> Appended {
    let flush = Record::Flush {
        place: place(index),
        generation,
    };
    log.append(flush).expect("a log that works")
}

/// Indices and generations of all pages, whose bytes are those that `put` wrote.
fn pages(log: &PageLog) -> BTreeMap<u32, u64> {
    let mut all = BTreeMap::new();
    log.each_page(&mut |place, generation, crc, page| {
        assert_eq!(*page, content(generation).bytes(), "{place:?}");
        assert_eq!(crc, checksum(page));
        all.insert(place.index, generation);
    })
    .expect("all pages");
    all
}

/// A log with pages 0 to 19, committed one by one, and its medium.
fn twenty(sync: LogSync) -> (Arc<Lossy>, PageLog) {
    let medium = blank();
    let mut log = open(&medium, &options(sync)).expect("a new log").log;
    for index in 0..20 {
        assert!(matches!(
            put(&mut log, index, u64::from(index) + 1),
            Appended::Written(_)
        ));
        log.commit().expect("a commit");
    }
    (medium, log)
}

#[test]
fn log_is_recovered_with_its_identity_and_namespaces() {
    let (medium, mut log) = twenty(LogSync::Host);
    let about = Record::Namespace {
        namespace: 1,
        about: b"host-1",
    };
    assert!(matches!(log.append(about), Ok(Appended::Written(_))));
    assert!(matches!(flush(&mut log, 3, 100), Appended::Written(_)));
    log.commit().expect("a commit");
    let image = medium.after_power_loss(&mut super::work::Random::new(1, 1));
    let mut other = options(LogSync::Host);
    (other.store_id, other.incarnation) = ([9; 16], 2);
    let opened = open(&Arc::new(Lossy::with(image)), &other).expect("the log");
    assert_eq!(opened.report.begun, Begun::Recovered);
    assert_eq!(
        (opened.report.store_id, opened.report.incarnation),
        ([7; 16], 1)
    );
    assert_eq!(opened.report.namespaces, [(1, b"host-1".to_vec())]);
    let expected = (0..20).filter(|index| *index != 3);
    let expected: BTreeMap<u32, u64> = expected
        .map(|index| (index, u64::from(index) + 1))
        .collect();
    assert_eq!(pages(&opened.log), expected);
}

#[test]
fn commit_for_the_host_syncs_once_for_a_whole_batch() {
    let medium = blank();
    let mut log = open(&medium, &options(LogSync::Host))
        .expect("a new log")
        .log;
    let before = medium.syncs();
    for index in 0..6 {
        let _ = put(&mut log, index, 1);
    }
    log.commit().expect("a commit");
    assert_eq!(medium.syncs() - before, 1);
    log.commit().expect("a commit of nothing");
    assert_eq!(medium.syncs() - before, 1);

    let medium = blank();
    let mut log = open(&medium, &options(LogSync::Process))
        .expect("a new log")
        .log;
    let _ = put(&mut log, 0, 1);
    log.commit().expect("a commit");
    assert_eq!(medium.syncs(), 0, "the process alone needs none");
}

#[test]
fn full_log_refuses_puts_and_takes_flushes() {
    let medium = blank();
    let mut log = open(&medium, &options(LogSync::Process))
        .expect("a new log")
        .log;
    let (mut index, mut generation) = (0, 1);
    loop {
        match put(&mut log, index, generation) {
            Appended::Written(_) => index += 1,
            Appended::Wait => assert!(log.commit().is_ok()),
            Appended::Full => break,
            Appended::Stale => panic!("a first write is stale"),
        }
        generation += 1;
    }
    log.commit().expect("a commit");
    assert_eq!(
        put(&mut log, index, generation),
        Appended::Full,
        "after a commit, too"
    );
    assert_eq!(log.reserve(1), Appended::Full);
    let (stats, held) = (log.stats(), index);
    assert!(stats.live_bytes <= stats.limit_bytes, "{stats:?}");
    assert!(held > 80, "{held} pages in {stats:?}");
    for flushed in 0..held {
        while flush(&mut log, flushed, generation) == Appended::Wait {
            log.commit().expect("a commit");
        }
    }
    log.commit().expect("a commit");
    assert!(
        matches!(put(&mut log, index, generation), Appended::Written(_)),
        "room again"
    );
    log.commit().expect("a commit");
    log.self_check();
    let opened = open(
        &Arc::new(Lossy::with(medium.after_kill())),
        &options(LogSync::Process),
    );
    assert_eq!(
        pages(&opened.expect("the log").log),
        BTreeMap::from([(index, generation)])
    );
}

#[test]
fn reserved_room_is_there_when_it_is_used() {
    let medium = blank();
    let mut log = open(&medium, &options(LogSync::Process))
        .expect("a new log")
        .log;
    let mut reserved = 0;
    while matches!(log.reserve(3), Appended::Written(_)) {
        reserved += 3;
    }
    assert!(reserved > 60);
    assert_ne!(
        put(&mut log, 0, 1),
        Appended::Full,
        "it uses up what was reserved"
    );
    log.release(1);
    for index in 1..reserved - 1 {
        assert!(
            matches!(put(&mut log, index, 1), Appended::Written(_)),
            "{index}"
        );
    }
}

#[test]
fn damage_of_what_was_committed_is_an_error_that_says_where() {
    let (medium, mut log) = twenty(LogSync::Host);
    let whole = medium.after_kill();
    // A byte in each record's page, in the first segments and in the last.
    let step = HEADER_LEN + 30 * UNIT;
    let last = log.segments.at(log.segments.tail).number;
    assert!(last >= 3);
    for slot in 0..2 {
        let mut image = whole.clone();
        let at = usize::try_from(bytes(SMALL.slot_at(slot))).unwrap() + step;
        image[at] ^= 1;
        let error = open(&Arc::new(Lossy::with(image)), &options(LogSync::Host));
        let error = error.expect_err("a refusal").to_string();
        assert!(
            error.contains("is damaged at byte") && error.contains("salvage"),
            "{error}"
        );
    }
    // In the tail only what comes later can tell: here the last page but one.
    let _ = flush(&mut log, 0, 200);
    log.commit().expect("a commit");
    let mut image = medium.after_kill();
    let slot = log.segments.tail;
    let at = usize::try_from(bytes(SMALL.slot_at(slot))).unwrap() + HEADER_LEN + 100;
    image[at] ^= 1;
    let error = open(&Arc::new(Lossy::with(image)), &options(LogSync::Host));
    assert!(matches!(error, Err(LogError::Damaged { .. })), "{error:?}");
    // The header of the last segment.
    let mut image = medium.after_kill();
    image[usize::try_from(bytes(SMALL.slot_at(slot))).unwrap() + 20] ^= 1;
    let error = open(&Arc::new(Lossy::with(image)), &options(LogSync::Host));
    assert!(matches!(error, Err(LogError::Damaged { .. })), "{error:?}");
    // The header of another.
    let mut image = medium.after_kill();
    image[20] ^= 1;
    let error = open(&Arc::new(Lossy::with(image)), &options(LogSync::Host));
    assert!(matches!(error, Err(LogError::Damaged { .. })), "{error:?}");
}

#[test]
fn salvage_keeps_what_can_be_read_under_a_new_incarnation() {
    let (medium, _) = twenty(LogSync::Host);
    let mut image = medium.after_kill();
    // The page of the second record.
    image[HEADER_LEN + 65 * UNIT + 500] ^= 0x10;
    let mut salvage = options(LogSync::Host);
    (salvage.salvage, salvage.incarnation) = (true, 44);
    let medium = Arc::new(Lossy::with(image));
    let opened = open(&medium, &salvage).expect("what is left");
    assert_eq!(opened.report.begun, Begun::Salvaged);
    assert_eq!(
        (opened.report.incarnation, opened.report.damage.len()),
        (44, 1)
    );
    let left = pages(&opened.log);
    assert_eq!(left.len(), 19);
    assert!(!left.contains_key(&1));
    // It goes on, whole again.
    let mut log = opened.log;
    log.self_check();
    let _ = put(&mut log, 1, 500);
    log.commit().expect("a commit");
    let again = open(
        &Arc::new(Lossy::with(medium.after_kill())),
        &options(LogSync::Host),
    );
    let again = again.expect("a log without damage");
    assert_eq!(
        (again.report.begun, again.report.incarnation),
        (Begun::Recovered, 44)
    );
    assert_eq!((pages(&again.log).len(), pages(&again.log)[&1]), (20, 500));
}

#[test]
fn log_for_the_process_begins_empty_after_a_boot() {
    let (medium, _) = twenty(LogSync::Process);
    let mut later = options(LogSync::Process);
    (later.boot, later.incarnation) = ([2; 16], 5);
    let medium = Arc::new(Lossy::with(medium.after_kill()));
    let opened = open(&medium, &later).expect("a log");
    assert_eq!(
        (opened.report.begun, opened.report.pages),
        (Begun::AfterBoot, 0)
    );
    assert_eq!(
        (opened.report.store_id, opened.report.incarnation),
        ([7; 16], 5)
    );
    let mut log = opened.log;
    let _ = put(&mut log, 77, 1000);
    log.commit().expect("a commit");
    let again = open(&Arc::new(Lossy::with(medium.after_kill())), &later).expect("the log");
    assert_eq!(pages(&again.log), BTreeMap::from([(77, 1000)]));
    assert_eq!(
        (again.report.begun, again.report.incarnation),
        (Begun::Recovered, 5)
    );
    // One for the host does not mind.
    let (medium, _) = twenty(LogSync::Host);
    later.sync = LogSync::Host;
    let opened = open(&Arc::new(Lossy::with(medium.after_kill())), &later).expect("the log");
    assert_eq!(
        (opened.report.begun, opened.report.pages),
        (Begun::Recovered, 20)
    );
}

#[test]
fn medium_that_fails_once_is_not_trusted_again() {
    let (medium, mut log) = twenty(LogSync::Host);
    medium.stop_after(0);
    let _ = put(&mut log, 50, 60);
    let error = log.commit().expect_err("a failure");
    assert!(
        error.to_string().contains("takes no more records"),
        "{error}"
    );
    medium.stop_after(1000);
    assert!(matches!(log.commit(), Err(LogError::Failed { .. })));
    let flush = Record::Flush {
        place: place(0),
        generation: 99,
    };
    assert!(matches!(log.append(flush), Err(LogError::Failed { .. })));
    assert_eq!(log.committed(), 20, "what was committed stays so");

    let (medium, log) = twenty(LogSync::Host);
    medium.fail_reads();
    let error = log.each_page(&mut |_, _, _, _| {});
    assert!(matches!(error, Err(LogError::Read { .. })), "{error:?}");
}

#[test]
fn late_write_does_not_replace_a_newer_one() {
    let (medium, mut log) = twenty(LogSync::Process);
    assert_eq!(put(&mut log, 19, 5), Appended::Stale);
    assert!(matches!(flush(&mut log, 19, 300), Appended::Written(_)));
    assert_eq!(put(&mut log, 19, 299), Appended::Stale);
    let pool = Record::FlushPool {
        namespace: 1,
        pool: 0,
        generation: 400,
    };
    assert!(matches!(log.append(pool), Ok(Appended::Written(_))));
    assert_eq!(put(&mut log, 2, 400), Appended::Stale);
    assert!(matches!(put(&mut log, 2, 401), Appended::Written(_)));
    log.commit().expect("a commit");
    log.self_check();
    let opened = open(
        &Arc::new(Lossy::with(medium.after_kill())),
        &options(LogSync::Process),
    );
    assert_eq!(
        pages(&opened.expect("the log").log),
        BTreeMap::from([(2, 401)])
    );
}

#[test]
fn something_else_is_not_taken_for_a_log() {
    let size = usize::try_from(bytes(SMALL.segment_units)).unwrap() * SMALL.slots as usize;
    let medium = Arc::new(Lossy::with(vec![0x55; size]));
    let error = open(&medium, &options(LogSync::Host)).expect_err("a refusal");
    assert!(matches!(error, LogError::NotALog { .. }), "{error}");
}

fn file_options(size: u64) -> LogOptions {
    LogOptions {
        size,
        ..options(LogSync::Host)
    }
}

#[test]
fn file_is_made_locked_and_recovered() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let options = file_options(LOG_SIZE_MIN);
    let mut log = PageLog::open(&path, &options).expect("a new log").log;
    let length = std::fs::metadata(&path).expect("a file").len();
    assert_eq!(length, LOG_SIZE_MIN, "its room is taken at once");
    let error = PageLog::open(&path, &options).expect_err("a lock");
    assert!(matches!(error, LogError::Locked { .. }), "{error}");
    for index in 0..500 {
        assert!(matches!(
            put(&mut log, index, u64::from(index) + 1),
            Appended::Written(_)
        ));
    }
    log.commit().expect("a commit");
    drop(log);
    let error = PageLog::open(&path, &file_options(LOG_SIZE_MIN * 2)).expect_err("a size");
    assert!(error.to_string().contains("give that size"), "{error}");
    let opened = PageLog::open(&path, &options).expect("the log");
    assert_eq!(opened.report.begun, Begun::Recovered);
    assert_eq!(pages(&opened.log).len(), 500);
    let error = PageLog::open(&path, &file_options(1)).expect_err("a size");
    assert!(matches!(error, LogError::BadSize { .. }), "{error}");
}

#[test]
fn disk_without_room_is_said_at_once_and_leaves_no_half_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    // More than any disk has: 4 EiB.
    let error = FileMedium::open(&path, 1 << 62).expect_err("no room");
    let text = error.to_string();
    assert!(
        text.contains("no room") || text.contains("allocate"),
        "{text}"
    );
    assert_eq!(std::fs::metadata(&path).expect("a file").len(), 0);
    assert!(PageLog::open(&path, &file_options(LOG_SIZE_MIN)).is_ok());
}

#[test]
fn shards_share_a_log_and_hear_when_their_records_are_safe() {
    const SHARDS: u32 = 3;
    const EACH: u32 = 400;
    let medium = blank();
    let log = open(&medium, &options(LogSync::Host))
        .expect("a new log")
        .log;
    let shared = SharedLog::new(log);
    std::thread::scope(|scope| {
        let committer = scope.spawn(|| shared.run());
        let shards = (0..SHARDS).map(|shard| {
            let shared = &shared;
            scope.spawn(move || {
                let mut progress = shared.progress();
                for nth in 0..EACH {
                    let place = Place {
                        namespace: shard,
                        pool: 0,
                        index: nth % 25,
                    };
                    let page = content(u64::from(nth)).bytes();
                    let put = Record::Put {
                        place,
                        generation: u64::from(nth),
                        crc: checksum(&page),
                        page: &page,
                    };
                    let Ok(Appended::Written(number)) = shared.append(put) else {
                        panic!("a put is refused");
                    };
                    let safe = progress.wait_for(|progress| progress.committed >= number);
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    let safe = runtime.expect("a runtime").block_on(safe);
                    assert!(!safe.expect("progress").failed);
                }
            })
        });
        for shard in shards.collect::<Vec<_>>() {
            shard.join().expect("a shard");
        }
        shared.stop();
        committer
            .join()
            .expect("a thread")
            .expect("a log that works");
    });
    let stats = shared.stats();
    assert!(
        stats.commits < u64::from(SHARDS * EACH),
        "{stats:?}: batches are shared"
    );
    assert!(stats.cleaned > 0, "{stats:?}");
    let image = medium.after_power_loss(&mut super::work::Random::new(3, 3));
    let opened = open(&Arc::new(Lossy::with(image)), &options(LogSync::Host)).expect("the log");
    let mut last = BTreeMap::new();
    let each = opened.log.each_page(&mut |place, generation, _, page| {
        assert_eq!(page.len(), PAGE_SIZE);
        last.insert((place.namespace, place.index), generation);
    });
    each.expect("all pages");
    assert_eq!(last.len(), 75);
    let newest = |((_, index), generation): (&(u32, u32), &u64)| {
        *generation == u64::from(EACH - 25 + *index)
    };
    assert!(last.iter().all(newest), "{last:?}");
}
