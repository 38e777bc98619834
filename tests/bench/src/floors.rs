// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the machine allows: copies, flags and wake-ups without any product.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use tmem_abi::PAGE_SIZE;
use tmem_frontend::Random;
use vmm_sys_util::eventfd::EventFd;

use crate::pin::{self, Processors};
use crate::report::{Floors, median};
use crate::{Error, Result};

/// Bytes that the copies range over.
const COPY_RANGE: usize = 1 << 30;

/// Measures all floors, `rounds` times each.
pub(crate) fn measure(processors: Processors, rounds: usize, quick: bool) -> Result<Floors> {
    let scale = if quick { 1 } else { 5 };
    Ok(Floors {
        copies: pin::on(processors.server, || copies(rounds, 100_000 * scale))?,
        flag: flag_round_trip(processors, rounds, 50_000 * scale)?,
        eventfd: eventfd_round_trip(processors, rounds, 2_000 * scale)?,
    })
}

/// Copies of 4 KiB a second between random pages.
fn copies(rounds: usize, count: u64) -> f64 {
    let mut memory = vec![1_u8; COPY_RANGE];
    let (from, to) = memory.split_at_mut(COPY_RANGE / 2);
    let pages = u32::try_from(from.len() / PAGE_SIZE).expect("a small range");
    let mut random = Random::new(1);
    let mut page = || random.below(pages) as usize * PAGE_SIZE;
    let rates: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..count {
                let (source, target) = (page(), page());
                to[target..target + PAGE_SIZE].copy_from_slice(&from[source..source + PAGE_SIZE]);
            }
            black_box(&to);
            per_second(count, start)
        })
        .collect();
    median(&rates)
}

/// Seconds for a counter to go to the other processor and back.
fn flag_round_trip(processors: Processors, rounds: usize, count: u64) -> Result<f64> {
    let there = Arc::new(AtomicU64::new(0));
    let back = Arc::new(AtomicU64::new(0));
    let total = count * rounds as u64;
    let server = {
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        thread::spawn(move || {
            pin::on(processors.server, || {
                for turn in 1..=total {
                    while there.load(Ordering::Acquire) != turn {
                        spin_loop();
                    }
                    back.store(turn, Ordering::Release);
                }
            })
        })
    };
    let rates = pin::on(processors.client, || {
        let mut turn = 0;
        timed_rounds(rounds, count, || {
            turn += 1;
            there.store(turn, Ordering::Release);
            while back.load(Ordering::Acquire) != turn {
                spin_loop();
            }
            Ok(())
        })
    })??;
    server.join().expect("the server thread does not panic")?;
    Ok(1.0 / median(&rates))
}

/// Seconds for an eventfd to wake a thread on the other processor, and to be woken by it.
fn eventfd_round_trip(processors: Processors, rounds: usize, count: u64) -> Result<f64> {
    let event = || EventFd::new(0).map_err(Error::system("make an eventfd"));
    let (there, back) = (event()?, event()?);
    let total = count * rounds as u64;
    let clone = |event: &EventFd| event.try_clone().map_err(Error::system("share an eventfd"));
    let (there_server, back_server) = (clone(&there)?, clone(&back)?);
    let server = thread::spawn(move || {
        pin::on(processors.server, || {
            (0..total).try_for_each(|_| there_server.read().and_then(|_| back_server.write(1)))
        })
    });
    let rates = pin::on(processors.client, || {
        timed_rounds(rounds, count, || {
            there
                .write(1)
                .and_then(|()| back.read())
                .map(drop)
                .map_err(Error::system("use an eventfd"))
        })
    })??;
    let served = server.join().expect("the server thread does not panic")?;
    served.map_err(Error::system("serve an eventfd"))?;
    Ok(1.0 / median(&rates))
}

fn timed_rounds(
    rounds: usize,
    count: u64,
    mut turn: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            (0..count).try_for_each(|_| turn())?;
            Ok(per_second(count, start))
        })
        .collect()
}

/// Events a second since `start`.
pub(crate) fn per_second(count: u64, start: Instant) -> f64 {
    // Counts of a benchmark are far below 2^52, where the conversion would lose digits.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    let count = count as f64;
    count / start.elapsed().as_secs_f64()
}
