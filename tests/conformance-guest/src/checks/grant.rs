// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The promise: what fits into the grant is stored, what goes beyond it is refused, and an ephemeral
//! page may be gone but is never an old one.

use super::{Check, Kind};
use crate::bench::{Bench, Handle, STAGE_PAGES, dense, sparse};
use crate::content::Content;
use crate::why::{Context, Result, ensure, fail, same};
use crate::wire::{op, pool_kind, result, status};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "grant-is-a-promise",
        kind: Kind::Once,
        run: grant_is_a_promise,
    },
    Check {
        name: "grant-is-shared-by-pools",
        kind: Kind::Once,
        run: grant_is_shared_by_pools,
    },
    Check {
        name: "ephemeral-pages-are-never-stale",
        kind: Kind::Once,
        run: ephemeral_pages_are_never_stale,
    },
];

/// A grant that can be filled in reasonable time.
const GRANT_MAX: u64 = 1 << 16;

fn grant(bench: &Bench) -> Result<u32> {
    match u32::try_from(bench.config.grant_pages) {
        Ok(pages) if u64::from(pages) <= GRANT_MAX => Ok(pages),
        _ => fail!(
            "a grant of {} pages takes too long to fill; give this guest at most {GRANT_MAX}",
            bench.config.grant_pages
        ),
    }
}

/// Stores `pages` pages from index 0 on by the longest requests; returns the first stamp.
fn fill(bench: &mut Bench, at: Handle, pages: u32) -> Result<u64> {
    let stamp = bench.next_stamps(u64::from(pages));
    let mut index = 0;
    while index < pages {
        let count = (pages - index).min(bench.config.batch_pages);
        bench
            .put(at, index, count, stamp + u64::from(index))?
            .complete(count)
            .during(format_args!("{count} pages at {index} of {pages}"))?;
        index += count;
    }
    Ok(stamp)
}

fn grant_is_a_promise(bench: &mut Bench) -> Result {
    let pages = grant(bench)?;
    let at = Handle::dense(bench.swap_area(pages + 64)?);
    // The host's frames are not kept for the grant only until others want them.
    let id = bench.next_pool();
    let cache = Handle {
        pool: bench.create(&sparse(id, pool_kind::EPHEMERAL))?,
        object: [1, 2, 3],
    };
    for nth in 0..8 {
        bench.put(cache, nth * 256, 256, 1)?;
    }
    let stamp = fill(bench, at, pages)?;
    let beyond = bench.next_stamps(8);
    let answer = bench.put(at, pages, 8, beyond)?;
    answer
        .every(result::REFUSED_FULL)
        .during(format_args!("PUT beyond the grant"))?;
    same!(answer.done, 0, "pages done beyond the grant");
    bench.expect_gone(at, pages, 8)?;
    // Pages that are held may be put again, a request of both gets the held ones through.
    let again = bench.next_stamps(8);
    let answer = bench.put(at, pages - 4, 8, again)?;
    let (full, stored) = (result::REFUSED_FULL, result::OK);
    same!(
        answer.results(),
        [stored, stored, stored, stored, full, full, full, full],
        "PUT over the grant's end"
    );
    bench.expect(at, pages - 4, 4, again)?;
    // Nothing else was lost, and room is room at once.
    bench.expect(at, 0, 256.min(pages - 4), stamp)?;
    same!(bench.flush(at, 7, 3)?, 3, "pages flushed");
    let late = bench.next_stamps(4);
    let answer = bench.put(at, pages, 4, late)?;
    same!(
        answer.results(),
        [stored, stored, stored, full],
        "PUT after a flush of three pages"
    );
    bench.expect(at, pages, 3, late)?;
    same!(
        bench.flush_by(at.header(op::FLUSH_OBJECT, 0, 0))?,
        pages,
        "pages flushed at the end"
    );
    let stamp = bench.store(at, 0, 1)?;
    bench.expect(at, 0, 1, stamp)
}

fn grant_is_shared_by_pools(bench: &mut Bench) -> Result {
    let pages = grant(bench)?;
    let first = Handle::dense(bench.swap_area(pages)?);
    let id = bench.next_pool();
    let second = Handle {
        pool: bench.create(&sparse(id, pool_kind::PERSISTENT))?,
        object: [9, 9, 9],
    };
    let kept = bench.store(second, 5, 10)?;
    fill(bench, first, pages - 10)?;
    let beyond = bench.next_stamps(1);
    for at in [first, second] {
        bench
            .put(at, pages - 10, 1, beyond)?
            .every(result::REFUSED_FULL)?;
    }
    bench.destroy(first.pool)?;
    bench.expect(second, 5, 10, kept)?;
    let stamp = bench.store(second, 100, 50)?;
    bench.expect(second, 100, 50, stamp)
}

/// More pages than the host may have room for, in several versions.
fn ephemeral_pages_are_never_stale(bench: &mut Bench) -> Result {
    let id = bench.next_pool();
    let at = Handle {
        pool: bench.create(&dense(id, pool_kind::EPHEMERAL, 1 << 20))?,
        object: [0; 3],
    };
    let batch = bench.config.batch_pages;
    let requests = 4;
    let mut delivered = 0;
    for version in 0..2_u64 {
        let stamp = bench.next_stamps(u64::from(requests * batch));
        for nth in 0..requests {
            let answer = bench.put(at, nth * batch, batch, stamp + u64::from(nth * batch))?;
            same!(answer.status, status::OK, "status of a PUT");
            let known = [result::OK, result::REFUSED_FULL];
            ensure!(
                answer.results().iter().all(|code| known.contains(code)),
                "results {:?}",
                answer.results()
            );
        }
        for nth in 0..requests {
            let answer = bench.get(at, nth * batch, batch)?;
            same!(answer.status, status::OK, "status of a GET");
            delivered += check(bench, answer.results(), stamp + u64::from(nth * batch))
                .during(format_args!("version {version}"))?;
        }
    }
    ensure!(delivered > 0, "not one page was kept");
    Ok(())
}

/// Each page that was delivered holds its newest stamp. Returns how many were.
fn check(bench: &Bench, results: &[u8], stamp: u64) -> Result<usize> {
    let mut delivered = 0;
    for (nth, code) in results.iter().enumerate().take(STAGE_PAGES) {
        match *code {
            result::MISS => continue,
            result::OK => delivered += 1,
            code => return fail!("result {code}"),
        }
        let page = bench.areas.get.page(nth);
        ensure!(
            bench.holds(page, Content::Stamp(stamp + nth as u64)),
            "page {nth} holds {:#x}, expected {:#x}",
            page.read::<u64>(0),
            stamp + nth as u64
        );
    }
    Ok(delivered)
}
