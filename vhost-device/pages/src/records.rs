// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guests and pools as the map keeps them. One store makes, and one ends, what a record stands for;
//! everything else in it is written before the one and read only between the two.

use std::sync::atomic::Ordering;

use crate::handle::{Epoch, PoolId};
use crate::kept::{Kept32, Kept64};
use crate::pool::{Layout, PoolKind, PoolSpec};

/// The longest guest name, in bytes.
pub const GUEST_NAME_MAX: usize = 64;

/// State of a record: it stands for nothing, and what it named is empty.
const FREE: u32 = 0;
/// State of a record: it stands for a guest or a pool.
const LIVE: u32 = 1;
/// State of a record: its guest or pool has ended, and is being cleared away.
const ENDING: u32 = 2;

/// What a record stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing.
    Free,
    /// A guest or a pool.
    Live,
    /// One that has ended, with things of it left.
    Ending,
}

fn state(word: &Kept32) -> State {
    match word.load(Ordering::Acquire) {
        FREE => State::Free,
        LIVE => State::Live,
        // Whatever else it says, it is none of ours, and there may be something to clear away.
        _ => State::Ending,
    }
}

/// A guest.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct GuestRecord {
    state: Kept32,
    /// Epochs so far; the last one is in `epochs[serial % 2]`. A pool made under another serial has
    /// ended, so that this one store ends a guest's pools all at once.
    serial: Kept32,
    name_len: Kept32,
    frozen: Kept32,
    grant: Kept64,
    _spare: Kept64,
    name: [Kept64; GUEST_NAME_MAX / 8],
    epochs: [[Kept64; 2]; 2],
}

impl GuestRecord {
    pub(crate) fn state(&self) -> State {
        state(&self.state)
    }

    /// Begins a guest. `name` is at most [`GUEST_NAME_MAX`] bytes long.
    pub(crate) fn begin(&self, name: &str, grant: u32) {
        let mut bytes = [0; GUEST_NAME_MAX];
        for (to, from) in bytes.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        for (to, from) in self.name.iter().zip(bytes.as_chunks().0) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
        let length = u32::try_from(name.len()).unwrap_or(0);
        self.name_len.store(length, Ordering::Relaxed);
        self.serial.store(0, Ordering::Relaxed);
        self.frozen.store(0, Ordering::Relaxed);
        self.set_grant(grant);
        self.state.store(LIVE, Ordering::Release);
    }

    /// The guest has ended; its pools with it.
    pub(crate) fn end(&self) {
        self.state.store(ENDING, Ordering::Release);
    }

    /// Nothing of it is left.
    pub(crate) fn clear(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    /// The name; nothing if the record is damaged.
    pub(crate) fn name(&self) -> Option<String> {
        let words = self.name.iter().map(|word| word.load(Ordering::Relaxed));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let length = self.name_len.load(Ordering::Relaxed) as usize;
        String::from_utf8(bytes.get(..length)?.to_vec()).ok()
    }

    /// The grant, in pages.
    pub(crate) fn grant(&self) -> u64 {
        self.grant.load(Ordering::Relaxed)
    }

    pub(crate) fn set_grant(&self, grant: u32) {
        self.grant.store(u64::from(grant), Ordering::Release);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.frozen.store(u32::from(frozen), Ordering::Release);
    }

    /// How many epochs there were: what the pools of this one are made under.
    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(Ordering::Acquire)
    }

    /// The epoch, if there was one.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        let serial = self.serial();
        let mut epoch = Epoch([0; 16]);
        let words = &self.epochs[serial as usize % 2];
        for (to, from) in epoch.0.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
        (serial > 0).then_some(epoch)
    }

    /// Begins an epoch; all pools end with this.
    pub(crate) fn begin_epoch(&self, epoch: Epoch) {
        // Even where it wraps, it must not come back to "no epoch", nor change its parity wrongly.
        let serial = match self.serial() {
            u32::MAX => 2,
            serial => serial + 1,
        };
        let words = &self.epochs[serial as usize % 2];
        for (to, from) in words.iter().zip(epoch.0.as_chunks().0) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
        self.serial.store(serial, Ordering::Release);
    }
}

const PERSISTENT: u32 = 0;
const EPHEMERAL: u32 = 1;
/// What `pages` says of a sparse pool; a dense one has at least one page.
const SPARSE: u32 = 0;

/// A pool. Its number is its slot, which names its guest, its owner record and its leaves too.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct PoolRecord {
    state: Kept32,
    /// Pools that this slot has had: tells one from the next.
    serial: Kept32,
    id: Kept32,
    kind: Kept32,
    pages: Kept32,
    /// The guest's serial when it was made.
    guest_serial: Kept32,
    _spare: Kept64,
}

impl PoolRecord {
    pub(crate) fn state(&self) -> State {
        state(&self.state)
    }

    /// Begins a pool in a free slot. Returns its serial.
    pub(crate) fn begin(&self, id: PoolId, spec: PoolSpec, guest_serial: u32) -> u32 {
        let serial = self.serial.load(Ordering::Relaxed).wrapping_add(1);
        self.serial.store(serial, Ordering::Relaxed);
        self.id.store(id.0, Ordering::Relaxed);
        let kind = match spec.kind {
            PoolKind::Persistent => PERSISTENT,
            PoolKind::Ephemeral => EPHEMERAL,
        };
        self.kind.store(kind, Ordering::Relaxed);
        let pages = match spec.layout {
            Layout::Dense { pages } => pages,
            Layout::Sparse => SPARSE,
        };
        self.pages.store(pages, Ordering::Relaxed);
        self.guest_serial.store(guest_serial, Ordering::Relaxed);
        self.state.store(LIVE, Ordering::Release);
        serial
    }

    /// As [`begin`](Self::begin), for a pool that had this serial in a map that is lost.
    pub(crate) fn begin_again(&self, id: PoolId, spec: PoolSpec, guest_serial: u32, serial: u32) {
        self.serial.store(serial.wrapping_sub(1), Ordering::Relaxed);
        let again = self.begin(id, spec, guest_serial);
        debug_assert_eq!(again, serial);
    }

    /// Has the next pool of this slot have a serial above this one. No pool is in it now, or one with a
    /// higher serial.
    pub(crate) fn raise_serial(&self, serial: u32) {
        if self.state() == State::Free && self.serial() < serial {
            self.serial.store(serial, Ordering::Relaxed);
        }
    }

    /// The pool has ended: none of its pages come back.
    pub(crate) fn end(&self) {
        self.state.store(ENDING, Ordering::Release);
    }

    /// Its leaves are empty, and no frame names it.
    pub(crate) fn clear(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    pub(crate) fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    pub(crate) fn id(&self) -> PoolId {
        PoolId(self.id.load(Ordering::Relaxed))
    }

    pub(crate) fn guest_serial(&self) -> u32 {
        self.guest_serial.load(Ordering::Relaxed)
    }

    /// The properties.
    pub(crate) fn spec(&self) -> PoolSpec {
        PoolSpec {
            kind: match self.kind.load(Ordering::Relaxed) {
                PERSISTENT => PoolKind::Persistent,
                _ => PoolKind::Ephemeral,
            },
            layout: match self.pages.load(Ordering::Relaxed) {
                SPARSE => Layout::Sparse,
                pages => Layout::Dense { pages },
            },
        }
    }
}

/// What [`LimitsRecord`] keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptLimits {
    pub(crate) cap: u32,
    pub(crate) floor: u32,
    pub(crate) weight: u32,
    /// At most [`POLICY_NAME_MAX`] bytes, and not empty.
    pub(crate) policy: String,
    pub(crate) seed: u32,
}

/// The longest name of a policy, in bytes.
pub(crate) const POLICY_NAME_MAX: usize = 16;

/// What a guest may hold where, once somebody has said so. Each word counts by itself.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct LimitsRecord {
    cap: Kept32,
    floor: Kept32,
    weight: Kept32,
    seed: Kept32,
    policy: [Kept64; POLICY_NAME_MAX / 8],
}

impl LimitsRecord {
    /// Nothing was said of this guest.
    pub(crate) fn clear(&self) {
        self.policy[0].store(0, Ordering::Release);
    }

    pub(crate) fn set(&self, limits: &KeptLimits) {
        self.cap.store(limits.cap, Ordering::Relaxed);
        self.floor.store(limits.floor, Ordering::Relaxed);
        self.weight.store(limits.weight, Ordering::Relaxed);
        self.seed.store(limits.seed, Ordering::Relaxed);
        let mut name = [0; POLICY_NAME_MAX];
        for (to, from) in name.iter_mut().zip(limits.policy.bytes()) {
            *to = from;
        }
        for (to, from) in self.policy.iter().zip(name.as_chunks().0).rev() {
            to.store(u64::from_le_bytes(*from), Ordering::Release);
        }
    }

    /// What was said, if it was.
    pub(crate) fn get(&self) -> Option<KeptLimits> {
        let words = self.policy.iter().map(|word| word.load(Ordering::Acquire));
        let name: Vec<u8> = words
            .flat_map(u64::to_le_bytes)
            .take_while(|byte| *byte != 0)
            .collect();
        let policy = String::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty())?;
        Some(KeptLimits {
            cap: self.cap.load(Ordering::Relaxed),
            floor: self.floor.load(Ordering::Relaxed),
            weight: self.weight.load(Ordering::Relaxed),
            policy,
            seed: self.seed.load(Ordering::Relaxed),
        })
    }
}

/// A tier: how large it is now, and which store's slots the map speaks of.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct TierRecord {
    id: [Kept64; 2],
    bound: Kept32,
    /// Pages that it may hold, plus one; 0: nobody has said.
    limit: Kept32,
    /// Slots below this may have been used.
    high: Kept32,
    _spare32: Kept32,
    _spare: [Kept64; 4],
}

impl TierRecord {
    /// The store whose slots the map speaks of.
    pub(crate) fn store(&self) -> Option<[u8; 16]> {
        let mut id = [0; 16];
        for (to, from) in id.as_chunks_mut::<8>().0.iter_mut().zip(&self.id) {
            *to = from.load(Ordering::Relaxed).to_le_bytes();
        }
        (self.bound.load(Ordering::Acquire) == LIVE).then_some(id)
    }

    /// Binds the map to a store, of which it speaks nowhere yet.
    pub(crate) fn bind(&self, id: [u8; 16]) {
        self.bound.store(FREE, Ordering::Release);
        for (to, from) in self.id.iter().zip(id.as_chunks().0) {
            to.store(u64::from_le_bytes(*from), Ordering::Relaxed);
        }
        self.bound.store(LIVE, Ordering::Release);
    }

    /// Slots below this may have been used.
    pub(crate) fn high(&self) -> u32 {
        self.high.load(Ordering::Acquire)
    }

    /// Notes that slots below this may be used from now on.
    pub(crate) fn raise_high(&self, slots: u32) {
        if self.high() < slots {
            self.high.store(slots, Ordering::Release);
        }
    }

    /// Pages that the tier may hold, if somebody has said so.
    pub(crate) fn limit(&self) -> Option<u32> {
        self.limit.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(crate) fn set_limit(&self, pages: u32) {
        self.limit.store(pages.saturating_add(1), Ordering::Release);
    }
}

const _: () = assert!(size_of::<LimitsRecord>() == 32 && size_of::<TierRecord>() == 64);
const _: () = assert!(size_of::<GuestRecord>() == 128 && size_of::<PoolRecord>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_record_says_what_was_written() {
        let record = GuestRecord::default();
        assert_eq!(record.state(), State::Free);
        let name = "é".repeat(GUEST_NAME_MAX / 2);
        record.begin(&name, 77);
        assert_eq!(record.name().as_deref(), Some(name.as_str()));
        assert_eq!((record.grant(), record.epoch()), (77, None));
        for number in 1..5 {
            record.begin_epoch(Epoch([number; 16]));
            assert_eq!(record.epoch(), Some(Epoch([number; 16])));
            assert_eq!(record.serial(), u32::from(number));
        }
        record.end();
        assert_eq!(record.state(), State::Ending);
        record.clear();
        record.begin("b", 0);
        assert_eq!(record.epoch(), None);
    }

    #[test]
    fn pool_record_tells_one_pool_of_a_slot_from_the_next() {
        let record = PoolRecord::default();
        let dense = PoolSpec {
            kind: PoolKind::Persistent,
            layout: Layout::Dense { pages: 9 },
        };
        let sparse = PoolSpec {
            kind: PoolKind::Ephemeral,
            layout: Layout::Sparse,
        };
        let first = record.begin(PoolId(3), dense, 4);
        assert_eq!((record.id(), record.spec()), (PoolId(3), dense));
        assert_eq!(record.guest_serial(), 4);
        record.end();
        record.clear();
        assert_ne!(record.begin(PoolId(3), sparse, 4), first);
        assert_eq!(record.spec(), sparse);
    }
}
