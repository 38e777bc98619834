// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The owner: takes one event at a time, has the part that it concerns apply it, and then does what
//! must not be forgotten after any event: connections that are due, the dead, the data path's view,
//! the next copies.

use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, Notice};
use super::config::{Config, ConfigError, MEMBERS_MAX};
use super::event::{Command, CopyResult, Event, Known, Lost, MemberNo, MemberSpec, Refused};
use super::member::{Greeting, Health};
use super::members::Members;
use super::random::Random;
use super::repair::{Repair, Scene};
use super::table::{Standing, Table};
use super::view::{State, View};

/// The state of all stores, and what is to be done about it. See the [module](super).
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) members: Members,
    pub(super) repair: Repair,
    pub(super) view: Arc<View>,
    random: Random,
    sessions: u64,
    /// What the last event left, to see what the next one changes.
    states: [Option<State>; MEMBERS_MAX],
    standing: Standing,
    /// Why the states change that this event changes.
    why: Option<String>,
    /// The data path's view is wrong, or only a little out of date.
    pub(super) view_wrong: bool,
    view_old: bool,
    published_at: Duration,
    promised: Duration,
    told_unreachable: u64,
    told_lost: u64,
    surveys: u64,
}

impl Core {
    /// An owner of no members yet. `known` is what the table's memory says of the numbers in it;
    /// `seed` decides all chances.
    ///
    /// # Errors
    /// A setting that cannot be.
    pub fn new(
        config: Config,
        known: &[Known],
        seed: u64,
        now: Duration,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let mut members = Members::new(known, now);
        Ok(Self {
            repair: Repair::new(&config, now),
            view: Arc::new(members.view(&config, now)),
            members,
            random: Random::new(seed),
            sessions: 0,
            states: [None; MEMBERS_MAX],
            standing: Standing::default(),
            why: None,
            view_wrong: true,
            view_old: false,
            published_at: now,
            promised: now,
            told_unreachable: 0,
            told_lost: 0,
            surveys: 0,
            config,
        })
    }

    /// Something happened.
    pub fn handle<T: Table + ?Sized>(
        &mut self,
        now: Duration,
        event: Event,
        table: &T,
        out: &mut Vec<Action>,
    ) {
        self.excuse_our_own_sleep(now);
        // Copies end by the ten thousand; no member changes by it.
        let members_too = match &event {
            Event::CopyDone { result, .. } => *result == CopyResult::TargetFull,
            Event::Check { .. } | Event::CheckAll => false,
            _ => true,
        };
        self.apply(now, event, table, out);
        self.upkeep(members_too, now, table, out);
    }

    /// Somebody asks for something.
    ///
    /// # Errors
    /// See [`Refused`]; nothing is changed then.
    pub fn command<T: Table + ?Sized>(
        &mut self,
        now: Duration,
        command: Command,
        table: &T,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        self.excuse_our_own_sleep(now);
        let done = self.obey(now, command, out);
        self.upkeep(true, now, table, out);
        done
    }

    /// When [`handle`](Self::handle) is to be called at the latest, with [`Event::Tick`] if nothing
    /// else happened.
    pub fn next_wake(&self) -> Duration {
        self.promised
    }

    /// What reads and writes go by.
    pub fn view(&self) -> Arc<View> {
        self.view.clone()
    }

    /// Attempts to connect so far.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> u64 {
        self.sessions
    }

    /// Nothing is being copied, and nothing waits to be.
    pub fn is_idle(&self) -> bool {
        self.repair.is_idle()
    }

    /// Our own thread did not run: the adverts of that time wait to be read, and nobody is dead of it.
    fn excuse_our_own_sleep(&mut self, now: Duration) {
        let lateness = now.saturating_sub(self.promised);
        if lateness >= self.config.advert_period {
            for member in self.members.iter_mut() {
                member.forgive(lateness);
            }
        }
    }

    fn apply<T: Table + ?Sized>(
        &mut self,
        now: Duration,
        event: Event,
        table: &T,
        out: &mut Vec<Action>,
    ) {
        match event {
            Event::Tick => {}
            Event::AddMember(spec) => self.named(&spec, now, out),
            Event::Unlist { name } => {
                if let Ok(member) = self.members.named(&name) {
                    member.listed = false;
                    if matches!(member.health, Health::Dead { .. }) {
                        self.repair.want();
                    }
                }
            }
            Event::Connected {
                member,
                session,
                store,
                incarnation,
            } => self.connected(member, session, store, incarnation, now, out),
            Event::ConnectFailed {
                member,
                session,
                why,
            }
            | Event::Lost {
                member,
                session,
                why,
            } => self.lost(member, session, &why, now, out),
            Event::Advert {
                member,
                session,
                advert,
            } => {
                if let Some(known) = self.members.get_mut(member) {
                    let before = known.room(now);
                    if known.adverted(session, advert, now) {
                        let after = known.room(now);
                        self.view_wrong |= (before.1 == 0) != (after.1 == 0);
                        if before.1 == 0 && after.1 > 0 {
                            self.repair.there_is_room();
                        }
                        self.view_old |= before != after;
                    }
                }
            }
            Event::Reconciled {
                member,
                session,
                cleared,
                flushed,
            } => self.reconciled(member, session, cleared, flushed, out),
            Event::ReconcileFailed {
                member,
                session,
                why,
            } => {
                if let Some(member) = self.members.get_mut(member) {
                    member.not_reconciled(session, why, &self.config, now, &mut self.random, out);
                }
            }
            Event::Suspected { member } => {
                if let Some(member) = self.members.get_mut(member) {
                    member.suspected(&self.config, now);
                    self.why = Some("a data connection failed".into());
                }
            }
            Event::CopyDone { slot, result } => {
                self.view_wrong |= result == CopyResult::TargetFull;
                let (repair, mut scene) = self.scene(now, table);
                repair.ended(slot, result, &mut scene);
            }
            Event::Check { slot } => self.repair.hint(slot, &self.config, now),
            Event::CheckAll => self.repair.want(),
        }
    }

    fn scene<'a, T: Table + ?Sized>(
        &'a mut self,
        now: Duration,
        table: &'a T,
    ) -> (&'a mut Repair, Scene<'a, T>) {
        let scene = Scene {
            now,
            config: &self.config,
            standing: self.standing,
            members: &mut self.members,
            view: &self.view,
            table,
            random: &mut self.random,
        };
        (&mut self.repair, scene)
    }

    fn named(&mut self, spec: &MemberSpec, now: Duration, out: &mut Vec<Action>) {
        if let Err(refused) = self.members.add(spec, now, out) {
            out.push(Action::Notice(Notice::NotAdded {
                name: spec.name.clone(),
                why: refused.to_string(),
            }));
        }
        self.view_wrong = true;
    }

    fn connected(
        &mut self,
        number: MemberNo,
        session: u64,
        store: [u8; 16],
        incarnation: u64,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        let other = self.members.same_store(number, store);
        let other = other.map(|other| other.name.to_string());
        let Some(member) = self.members.get_mut(number) else {
            return;
        };
        if let Some(other) = other {
            let why = Lost::Rejected(format!("it is the same store as {other}"));
            let told = member.error.as_ref() == Some(&why.to_string());
            if !member.is_connecting(session) {
                return;
            }
            out.push(Action::Close {
                member: number,
                session,
            });
            member.lost(session, &why, &self.config, now, &mut self.random);
            if !told {
                let name = member.name.to_string();
                out.push(Action::Notice(Notice::SameStore { name, other }));
            }
            return;
        }
        let greeting = member.connected(session, store, incarnation, now);
        let trusted = match greeting {
            Greeting::Stale => return,
            Greeting::Trusted => true,
            Greeting::Untrusted { empty } => {
                if empty {
                    let name = member.name.to_string();
                    out.push(Action::Notice(Notice::CameBackEmpty { name }));
                }
                false
            }
        };
        out.push(Action::Reconcile {
            member: number,
            session,
            trusted,
        });
    }

    fn lost(
        &mut self,
        number: MemberNo,
        session: u64,
        why: &Lost,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        let Some(member) = self.members.get_mut(number) else {
            return;
        };
        let told = member.error.as_ref() == Some(&why.to_string());
        if !member.lost(session, why, &self.config, now, &mut self.random) {
            return;
        }
        self.why = Some(why.to_string());
        if *why == Lost::Fenced && !told {
            let name = member.name.to_string();
            out.push(Action::Notice(Notice::Fenced { name }));
        }
    }

    fn reconciled(
        &mut self,
        number: MemberNo,
        session: u64,
        cleared: u64,
        flushed: u64,
        out: &mut Vec<Action>,
    ) {
        let Some(member) = self.members.get_mut(number) else {
            return;
        };
        if !member.is_connected(session) {
            return;
        }
        member.reconciled(session);
        // What was of no use is room that the last advert knew nothing of.
        let room = i64::try_from(flushed).unwrap_or(i64::MAX);
        member.since_advert = member.since_advert.saturating_sub(room);
        if cleared > 0 {
            self.repair.want();
        }
        if cleared + flushed > 0 {
            out.push(Action::Notice(Notice::Reconciled {
                name: member.name.to_string(),
                cleared,
                flushed,
            }));
        }
    }

    /// What is done after every event, so that no event can forget it.
    fn upkeep<T: Table + ?Sized>(
        &mut self,
        members_too: bool,
        now: Duration,
        table: &T,
        out: &mut Vec<Action>,
    ) {
        if members_too || now >= self.promised || self.view_wrong {
            self.attend(now, out);
        }
        let (repair, mut scene) = self.scene(now, table);
        repair.advance(&mut scene, out);
        if self.repair.totals.surveys != self.surveys {
            self.surveys = self.repair.totals.surveys;
            self.tell_what_cannot_be_read(out);
            // A survey says who is drained, and who is gone.
            self.attend(now, out);
        }
        self.promised = self.due(now);
    }

    fn attend(&mut self, now: Duration, out: &mut Vec<Action>) {
        for member in self.members.iter_mut() {
            member.attend(&self.config, now, &mut self.sessions, &mut self.random, out);
        }
        self.members.remember(out);
        let mut joined = false;
        let states = self.members.states();
        for (before, member) in self.states.iter().zip((0..).filter_map(MemberNo::new)) {
            let Some(member) = self.members.get(member) else {
                self.view_wrong |= before.is_some();
                continue;
            };
            let (Some(from), to) = (*before, member.state()) else {
                self.view_wrong = true;
                continue;
            };
            if from != to {
                self.view_wrong = true;
                let was_out = [State::Joining, State::Dead, State::Drained].contains(&from);
                joined |= to == State::Up && was_out;
                if to == State::Up {
                    self.repair.there_is_room();
                }
                let silent = (to == State::Dead).then(|| "not a word from it".into());
                out.push(Action::Notice(Notice::State {
                    name: member.name.to_string(),
                    from,
                    to,
                    why: silent.or_else(|| self.why.clone()),
                }));
            }
        }
        self.states = states;
        self.why = None;
        let standing = self.members.standing(&self.config, now);
        let matters = |standing: Standing| Standing {
            well: 0,
            ..standing
        };
        if matters(standing) != matters(self.standing) {
            self.repair.want();
        }
        if joined {
            self.repair.want_rebalance();
        }
        self.standing = standing;
        let due = self.published_at + self.config.advert_period / 2;
        if self.view_wrong || self.view_old && now >= due {
            (self.view_wrong, self.view_old) = (false, false);
            self.published_at = now;
            self.view = Arc::new(self.members.view(&self.config, now));
            out.push(Action::Publish(self.view.clone()));
        }
    }

    fn tell_what_cannot_be_read(&mut self, out: &mut Vec<Action>) {
        let counts = &self.repair.counts;
        if counts.unreachable != self.told_unreachable {
            self.told_unreachable = counts.unreachable;
            let pages = counts.unreachable;
            out.push(Action::Notice(Notice::Unreachable { pages }));
        }
        if counts.lost != self.told_lost {
            self.told_lost = counts.lost;
            let pages = counts.lost;
            out.push(Action::Notice(Notice::LostPages { pages }));
        }
    }

    fn due(&self, now: Duration) -> Duration {
        let members = self
            .members
            .iter()
            .filter_map(|member| member.due(&self.config));
        let view = self
            .view_old
            .then(|| self.published_at + self.config.advert_period / 2);
        let grace = self.members.grace_ends(&self.config);
        let members = members.chain(view).chain(grace).filter(|at| *at > now);
        let repair = self.repair.due(&self.config, now);
        let repair = repair.map(|at| at.max(now + self.config.walk_pause));
        // Often enough to tell our own sleep from the stores' silence.
        let often = now + self.config.advert_period;
        members
            .chain(repair)
            .min()
            .map_or(often, |at| at.min(often))
    }
}
