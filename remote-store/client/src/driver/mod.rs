// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one thread that looks after the stores: it does what the owner of their state decides.
//!
//! ```text
//!  sessions ── notes ──┐            ┌─▶ connections over which stores say how they are   control.rs
//!  admin ── commands ──┼─▶ Core ────┼─▶ lists compared with the table               reconcile.rs
//!  tasks ── events ────┘  (sans-IO) ├─▶ pages copied, and flushed          copy.rs, hands.rs, pipe.rs
//!                                   └─▶ the view that sessions go by
//! ```
//! The core decides, and knows neither clock nor socket. The driver brings it events, one at a time,
//! and starts a task for each action that takes time; a task ends with an event. All tasks live in one
//! thread, so nothing here is locked. [`Driver::run`] is that as a future, for a simulation's clock and
//! network; [`Driver::spawn`] is it as a thread.

mod control;
mod copy;
mod handle;
mod hands;
mod pipe;
mod reconcile;
mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

use crate::connect::Connector;
use crate::control::{Action, Core, Event, Kind, Level, MemberNo, MemberSpec, Random};
use crate::shared::{Flush, Note, Shared};
use crate::table::Remembered;
use copy::Plan;
use handle::{Ask, Board};
pub use handle::{CommandError, Handle};
use hands::Hands;
pub use status::{Status, StoreStatus};

/// A store over whose connections something went wrong is swept this long after: what was sent and given
/// up has arrived by then, if it ever does.
const SWEEP_AFTER: Duration = Duration::from_secs(2);
/// Held pages that nobody looks after, and flushes, are looked for this often: the note that told of
/// them may be lost.
const HELD_EVERY: Duration = Duration::from_secs(1);

/// Why a driver has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// A later process has this namespace.
    Fenced {
        /// Its epoch.
        epoch: u64,
    },
}

/// See the module's head. Does nothing until it is run.
pub struct Driver<C: Connector> {
    shared: Arc<Shared<C>>,
    core: Core,
    notes: mpsc::Receiver<Note>,
    asks: mpsc::UnboundedReceiver<Ask>,
    handle: Handle,
}

impl<C: Connector> fmt::Debug for Driver<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// What happened next.
enum Happened {
    Ask(Option<Ask>),
    Event(Option<Event>),
    Note(Option<Note>),
    Time,
}

impl<C: Connector> Driver<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, core: Core, notes: mpsc::Receiver<Note>) -> Self {
        let (sender, asks) = mpsc::unbounded_channel();
        let connector = shared.connector.clone();
        let watched = Arc::clone(&shared);
        let handle = Handle {
            asks: sender,
            board: Arc::new(Board {
                status: RwLock::new(core.status(Duration::ZERO)),
            }),
            check: Arc::new(move |address| connector.check(address)),
            complete: Arc::new(move |control| status::status(&watched, control)),
        };
        Self {
            shared,
            core,
            notes,
            asks,
            handle,
        }
    }

    /// A way to talk to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Looks after the stores until it is told to stop, or another process has taken over.
    pub async fn run(self) -> Ended {
        let tasks = LocalSet::new();
        let running = Box::pin(Running::new(self).run());
        tasks.run_until(running).await
    }

    /// Looks after the stores in a thread of its own, which calls `on_start` first.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn spawn(
        self,
        on_start: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<Ended>>> {
        Builder::new().name("stores".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            on_start();
            Ok(runtime.block_on(self.run()))
        })
    }
}

/// A driver at work.
struct Running<C: Connector> {
    driver: Driver<C>,
    hands: Rc<Hands<C>>,
    events: mpsc::UnboundedReceiver<Event>,
    watches: BTreeMap<MemberNo, (u64, AbortHandle)>,
    begun: Instant,
    held_looked: Instant,
    sweeps: BTreeMap<MemberNo, Instant>,
    random: Random,
    stopped: bool,
}

impl<C: Connector> Running<C> {
    fn new(driver: Driver<C>) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            hands: Hands::new(Arc::clone(&driver.shared), sender),
            random: Random::new(driver.shared.settings.seed),
            driver,
            events,
            watches: BTreeMap::new(),
            begun: now,
            held_looked: now,
            sweeps: BTreeMap::new(),
            stopped: false,
        }
    }

    async fn run(mut self) -> Ended {
        if let Some(disk) = &self.driver.shared.disk {
            let spec = MemberSpec {
                name: disk.name().into(),
                address: String::new(),
                kind: Kind::Disk,
                domain: None,
                weight_percent: 100,
            };
            self.event(Event::AddMember(spec));
        }
        loop {
            let happened = self.next().await;
            match happened {
                Happened::Ask(Some(ask)) => self.ask(ask),
                Happened::Event(Some(event)) => self.event(event),
                Happened::Note(Some(note)) => self.note(note),
                Happened::Time => self.event(Event::Tick),
                // Their other ends are held here.
                Happened::Ask(None) | Happened::Event(None) | Happened::Note(None) => {
                    self.stopped = true;
                }
            }
            if let Some(epoch) = self.driver.shared.fenced_by() {
                return Ended::Fenced { epoch };
            }
            if self.stopped {
                return Ended::Stopped;
            }
            self.look_for_held();
            self.sweep();
        }
    }

    async fn next(&mut self) -> Happened {
        let wake_at = self.begun + self.driver.core.next_wake();
        // One after the other, so that a run can be had again.
        tokio::select! {
            biased;
            ask = self.driver.asks.recv() => Happened::Ask(ask),
            () = sleep_until(wake_at) => Happened::Time,
            event = self.events.recv() => Happened::Event(event),
            note = self.driver.notes.recv() => Happened::Note(note),
        }
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Command(command, tell) => {
                let (now, mut actions) = (self.begun.elapsed(), Vec::new());
                let table = &self.driver.shared.table;
                let done = self.driver.core.command(now, command, table, &mut actions);
                self.act(now, actions);
                // Whoever asked may be gone.
                let _ = tell.send(done);
            }
            Ask::Event(event) => self.event(event),
            Ask::Stop => self.stopped = true,
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Sweep(member) => self.sweep_later(member),
            Note::Suspected(member) => {
                self.sweep_later(member);
                self.event(Event::Suspected { member });
            }
            // Seen by the loop.
            Note::Fenced => {}
            Note::Check(slot) => self.event(Event::Check { slot }),
            Note::BadCopy {
                slot,
                member,
                generation,
            } => {
                let members = member.bit();
                self.hands.flush(&[Flush {
                    slot,
                    generation,
                    members,
                }]);
                self.event(Event::Check { slot });
            }
            Note::Flushes => {
                let (flushes, _) = self.driver.shared.take_flushes();
                self.hands.flush(&flushes);
            }
            Note::Late(slot) => self.make_late(slot),
        }
    }

    fn event(&mut self, event: Event) {
        let (now, mut actions) = (self.begun.elapsed(), Vec::new());
        let table = &self.driver.shared.table;
        self.driver.core.handle(now, event, table, &mut actions);
        self.act(now, actions);
    }

    fn act(&mut self, now: Duration, actions: Vec<Action>) {
        for action in actions {
            self.act_one(action);
        }
        *self.driver.handle.board.status.write() = self.driver.core.status(now);
    }

    fn act_one(&mut self, action: Action) {
        let hands = Rc::clone(&self.hands);
        let shared = &self.driver.shared;
        match action {
            Action::Connect {
                member,
                session,
                address,
                kind,
            } => {
                let task = match kind {
                    Kind::Remote => spawn_local(hands.watch(member, session, address.into())),
                    Kind::Disk => spawn_local(hands.watch_disk(member, session)),
                };
                self.end_watch(member);
                self.watches.insert(member, (session, task.abort_handle()));
            }
            Action::Close { member, session } => {
                if self
                    .watches
                    .get(&member)
                    .is_some_and(|(open, _)| *open == session)
                {
                    self.end_watch(member);
                }
            }
            Action::Reconcile {
                member,
                session,
                trusted,
            } => {
                spawn_local(async move {
                    let event = match hands.reconcile(member, trusted).await {
                        Ok(found) => Event::Reconciled {
                            member,
                            session,
                            cleared: found.cleared,
                            flushed: found.flushed,
                        },
                        Err(why) => Event::ReconcileFailed {
                            member,
                            session,
                            why,
                        },
                    };
                    hands.tell(event);
                });
            }
            Action::Copy {
                slot,
                expected,
                from,
                to,
                to_trust,
                drop,
            } => {
                let plan = Plan {
                    slot,
                    expected,
                    from,
                    to,
                    to_trust,
                    drop,
                };
                spawn_local(async move {
                    let result = hands.copy(plan).await;
                    hands.tell(Event::CopyDone { slot, result });
                });
            }
            Action::Trim {
                slot,
                expected,
                drop,
            } => {
                let (table, version) = (&shared.table, shared.table.version(slot));
                let left = table.pin_some(expected & !drop);
                let generation = table.last_generation();
                if table.replace(slot, version, expected, &left) {
                    let members = expected & !left.mask();
                    hands.flush(&[Flush {
                        slot,
                        generation,
                        members,
                    }]);
                }
            }
            Action::Publish(view) => shared.publish(view),
            Action::Remember {
                number,
                name,
                incarnation,
            } => shared.table.remember(Remembered {
                number: number.get(),
                name,
                incarnation,
            }),
            Action::Forget { member } => {
                self.end_watch(member);
                hands.forget(member);
            }
            Action::Notice(notice) => match notice.level() {
                Level::Info => tracing::info!("{notice}"),
                Level::Warn => tracing::warn!("{notice}"),
                Level::Error => tracing::error!("{notice}"),
            },
        }
    }

    fn end_watch(&mut self, member: MemberNo) {
        if let Some((_, task)) = self.watches.remove(&member) {
            task.abort();
        }
    }

    fn make_late(&mut self, slot: u32) {
        spawn_local(Rc::clone(&self.hands).make_late(slot, self.random.next()));
    }

    fn sweep_later(&mut self, member: MemberNo) {
        let due = Instant::now() + SWEEP_AFTER;
        self.sweeps.entry(member).or_insert(due);
    }

    /// What lies on a store that nobody names is found by comparing its list.
    fn sweep(&mut self) {
        let (now, good) = (Instant::now(), self.driver.shared.view().good());
        let due = |member: &MemberNo, at: &mut Instant| *at <= now && good & member.bit() != 0;
        let due: Vec<MemberNo> = self
            .sweeps
            .extract_if(.., due)
            .map(|(member, _)| member)
            .collect();
        for member in due {
            let hands = Rc::clone(&self.hands);
            spawn_local(async move {
                match hands.reconcile(member, true).await {
                    Ok(found) if found.cleared > 0 => hands.tell(Event::CheckAll),
                    Ok(_) => {}
                    // Its pipe has failed, and so it is swept again.
                    Err(why) => tracing::debug!(%member, why, "sweep of a store failed"),
                }
            });
        }
    }

    /// Notes are lost when too many wait; a page that the host holds must not be.
    fn look_for_held(&mut self) {
        if self.held_looked.elapsed() < HELD_EVERY {
            return;
        }
        self.held_looked = Instant::now();
        self.note(Note::Flushes);
        for slot in self.driver.shared.held_slots() {
            self.make_late(slot);
        }
    }
}
