// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control queue: HELLO and the life of pools.

use tmem_abi::{
    ControlRequest, ControlResponse, VERSION, control, hello, pool_kind, pool_layout, status,
};
use tmem_admin_api::Op;
use tmem_pages::{Epoch, EpochOutcome, Guest, Layout, PoolError, PoolId, PoolKind, PoolSpec};
use vm_memory::GuestMemoryMmap;

use super::request::chain::total_bytes;
use super::request::serve::Served;
use super::request::{CONTROL_RESPONSE_BYTES, Chain, Cursor, Malformed, RESPONSE_BYTES};

/// A control request without the fields that its operation does not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Hello(Epoch),
    Create(PoolId, PoolSpec),
    Destroy(PoolId),
    Stat(PoolId),
}

impl Command {
    const fn op(self) -> Op {
        match self {
            Self::Hello(_) => Op::Hello,
            Self::Create(..) => Op::PoolCreate,
            Self::Destroy(_) => Op::PoolDestroy,
            Self::Stat(_) => Op::PoolStat,
        }
    }
}

/// What came of a chain of the control queue.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// For the used ring and the counters.
    pub served: Served,
    /// The driver has said HELLO, and should be told its grant.
    pub greeted: bool,
}

/// Carries out the control request in `chain`.
pub fn serve(mem: &GuestMemoryMmap, chain: &Chain, guest: &Guest) -> Outcome {
    if total_bytes(chain.writable()) < ControlResponse::SIZE as u64 {
        return Outcome {
            served: Served::silent(Malformed::Response),
            greeted: false,
        };
    }
    let (op, response, malformed) = match parse(mem, chain) {
        Ok(command) => (Some(command.op()), run(command, guest), None),
        Err((status, kind)) => (None, failed(status), Some(kind)),
    };
    let mut served = Served {
        op,
        malformed,
        ..Served::default()
    };
    match Cursor::new(chain.writable()).write(mem, &response.to_bytes()) {
        Ok(()) => {
            served.status = Some(response.status);
            served.used_bytes = CONTROL_RESPONSE_BYTES;
        }
        Err(kind) => served.malformed = Some(kind),
    }
    Outcome {
        served,
        greeted: op == Some(Op::Hello) && response.status == status::OK,
    }
}

/// Answers any chain with `status`, where there is room for it: what a queue without a use does.
pub fn answer(mem: &GuestMemoryMmap, chain: &Chain, status: u8) -> Served {
    let response = tmem_abi::ResponseHeader { status, done: 0 };
    if total_bytes(chain.writable()) < u64::from(RESPONSE_BYTES) {
        return Served::silent(Malformed::Response);
    }
    match Cursor::new(chain.writable()).write(mem, &response.to_bytes()) {
        Ok(()) => Served {
            used_bytes: RESPONSE_BYTES,
            status: Some(status),
            malformed: Some(Malformed::Op),
            ..Served::default()
        },
        Err(kind) => Served::silent(kind),
    }
}

fn failed(status: u8) -> ControlResponse {
    ControlResponse {
        status,
        ..ControlResponse::default()
    }
}

fn parse(mem: &GuestMemoryMmap, chain: &Chain) -> Result<Command, (u8, Malformed)> {
    let invalid = |kind| (status::INVALID, kind);
    let mut readable = Cursor::new(chain.readable());
    let mut bytes = [0; ControlRequest::SIZE];
    readable.read(mem, &mut bytes).map_err(invalid)?;
    if readable.boundary().is_none_or(|rest| !rest.is_empty()) {
        return Err(invalid(Malformed::Length));
    }
    let request = ControlRequest::from_bytes(&bytes);
    let command = command(&request)?;
    // What the operation uses, and nothing else, must be there.
    if canonical(command).to_bytes() != bytes {
        return Err(invalid(Malformed::Reserved));
    }
    Ok(command)
}

fn command(request: &ControlRequest) -> Result<Command, (u8, Malformed)> {
    let unsupported = |kind| Err((status::UNSUPPORTED, kind));
    let pool = PoolId(request.pool);
    Ok(match request.op {
        control::HELLO => {
            if request.version != u32::from(VERSION) {
                return unsupported(Malformed::Layout);
            }
            let epoch = u128::from(request.epoch_high) << 64 | u128::from(request.epoch_low);
            Command::Hello(Epoch(epoch.to_le_bytes()))
        }
        control::POOL_CREATE => {
            let kind = match request.kind {
                pool_kind::PERSISTENT => PoolKind::Persistent,
                pool_kind::EPHEMERAL => PoolKind::Ephemeral,
                _ => return unsupported(Malformed::Layout),
            };
            let layout = match request.layout {
                pool_layout::DENSE if request.object_pages == 0 => {
                    return Err((status::INVALID, Malformed::Pages));
                }
                pool_layout::DENSE => Layout::Dense {
                    pages: request.object_pages,
                },
                pool_layout::SPARSE => Layout::Sparse,
                _ => return unsupported(Malformed::Layout),
            };
            Command::Create(pool, PoolSpec { kind, layout })
        }
        control::POOL_DESTROY => Command::Destroy(pool),
        control::POOL_STAT => Command::Stat(pool),
        _ => return unsupported(Malformed::Op),
    })
}

/// The request that says `command` and nothing more.
fn canonical(command: Command) -> ControlRequest {
    let of_pool = |op, pool: PoolId| ControlRequest {
        op,
        pool: pool.0,
        ..ControlRequest::default()
    };
    match command {
        Command::Hello(Epoch(epoch)) => {
            let (low, high) = epoch.split_at(8);
            let half = |bytes: &[u8]| {
                bytes
                    .iter()
                    .rev()
                    .fold(0, |value, byte| value << 8 | u64::from(*byte))
            };
            ControlRequest {
                op: control::HELLO,
                version: u32::from(VERSION),
                epoch_low: half(low),
                epoch_high: half(high),
                ..ControlRequest::default()
            }
        }
        Command::Create(pool, spec) => {
            let (layout, object_pages) = match spec.layout {
                Layout::Dense { pages } => (pool_layout::DENSE, pages),
                Layout::Sparse => (pool_layout::SPARSE, 0),
            };
            ControlRequest {
                kind: match spec.kind {
                    PoolKind::Persistent => pool_kind::PERSISTENT,
                    PoolKind::Ephemeral => pool_kind::EPHEMERAL,
                },
                layout,
                object_pages,
                ..of_pool(control::POOL_CREATE, pool)
            }
        }
        Command::Destroy(pool) => of_pool(control::POOL_DESTROY, pool),
        Command::Stat(pool) => of_pool(control::POOL_STAT, pool),
    }
}

fn run(command: Command, guest: &Guest) -> ControlResponse {
    if guest.epoch().is_none() && !matches!(command, Command::Hello(_)) {
        return failed(status::NOT_READY);
    }
    match command {
        Command::Hello(epoch) => greet(guest, epoch),
        Command::Create(pool, spec) => failed(match guest.create_pool(pool, spec) {
            Ok(_) => status::OK,
            Err(PoolError::Exists { .. }) => status::EXISTS,
            Err(PoolError::TooMany { .. } | PoolError::BadSize { .. }) => status::NO_SPACE,
            Err(_) => status::DEVICE_ERROR,
        }),
        Command::Destroy(pool) => failed(match guest.destroy_pool(pool) {
            Some(_) => status::OK,
            None => status::NO_POOL,
        }),
        Command::Stat(pool) => match guest.pool(pool) {
            Some(pool) => {
                let stats = pool.stats();
                ControlResponse {
                    status: status::OK,
                    flags: 0,
                    pages: stats.pages,
                    value: stats.same_filled,
                    held: stats.puts,
                    gets: stats.gets,
                    flushes: stats.flushes,
                }
            }
            None => failed(status::NO_POOL),
        },
    }
}

fn greet(guest: &Guest, epoch: Epoch) -> ControlResponse {
    let (flags, ticket_high) = match guest.begin_epoch(epoch) {
        EpochOutcome::Same { ticket_high } => (hello::SAME_EPOCH, ticket_high),
        EpochOutcome::New {
            pools_destroyed,
            pages_flushed,
        } => {
            tracing::info!(
                guest = guest.name(),
                ?epoch,
                pools_destroyed,
                pages_flushed,
                "the guest has booted"
            );
            (0, 0)
        }
    };
    let stats = guest.stats();
    ControlResponse {
        status: status::OK,
        flags,
        pages: guest.grant_pages(),
        value: ticket_high,
        held: stats.persistent_pages + stats.ephemeral_pages,
        gets: 0,
        flushes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_read_from_what_it_writes() {
        let spec = |kind, layout| PoolSpec { kind, layout };
        let commands = [
            Command::Hello(Epoch(*b"0123456789abcdef")),
            Command::Create(
                PoolId(7),
                spec(PoolKind::Persistent, Layout::Dense { pages: 9 }),
            ),
            Command::Create(PoolId(u32::MAX), spec(PoolKind::Ephemeral, Layout::Sparse)),
            Command::Destroy(PoolId(3)),
            Command::Stat(PoolId(4)),
        ];
        for wanted in commands {
            assert_eq!(command(&canonical(wanted)), Ok(wanted));
        }
    }
}
