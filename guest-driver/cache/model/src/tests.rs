// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The model from seeds, and the single decisions that matter most.

use crate::cells::Filter;
use crate::decide::{Fill, Flush, Outcome, Plan, Put, Write, plan};
use crate::world::{Counts, World};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

const SEEDS: u64 = 60;
const STEPS: u32 = 6_000;

fn run(seed: u64) -> Counts {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.counts
    }));
    result.unwrap_or_else(|panic| {
        eprintln!("TMEM_SEED={seed} fails");
        resume_unwind(panic)
    })
}

#[test]
fn no_read_is_older_than_what_was_known_before_it() {
    let only = std::env::var("TMEM_SEED").ok();
    let seeds = match only.and_then(|text| text.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    let mut sum = Counts::default();
    for seed in seeds.clone() {
        let counts = run(seed);
        sum.reads_checked += counts.reads_checked;
        sum.hits += counts.hits;
        sum.misses += counts.misses;
        sum.stored += counts.stored;
        sum.raced += counts.raced;
        sum.writes += counts.writes;
        sum.failed_writes += counts.failed_writes;
        sum.renewals += counts.renewals;
        sum.crashes += counts.crashes;
    }
    println!("{sum:?}");
    if seeds.end - seeds.start > 1 {
        // The model must not have become a world in which nothing happens.
        for (what, count) in [
            ("hits", sum.hits),
            ("misses", sum.misses),
            ("stored", sum.stored),
            ("raced", sum.raced),
            ("failed writes", sum.failed_writes),
            ("renewals", sum.renewals),
            ("crashes", sum.crashes),
        ] {
            assert!(count > SEEDS, "only {count} {what}");
        }
    }
}

fn filter() -> Filter {
    Filter::new(400, 4)
}

fn put(filter: &Filter, first: u32, blocks: u32) -> Put {
    Fill::begin(filter, first, blocks)
        .and_then(|fill| fill.put(filter))
        .expect("nothing stands against a copy")
}

fn cache(filter: &Filter, first: u32, blocks: u32) {
    assert_eq!(put(filter, first, blocks).end(filter, |_| true), blocks);
}

fn is_get(filter: &Filter, first: u32, blocks: u32) -> bool {
    matches!(plan(filter, first, blocks, 256), Plan::Get(get) if get.blocks == blocks)
}

#[test]
fn acknowledged_put_is_never_hidden_from_the_next_read() {
    let filter = filter();
    for first in (0..370).step_by(7) {
        assert!(matches!(plan(&filter, first, 7, 256), Plan::Origin(7)));
        cache(&filter, first, 7);
        assert!(is_get(&filter, first, 7), "blocks from {first} on");
    }
}

#[test]
fn late_miss_leaves_a_fresh_put() {
    let filter = filter();
    cache(&filter, 0, 1);
    let (Plan::Get(one), Plan::Get(other)) = (plan(&filter, 0, 1, 256), plan(&filter, 0, 1, 256))
    else {
        panic!("block 0 is there")
    };
    assert_eq!(one.missed(&filter, |_| true), 1);
    cache(&filter, 0, 1);
    assert_eq!(other.missed(&filter, |_| true), 0);
    assert!(is_get(&filter, 0, 1));
}

#[test]
fn copy_that_a_write_overtook_is_not_read() {
    let filter = filter();
    // At each of the three moments at which a write can come between.
    for moment in 0..3 {
        let write = || Write::begin(&filter, 60, 10).end(&filter, Outcome::Certain);
        let fill = Fill::begin(&filter, 60, 10).expect("no write is under way");
        if moment == 0 {
            write();
        }
        let Some(put) = fill.put(&filter) else {
            assert_eq!(moment, 0);
            continue;
        };
        if moment == 1 {
            write();
        }
        let set = put.end(&filter, |_| true);
        assert_eq!(set, if moment == 2 { 10 } else { 0 });
        if moment == 2 {
            write();
        }
        assert!(matches!(plan(&filter, 60, 10, 256), Plan::Origin(10)));
    }
}

#[test]
fn no_copy_is_made_while_a_write_is_under_way() {
    let filter = filter();
    let write = Write::begin(&filter, 10, 1);
    assert!(Fill::begin(&filter, 10, 1).is_none());
    write.end(&filter, Outcome::Certain);
    cache(&filter, 10, 1);
}

#[test]
fn block_of_a_failed_write_stays_out_until_the_target_is_reset() {
    let filter = filter();
    Write::begin(&filter, 10, 1).end(&filter, Outcome::Unknown);
    Write::begin(&filter, 10, 1).end(&filter, Outcome::Certain);
    assert!(Fill::begin(&filter, 10, 1).is_none());
    filter.renew(false);
    assert!(Fill::begin(&filter, 10, 1).is_none());
    filter.renew(true);
    cache(&filter, 10, 1);
}

#[test]
fn block_has_one_put_or_flush_under_way() {
    let filter = filter();
    let first = put(&filter, 10, 4);
    assert!(Fill::begin(&filter, 12, 1).is_none());
    assert_eq!(Flush::begin(&filter, 12, 1).count(), 0);
    first.end(&filter, |_| false);
    let flushes: Vec<Flush> = Flush::begin(&filter, 12, 1).collect();
    assert_eq!(flushes.iter().map(Flush::count).sum::<u32>(), 1);
    assert!(Fill::begin(&filter, 12, 1).is_none());
    flushes.into_iter().for_each(|flush| flush.end(&filter));
    cache(&filter, 12, 1);
    assert_eq!(
        Flush::begin(&filter, 12, 1).count(),
        0,
        "what is there stays"
    );
}

#[test]
fn put_of_unknown_fate_keeps_its_block_out_until_the_pool_is_renewed() {
    let filter = filter();
    let _never_ended = put(&filter, 10, 1);
    Write::begin(&filter, 10, 1).end(&filter, Outcome::Certain);
    assert!(Fill::begin(&filter, 10, 1).is_none());
    filter.renew(false);
    cache(&filter, 10, 1);
}

#[test]
fn refused_blocks_of_a_copy_are_read_from_the_disk() {
    let filter = filter();
    let set = put(&filter, 50, 30).end(&filter, |nth| nth < 20);
    assert_eq!(set, 20);
    assert!(is_get(&filter, 50, 20));
    assert!(matches!(plan(&filter, 70, 10, 256), Plan::Origin(10)));
}

#[test]
fn plan_cuts_reads_where_it_pays() {
    let filter = filter();
    cache(&filter, 10, 2);
    cache(&filter, 20, 4);
    // Two blocks amid others are not worth a request, four are.
    assert!(matches!(plan(&filter, 0, 32, 256), Plan::Origin(20)));
    assert!(matches!(plan(&filter, 0, 15, 256), Plan::Origin(15)));
    assert!(matches!(plan(&filter, 10, 22, 256), Plan::Get(get) if get.blocks == 2));
    assert!(matches!(plan(&filter, 20, 4, 3), Plan::Get(get) if get.blocks == 3));
    // Beyond the filter's end nothing is present.
    assert!(matches!(plan(&filter, 440, 100, 256), Plan::Origin(100)));
}

#[test]
fn numbers_of_a_put_are_those_of_blocks_that_were_not_there() {
    let filter = filter();
    cache(&filter, 62, 1);
    cache(&filter, 65, 2);
    let put = put(&filter, 60, 8);
    assert_eq!(put.numbers().collect::<Vec<_>>(), [0, 1, 3, 4, 7]);
    assert_eq!(put.end(&filter, |nth| nth != 2), 4);
    assert!(is_get(&filter, 60, 3));
    assert!(!filter.is_present(63));
}

#[test]
fn cleared_filter_drops_copies_under_way() {
    let filter = filter();
    let put = put(&filter, 0, 8);
    filter.clear();
    assert_eq!(put.end(&filter, |_| true), 0);
    cache(&filter, 0, 8);
}

#[test]
fn flush_tells_where_its_blocks_begin_and_end() {
    let filter = filter();
    cache(&filter, 70, 2);
    let lost = put(&filter, 60, 8);
    assert_eq!(lost.range(), (60, 8));
    lost.end(&filter, |_| false);
    let extents: Vec<_> = Flush::begin(&filter, 60, 20)
        .map(|flush| (flush.extent(), flush.count()))
        .collect();
    assert_eq!(extents, [((60, 4), 4), ((64, 16), 14)]);
}
