// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random work, ended by kills and power losses at any step: what was committed is there, of the rest
//! each page is something that it has been since, and the log goes on.

use std::sync::Arc;

use tmem_remote_protocol::checksum;

use super::lossy::Lossy;
use super::model::Model;
use super::work::{Content, Random, seed};
use super::{SMALL, open, options};
use crate::log::layout::bytes;
use crate::log::{Appended, Begun, LogSync, Medium, PageLog, Place, Record};

/// What has happened, so that a run that tested nothing is noticed.
#[derive(Debug, Default)]
struct Seen {
    crashes: u64,
    failed_jobs: u64,
    stale: u64,
    full: u64,
    waits: u64,
    cleaned: u64,
    copied: u64,
    dropped: u64,
    recovered_pages: u64,
    meanwhile: u64,
}

struct Run {
    random: Random,
    sync: LogSync,
    medium: Arc<Lossy>,
    log: PageLog,
    model: Model,
    generation: u64,
    /// Indices in use: if there are many, more than fit, and hardly any is flushed.
    width: u32,
    namespaces: u32,
}

impl Run {
    fn new(seed: u64, sync: LogSync, width: u32) -> Self {
        let size = usize::try_from(bytes(SMALL.segment_units)).unwrap() * SMALL.slots as usize;
        let medium = Arc::new(Lossy::new(size));
        let opened = open(&medium, &options(sync)).expect("a new log");
        assert_eq!(opened.report.begun, Begun::New);
        Self {
            random: Random::new(seed, u64::from(width)),
            sync,
            medium,
            log: opened.log,
            model: Model::default(),
            generation: 1,
            width,
            namespaces: 2,
        }
    }

    fn place(&mut self) -> Place {
        // A few hot pages, and all others.
        let hot = self.random.one_in(2);
        let index = self.random.below_u32(if hot { 6 } else { self.width });
        Place {
            namespace: self.namespaces - self.random.below_u32(2),
            pool: u32::from(self.random.one_in(8)),
            index: index * 700,
        }
    }

    /// Appends, and commits first as often as the log asks for it.
    fn append(&mut self, record: Record<'_>, seen: &mut Seen) -> Option<Appended> {
        for _ in 0..4 {
            match self.log.append(record).ok()? {
                Appended::Wait => {
                    seen.waits += 1;
                    self.commit(seen)?;
                }
                other => return Some(other),
            }
        }
        Some(Appended::Wait)
    }

    fn commit(&mut self, seen: &mut Seen) -> Option<()> {
        match self.log.commit() {
            Ok(_) => {
                self.model.commit();
                Some(())
            }
            Err(_) => {
                seen.failed_jobs += 1;
                None
            }
        }
    }

    /// A commit in its parts, with other work between them, as a thread that commits would have it.
    fn commit_in_parts(&mut self, seen: &mut Seen) -> Option<()> {
        let Some(job) = self.log.begin() else {
            return Some(());
        };
        let sent = self.model.clone();
        self.work_meanwhile(seen)?;
        let result = job.run();
        let failed = result.is_err();
        self.work_meanwhile(seen)?;
        if self.log.finish(&job, result).is_err() {
            assert!(failed);
            seen.failed_jobs += 1;
            return None;
        }
        self.model.commit_as_of(&sent);
        Some(())
    }

    fn work_meanwhile(&mut self, seen: &mut Seen) -> Option<()> {
        for _ in 0..self.random.below(12) {
            if self.random.one_in(3) {
                if let Some(read) = self.log.clean_read() {
                    let mut piece = vec![0; read.length];
                    self.medium.read(read.at, &mut piece).expect("a read");
                    self.log.clean(read, &piece);
                }
                continue;
            }
            let (place, content) = (self.place(), Content(self.random.next()));
            self.generation += 1;
            let (generation, page) = (self.generation, content.bytes());
            let record = if self.random.one_in(3) {
                Record::Flush { place, generation }
            } else {
                Record::Put {
                    place,
                    generation,
                    crc: checksum(&page),
                    page: &page,
                }
            };
            let appended = self.log.append(record).ok()?;
            seen.meanwhile += u64::from(matches!(appended, Appended::Written(_)));
            match (record, appended) {
                (Record::Put { .. }, Appended::Written(_)) => {
                    self.model.put(place, generation, content);
                }
                (Record::Flush { .. }, Appended::Written(_)) => {
                    self.model.flush(place, generation);
                }
                _ => {}
            }
        }
        Some(())
    }

    /// One thing to do. Nothing if the medium has failed.
    fn step(&mut self, seen: &mut Seen) -> Option<()> {
        self.generation += 1 + self.random.below(3);
        let (place, generation) = (self.place(), self.generation);
        match self.random.below(100) {
            0..=54 => {
                // Now and then an older write comes late.
                let generation =
                    generation - self.random.below(2) * self.random.below(30).min(generation);
                let content = Content(self.random.next());
                let page = content.bytes();
                let put = Record::Put {
                    place,
                    generation,
                    crc: checksum(&page),
                    page: &page,
                };
                // It is in the model before it may be in the log, but only if it will not be stale.
                match self.append(put, seen)? {
                    Appended::Written(_) => self.model.put(place, generation, content),
                    Appended::Stale => {
                        seen.stale += 1;
                        let newer = self
                            .model
                            .now(place)
                            .is_some_and(|(now, _)| now > generation);
                        let flushed = self.model.floor(place) >= generation;
                        let forgotten = self.model.is_forgotten(place.namespace);
                        // A flush that is remembered has a generation, too; the model has none then.
                        let gone = self.model.now(place).is_none();
                        assert!(newer || flushed || forgotten || gone);
                    }
                    Appended::Full => seen.full += 1,
                    Appended::Wait => panic!("no room after commits: {:?}", self.log),
                }
            }
            55..=84 if self.width < 100 || self.random.one_in(8) => {
                let appended = self.append(Record::Flush { place, generation }, seen)?;
                assert!(matches!(appended, Appended::Written(_)), "{appended:?}");
                self.model.flush(place, generation);
            }
            85 if self.width < 100 => {
                let record = Record::FlushPool {
                    namespace: place.namespace,
                    pool: place.pool,
                    generation,
                };
                let appended = self.append(record, seen)?;
                assert!(matches!(appended, Appended::Written(_)), "{appended:?}");
                self.model
                    .flush_pool(place.namespace, place.pool, generation);
            }
            86 if self.random.one_in(4) => {
                let namespace = self.namespaces - 1;
                let appended = self.append(Record::Forget { namespace }, seen)?;
                assert!(matches!(appended, Appended::Written(_)), "{appended:?}");
                self.model.forget(namespace);
                self.namespaces += 1;
            }
            86..=88 => {
                let length = usize::try_from(self.random.below(200)).unwrap();
                let about: Vec<u8> = (0..length)
                    .map(|_| self.random.next().to_le_bytes()[0])
                    .collect();
                let namespace = place.namespace;
                let about = &about[..];
                let appended = self.append(Record::Namespace { namespace, about }, seen)?;
                assert!(matches!(appended, Appended::Written(_)), "{appended:?}");
                self.model.about(namespace, about);
            }
            _ if self.random.one_in(6) => self.commit(seen)?,
            _ if self.random.one_in(2) => self.commit_in_parts(seen)?,
            _ => {}
        }
        Some(())
    }

    /// The end of the process, or of the host, and a new start.
    fn crash(&mut self, seen: &mut Seen) {
        let stats = self.log.stats();
        seen.cleaned += stats.cleaned;
        seen.copied += stats.copied_bytes;
        seen.crashes += 1;
        let kill = self.sync == LogSync::Process || self.random.one_in(3);
        let image = if kill {
            self.medium.after_kill()
        } else {
            self.medium.after_power_loss(&mut self.random)
        };
        self.medium = Arc::new(Lossy::with(image));
        let opened = open(&self.medium, &options(self.sync)).expect("a log");
        // A new log may have lost its first header.
        let begun = opened.report.begun;
        assert!(begun == Begun::Recovered || (begun == Begun::New && opened.report.pages == 0));
        seen.dropped += u64::from(opened.report.dropped_bytes > 0);
        seen.recovered_pages += opened.report.pages;
        self.model
            .check_and_adopt(&opened.log, &opened.report.namespaces);
        self.log = opened.log;
    }
}

fn run(seed: u64, sync: LogSync, width: u32, rounds: u64, seen: &mut Seen) {
    let mut run = Run::new(seed, sync, width);
    for _ in 0..rounds {
        let steps = 1 + run.random.below(500);
        if !run.random.one_in(4) {
            let limit = 1 + run.random.below(100);
            run.medium.stop_after(limit);
        }
        for _ in 0..steps {
            if run.step(seen).is_none() {
                break;
            }
        }
        run.log.self_check();
        run.crash(seen);
    }
}

#[test]
fn power_loss_at_any_step_loses_nothing_that_was_committed() {
    let seed = seed("power_loss_at_any_step_loses_nothing_that_was_committed");
    let mut seen = Seen::default();
    for (salt, width) in (0_u64..).zip([8, 40, 80, 400]) {
        run(seed.wrapping_add(salt), LogSync::Host, width, 60, &mut seen);
    }
    println!("{seen:?}");
    covered(&seen);
}

#[test]
fn kill_at_any_step_loses_nothing_that_was_committed() {
    let seed = seed("kill_at_any_step_loses_nothing_that_was_committed");
    let mut seen = Seen::default();
    for (salt, width) in (0_u64..).zip([8, 40, 80, 400]) {
        run(
            seed.wrapping_add(salt),
            LogSync::Process,
            width,
            60,
            &mut seen,
        );
    }
    println!("{seen:?}");
    covered(&seen);
}

fn covered(seen: &Seen) {
    assert!(
        seen.crashes >= 100 && seen.failed_jobs > 20 && seen.meanwhile > 0,
        "{seen:?}"
    );
    assert!(
        seen.stale > 0 && seen.full > 0 && seen.dropped > 0,
        "{seen:?}"
    );
    assert!(seen.cleaned > 100 && seen.copied > 0, "{seen:?}");
    assert!(seen.recovered_pages > 1000, "{seen:?}");
}
