// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compares what a store has with what the table says of it, in both directions.
//!
//! Writes and copies go on meanwhile. What a store lists and the table does not name is flushed only if
//! it is older than every write under way and no copy of it is on its way there: the table would name
//! it in a moment. What the table names and the store does not list is struck off: at once if the store
//! is not trusted yet, because then nothing new goes there; otherwise only if the slot did not change
//! since before the list was made.

use std::ops::Range;

use tmem_remote_protocol::LIST_MAX;

use super::hands::Hands;
use super::pipe::{Answer, Job};
use crate::connect::Connector;
use crate::control::MemberNo;
use crate::shared::Flush;

/// Slots that are looked at before others get a turn.
const STEP: u32 = 1 << 14;
/// Slots of the disk that are looked at before others get a turn: each is a read of the file.
const DISK_STEP: u32 = 256;

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) cleared: u64,
    pub(super) flushed: u64,
}

/// Slots with their generations, in order, and where the list goes on.
type Part = (Vec<(u32, u64)>, Option<u32>);

/// A part of a store's list, with what was known before it was made.
struct Listed<'a> {
    slots: Range<u32>,
    pages: &'a [(u32, u64)],
    /// Generations below this are of writes that were over.
    settled: u64,
    /// The table's versions before, if they matter.
    versions: Option<Vec<u64>>,
}

impl<C: Connector> Hands<C> {
    pub(super) async fn reconcile(&self, member: MemberNo, trusted: bool) -> Result<Found, String> {
        let mut found = Found::default();
        let mut from = 0;
        loop {
            let settled = self.shared.settled_below();
            let versions = trusted.then(|| self.shared.table.versions());
            let (pages, next) = self.list(member, from).await?;
            let end = next.unwrap_or(u32::MAX);
            if end <= from {
                return Err("its list does not go on".into());
            }
            let listed = Listed {
                slots: from..end,
                pages: &pages,
                settled,
                versions,
            };
            self.compare(member, &listed, &mut found).await;
            match next {
                Some(next) => from = next,
                None => return Ok(found),
            }
        }
    }

    /// What the store has from a slot on, and where its list goes on.
    async fn list(&self, member: MemberNo, from: u32) -> Result<Part, String> {
        if self.is_disk(member) {
            return self.list_disk(from);
        }
        let job = Job::List {
            from,
            most: LIST_MAX,
        };
        match self.ask(member, job).await {
            Ok(Answer::Listed { pages, next, end }) => {
                let sorted = pages.is_sorted_by(|one, other| one.0 < other.0);
                let within = pages
                    .iter()
                    .all(|page| page.0 >= from && (end || page.0 < next));
                if !sorted || !within {
                    return Err("its list is not in order".into());
                }
                Ok((pages, (!end).then_some(next)))
            }
            Ok(_) => Err("it answered another question".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn list_disk(&self, from: u32) -> Result<Part, String> {
        let Some(disk) = &self.shared.disk else {
            return Err("there is no disk".into());
        };
        let end = from.saturating_add(DISK_STEP).min(disk.slots());
        let mut pages = Vec::new();
        for slot in from..end {
            match disk.look(slot) {
                Ok(Some(there)) => pages.push((slot, there.generation)),
                Ok(None) => {}
                // Its header is damaged: as good as none.
                Err(error) => tracing::warn!(slot, %error, "cannot tell what the disk has"),
            }
        }
        Ok((pages, (end < disk.slots()).then_some(end)))
    }

    async fn compare(&self, member: MemberNo, listed: &Listed<'_>, found: &mut Found) {
        let table = &self.shared.table;
        let mut pages = listed.pages.iter().peekable();
        let mut flushes = Vec::new();
        // Beyond the table there is nothing to strike off.
        let end = listed.slots.end.min(table.slots());
        let mut at = listed.slots.start;
        while at < end {
            let step = end.min(at.saturating_add(STEP));
            for slot in at..step {
                let there = pages.next_if(|page| page.0 == slot);
                let named = table
                    .copies(slot)
                    .is_some_and(|mask| mask & member.bit() != 0);
                match there {
                    Some(_) if named => {}
                    Some((_, generation))
                        if *generation >= listed.settled || self.is_copying(slot, member) => {}
                    Some((_, generation)) => flushes.push((slot, *generation)),
                    None if named => {
                        let still = |version| {
                            let before = listed.versions.as_ref();
                            before.is_none_or(|all| table.was(all, slot) == Some(version))
                        };
                        let removed = table.remove(slot, member.bit(), still);
                        found.cleared += u64::from(matches!(removed, Some((_, true))));
                    }
                    None => {}
                }
            }
            at = step;
            // On the driver's thread there is more to do.
            tokio::task::yield_now().await;
        }
        flushes.extend(pages.filter(|page| page.0 >= table.slots()).copied());
        found.flushed += flushes.len() as u64;
        let flushes: Vec<Flush> = (flushes.into_iter())
            .map(|(slot, generation)| Flush {
                slot,
                generation,
                members: member.bit(),
            })
            .collect();
        self.flush(&flushes);
    }
}
