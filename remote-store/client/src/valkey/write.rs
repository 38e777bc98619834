// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writing: SETs, and a WAIT behind them on the same connection.
//!
//! ```text
//! batch ─ by primary ─▶ writer A  SET SET SET WAIT ──▶ OK OK OK 1     acknowledged
//!                   └─▶ writer B  SET SET WAIT ──────▶ OK MOVED 1     the moved one goes once more
//!                       writer C  SET WAIT ──────────▶ (lost)         goes once more, new connection
//! ```
//! A page counts when its SET was answered with OK and the WAIT after it, on that connection, with
//! enough replicas. All primaries work at the same time: each gets its part before the first answer is
//! taken. What does not count when the time is up fails the whole batch, whose pages the caller still
//! has: the engine frees a page's frame only after [`write_pages`](ValkeyStore::write_pages) has returned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use redis::{Cmd, Connection, Value, cmd};
use tmem_pages::SlotWrite;

use super::cluster::{Writer, lock_all};
use super::map::Address;
use super::node::{self, Answer};
use super::read::HOPS_MAX;
use super::turn::Mark;
use super::value::{self, Header};
use super::{ValkeyError, ValkeyStore};

/// A page on its way.
struct Item<'a> {
    key: String,
    header: Header,
    page: &'a tmem_pages::PageBytes,
    /// Where to, and whether ASKING goes first, if a node said so.
    next: Option<(Address, bool)>,
}

/// What became of the items that one node was sent.
enum Outcome<'a> {
    /// All sent again; perhaps elsewhere.
    Broken(Vec<Item<'a>>, ValkeyError),
    /// Those that other nodes are to have; the others are acknowledged.
    Answered(Vec<Item<'a>>),
    /// The batch fails.
    Failed(ValkeyError),
}

impl ValkeyStore {
    /// Keeps pages: on return each is on its primary and on enough replicas.
    ///
    /// # Errors
    /// [`ValkeyError`]; none of them counts then.
    pub fn write_pages(&self, batch: &[SlotWrite<'_>]) -> Result<(), ValkeyError> {
        let mut seen = BTreeSet::new();
        for (slot, ..) in batch {
            self.check_slot(*slot)?;
            if !seen.insert(*slot) {
                return Err(ValkeyError::Twice { slot: *slot });
            }
        }
        let count = self.next_count();
        let mut turns = Vec::with_capacity(batch.len());
        let mut items = Vec::with_capacity(batch.len());
        for (slot, header, page) in batch {
            // Noted before anything is sent: whatever arrives late is of a turn that is over.
            let turn = Mark::read(self.memory.mark(*slot)).next();
            self.memory.set_mark(*slot, turn.empty());
            turns.push((*slot, turn));
            items.push(Item {
                key: value::key(&self.namespace, *slot),
                header: Header {
                    slot: *slot,
                    checksum: header.checksum,
                    store: self.number,
                    generation: turn.generation(count),
                },
                page,
                next: None,
            });
        }
        self.garbage.reused(seen.iter().copied());
        let counters = &self.cluster.counters;
        if let Err(error) = self.send_all(items) {
            counters.not_written.add(batch.len());
            // The primaries may have them: they are never read, and take room until the slots are
            // used again or these are thrown away.
            self.garbage
                .add(seen.iter().copied(), &self.cluster.counters);
            return Err(error);
        }
        for ((slot, turn), (_, header, _)) in turns.into_iter().zip(batch) {
            if header.flags & tmem_pages::slots::SlotHeader::BY_HEADER != 0 {
                self.memory
                    .set_header(slot, header)
                    .map_err(|source| ValkeyError::Memory {
                        source: Box::new(source),
                    })?;
            }
            self.memory.set_mark(slot, turn.page());
        }
        counters.written.add(batch.len());
        Ok(())
    }

    fn send_all(&self, mut items: Vec<Item<'_>>) -> Result<(), ValkeyError> {
        let begun = Instant::now();
        let deadline = begun + self.deadline;
        let mut hops = 0;
        let mut last = "no node is their primary".to_owned();
        while Instant::now() < deadline {
            let map = self.cluster.map();
            let mut nodes: BTreeMap<Address, Vec<Item<'_>>> = BTreeMap::new();
            let mut again = Vec::new();
            for item in items {
                let known = item.next.as_ref().map(|(node, _)| node);
                match known.or_else(|| map.primary(&item.key)).cloned() {
                    Some(node) => nodes.entry(node).or_default().push(item),
                    None => again.push(item),
                }
            }
            let mut avoid = None;
            let mut moved = false;
            let Some(outcomes) = self.round(nodes, deadline) else {
                last = "other writes have the connections".to_owned();
                break;
            };
            for (node, outcome) in outcomes {
                match outcome {
                    Outcome::Answered(elsewhere) => {
                        moved |= !elsewhere.is_empty();
                        again.extend(elsewhere);
                    }
                    Outcome::Broken(all, error) => {
                        self.cluster.counters.sent_again.add(all.len());
                        last = super::error::chain(&error);
                        avoid = Some(node);
                        again.extend(all.into_iter().map(|item| Item { next: None, ..item }));
                    }
                    Outcome::Failed(error) => return Err(error),
                }
            }
            if again.is_empty() {
                return Ok(());
            }
            hops += u32::from(moved);
            if avoid.is_some() || !moved || hops > HOPS_MAX {
                self.cluster.pause(&map, avoid.as_ref(), deadline);
            } else {
                self.cluster.refresh(&map, None, deadline);
            }
            items = again;
        }
        Err(ValkeyError::Deadline {
            waited: begun.elapsed(),
            last,
        })
    }

    /// Sends each node its items, then takes all answers. `None` when the deadline comes before the
    /// connections are free.
    fn round<'a>(
        &self,
        nodes: BTreeMap<Address, Vec<Item<'a>>>,
        deadline: Instant,
    ) -> Option<Vec<(Address, Outcome<'a>)>> {
        let (addresses, parts): (Vec<Address>, Vec<Vec<Item<'_>>>) = nodes.into_iter().unzip();
        let places: Vec<_> = (addresses.iter())
            .map(|node| self.cluster.writer(node))
            .collect();
        let mut writers = lock_all(&places, deadline)?;
        let sent: Vec<_> = (addresses.iter().zip(&mut writers).zip(&parts))
            .map(|((node, writer), items)| self.send(node, writer, items))
            .collect();
        let mut outcomes = Vec::with_capacity(parts.len());
        for (((node, writer), items), sent) in
            addresses.into_iter().zip(&mut writers).zip(parts).zip(sent)
        {
            let outcome = match sent {
                Ok(()) => self.receive(&node, writer, items),
                Err(error) => broken(items, error),
            };
            if !matches!(outcome, Outcome::Answered(_)) {
                // Answers may be under way that nobody will take.
                writer.close();
            }
            outcomes.push((node, outcome));
        }
        Some(outcomes)
    }

    fn send(
        &self,
        node: &Address,
        writer: &mut Writer,
        items: &[Item<'_>],
    ) -> Result<(), ValkeyError> {
        let connection = writer.connection(&self.cluster, node)?;
        let mut packed = Vec::new();
        for item in items {
            if item.asks_first() {
                packed.extend_from_slice(&cmd("ASKING").get_packed_command());
            }
            packed.extend_from_slice(&item.set().get_packed_command());
        }
        let mut wait = cmd("WAIT");
        wait.arg(self.replicas)
            .arg(u64::try_from(self.cluster.dialer.wait.as_millis()).unwrap_or(u64::MAX));
        packed.extend_from_slice(&wait.get_packed_command());
        connection
            .send_packed_command(&packed)
            .map_err(ValkeyError::node(node))
    }

    fn receive<'a>(
        &self,
        node: &Address,
        writer: &mut Writer,
        items: Vec<Item<'a>>,
    ) -> Outcome<'a> {
        let Some(connection) = writer.current() else {
            let error = ValkeyError::Answer {
                node: node.to_string(),
                command: "SET",
            };
            return Outcome::Broken(items, error);
        };
        let mut answers = Vec::with_capacity(items.len());
        for item in &items {
            match item.answer(connection, node) {
                Ok(answer) => answers.push(answer),
                Err(error) => return broken(items, error),
            }
        }
        let reached = match node::receive(connection, node) {
            Ok(Answer::Value(Value::Int(reached))) => reached,
            Ok(Answer::Later(_) | Answer::Moved(_)) => 0,
            Ok(other) => return Outcome::Failed(node::unexpected(node, "WAIT", other)),
            Err(error) => return broken(items, error),
        };
        let mut elsewhere = Vec::new();
        let mut kept = 0;
        for (item, answer) in items.into_iter().zip(answers) {
            let next = match answer {
                Answer::Value(Value::Okay) => {
                    kept += 1;
                    continue;
                }
                Answer::Moved(to) => {
                    self.cluster.counters.redirected.add(1);
                    to.map(|to| (to, false))
                }
                Answer::Ask(to) => {
                    self.cluster.counters.redirected.add(1);
                    to.map(|to| (to, true))
                }
                Answer::Later(_) => None,
                other => return Outcome::Failed(node::unexpected(node, "SET", other)),
            };
            elsewhere.push(Item { next, ..item });
        }
        if kept > 0 && reached < i64::from(self.replicas) {
            self.cluster.counters.unacknowledged.add(kept);
            return Outcome::Failed(ValkeyError::Unacknowledged {
                node: node.to_string(),
                wanted: self.replicas,
                reached,
            });
        }
        Outcome::Answered(elsewhere)
    }
}

impl Item<'_> {
    fn asks_first(&self) -> bool {
        self.next
            .as_ref()
            .is_some_and(|(_, asks_first)| *asks_first)
    }

    fn set(&self) -> Cmd {
        let mut set = Cmd::with_capacity(3, value::VALUE_BYTES + 64);
        set.arg("SET")
            .arg(&self.key)
            .arg(self.header.value(self.page));
        set
    }

    fn answer(&self, connection: &mut Connection, node: &Address) -> Result<Answer, ValkeyError> {
        if self.asks_first() {
            node::receive(connection, node)?;
        }
        node::receive(connection, node)
    }
}

/// What to do about a connection that failed. A node that must not be used fails the batch: nothing
/// says that another one will take its place.
fn broken(items: Vec<Item<'_>>, error: ValkeyError) -> Outcome<'_> {
    match error {
        ValkeyError::Node { .. } | ValkeyError::Answer { .. } => Outcome::Broken(items, error),
        _ => Outcome::Failed(error),
    }
}
