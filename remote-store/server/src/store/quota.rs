// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How much a namespace may keep, and where the room for it comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::NamespaceError;
use super::{Namespace, Store};

/// A grant grows by this part of the capacity at a time, so that growing is rare.
const STRIDES: u64 = 256;
/// A grant grows by this many pages at least.
const STRIDE_MIN: u64 = 64;

/// Why a page was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is room now.
    Made,
    /// The namespace has all that it may have.
    OverQuota,
    /// The store has no room.
    Full,
}

impl Store {
    /// Pages that the store has room for, in memory and below.
    #[must_use]
    pub fn capacity_pages(&self) -> u64 {
        self.engine.promised_and_room().1
    }

    /// The quota of a namespace.
    pub(super) fn quota_of(&self, name: &str) -> Result<u64, NamespaceError> {
        let capacity = self.capacity_pages();
        let quotas = self.quotas.lock();
        let quota = match quotas.named.get(name) {
            Some(quota) => *quota,
            None if quotas.only_listed => {
                return Err(NamespaceError::Unlisted { name: name.into() });
            }
            None => quotas.others.unwrap_or(capacity),
        };
        Ok(quota.min(capacity))
    }

    /// Changes quotas. A namespace that has more keeps it, and can put no new page. One that is no
    /// longer listed can put none either.
    pub fn set_quotas(&self, named: BTreeMap<String, u64>, others: Option<u64>, only_listed: bool) {
        {
            let mut quotas = self.quotas.lock();
            quotas.named = named;
            quotas.others = others;
            quotas.only_listed = only_listed;
        }
        for namespace in self.namespaces() {
            let quota = self.quota_of(namespace.name()).unwrap_or(0);
            namespace.set_quota(quota);
            self.hold_to_quota(&namespace);
        }
    }

    /// Lowers a grant that is above its quota, as far as the pages that are there allow. As long as
    /// they are too many this has to be called before each put.
    #[cold]
    pub(crate) fn hold_to_quota(&self, namespace: &Namespace) {
        let _one = self.grants.lock();
        let quota = namespace.quota();
        if namespace.guest.grant_pages() > quota {
            let held = namespace.guest.stats().persistent_pages;
            // A put that comes between makes it fail; then the next one finds it as it is.
            let _ = namespace.guest.set_grant(quota.max(held));
        }
        namespace.set_over_quota(namespace.guest.grant_pages() > quota);
    }

    /// Makes room for a page of a namespace that the engine has refused.
    pub(crate) fn make_room(&self, namespace: &Arc<Namespace>) -> Room {
        let _one = self.grants.lock();
        let quota = namespace.quota();
        let grant = namespace.guest.grant_pages();
        let held = namespace.guest.stats().persistent_pages;
        if held < grant {
            // Another shard made room, or a frame is only now free.
            return Room::Made;
        }
        if grant >= quota {
            return Room::OverQuota;
        }
        if self.grow(namespace, grant, quota) {
            return Room::Made;
        }
        self.take_back_what_is_unused(namespace);
        if self.grow(namespace, grant, quota) {
            Room::Made
        } else {
            Room::Full
        }
    }

    fn grow(&self, namespace: &Namespace, grant: u64, quota: u64) -> bool {
        let (promised, room) = self.engine.promised_and_room();
        let stride = (room / STRIDES).max(STRIDE_MIN);
        let wanted = (grant + stride)
            .min(quota)
            .min(grant + room.saturating_sub(promised));
        wanted > grant && namespace.guest.set_grant(wanted).is_ok()
    }

    /// Grants follow what is held, down as well.
    fn take_back_what_is_unused(&self, but: &Arc<Namespace>) {
        for namespace in self.namespaces() {
            if Arc::ptr_eq(&namespace, but) {
                continue;
            }
            let held = namespace.guest.stats().persistent_pages;
            if namespace.guest.grant_pages() > held {
                // A put that comes between makes it fail, and then it is in use.
                let _ = namespace.guest.set_grant(held);
            }
        }
    }
}
