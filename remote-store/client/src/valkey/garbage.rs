// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that were flushed and still take room in the cluster.
//!
//! A flush is done when the slot's mark says so; the key goes later, in bulk, by UNLINK, and nobody
//! waits for a cluster that is down. What is never thrown away is bounded: a slot's key is overwritten
//! when the slot is used again, so there are never more keys than slots. When a store is opened, it
//! looks once through all keys of its namespace and removes those of slots that hold no page.
//!
//! An UNLINK must not come behind a SET of the slot's next page. Slots are taken off the list, and the
//! UNLINK sent, by who holds the node's one connection for writing, and a write takes its slots off the
//! list before it waits for that connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::{Cmd, Value, cmd};

use super::map::Address;
use super::node::{self, Answer};
use super::stats::Counters;
use super::turn::Mark;
use super::value;
use super::{ValkeyError, ValkeyStore};

/// Slots on the list before a flush throws them away itself.
const MANY: usize = 512;
/// Slots that are thrown away at a time, of each node.
const AT_ONCE: usize = 512;
/// Slots that the list remembers. Others wait for their slots' next use, or the next start.
const LIST_MAX: usize = 1 << 16;
/// How long the look through all keys may take when a store is opened.
const SWEEP_MAX: Duration = Duration::from_secs(30);
/// Keys that SCAN looks at, at a time.
const SCAN_COUNT: usize = 1000;

/// The list, by chunk: the keys of a chunk hash alike and go in one UNLINK.
#[derive(Debug, Default)]
pub(super) struct Garbage(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    chunks: BTreeMap<u32, BTreeSet<u32>>,
    len: usize,
}

impl Garbage {
    /// Notes slots that hold no page any more.
    pub(super) fn add(&self, slots: impl Iterator<Item = u32>, counters: &Counters) {
        let mut list = self.0.lock();
        for slot in slots {
            if list.len >= LIST_MAX {
                counters.garbage_left.add(1);
                continue;
            }
            let chunk = list.chunks.entry(value::chunk_of(slot)).or_default();
            if chunk.insert(slot) {
                list.len += 1;
            }
        }
    }

    /// Takes slots off the list that are about to be written.
    pub(super) fn reused(&self, slots: impl Iterator<Item = u32>) {
        let mut list = self.0.lock();
        for slot in slots {
            list.remove(slot);
        }
    }

    /// Whether there is so much that it should go.
    pub(super) fn is_much(&self) -> bool {
        self.0.lock().len >= MANY
    }

    fn is_none(&self) -> bool {
        self.0.lock().len == 0
    }

    /// Takes some slots off the list, those of chunks that `here` says are this node's.
    fn take(&self, here: impl Fn(u32) -> bool) -> BTreeMap<u32, BTreeSet<u32>> {
        let mut list = self.0.lock();
        let chunks: Vec<u32> = list
            .chunks
            .keys()
            .copied()
            .filter(|chunk| here(*chunk))
            .take(AT_ONCE)
            .collect();
        let mut taken = BTreeMap::new();
        let mut count = 0;
        for chunk in chunks {
            if count >= AT_ONCE {
                break;
            }
            if let Some(slots) = list.chunks.remove(&chunk) {
                count += slots.len();
                taken.insert(chunk, slots);
            }
        }
        list.len -= count;
        taken
    }
}

impl List {
    fn remove(&mut self, slot: u32) {
        let chunk = value::chunk_of(slot);
        let Some(slots) = self.chunks.get_mut(&chunk) else {
            return;
        };
        if slots.remove(&slot) {
            self.len -= 1;
        }
        if slots.is_empty() {
            self.chunks.remove(&chunk);
        }
    }
}

impl ValkeyStore {
    /// Throws away what is on the list, of all nodes whose connection for writing is there and idle.
    /// What fails stays in the cluster.
    pub(super) fn throw_away(&self) {
        if self.garbage.is_none() {
            return;
        }
        let map = self.cluster.map();
        for address in map.primaries() {
            let place = self.cluster.writer(address);
            let Some(mut writer) = place.try_lock() else {
                continue;
            };
            let Some(connection) = writer.current() else {
                continue;
            };
            let here = |chunk: u32| {
                let key = value::key(&self.namespace, chunk * value::CHUNK);
                map.primary(&key) == Some(address)
            };
            let mut packed = Vec::new();
            let chunks = self.garbage.take(here);
            let count: usize = chunks.values().map(BTreeSet::len).sum();
            for slots in chunks.values() {
                let keys = slots.iter().map(|slot| value::key(&self.namespace, *slot));
                packed.extend_from_slice(&unlink(keys).get_packed_command());
            }
            if count == 0 {
                continue;
            }
            let sent = connection.send_packed_command(&packed);
            let mut done = sent.map_err(ValkeyError::node(address));
            for _ in &chunks {
                done = done.and_then(|()| match node::receive(connection, address)? {
                    Answer::Value(_) => Ok(()),
                    // Moved, or not now: it waits for its slot's next use.
                    _ => {
                        self.cluster.counters.garbage_left.add(1);
                        Ok(())
                    }
                });
            }
            if done.is_err() {
                self.cluster.counters.garbage_left.add(count);
                writer.close();
            }
        }
    }

    /// Removes all keys of the namespace whose slot holds no page: what an earlier life of it, or a
    /// flush that did not reach the cluster, has left. For nobody else uses the store yet.
    pub(super) fn sweep(&self) -> Result<(), ValkeyError> {
        let until = Instant::now() + SWEEP_MAX;
        let map = self.cluster.map();
        for address in map.primaries() {
            self.sweep_node(address, until)?;
        }
        Ok(())
    }

    fn sweep_node(&self, address: &Address, until: Instant) -> Result<(), ValkeyError> {
        let mut connection = self.cluster.dialer.reader(address)?;
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg(value::keys_of(&self.namespace))
                .arg("COUNT")
                .arg(SCAN_COUNT);
            let answer = node::ask(&mut connection, address, &scan)?;
            let (next, keys) = match &answer {
                Answer::Value(Value::Array(parts)) => match parts.as_slice() {
                    [Value::BulkString(next), Value::Array(keys)] => (next.clone(), keys),
                    _ => return Err(node::unexpected(address, "SCAN", answer)),
                },
                _ => return Err(node::unexpected(address, "SCAN", answer)),
            };
            let mut chunks: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            for key in keys {
                let Value::BulkString(key) = key else {
                    continue;
                };
                if let Some(slot) = value::slot_of(&self.namespace, key)
                    && !self.holds(slot)
                {
                    let key = value::key(&self.namespace, slot);
                    chunks.entry(value::chunk_of(slot)).or_default().push(key);
                }
            }
            for keys in chunks.into_values() {
                node::ask(&mut connection, address, &unlink(keys.into_iter()))?;
            }
            if next == b"0" || Instant::now() >= until {
                return Ok(());
            }
            cursor = next;
        }
    }

    fn holds(&self, slot: u32) -> bool {
        self.check_slot(slot).is_ok() && matches!(Mark::read(self.memory.mark(slot)), Mark::Page(_))
    }
}

fn unlink(keys: impl Iterator<Item = String>) -> Cmd {
    let mut unlink = cmd("UNLINK");
    for key in keys {
        unlink.arg(key);
    }
    unlink
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_that_is_used_again_is_not_thrown_away() {
        let (garbage, counters) = (Garbage::default(), Counters::default());
        garbage.add([1, 2, 300, 2].into_iter(), &counters);
        assert_eq!(garbage.0.lock().len, 3);
        garbage.reused([2, 5].into_iter());
        assert_eq!(garbage.take(|chunk| chunk == 0), [(0, [1].into())].into());
        assert_eq!(garbage.take(|chunk| chunk == 0), BTreeMap::new());
        assert_eq!(garbage.take(|_| true), [(1, [300].into())].into());
        assert!(garbage.is_none());
    }

    #[test]
    fn list_has_an_end() {
        let (garbage, counters) = (Garbage::default(), Counters::default());
        let many = u32::try_from(LIST_MAX).unwrap() + 7;
        garbage.add(0..many, &counters);
        assert_eq!(garbage.0.lock().len, LIST_MAX);
        assert_eq!(counters.now().garbage_left, 7);
        assert!(garbage.is_much());
    }
}
