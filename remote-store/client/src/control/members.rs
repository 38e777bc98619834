// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The list of members: who has which number, and what their states mean as masks.
//!
//! A number outlives a restart, because the table's masks do. So a number that the table's memory
//! knows is kept for the name that had it, and one that a page may still name is given to nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use super::action::Action;
use super::config::{Config, MEMBERS_MAX};
use super::event::{Kind, Known, MemberNo, MemberSpec, Refused, name_id};
use super::member::{Health, Intent, Member};
use super::table::Standing;
use super::view::{MemberView, State, View};

#[derive(Debug)]
pub(crate) struct Members {
    list: [Option<Member>; MEMBERS_MAX],
    /// Numbers that the table's memory knows and that no source has named yet.
    reserved: BTreeMap<MemberNo, Known>,
    /// Numbers that were freed in this run, the oldest first: given out again last.
    freed: Vec<MemberNo>,
    started: Duration,
    version: u64,
}

impl Members {
    pub(crate) fn new(known: &[Known], now: Duration) -> Self {
        Self {
            list: [const { None }; MEMBERS_MAX],
            reserved: known.iter().map(|known| (known.number, *known)).collect(),
            freed: Vec::new(),
            started: now,
            version: 0,
        }
    }

    pub(crate) fn get(&self, number: MemberNo) -> Option<&Member> {
        self.list.get(number.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: MemberNo) -> Option<&mut Member> {
        self.list.get_mut(number.index())?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.list.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.list.iter_mut().flatten()
    }

    pub(crate) fn named(&mut self, name: &str) -> Result<&mut Member, Refused> {
        self.iter_mut()
            .find(|member| &*member.name == name)
            .ok_or_else(|| Refused::Unknown(name.to_owned()))
    }

    /// Another member that has the same store at its end.
    pub(crate) fn same_store(&self, number: MemberNo, store: [u8; 16]) -> Option<&Member> {
        self.iter().find(|other| {
            other.number != number
                && other.store == Some(store)
                && !matches!(other.health, Health::Dead { .. })
        })
    }

    /// Adds a member, or changes what is known of it. True if it is a new one.
    pub(crate) fn add(
        &mut self,
        spec: &MemberSpec,
        now: Duration,
        out: &mut Vec<Action>,
    ) -> Result<bool, Refused> {
        let taken = self
            .iter()
            .find(|other| *other.address == *spec.address && *other.name != *spec.name);
        if let Some(other) = taken {
            return Err(Refused::AddressTaken {
                address: spec.address.clone(),
                name: other.name.to_string(),
            });
        }
        if let Ok(member) = self.named(&spec.name) {
            if member.given_up() {
                return Err(Refused::Removing(spec.name.clone()));
            }
            member.listed = true;
            member.domain.clone_from(&spec.domain);
            member.weight_percent = spec.weight_percent;
            if *member.address != *spec.address {
                member.address = spec.address.as_str().into();
                member.hang_up(now, out);
                if member.health == Health::Up {
                    member.health = Health::Suspect { until: now };
                }
            }
            return Ok(false);
        }
        let id = name_id(&spec.name);
        let number = self.number_for(id).ok_or(Refused::TooMany)?;
        let incarnation = self
            .reserved
            .remove(&number)
            .map_or(0, |known| known.incarnation);
        self.freed.retain(|freed| *freed != number);
        let member = Member::new(number, spec, incarnation, now);
        if let Some(place) = self.list.get_mut(number.index()) {
            *place = Some(member);
        }
        out.push(Action::Remember {
            number,
            name: id,
            incarnation,
        });
        Ok(true)
    }

    fn number_for(&self, id: u64) -> Option<MemberNo> {
        if let Some(known) = self.reserved.values().find(|known| known.name == id) {
            return Some(known.number);
        }
        let free =
            |number: &MemberNo| self.get(*number).is_none() && !self.reserved.contains_key(number);
        let mut numbers = (0..64).filter_map(MemberNo::new);
        numbers
            .find(|number| free(number) && !self.freed.contains(number))
            .or_else(|| self.freed.iter().copied().find(free))
    }

    /// Frees a number. No page names it any more.
    pub(crate) fn forget(&mut self, number: MemberNo, out: &mut Vec<Action>) -> Option<Member> {
        self.reserved.remove(&number);
        let gone = self.list.get_mut(number.index()).and_then(Option::take);
        self.freed.push(number);
        out.push(Action::Remember {
            number,
            name: 0,
            incarnation: 0,
        });
        if gone.is_some() {
            out.push(Action::Forget { member: number });
        }
        gone
    }

    /// Reserved numbers that were waited for long enough.
    pub(crate) fn absent(&self, config: &Config, now: Duration) -> Vec<MemberNo> {
        if now < self.started + config.start_grace {
            return Vec::new();
        }
        self.reserved.keys().copied().collect()
    }

    /// When the waiting for reserved numbers ends.
    pub(crate) fn grace_ends(&self, config: &Config) -> Option<Duration> {
        (!self.reserved.is_empty()).then(|| self.started + config.start_grace)
    }

    /// What the states mean for pages.
    pub(crate) fn standing(&self, config: &Config, now: Duration) -> Standing {
        let mut standing = Standing {
            copies: u32::from(config.copies),
            ..Standing::default()
        };
        for member in self.iter() {
            let bit = member.number.bit();
            if member.good() {
                standing.good |= bit;
                if member.intent == Intent::Keep {
                    standing.staying |= bit;
                    if member.health == Health::Up {
                        standing.well |= bit;
                    }
                }
            }
            if member.given_up() {
                standing.given_up |= bit;
            }
            if member.awaited(config, now) {
                standing.awaited |= bit;
            }
        }
        if now < self.started + config.start_grace {
            for number in self.reserved.keys() {
                standing.awaited |= number.bit();
            }
        }
        standing
    }

    /// A snapshot for the data path.
    pub(crate) fn view(&mut self, config: &Config, now: Duration) -> View {
        self.version += 1;
        let members = self
            .iter()
            .map(|member| {
                let (limit_pages, free_pages) = member.room(now);
                let view = MemberView {
                    name: member.name.clone(),
                    address: member.address.clone(),
                    kind: member.kind,
                    state: member.state(),
                    limit_pages,
                    free_pages,
                    trust: member.trust,
                    domain: self.domain_of(member),
                };
                (member.number, view)
            })
            .collect();
        View::new(self.version, config.copies, members)
    }

    fn domain_of(&self, member: &Member) -> u64 {
        let Some(domain) = &member.domain else {
            return member.number.bit();
        };
        self.iter()
            .filter(|other| other.domain.as_ref() == Some(domain))
            .fold(0, |mask, other| mask | other.number.bit())
    }

    /// Everybody's state, to see what an event changed.
    pub(crate) fn states(&self) -> [Option<State>; MEMBERS_MAX] {
        let mut states = [None; MEMBERS_MAX];
        for (state, member) in states.iter_mut().zip(&self.list) {
            *state = member.as_ref().map(Member::state);
        }
        states
    }

    /// Has the table's memory keep which incarnations are trusted, where that changed.
    pub(crate) fn remember(&mut self, out: &mut Vec<Action>) {
        for member in self
            .iter_mut()
            .filter(|member| member.kept != member.incarnation)
        {
            member.kept = member.incarnation;
            out.push(Action::Remember {
                number: member.number,
                name: member.name_id(),
                incarnation: member.incarnation,
            });
        }
    }

    /// Stores whose fullness is compared: those that take pages, and are no files.
    pub(crate) fn balanced(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|member| {
            member.kind == Kind::Remote
                && member.state() == State::Up
                && member.weight_percent > 0
                && member.advert.is_some()
        })
    }
}
