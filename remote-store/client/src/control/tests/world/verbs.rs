// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a scenario can do to the world, and what it can ask of the truth.

use super::*;

impl World {
    /// Lets time pass until the core has nothing to do, or for `most`.
    pub(in super::super) fn run_until_idle(&mut self, most: Duration) {
        let end = self.now + most;
        // Longer than it takes to find a store dead, and to be sure of it.
        self.run(Duration::from_secs(2));
        while self.now < end {
            self.run(self.config.advert_period);
            let due = self.core.status(self.now).progress.is_some();
            if self.core.is_idle() && !due {
                return;
            }
        }
    }

    pub(in super::super) fn lies(&mut self) -> bool {
        self.lies_one_in > 0 && self.random.below(self.lies_one_in) == 0
    }

    /// The only true copy of the page is there, whether that store answers or not.
    pub(in super::super) fn is_last(&self, slot: u32, member: MemberNo) -> bool {
        let page = &self.table.pages[&slot];
        let true_copy = |member: &MemberNo| {
            let store = self.numbers.get(&member.get());
            store.is_some_and(|at| self.stores[*at].pages.get(&slot) == Some(&page.value))
        };
        let mut others = MemberNo::all_in(page.mask & !member.bit() & !self.given_up);
        let here = page.mask & member.bit() != 0 && true_copy(&member);
        here && !others.any(|other| true_copy(&other))
    }

    /// Of the copies that are wanted one is true even if that of this store is a lie: no client can trim
    /// the right ones of more lies than that.
    pub(in super::super) fn may_lie(&self, slot: u32, member: MemberNo) -> bool {
        let page = &self.table.pages[&slot];
        let others = MemberNo::all_in(page.mask & !member.bit());
        let lies = others.filter(|other| {
            let store = self.numbers.get(&other.get());
            store.is_none_or(|at| self.stores[*at].pages.get(&slot) != Some(&page.value))
        });
        lies.count() + 1 < usize::from(self.config.copies) && !self.is_last(slot, member)
    }

    /// Nothing is lost for good if this store is.
    pub(in super::super) fn can_lose(&self, store: usize) -> bool {
        let numbers = self.numbers.iter().filter(|(_, at)| **at == store);
        let members: Vec<_> = numbers.filter_map(|(no, _)| MemberNo::new(*no)).collect();
        let mut slots = self.table.pages.keys();
        !slots.any(|slot| members.iter().any(|member| self.is_last(*slot, *member)))
    }

    /// The process dies and another takes over: what it remembers is the table, and what it was
    /// told to remember.
    pub(in super::super) fn restart_core(&mut self, seed: u64) {
        self.soon.clear();
        self.in_flight.clear();
        self.copies_begun.clear();
        self.given_up = 0;
        for store in &mut self.stores {
            store.session = None;
        }
        let known: Vec<Known> = self.known.values().copied().collect();
        self.core = Core::new(self.config.clone(), &known, seed, self.now).unwrap();
        self.view = self.core.view();
        for store in 0..self.stores.len() {
            self.event(Event::AddMember(spec(store)));
        }
    }

    /// Reads every page everywhere, as readers would in time, and reports what is wrong.
    pub(in super::super) fn scrub(&mut self) {
        for slot in 0..self.table.slots {
            let Some(page) = self.table.pages.get_mut(&slot) else {
                continue;
            };
            let mut bad = 0;
            for member in MemberNo::all_in(page.mask) {
                let Some(at) = self.numbers.get(&member.get()) else {
                    continue;
                };
                if self.stores[*at].pages.get(&slot) != Some(&page.value) {
                    bad |= member.bit();
                }
            }
            page.mask &= !bad;
            if bad != 0 {
                self.event(Event::Check { slot });
            }
        }
    }

    /// A write by the data path: placed by the view, on what answers. False if no store took it.
    pub(in super::super) fn write(&mut self, slot: u32) -> bool {
        self.values += 1;
        let value = self.values;
        let view = self.view.clone();
        let placement = view.place(view.copies(), 0, 0, &mut self.random);
        for member in placement.members() {
            assert_eq!(view.member(member).unwrap().state, State::Up);
        }
        let mut mask = 0;
        for member in placement.members() {
            if let Some(store) = self.store(member).filter(|store| store.answers()) {
                if (store.pages.len() as u64) < store.capacity {
                    store.pages.insert(slot, value);
                    mask |= member.bit();
                }
            } else {
                self.event(Event::Suspected { member });
            }
        }
        let before = self.table.pages.remove(&slot);
        if let Some(page) = before {
            self.flush(slot, page.mask & !mask);
        }
        if mask != 0 {
            self.table.pages.insert(slot, Page { mask, value });
        }
        if mask.count_ones() < u32::from(view.copies()) && mask != 0 {
            self.event(Event::Check { slot });
        }
        mask != 0
    }

    /// The page is of no use any more.
    pub(in super::super) fn invalidate(&mut self, slot: u32) {
        if let Some(page) = self.table.pages.remove(&slot) {
            self.flush(slot, page.mask);
        }
    }

    /// kill -9: connections are reset at once.
    pub(in super::super) fn kill(&mut self, store: usize) {
        let session = self.stores[store].session.take();
        self.stores[store].alive = false;
        if let Some(session) = session
            && self.numbers.values().any(|at| *at == store)
        {
            let member = self.number(store);
            let why = Lost::Reset;
            self.event(Event::Lost {
                member,
                session,
                why,
            });
        }
    }

    /// It runs again: with what it had, or without.
    pub(in super::super) fn start(&mut self, store: usize, empty: bool) {
        let store = &mut self.stores[store];
        store.alive = true;
        store.frozen = false;
        store.mute = false;
        if empty {
            store.pages.clear();
            store.incarnation += 1;
        }
    }

    /// Copies of a page that are really there.
    pub(in super::super) fn real_copies(&self, slot: u32) -> usize {
        let page = &self.table.pages[&slot];
        MemberNo::all_in(page.mask)
            .filter_map(|member| self.numbers.get(&member.get()))
            .filter(|at| self.stores[**at].answers())
            .filter(|at| self.stores[**at].pages.get(&slot) == Some(&page.value))
            .count()
    }

    pub(in super::super) fn fewest_real_copies(&self) -> usize {
        let slots = self.table.pages.keys();
        slots.map(|slot| self.real_copies(*slot)).min().unwrap_or(0)
    }

    pub(in super::super) fn said(&self, text: &str) -> bool {
        let mut notices = self.notices.iter();
        notices.any(|notice| notice.to_string().contains(text))
    }
}
