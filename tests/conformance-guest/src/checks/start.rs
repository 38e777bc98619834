// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the first register to HELLO.

use super::{Check, Kind};
use crate::bench::{Ask, Bench, Handle, PAIRS, QUEUES, dense};
use crate::transport::feature;
use crate::why::{Result, ensure, same};
use crate::wire::{
    BATCH_PAGES_MAX, Config, ControlRequest, MAGIC, PAGE_SHIFT, POOLS_MAX, VERSION, capability,
    control, op, pool_kind, queue_count, status,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "features",
        kind: Kind::Bare,
        run: features,
    },
    Check {
        name: "config-space",
        kind: Kind::Bare,
        run: config_space,
    },
    Check {
        name: "config-space-is-read-only",
        kind: Kind::Bare,
        run: config_space_is_read_only,
    },
    // Only in a run's first set-up has the device no epoch.
    Check {
        name: "not-ready-before-hello",
        kind: Kind::Bare,
        run: not_ready_before_hello,
    },
];

fn features(bench: &mut Bench) -> Result {
    let offered = bench.transport.features();
    let needed = feature::VERSION_1 | feature::EVENT_IDX | feature::INDIRECT_DESC;
    same!(offered & needed, needed, "features of {offered:#x}");
    let forbidden = feature::RING_PACKED | feature::ACCESS_PLATFORM | feature::NOTIFICATION_DATA;
    same!(offered & forbidden, 0, "forbidden features of {offered:#x}");
    Ok(())
}

fn config_space(bench: &mut Bench) -> Result {
    let config = bench.config;
    same!(config.magic, MAGIC, "magic");
    same!(config.version, VERSION, "version");
    same!(config.page_shift, PAGE_SHIFT, "page_shift");
    ensure!(
        config.queue_pairs >= PAIRS && queue_count(config.queue_pairs) >= bench.transport.queues(),
        "{} queue pairs",
        config.queue_pairs
    );
    ensure!(
        (1..=BATCH_PAGES_MAX).contains(&config.batch_pages),
        "batch_pages {}",
        config.batch_pages
    );
    ensure!(
        (1..=POOLS_MAX).contains(&config.pools),
        "pools {}",
        config.pools
    );
    let all = capability::PERSISTENT
        | capability::EPHEMERAL
        | capability::EXCLUSIVE_GET
        | capability::LIST
        | capability::SPARSE
        | capability::EVENTS;
    same!(config.capabilities & all, all, "capabilities");
    // However it is read, it is the same.
    let space = bench.transport.space();
    let bytes = config.to_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        same!(space.read::<u8>(at), *byte, "byte {at}");
    }
    for (at, pair) in bytes.chunks_exact(2).enumerate() {
        let value = u16::from_le_bytes([pair[0], pair[1]]);
        same!(space.read::<u16>(at * 2), value, "16 bits at {}", at * 2);
    }
    Ok(())
}

fn config_space_is_read_only(bench: &mut Bench) -> Result {
    let space = bench.transport.space();
    for at in (0..Config::SIZE).step_by(4) {
        space.write(at, u32::MAX);
    }
    space.write(0, 0_u8);
    ensure!(
        bench.transport.config()? == bench.config,
        "a write changed the configuration"
    );
    Ok(())
}

fn not_ready_before_hello(bench: &mut Bench) -> Result {
    bench.set_up()?;
    let pool = bench.next_pool();
    let create = dense(pool, pool_kind::PERSISTENT, 16);
    for request in [
        create,
        ControlRequest {
            op: control::POOL_DESTROY,
            pool,
            ..ControlRequest::default()
        },
        ControlRequest {
            op: control::POOL_STAT,
            pool,
            ..ControlRequest::default()
        },
    ] {
        same!(
            bench.control_status(&request)?,
            status::NOT_READY,
            "control operation {}",
            request.op
        );
    }
    let at = Handle::dense(pool);
    for pair in 0..PAIRS {
        for (op, pages, ticket) in [
            (op::PUT, 1, 1),
            (op::GET, 1, 0),
            (op::FLUSH, 1, 1),
            (op::FLUSH_OBJECT, 0, 1),
            (op::FLUSH_POOL, 0, 1),
        ] {
            let mut ask = Ask::plain(at.header(op, 0, pages));
            ask.header.ticket = ticket;
            if op == op::PUT || op == op::GET {
                ask.data = Some(bench.areas.put.page(0));
            }
            same!(
                bench.ask_on(pair, &ask)?.status,
                status::NOT_READY,
                "operation {op} on pair {pair}"
            );
        }
    }
    // A version that does not exist is no HELLO.
    for version in [0, u32::from(VERSION) + 1, u32::MAX] {
        let request = ControlRequest {
            op: control::HELLO,
            version,
            epoch_low: 1,
            ..ControlRequest::default()
        };
        same!(
            bench.control_status(&request)?,
            status::UNSUPPORTED,
            "HELLO of version {version}"
        );
    }
    same!(
        bench.control_status(&create)?,
        status::NOT_READY,
        "POOL_CREATE after a HELLO that failed"
    );
    bench.new_epoch()?;
    bench.create(&create)?;
    ensure!(bench.rings.len() == QUEUES, "queues");
    Ok(())
}
