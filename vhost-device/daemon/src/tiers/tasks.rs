// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What administrators began and what is not over in a moment. The engine and its mover do the work;
//! a task says what was asked for, and looks at the engine for how far it is.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tmem_admin_api::{TaskKind, TaskState, TaskStatus};
use tmem_pages::{Engine, Guest, Tier};

use crate::limits::TASKS_KEPT;

/// Pages of a reclaim between two looks at anything else.
const RECLAIM_PAGES: u64 = 64;

/// What a task is to reach.
enum Aim {
    /// A tier of so many pages.
    Size(Tier, u64),
    /// An empty tier.
    Empty(Tier),
    /// So many pages less of a guest in DRAM.
    Reclaim(Arc<Guest>, u64),
    /// What somebody else says of it.
    Watch(Box<dyn Fn() -> Watched + Send>),
}

/// How far a task is that others work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    done_pages: u64,
    total_pages: u64,
    state: TaskState,
}

impl Watched {
    /// So many pages over, of so many in all.
    pub(crate) const fn over(done_pages: u64, total_pages: u64, state: TaskState) -> Self {
        Self {
            done_pages,
            total_pages,
            state,
        }
    }
}

struct Task {
    status: TaskStatus,
    aim: Aim,
    began: Instant,
}

/// All tasks.
#[derive(Default)]
pub(crate) struct Tasks(Mutex<Vec<Task>>);

impl Tasks {
    /// A tier is on its way to another size.
    pub(crate) fn resize(&self, engine: &Engine, tier: Tier, pages: u64) -> TaskStatus {
        let used = engine.tier(tier).map_or(0, |stats| stats.used_pages);
        self.call_off(|task| matches!(task.aim, Aim::Size(of, _) if of == tier));
        let aim = Aim::Size(tier, pages);
        self.begin(
            engine,
            TaskKind::Resize,
            tier.name(),
            aim,
            used.saturating_sub(pages),
        )
    }

    /// A tier is being emptied.
    pub(crate) fn drain(&self, engine: &Engine, tier: Tier) -> TaskStatus {
        let used = engine.tier(tier).map_or(0, |stats| stats.used_pages);
        self.begin(engine, TaskKind::Drain, tier.name(), Aim::Empty(tier), used)
    }

    /// A guest is to give up pages of DRAM.
    pub(crate) fn reclaim(&self, engine: &Engine, guest: &Arc<Guest>, pages: u64) -> TaskStatus {
        let aim = Aim::Reclaim(Arc::clone(guest), pages);
        self.begin(engine, TaskKind::Reclaim, guest.name(), aim, pages)
    }

    /// Something that others work on.
    pub(crate) fn watch(
        &self,
        engine: &Engine,
        kind: TaskKind,
        subject: &str,
        watch: impl Fn() -> Watched + Send + 'static,
    ) -> TaskStatus {
        let total = watch().total_pages;
        self.begin(engine, kind, subject, Aim::Watch(Box::new(watch)), total)
    }

    /// Ends what others work on before it is done.
    pub(crate) fn call_off_watched(&self, kind: TaskKind, subject: &str) {
        self.call_off(|task| task.status.kind == kind && task.status.subject == subject);
    }

    /// Ends the drains of a tier before they are done.
    pub(crate) fn call_off_drain(&self, tier: Tier) {
        self.call_off(|task| matches!(task.aim, Aim::Empty(of) if of == tier));
    }

    /// The task of this kind that is under way for a tier or guest.
    pub(crate) fn under_way(&self, engine: &Engine, kind: TaskKind, subject: &str) -> Option<u64> {
        let running = self.all(engine).into_iter().find(|task| {
            task.kind == kind && task.subject == subject && task.state == TaskState::Running
        });
        running.map(|task| task.id)
    }

    /// All of them, by number.
    pub(crate) fn all(&self, engine: &Engine) -> Vec<TaskStatus> {
        let mut tasks = self.0.lock();
        tasks.iter_mut().for_each(|task| task.look(engine));
        tasks.iter().map(|task| task.status.clone()).collect()
    }

    /// The last one of a tier or guest.
    pub(crate) fn last_of(&self, engine: &Engine, subject: &str) -> Option<TaskStatus> {
        let others = [TaskKind::StoreDrain, TaskKind::Repair];
        let of = |task: &TaskStatus| task.subject == subject && !others.contains(&task.kind);
        self.all(engine).into_iter().rev().find(of)
    }

    /// The last one of this kind, of whatever has this name.
    pub(crate) fn last_of_kind(
        &self,
        engine: &Engine,
        kind: TaskKind,
        subject: &str,
    ) -> Option<TaskStatus> {
        let of = |task: &TaskStatus| task.kind == kind && task.subject == subject;
        self.all(engine).into_iter().rev().find(of)
    }

    /// Does a little of the first reclaim. Returns whether there was one to do.
    pub(crate) fn work(&self) -> bool {
        let next = self.0.lock().iter().find_map(|task| match &task.aim {
            Aim::Reclaim(guest, pages) if !task.status.state.is_final() => {
                let left = pages.saturating_sub(task.status.done_pages);
                Some((task.status.id, Arc::clone(guest), left))
            }
            _ => None,
        });
        let Some((id, guest, left)) = next else {
            return false;
        };
        // Writes to tiers, so not with the lock.
        let freed = guest.reclaim_some(left.min(RECLAIM_PAGES));
        let mut tasks = self.0.lock();
        let task = tasks.iter_mut().find(|task| task.status.id == id);
        if let Some(task) = task.filter(|task| !task.status.state.is_final()) {
            task.status.done_pages += freed;
            if freed == 0 {
                let reason = "no more of the guest's pages can leave DRAM now";
                task.status.reason = Some(reason.to_owned());
                task.end(TaskState::Done);
            } else if freed >= left {
                task.end(TaskState::Done);
            }
        }
        true
    }

    fn begin(
        &self,
        engine: &Engine,
        kind: TaskKind,
        subject: &str,
        aim: Aim,
        total_pages: u64,
    ) -> TaskStatus {
        let mut tasks = self.0.lock();
        let mut task = Task {
            status: TaskStatus {
                id: tasks.last().map_or(0, |last| last.status.id) + 1,
                kind,
                subject: subject.to_owned(),
                state: TaskState::Running,
                done_pages: 0,
                total_pages,
                reason: None,
                took_ms: 0,
            },
            aim,
            began: Instant::now(),
        };
        task.look(engine);
        let status = task.status.clone();
        let over = tasks.iter().filter(|task| task.status.state.is_final());
        if over.count() >= TASKS_KEPT
            && let Some(oldest) = tasks.iter().position(|task| task.status.state.is_final())
        {
            tasks.remove(oldest);
        }
        tasks.push(task);
        status
    }

    fn call_off(&self, which: impl Fn(&Task) -> bool) {
        let mut tasks = self.0.lock();
        let running = (tasks.iter_mut()).filter(|task| !task.status.state.is_final());
        for task in running.filter(|task| which(task)) {
            task.end(TaskState::Cancelled);
        }
    }
}

impl Task {
    /// Looks how far it is.
    fn look(&mut self, engine: &Engine) {
        if self.status.state.is_final() {
            return;
        }
        let used = |tier| engine.tier(tier).map_or(0, |stats| stats.used_pages);
        let (beyond, done) = match &self.aim {
            &Aim::Size(tier, pages) => {
                let beyond = used(tier).saturating_sub(pages);
                // A lower tier is cut when what lay in its last slots has moved.
                let cut =
                    (engine.store(tier)).is_none_or(|store| u64::from(store.slots()) <= pages);
                (beyond, beyond == 0 && cut)
            }
            &Aim::Empty(tier) => (used(tier), used(tier) == 0),
            Aim::Watch(watch) => {
                let now = watch();
                self.status.done_pages = now.done_pages;
                self.status.total_pages = now.total_pages;
                self.status.took_ms = self.age_ms();
                if now.state.is_final() {
                    self.end(now.state);
                }
                return;
            }
            Aim::Reclaim(..) => {
                self.status.took_ms = self.age_ms();
                return;
            }
        };
        self.status.total_pages = self.status.total_pages.max(beyond);
        self.status.done_pages = self.status.total_pages - beyond;
        self.status.took_ms = self.age_ms();
        if done {
            self.end(TaskState::Done);
        }
    }

    fn end(&mut self, state: TaskState) {
        self.status.state = state;
        self.status.took_ms = self.age_ms();
        let status = &self.status;
        tracing::info!(
            id = status.id,
            kind = status.kind.as_str(),
            subject = status.subject,
            state = state.as_str(),
            pages = status.done_pages,
            "a task has ended"
        );
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
