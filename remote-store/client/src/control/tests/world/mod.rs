// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stores, a table and a driver that exist only in a test's virtual time, around the real core.
//!
//! Every action is checked when it comes: a copy to a store that the core itself takes for dead, one
//! copy too many under way, a byte above the bound, a trim that leaves too little, end the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::control::*;

mod checks;
mod verbs;

pub(super) const MS: Duration = Duration::from_millis(1);

/// A store in truth, whatever the core believes.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) alive: bool,
    /// Alive, but says and does nothing.
    pub(super) frozen: bool,
    /// Answers a hello, and nothing after it.
    pub(super) mute: bool,
    pub(super) incarnation: u64,
    pub(super) capacity: u64,
    /// Slot and what was written there.
    pub(super) pages: BTreeMap<u32, u64>,
    session: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Page {
    pub(super) mask: u64,
    /// What the last write wrote.
    pub(super) value: u64,
}

/// The table: what the client believes.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) slots: u32,
    pub(super) pages: BTreeMap<u32, Page>,
}

impl Table for Pages {
    fn slots(&self) -> u32 {
        self.slots
    }

    fn copies(&self, slot: u32) -> Option<u64> {
        self.pages.get(&slot).map(|page| page.mask)
    }
}

#[derive(Clone, Copy, Debug)]
enum Soon {
    Connected(MemberNo, u64),
    Advert(MemberNo, u64),
    Reconcile(MemberNo, u64),
    Copy {
        slot: u32,
        expected: u64,
        value: u64,
        from: MemberNo,
        to: MemberNo,
        to_trust: u64,
        drop: u64,
    },
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) core: Core,
    pub(super) config: Config,
    pub(super) table: Pages,
    pub(super) stores: Vec<Store>,
    pub(super) notices: Vec<Notice>,
    pub(super) known: BTreeMap<u8, Known>,
    pub(super) random: Random,
    /// How often a copy fails for no visible reason: one in so many; 0 for never.
    pub(super) copy_fault_one_in: u64,
    /// How often a target says that it has a page, and has not; or a source that it has none.
    pub(super) lies_one_in: u64,
    pub(super) copies_begun: Vec<(Duration, u32)>,
    pub(super) most_in_flight: usize,
    pub(super) copy_time: Duration,
    soon: BTreeMap<(Duration, u64), Soon>,
    sequence: u64,
    values: u64,
    in_flight: BTreeSet<u32>,
    /// Names by member number, as the core numbers them.
    pub(super) numbers: BTreeMap<u8, usize>,
    view: Arc<View>,
    /// No bit of a store may go but for these.
    given_up: u64,
}

pub(super) fn name(store: usize) -> String {
    format!("store-{store}")
}

pub(super) fn spec(store: usize) -> MemberSpec {
    MemberSpec {
        name: name(store),
        address: format!("10.0.0.{store}:7400"),
        kind: Kind::Remote,
        domain: None,
        weight_percent: 100,
    }
}

impl World {
    pub(super) fn new(config: Config, slots: u32, seed: u64) -> Self {
        let core = Core::new(config.clone(), &[], seed, Duration::ZERO).unwrap();
        Self {
            now: Duration::ZERO,
            view: core.view(),
            core,
            config,
            table: Pages {
                slots,
                ..Pages::default()
            },
            stores: Vec::new(),
            notices: Vec::new(),
            known: BTreeMap::new(),
            random: Random::new(seed ^ 0x5eed),
            copy_fault_one_in: 0,
            lies_one_in: 0,
            copies_begun: Vec::new(),
            most_in_flight: 0,
            copy_time: MS,
            soon: BTreeMap::new(),
            sequence: 0,
            values: 0,
            in_flight: BTreeSet::new(),
            numbers: BTreeMap::new(),
            given_up: 0,
        }
    }

    /// A world with `stores` stores that are up, of `capacity` pages each.
    pub(super) fn with_stores(config: Config, stores: usize, capacity: u64, slots: u32) -> Self {
        let mut world = Self::new(config, slots, 1);
        for _ in 0..stores {
            world.add_store(capacity);
        }
        world.run(world.config.advert_period * 2);
        world
    }

    pub(super) fn add_store(&mut self, capacity: u64) -> usize {
        let store = self.new_store(capacity);
        self.event(Event::AddMember(spec(store)));
        store
    }

    pub(super) fn new_store(&mut self, capacity: u64) -> usize {
        self.stores.push(Store {
            alive: true,
            frozen: false,
            mute: false,
            incarnation: self.stores.len() as u64 * 1000 + 1,
            capacity,
            pages: BTreeMap::new(),
            session: None,
        });
        self.stores.len() - 1
    }

    /// The member number of a store.
    pub(super) fn number(&self, store: usize) -> MemberNo {
        let number = self.numbers.iter().find(|(_, at)| **at == store);
        MemberNo::new(*number.expect("the store is a member").0).unwrap()
    }

    pub(super) fn state(&self, store: usize) -> State {
        let status = self.core.status(self.now);
        let mut members = status.members.iter();
        let member = members.find(|member| member.name == name(store));
        member.map_or(State::Removed, |member| member.state)
    }

    fn store(&mut self, member: MemberNo) -> Option<&mut Store> {
        let at = *self.numbers.get(&member.get())?;
        self.stores.get_mut(at)
    }

    pub(super) fn event(&mut self, event: Event) {
        let mut out = Vec::new();
        self.core.handle(self.now, event, &self.table, &mut out);
        self.obey(out);
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), Refused> {
        if let Command::Remove { name, force: true } = &command {
            let status = self.core.status(self.now);
            let gone = status.members.iter().find(|member| member.name == *name);
            self.given_up |= gone.map_or(0, |member| 1 << member.number);
        }
        let mut out = Vec::new();
        let done = self.core.command(self.now, command, &self.table, &mut out);
        self.obey(out);
        done
    }

    fn later(&mut self, pause: Duration, what: Soon) {
        self.sequence += 1;
        self.soon.insert((self.now + pause, self.sequence), what);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wake = self.core.next_wake().max(self.now);
            let next = self.soon.first_key_value().map(|((at, _), _)| *at);
            let at = next.map_or(wake, |next| next.min(wake));
            if at > end {
                self.now = end;
                return;
            }
            self.now = at;
            if next == Some(at) {
                let (_, what) = self.soon.pop_first().unwrap();
                self.happens(what);
            } else {
                self.event(Event::Tick);
            }
        }
    }

    fn happens(&mut self, what: Soon) {
        match what {
            Soon::Connected(member, session) => {
                let Some(store) = self.store(member) else {
                    return;
                };
                if !store.alive {
                    let why = Lost::Refused;
                    return self.event(Event::ConnectFailed {
                        member,
                        session,
                        why,
                    });
                }
                if store.frozen {
                    return;
                }
                store.session = Some(session);
                let incarnation = store.incarnation;
                let id = [u8::try_from(self.numbers[&member.get()]).unwrap(); 16];
                self.event(Event::Connected {
                    member,
                    session,
                    store: id,
                    incarnation,
                });
                self.later(MS, Soon::Advert(member, session));
            }
            Soon::Advert(member, session) => {
                let period = self.config.advert_period;
                let Some(store) = self.store(member) else {
                    return;
                };
                if !store.alive || store.session != Some(session) {
                    return;
                }
                let advert = store.advert();
                if store.answers() {
                    self.event(Event::Advert {
                        member,
                        session,
                        advert,
                    });
                }
                self.later(period, Soon::Advert(member, session));
            }
            Soon::Reconcile(member, session) => self.reconcile(member, session),
            Soon::Copy {
                slot,
                expected,
                value,
                from,
                to,
                to_trust,
                drop,
            } => {
                let result = self.copy(slot, (expected, value), from, to, to_trust, drop);
                self.in_flight.remove(&slot);
                self.event(Event::CopyDone { slot, result });
            }
        }
    }

    fn reconcile(&mut self, member: MemberNo, session: u64) {
        let Some(store) = self.store(member) else {
            return;
        };
        if !store.alive || store.session != Some(session) {
            return;
        }
        if !store.answers() {
            return self.later(MS * 10, Soon::Reconcile(member, session));
        }
        let listed = store.pages.clone();
        let (mut cleared, mut flushed) = (0, 0);
        for (slot, page) in &mut self.table.pages {
            let right = listed.contains_key(slot);
            if page.mask & member.bit() != 0 && !right {
                page.mask &= !member.bit();
                cleared += 1;
            }
        }
        for slot in listed.keys() {
            let named = |page: &Page| page.mask & member.bit() != 0;
            if !self.table.pages.get(slot).is_some_and(named) {
                flushed += 1;
                if let Some(store) = self.store(member) {
                    store.pages.remove(slot);
                }
            }
        }
        self.event(Event::Reconciled {
            member,
            session,
            cleared,
            flushed,
        });
    }

    fn copy(
        &mut self,
        slot: u32,
        (expected, value): (u64, u64),
        from: MemberNo,
        to: MemberNo,
        to_trust: u64,
        drop: u64,
    ) -> CopyResult {
        let faults = self.copy_fault_one_in;
        if faults > 0 && self.random.below(faults) == 0 {
            let results = [
                CopyResult::Changed,
                CopyResult::SourceUnreachable,
                CopyResult::TargetFull,
                CopyResult::TargetFailed,
            ];
            return results[usize::try_from(self.random.below(4)).unwrap()];
        }
        let same = |page: &Page| page.mask == expected && page.value == value;
        if !self.table.pages.get(&slot).is_some_and(same) {
            return CopyResult::Changed;
        }
        let Some(source) = self.store(from).filter(|store| store.answers()) else {
            return CopyResult::SourceUnreachable;
        };
        let missing = source.pages.get(&slot) != Some(&value);
        if missing || self.lies() && !self.is_last(slot, from) {
            let page = self.table.pages.get_mut(&slot).unwrap();
            page.mask &= !from.bit();
            return CopyResult::SourceBad;
        }
        let trust = self.view.trust(to);
        let Some(target) = self.store(to).filter(|store| store.answers()) else {
            return CopyResult::TargetFailed;
        };
        if target.pages.len() as u64 >= target.capacity {
            return CopyResult::TargetFull;
        }
        if trust != Some(to_trust) {
            return CopyResult::TargetFailed;
        }
        target.pages.insert(slot, value);
        let page = self.table.pages.get_mut(&slot).unwrap();
        page.mask = page.mask & !drop | to.bit();
        self.flush(slot, drop);
        if self.lies() && self.may_lie(slot, to) {
            self.store(to).unwrap().pages.remove(&slot);
        }
        CopyResult::Done
    }

    /// Stores that cannot be reached keep what they have until they are reconciled.
    fn flush(&mut self, slot: u32, members: u64) {
        for member in MemberNo::all_in(members) {
            if let Some(store) = self.store(member).filter(|store| store.answers()) {
                store.pages.remove(&slot);
            }
        }
    }

    pub(super) fn obey(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Connect {
                    member, session, ..
                } => self.later(MS, Soon::Connected(member, session)),
                Action::Close { member, session } => {
                    if let Some(store) = self.store(member)
                        && store.session == Some(session)
                    {
                        store.session = None;
                    }
                }
                Action::Reconcile {
                    member, session, ..
                } => self.later(MS * 3, Soon::Reconcile(member, session)),
                Action::Copy {
                    slot,
                    expected,
                    from,
                    to,
                    to_trust,
                    drop,
                } => {
                    self.check_copy(slot, expected, from, to, drop);
                    let value = self.table.pages[&slot].value;
                    let time = self.copy_time;
                    let what = Soon::Copy {
                        slot,
                        expected,
                        value,
                        from,
                        to,
                        to_trust,
                        drop,
                    };
                    self.later(time, what);
                }
                Action::Trim {
                    slot,
                    expected,
                    drop,
                } => {
                    self.check_trim(expected, drop);
                    let page = self.table.pages.get_mut(&slot).unwrap();
                    assert_eq!(page.mask, expected, "a trim of what the table says");
                    page.mask &= !drop;
                    self.flush(slot, drop);
                }
                Action::Publish(view) => {
                    assert!(view.version() > self.view.version());
                    self.view = view;
                }
                Action::Remember {
                    number,
                    name: id,
                    incarnation,
                } => {
                    let at = (0..self.stores.len()).find(|at| name_id(&name(*at)) == id);
                    if let Some(at) = at {
                        self.numbers.insert(number.get(), at);
                    }
                    let known = Known {
                        number,
                        name: id,
                        incarnation,
                    };
                    self.known.insert(number.get(), known);
                    if id == 0 {
                        self.known.remove(&number.get());
                    }
                }
                Action::Forget { member } => {
                    self.numbers.remove(&member.get());
                    self.given_up &= !member.bit();
                    let named = |page: &Page| page.mask & member.bit() != 0;
                    assert!(!self.table.pages.values().any(named), "a page names it");
                }
                Action::Notice(notice) => self.notices.push(notice),
            }
        }
        self.check_view();
    }
}

impl Store {
    pub(super) fn answers(&self) -> bool {
        self.alive && !self.frozen && !self.mute
    }

    fn advert(&self) -> Advert {
        let used = self.pages.len() as u64;
        Advert {
            capacity_pages: self.capacity,
            free_pages: self.capacity.saturating_sub(used),
            quota_pages: self.capacity,
            used_pages: used,
            load: 0,
        }
    }
}
