// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages in and out of the engine, with the answers of the wire: the only file that knows both.

use std::sync::Arc;

use tmem_pages::{
    CopyFault, FlushResult, GetResult, ObjectId, PageBytes, PageIndex, PageMark, PageSink, Pool,
    PutResult, Ticket, Worker,
};
use tmem_remote_protocol::{FlushEntry, GetEntry, ListedEntry, PutEntry, Status, pool};

use super::quota::Room;
use super::{Namespace, Store};

/// A page with what came with it.
pub(crate) struct Put<'a> {
    pub(crate) entry: &'a PutEntry,
    pub(crate) page: &'a PageBytes,
}

/// One namespace's pages, seen through one shard's worker.
pub(crate) struct Keeper<'a> {
    pub(crate) store: &'a Store,
    pub(crate) namespace: &'a Arc<Namespace>,
    pub(crate) worker: &'a mut Worker,
    pub(crate) shard: u16,
    /// The log must be safe up to this record before what was done is answered.
    pub(super) logged: u64,
}

/// The bytes of a page, on their way to a reply.
struct Leaving<'a, F>(&'a mut F);

impl<F: FnMut(&PageBytes)> PageSink for Leaving<'_, F> {
    #[inline]
    fn write_from(&mut self, page: &PageBytes) -> Result<(), CopyFault> {
        (self.0)(page);
        Ok(())
    }
}

impl<'a> Keeper<'a> {
    /// A namespace's pages, for one shard.
    pub(crate) fn new(
        store: &'a Store,
        namespace: &'a Arc<Namespace>,
        worker: &'a mut Worker,
        shard: u16,
    ) -> Self {
        Self {
            store,
            namespace,
            worker,
            shard,
            logged: 0,
        }
    }

    /// Up to where the log must be safe before what was done is answered.
    pub(crate) fn logged(&self) -> u64 {
        self.logged
    }

    /// Begins with requests. What they make the PM file forget is forgotten for good with
    /// [`end`](Self::end), all at once.
    pub(crate) fn begin(&mut self) {
        if self.store.forgets_durably() {
            self.worker.begin_request();
        }
    }

    /// From here on the requests may be answered.
    pub(crate) fn end(&mut self) {
        if self.store.forgets_durably() {
            self.worker.end_request();
        }
    }

    /// Page `nth` of these of the persistent pool is about to be put or got, then the others. Changes
    /// nothing but time.
    #[inline]
    pub(crate) fn look_ahead(&self, nth: usize, of: &[u32]) {
        let (Ok(nth), Ok(count)) = (u32::try_from(nth), u32::try_from(of.len())) else {
            return;
        };
        if nth < count
            && let Some(pool) = self.namespace.pool(pool::PERSISTENT)
        {
            let index = |nth: u32| PageIndex(of.get(nth as usize).copied().unwrap_or(0));
            self.worker.look_ahead(pool, (nth, count), index);
        }
    }

    /// Keeps a page.
    #[inline]
    pub(crate) fn put(&mut self, put: &Put<'_>) -> Status {
        match &self.store.journal {
            Some(journal) if put.entry.pool() == pool::PERSISTENT => self.put_logged(journal, put),
            _ => self.put_kept(put),
        }
    }

    /// Keeps a page in the engine.
    #[inline]
    pub(super) fn put_kept(&mut self, put: &Put<'_>) -> Status {
        let Some(pool) = self.namespace.pool(put.entry.pool()) else {
            return Status::Unsupported;
        };
        if self.namespace.is_over_quota() {
            self.store.hold_to_quota(self.namespace);
        }
        match self.try_put(pool, put) {
            PutResult::Stored | PutResult::SameFilled => Status::Ok,
            PutResult::Stale => Status::Stale,
            PutResult::RefusedFull => self.put_again(put),
            PutResult::RefusedFrozen => Status::Full,
            PutResult::BadIndex => Status::OutOfRange,
            PutResult::Fault => Status::Failed,
            PutResult::BadSum => {
                self.namespace.stripe(self.shard).bad_checksum();
                Status::BadChecksum
            }
        }
    }

    #[inline]
    fn try_put(&mut self, pool: &Pool, put: &Put<'_>) -> PutResult {
        let entry = put.entry;
        // The decoder lets no higher ones in.
        let ticket = Ticket::new(entry.generation()).unwrap_or(Ticket::MIN);
        let mark = PageMark {
            ticket,
            checksum: entry.crc(),
        };
        let index = PageIndex(entry.index());
        (self.worker).put_summed(pool, ObjectId::ZERO, index, mark, put.page)
    }

    /// Makes room for a page that was refused, and tries once more.
    #[cold]
    fn put_again(&mut self, put: &Put<'_>) -> Status {
        let stripe = self.namespace.stripe(self.shard);
        let refused = match self.store.make_room(self.namespace) {
            Room::Made => {
                let pool = self.namespace.pool(put.entry.pool());
                match pool.map(|pool| self.try_put(pool, put)) {
                    Some(PutResult::Stored | PutResult::SameFilled) => return Status::Ok,
                    Some(PutResult::Stale) => return Status::Stale,
                    _ => Room::Full,
                }
            }
            refused => refused,
        };
        if refused == Room::OverQuota {
            stripe.refused_by_quota();
            Status::OverQuota
        } else {
            stripe.refused_full();
            Status::Full
        }
    }

    /// Delivers a page to `take`, which is called once if the answer is a generation and a checksum.
    #[inline]
    pub(crate) fn get(
        &mut self,
        entry: &GetEntry,
        take: &mut impl FnMut(&PageBytes),
    ) -> Result<(u64, u32), Status> {
        let pool = self.namespace.pool(entry.pool());
        let pool = pool.ok_or(Status::Unsupported)?;
        let index = PageIndex(entry.index());
        let mut leaving = Leaving(take);
        let got = (self.worker).get_marked(pool, ObjectId::ZERO, index, &mut leaving);
        match got {
            (_, Some(mark)) => Ok((mark.ticket.get(), mark.checksum)),
            (GetResult::Miss, None) => Err(Status::Missing),
            (GetResult::Corrupt, None) => Err(Status::Damaged),
            (GetResult::BadIndex, None) => Err(Status::OutOfRange),
            (GetResult::Hit | GetResult::HitSameFilled | GetResult::Fault, None) => {
                Err(Status::Failed)
            }
        }
    }

    /// Forgets a page.
    #[inline]
    pub(crate) fn flush(&mut self, entry: &FlushEntry) -> Status {
        let status = self.flush_kept(entry);
        match &self.store.journal {
            Some(journal) if status == Status::Ok => {
                self.note_flush(journal, (entry.pool(), entry.index()), entry.generation())
            }
            _ => status,
        }
    }

    /// Forgets a page of the engine.
    #[inline]
    pub(super) fn flush_kept(&mut self, entry: &FlushEntry) -> Status {
        let Some(pool) = self.namespace.pool(entry.pool()) else {
            return Status::Unsupported;
        };
        let ticket = Ticket::new(entry.generation()).unwrap_or(Ticket::MIN);
        let index = PageIndex(entry.index());
        match (self.worker).flush_page(pool, ObjectId::ZERO, index, ticket) {
            FlushResult::Flushed => Status::Ok,
            FlushResult::Absent => Status::Missing,
            FlushResult::Stale => Status::Stale,
            FlushResult::BadIndex => Status::OutOfRange,
        }
    }

    /// Forgets all pages of a pool that are no newer than `generation`; says how many.
    pub(crate) fn flush_pool(&mut self, number: u32, generation: u64) -> Result<u64, Status> {
        let pool = self.namespace.pool(number).ok_or(Status::Unsupported)?;
        let ticket = Ticket::new(generation).unwrap_or(Ticket::MIN);
        let pages = self.worker.flush_pool(pool, ticket);
        if let Some(journal) = &self.store.journal {
            match self.note_flush_pool(journal, number, generation) {
                Status::Ok => {}
                status => return Err(status),
            }
        }
        Ok(pages)
    }

    /// Lists up to `most` pages of the persistent pool from an index on; says where to go on. Pages
    /// that may vanish are not worth a list.
    pub(crate) fn list(
        &mut self,
        pool: u32,
        from: u32,
        most: usize,
        found: &mut Vec<ListedEntry>,
    ) -> Option<u32> {
        let pool = self.namespace.pool(pool)?;
        let mut pages = Vec::with_capacity(most);
        let next = (self.worker).list(pool, PageIndex(from), most, &mut pages);
        let listed =
            |(index, ticket): &(PageIndex, Ticket)| ListedEntry::new(index.0, ticket.get());
        found.extend(pages.iter().map(listed));
        next.map(|PageIndex(next)| next)
    }
}
