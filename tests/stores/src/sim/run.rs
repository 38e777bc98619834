// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One run: builds the simulated network, lets the plan happen to it, and asks at the end, and
//! between the episodes, whether every promise was kept.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use turmoil::{Builder, Sim};

use super::checks;
use super::client::{self, ClientHost, Order};
use super::latecomer::{self, Errand, Latecomers};
use super::mutation::Mutation;
use super::plan::{Command, Episode, Hurt, Mode, Plan, Upset};
use super::stores::{self, StoreHost};
use super::weather::Weather;
use super::world::{Counts, Shared};
use crate::random::Random;

/// Simulated time in which all copies must be there again.
const WHOLE_WITHIN: Duration = Duration::from_secs(30);
/// Simulated time in which clients must have met their stores, or have finished what they do.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long work goes on after an episode, before it rests to be checked.
const AFTERMATH: u32 = 250;

/// A run that kept every promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Depends on everything that happened: the same seed gives the same.
    pub digest: u64,
    /// Events that were recorded.
    pub events: u64,
    /// What happened how often.
    pub counts: Counts,
    /// Simulated time.
    pub simulated: Duration,
}

/// A run that broke one.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The plan.
    pub plan: Plan,
    /// What is broken.
    pub what: String,
    /// What happened before, one event a line.
    pub lines: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{}", self.plan, self.what)?;
        let shown = usize::try_from(crate::random::parameter("TMEM_SIM_LINES", 40)).unwrap_or(40);
        let from = self.lines.len().saturating_sub(shown);
        for line in self.lines.iter().skip(from) {
            writeln!(f, "  {line}")?;
        }
        write!(f, "replay: cargo xtask sim --seed {}", self.plan.seed)
    }
}

/// Why a run ended early: a promise was broken, or the simulation itself failed.
type Broken = String;

/// Runs a plan.
///
/// # Errors
/// [`Failure`] if a promise is broken.
pub fn run(plan: Plan, mutation: Mutation) -> Result<Outcome, Box<Failure>> {
    let shared = Rc::new(plan);
    let strict = shared.mode == Mode::Within;
    let world = Shared::new(Rc::clone(&shared), strict);
    let result = Run::new(&world, mutation).and_then(|mut run| {
        run.all()?;
        Ok(run.sim.elapsed())
    });
    let (digest, events) = world.digest();
    match result {
        Ok(simulated) => Ok(Outcome {
            digest,
            events,
            counts: world.with(|world| world.counts),
            simulated,
        }),
        Err(what) => Err(Box::new(Failure {
            plan: (*shared).clone(),
            what,
            lines: world.lines(),
        })),
    }
}

struct Run {
    sim: Sim<'static>,
    plan: Rc<Plan>,
    world: Shared,
    weather: Weather,
    stores: Vec<StoreHost>,
    clients: Vec<ClientHost>,
    latecomers: Latecomers,
    mutation: Mutation,
    random: Random,
}

impl Run {
    fn new(world: &Shared, mutation: Mutation) -> Result<Self, Broken> {
        let plan = world.with(|world| Rc::clone(&world.plan));
        let (least, most) = plan.latency;
        let mut sim = Builder::new()
            .rng_seed(plan.seed)
            .epoch(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .simulation_duration(Duration::from_secs(3600))
            .min_message_latency(milliseconds(least))
            .max_message_latency(milliseconds(most))
            .tcp_capacity(4096)
            .enable_random_order()
            .build();
        let count = plan.stores + usize::from(plan.spare);
        let weather = Weather::new(count, plan.seed);
        let mut hosts = Vec::new();
        for number in 0..count {
            let keeps = |(store, hurt): &(usize, Hurt)| {
                *store == number && matches!(hurt, Hurt::Restart | Hurt::Rot(_))
            };
            let mut all = plan.episodes.iter().flat_map(|episode| &episode.hurt);
            let host = StoreHost::new(number, all.any(keeps)).map_err(text)?;
            let serving = host.clone();
            sim.host(stores::name(number), move || serving.clone().serve());
            hosts.push(host);
        }
        let mut clients = Vec::new();
        for number in 0..plan.clients {
            let host = ClientHost::new(number, world, &weather, mutation).map_err(text)?;
            let running = host.clone();
            sim.host(client::name(number), move || running.clone().run());
            clients.push(host);
        }
        let latecomers = Latecomers::new(world);
        let running = latecomers.clone();
        sim.host(latecomer::NAME, move || running.clone().run());
        let random = Random::new(plan.seed, 2);
        Ok(Self {
            sim,
            plan,
            world: world.clone(),
            weather,
            stores: hosts,
            clients,
            latecomers,
            mutation,
            random,
        })
    }

    /// The whole run.
    fn all(&mut self) -> Result<(), Broken> {
        self.until("clients have met their stores", PATIENCE, Self::all_seen)?;
        let plan = Rc::clone(&self.plan);
        for episode in &plan.episodes {
            self.pass(episode.after)?;
            self.begin(episode)?;
            self.pass(episode.lasts / 2)?;
            if let Some(upset) = episode.upset {
                self.upset(upset)?;
            }
            self.pass(episode.lasts / 2)?;
            self.end(episode)?;
            if plan.mode == Mode::Within {
                self.pass(AFTERMATH)?;
                self.recover("after an episode")?;
            }
        }
        self.pass(AFTERMATH)?;
        self.rest()?;
        self.until("clients see all stores again", PATIENCE, Self::all_seen)?;
        if plan.mode == Mode::Beyond {
            checks::forgive_what_is_nowhere(&self.world, &self.clients, &self.stores);
        }
        self.world.with(|world| world.strict = true);
        self.read_all("at the end")?;
        self.recover("at the end")?;
        // What stores still have that nobody knows of goes when a client meets them anew.
        for number in 0..self.clients.len() {
            self.restart(number)?;
        }
        self.rest()?;
        self.until("restarted clients see all stores", PATIENCE, Self::all_seen)?;
        self.read_all("after a restart of the clients")?;
        self.recover("after a restart of the clients")?;
        self.rest()?;
        self.until("stores hold that and nothing else", WHOLE_WITHIN, |run| {
            checks::exact(&run.world, &run.clients, &run.stores)
        })
    }

    /// One step of simulated time.
    fn step(&mut self) -> Result<(), Broken> {
        self.sim.step().map_err(text)?;
        let now = self.sim.elapsed();
        self.world.with(|world| world.now = now);
        self.world.failure().map_or(Ok(()), Err)
    }

    fn pass(&mut self, span: u32) -> Result<(), Broken> {
        let end = self.sim.elapsed() + milliseconds(span);
        while self.sim.elapsed() < end {
            self.step()?;
            self.misbehave();
        }
        Ok(())
    }

    /// Waits until `done` finds nothing missing.
    fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), Broken> {
        let start = self.sim.elapsed();
        loop {
            for _ in 0..10 {
                self.step()?;
            }
            let Err(missing) = done(self) else {
                let took = self.sim.elapsed() - start;
                self.world.note(format_args!("{what}: after {took:?}"));
                return Ok(());
            };
            if self.sim.elapsed() - start > limit {
                let views: String = self.clients.iter().map(ClientHost::describe).collect();
                return Err(format!(
                    "Within {limit:?} it did not come about that {what}: {missing}\n{views}"
                ));
            }
        }
    }

    fn all_seen(&mut self) -> Result<(), String> {
        let blind = self.clients.iter().position(|client| !client.sees_all());
        blind.map_or(Ok(()), |client| Err(format!("client {client} does not")))
    }

    /// Lets everybody finish, and begin nothing.
    fn rest(&mut self) -> Result<(), Broken> {
        self.world.with(|world| world.paused = true);
        self.until("everybody rests", PATIENCE, |run| {
            let busy = run.world.with(|world| world.busy.iter().sum::<u32>());
            let idle = run.clients.iter().all(ClientHost::is_idle) && run.latecomers.is_idle();
            if busy == 0 && idle {
                return Ok(());
            }
            Err(format!(
                "{busy} operations are under way, orders done: {idle}"
            ))
        })
    }

    /// Lets copies grow back while the clients rest, then lets them go on.
    fn recover(&mut self, when: &str) -> Result<(), Broken> {
        self.rest()?;
        self.world.with(|world| world.rewrite_unsettled());
        let what = format!("all copies are there {when}");
        self.until(&what, WHOLE_WITHIN, |run| {
            checks::whole(&run.world, &run.clients, &run.stores)
        })?;
        self.world.with(|world| {
            world.counts.whole += 1;
            world.paused = false;
        });
        Ok(())
    }

    /// Has every page read.
    fn read_all(&mut self, when: &str) -> Result<(), Broken> {
        self.world.with(|world| world.read_everything());
        let what = format!("every page was read {when}");
        self.until(&what, PATIENCE, |run| {
            let left = run.world.with(|world| world.to_read());
            if left == 0 {
                return Ok(());
            }
            Err(format!("{left} are left"))
        })
    }

    fn names(&self) -> Vec<String> {
        (0..self.clients.len()).map(client::name).collect()
    }

    fn begin(&mut self, episode: &Episode) -> Result<(), Broken> {
        self.world.note(format_args!("begins: {episode:?}"));
        for (store, hurt) in &episode.hurt {
            self.hurt(*store, *hurt)?;
        }
        let Some(command) = episode.command else {
            return Ok(());
        };
        for client in &self.clients {
            client.order(match command {
                Command::Add => Order::Add(self.plan.stores),
                Command::Drain(store) => Order::Drain(store),
                Command::Remove(store) => Order::Remove(store),
                Command::Repair => Order::Repair,
            });
        }
        Ok(())
    }

    fn hurt(&mut self, store: usize, hurt: Hurt) -> Result<(), Broken> {
        let name = stores::name(store);
        for client in self.names() {
            let (client, name) = (client.as_str(), name.as_str());
            match hurt {
                Hurt::Cut => self.sim.partition(client, name),
                Hurt::CutTo => self.sim.partition_oneway(client, name),
                Hurt::CutFrom => self.sim.partition_oneway(name, client),
                Hurt::Stall => self.sim.hold(client, name),
                Hurt::Slow(by) => self.sim.set_link_latency(client, name, milliseconds(by)),
                _ => {}
            }
        }
        match hurt {
            Hurt::Crash | Hurt::Restart => {
                self.sim.crash(name.as_str());
                let ended = self.stores[store].ended(hurt == Hurt::Crash);
                ended.map_err(text)?;
                if hurt == Hurt::Crash && self.plan.mode == Mode::Beyond {
                    // A put from before would bring back what its client rightly counts as lost.
                    self.weather.forget(store);
                }
            }
            Hurt::Noise(one_in) => self.weather.set_noise(store, one_in),
            Hurt::Again(one_in) => self.weather.set_again(store, one_in),
            Hurt::Rot(one_in) => {
                let rotten = self.stores[store].rot(&mut self.random, one_in);
                let rotten = rotten.map_err(text)?;
                self.world
                    .note(format_args!("rotten: {} pages", rotten.len()));
                self.world.with(|world| world.rotten(&rotten));
            }
            _ => {}
        }
        Ok(())
    }

    fn heal(&mut self, store: usize, hurt: Hurt) {
        let name = stores::name(store);
        let (least, most) = self.plan.latency;
        for client in self.names() {
            let (client, name) = (client.as_str(), name.as_str());
            match hurt {
                Hurt::Cut => self.sim.repair(client, name),
                Hurt::CutTo => self.sim.repair_oneway(client, name),
                Hurt::CutFrom => self.sim.repair_oneway(name, client),
                Hurt::Stall => self.sim.release(client, name),
                Hurt::Slow(_) => {
                    self.sim.set_link_latency(client, name, milliseconds(least));
                    let most = milliseconds(most);
                    self.sim.set_link_max_message_latency(client, name, most);
                }
                _ => {}
            }
        }
        match hurt {
            Hurt::Crash | Hurt::Restart => self.sim.bounce(name.as_str()),
            Hurt::Noise(_) => self.weather.set_noise(store, 0),
            Hurt::Again(_) => self.weather.set_again(store, 0),
            _ => {}
        }
    }

    fn end(&mut self, episode: &Episode) -> Result<(), Broken> {
        for (store, hurt) in &episode.hurt {
            self.heal(*store, *hurt);
        }
        self.world.note(format_args!("ends"));
        if let Some(Command::Drain(_) | Command::Remove(_)) = episode.command {
            self.pass(AFTERMATH)?;
        }
        for client in &self.clients {
            match episode.command {
                Some(Command::Drain(store)) => client.order(Order::Undrain(store)),
                Some(Command::Remove(store)) => client.order(Order::Add(store)),
                _ => {}
            }
        }
        Ok(())
    }

    fn upset(&mut self, upset: Upset) -> Result<(), Broken> {
        match upset {
            Upset::Latecomer(client) => {
                let Some(epoch) = self.clients[client].status().map(|status| status.epoch) else {
                    return Ok(());
                };
                let stores = self.clients[client].in_touch();
                let epoch = match self.mutation {
                    Mutation::NoFence => epoch + 1,
                    _ => epoch - 1,
                };
                self.latecomers.send(Errand::Greet {
                    client,
                    epoch,
                    stores,
                });
                Ok(())
            }
            Upset::Restart(client) => self.restart_beside_a_latecomer(client),
        }
    }

    /// Kills a client's process and starts it again, while another process lives on that was
    /// connected when the first was.
    fn restart_beside_a_latecomer(&mut self, client: usize) -> Result<(), Broken> {
        let epoch = self.clients[client].status().map(|status| status.epoch);
        if let Some(epoch) = epoch {
            let stores = self.clients[client].in_touch();
            self.latecomers.send(Errand::Connect {
                client,
                epoch,
                stores,
            });
            self.pass(30)?;
        }
        self.restart(client)?;
        self.pass(100)?;
        self.latecomers.send(Errand::Disturb {
            stores: self.clients[client].in_touch(),
            slot: self.plan.slots + 5,
        });
        Ok(())
    }

    fn restart(&mut self, client: usize) -> Result<(), Broken> {
        self.sim.crash(client::name(client).as_str());
        self.clients[client].ended();
        self.world.note(format_args!("c{client} is killed"));
        self.world.with(|world| {
            world.oracles[client].crash();
            world.busy[client] = 0;
        });
        self.pass(5)?;
        self.sim.bounce(client::name(client).as_str());
        Ok(())
    }

    /// What stores do wrong on purpose.
    fn misbehave(&mut self) {
        let every = match self.mutation {
            Mutation::Forgets => 15,
            Mutation::GoesBack => 10,
            _ => return,
        };
        if !self.random.one_in(every) {
            return;
        }
        let slot = self.random.below(self.plan.slots);
        let first = client::name(0);
        let stamp = self.world.with(|world| world.oracles[0].settled(slot));
        for store in &self.stores {
            match (self.mutation, stamp) {
                (Mutation::Forgets, _) => {
                    store.forget(&first, slot);
                    break;
                }
                (_, Some(mut stamp)) if stamp.version > 1 => {
                    stamp.version -= 1;
                    store.replace(&first, slot, &stamp.page());
                }
                _ => {}
            }
        }
    }
}

fn milliseconds(number: u32) -> Duration {
    Duration::from_millis(u64::from(number))
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}
