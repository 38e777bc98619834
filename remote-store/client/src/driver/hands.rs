// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the driver's tasks work with: pipes to stores, the disk, and where to tell what happened.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tmem_pages::{PAGE_SIZE, PageBytes};
use tmem_remote_protocol::{FlushEntry, PutEntry, Status, checksum as sum, pool};
use tokio::sync::mpsc;

use super::pipe::{Answer, Job, Pipe};
use crate::connect::Connector;
use crate::control::{Event, Kind, MemberNo};
use crate::disk::DiskError;
use crate::lane::LaneError;
use crate::shared::{Flush, Note, Shared};

/// Pages of one flush: what every store takes.
const FLUSH_PAGES: usize = 64;

/// A page as a member has it, compared with its own checksum.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    pub(super) generation: u64,
    pub(super) checksum: u32,
    pub(super) page: Bytes,
}

/// Why there is no page.
#[derive(Clone, Debug)]
pub(super) enum NoPage {
    /// The member says that it has none, or that it is damaged there.
    Bad,
    /// What came is not what left.
    Garbled,
    /// It did not answer.
    Unreachable,
}

/// Why a page was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    Full,
    Failed,
}

/// One for all tasks of a driver.
pub(super) struct Hands<C: Connector> {
    pub(super) shared: Arc<Shared<C>>,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pipes: RefCell<BTreeMap<MemberNo, Pipe>>,
    /// Copies on their way: slots and where to. Their bits are not set yet.
    copying: RefCell<BTreeMap<(u32, MemberNo), u32>>,
    /// Held pages that a task looks after.
    late: RefCell<BTreeSet<u32>>,
}

impl<C: Connector> Hands<C> {
    pub(super) fn new(shared: Arc<Shared<C>>, events: mpsc::UnboundedSender<Event>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            events,
            pipes: RefCell::default(),
            copying: RefCell::default(),
            late: RefCell::default(),
        })
    }

    /// Tells the core.
    pub(super) fn tell(&self, event: Event) {
        // The driver outlives its tasks.
        let _ = self.events.send(event);
    }

    /// The member is gone: so is the connection to it.
    pub(super) fn forget(&self, member: MemberNo) {
        self.pipes.borrow_mut().remove(&member);
    }

    pub(super) fn is_disk(&self, member: MemberNo) -> bool {
        let view = self.shared.view();
        view.member(member)
            .is_some_and(|known| known.kind == Kind::Disk)
    }

    /// Asks a store.
    pub(super) async fn ask(&self, member: MemberNo, job: Job) -> Result<Answer, LaneError> {
        let answer = self.put_in(member, job)?;
        answer.await.unwrap_or(Err(LaneError::Closed))
    }

    /// Asks a store and does not wait for the answer.
    fn put_in(
        &self,
        member: MemberNo,
        job: Job,
    ) -> Result<tokio::sync::oneshot::Receiver<Result<Answer, LaneError>>, LaneError> {
        let view = self.shared.view();
        let known = view.member(member).ok_or(LaneError::Unknown)?;
        let mut pipes = self.pipes.borrow_mut();
        let usable =
            |pipe: &Pipe| !pipe.is_over() && pipe.address.as_ref() == known.address.as_ref();
        if !pipes.get(&member).is_some_and(usable) {
            pipes.insert(member, Pipe::new(&self.shared, member, &known.address));
        }
        let pipe = pipes.get(&member).ok_or(LaneError::Unknown)?;
        Ok(pipe.put_in(job))
    }

    /// Reads a copy.
    pub(super) async fn get(&self, member: MemberNo, slot: u32) -> Result<Copied, NoPage> {
        if self.is_disk(member) {
            return self.get_from_disk(slot);
        }
        match self.ask(member, Job::Get(slot)).await {
            Ok(Answer::Page {
                status: Status::Ok,
                generation,
                checksum,
                page,
            }) => {
                let whole = page_of(&page).is_some_and(|page| sum(page) == checksum);
                whole
                    .then_some(Copied {
                        generation,
                        checksum,
                        page,
                    })
                    .ok_or(NoPage::Garbled)
            }
            Ok(Answer::Page {
                status: Status::Missing | Status::Damaged,
                ..
            }) => Err(NoPage::Bad),
            _ => Err(NoPage::Unreachable),
        }
    }

    fn get_from_disk(&self, slot: u32) -> Result<Copied, NoPage> {
        let disk = self.shared.disk.as_ref().ok_or(NoPage::Unreachable)?;
        let mut page: PageBytes = [0; PAGE_SIZE];
        match disk.read(slot, &mut page) {
            Ok(there) => Ok(Copied {
                generation: there.generation,
                checksum: there.checksum,
                page: Bytes::copy_from_slice(&page),
            }),
            Err(DiskError::Missing | DiskError::Damaged) => Err(NoPage::Bad),
            Err(DiskError::Failed(_)) => Err(NoPage::Unreachable),
        }
    }

    /// Brings a copy.
    pub(super) async fn put(
        &self,
        member: MemberNo,
        slot: u32,
        copied: &Copied,
    ) -> Result<(), NotTaken> {
        if self.is_disk(member) {
            let (disk, page) = (self.shared.disk.as_ref(), page_of(&copied.page));
            let (disk, page) = disk.zip(page).ok_or(NotTaken::Failed)?;
            return match disk.write(&[(slot, copied.generation, copied.checksum, page)]) {
                Ok(()) => Ok(()),
                Err(DiskError::Failed(error)) if error.is_full() => Err(NotTaken::Full),
                Err(_) => Err(NotTaken::Failed),
            };
        }
        let entry = PutEntry::new(pool::PERSISTENT, slot, copied.generation, copied.checksum);
        match self.ask(member, Job::Put(entry, copied.page.clone())).await {
            Ok(Answer::Put(Status::Ok)) => Ok(()),
            Ok(Answer::Put(Status::Full | Status::OverQuota)) => Err(NotTaken::Full),
            _ => Err(NotTaken::Failed),
        }
    }

    /// Has copies flushed that nobody names, in the background. What is not reached is found when the
    /// store is reconciled.
    ///
    /// A copy that is named by now, or will be in a moment, is the page that it should be, put there
    /// again: it may have the very generation that is to be flushed.
    pub(super) fn flush(&self, flushes: &[Flush]) {
        let view = self.shared.view();
        let members = flushes.iter().fold(0, |all, flush| all | flush.members);
        for member in MemberNo::all_in(members) {
            let own = flushes.iter().filter(|flush| {
                if flush.members & member.bit() == 0 {
                    return false;
                }
                let mask = self.shared.table.copies(flush.slot).unwrap_or(0);
                let spared = mask & member.bit() != 0 || self.is_copying(flush.slot, member);
                if spared {
                    // If it was not that page after all, it is found there.
                    self.shared.note(Note::Sweep(member));
                }
                !spared
            });
            if self.is_disk(member) {
                let Some(disk) = &self.shared.disk else {
                    continue;
                };
                for flush in own {
                    // Found again when the disk is compared with the table.
                    let _ = disk.flush(flush.slot, flush.generation);
                }
                continue;
            }
            if view.good() & member.bit() == 0 && !self.has_pipe(member) {
                continue;
            }
            let entries: Vec<FlushEntry> = own
                .map(|flush| FlushEntry::new(pool::PERSISTENT, flush.slot, flush.generation))
                .collect();
            let store = self.shared.metrics.store(member.index());
            store.flushes.add(entries.len() as u64);
            for part in entries.chunks(FLUSH_PAGES) {
                // A store that is not reached is reconciled when it is.
                let _ = self.put_in(member, Job::Flush(part.to_vec()));
            }
        }
    }

    fn has_pipe(&self, member: MemberNo) -> bool {
        (self.pipes.borrow().get(&member)).is_some_and(|pipe| !pipe.is_over())
    }

    /// A copy is on its way until the guard goes.
    pub(super) fn begin_copying(&self, slot: u32, member: MemberNo) -> Copying<'_> {
        *self.copying.borrow_mut().entry((slot, member)).or_default() += 1;
        Copying {
            of: &self.copying,
            key: (slot, member),
        }
    }

    pub(super) fn is_copying(&self, slot: u32, member: MemberNo) -> bool {
        self.copying.borrow().contains_key(&(slot, member))
    }

    /// A task begins to look after a held page. False if one does already.
    pub(super) fn begin_late(&self, slot: u32) -> bool {
        self.late.borrow_mut().insert(slot)
    }

    pub(super) fn end_late(&self, slot: u32) {
        self.late.borrow_mut().remove(&slot);
    }
}

/// A copy on its way.
pub(super) struct Copying<'a> {
    of: &'a RefCell<BTreeMap<(u32, MemberNo), u32>>,
    key: (u32, MemberNo),
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        let mut copying = self.of.borrow_mut();
        if let Some(count) = copying.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                copying.remove(&self.key);
            }
        }
    }
}

/// The bytes of a page, if they are as many.
pub(super) fn page_of(bytes: &Bytes) -> Option<&PageBytes> {
    bytes.as_ref().try_into().ok()
}
