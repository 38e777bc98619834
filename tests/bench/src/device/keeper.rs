// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the keeper costs: our daemon as two processes, beside the same program as one.
//!
//! The keeper only waits while requests flow, so that what can cost something is the worker's
//! sandbox: its filters see every system call. Both are in the figures, because both are what people
//! run.
//!
//! Where in memory a daemon's pages happen to lie makes more of a difference than a keeper does. So
//! both daemons are started anew several times, each time in the other order. Within a start each
//! case is measured in the order first, second, second, first, in which a machine that slows down
//! favours nobody. Each start gives one ratio; the row has their median and quartiles.

use super::ours::{Model, TmemServer};
use super::plan::{self, CASES};
use super::{DeviceOptions, Measured, Polling, Scale, Side};
use crate::pin::{self, Processors};
use crate::report::Floors;
use crate::{Error, Result, Row};

/// The ratio that passes for no cost at all, on machines whose figures drift by some percent.
const GOAL: f64 = 0.95;
/// Who the peer is, for the report.
const PEER: &str = "single process";
/// Passes of a case on each side in one start.
const PASSES: usize = ORDER.len() / 2;
/// Which of the two daemons, in the order of their start, is measured first, second and so on.
const ORDER: [usize; 4] = [0, 1, 1, 0];
/// How much shorter a pass is than beside a block device: there are more of them.
const SHORTER: u32 = 3;

/// Runs all starts of one regime. `ours` is the keeper with its worker, `peer` the single process.
pub(super) fn by_turns(
    options: &DeviceOptions,
    scale: Scale,
    processors: Processors,
    polling: Polling,
) -> Result<Vec<Measured>> {
    // Where the peer reads runs, our side of the case is another's over again.
    let cases = CASES.iter().filter(|case| !case.peer.run).copied();
    let mut measured: Vec<_> = cases.map(Measured::new).collect();
    for start in 0..scale.starts {
        let folder = tempfile::tempdir_in("/dev/shm").map_err(Error::system("use /dev/shm"))?;
        let mut models = [Model::Keeper, Model::Single];
        models.rotate_left(start % 2);
        let start = |model| {
            pin::on(processors.server, || {
                TmemServer::start(&options.daemon, model, folder.path(), scale.pages, polling)
            })?
        };
        let servers = [start(models[0])?, start(models[1])?];
        pin::on(processors.client, || {
            let connect = |server: &TmemServer| {
                let target = server.connect()?;
                Side::new(target, server.serving()?, scale, processors, polling)
            };
            let mut sides = [connect(&servers[0])?, connect(&servers[1])?];
            for one in &mut measured {
                for side in ORDER {
                    let into = match models[side] {
                        Model::Keeper => &mut one.ours,
                        Model::Single => &mut one.peer,
                    };
                    let (op, shape) = (one.case.op, one.case.ours);
                    sides[side].pass(op, shape, scale.time / SHORTER, into)?;
                }
            }
            for (side, server) in sides.iter_mut().zip(&servers) {
                side.load.verify()?;
                server.check_serving(side.process)?;
            }
            Ok::<(), Error>(())
        })??;
        for server in servers {
            server.end()?;
        }
    }
    Ok(measured)
}

/// Rows of one regime.
pub(super) fn rows(measured: &[Measured], polling: Polling, floors: Floors) -> Vec<Row> {
    let row = |one: &Measured| {
        let mut row = plan::row(
            format!("keeper: {}", one.case.name),
            "pages/s",
            &plan::regime(one, polling, Some("no sandbox either")),
            plan::rate(&one.ours),
            Some((plan::rate(&one.peer), PEER)),
            plan::floor(one.case, polling, floors),
        );
        plan::compare(&mut row, one, Some(PASSES));
        row.goal = Some(GOAL);
        row.met = row.ratio.map(|ratio| ratio >= GOAL);
        row
    };
    measured.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Series;
    use crate::device::load::Pass;

    const FLOORS: Floors = Floors {
        copies: 1e6,
        flag: 1e-6,
        eventfd: 50e-6,
    };

    fn series(rates: &[f64]) -> Series {
        let pass = |rate: &f64| Pass {
            rate: *rate,
            median: None,
            requests: 10,
        };
        Series {
            passes: rates.iter().map(pass).collect(),
            sleeps: 0,
        }
    }

    fn row_of(ours: &[f64], peer: &[f64]) -> Row {
        let measured = Measured {
            case: CASES[2],
            ours: series(ours),
            peer: series(peer),
        };
        rows(&[measured], Polling::On, FLOORS).remove(0)
    }

    #[test]
    fn the_ratio_is_the_median_of_the_starts_whatever_the_machine_does_between_them() {
        // The third start finds the machine at half its speed.
        let ours = [98.0, 102.0, 96.0, 96.0, 50.0, 50.0];
        let peer = [100.0, 100.0, 100.0, 100.0, 50.0, 50.0];
        let row = row_of(&ours, &peer);
        assert_eq!((row.ratio, row.met), (Some(1.0), Some(true)));
        let spread = row.spread.unwrap();
        assert!((spread.ratio[0] - 0.98).abs() < 1e-9, "{spread:?}");
        assert!((spread.ratio[1] - 1.0).abs() < 1e-9, "{spread:?}");
    }

    #[test]
    fn a_twentieth_less_is_the_most_that_passes() {
        assert_eq!(row_of(&[95.0; 4], &[100.0; 4]).met, Some(true));
        assert_eq!(row_of(&[94.9; 4], &[100.0; 4]).met, Some(false));
    }
}
