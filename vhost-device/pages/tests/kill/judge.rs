// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What must be there after a kill: of every page what was last acknowledged, or what was last sent.

use std::fs::File;

use tmem_pages::{GetMode, GetResult, Guest, Pool, Worker};

use super::log::{Bulk, MISSING, NOTHING, PAGES, POOLS, SHARED, ThreadLog};
use super::model::{Content, Sink};
use super::workload::{Places, attach, epoch_of, id, name, resolve, shared_page, spec};

/// What the rounds met, so that a run that met nothing fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Met {
    pub(crate) pages: u64,
    /// Pages below DRAM.
    pub(crate) stored: u64,
    pub(crate) unresolved: u64,
    pub(crate) frames_freed: u64,
    /// Requests under way that were found done.
    pub(crate) done: u64,
    /// Requests under way that were found not begun.
    pub(crate) undone: u64,
}

/// Opens the files and holds them against the log, which then says what was found. What exclusive
/// gets have taken is ended here, or left to the next process.
pub(crate) fn judge(places: &Places, log: &File, resolving: bool, met: &mut Met) {
    let (engine, recovery) = places.open().unwrap();
    engine.self_check();
    assert_eq!(recovery.damaged, 0);
    met.pages += recovery.pages;
    met.stored += recovery.stored;
    met.unresolved += recovery.unresolved;
    met.frames_freed += recovery.frames_freed;
    let (guests, shared) = attach(&engine);
    let mut worker = engine.worker().unwrap();
    let mut logs = Vec::new();
    for (thread, guest) in guests.iter().enumerate() {
        let mut known = ThreadLog::read(log, thread);
        let taken = !guest.unresolved().is_empty();
        if resolving {
            resolve(guest, thread, &known);
        }
        let judge = Judge {
            guest,
            taken: taken && !resolving,
        };
        judge.judge(&mut worker, &mut known, met);
        known.write(log);
        logs.push(known);
    }
    judge_shared(&shared, &mut worker, &mut logs, log);
    engine.self_check();
}

struct Judge<'a> {
    guest: &'a Guest,
    /// Some pages are taken, so a miss says little.
    taken: bool,
}

impl Judge<'_> {
    fn judge(&self, worker: &mut Worker, known: &mut ThreadLog, met: &mut Met) {
        let bulk = std::mem::replace(&mut known.bulk, Bulk::None);
        self.epoch(known, bulk, met);
        for number in 0..POOLS {
            let pool = self.guest.pool(id(number));
            let there = known.pools >> number & 1 == 1;
            let changing = match bulk {
                Bulk::Create { pool: of } => (of == number).then_some(true),
                Bulk::Destroy { pool: of } => (of == number).then_some(false),
                _ => None,
            };
            if pool.is_some() != there {
                assert_eq!(changing, Some(pool.is_some()), "pool {number}");
                met.done += 1;
                if pool.is_none() {
                    known.pages[number]
                        .iter_mut()
                        .for_each(|page| page.acknowledged = MISSING);
                }
            } else {
                met.undone += u64::from(changing.is_some());
            }
            known.pools &= !(1 << number);
            known.pools |= u64::from(pool.is_some()) << number;
            for page in 0..PAGES {
                let flushing = match bulk {
                    Bulk::Flush { pool, object } if pool == number => {
                        object.is_none_or(|object| name(number, page).0.0[0] == object)
                    }
                    _ => false,
                };
                let found = pool.as_ref().map_or(MISSING, |pool| {
                    assert_eq!(pool.spec(), spec(number));
                    self.page(worker, pool, known, (number, page))
                });
                self.compare(known, (number, page), found, flushing, met);
            }
        }
    }

    /// An epoch begins at once, with all that it ends.
    fn epoch(&self, known: &mut ThreadLog, bulk: Bulk, met: &mut Met) {
        let found = self.guest.epoch();
        let old = (known.epoch > 0).then(|| epoch_of(known.epoch));
        if found == old {
            met.undone += u64::from(bulk == Bulk::Epoch);
            return;
        }
        assert_eq!(bulk, Bulk::Epoch, "an epoch that nobody began");
        met.done += 1;
        known.epoch += 1;
        assert_eq!(found, Some(epoch_of(known.epoch)));
        known.pools = 0;
        for page in known.pages.as_flattened_mut() {
            page.acknowledged = MISSING;
        }
    }

    /// The content of a page, which must be one that was put.
    fn page(
        &self,
        worker: &mut Worker,
        pool: &Pool,
        known: &ThreadLog,
        (number, page): (usize, usize),
    ) -> u64 {
        let mut sink = Sink::default();
        let (object, index) = name(number, page);
        let result = worker.get(pool, object, index, GetMode::Copy, &mut sink);
        let Some(bytes) = sink.page else {
            assert_eq!(result, GetResult::Miss, "page {page} of pool {number}");
            return MISSING;
        };
        let known = known.pages[number][page];
        let mut contents = [known.acknowledged, known.sent].into_iter();
        let found = contents.find(|content| {
            ![MISSING, NOTHING].contains(content) && Content(*content).bytes() == *bytes
        });
        found.unwrap_or_else(|| panic!("page {page} of pool {number}: bytes of neither {known:?}"))
    }

    fn compare(
        &self,
        log: &mut ThreadLog,
        (number, page): (usize, usize),
        found: u64,
        flushing: bool,
        met: &mut Met,
    ) {
        let known = &mut log.pages[number][page];
        let (acknowledged, sent) = (known.acknowledged, known.sent);
        let vanished = found == MISSING && (number >= 2 || flushing);
        // A put that the grant refuses drops the page, so one that was sent may have done that.
        let refused = found == MISSING && sent != NOTHING;
        let missed = found == MISSING && self.taken;
        assert!(
            found == acknowledged || found == sent || vanished || refused || missed,
            "page {page} of pool {number}: found {found} of {known:?}"
        );
        if sent != NOTHING {
            let count = if found == sent {
                &mut met.done
            } else {
                &mut met.undone
            };
            *count += 1;
        }
        known.sent = NOTHING;
        if !(missed && acknowledged != MISSING) {
            known.acknowledged = found;
        }
    }
}

/// Of a page that all put, nothing older than the newest acknowledged put may be left. What is found
/// counts as acknowledged then.
fn judge_shared(guest: &Guest, worker: &mut Worker, logs: &mut [ThreadLog], file: &File) {
    for page in 0..SHARED {
        let known = logs.iter().map(|log| log.shared[page]);
        let oldest = known.clone().map(|known| known.acknowledged).max().unwrap();
        let (object, index) = name(page % 2, page / 2);
        let pool = guest.pool(id(page % 2));
        let mut sink = Sink::default();
        let result = pool.map(|pool| worker.get(&pool, object, index, GetMode::Copy, &mut sink));
        let Some(bytes) = sink.page else {
            assert!(matches!(result, None | Some(GetResult::Miss)), "{result:?}");
            assert_eq!(oldest, MISSING, "shared page {page} is lost");
            continue;
        };
        let mut put = known.flat_map(|known| [known.acknowledged, known.sent]);
        let found = put.find(|put| {
            ![MISSING, NOTHING].contains(put) && *put >= oldest && shared_page(*put) == *bytes
        });
        let Some(found) = found else {
            panic!("shared page {page} is older than {oldest}, or was never put");
        };
        for log in logs.iter_mut() {
            log.shared[page].acknowledged = found;
            log.shared[page].sent = NOTHING;
            log.write_shared(file, page);
        }
    }
}
