// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The driver's connection to one store: jobs in, answers out, in order.
//!
//! Everything that the driver asks of a store goes through one of these, so that what was asked first
//! is done first: the flush of a copy never overtakes the put that brings it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tmem_remote_protocol::{
    FlushEntry, GetEntry, PutEntry, Reply, Session as SessionKind, Status, pool,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::connect::Connector;
use crate::control::MemberNo;
use crate::lane::{Lane, LaneError, RequestId};
use crate::replicated::lanes::open;
use crate::shared::{Note, Shared};

/// What a store is asked.
#[derive(Debug)]
pub(super) enum Job {
    Put(PutEntry, Bytes),
    Get(u32),
    Flush(Vec<FlushEntry>),
    List { from: u32, most: u32 },
}

/// What it answered.
#[derive(Debug)]
pub(super) enum Answer {
    Put(Status),
    Page {
        status: Status,
        generation: u64,
        checksum: u32,
        page: Bytes,
    },
    Flushed,
    Listed {
        pages: Vec<(u32, u64)>,
        next: u32,
        end: bool,
    },
}

type Told = oneshot::Sender<Result<Answer, LaneError>>;

/// Where to put jobs.
#[derive(Debug)]
pub(super) struct Pipe {
    jobs: mpsc::UnboundedSender<(Job, Told)>,
    pub(super) address: Arc<str>,
}

impl Pipe {
    /// A pipe to a member. Its end is a task of the current [`LocalSet`](tokio::task::LocalSet).
    pub(super) fn new<C: Connector>(
        shared: &Arc<Shared<C>>,
        member: MemberNo,
        address: &Arc<str>,
    ) -> Self {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let (shared, to) = (Arc::clone(shared), Arc::clone(address));
        tokio::task::spawn_local(async move { serve(&shared, member, &to, receiver).await });
        Self {
            jobs,
            address: Arc::clone(address),
        }
    }

    /// The connection is gone: another pipe is needed.
    pub(super) fn is_over(&self) -> bool {
        self.jobs.is_closed()
    }

    /// Puts a job in. The answer is an error if the pipe is over.
    pub(super) fn put_in(&self, job: Job) -> oneshot::Receiver<Result<Answer, LaneError>> {
        let (told, answer) = oneshot::channel();
        // One that is refused is dropped, which its receiver notices.
        let _ = self.jobs.send((job, told));
        answer
    }
}

async fn serve<C: Connector>(
    shared: &Arc<Shared<C>>,
    member: MemberNo,
    address: &Arc<str>,
    mut jobs: mpsc::UnboundedReceiver<(Job, Told)>,
) {
    let mut waiting = VecDeque::new();
    let error = match open(shared, address, SessionKind::Data).await {
        Err(error) => error,
        Ok(lane) => {
            let limit = shared.settings.request_timeout;
            match work(lane, &mut jobs, &mut waiting, limit).await {
                Some(error) => error,
                None => return,
            }
        }
    };
    jobs.close();
    if let Some(epoch) = error.fenced_by() {
        shared.fence(epoch);
        shared.note(Note::Fenced);
    }
    // An end that nobody was waiting for may be the store's good right.
    if !waiting.is_empty() || !error.is_end() {
        shared.metrics.store(member.index()).errors.one();
        shared.note(Note::Suspected(member));
    }
    for (_, _, _, told) in waiting {
        let _ = told.send(Err(error.clone()));
    }
    while let Some((_, told)) = jobs.recv().await {
        let _ = told.send(Err(error.clone()));
    }
}

type Waiting = VecDeque<(RequestId, Job, Instant, Told)>;

/// Until the connection fails, or nobody has jobs any more.
async fn work<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    mut lane: Lane<S>,
    jobs: &mut mpsc::UnboundedReceiver<(Job, Told)>,
    waiting: &mut Waiting,
    limit: std::time::Duration,
) -> Option<LaneError> {
    let mut over = false;
    let mut refused: Option<(Job, Told)> = None;
    loop {
        if over && waiting.is_empty() && refused.is_none() {
            return None;
        }
        // Counted from when it is the next: those before it took their own time.
        let overdue = Instant::now() + limit;
        let idle = waiting.is_empty() && refused.is_none();
        let step = poll_fn(|cx| {
            loop {
                let next = match refused.take() {
                    Some(job) => Some(job),
                    None if over => None,
                    None => match jobs.poll_recv(cx) {
                        Poll::Ready(Some(job)) => Some(job),
                        Poll::Ready(None) => {
                            over = true;
                            None
                        }
                        Poll::Pending => None,
                    },
                };
                let Some((job, told)) = next else {
                    break;
                };
                match start(&mut lane, &job) {
                    Ok(id) => waiting.push_back((id, job, Instant::now(), told)),
                    Err(LaneError::Busy(_)) => {
                        refused = Some((job, told));
                        break;
                    }
                    Err(error) => {
                        let _ = told.send(Err(error.clone()));
                        return Poll::Ready(Err(error));
                    }
                }
            }
            match poll_first(&mut lane, cx, waiting, over) {
                // From now on there is a time limit.
                Poll::Pending if idle && !waiting.is_empty() => Poll::Ready(Ok(())),
                other => other,
            }
        });
        let done = if idle {
            step.await
        } else {
            match timeout_at(overdue, step).await {
                Ok(done) => done,
                Err(_) => Err(LaneError::Timeout(limit)),
            }
        };
        if let Err(error) = done {
            return Some(error);
        }
    }
}

/// Polls for the first answer. Ready without one if it is time to set another limit.
fn poll_first<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    lane: &mut Lane<S>,
    cx: &mut Context<'_>,
    waiting: &mut Waiting,
    over: bool,
) -> Poll<Result<(), LaneError>> {
    let Some((id, job, ..)) = waiting.front() else {
        // Also notices that the store ends the connection.
        return match lane.poll_idle(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ if over => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        };
    };
    let (id, mut answer) = (*id, None);
    let polled = lane.poll_reply(cx, id, &mut |reply| answer = read(job, &reply));
    match polled {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => {
            if let Some((_, _, _, told)) = waiting.pop_front() {
                let _ = told.send(answer.ok_or(LaneError::Mismatch));
            }
            Poll::Ready(Ok(()))
        }
    }
}

fn start<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    lane: &mut Lane<S>,
    job: &Job,
) -> Result<RequestId, LaneError> {
    match job {
        Job::Put(entry, page) => lane.start_put(std::slice::from_ref(entry), [page.clone()]),
        Job::Get(slot) => lane.start_get(&[GetEntry::new(pool::PERSISTENT, *slot)]),
        Job::Flush(entries) => {
            let mut parts = entries.chunks(lane.pages_max()).peekable();
            while let Some(part) = parts.next() {
                let id = lane.start_flush(part)?;
                if parts.peek().is_none() {
                    return Ok(id);
                }
                // The last answer says that all are done.
                lane.abandon(id);
            }
            Err(LaneError::Mismatch)
        }
        Job::List { from, most } => lane.start_list(pool::PERSISTENT, *from, *most),
    }
}

fn read(job: &Job, reply: &Reply<'_>) -> Option<Answer> {
    match (job, reply) {
        (Job::Put(..), Reply::PutDone { statuses, .. }) => {
            statuses.first().copied().map(Answer::Put)
        }
        (Job::Get(_), Reply::GetDone { entries, pages, .. }) => {
            let entry = entries.first()?;
            let page = pages
                .first()
                .map_or_else(Bytes::new, |page| Bytes::copy_from_slice(page));
            Some(Answer::Page {
                status: entry.status(),
                generation: entry.generation(),
                checksum: entry.crc(),
                page,
            })
        }
        (Job::Flush(_), Reply::FlushDone { .. }) => Some(Answer::Flushed),
        (
            Job::List { .. },
            Reply::Listed {
                entries, next, end, ..
            },
        ) => Some(Answer::Listed {
            pages: (entries.iter())
                .map(|entry| (entry.index(), entry.generation()))
                .collect(),
            next: *next,
            end: *end,
        }),
        _ => None,
    }
}
