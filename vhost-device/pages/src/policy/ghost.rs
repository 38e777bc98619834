// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The ghost of s3-fifo: which pages left lately, at one byte a member.
//!
//! The paper keeps a queue of names. Here a page's hash chooses one of the buckets, one for every
//! eight members, and leaves a fingerprint of twelve bits there. A bucket is a `u64`: five
//! fingerprints, the newest in the lowest bits; to add one is to shift the oldest out. So each bucket
//! is first in, first out, and all of them together nearly are: a page is remembered until five more
//! came to its bucket. A page that never left is taken for one that did in at most 5 of 4095 cases.
//!
//! A byte a member buys five fingerprints of twelve bits for eight members, or seven of nine bits.
//! The latter are nearer to the paper's length (nine for ten members), but then one new page in
//! seventy is taken for an old one and starts in the main queue; simulated, that costs up to a tenth
//! of the hits of a small cache, while the shorter memory costs next to none.
//!
//! The number of buckets follows that of the members one by one (linear hashing): a bucket is added
//! by splitting one, which copies what it holds, since a fingerprint does not tell which of the two
//! it belongs to.

use super::mix;

/// Members for each bucket.
const MEMBERS: u64 = 8;
/// Bits of a fingerprint.
const BITS: u32 = 12;
/// Fingerprints of a bucket.
const WAYS: u32 = 5;
/// A bucket's bits.
const ALL: u64 = (1 << (BITS * WAYS)) - 1;
/// One in every fingerprint.
const ONES: u64 = ALL / ((1 << BITS) - 1);

/// What is known of pages that left.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    buckets: Vec<u64>,
}

/// A fingerprint, never 0: that is an empty place. Made of the bits that choose no bucket.
fn fingerprint(hash: u64) -> u64 {
    (hash >> (u64::BITS - BITS)).max(1)
}

fn add(bucket: u64, fingerprint: u64) -> u64 {
    (bucket << BITS | fingerprint) & ALL
}

/// Bits of `bucket` below the newest place that holds `fingerprint`.
fn find(bucket: u64, fingerprint: u64) -> Option<u32> {
    let differing = bucket ^ (fingerprint * ONES);
    // The lowest high bit that is set is that of the lowest place that is 0; those above may err.
    let zeroes = differing.wrapping_sub(ONES) & !differing & (ONES << (BITS - 1));
    (zeroes != 0).then(|| zeroes.trailing_zeros() / BITS * BITS)
}

/// The bucket that was split to make this one, which is not the first.
fn parent(bucket: usize) -> usize {
    bucket ^ 1 << bucket.ilog2()
}

/// The newest of both, by turns.
fn merge(one: u64, other: u64) -> u64 {
    let mask = (1 << BITS) - 1;
    (0..WAYS).fold(0, |merged, way| {
        let from = if way % 2 == 0 { one } else { other };
        merged | (from >> (way / 2 * BITS) & mask) << (way * BITS)
    })
}

impl Ghost {
    fn bucket(&mut self, hash: u64) -> Option<&mut u64> {
        let mask = self.buckets.len().next_power_of_two() as u64 - 1;
        let mut at = hash & mask;
        if at >= self.buckets.len() as u64 {
            at = hash & mask >> 1;
        }
        self.buckets.get_mut(usize::try_from(at).ok()?)
    }

    /// Makes room for what so many members deserve.
    pub(super) fn resize(&mut self, members: u64) {
        let wanted = members.div_ceil(MEMBERS).max(1);
        let Ok(wanted) = usize::try_from(wanted) else {
            return;
        };
        let now = self.buckets.len();
        if wanted > now {
            if wanted > self.buckets.capacity() {
                // Little slack, since it counts as much as what is used.
                self.buckets.reserve_exact(wanted - now + now / 64);
            }
            if now == 0 {
                self.buckets.push(0);
            }
            for new in self.buckets.len()..wanted {
                self.buckets.push(self.buckets[parent(new)]);
            }
        } else if wanted < now - now / 4 {
            while self.buckets.len() > wanted {
                if let Some(last) = self.buckets.pop() {
                    let into = parent(self.buckets.len());
                    self.buckets[into] = merge(self.buckets[into], last);
                }
            }
            self.buckets.shrink_to_fit();
        }
    }

    /// Remembers a page.
    pub(super) fn add(&mut self, page: u64) {
        let hash = mix(page);
        if let Some(bucket) = self.bucket(hash) {
            *bucket = add(*bucket, fingerprint(hash));
        }
    }

    /// Whether a page is remembered; it is not any more.
    pub(super) fn take(&mut self, page: u64) -> bool {
        let hash = mix(page);
        let Some(bucket) = self.bucket(hash) else {
            return false;
        };
        let Some(bits) = find(*bucket, fingerprint(hash)) else {
            return false;
        };
        let newer = *bucket & ((1 << bits) - 1);
        let older = *bucket >> (bits + BITS);
        *bucket = older << bits | newer;
        true
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(ghost: &mut Ghost, pages: std::ops::Range<u64>) -> usize {
        pages.filter(|page| ghost.take(*page)).count()
    }

    #[test]
    fn a_page_is_remembered_once() {
        let mut ghost = Ghost::default();
        assert!(!ghost.take(1));
        ghost.add(1);
        assert!(!ghost.take(1), "a ghost without room remembers nothing");
        ghost.resize(100);
        ghost.add(1);
        assert!(ghost.take(1));
        assert!(!ghost.take(1));
    }

    #[test]
    fn the_newest_pages_are_remembered_and_the_old_forgotten() {
        let mut ghost = Ghost::default();
        // 1024 buckets with 5120 fingerprints.
        ghost.resize(8192);
        (0..100_000).for_each(|page| ghost.add(page));
        // In a bucket that one is followed by five of a thousand more: once in 280.
        let newest = known(&mut ghost, 99_000..100_000);
        assert!(newest > 980, "{newest}");
        // By five of 40,000 more: nearly always; then only a stranger's fingerprint is found.
        let old = known(&mut ghost, 40_000..50_000);
        assert!(old < 25, "{old}");
    }

    #[test]
    fn a_strangers_fingerprint_is_rarely_known() {
        let mut ghost = Ghost::default();
        ghost.resize(8192);
        (0..20_000).for_each(|page| ghost.add(page));
        let strangers = known(&mut ghost, 1_000_000..1_100_000);
        // At most 5 in 4095, 122 of these.
        assert!((60..160).contains(&strangers), "{strangers}");
    }

    #[test]
    fn a_ghost_that_grows_keeps_all_that_it_knows() {
        let mut ghost = Ghost::default();
        ghost.resize(100);
        (0..20).for_each(|page| ghost.add(page));
        let before = ghost.buckets.len();
        let mut copy = Ghost {
            buckets: ghost.buckets.clone(),
        };
        for members in [101, 110, 111, 350, 900, 899, 20_000] {
            ghost.resize(members);
        }
        assert_eq!((before, ghost.buckets.len()), (13, 2500));
        for page in 0..20 {
            assert_eq!(ghost.take(page), copy.take(page));
        }
    }

    #[test]
    fn a_ghost_that_shrinks_keeps_the_newest_of_what_it_knows() {
        let mut ghost = Ghost::default();
        ghost.resize(8192);
        (0..8192).for_each(|page| ghost.add(page));
        ghost.resize(7000);
        assert_eq!(ghost.bytes(), 8192, "not for so little");
        ghost.resize(4096);
        assert_eq!(ghost.bytes(), 4096);
        // Room for 2560: mostly the newest.
        let (newest, oldest) = (known(&mut ghost, 6192..8192), known(&mut ghost, 0..2000));
        assert!(newest > 5 * oldest && newest > 1200, "{newest} {oldest}");
    }

    #[test]
    fn taking_from_any_place_of_a_bucket_keeps_the_rest_in_order() {
        for at in 0..WAYS {
            let bucket = |ways: &mut dyn Iterator<Item = u64>| {
                ways.enumerate()
                    .fold(0, |bucket, (at, way)| bucket | way << (at * 12))
            };
            let mut ghost = Ghost {
                buckets: vec![bucket(&mut (1..=5))],
            };
            let taken = u64::from(at) + 1;
            let page = (0..).find(|page| fingerprint(mix(*page)) == taken);
            assert!(ghost.take(page.unwrap()));
            let rest = bucket(&mut (1..=5).filter(|way| *way != taken));
            assert_eq!(ghost.buckets[0], rest);
        }
    }

    #[test]
    fn two_buckets_merge_by_turns_from_the_newest() {
        let one = [1, 3, 5].into_iter().rev().fold(0, add);
        let other = [2, 4, 6].into_iter().rev().fold(0, add);
        let merged = [1, 2, 3, 4, 5].into_iter().rev().fold(0, add);
        assert_eq!(merge(one, other), merged);
    }
}
