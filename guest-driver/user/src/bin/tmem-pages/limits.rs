// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The limits, one after the other: what must be refused, and that it comes back.

use crate::told;
use tmem_user::program::result_line;
use tmem_user::{Error, Flushes, Gets, Info, Interface, Kind, PageBuffer, PoolOptions, Puts, abi};

/// Counts what holds and what does not.
#[derive(Default)]
struct Checks {
    all: u64,
    failed: u64,
}

impl Checks {
    fn that(&mut self, holds: bool, what: &str) {
        self.all += 1;
        if !holds {
            self.failed += 1;
            eprintln!("tmem-pages: it does not hold that {what}");
        }
    }
}

/// Goes through the limits of the first device. Root is needed, and that nobody else uses it.
pub(crate) fn run() -> Result<bool, String> {
    let mut checks = Checks::default();
    of_pools(&mut checks).map_err(|error| told(&error))?;
    of_puts(&mut checks).map_err(|error| told(&error))?;
    of_openers(&mut checks).map_err(|error| told(&error))?;
    println!(
        "{}",
        result_line(&[("checks", checks.all), ("mismatches", checks.failed)])
    );
    Ok(checks.failed == 0)
}

fn pages(info: &Info, kind: Kind) -> (u32, u64) {
    let (all, reserved) = match kind {
        Kind::Persistent => (info.persistent_pages, info.persistent_reserved),
        Kind::Ephemeral => (info.ephemeral_pages, info.ephemeral_reserved),
    };
    (u32::try_from(all).unwrap_or(u32::MAX), reserved)
}

/// What pools may reserve, and how many there may be.
fn of_pools(checks: &mut Checks) -> Result<(), Error> {
    let interface = Interface::open()?;
    let info = interface.info(None)?;
    checks.that(info.version == abi::VERSION, "the versions agree");
    checks.that(info.devices & 1 << info.device != 0, "the device is listed");
    checks.that(
        matches!(interface.info(Some(63)), Err(Error::NoDevice(_))),
        "there is no device 63",
    );
    for kind in [Kind::Persistent, Kind::Ephemeral] {
        let (all, reserved) = pages(&info, kind);
        checks.that(
            all > 1000 && reserved == 0,
            "there are pages, none of them taken",
        );
        let most = interface.create(&PoolOptions::new(kind, all))?;
        let refused = interface.create(&PoolOptions::new(kind, 1));
        checks.that(
            matches!(refused, Err(Error::NoRoom)),
            "no page beyond all of them can be reserved",
        );
        let (_, reserved) = pages(&interface.info(None)?, kind);
        checks.that(reserved == u64::from(all), "all pages are reserved");
        drop(most);
        let (_, reserved) = pages(&interface.info(None)?, kind);
        checks.that(reserved == 0, "an ended pool reserves nothing");
        let wide = interface.create(&PoolOptions::new(kind, abi::OBJECT_PAGES_MAX).limit(10));
        checks.that(
            wide.is_ok(),
            "a pool may have many indices and a small limit",
        );
    }
    let pools: Vec<_> = (0..abi::POOLS_MAX)
        .map(|_| interface.create(&PoolOptions::new(Kind::Persistent, 8)))
        .collect::<Result<_, _>>()?;
    checks.that(
        matches!(
            interface.create(&PoolOptions::new(Kind::Persistent, 8)),
            Err(Error::TooManyPools)
        ),
        "an interface has so many pools and no more",
    );
    let handle = pools[0].handle();
    drop(pools);
    let again = interface.create(&PoolOptions::new(Kind::Persistent, 8))?;
    checks.that(again.handle() != handle, "a handle is not used again soon");
    for options in [
        PoolOptions::new(Kind::Persistent, 0),
        PoolOptions::new(Kind::Persistent, abi::OBJECT_PAGES_MAX + 1).limit(1),
        PoolOptions::new(Kind::Persistent, 8).limit(9),
    ] {
        checks.that(
            matches!(interface.create(&options), Err(Error::Invalid(_))),
            "a pool of a wrong size is refused",
        );
    }
    Ok(())
}

/// A pool's own limit, counted page by page.
fn of_puts(checks: &mut Checks) -> Result<(), Error> {
    let interface = Interface::open()?;
    let pool = interface.create(&PoolOptions::new(Kind::Persistent, 1000).limit(20))?;
    let mut memory = PageBuffer::new(30)?;
    memory[0].fill(1);
    let mut first = Puts::new();
    first.add(100, &memory[..15]).add(500, &memory[..5]);
    checks.that(pool.put(&mut first)? == 20, "a pool takes its limit");
    let mut more = Puts::new();
    more.add(110, &memory[..5]).add(700, &memory[..1]);
    checks.that(
        matches!(pool.put(&mut more), Err(Error::NoRoom)),
        "a put that exceeds the limit is refused",
    );
    let mut same = Puts::new();
    same.add(100, &memory[..15]);
    checks.that(
        pool.put(&mut same)? == 15,
        "pages that are there may be put again",
    );
    checks.that(pool.stat()?.held == 20, "the count is exact");
    let mut flush = Flushes::new();
    flush.add(0, 104);
    pool.flush(&mut flush)?;
    checks.that(pool.stat()?.held == 16, "flushed pages are not counted");
    let mut more = Puts::new();
    more.add(900, &memory[..4]);
    checks.that(pool.put(&mut more)? == 4, "what was flushed makes room");
    let mut take = Gets::new();
    take.add(900, &mut memory[..4]);
    checks.that(pool.take(&mut take)? == 4, "an exclusive get delivers");
    drop(take);
    checks.that(pool.stat()?.held == 16, "what was taken is not counted");
    let other = Interface::open()?;
    let foreign = other.create(&PoolOptions::new(Kind::Persistent, 10))?;
    checks.that(
        foreign.stat()?.held == 0,
        "another interface has pools of its own",
    );
    Ok(())
}

/// An opener that may not exceed limits gets half of what there is.
fn of_openers(checks: &mut Checks) -> Result<(), Error> {
    let interface = Interface::open()?;
    let (all, _) = pages(&interface.info(None)?, Kind::Persistent);
    // SAFETY: no memory is touched. There is no other thread yet.
    if unsafe { libc::seteuid(65534) } != 0 {
        return Err(Error::System(std::io::Error::last_os_error()));
    }
    let refused = interface.create(&PoolOptions::new(Kind::Persistent, all / 2 + 1));
    let granted = interface.create(&PoolOptions::new(Kind::Persistent, all / 2));
    // SAFETY: as above.
    unsafe { libc::seteuid(0) };
    checks.that(
        matches!(refused, Err(Error::NoRoom)),
        "an opener without privilege gets no more than half",
    );
    checks.that(granted.is_ok(), "it gets that much");
    Ok(())
}
