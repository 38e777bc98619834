// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One member: whether it lives, whether its copies are trusted, and whether it is wanted.
//!
//! ```text
//!              reconciled, or the incarnation that was trusted before our restart
//!   Joining ───────────────────────────────▶ Up ◀──── next sign of life ────┐
//!     ▲  │                                    │                             │
//!     │  │ silent                             │ reset, refused, reported    │
//!     │  ▼            silent                  ▼                             │
//!   Dead ◀──────────────────────────────── Suspect ─────────────────────────┘
//!     └──── connected again: Joining, until its list and the table agree
//! ```
//! A connection that ends makes a suspect at once: reads go elsewhere and writes are not placed
//! there. Only silence of some periods makes it dead. What a member is wanted for ([`Intent`]) is a
//! matter apart from its health: a store that drains may die.
//!
//! A hello alone is no life. A store that introduces itself and then never gets as far as being up has
//! *stalled*: it stays dead to everybody else, from its first death on, however often it says hello.
//! So nothing waits for it, and it is tried ever more rarely.

use std::sync::Arc;
use std::time::Duration;

use super::action::Action;
pub(crate) use super::condition::{Greeting, Health, Intent, Link};
use super::config::Config;
use super::event::{Advert, Kind, Lost, MemberNo, MemberSpec, name_id};
use super::random::Random;
use super::view::State;

/// Doublings of the pause between attempts, at most.
const DOUBLINGS_MAX: u32 = 16;

/// Suspicions closer together than this make each other last longer.
const STRIKES_FADE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) number: MemberNo,
    pub(crate) name: Arc<str>,
    pub(crate) address: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) domain: Option<String>,
    pub(crate) weight_percent: u16,
    pub(crate) intent: Intent,
    /// A source of members, or a person, names it.
    pub(crate) listed: bool,
    pub(crate) link: Link,
    pub(crate) health: Health,
    pub(crate) store: Option<[u8; 16]>,
    /// The life of the store whose copies the table names; 0 if none is trusted.
    pub(crate) incarnation: u64,
    /// What the table's memory was last told of `incarnation`.
    pub(crate) kept: u64,
    /// The life of the store that was met last; 0 if none was.
    pub(crate) met: u64,
    /// Grows each time that trust begins anew.
    pub(crate) trust: u64,
    /// The last sign of life.
    pub(crate) heard: Duration,
    pub(crate) advert: Option<Advert>,
    /// It said that it is full, and is not asked again before this time.
    pub(crate) full_until: Duration,
    /// Pages that repair brings there, less those it takes away: under way, and done since the
    /// last advert.
    pub(crate) under_way: i64,
    pub(crate) since_advert: i64,
    /// It holds no page that it should give away.
    pub(crate) drained: bool,
    /// Copies that the last walk found, and before that when its drain began.
    pub(crate) held: Option<u64>,
    pub(crate) held_at_first: Option<u64>,
    pub(crate) error: Option<String>,
    /// The list is to be compared again then: a sweep that failed.
    pub(crate) sweep_at: Option<Duration>,
    failures: u32,
    /// Times that it introduced itself in vain since it was up.
    stalls: u32,
    /// Its first death since it was up.
    died: Option<Duration>,
    strikes: u32,
    struck: Duration,
}

impl Member {
    pub(crate) fn new(
        number: MemberNo,
        spec: &MemberSpec,
        incarnation: u64,
        now: Duration,
    ) -> Self {
        Self {
            number,
            name: spec.name.as_str().into(),
            address: spec.address.as_str().into(),
            kind: spec.kind,
            domain: spec.domain.clone(),
            weight_percent: spec.weight_percent,
            intent: Intent::Keep,
            listed: true,
            link: Link::Idle { retry_at: now },
            health: Health::Joining,
            store: None,
            incarnation,
            kept: incarnation,
            met: incarnation,
            trust: 0,
            heard: now,
            advert: None,
            full_until: Duration::ZERO,
            under_way: 0,
            since_advert: 0,
            drained: false,
            held: None,
            held_at_first: None,
            error: None,
            sweep_at: None,
            failures: 0,
            stalls: 0,
            died: None,
            strikes: 0,
            struck: Duration::ZERO,
        }
    }

    pub(crate) fn state(&self) -> State {
        match (self.intent, self.health) {
            (Intent::GiveUp { .. }, _) => State::Removed,
            (_, Health::Joining) if !self.has_stalled() => State::Joining,
            (_, Health::Joining | Health::Dead { .. }) => State::Dead,
            (_, Health::Suspect { .. }) => State::Suspect,
            (Intent::Drain { .. }, Health::Up) if self.drained => State::Drained,
            (Intent::Drain { .. }, Health::Up) => State::Draining,
            (Intent::Keep, Health::Up) => State::Up,
        }
    }

    /// Its copies can be read.
    pub(crate) fn good(&self) -> bool {
        let lives = matches!(self.health, Health::Up | Health::Suspect { .. });
        lives && !self.given_up()
    }

    pub(crate) fn given_up(&self) -> bool {
        matches!(self.intent, Intent::GiveUp { .. })
    }

    /// It is wanted again, whatever was decided before.
    pub(crate) fn keep(&mut self) {
        self.intent = Intent::Keep;
        self.drained = false;
        self.held_at_first = None;
    }

    /// It is too early to count its copies as gone.
    pub(crate) fn awaited(&self, config: &Config, now: Duration) -> bool {
        let lately = |died: Duration| now < died + config.repair_delay;
        let awaited = match self.health {
            Health::Joining => !self.has_stalled() || self.died.is_none_or(lately),
            Health::Dead { since } => lately(since),
            Health::Up | Health::Suspect { .. } => false,
        };
        awaited && !self.given_up()
    }

    /// Its copies count again, or for the first time.
    fn be_up(&mut self) {
        self.health = Health::Up;
        self.failures = 0;
        self.stalls = 0;
        self.died = None;
    }

    /// It has died, and got no further than its hello since.
    fn has_stalled(&self) -> bool {
        self.stalls > 0 && self.died.is_some()
    }

    /// It got no further than its hello.
    fn stall(&mut self) {
        if self.health == Health::Joining && matches!(self.link, Link::Connected { .. }) {
            self.stalls = self.stalls.saturating_add(1);
        }
    }

    fn session(&self) -> Option<u64> {
        match self.link {
            Link::Idle { .. } => None,
            Link::Connecting { session, .. } | Link::Connected { session } => Some(session),
        }
    }

    /// That attempt is under way.
    pub(crate) fn is_connecting(&self, session: u64) -> bool {
        matches!(self.link, Link::Connecting { session: mine, .. } if mine == session)
    }

    /// That connection is the one in use.
    pub(crate) fn is_connected(&self, session: u64) -> bool {
        self.link == Link::Connected { session }
    }

    /// Ends the connection, if there is one, and plans the next attempt.
    pub(crate) fn hang_up(&mut self, retry_at: Duration, out: &mut Vec<Action>) {
        if let Some(session) = self.session() {
            out.push(Action::Close {
                member: self.number,
                session,
            });
        }
        self.link = Link::Idle { retry_at };
        self.sweep_at = None;
    }

    /// The pause before the next attempt: it doubles with each failure.
    fn backoff(&mut self, config: &Config, random: &mut Random) -> Duration {
        let doublings = self.failures.min(DOUBLINGS_MAX);
        self.failures = self.failures.saturating_add(1);
        let pause = config.backoff_min.saturating_mul(1 << doublings);
        random.around(pause.min(config.backoff_max))
    }

    /// Connects when it is time to, and gives up an attempt that takes too long.
    pub(crate) fn attend(
        &mut self,
        config: &Config,
        now: Duration,
        sessions: &mut u64,
        random: &mut Random,
        out: &mut Vec<Action>,
    ) {
        match self.link {
            Link::Idle { retry_at } if now >= retry_at && !self.given_up() => {
                *sessions += 1;
                self.link = Link::Connecting {
                    session: *sessions,
                    since: now,
                };
                out.push(Action::Connect {
                    member: self.number,
                    session: *sessions,
                    address: self.address.to_string(),
                    kind: self.kind,
                });
            }
            Link::Connecting { since, .. } if now >= since + config.connect_timeout => {
                self.error = Some(Lost::TimedOut.to_string());
                let retry_at = now + self.backoff(config, random);
                self.hang_up(retry_at, out);
            }
            _ => {}
        }
        if self.is_silent(config, now) {
            self.stall();
            let since = *self.died.get_or_insert(now);
            self.health = Health::Dead { since };
            self.incarnation = 0;
            // A connection that was silent for so long is not listened to any more.
            if matches!(self.link, Link::Connected { .. }) {
                self.error = Some("it has stopped to speak".into());
                let retry_at = now + self.backoff(config, random);
                self.hang_up(retry_at, out);
            }
        }
        if let (Some(at), Link::Connected { session }) = (self.sweep_at, self.link)
            && now >= at
        {
            self.sweep_at = None;
            out.push(Action::Reconcile {
                member: self.number,
                session,
                trusted: self.good(),
            });
        }
    }

    /// When it has to be looked at again.
    pub(crate) fn due(&self, config: &Config) -> Option<Duration> {
        let link = match self.link {
            Link::Idle { .. } if self.given_up() => None,
            Link::Idle { retry_at } => Some(retry_at),
            Link::Connecting { since, .. } => Some(since + config.connect_timeout),
            Link::Connected { .. } => self.sweep_at,
        };
        let health = match self.health {
            Health::Dead { since } => Some(since + config.repair_delay),
            _ if self.kind == Kind::Disk && matches!(self.link, Link::Connected { .. }) => None,
            _ => Some(self.heard + config.death_after()),
        };
        [link, health].into_iter().flatten().min()
    }

    fn is_silent(&self, config: &Config, now: Duration) -> bool {
        if matches!(self.health, Health::Dead { .. }) {
            return false;
        }
        // A file has no voice of its own: it is there, or the driver says that it is lost.
        let file = self.kind == Kind::Disk && matches!(self.link, Link::Connected { .. });
        !file && now >= self.heard + config.death_after()
    }

    /// The store has introduced itself.
    pub(crate) fn connected(
        &mut self,
        session: u64,
        store: [u8; 16],
        incarnation: u64,
        now: Duration,
    ) -> Greeting {
        if !self.is_connecting(session) {
            return Greeting::Stale;
        }
        self.link = Link::Connected { session };
        self.heard = now;
        if !self.has_stalled() {
            self.error = None;
        }
        let other = self.store.is_some_and(|known| known != store);
        self.store = Some(store);
        // No store calls its incarnation 0; one that does is never trusted without a comparison.
        let same = !other && incarnation != 0 && incarnation == self.incarnation;
        let was_good = self.good();
        if same && !matches!(self.health, Health::Dead { .. }) {
            if !was_good {
                self.trust += 1;
            }
            let failures = self.failures;
            self.be_up();
            // Until its first advert.
            self.failures = failures;
            self.met = incarnation;
            return Greeting::Trusted;
        }
        self.health = Health::Joining;
        let empty = other || self.met != 0 && self.met != incarnation;
        self.met = incarnation;
        self.incarnation = 0;
        Greeting::Untrusted { empty }
    }

    /// Its list and the table agree.
    pub(crate) fn reconciled(&mut self, session: u64) {
        if self.is_connected(session) && self.health == Health::Joining {
            self.be_up();
            self.error = None;
            self.incarnation = self.met;
            self.trust += 1;
        }
    }

    /// They could not be compared.
    pub(crate) fn not_reconciled(
        &mut self,
        session: u64,
        why: String,
        config: &Config,
        now: Duration,
        random: &mut Random,
        out: &mut Vec<Action>,
    ) {
        if !self.is_connected(session) {
            return;
        }
        self.error = Some(why);
        if self.health == Health::Joining {
            self.stall();
            let retry_at = now + self.backoff(config, random);
            self.hang_up(retry_at, out);
        } else {
            self.sweep_at = Some(now + random.around(config.backoff_max));
        }
    }

    /// The connection, or the attempt, ended. False if it was an older one.
    pub(crate) fn lost(
        &mut self,
        session: u64,
        why: &Lost,
        config: &Config,
        now: Duration,
        random: &mut Random,
    ) -> bool {
        if self.session() != Some(session) {
            return false;
        }
        self.error = Some(why.to_string());
        self.stall();
        let pause = match why {
            Lost::Fenced | Lost::Rejected(_) => random.around(config.backoff_max),
            _ => self.backoff(config, random),
        };
        self.link = Link::Idle {
            retry_at: now + pause,
        };
        self.sweep_at = None;
        if self.health == Health::Up {
            self.health = Health::Suspect { until: now };
        }
        true
    }

    /// A data connection failed.
    pub(crate) fn suspected(&mut self, config: &Config, now: Duration) -> bool {
        if !matches!(self.health, Health::Up | Health::Suspect { .. }) {
            return false;
        }
        let pause = if self.strikes == 0 || now >= self.struck + STRIKES_FADE {
            self.strikes = 1;
            Duration::ZERO
        } else {
            self.strikes = (self.strikes + 1).min(6);
            config.advert_period * (1 << (self.strikes - 2))
        };
        self.struck = now;
        self.health = Health::Suspect { until: now + pause };
        true
    }

    /// A sign of life. False if it came over an older connection.
    pub(crate) fn adverted(&mut self, session: u64, advert: Advert, now: Duration) -> bool {
        if !self.is_connected(session) {
            return false;
        }
        self.heard = now;
        self.advert = Some(advert);
        self.since_advert = 0;
        if matches!(self.health, Health::Suspect { until } if now >= until) {
            self.health = Health::Up;
        }
        if self.health == Health::Up {
            self.failures = 0;
        }
        true
    }

    /// Time that was lost on our side is no silence of the store's.
    pub(crate) fn forgive(&mut self, lateness: Duration) {
        self.heard += lateness;
        if let Link::Connecting { since, .. } = &mut self.link {
            *since += lateness;
        }
    }

    /// Pages that this client may keep there, and how many of them are free.
    pub(crate) fn room(&self, now: Duration) -> (u64, u64) {
        let Some(advert) = self.advert else {
            return (0, 0);
        };
        let whole = u128::from(advert.capacity_pages.min(advert.quota_pages));
        let limit = whole * u128::from(self.weight_percent.min(100)) / 100;
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let own = limit.saturating_sub(advert.used_pages);
        let free = i128::from(advert.free_pages.min(own))
            - i128::from(self.under_way)
            - i128::from(self.since_advert);
        let free = u64::try_from(free.max(0)).unwrap_or(u64::MAX).min(limit);
        (limit, if now < self.full_until { 0 } else { free })
    }

    /// The number of its name.
    pub(crate) fn name_id(&self) -> u64 {
        name_id(&self.name)
    }
}
