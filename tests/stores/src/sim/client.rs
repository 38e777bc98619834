// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The clients of a simulated run: the real one, on a simulated host, with the tasks that use it. Its
//! process may be killed and started again; what it remembers of its slots is kept, as the daemon's
//! keeper does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tmem_pages::PageBytes;
use tmem_pages::slots::{SlotHeader, SlotMemory};
use tmem_remote_client::connect::Connector;
use tmem_remote_client::control::{Command, Config, Kind, MemberSpec, Refused, State};
use tmem_remote_client::driver::{CommandError, Handle, Status};
use tmem_remote_client::{
    Ack, Hedge, ReadError, Replicated, Session, Settings, control_config, open_with,
};
use turmoil::net::TcpStream;

use super::mutation::Mutation;
use super::plan::Acknowledge;
use super::stores::{PORT, name as store_name};
use super::weather::{Stream, Weather};
use super::work::{NoPage, Pages, Task};
use super::world::Shared;

/// A client's name in the simulated network, which is its namespace too.
pub(crate) fn name(number: usize) -> String {
    format!("client-{number}")
}

/// Connects a client to stores of the simulated network, in the weather.
#[derive(Clone, Debug)]
pub(crate) struct Turmoil {
    client: usize,
    weather: Weather,
}

impl Connector for Turmoil {
    type Stream = Stream<TcpStream>;

    async fn connect(&self, address: &str) -> io::Result<Self::Stream> {
        let number = address
            .strip_prefix("store-")
            .and_then(|text| text.parse().ok());
        let number: usize = number.ok_or(io::ErrorKind::InvalidInput)?;
        let stream = TcpStream::connect((address, PORT)).await?;
        Ok(self.weather.around(self.client, number, stream))
    }
}

/// What an operator wants of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Add a store.
    Add(usize),
    /// Empty a store.
    Drain(usize),
    /// Make it an ordinary one again.
    Undrain(usize),
    /// Empty a store, then remove it.
    Remove(usize),
    /// Make missing copies.
    Repair,
}

#[derive(Debug)]
struct Inside {
    number: usize,
    memory: OwnedFd,
    life: u64,
    handle: Option<Handle>,
    replicated: Option<Arc<Replicated<Turmoil>>>,
    orders: VecDeque<Order>,
    /// Stores that it is told of when it starts.
    members: Vec<usize>,
}

/// A handle on a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientHost {
    inside: Rc<RefCell<Inside>>,
    world: Shared,
    weather: Weather,
    mutation: Mutation,
}

impl ClientHost {
    /// A client that was never started.
    pub(crate) fn new(
        number: usize,
        world: &Shared,
        weather: &Weather,
        mutation: Mutation,
    ) -> io::Result<Self> {
        let stores = world.with(|world| world.plan.stores);
        Ok(Self {
            inside: Rc::new(RefCell::new(Inside {
                number,
                memory: memfd_create("slots", MemfdFlags::CLOEXEC)?,
                life: 0,
                handle: None,
                replicated: None,
                orders: VecDeque::new(),
                members: (0..stores).collect(),
            })),
            world: world.clone(),
            weather: weather.clone(),
            mutation,
        })
    }

    /// Runs, on the simulated host that calls this, for ever.
    pub(crate) async fn run(self) -> turmoil::Result {
        let (number, life, memory, members) = {
            let mut inside = self.inside.borrow_mut();
            inside.life += 1;
            inside.orders.clear();
            let memory = inside.memory.try_clone()?;
            (inside.number, inside.life, memory, inside.members.clone())
        };
        let (memory, _) = SlotMemory::open(memory)?;
        let settings = self.settings(number, life);
        let tasks = self.world.with(|world| world.plan.tasks);
        let connector = Turmoil {
            client: number,
            weather: self.weather.clone(),
        };
        let config = Config {
            // A run's time is short; what is periodic comes more often.
            repair_delay: Duration::from_millis(200),
            start_grace: Duration::from_secs(2),
            settle: Duration::from_millis(300),
            rescan_interval: Duration::from_secs(3),
            ..control_config(&settings)
        };
        let (replicated, driver) = open_with(settings, config, connector, memory, None)?;
        let handle = driver.handle();
        self.inside.borrow_mut().handle = Some(handle.clone());
        self.inside.borrow_mut().replicated = Some(Arc::clone(&replicated));
        let world = self.world.clone();
        tokio::task::spawn_local(async move {
            let ended = Box::pin(driver.run()).await;
            world.fail(format_args!("client {number} stopped by itself: {ended:?}"));
        });
        for store in members {
            self.carry_out(&handle, number, Order::Add(store)).await;
        }
        self.wait_for_stores(&handle).await;
        for task in 0..tasks {
            let pages = Real {
                session: replicated.session(u64::from(task)),
                replicated: Arc::clone(&replicated),
                mutation: self.mutation,
            };
            let task = Task::new(&self.world, number, task, life);
            tokio::task::spawn_local(task.run(pages));
        }
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let order = self.inside.borrow().orders.front().copied();
            if let Some(order) = order {
                self.carry_out(&handle, number, order).await;
                self.inside.borrow_mut().orders.pop_front();
            }
        }
    }

    fn settings(&self, number: usize, life: u64) -> Settings {
        self.world.with(|world| {
            let plan = &world.plan;
            Settings {
                namespace: name(number),
                slots: plan.slots,
                replicas: plan.replicas,
                ack: match plan.acknowledge {
                    Acknowledge::All => Ack::All,
                    Acknowledge::First => Ack::First,
                },
                min_copies: 1,
                advert_period: Duration::from_millis(u64::from(plan.advert)),
                hedge: if plan.checksums {
                    Hedge::Auto
                } else {
                    Hedge::Off
                },
                ephemeral_indexes: if plan.ephemeral { 64 } else { 0 },
                epoch_floor: 1000 + life,
                seed: plan.seed,
                ..Settings::default()
            }
        })
    }

    /// As the daemon, it serves nobody before it has met its stores, or has waited for them.
    async fn wait_for_stores(&self, handle: &Handle) {
        for _ in 0..200 {
            let status = handle.status();
            if (status.stores.iter()).all(|store| store.member.state != State::Joining) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn carry_out(&self, handle: &Handle, number: usize, order: Order) {
        let result = match order {
            Order::Add(store) => {
                let spec = MemberSpec {
                    name: store_name(store),
                    address: store_name(store),
                    kind: Kind::Remote,
                    domain: None,
                    weight_percent: 100,
                };
                self.list(store, true);
                add(handle, spec).await
            }
            Order::Drain(store) => {
                let name = store_name(store);
                handle.command(Command::Drain { name }).await
            }
            Order::Undrain(store) => {
                let name = store_name(store);
                handle.command(Command::Undrain { name }).await
            }
            Order::Remove(store) => {
                let removed = self.remove(handle, store).await;
                self.list(store, removed.is_err());
                removed
            }
            Order::Repair => handle.command(Command::Repair).await,
        };
        let result = result.map_err(|error| error.to_string());
        self.world
            .note(format_args!("c{number} {order:?}: {result:?}"));
    }

    async fn remove(&self, handle: &Handle, store: usize) -> Result<(), CommandError> {
        let name = store_name(store);
        handle
            .command(Command::Drain { name: name.clone() })
            .await?;
        for _ in 0..500 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let status = handle.status();
            let state = status.store(&name).map(|store| store.member.state);
            if state.is_none_or(|state| state == State::Drained) {
                break;
            }
        }
        let force = false;
        handle.command(Command::Remove { name, force }).await
    }

    fn list(&self, store: usize, listed: bool) {
        let members = &mut self.inside.borrow_mut().members;
        members.retain(|member| *member != store);
        if listed {
            members.push(store);
        }
    }

    /// Gives an order; orders are carried out one after the other.
    pub(crate) fn order(&self, order: Order) {
        self.inside.borrow_mut().orders.push_back(order);
    }

    /// The process is gone.
    pub(crate) fn ended(&self) {
        let mut inside = self.inside.borrow_mut();
        inside.handle = None;
        inside.replicated = None;
    }

    /// Whether all orders are carried out.
    pub(crate) fn is_idle(&self) -> bool {
        self.inside.borrow().orders.is_empty()
    }

    /// The stores that it knows of.
    pub(crate) fn members(&self) -> Vec<usize> {
        let mut members = self.inside.borrow().members.clone();
        members.sort_unstable();
        members
    }

    /// How it sees things.
    pub(crate) fn status(&self) -> Option<Status> {
        self.inside.borrow().handle.as_ref().map(Handle::status)
    }

    /// The stores that its table names for a slot, as a mask of its own numbers for them.
    pub(crate) fn names(&self, slot: u32) -> Option<u64> {
        self.inside.borrow().replicated.as_ref()?.copies(slot)
    }

    /// How it sees things, for whoever reads a failure.
    pub(crate) fn describe(&self) -> String {
        let Some(status) = self.status() else {
            return "(not running)\n".into();
        };
        let mut text = format!(
            "{} of epoch {}: {} pages, {} with too few copies, {} lost, {} held; repair {:?}, \
             {} unreachable, {} under way\n",
            status.namespace,
            status.epoch,
            status.pages,
            status.below_pages,
            status.lost_pages,
            status.held_pages,
            status.control.progress,
            status.control.unreachable_pages,
            status.control.in_flight,
        );
        for store in &status.stores {
            let member = &store.member;
            text += &format!(
                "  {} {}: {} copies, drains {}, connected {}, heard {:?}, {:?}\n",
                member.name,
                member.state,
                store.copies,
                member.drains,
                member.connected,
                member.heard,
                member.error
            );
        }
        text
    }

    /// The stores that it is in touch with.
    pub(crate) fn in_touch(&self) -> Vec<usize> {
        let stores = self.status().map_or_else(Vec::new, |status| status.stores);
        let number = |name: &str| name.strip_prefix("store-")?.parse().ok();
        (stores.iter())
            .filter(|store| store.member.connected && store.member.state == State::Up)
            .filter_map(|store| number(&store.member.name))
            .collect()
    }

    /// Whether it is in touch with all of its stores.
    pub(crate) fn sees_all(&self) -> bool {
        let members = self.inside.borrow().members.len();
        self.status().is_some_and(|status| {
            let up = |state| matches!(state, State::Up | State::Draining | State::Drained);
            let stores = status.stores.iter();
            stores.filter(|store| up(store.member.state)).count() >= members
        })
    }
}

/// Adds a store. One that was removed a moment ago is refused until it is forgotten.
async fn add(handle: &Handle, spec: MemberSpec) -> Result<(), CommandError> {
    for _ in 0..400 {
        let added = handle.command(Command::Add(spec.clone())).await;
        if !matches!(added, Err(CommandError::Refused(Refused::Removing(_)))) {
            return added;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    handle.command(Command::Add(spec)).await
}

/// One task's session with the real client.
struct Real {
    session: Session<Turmoil>,
    replicated: Arc<Replicated<Turmoil>>,
    mutation: Mutation,
}

impl Pages for Real {
    async fn write(&mut self, batch: &[(u32, &SlotHeader, &PageBytes)]) -> Result<u8, String> {
        let written = self.session.write(batch).await;
        written
            .map(|written| written.copies)
            .map_err(|error| error.to_string())
    }

    async fn read(
        &mut self,
        slot: u32,
        checksum: Option<u32>,
        page: &mut PageBytes,
    ) -> Result<(), NoPage> {
        let read = self.session.read(slot, checksum, page).await;
        read.map_err(|error| {
            let text = error.to_string();
            match error {
                ReadError::Nothing { .. } => NoPage::Nothing(text),
                _ => NoPage::Failed(text),
            }
        })
    }

    fn invalidate(&mut self, slots: &[u32]) {
        if self.mutation != Mutation::KeepsFlushed {
            self.replicated.invalidate_slots(slots);
        }
    }

    async fn put_ephemeral(&mut self, index: u32, page: &PageBytes) -> bool {
        self.session.volatile_put(index, page).await
    }

    async fn get_ephemeral(&mut self, index: u32, page: &mut PageBytes) -> bool {
        self.session.volatile_get(index, page).await
    }

    async fn flush_ephemeral(&mut self, indexes: &[u32]) {
        self.session.volatile_flush(indexes).await;
    }
}
