// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading: from the primary alone, and twice before a page is called lost.
//!
//! A page is lost when a primary has none, or an older one, and another node of the cluster still calls
//! it the primary. A single answer does not say so: a primary that was replaced while it was frozen
//! answers from what it had until it hears of its successor.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Instant;

use redis::{Cmd, Value, cmd};
use tmem_pages::PageBytes;

use super::map::Address;
use super::node::Answer;
use super::turn::{Mark, Turn};
use super::value::{self, Wrong};
use super::{ValkeyError, ValkeyStore};

/// Most pages that a thread asks for ahead.
const AHEAD_MAX: usize = 256;
/// Redirections that are followed at once; before more of them it waits.
pub(super) const HOPS_MAX: u32 = 4;

/// A value that a thread has asked for ahead of reading it.
struct Ahead {
    store: u64,
    slot: u32,
    value: Vec<u8>,
}

thread_local! {
    static AHEAD: RefCell<Vec<Ahead>> = const { RefCell::new(Vec::new()) };
}

/// What a primary says of a page, if it says anything.
enum Found {
    Page,
    Wrong(&'static str),
    Elsewhere(Option<(Address, bool)>),
    Nothing(String),
}

impl ValkeyStore {
    /// Reads a slot's page, which has this CRC-32.
    ///
    /// # Errors
    /// [`ValkeyError::Lost`] if the cluster has not what was written last; others if it does not say.
    pub fn read_page(
        &self,
        slot: u32,
        checksum: u32,
        page: &mut PageBytes,
    ) -> Result<(), ValkeyError> {
        let turn = self.turn(slot)?;
        if self.take_ahead(slot, turn, checksum, page) {
            self.cluster.counters.read.add(1);
            return Ok(());
        }
        let key = value::key(&self.namespace, slot);
        let begun = Instant::now();
        let deadline = begun + self.deadline;
        let mut next: Option<(Address, bool)> = None;
        let mut hops = 0_u32;
        let mut doubted: Option<Address> = None;
        let mut last = "no node is its primary".to_owned();
        while Instant::now() < deadline {
            let map = self.cluster.map();
            let asks_first = next.as_ref().is_some_and(|(_, asks_first)| *asks_first);
            let target = next.take().map(|(address, _)| address);
            let Some(node) = target.or_else(|| map.primary(&key).cloned()) else {
                self.cluster.pause(&map, None, deadline);
                continue;
            };
            let found = match self.get(&node, &key, asks_first) {
                Ok(Answer::Value(found)) => self.judge(&found, slot, turn, checksum, page),
                Ok(Answer::Moved(to)) => Found::Elsewhere(to.map(|to| (to, false))),
                Ok(Answer::Ask(to)) => Found::Elsewhere(to.map(|to| (to, true))),
                Ok(Answer::Later(why)) => Found::Nothing(why),
                Ok(Answer::Refused { code, detail }) => {
                    return Err(ValkeyError::Refused {
                        node: node.to_string(),
                        code,
                        detail,
                    });
                }
                Err(error) => {
                    self.cluster.forget_readers(&node);
                    Found::Nothing(super::error::chain(&error))
                }
            };
            match found {
                Found::Page => {
                    self.cluster.counters.read.add(1);
                    return Ok(());
                }
                Found::Wrong(what) => {
                    // Perhaps it is the slot that has changed.
                    if self.turn(slot)? != turn {
                        return Err(ValkeyError::NoPage { slot });
                    }
                    if doubted.as_ref() == Some(&node) {
                        return Err(self.lost(slot, what));
                    }
                    self.cluster.refresh(&map, Some(&node), deadline);
                    doubted = Some(node);
                }
                Found::Elsewhere(to) => {
                    self.cluster.counters.redirected.add(1);
                    hops += 1;
                    if hops > HOPS_MAX {
                        // Two nodes that each call the other one the primary, for now.
                        self.cluster.pause(&map, None, deadline);
                    } else if to.as_ref().is_none_or(|(_, asks_first)| !asks_first) {
                        self.cluster.refresh(&map, None, deadline);
                    }
                    next = to;
                }
                Found::Nothing(why) => {
                    last = why;
                    self.cluster.pause(&map, Some(&node), deadline);
                }
            }
        }
        self.cluster.counters.not_read.add(1);
        Err(ValkeyError::Deadline {
            waited: begun.elapsed(),
            last,
        })
    }

    /// Asks for several pages at once; those that come are there when this thread reads them. Nothing
    /// is tried twice: a page that does not come is read as if it had not been asked for.
    pub(super) fn fetch_ahead(&self, slots: &[(u32, u32)]) {
        let map = self.cluster.map();
        let mut nodes: BTreeMap<&Address, Vec<u32>> = BTreeMap::new();
        for (slot, _) in slots.iter().take(AHEAD_MAX) {
            let key = value::key(&self.namespace, *slot);
            if let (Ok(_), Some(node)) = (self.turn(*slot), map.primary(&key)) {
                nodes.entry(node).or_default().push(*slot);
            }
        }
        let mut ahead = Vec::new();
        for (node, slots) in nodes {
            let commands: Vec<Cmd> = slots
                .iter()
                .map(|slot| get(&value::key(&self.namespace, *slot)))
                .collect();
            let asked = self.cluster.read(node, &commands, |number, answer| {
                if let (Some(slot), Answer::Value(Value::BulkString(value))) =
                    (slots.get(number), answer)
                {
                    ahead.push(Ahead {
                        store: self.number,
                        slot: *slot,
                        value,
                    });
                }
            });
            if asked.is_err() {
                self.cluster.forget_readers(node);
                // A hint is not worth more of anybody's time.
                break;
            }
        }
        AHEAD.with_borrow_mut(|kept| *kept = ahead);
    }

    /// Takes a page that was asked for ahead, if it is the one of this turn and checksum.
    fn take_ahead(&self, slot: u32, turn: Turn, checksum: u32, page: &mut PageBytes) -> bool {
        let taken = AHEAD.with_borrow_mut(|kept| {
            let at = kept
                .iter()
                .position(|ahead| ahead.store == self.number && ahead.slot == slot)?;
            Some(kept.swap_remove(at))
        });
        let Some(taken) = taken else { return false };
        match value::page_of(&taken.value, self.number, slot, turn, checksum) {
            Ok(found) => {
                *page = *found;
                true
            }
            Err(_) => false,
        }
    }

    /// The turn of the page that a slot holds.
    pub(super) fn turn(&self, slot: u32) -> Result<Turn, ValkeyError> {
        self.check_slot(slot)?;
        match Mark::read(self.memory.mark(slot)) {
            Mark::Page(turn) => Ok(turn),
            Mark::Empty(_) => Err(ValkeyError::NoPage { slot }),
        }
    }

    fn get(&self, node: &Address, key: &str, asks_first: bool) -> Result<Answer, ValkeyError> {
        let get = get(key);
        let commands = if asks_first {
            vec![cmd("ASKING"), get]
        } else {
            vec![get]
        };
        // The last answer counts.
        let mut answered = Answer::Later(format!("{node} gave no answer"));
        self.cluster
            .read(node, &commands, |_, answer| answered = answer)?;
        Ok(answered)
    }

    /// What an answer to GET is worth.
    fn judge(
        &self,
        found: &Value,
        slot: u32,
        turn: Turn,
        checksum: u32,
        page: &mut PageBytes,
    ) -> Found {
        let Value::BulkString(bytes) = found else {
            return Found::Wrong(MISSING);
        };
        match value::page_of(bytes, self.number, slot, turn, checksum) {
            Ok(found) => {
                *page = *found;
                Found::Page
            }
            Err(Wrong::Older) => Found::Wrong(OLDER),
            Err(Wrong::Foreign) => Found::Wrong(FOREIGN),
            Err(Wrong::Damaged) => Found::Wrong(DAMAGED),
        }
    }

    fn lost(&self, slot: u32, what: &'static str) -> ValkeyError {
        let counters = &self.cluster.counters;
        match what {
            MISSING => counters.lost_missing.add(1),
            DAMAGED => counters.lost_damaged.add(1),
            _ => counters.lost_older.add(1),
        }
        ValkeyError::Lost { slot, what }
    }
}

const MISSING: &str = "its primary has nothing";
const OLDER: &str = "its primary has an earlier page of this slot";
const FOREIGN: &str = "its primary has something else";
const DAMAGED: &str = "its primary has other bytes than were written";

fn get(key: &str) -> Cmd {
    let mut get = cmd("GET");
    get.arg(key);
    get
}
