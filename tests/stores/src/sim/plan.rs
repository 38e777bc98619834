// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What happens in one simulated run: a plan, drawn from the seed before anything starts.
//!
//! A run is a row of episodes. In each, some stores are hurt, for a while, while the clients go on;
//! then all is well again. What a plan may do depends on its [`Mode`]: a plan *within* the promise
//! never hurts more stores at once than there are spare copies, and lets the copies grow back before
//! the next episode, so every read must succeed. A plan *beyond* it hurts whom it likes: there, reads
//! may fail, but what they return is right, and nothing that still exists somewhere is lost.
//!
//! Each plan switches some kinds of faults off altogether (swarm testing): faults hide each other.

use std::fmt;

use crate::random::Random;

/// Whether copies remain of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At most one store fewer is hurt than there are copies.
    Within,
    /// Any number of stores is hurt.
    Beyond,
}

/// What happens to one store, or to the connection with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hurt {
    /// Nothing passes, in either direction.
    Cut,
    /// Nothing reaches the store.
    CutTo,
    /// Nothing that the store says arrives.
    CutFrom,
    /// It answers nothing; what was said is delivered later.
    Stall,
    /// Every message takes this many milliseconds.
    Slow(u32),
    /// It ends, and comes back without its pages.
    Crash,
    /// It ends, and comes back with its pages.
    Restart,
    /// One in this many pieces that pass has a byte changed.
    Noise(u32),
    /// One in this many requests reaches it twice, or again after others.
    Again(u32),
    /// One in this many of its pages has a byte changed, where it lies.
    Rot(u32),
}

/// What an operator does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Adds the spare store.
    Add,
    /// Empties this store, and makes it an ordinary one again when the episode is over.
    Drain(usize),
    /// Empties this store, removes it, and adds it again when the episode is over.
    Remove(usize),
    /// Asks for missing copies to be made.
    Repair,
}

/// What happens to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upset {
    /// The process of this client is killed and started again, with its memory kept.
    Restart(usize),
    /// A process with this client's name and an old epoch speaks to all stores.
    Latecomer(usize),
}

/// A while in which something is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// Milliseconds of peace before it.
    pub after: u32,
    /// Milliseconds that it lasts.
    pub lasts: u32,
    /// Stores that are hurt, each in one way.
    pub hurt: Vec<(usize, Hurt)>,
    /// What an operator does.
    pub command: Option<Command>,
    /// What happens to a client, halfway through.
    pub upset: Option<Upset>,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// When all its copies are.
    All,
    /// When the first is; the host keeps the page until the others are.
    First,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The number that all of this was drawn from.
    pub seed: u64,
    /// Whether copies remain of everything.
    pub mode: Mode,
    /// Stores at the start.
    pub stores: usize,
    /// One more store, which a command may add.
    pub spare: bool,
    /// Clients, each with a namespace of its own.
    pub clients: usize,
    /// Copies of each page.
    pub replicas: u8,
    /// When a write is acknowledged.
    pub acknowledge: Acknowledge,
    /// Slots of each client.
    pub slots: u32,
    /// Tasks of each client that read and write.
    pub tasks: u32,
    /// Milliseconds between adverts.
    pub advert: u32,
    /// Milliseconds that a message takes: at least, at most.
    pub latency: (u32, u32),
    /// Whether reads name the checksum that they expect, as the engine does.
    pub checksums: bool,
    /// Whether there are ephemeral pages too.
    pub ephemeral: bool,
    /// Of a hundred operations: writes, flushes; the rest are reads.
    pub mix: (u32, u32),
    /// Pages in one write, at most.
    pub batch: u32,
    /// What breaks.
    pub episodes: Vec<Episode>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}: {:?} the promise, {} stores{}, {} clients, r={}, ack={:?}, {} slots, {} tasks",
            self.seed,
            self.mode,
            self.stores,
            if self.spare { " and a spare" } else { "" },
            self.clients,
            self.replicas,
            self.acknowledge,
            self.slots,
            self.tasks,
        )?;
        writeln!(
            f,
            "  advert {} ms, latency {:?} ms, checksums {}, ephemeral {}, mix {:?}, batch {}",
            self.advert, self.latency, self.checksums, self.ephemeral, self.mix, self.batch
        )?;
        for episode in &self.episodes {
            writeln!(
                f,
                "  after {} ms, for {} ms: {:?} {:?} {:?}",
                episode.after, episode.lasts, episode.hurt, episode.command, episode.upset
            )?;
        }
        Ok(())
    }
}

/// Which kinds of faults a plan has at all.
struct Swarm {
    kinds: Vec<u32>,
    commands: bool,
    upsets: bool,
}

impl Plan {
    /// Draws a plan.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, 1);
        let stores = random.between(3, 5) as usize;
        let replicas = *random.pick(&[1, 2, 2, 2, 3, 3]);
        let mode = if random.one_in(3) || replicas == 1 {
            Mode::Beyond
        } else {
            Mode::Within
        };
        let least = random.between(0, 2);
        let mut plan = Self {
            seed,
            mode,
            stores,
            spare: random.one_in(2),
            clients: random.between(1, 2) as usize,
            replicas,
            acknowledge: *random.pick(&[Acknowledge::All, Acknowledge::First]),
            slots: random.between(16, 96),
            tasks: random.between(1, 3),
            advert: random.between(30, 100),
            latency: (least, least + random.between(1, 6)),
            checksums: random.one_in(2),
            ephemeral: random.one_in(2),
            mix: (random.between(10, 45), random.between(2, 20)),
            batch: *random.pick(&[1, 4, 12]),
            episodes: Vec::new(),
        };
        let swarm = Swarm {
            kinds: (0..10).filter(|_| random.one_in(2)).collect(),
            commands: random.one_in(2),
            upsets: random.one_in(2),
        };
        for _ in 0..random.between(2, 5) {
            let episode = plan.episode(&mut random, &swarm);
            plan.episodes.push(episode);
        }
        plan
    }

    fn episode(&self, random: &mut Random, swarm: &Swarm) -> Episode {
        let most = match self.mode {
            Mode::Within => usize::from(self.replicas) - 1,
            Mode::Beyond => self.stores,
        };
        let mut order: Vec<usize> = (0..self.stores).collect();
        for at in (1..order.len()).rev() {
            let other = random.below(u32::try_from(at + 1).unwrap_or(1)) as usize;
            order.swap(at, other);
        }
        let most = u32::try_from(most).unwrap_or(0);
        let count = if swarm.kinds.is_empty() {
            0
        } else {
            random.between(u32::from(!swarm.commands), most) as usize
        };
        let mut hurt = Vec::new();
        for store in order.iter().take(count) {
            let kind = *random.pick(&swarm.kinds);
            hurt.push((*store, self::hurt(random, kind)));
        }
        // A client that dies takes the copies with it that were still to be made, so that there are
        // as many fewer stores to lose: within the promise, one of the two is enough.
        let client = random.below(u32::try_from(self.clients).unwrap_or(1)) as usize;
        let alone = self.mode == Mode::Beyond || self.acknowledge == Acknowledge::All;
        let upset = if !swarm.upsets || !random.one_in(2) {
            None
        } else if random.one_in(2) || !(alone || hurt.is_empty()) {
            Some(Upset::Latecomer(client))
        } else {
            Some(Upset::Restart(client))
        };
        // Stores that are emptied are no place for copies; enough others must be left.
        let left = self.stores - hurt.len();
        let command = if !swarm.commands || random.one_in(2) {
            None
        } else {
            let store = order.last().copied().unwrap_or(0);
            match random.below(4) {
                0 if self.spare => Some(Command::Add),
                1 if left > usize::from(self.replicas) => Some(Command::Drain(store)),
                2 if left > usize::from(self.replicas) => Some(Command::Remove(store)),
                _ => Some(Command::Repair),
            }
        };
        Episode {
            after: random.between(50, 400),
            lasts: *random.pick(&[40, 200, 500, 1500]) + random.below(100),
            hurt,
            command,
            upset,
        }
    }
}

fn hurt(random: &mut Random, kind: u32) -> Hurt {
    match kind {
        0 => Hurt::Cut,
        1 => Hurt::CutTo,
        2 => Hurt::CutFrom,
        3 => Hurt::Stall,
        4 => Hurt::Slow(random.between(10, 250)),
        5 => Hurt::Crash,
        6 => Hurt::Restart,
        7 => Hurt::Noise(random.between(3, 60)),
        8 => Hurt::Again(random.between(2, 20)),
        _ => Hurt::Rot(random.between(1, 8)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_draws_the_same_plan() {
        for seed in 0..50 {
            assert_eq!(Plan::new(seed), Plan::new(seed));
        }
        assert_ne!(Plan::new(1).to_string(), Plan::new(2).to_string());
    }

    #[test]
    fn plans_within_the_promise_leave_a_copy_of_everything() {
        for seed in 0..2000 {
            let plan = Plan::new(seed);
            for episode in &plan.episodes {
                let stores: std::collections::BTreeSet<usize> =
                    episode.hurt.iter().map(|(store, _)| *store).collect();
                assert_eq!(stores.len(), episode.hurt.len(), "each store in one way");
                assert!(stores.iter().all(|store| *store < plan.stores));
                if plan.mode == Mode::Within {
                    assert!(stores.len() < usize::from(plan.replicas), "{plan}");
                    let restart = matches!(episode.upset, Some(Upset::Restart(_)));
                    let first = plan.acknowledge == Acknowledge::First;
                    assert!(!(first && restart) || stores.is_empty(), "{plan}");
                }
            }
        }
    }

    #[test]
    fn every_kind_of_trouble_is_drawn_by_some_seed() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let plan = Plan::new(seed);
            seen.insert(format!("{:?} {} copies", plan.mode, plan.replicas));
            for episode in plan.episodes {
                for (_, hurt) in episode.hurt {
                    let text = format!("{hurt:?}");
                    seen.insert(text.split('(').next().unwrap_or("").to_owned());
                }
                seen.insert(format!("{:?}", episode.command.is_some()));
                if let Some(upset) = episode.upset {
                    seen.insert(format!("{upset:?}"));
                }
            }
        }
        for kind in [
            "Cut",
            "CutTo",
            "CutFrom",
            "Stall",
            "Slow",
            "Crash",
            "Restart",
            "Noise",
            "Again",
            "Rot",
            "Beyond 1 copies",
            "Within 2 copies",
            "Within 3 copies",
            "Beyond 3 copies",
            "Restart(0)",
            "Restart(1)",
            "Latecomer(0)",
        ] {
            assert!(seen.contains(kind), "{kind} of {seen:?}");
        }
    }
}
