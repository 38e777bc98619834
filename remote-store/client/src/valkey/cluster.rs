// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is known of the cluster, and the connections to its primaries.
//!
//! The map of hash slots is replaced as a whole. Whoever finds it wrong asks for a new one, and gets it
//! from another node than the one that misled: a primary that was frozen while a replica took its place
//! believes in itself until it hears otherwise.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard, RwLock};
use redis::{Cmd, Connection, cmd};

use super::ValkeyError;
use super::config::ValkeyConfig;
use super::map::{Address, SlotMap};
use super::node::{self, Answer, ClientId, Dialer};
use super::stats::Counters;

/// Idle connections for reading that are kept for each node.
const READERS_MAX: usize = 32;
/// Nodes whose connections are kept. A cluster's addresses change seldom.
const NODES_MAX: usize = 1024;
/// How long a call waits before it asks again, while the cluster is without an answer.
const PAUSE: Duration = Duration::from_millis(20);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) dialer: Dialer,
    pub(super) counters: Counters,
    seeds: Vec<Address>,
    map: RwLock<Arc<SlotMap>>,
    /// Held while a new map is asked for; which node was asked last.
    asked: Mutex<usize>,
    readers: Mutex<HashMap<Address, Vec<Reader>>>,
    writers: Mutex<HashMap<Address, Arc<Mutex<Writer>>>>,
}

/// A connection for reading.
struct Reader(Connection);

/// The one connection for writing to a node. Whoever writes holds it until the answer to its WAIT.
#[derive(Default)]
pub(super) struct Writer {
    open: Option<(Connection, ClientId)>,
    /// The connection before this one, which the node may not have read to its end.
    earlier: Option<ClientId>,
}

impl Cluster {
    /// Connects to the first node that answers, and takes its map.
    pub(super) fn open(config: &ValkeyConfig) -> Result<Self, ValkeyError> {
        let (seeds, settings) = config.seeds()?;
        let dialer = Dialer {
            settings,
            connect: config.connect,
            response: config.response,
            wait: config.wait,
        };
        let mut last = None;
        for seed in &seeds {
            let found = dialer.reader(seed).and_then(|mut connection| {
                node::check_cluster(&mut connection, seed)?;
                ask_for_map(&mut connection, seed)
            });
            match found {
                Ok(map) => {
                    return Ok(Self {
                        dialer,
                        counters: Counters::default(),
                        seeds,
                        map: RwLock::new(Arc::new(map)),
                        asked: Mutex::new(0),
                        readers: Mutex::default(),
                        writers: Mutex::default(),
                    });
                }
                // A node that is unfit is not passed over for one that has not been looked at.
                Err(error @ ValkeyError::Unfit { .. }) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ValkeyError::Config {
            what: "no node is named".to_owned(),
        }))
    }

    pub(super) fn map(&self) -> Arc<SlotMap> {
        Arc::clone(&self.map.read())
    }

    /// Replaces the map if it is still the one that `seen` is, from another node than `avoid` if there
    /// is one that answers before the deadline.
    pub(super) fn refresh(&self, seen: &Arc<SlotMap>, avoid: Option<&Address>, deadline: Instant) {
        let Some(mut asked) = self.asked.try_lock_until(deadline) else {
            return;
        };
        if !Arc::ptr_eq(seen, &self.map()) {
            return;
        }
        let mut nodes: Vec<&Address> = seen.nodes().chain(&self.seeds).collect();
        nodes.sort();
        nodes.dedup();
        nodes.retain(|node| Some(*node) != avoid);
        *asked = asked.wrapping_add(1);
        let first = *asked % nodes.len().max(1);
        for node in nodes.iter().cycle().skip(first).take(nodes.len()) {
            if Instant::now() >= deadline {
                return;
            }
            let found = self
                .dialer
                .reader(node)
                .and_then(|mut connection| ask_for_map(&mut connection, node));
            if let Ok(map) = found {
                *self.map.write() = Arc::new(map);
                return;
            }
        }
    }

    /// Waits a little for a cluster that has no answer yet, then takes a new map.
    pub(super) fn pause(&self, seen: &Arc<SlotMap>, avoid: Option<&Address>, deadline: Instant) {
        let left = deadline.saturating_duration_since(Instant::now());
        thread::sleep(PAUSE.min(left));
        self.refresh(seen, avoid, deadline);
    }

    /// Sends requests on a connection for reading and gives all answers to `take`.
    pub(super) fn read(
        &self,
        node: &Address,
        commands: &[Cmd],
        mut take: impl FnMut(usize, Answer),
    ) -> Result<(), ValkeyError> {
        let mut connection = self.reader(node)?;
        let mut packed = Vec::new();
        for command in commands {
            packed.extend_from_slice(&command.get_packed_command());
        }
        connection
            .send_packed_command(&packed)
            .map_err(ValkeyError::node(node))?;
        for number in 0..commands.len() {
            take(number, node::receive(&mut connection, node)?);
        }
        // Only a connection that owes nothing is used again.
        let mut readers = self.readers.lock();
        let known = readers.len();
        match readers.get_mut(node) {
            Some(idle) if idle.len() < READERS_MAX => idle.push(Reader(connection)),
            Some(_) => (),
            None if known < NODES_MAX => {
                readers.insert(node.clone(), vec![Reader(connection)]);
            }
            None => (),
        }
        Ok(())
    }

    fn reader(&self, node: &Address) -> Result<Connection, ValkeyError> {
        if let Some(Reader(connection)) = self.readers.lock().get_mut(node).and_then(Vec::pop) {
            return Ok(connection);
        }
        self.counters.connections.add(1);
        self.dialer.reader(node)
    }

    /// Forgets the idle connections to a node that has failed: they failed as well.
    pub(super) fn forget_readers(&self, node: &Address) {
        self.readers.lock().remove(node);
    }

    /// The place of the one connection for writing to a node.
    pub(super) fn writer(&self, node: &Address) -> Arc<Mutex<Writer>> {
        let mut writers = self.writers.lock();
        if writers.len() >= NODES_MAX {
            // Those in use stay where they are used; an earlier connection of the others is forgotten,
            // which a thousand changes of address should have ended.
            writers.retain(|_, writer| Arc::strong_count(writer) > 1);
        }
        Arc::clone(writers.entry(node.clone()).or_default())
    }
}

impl Writer {
    /// The connection, made if there is none.
    pub(super) fn connection(
        &mut self,
        cluster: &Cluster,
        node: &Address,
    ) -> Result<&mut Connection, ValkeyError> {
        if self.open.is_none() {
            cluster.counters.connections.add(1);
            let opened = cluster.dialer.writer(node, self.earlier.as_ref())?;
            self.earlier = None;
            self.open = Some(opened);
        }
        self.current().ok_or_else(|| ValkeyError::Answer {
            node: node.to_string(),
            command: "CLIENT INFO",
        })
    }

    /// The connection, if there is one.
    pub(super) fn current(&mut self) -> Option<&mut Connection> {
        self.open.as_mut().map(|(connection, _)| connection)
    }

    /// Drops a connection that failed. What it carried may still reach the node.
    pub(super) fn close(&mut self) {
        if let Some((_, id)) = self.open.take() {
            self.earlier = Some(id);
        }
    }
}

/// Locks writers in the order of their nodes, so that no two writes wait for each other. `None` when the
/// deadline comes first.
pub(super) fn lock_all(
    writers: &[Arc<Mutex<Writer>>],
    deadline: Instant,
) -> Option<Vec<MutexGuard<'_, Writer>>> {
    writers
        .iter()
        .map(|writer| writer.try_lock_until(deadline))
        .collect()
}

fn ask_for_map(connection: &mut Connection, node: &Address) -> Result<SlotMap, ValkeyError> {
    let answer = node::ask(connection, node, cmd("CLUSTER").arg("SLOTS"))?;
    match &answer {
        Answer::Value(value) => SlotMap::parse(value, node),
        _ => None,
    }
    .ok_or_else(|| node::unexpected(node, "CLUSTER SLOTS", answer))
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}
