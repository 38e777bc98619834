// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that may vanish: one copy, the newest or none, and no repair.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use tmem_pages::PageBytes;
use tmem_remote_protocol::{FlushEntry, GetEntry, PutEntry, Reply, Status, checksum as sum, pool};
use tokio::time::timeout;

use super::lanes::{Call, Start};
use super::local;
use super::session::Session;
use crate::connect::Connector;
use crate::control::MemberNo;
use crate::lane::LaneError;
use crate::shared::Shared;

/// A put that meets a change of who is up is tried again this often.
const TRIES: usize = 3;

impl<C: Connector> Session<C> {
    /// Keeps a page that may vanish. False if no store took it: then no older one comes back either.
    pub async fn volatile_put(&mut self, index: u32, page: &PageBytes) -> bool {
        let shared = Arc::clone(&self.shared);
        shared.metrics.total.volatile_puts.one();
        for _ in 0..TRIES {
            let Some((member, version)) = shared.owners.owner(index) else {
                break;
            };
            let Ok(generation) = shared.table.generations(1) else {
                break;
            };
            // A generation that was drawn after a change belongs to the stores after it.
            if !shared.owners.is_still(version) {
                continue;
            }
            shared.owners.doubt(index, generation);
            let entry = PutEntry::new(pool::EPHEMERAL, index, generation, sum(page));
            let mut status = Status::Failed;
            let done = self
                .volatile_call(
                    member,
                    &mut |lane| lane.start_put(&[entry], [Bytes::copy_from_slice(page)]),
                    &mut |reply| {
                        if let Reply::PutDone { statuses, .. } = reply {
                            status = statuses.first().copied().unwrap_or(Status::Failed);
                        }
                    },
                )
                .await;
            if done && status.is_ok() {
                shared.owners.trust(index, generation);
                return true;
            }
            return false;
        }
        // Nobody took it, and what may be somewhere is older.
        let _ = self.doubt_now(index);
        false
    }

    /// Gets a page that may have vanished: the one that was put last, or none.
    pub async fn volatile_get(&mut self, index: u32, page: &mut PageBytes) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut found = false;
        if let Some((member, _)) = shared.owners.owner(index) {
            let entry = GetEntry::new(pool::EPHEMERAL, index);
            let asked = self
                .volatile_call(member, &mut |lane| lane.start_get(&[entry]), &mut |reply| {
                    let Reply::GetDone { entries, pages, .. } = reply else {
                        return;
                    };
                    let (Some(entry), Some(bytes)) = (entries.first(), pages.first()) else {
                        return;
                    };
                    if entry.crc() == sum(bytes)
                        && shared.owners.counts(index, member, entry.generation())
                    {
                        page.copy_from_slice(bytes);
                        found = true;
                    }
                })
                .await;
            found &= asked;
        }
        let total = &shared.metrics.total;
        if found {
            total.volatile_hits.one();
        } else {
            total.volatile_misses.one();
        }
        found
    }

    /// Forgets pages that may vanish: none of them comes back.
    pub async fn volatile_flush(&mut self, indices: &[u32]) {
        for index in indices {
            let Some(generation) = self.doubt_now(*index) else {
                continue;
            };
            let Some((member, _)) = self.shared.owners.owner(*index) else {
                continue;
            };
            let entry = FlushEntry::new(pool::EPHEMERAL, *index, generation);
            let mut gone = false;
            let done = self
                .volatile_call(
                    member,
                    &mut |lane| lane.start_flush(&[entry]),
                    &mut |reply| {
                        if let Reply::FlushDone { statuses, .. } = reply {
                            let status = statuses.first().copied();
                            gone = matches!(status, Some(Status::Ok | Status::Missing));
                        }
                    },
                )
                .await;
            if done && gone {
                self.shared.owners.trust(*index, generation);
            }
        }
    }

    fn doubt_now(&self, index: u32) -> Option<u64> {
        let generation = self.shared.table.generations(1).ok()?;
        self.shared.owners.doubt(index, generation);
        Some(generation)
    }

    /// Asks one store, once. False if it did not answer.
    async fn volatile_call(
        &mut self,
        member: MemberNo,
        start: &mut Start<'_, C>,
        take: &mut dyn FnMut(Reply<'_>),
    ) -> bool {
        self.shared.refresh(&mut self.view);
        self.lanes.catch_up(&self.view, member);
        let limit = self.shared.settings.request_timeout;
        let mut call = Call::new(member);
        let answer = poll_fn(|cx| self.lanes.poll_call(cx, &self.view, &mut call, start, take));
        let error = match timeout(limit, answer).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error,
            Err(_) => LaneError::Timeout(limit),
        };
        self.lanes.fail(&self.view, member, &error);
        false
    }
}

/// Pages that may vanish, for threads that know nothing of async. Needs
/// [`ephemeral_indexes`](crate::Settings::ephemeral_indexes).
pub struct Volatile<C: Connector> {
    shared: Arc<Shared<C>>,
}

impl<C: Connector> fmt::Debug for Volatile<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volatile").finish_non_exhaustive()
    }
}

impl<C: Connector> Volatile<C> {
    pub(super) fn new(shared: Arc<Shared<C>>) -> Self {
        Self { shared }
    }

    /// Keeps a page. False if no store took it: then no older one comes back either.
    pub fn put(&self, index: u32, page: &PageBytes) -> bool {
        let done = local::wait(&self.shared, async |session| {
            session.volatile_put(index, page).await
        });
        done.unwrap_or_else(|_| {
            self.doubt(&[index]);
            false
        })
    }

    /// Gets the page that was put last, if it is still there.
    pub fn get(&self, index: u32, page: &mut PageBytes) -> bool {
        let done = local::wait(&self.shared, async |session| {
            session.volatile_get(index, page).await
        });
        done.unwrap_or(false)
    }

    /// Forgets pages.
    pub fn flush(&self, indices: &[u32]) {
        let done = local::wait(&self.shared, async |session| {
            session.volatile_flush(indices).await;
        });
        if done.is_err() {
            self.doubt(indices);
        }
    }

    /// Without a runtime: nothing that is older than now counts.
    fn doubt(&self, indices: &[u32]) {
        let generation = self.shared.table.last_generation() + 1;
        for index in indices {
            self.shared.owners.doubt(*index, generation);
        }
    }
}
