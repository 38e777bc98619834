// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A task of the daemon, from asking to its end: progress on the way, and what came of it.
//!
//! On a terminal the progress is a bar that is drawn over; elsewhere a line each tenth of the way.

use std::io::Write;
use std::time::{Duration, Instant};

use tmem_admin_api::{ErrorCode, TaskDetail, TaskKind, TaskState, TaskStatus, path};

use crate::args::TaskArgs;
use crate::client::{Answer, Client};
use crate::table::{self, View};
use crate::{Error, exit};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// For one answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Characters of a whole bar.
const BAR: usize = 30;

/// A task that the daemon took on.
pub(crate) type Begun = Answer<TaskDetail>;

/// Waits for a task's end, if `wait` says so, telling how far it is on `err`, and tells what came of
/// it on `out`.
pub(crate) fn follow(
    client: &Client,
    begun: Begun,
    wait: TaskArgs,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Error> {
    let (mut task, mut text) = (begun.value.task, begun.text);
    if wait.no_wait {
        if view.json {
            table::print_json(&text, out)?;
        } else {
            let (kind, id) = (task.kind.as_str(), task.id);
            writeln!(out, "{kind} of {}: begun as task {id}", task.subject)
                .map_err(Error::Output)?;
        }
        return Ok(exit::OK);
    }
    let asked = Instant::now();
    let limit = wait.timeout.map(Duration::from_secs);
    let mut progress = Progress::default();
    let mut unheard = None;
    loop {
        progress.tell(&task, view, err);
        if task.state.is_final() {
            progress.end(view, err);
            return finish(task, &text, view, out);
        }
        if limit.is_some_and(|limit| asked.elapsed() >= limit) {
            progress.end(view, err);
            return Err(Error::TaskDeadline {
                seconds: limit.unwrap_or_default().as_secs(),
                task,
                source: unheard.map(Box::new),
            });
        }
        std::thread::sleep(PAUSE);
        match look(client, &task) {
            Ok(answer) => {
                unheard = None;
                (task, text) = (answer.value.task, answer.text);
            }
            Err(error) if passes(&error) => unheard = Some(error),
            Err(error) => {
                progress.end(view, err);
                return Err(error);
            }
        }
    }
}

fn look(client: &Client, task: &TaskStatus) -> Result<Begun, Error> {
    let path = format!("{}/{}", path::TASKS, task.id);
    let lost = || Error::TaskLost { task: task.clone() };
    let answer = client.get_within::<TaskDetail>(&path, ANSWER_TIME_MAX);
    let answer = answer.map_err(|error| match error {
        Error::Refused(answer) if answer.code == ErrorCode::NoSuchTask => lost(),
        other => other,
    })?;
    // Another worker counts from 1 again.
    let now = &answer.value.task;
    if (now.kind, &now.subject) != (task.kind, &task.subject) {
        return Err(lost());
    }
    Ok(answer)
}

/// Whether `error` is what asking meets while one worker follows another.
fn passes(error: &Error) -> bool {
    match error {
        Error::Timeout { .. } => true,
        Error::Refused(answer) => answer.code == ErrorCode::Busy,
        error => error.broke_off(),
    }
}

#[derive(Default)]
struct Progress {
    /// Tenths of the way that were told, and one.
    told: u8,
    drawn: bool,
}

impl Progress {
    fn tell(&mut self, task: &TaskStatus, view: View, err: &mut dyn Write) {
        // Of a task that has nothing to do there is nothing to tell but its end.
        if view.json || task.total_pages == 0 {
            return;
        }
        // Progress is a courtesy: nobody reading it is no reason to stop.
        if view.progress {
            let _ = write!(err, "\r{}\x1b[K", line(task, view));
            let _ = err.flush();
            self.drawn = true;
        } else if task.percent() / 10 >= self.told {
            let _ = writeln!(err, "{}", line(task, view));
            self.told = task.percent() / 10 + 1;
        }
    }

    fn end(&self, view: View, err: &mut dyn Write) {
        if view.progress && self.drawn {
            let _ = writeln!(err);
        }
    }
}

/// `draining pm  [#########.....................]  30 %  600.0 KiB of 2.0 MiB`.
fn line(task: &TaskStatus, view: View) -> String {
    let doing = match task.kind {
        TaskKind::Resize => "resizing",
        TaskKind::Drain => "draining",
        TaskKind::Reclaim => "reclaiming from",
        TaskKind::StoreDrain => "draining store",
        TaskKind::Repair => "repairing",
    };
    let percent = task.percent();
    let full = usize::from(percent) * BAR / 100;
    let bar = format!("{}{}", "#".repeat(full), ".".repeat(BAR - full));
    format!(
        "{doing} {}  [{bar}]  {percent} %  {} of {}",
        task.subject,
        view.pages(task.done_pages).plain(),
        view.pages(task.total_pages).plain(),
    )
}

fn finish(task: TaskStatus, text: &str, view: View, out: &mut dyn Write) -> Result<u8, Error> {
    if view.json {
        table::print_json(text, out)?;
    }
    if task.state != TaskState::Done {
        return Err(Error::Task(task));
    }
    if !view.json {
        writeln!(out, "{}", success(&task, view)).map_err(Error::Output)?;
    }
    Ok(exit::OK)
}

/// What a task that is done has done.
fn success(task: &TaskStatus, view: View) -> String {
    let done = view.pages(task.done_pages);
    let done = done.plain();
    let subject = &task.subject;
    let took = if view.bytes {
        task.took_ms.saturating_mul(1_000_000).to_string()
    } else {
        format!("{}.{} s", task.took_ms / 1000, task.took_ms % 1000 / 100)
    };
    let total = view.pages(task.total_pages);
    let of = if task.done_pages < task.total_pages {
        format!(" of {}", total.plain())
    } else {
        String::new()
    };
    let mut told = match task.kind {
        TaskKind::Resize => format!("tier {subject} is resized, in {took}"),
        TaskKind::Drain => format!("tier {subject} is drained: {done}{of} moved in {took}"),
        TaskKind::StoreDrain => format!("store {subject} is drained: {done}{of} copied in {took}"),
        TaskKind::Repair => format!("all pages have their copies: {done}{of} copied in {took}"),
        TaskKind::Reclaim => format!("reclaimed {done}{of} from guest {subject} in {took}"),
    };
    if let Some(reason) = &task.reason {
        told.push_str(&format!(": {reason}"));
    }
    told
}

/// A task in a word or two, or a dash.
pub(crate) fn in_words(task: Option<&TaskStatus>) -> String {
    let Some(task) = task else {
        return "-".into();
    };
    let mut told = format!("{} {} {}", task.kind.as_str(), task.id, task.state.as_str());
    if task.state == TaskState::Running {
        told.push_str(&format!(", {} %", task.percent()));
    }
    if let Some(reason) = &task.reason {
        told.push_str(&format!(": {reason}"));
    }
    told
}
