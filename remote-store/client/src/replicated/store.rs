// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stores as the engine sees them: one array of slots.

use std::fmt;
use std::io;
use std::sync::Arc;

use tmem_pages::slots::{PoolEntry, SLOTS_MAX, ScanReport, SlotError, SlotHeader};
use tmem_pages::{PageBytes, SlotStore, SlotWrite};

use super::error::{not_read, not_written};
use super::local;
use super::session::Session;
use super::volatile::Volatile;
use crate::connect::Connector;
use crate::metrics::MetricsSnapshot;
use crate::shared::Shared;
use crate::table::Counts;

/// Pages on other hosts, several copies of each.
///
/// The methods of [`SlotStore`] make the calling thread wait, and must not be called from async code;
/// that uses a [session](Self::session).
pub struct Replicated<C: Connector> {
    pub(crate) shared: Arc<Shared<C>>,
}

impl<C: Connector> fmt::Debug for Replicated<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicated")
            .field("table", &self.shared.table)
            .finish_non_exhaustive()
    }
}

impl<C: Connector> Drop for Replicated<C> {
    fn drop(&mut self) {
        // Threads drop their sessions the next time that they make one.
        self.shared.close();
    }
}

impl<C: Connector> Replicated<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>) -> Self {
        Self { shared }
    }

    /// A session for one task of the caller's own runtime.
    #[must_use]
    pub fn session(&self, salt: u64) -> Session<C> {
        Session::new(Arc::clone(&self.shared), salt)
    }

    /// These slots hold no page any more. Waits for nothing: the stores are told in the background.
    pub fn invalidate_slots(&self, slots: &[u32]) {
        self.shared.forget(slots.iter().copied());
    }

    /// The pages that may vanish, if the settings have indices for them.
    #[must_use]
    pub fn volatile(&self) -> Option<Volatile<C>> {
        let shared = Arc::clone(&self.shared);
        (shared.settings.ephemeral_indexes > 0).then(|| Volatile::new(shared))
    }

    /// What was counted so far.
    #[must_use]
    pub fn metrics(&self) -> MetricsSnapshot {
        self.shared.metrics.snapshot()
    }

    /// How many pages have how many copies.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.table.counts(self.shared.settings.replicas)
    }

    /// Members that have a copy of a slot's page: a mask of their numbers, empty if it is lost.
    #[must_use]
    pub fn copies(&self, slot: u32) -> Option<u64> {
        self.shared.table.copies(slot)
    }

    /// The epoch of the process that has taken over this namespace, if one has.
    #[must_use]
    pub fn fenced_by(&self) -> Option<u64> {
        self.shared.fenced_by()
    }
}

fn no_runtime(doing: &'static str, pages: usize) -> impl FnOnce(io::Error) -> SlotError {
    move |error| SlotError::Elsewhere {
        doing,
        pages,
        why: format!("this thread cannot wait for answers: {error}"),
    }
}

impl<C: Connector> SlotStore for Replicated<C> {
    fn id(&self) -> [u8; 16] {
        self.shared.table.id()
    }

    fn slots(&self) -> u32 {
        self.shared.table.slots()
    }

    fn write(&self, batch: &[SlotWrite<'_>]) -> Result<(), SlotError> {
        if batch.is_empty() {
            return Ok(());
        }
        let written = local::wait(&self.shared, async |session| session.write(batch).await);
        match written.map_err(no_runtime("write", batch.len()))? {
            Ok(_) => Ok(()),
            Err(error) => Err(not_written(batch.len(), &error)),
        }
    }

    fn read(&self, slot: u32, checksum: u32, page: &mut PageBytes) -> Result<(), SlotError> {
        let read = local::wait(&self.shared, async |session| {
            session.read(slot, Some(checksum), page).await
        });
        read.map_err(no_runtime("read", 1))?
            .map_err(|error| not_read(&error))
    }

    fn will_read(&self, slots: &[(u32, u32)]) {
        // Without it the reads go one by one.
        let _ = local::wait(&self.shared, async |session| session.will_read(slots));
    }

    fn is_far(&self) -> bool {
        true
    }

    fn header(&self, slot: u32) -> Result<Option<SlotHeader>, SlotError> {
        self.shared.table.header(slot)
    }

    fn invalidate(&self, slots: &[u32]) -> Result<(), SlotError> {
        self.invalidate_slots(slots);
        Ok(())
    }

    fn wants_to_forget(&self) -> bool {
        true
    }

    fn outlives_the_map(&self) -> bool {
        // Without the map nobody knows what is where, and the table goes with it.
        false
    }

    fn resize(&self, slots: u32) -> Result<(), SlotError> {
        if !(1..=SLOTS_MAX).contains(&slots) {
            return Err(SlotError::BadSlots { slots });
        }
        let tail = slots..self.slots();
        if let Some(slot) = tail.clone().find(|slot| self.copies(*slot).is_some()) {
            return Err(SlotError::NotEmpty { slot });
        }
        self.shared.table.set_slots(slots);
        Ok(())
    }

    fn put_pool(&self, _pool_slot: u32, _entry: &PoolEntry) -> Result<(), SlotError> {
        Ok(())
    }

    fn drop_pool(&self, _pool_slot: u32) -> Result<(), SlotError> {
        Ok(())
    }

    fn last_serial(&self, _pool_slot: u32) -> Option<u32> {
        None
    }

    fn pools(&self) -> Vec<(u32, PoolEntry)> {
        Vec::new()
    }

    fn scan(&self, _found: &mut dyn FnMut(u32, SlotHeader)) -> Result<ScanReport, SlotError> {
        Ok(ScanReport::default())
    }

    fn mode(&self) -> &'static str {
        "stores"
    }
}
