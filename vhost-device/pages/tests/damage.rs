// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Files that are not what they should be: refused and untouched, or opened with what is lost told.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod files;
#[allow(dead_code, reason = "each test file uses its part of the model")]
mod model;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use files::copy;
use model::{Content, Random, seed};
use tmem_pages::{
    Engine, EngineConfig, EngineError, EngineFiles, GetMode, GetResult, Guest, GuestConfig, Layout,
    ObjectId, PAGE_SIZE, PageBytes, PageIndex, Pool, PoolId, PoolKind, PoolSpec, PutResult,
    Recovery, Ticket,
};

const CONFIG: EngineConfig = EngineConfig {
    frames: 32,
    workers_max: 1,
    guests_max: 2,
};
const PAGES: u32 = 12;
const SWAP: PoolSpec = PoolSpec {
    kind: PoolKind::Persistent,
    layout: Layout::Dense { pages: 1000 },
};
const FILES: PoolSpec = PoolSpec {
    layout: Layout::Sparse,
    ..SWAP
};

fn page(index: u32) -> PageBytes {
    Content(4 * u64::from(index) + 1).bytes()
}

fn attach(engine: &Engine) -> Arc<Guest> {
    let config = GuestConfig {
        name: "guest".into(),
        grant_pages: 30,
    };
    engine.attach_guest(config).unwrap()
}

/// Files of an engine that has ended, with [`PAGES`] pages in pools 0 (dense) and 1 (sparse).
fn made() -> EngineFiles {
    let files = EngineFiles::anonymous().unwrap();
    let (engine, _) = Engine::open(CONFIG, files.try_clone().unwrap()).unwrap();
    let guest = attach(&engine);
    let mut worker = engine.worker().unwrap();
    for (id, spec) in (0..).zip([SWAP, FILES]) {
        let pool = guest.create_pool(PoolId(id), spec).unwrap();
        for index in 0..PAGES {
            let at = PageIndex(index);
            let put = worker.put(&pool, ObjectId::ZERO, at, Ticket::MIN, &page(index));
            assert_eq!(put, PutResult::Stored);
        }
    }
    files
}

fn map_of(files: &EngineFiles) -> File {
    files.map.try_clone().unwrap().into()
}

/// A number of 8 bytes in the header.
fn offset(map: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    map.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

fn open(files: &EngineFiles, config: EngineConfig) -> Result<(Arc<Engine>, Recovery), EngineError> {
    Engine::open(config, files.try_clone().unwrap())
}

/// Both ways to look at files refuse them for the same reason, and change nothing.
fn refused(files: &EngineFiles, expected: fn(&EngineError) -> bool) {
    let before = copy(files);
    for error in [files.check().unwrap_err(), open(files, CONFIG).unwrap_err()] {
        assert!(expected(&error), "{error}");
    }
    for (one, other) in [(&before.map, &files.map), (&before.frames, &files.frames)] {
        let [one, other] = [one, other].map(|file| File::from(file.try_clone().unwrap()));
        let length = one.metadata().unwrap().len();
        assert_eq!(length, other.metadata().unwrap().len());
        let mut bytes = [vec![0; 1 << 16], vec![0; 1 << 16]];
        let read = bytes.each_mut().map(|bytes| bytes.len() as u64);
        for (file, bytes) in [one, other].iter().zip(&mut bytes) {
            bytes.truncate(usize::try_from(length.min(read[0])).unwrap());
            file.read_exact_at(bytes, 0).unwrap();
        }
        assert!(bytes[0] == bytes[1], "a refused file was changed");
    }
}

#[test]
fn map_of_an_unknown_version_is_refused_untouched() {
    let files = made();
    map_of(&files)
        .write_all_at(&77_u32.to_le_bytes(), 8)
        .unwrap();
    refused(&files, |error| {
        matches!(error, EngineError::Version { version: 77 }) && error.to_string().contains("77")
    });
}

#[test]
fn file_that_is_something_else_is_refused_untouched() {
    let files = made();
    let map = map_of(&files);
    map.write_all_at(&[b'x'; 5000], 0).unwrap();
    refused(&files, |error| matches!(error, EngineError::NotOurs));
    // Zeroes in the place of a header are not an empty file, as long as there is more.
    map.write_all_at(&[0; 4096], 0).unwrap();
    refused(&files, |error| matches!(error, EngineError::NotOurs));
    let files = EngineFiles::anonymous().unwrap();
    map_of(&files).write_all_at(b"short", 0).unwrap();
    refused(&files, |error| matches!(error, EngineError::NotOurs));
}

#[test]
fn map_whose_header_or_length_is_wrong_is_refused_untouched() {
    let damaged = |error: &EngineError| matches!(error, EngineError::Damaged { .. });
    for at in [13, 16, 18, 30, 80, 2000] {
        let files = made();
        let map = map_of(&files);
        let mut byte = [0];
        map.read_exact_at(&mut byte, at).unwrap();
        map.write_all_at(&[byte[0] ^ 4], at).unwrap();
        refused(&files, damaged);
    }
    for length in [4096, 100_000] {
        let files = made();
        map_of(&files).set_len(length).unwrap();
        refused(&files, damaged);
    }
}

#[test]
fn frames_of_another_map_are_refused_untouched() {
    let files = made();
    let frames = File::from(files.frames.try_clone().unwrap());
    frames.set_len(7 * PAGE_SIZE as u64).unwrap();
    refused(&files, |error| {
        matches!(error, EngineError::FramesLength { bytes: 28_672, .. })
    });
}

#[test]
fn map_made_for_other_counts_is_refused() {
    let files = made();
    for (what, config) in [
        (
            "frames",
            EngineConfig {
                frames: 33,
                ..CONFIG
            },
        ),
        (
            "workers",
            EngineConfig {
                workers_max: 2,
                ..CONFIG
            },
        ),
        (
            "guests",
            EngineConfig {
                guests_max: 1,
                ..CONFIG
            },
        ),
    ] {
        let error = open(&files, config).unwrap_err();
        assert!(
            matches!(error, EngineError::OtherCounts { what: of, .. } if of == what),
            "{error}"
        );
    }
    let config = EngineConfig {
        frames: 99,
        ..CONFIG
    };
    let text = open(&files, config).unwrap_err().to_string();
    assert!(text.contains("32") && text.contains("99"), "{text}");
    // Nothing of this harmed it.
    assert_eq!(open(&files, CONFIG).unwrap().1.pages, u64::from(2 * PAGES));
}

#[test]
fn files_of_a_process_that_died_before_the_header_are_fresh() {
    let files = EngineFiles::anonymous().unwrap();
    map_of(&files).set_len(1 << 30).unwrap();
    files.check().unwrap();
    let (engine, recovery) = open(&files, CONFIG).unwrap();
    assert!(recovery.fresh);
    engine.self_check();
}

/// The word of page `index` of pool 0, in the first leaf of the first slot.
fn word_at(map: &File, index: u32) -> u64 {
    offset(map, 64) + u64::from(index) * 8
}

fn get(engine: &Engine, pool: &Pool, index: u32) -> Result<PageBytes, GetResult> {
    let mut bytes = [0; PAGE_SIZE];
    let mut worker = engine.worker().unwrap();
    let at = PageIndex(index);
    match worker.get(pool, ObjectId::ZERO, at, GetMode::Copy, &mut bytes) {
        GetResult::Hit => Ok(bytes),
        other => Err(other),
    }
}

#[test]
fn word_that_the_frame_table_denies_is_a_corrupt_page() {
    let files = made();
    let map = map_of(&files);
    let second = offset(&map, word_at(&map, 1));
    for (index, word) in [
        (2, second),           // a frame that has another page
        (3, 1 << 60 | 0xffff), // a frame that is none
        (4, 15 << 60),         // an unknown tag
        (5, 1 << 60 | 31),     // a free frame
        (6, u64::MAX),
    ] {
        map.write_all_at(&u64::to_le_bytes(word), word_at(&map, index))
            .unwrap();
    }
    // And one whose frame's entry speaks of another index.
    let frame = offset(&map, word_at(&map, 7)) & 0xffff_ffff;
    let entry = offset(&map, 48) + frame * 24;
    map.write_all_at(&99_u32.to_le_bytes(), entry + 4).unwrap();
    for round in 0..2 {
        let (engine, recovery) = open(&files, CONFIG).unwrap();
        engine.self_check();
        assert_eq!(recovery.damaged, 6, "round {round}");
        let pool = attach(&engine).pool(PoolId(0)).unwrap();
        for index in 0..PAGES {
            let expected = match index {
                2..8 => Err(GetResult::Corrupt),
                _ => Ok(page(index)),
            };
            assert_eq!(get(&engine, &pool, index), expected, "page {index}");
        }
        assert_eq!(pool.stats().pages, u64::from(PAGES));
    }
    // A put or a flush makes it whole.
    let (engine, _) = open(&files, CONFIG).unwrap();
    let guest = attach(&engine);
    let pool = guest.pool(PoolId(0)).unwrap();
    let mut worker = engine.worker().unwrap();
    for index in 2..5 {
        let at = PageIndex(index);
        let put = worker.put(&pool, ObjectId::ZERO, at, Ticket::MIN, &page(index));
        assert_eq!(put, PutResult::Stored);
    }
    let rest = worker.flush_range(&pool, ObjectId::ZERO, PageIndex(5), 3, Ticket::MIN);
    drop(worker);
    assert_eq!(rest, 3);
    assert_eq!(get(&engine, &pool, 4), Ok(page(4)));
    assert_eq!(get(&engine, &pool, 6), Err(GetResult::Miss));
    assert_eq!(guest.stats().persistent_pages, u64::from(2 * PAGES - 3));
    engine.self_check();
}

#[test]
fn map_with_flipped_bits_is_opened_and_delivers_no_other_bytes() {
    let seed = seed("map_with_flipped_bits_is_opened_and_delivers_no_other_bytes");
    let original = made();
    let mut random = Random::new(seed, 1);
    let (mut whole, mut lost) = (0, 0);
    for _ in 0..400 {
        let files = copy(&original);
        let map = map_of(&files);
        let table = offset(&map, 48);
        let parts = [
            (offset(&map, 24), 2 * 128),
            (offset(&map, 32), 2 * 32),
            (offset(&map, 40), 3 * 32),
            // What a sparse pool's frame says of its index nobody can check.
            (table, 24 * u64::from(PAGES)),
            (offset(&map, 56), 128),
            (offset(&map, 64), 4096),
        ];
        for _ in 0..=random.below(4) {
            let (at, length) = *random.pick(&parts);
            let at = at + random.below(length);
            let mut byte = [0];
            map.read_exact_at(&mut byte, at).unwrap();
            map.write_all_at(&[byte[0] ^ (1 << random.below(8))], at)
                .unwrap();
        }
        let (engine, _) = open(&files, CONFIG).unwrap();
        for guest in engine.unclaimed() {
            let Some(pool) = guest.pool(PoolId(0)) else {
                continue;
            };
            if !matches!(pool.spec().layout, Layout::Dense { .. }) {
                continue;
            }
            for index in 0..PAGES {
                match get(&engine, &pool, index) {
                    Ok(bytes) => {
                        assert!(bytes == page(index), "page {index}");
                        whole += 1;
                    }
                    Err(_) => lost += 1,
                }
            }
        }
    }
    println!("{whole} pages whole, {lost} lost");
    assert!(whole > 0 && lost > 0);
}
