// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The contract, rule by rule.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[allow(dead_code, reason = "each test file uses its part of the model")]
mod model;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use model::{Content, Sink, Source};
use tmem_pages::{
    Engine, EngineConfig, EngineError, EngineFiles, Epoch, EpochOutcome, FlushResult, GetMode,
    GetResult, Guest, GuestConfig, GuestError, Layout, ObjectId, PAGE_SIZE, PageBytes, PageIndex,
    Pool, PoolError, PoolId, PoolKind, PoolSpec, PutResult, Ticket, Worker,
};

const SWAP: PoolSpec = PoolSpec {
    kind: PoolKind::Persistent,
    layout: Layout::Dense { pages: 1000 },
};
const CACHE: PoolSpec = PoolSpec {
    kind: PoolKind::Ephemeral,
    layout: Layout::Sparse,
};
const FILE: ObjectId = ObjectId([1, u64::MAX, 3]);

struct House {
    engine: Arc<Engine>,
    guest: Arc<Guest>,
    worker: Worker,
}

fn attach(engine: &Engine, name: &str, grant_pages: u64) -> Result<Arc<Guest>, GuestError> {
    engine.attach_guest(GuestConfig {
        name: name.into(),
        grant_pages,
    })
}

fn house(frames: u32, grant: u64) -> House {
    house_on(EngineFiles::anonymous().unwrap(), frames, grant)
}

fn house_on(files: EngineFiles, frames: u32, grant: u64) -> House {
    let config = EngineConfig {
        frames,
        workers_max: 2,
        guests_max: 4,
    };
    let (engine, recovery) = Engine::open(config, files).unwrap();
    assert!(recovery.fresh);
    House {
        guest: attach(&engine, "guest", grant).unwrap(),
        worker: engine.worker().unwrap(),
        engine,
    }
}

fn ticket(number: u64) -> Ticket {
    Ticket::new(number).unwrap()
}

/// A content that takes a frame.
fn framed(number: u64) -> Source {
    Source {
        content: Content(4 * number + 1),
        fails: false,
    }
}

impl House {
    fn put(
        &mut self,
        pool: &Pool,
        object: ObjectId,
        index: u32,
        at: u64,
        number: u64,
    ) -> PutResult {
        self.worker
            .put(pool, object, PageIndex(index), ticket(at), &framed(number))
    }

    /// The content's number, or the reason why there is none.
    fn get(&mut self, pool: &Pool, object: ObjectId, index: u32) -> Result<PageBytes, GetResult> {
        let mut sink = Sink::default();
        let mode = GetMode::Copy;
        match self
            .worker
            .get(pool, object, PageIndex(index), mode, &mut sink)
        {
            GetResult::Hit | GetResult::HitSameFilled => Ok(*sink.page.unwrap()),
            other => Err(other),
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.engine.self_check();
        }
    }
}

fn page(number: u64) -> PageBytes {
    framed(number).content.bytes()
}

#[test]
fn second_put_is_what_a_get_returns() {
    let mut house = house(8, 8);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    assert_eq!(
        house.put(&pool, ObjectId::ZERO, 5, 1, 10),
        PutResult::Stored
    );
    assert_eq!(
        house.put(&pool, ObjectId::ZERO, 5, 2, 20),
        PutResult::Stored
    );
    assert_eq!(house.get(&pool, ObjectId::ZERO, 5), Ok(page(20)));
    assert_eq!(house.get(&pool, ObjectId::ZERO, 6), Err(GetResult::Miss));
    assert_eq!(pool.stats().frames, 1);
}

#[test]
fn replayed_put_is_carried_out_and_a_late_one_is_not() {
    let mut house = house(8, 8);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    house.put(&pool, ObjectId::ZERO, 0, 7, 1);
    assert_eq!(house.put(&pool, ObjectId::ZERO, 0, 7, 2), PutResult::Stored);
    assert_eq!(house.put(&pool, ObjectId::ZERO, 0, 6, 3), PutResult::Stale);
    let late = house
        .worker
        .flush_page(&pool, ObjectId::ZERO, PageIndex(0), ticket(6));
    assert_eq!(late, FlushResult::Stale);
    assert_eq!(house.worker.flush_pool(&pool, ticket(6)), 0);
    assert_eq!(house.get(&pool, ObjectId::ZERO, 0), Ok(page(2)));
    assert_eq!(pool.stats().stale, 3);
    let replay = house
        .worker
        .flush_page(&pool, ObjectId::ZERO, PageIndex(0), ticket(7));
    assert_eq!(replay, FlushResult::Flushed);
}

#[test]
fn put_that_fails_halfway_leaves_the_page_as_it_was() {
    let mut house = house(8, 8);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    house.put(&pool, ObjectId::ZERO, 0, 1, 1);
    let broken = Source {
        fails: true,
        ..framed(2)
    };
    let result = house
        .worker
        .put(&pool, ObjectId::ZERO, PageIndex(0), ticket(2), &broken);
    assert_eq!(result, PutResult::Fault);
    assert_eq!(house.get(&pool, ObjectId::ZERO, 0), Ok(page(1)));
}

#[test]
fn exclusive_get_forgets_the_page_only_once_it_is_delivered() {
    let mut house = house(8, 8);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    house.put(&pool, ObjectId::ZERO, 0, 1, 1);
    let mut broken = Sink {
        fails: true,
        page: None,
    };
    let mut get = |sink: &mut Sink| {
        let mode = GetMode::Exclusive;
        house
            .worker
            .get(&pool, ObjectId::ZERO, PageIndex(0), mode, sink)
    };
    assert_eq!(get(&mut broken), GetResult::Fault);
    let mut sink = Sink::default();
    assert_eq!(get(&mut sink), GetResult::Hit);
    assert_eq!(sink.page.as_deref(), Some(&page(1)));
    assert_eq!(get(&mut Sink::default()), GetResult::Miss);
    assert_eq!(house.guest.stats().persistent_pages, 0);
}

#[test]
fn frozen_guest_gets_and_flushes_but_its_puts_are_refused() {
    let mut house = house(8, 8);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    house.put(&pool, ObjectId::ZERO, 0, 1, 1);
    house.put(&pool, ObjectId::ZERO, 1, 1, 2);
    house.put(&pool, ObjectId::ZERO, 2, 9, 3);
    house.guest.freeze();
    assert_eq!(
        house.put(&pool, ObjectId::ZERO, 0, 2, 9),
        PutResult::RefusedFrozen
    );
    assert_eq!(house.put(&pool, ObjectId::ZERO, 2, 2, 9), PutResult::Stale);
    assert_eq!(
        house.get(&pool, ObjectId::ZERO, 0),
        Err(GetResult::Miss),
        "the older is gone"
    );
    assert_eq!(house.get(&pool, ObjectId::ZERO, 1), Ok(page(2)));
    assert_eq!(house.worker.flush_pool(&pool, Ticket::MAX), 2);
    house.guest.thaw();
    assert_eq!(house.put(&pool, ObjectId::ZERO, 0, 3, 9), PutResult::Stored);
}

#[test]
fn same_filled_pages_take_no_frame_but_count_against_the_grant() {
    let mut house = house(4, 3);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    for index in 0..3_u8 {
        let result = house.worker.put(
            &pool,
            ObjectId::ZERO,
            PageIndex(u32::from(index)),
            ticket(1),
            &[index; PAGE_SIZE],
        );
        assert_eq!(result, PutResult::SameFilled);
    }
    assert_eq!(
        house.put(&pool, ObjectId::ZERO, 3, 1, 1),
        PutResult::RefusedFull
    );
    assert_eq!(house.get(&pool, ObjectId::ZERO, 2), Ok([2; PAGE_SIZE]));
    let stats = pool.stats();
    assert_eq!((stats.pages, stats.same_filled, stats.frames), (3, 3, 0));
    // Within the grant a page may change its kind, both ways.
    assert_eq!(house.put(&pool, ObjectId::ZERO, 0, 2, 1), PutResult::Stored);
    assert_eq!(house.get(&pool, ObjectId::ZERO, 0), Ok(page(1)));
    assert_eq!((pool.stats().same_filled, pool.stats().frames), (2, 1));
}

#[test]
fn cache_takes_what_is_not_promised_and_drops_what_is_not_used() {
    let mut house = house(6, 2);
    let cache = house.guest.create_pool(PoolId(1), CACHE).unwrap();
    for index in 0..4 {
        assert_eq!(
            house.put(&cache, FILE, index, 1, u64::from(index)),
            PutResult::Stored
        );
    }
    assert_eq!(house.get(&cache, FILE, 1), Ok(page(1)));
    assert_eq!(house.put(&cache, FILE, 9, 1, 9), PutResult::Stored);
    assert_eq!(
        house.get(&cache, FILE, 1),
        Ok(page(1)),
        "the page in use stays"
    );
    let stats = cache.stats();
    assert_eq!((stats.pages, stats.evicted), (4, 1));
    // The grant is untouched by all this.
    let swap = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    assert_eq!(house.put(&swap, ObjectId::ZERO, 0, 1, 1), PutResult::Stored);
    assert_eq!(house.put(&swap, ObjectId::ZERO, 1, 1, 1), PutResult::Stored);
    assert_eq!(cache.stats().pages, 4);
}

#[test]
fn cache_takes_room_from_its_own_guest_first() {
    let mut house = house(4, 0);
    let other = attach(&house.engine, "other", 0).unwrap();
    let theirs = other.create_pool(PoolId(0), CACHE).unwrap();
    let ours = house.guest.create_pool(PoolId(0), CACHE).unwrap();
    for index in 0..2 {
        house.put(&theirs, FILE, index, 1, 1);
        house.put(&ours, FILE, index, 1, 1);
    }
    for index in 2..20 {
        assert_eq!(house.put(&ours, FILE, index, 1, 1), PutResult::Stored);
    }
    assert_eq!((theirs.stats().pages, ours.stats().pages), (2, 2));
    house.worker.flush_pool(&ours, Ticket::MAX);
    for index in 2..4 {
        house.put(&theirs, FILE, index, 1, 1);
    }
    // Ours has nothing left to give, so theirs does.
    assert_eq!(house.put(&ours, FILE, 0, 1, 1), PutResult::Stored);
    assert_eq!(theirs.stats().evicted, 1);
}

#[test]
fn index_outside_a_dense_pool_is_refused() {
    let mut house = house(4, 4);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    for (object, index) in [
        (ObjectId::ZERO, 1000),
        (ObjectId::ZERO, u32::MAX),
        (FILE, 0),
    ] {
        assert_eq!(house.put(&pool, object, index, 1, 1), PutResult::BadIndex);
        assert_eq!(house.get(&pool, object, index), Err(GetResult::BadIndex));
        let flush = house
            .worker
            .flush_page(&pool, object, PageIndex(index), Ticket::MAX);
        assert_eq!(flush, FlushResult::BadIndex);
        let range =
            house
                .worker
                .flush_range(&pool, object, PageIndex(index), u32::MAX, Ticket::MAX);
        assert_eq!(range, 0);
    }
    assert_eq!(
        house.put(&pool, ObjectId::ZERO, 999, 1, 1),
        PutResult::Stored
    );
    let all = house
        .worker
        .flush_range(&pool, ObjectId::ZERO, PageIndex(0), u32::MAX, Ticket::MAX);
    assert_eq!(all, 1);
}

#[test]
fn new_epoch_flushes_the_last_one() {
    let mut house = house(8, 8);
    let first = house.guest.begin_epoch(Epoch([1; 16]));
    assert!(matches!(
        first,
        EpochOutcome::New {
            pools_destroyed: 0,
            pages_flushed: 0
        }
    ));
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    house.put(&pool, ObjectId::ZERO, 0, 41, 1);
    let same = house.guest.begin_epoch(Epoch([1; 16]));
    assert_eq!(same, EpochOutcome::Same { ticket_high: 41 });
    assert_eq!(house.get(&pool, ObjectId::ZERO, 0), Ok(page(1)));
    let new = house.guest.begin_epoch(Epoch([2; 16]));
    assert!(matches!(
        new,
        EpochOutcome::New {
            pools_destroyed: 1,
            pages_flushed: 1
        }
    ));
    assert!(pool.is_destroyed() && house.guest.pool(PoolId(0)).is_none());
    assert_eq!(house.get(&pool, ObjectId::ZERO, 0), Err(GetResult::Miss));
    assert_eq!(
        house.put(&pool, ObjectId::ZERO, 0, 50, 1),
        PutResult::RefusedFull
    );
    assert_eq!(house.engine.stats().frames_used, 0);
}

#[test]
fn pool_with_other_properties_is_not_replaced() {
    let house = house(8, 8);
    let pool = house.guest.create_pool(PoolId(7), SWAP).unwrap();
    assert!(Arc::ptr_eq(
        &pool,
        &house.guest.create_pool(PoolId(7), SWAP).unwrap()
    ));
    let error = house.guest.create_pool(PoolId(7), CACHE).unwrap_err();
    assert_eq!(
        error,
        PoolError::Exists {
            id: 7,
            existing: SWAP
        }
    );
    for id in 8..71 {
        house.guest.create_pool(PoolId(id), CACHE).unwrap();
    }
    let error = house.guest.create_pool(PoolId(71), CACHE).unwrap_err();
    assert_eq!(error, PoolError::TooMany { id: 71 });
    assert_eq!(house.guest.destroy_pool(PoolId(7)), Some(0));
    assert_eq!(house.guest.destroy_pool(PoolId(7)), None);
    for pages in [0, u32::MAX] {
        let layout = Layout::Dense { pages };
        let spec = PoolSpec { layout, ..SWAP };
        let error = house.guest.create_pool(PoolId(7), spec).unwrap_err();
        assert!(matches!(error, PoolError::BadSize { id: 7, .. }), "{error}");
    }
}

#[test]
fn grants_never_exceed_the_frames() {
    let mut house = house(10, 6);
    let error = attach(&house.engine, "second", 5).unwrap_err();
    assert!(
        matches!(error, GuestError::Overcommitted { pages_max: 4, .. }),
        "{error}"
    );
    let second = attach(&house.engine, "second", 4).unwrap();
    let error = attach(&house.engine, "second", 0).unwrap_err();
    assert!(matches!(error, GuestError::NameTaken { .. }), "{error}");
    assert!(house.guest.set_grant(7).is_err());
    assert!(house.guest.set_grant(u64::MAX).is_err());
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    house.put(&pool, ObjectId::ZERO, 0, 1, 1);
    let error = house.guest.set_grant(0).unwrap_err();
    assert!(
        matches!(error, GuestError::GrantBelowUse { held: 1, .. }),
        "{error}"
    );
    assert_eq!(house.guest.grant_pages(), 6);
    house.guest.set_grant(1).unwrap();
    second.set_grant(9).unwrap();
    assert_eq!(house.engine.detach_guest("second"), Ok(0));
    assert!(house.engine.detach_guest("second").is_err());
    assert!(
        second.set_grant(1).is_err(),
        "a detached guest has no grant"
    );
    assert!(second.create_pool(PoolId(0), SWAP).is_err());
    house.guest.set_grant(10).unwrap();
}

#[test]
fn changed_byte_is_reported_and_not_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("frames");
    let files = EngineFiles::open(&dir.path().join("map"), &path).unwrap();
    let mut house = house_on(files, 8, 8);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    house.put(&pool, ObjectId::ZERO, 0, 1, 1);
    house.put(&pool, ObjectId::ZERO, 1, 1, 2);
    let bytes = std::fs::read(&path).unwrap();
    let (victim, wanted) = (page(1), page(2));
    let at = (bytes.chunks_exact(PAGE_SIZE)).position(|bytes| bytes == victim);
    let at = (at.unwrap() * PAGE_SIZE + 1234) as u64;
    let file = File::options().write(true).open(&path).unwrap();
    let flip = |byte: u8| file.write_all_at(&[byte], at).unwrap();
    flip(victim[1234] ^ 1);
    assert_eq!(house.get(&pool, ObjectId::ZERO, 0), Err(GetResult::Corrupt));
    let mut sink = Sink::default();
    let mode = GetMode::Exclusive;
    let result = house
        .worker
        .get(&pool, ObjectId::ZERO, PageIndex(0), mode, &mut sink);
    assert_eq!((result, sink.page), (GetResult::Corrupt, None));
    assert_eq!(house.get(&pool, ObjectId::ZERO, 1), Ok(wanted));
    assert_eq!(pool.stats().corrupt, 2);
    // A put makes it whole.
    assert_eq!(house.put(&pool, ObjectId::ZERO, 0, 2, 3), PutResult::Stored);
    assert_eq!(house.get(&pool, ObjectId::ZERO, 0), Ok(page(3)));
}

#[test]
fn workers_are_as_many_as_asked_for_and_give_their_frames_back() {
    let mut house = house(64, 64);
    let pool = house.guest.create_pool(PoolId(0), SWAP).unwrap();
    let mut second = house.engine.worker().unwrap();
    assert!(house.engine.worker().is_err());
    second.put(&pool, ObjectId::ZERO, PageIndex(0), Ticket::MAX, &page(1));
    drop(second);
    assert_eq!(house.engine.stats().workers, 1);
    for index in 0..64 {
        assert_eq!(
            house.put(&pool, ObjectId::ZERO, index, Ticket::MAX.get(), 1),
            PutResult::Stored
        );
    }
}

#[test]
fn impossible_engine_is_refused_with_a_reason() {
    let error = |frames, workers_max, guests_max| {
        let config = EngineConfig {
            frames,
            workers_max,
            guests_max,
        };
        Engine::new(config).unwrap_err()
    };
    for frames in [0, u32::MAX] {
        let error = error(frames, 1, 1);
        assert!(matches!(error, EngineError::BadFrames { .. }), "{error}");
    }
    for workers in [0, u16::MAX] {
        let error = error(1, workers, 1);
        assert!(matches!(error, EngineError::BadWorkers { .. }), "{error}");
    }
    for guests in [0, u16::MAX] {
        let error = error(1, 1, guests);
        assert!(matches!(error, EngineError::BadGuests { .. }), "{error}");
    }
    let nowhere = Path::new("/nowhere/file");
    let error = EngineFiles::open(nowhere, nowhere).unwrap_err();
    assert!(matches!(error, EngineError::Open { .. }), "{error}");
}

#[test]
#[should_panic(expected = "a pool of another engine")]
fn worker_takes_no_pool_of_another_engine() {
    let mut ours = house(4, 4);
    let theirs = house(4, 4);
    let pool = theirs.guest.create_pool(PoolId(0), SWAP).unwrap();
    let _result = ours.put(&pool, ObjectId::ZERO, 0, 1, 1);
}
