// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! HELLO, boot epochs, and the life of pools.

use super::{Check, Kind};
use crate::bench::{Bench, Handle, dense, sparse};
use crate::why::{Context, Result, same};
use crate::wire::{ControlRequest, VERSION, control, hello, pool_kind, pool_layout, status};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "hello-tells-the-grant",
        kind: Kind::Styles,
        run: hello_tells_the_grant,
    },
    Check {
        name: "hello-again-changes-nothing",
        kind: Kind::Once,
        run: hello_again_changes_nothing,
    },
    Check {
        name: "new-epoch-has-no-pools",
        kind: Kind::Once,
        run: new_epoch_has_no_pools,
    },
    Check {
        name: "reset-leaves-pools",
        kind: Kind::Styles,
        run: reset_leaves_pools,
    },
    Check {
        name: "pools-of-every-kind",
        kind: Kind::Styles,
        run: pools_of_every_kind,
    },
    Check {
        name: "pool-exists-with-other-properties",
        kind: Kind::Once,
        run: pool_exists_with_other_properties,
    },
    Check {
        name: "pool-limit",
        kind: Kind::Once,
        run: pool_limit,
    },
    Check {
        name: "control-refusals",
        kind: Kind::Styles,
        run: control_refusals,
    },
    Check {
        name: "pool-statistics",
        kind: Kind::Once,
        run: pool_statistics,
    },
];

/// A control request that needs nothing but a pool.
fn of_pool(op: u32, pool: u32) -> ControlRequest {
    ControlRequest {
        op,
        pool,
        ..ControlRequest::default()
    }
}

fn hello_tells_the_grant(bench: &mut Bench) -> Result {
    let answer = bench.hello()?;
    same!(answer.pages, bench.config.grant_pages, "grant");
    Ok(())
}

fn hello_again_changes_nothing(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 3, 5)?;
    let answer = bench.hello()?;
    same!(answer.status, status::OK, "status");
    same!(answer.flags, hello::SAME_EPOCH, "flags");
    same!(answer.held, 5, "pages held");
    same!(answer.value, bench.ticket, "highest ticket");
    bench.expect(at, 3, 5, stamp)
}

fn new_epoch_has_no_pools(bench: &mut Bench) -> Result {
    let id = bench.swap_area(64)?;
    bench.store(Handle::dense(id), 0, 9)?;
    bench.new_epoch()?;
    same!(bench.stat(id)?.status, status::NO_POOL, "POOL_STAT");
    let answer = bench.get(Handle::dense(id), 0, 1)?;
    same!(answer.status, status::NO_POOL, "GET");
    // The same id again is another pool, without the old pages.
    bench.create(&dense(id, pool_kind::PERSISTENT, 64))?;
    bench.expect_gone(Handle::dense(id), 0, 64)
}

fn reset_leaves_pools(bench: &mut Bench) -> Result {
    let swap = Handle::dense(bench.swap_area(64)?);
    let id = bench.next_pool();
    let file = Handle {
        pool: bench.create(&sparse(id, pool_kind::PERSISTENT))?,
        object: [7, 8, 9],
    };
    let in_swap = bench.store(swap, 10, 20)?;
    let in_file = bench.store(file, u32::MAX - 3, 3)?;
    bench.again()?;
    bench.expect(swap, 10, 20, in_swap)?;
    bench.expect(file, u32::MAX - 3, 3, in_file)?;
    bench.expect_gone(swap, 30, 34)?;
    // Requests are served without another HELLO, too: the epoch has been told.
    bench.set_up()?;
    bench.expect(swap, 10, 20, in_swap)
}

fn pools_of_every_kind(bench: &mut Bench) -> Result {
    for kind in [pool_kind::PERSISTENT, pool_kind::EPHEMERAL] {
        for layout in [pool_layout::DENSE, pool_layout::SPARSE] {
            let id = bench.next_pool();
            let request = match layout {
                pool_layout::DENSE => dense(id, kind, 100),
                _ => sparse(id, kind),
            };
            let object = match layout {
                pool_layout::DENSE => [0; 3],
                _ => [u64::MAX, 1, 1 << 63],
            };
            let at = Handle { pool: id, object };
            live(bench, &request, at).during(format_args!("kind {kind}, layout {layout}"))?;
        }
    }
    Ok(())
}

/// A pool's life from POOL_CREATE to POOL_DESTROY.
fn live(bench: &mut Bench, request: &ControlRequest, at: Handle) -> Result {
    same!(
        bench.stat(at.pool)?.status,
        status::NO_POOL,
        "POOL_STAT before"
    );
    bench.create(request)?;
    let stamp = bench.store(at, 50, 10)?;
    // Made again it is as it was.
    bench.create(request)?;
    bench.expect(at, 50, 10, stamp)?;
    bench.destroy(at.pool)?;
    let destroy = of_pool(control::POOL_DESTROY, at.pool);
    same!(
        bench.control_status(&destroy)?,
        status::NO_POOL,
        "POOL_DESTROY again"
    );
    same!(bench.get(at, 50, 1)?.status, status::NO_POOL, "GET after");
    bench.create(request)?;
    bench.expect_gone(at, 50, 10)?;
    bench.destroy(at.pool)
}

fn pool_exists_with_other_properties(bench: &mut Bench) -> Result {
    let id = bench.swap_area(100)?;
    let file = bench.next_pool();
    bench.create(&sparse(file, pool_kind::EPHEMERAL))?;
    for other in [
        dense(id, pool_kind::PERSISTENT, 101),
        dense(id, pool_kind::EPHEMERAL, 100),
        sparse(id, pool_kind::PERSISTENT),
        sparse(file, pool_kind::PERSISTENT),
        dense(file, pool_kind::EPHEMERAL, 1),
    ] {
        same!(bench.control_status(&other)?, status::EXISTS, "{other:?}");
    }
    bench.create(&dense(id, pool_kind::PERSISTENT, 100))?;
    Ok(())
}

fn pool_limit(bench: &mut Bench) -> Result {
    let pools = bench.config.pools;
    for id in 0..pools {
        bench.create(&dense(id, pool_kind::PERSISTENT, 1))?;
    }
    let more = sparse(u32::MAX, pool_kind::EPHEMERAL);
    same!(
        bench.control_status(&more)?,
        status::NO_SPACE,
        "pool {pools} of {pools}"
    );
    // One that exists is no further one, and one less makes room.
    bench.create(&dense(0, pool_kind::PERSISTENT, 1))?;
    bench.destroy(pools / 2)?;
    bench.create(&more)?;
    Ok(())
}

fn control_refusals(bench: &mut Bench) -> Result {
    let id = bench.swap_area(16)?;
    let at = Handle::dense(id);
    let stamp = bench.store(at, 0, 16)?;
    let free = bench.next_pool();
    for op in [0, 5, 6, 255, u32::MAX] {
        same!(
            bench.control_status(&of_pool(op, id))?,
            status::UNSUPPORTED,
            "operation {op}"
        );
    }
    let create = dense(free, pool_kind::PERSISTENT, 16);
    for (what, request) in [
        ("kind 0", ControlRequest { kind: 0, ..create }),
        ("kind 3", ControlRequest { kind: 3, ..create }),
        (
            "layout 0",
            ControlRequest {
                layout: 0,
                ..create
            },
        ),
        (
            "layout 3",
            ControlRequest {
                layout: 3,
                ..create
            },
        ),
    ] {
        same!(
            bench.control_status(&request)?,
            status::UNSUPPORTED,
            "{what}"
        );
    }
    let stat = of_pool(control::POOL_STAT, id);
    let destroy = of_pool(control::POOL_DESTROY, id);
    let greeting = ControlRequest {
        op: control::HELLO,
        version: u32::from(VERSION),
        epoch_low: 1,
        epoch_high: 2,
        ..ControlRequest::default()
    };
    for (what, request) in [
        ("dense without pages", dense(free, pool_kind::PERSISTENT, 0)),
        (
            "sparse with pages",
            ControlRequest {
                object_pages: 1,
                ..sparse(free, pool_kind::PERSISTENT)
            },
        ),
        (
            "create with version",
            ControlRequest {
                version: 1,
                ..create
            },
        ),
        (
            "create with epoch",
            ControlRequest {
                epoch_high: 1,
                ..create
            },
        ),
        ("stat with version", ControlRequest { version: 1, ..stat }),
        (
            "stat with epoch",
            ControlRequest {
                epoch_low: 1,
                ..stat
            },
        ),
        ("stat with kind", ControlRequest { kind: 1, ..stat }),
        ("stat with layout", ControlRequest { layout: 1, ..stat }),
        (
            "stat with pages",
            ControlRequest {
                object_pages: 1,
                ..stat
            },
        ),
        (
            "destroy with version",
            ControlRequest {
                version: 1,
                ..destroy
            },
        ),
        ("destroy with kind", ControlRequest { kind: 1, ..destroy }),
        (
            "destroy with pages",
            ControlRequest {
                object_pages: 9,
                ..destroy
            },
        ),
        (
            "HELLO with pool",
            ControlRequest {
                pool: 1,
                ..greeting
            },
        ),
        (
            "HELLO with kind",
            ControlRequest {
                kind: 1,
                ..greeting
            },
        ),
        (
            "HELLO with layout",
            ControlRequest {
                layout: 1,
                ..greeting
            },
        ),
        (
            "HELLO with pages",
            ControlRequest {
                object_pages: 1,
                ..greeting
            },
        ),
    ] {
        same!(bench.control_status(&request)?, status::INVALID, "{what}");
    }
    // Bytes that belong to no field, too few, too many.
    let mut bytes = [0; ControlRequest::SIZE + 8];
    bytes[..ControlRequest::SIZE].copy_from_slice(&stat.to_bytes());
    same!(
        bench.control_bytes(&bytes)?.status,
        status::INVALID,
        "48 bytes"
    );
    same!(
        bench
            .control_bytes(&bytes[..ControlRequest::SIZE - 1])?
            .status,
        status::INVALID,
        "39 bytes"
    );
    bytes[ControlRequest::SIZE - 1] = 1;
    same!(
        bench.control_bytes(&bytes[..ControlRequest::SIZE])?.status,
        status::INVALID,
        "a byte of no field"
    );
    // None of it did anything.
    same!(
        bench.stat(free)?.status,
        status::NO_POOL,
        "the pool never made"
    );
    bench.expect(at, 0, 16, stamp)
}

fn pool_statistics(bench: &mut Bench) -> Result {
    let id = bench.swap_area(256)?;
    let at = Handle::dense(id);
    bench.store(at, 0, 40)?;
    bench.store(at, 30, 20)?;
    bench.get(at, 20, 40)?;
    same!(bench.flush(at, 45, 10)?, 5, "pages flushed");
    let stat = bench.stat(id)?;
    same!(stat.status, status::OK, "status");
    same!(stat.pages, 45, "pages held");
    same!(stat.value, 0, "same-filled pages");
    same!(stat.held, 60, "pages put");
    same!(stat.gets, 30, "pages delivered");
    same!(stat.flushes, 5, "pages flushed, in all");
    Ok(())
}
