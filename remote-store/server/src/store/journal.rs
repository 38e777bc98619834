// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a store uses its log: what is written there, under which number a namespace goes, and what is
//! done with what was found.
//!
//! What memory kept goes before the log: if the engine's files are whole, the log is only added to. If
//! they are not, or there are none, every page of the log is put into the empty engine again.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tmem_pages::PAGE_SIZE;
use tmem_remote_protocol::{PageBytes, PutEntry, Status, pool};

use super::error::StoreError;
use super::keep::{Keeper, Put};
use super::state::{Identity, State};
use super::{Namespace, Store};
use crate::log::{
    Appended, Begun, LogError, LogOptions, LogSync, PageLog, Place, Record, SharedLog,
};

/// Pages that are listed at a time.
const LIST_PAGES: usize = 1024;

/// The log's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Where it is.
    pub path: PathBuf,
    /// How long it is, in bytes.
    pub size: u64,
    /// What an acknowledged page outlives.
    pub sync: LogSync,
    /// If it is damaged, take what can be read.
    pub salvage: bool,
}

/// A log at work.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) log: Arc<SharedLog>,
    sync: LogSync,
    names: Mutex<Names>,
}

/// The numbers of namespaces in the log.
#[derive(Debug, Default)]
struct Names {
    numbers: BTreeMap<String, u32>,
    next: u32,
}

/// What a log was found to hold.
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) begun: Begun,
    /// Namespaces with their numbers and newest epochs.
    pub(super) namespaces: Vec<(u32, String, u64)>,
    next: u32,
    log: PageLog,
}

/// Opens a log.
///
/// `whole`: memory has kept everything, so the log has to be this store's and as new.
pub(super) fn open(config: &LogConfig, state: &State, whole: bool) -> Result<Found, StoreError> {
    let identity = state.identity();
    let options = LogOptions {
        size: config.size,
        sync: config.sync,
        store_id: identity.store_id,
        incarnation: identity.incarnation,
        boot: boot(config.sync, tmem_pages::slots::boot_id())?,
        salvage: config.salvage,
    };
    let opened = PageLog::open(&config.path, &options)?;
    let report = opened.report;
    tracing::info!(
        path = %config.path.display(),
        begun = ?report.begun,
        pages = report.pages,
        dropped_bytes = report.dropped_bytes,
        "log opened"
    );
    for what in &report.damage {
        tracing::error!(what, "the log is damaged");
    }
    let other = whole && report.store_id != identity.store_id;
    if report.begun == Begun::Recovered && (other || state.ran_without_log()) {
        return Err(StoreError::OtherLog {
            path: config.path.clone(),
        });
    }
    let named = report.namespaces.iter();
    let named = named.filter_map(|(number, about)| {
        let (epoch, name) = about.split_first_chunk::<8>()?;
        let name = std::str::from_utf8(name).ok()?;
        Some((*number, name.to_owned(), u64::from_le_bytes(*epoch)))
    });
    Ok(Found {
        identity: Identity {
            store_id: report.store_id,
            incarnation: report.incarnation,
        },
        begun: report.begun,
        namespaces: named.collect(),
        next: report.next_namespace,
        log: opened.log,
    })
}

/// The boot that a log is written in. One that outlives the host has no need of it.
fn boot(sync: LogSync, told: io::Result<[u8; 16]>) -> Result<[u8; 16], StoreError> {
    match (sync, told) {
        (_, Ok(boot)) => Ok(boot),
        (LogSync::Host, Err(_)) => Ok([0; 16]),
        (LogSync::Process, Err(source)) => Err(StoreError::BootUnknown { source }),
    }
}

impl Journal {
    /// The number of a namespace, which it gets if it has none.
    fn number(&self, name: &str) -> u32 {
        let mut names = self.names.lock();
        if let Some(number) = names.numbers.get(name) {
            return *number;
        }
        let number = names.next;
        names.next += 1;
        names.numbers.insert(name.to_owned(), number);
        number
    }

    /// What was acknowledged outlives the host.
    pub(crate) fn outlives_the_host(&self) -> bool {
        self.sync == LogSync::Host
    }

    /// Keeps a namespace's newest epoch. When this returns it is safe.
    pub(super) fn keep_epoch(&self, name: &str, epoch: u64) -> Result<(), LogError> {
        let about = [&epoch.to_le_bytes()[..], name.as_bytes()].concat();
        let namespace = self.number(name);
        let record = Record::Namespace {
            namespace,
            about: &about,
        };
        // There is always room for what is no page.
        let _appended = self.log.append(record)?;
        self.log.commit_now().map(|_| ())
    }

    /// The log has heard of a namespace.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.lock().numbers.contains_key(name)
    }

    /// Where a page is in the log; nothing for one that may vanish.
    fn place(&self, namespace: &Namespace, pool: u32, index: u32) -> Option<Place> {
        (pool == pool::PERSISTENT).then(|| Place {
            namespace: namespace.number_in_log(|| self.number(namespace.name())),
            pool,
            index,
        })
    }
}

impl Store {
    /// Takes a log into use: its pages come into the engine unless that is `whole`, and the engine's
    /// into a log that has begun empty.
    pub(super) fn adopt_log(
        &mut self,
        found: Found,
        sync: LogSync,
        whole: bool,
    ) -> Result<(), StoreError> {
        let mut names = Names {
            next: found.next,
            ..Names::default()
        };
        for (number, name, epoch) in &found.namespaces {
            names.numbers.insert(name.clone(), *number);
            self.state.lock().raise_epoch(name, *epoch);
        }
        if !whole {
            for (_, name, _) in &found.namespaces {
                let attached = self.attach(name);
                attached.map_err(|source| StoreError::Namespace {
                    name: name.clone(),
                    source,
                })?;
            }
            self.replay(&found)?;
        }
        self.journal = Some(Journal {
            log: SharedLog::new(found.log),
            sync,
            names: Mutex::new(names),
        });
        // A log that has begun empty has to learn what memory, or the PM file, kept.
        if found.begun != Begun::Recovered || !whole {
            self.write_down(found.begun == Begun::Recovered)?;
        }
        Ok(())
    }

    /// Puts every page of the log into the engine.
    fn replay(&self, found: &Found) -> Result<(), StoreError> {
        let mut of_number = BTreeMap::new();
        for (number, name, _) in &found.namespaces {
            if let Some(namespace) = self.namespaces.read().get(name) {
                // A quota that was lowered does not take pages away.
                namespace.set_quota(u64::MAX);
                of_number.insert(*number, Arc::clone(namespace));
            }
        }
        let mut worker = self.outside.lock();
        let mut left = 0_u64;
        let mut put = |place: Place, generation: u64, crc: u32, page: &PageBytes| {
            let Some(namespace) = of_number.get(&place.namespace) else {
                return;
            };
            let mut keeper = Keeper::new(self, namespace, &mut worker, 0);
            let entry = PutEntry::new(place.pool, place.index, generation, crc);
            let put = Put {
                entry: &entry,
                page,
            };
            let status = keeper.put_kept(&put);
            // A PM file may have kept it, or something newer.
            left += u64::from(!matches!(status, Status::Ok | Status::Stale));
        };
        found.log.each_page(&mut put)?;
        drop(worker);
        for namespace in of_number.values() {
            namespace.set_quota(self.quota_of(namespace.name()).unwrap_or(0));
            self.hold_to_quota(namespace);
        }
        if left > 0 {
            return Err(StoreError::LogTooLarge { pages: left });
        }
        Ok(())
    }

    /// Writes what the engine holds into the log: all of it, or, if the log has the newest of all that
    /// it has, what is missing there.
    fn write_down(&self, has_newest: bool) -> Result<(), StoreError> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        if has_newest && self.engine.tier(tmem_pages::Tier::Pm).is_none() {
            return Ok(());
        }
        let mut worker = self.outside.lock();
        for namespace in self.namespaces() {
            journal.keep_epoch(namespace.name(), namespace.newest())?;
            let mut from = Some(0);
            while let Some(next) = from {
                let mut listed = Vec::new();
                let mut keeper = Keeper::new(self, &namespace, &mut worker, 0);
                from = keeper.list(pool::PERSISTENT, next, LIST_PAGES, &mut listed);
                for entry in listed {
                    let mut page = [0; PAGE_SIZE];
                    let get = tmem_remote_protocol::GetEntry::new(pool::PERSISTENT, entry.index());
                    let got = keeper.get(&get, &mut |bytes| page = *bytes);
                    if let Ok((generation, crc)) = got {
                        let entry = PutEntry::new(pool::PERSISTENT, entry.index(), generation, crc);
                        let put = Put {
                            entry: &entry,
                            page: &page,
                        };
                        if journal.log.reserve(1)? == Appended::Full {
                            return Err(StoreError::LogTooSmall);
                        }
                        keeper.note_put(journal, &put);
                    }
                }
            }
        }
        journal.log.commit_now()?;
        Ok(())
    }
}

impl Keeper<'_> {
    /// Keeps a page in the engine and in the log.
    #[inline]
    pub(super) fn put_logged(&mut self, journal: &Journal, put: &Put<'_>) -> Status {
        match journal.log.reserve(1) {
            Ok(Appended::Full | Appended::Wait) => {
                self.namespace.stripe(self.shard).refused_full();
                self.forget(journal, put);
                return Status::Full;
            }
            Ok(Appended::Written(_) | Appended::Stale) => {}
            Err(_) => return Status::Failed,
        }
        let status = self.put_kept(put);
        if status == Status::Ok {
            return self.note_put(journal, put);
        }
        journal.log.release(1);
        if matches!(status, Status::Full | Status::OverQuota) {
            self.forget(journal, put);
        }
        status
    }

    /// Writes a page down for which room is reserved.
    pub(super) fn note_put(&mut self, journal: &Journal, put: &Put<'_>) -> Status {
        let (pool, index) = (put.entry.pool(), put.entry.index());
        let Some(place) = journal.place(self.namespace, pool, index) else {
            return Status::Unsupported;
        };
        self.note(&journal.log.append(Record::Put {
            place,
            generation: put.entry.generation(),
            crc: put.entry.crc(),
            page: put.page,
        }))
    }

    /// What was there before a put that is refused is gone.
    fn forget(&mut self, journal: &Journal, put: &Put<'_>) {
        let (pool, index) = (put.entry.pool(), put.entry.index());
        let generation = put.entry.generation();
        let entry = tmem_remote_protocol::FlushEntry::new(pool, index, generation);
        self.flush_kept(&entry);
        if let Some(place) = journal.place(self.namespace, pool, index) {
            // If that fails, so does every put from here on.
            let _failed = self.note(&journal.log.append(Record::Flush { place, generation }));
        }
    }

    /// Writes a flush down.
    pub(super) fn note_flush(
        &mut self,
        journal: &Journal,
        (pool, index): (u32, u32),
        generation: u64,
    ) -> Status {
        match journal.place(self.namespace, pool, index) {
            Some(place) => self.note(&journal.log.append(Record::Flush { place, generation })),
            None => Status::Ok,
        }
    }

    /// Writes the flush of a pool down.
    pub(super) fn note_flush_pool(
        &mut self,
        journal: &Journal,
        pool: u32,
        generation: u64,
    ) -> Status {
        match journal.place(self.namespace, pool, 0) {
            Some(place) => self.note(&journal.log.append(Record::FlushPool {
                namespace: place.namespace,
                pool,
                generation,
            })),
            None => Status::Ok,
        }
    }

    /// Remembers up to where the log must be safe before this is answered.
    fn note(&mut self, appended: &Result<Appended, LogError>) -> Status {
        match appended {
            Ok(Appended::Written(record)) => {
                self.logged = self.logged.max(*record);
                Status::Ok
            }
            // Another shard was faster with something newer.
            Ok(Appended::Stale) => Status::Ok,
            Ok(Appended::Full | Appended::Wait) | Err(_) => Status::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_for_the_process_alone_is_not_opened_in_a_boot_that_nobody_knows() {
        let unread = || Err(io::ErrorKind::NotFound.into());
        let error = boot(LogSync::Process, unread()).unwrap_err();
        assert!(matches!(error, StoreError::BootUnknown { .. }), "{error}");
        assert_eq!(boot(LogSync::Host, unread()).unwrap(), [0; 16]);
        assert_eq!(boot(LogSync::Process, Ok([7; 16])).unwrap(), [7; 16]);
    }
}
