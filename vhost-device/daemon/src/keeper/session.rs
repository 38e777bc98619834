// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One front-end's connection: its messages go to the worker of the day, the replies back.
//!
//! ```text
//!                       a worker takes it                  last replay answered
//!  waiting ───────────────────────────────────▶ replaying ─────────────────────▶ passing on
//!    ▲  │ no worker for long: answers from the record                                │
//!    └──┴────────────────────────── the worker dies ◀────────────────────────────────┘
//! ```
//! At most one message is under way, and nothing is sent before what is to be sent is kept where a
//! keeper's death does not reach it ([`Store`](super::store::Store)). It enters the record when the worker has carried it out, so one
//! that a dying worker left unanswered is simply sent again. Nothing here waits: a front-end that
//! does not read its replies is hung up on, a worker that does not read is waited for by polling.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::message::{Message, Read, Reader};
use super::record::{Planned, Record, succeeded};
use super::store::{Inherited, SavedMessage, SavedSession};

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The front-end has gone.
    Gone,
    /// It broke the protocol, or does not read.
    Broken(String),
}

/// The worker's side of a connection.
#[derive(Debug)]
struct Back {
    stream: UnixStream,
    reader: Reader,
    /// What of the replay its socket had no room for yet.
    replay: VecDeque<Message>,
    /// Replies that the replay still waits for.
    replies: usize,
}

/// One front-end's connection.
#[derive(Debug)]
pub(super) struct Session {
    /// Distinguishes it from others of the same guest.
    pub(super) number: u64,
    front: UnixStream,
    reader: Reader,
    record: Record,
    back: Option<Back>,
    /// Sent and not answered; or not sent, for want of a worker.
    pending: Option<Message>,
    /// `pending` is still to be sent.
    unsent: bool,
    /// The front-end's answer, which is sent once it is known that the question need not be kept.
    answer: Option<Message>,
    /// There is no worker to wait for: the record answers.
    alone: bool,
    /// A worker that is ready should get it.
    unserved: bool,
}

impl Session {
    /// A new connection on `front`.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(number: u64, front: UnixStream, alone: bool) -> io::Result<Self> {
        front.set_nonblocking(true)?;
        Ok(Self {
            number,
            front,
            reader: Reader::default(),
            record: Record::default(),
            back: None,
            pending: None,
            unsent: false,
            answer: None,
            alone,
            unserved: true,
        })
    }

    /// A connection that an earlier keeper had, whose descriptors `inherited` has.
    ///
    /// # Errors
    /// `NotFound`, if one of them is not there, or the kernel's.
    pub(super) fn restore(saved: SavedSession, inherited: &mut Inherited) -> io::Result<Self> {
        let number = saved.number;
        let mut take = |name: String| {
            let file = inherited.remove(&format!("s{number}.{name}"));
            file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let front = UnixStream::from(take("front".to_owned())?);
        let mut message = |saved: SavedMessage| {
            let files: io::Result<_> = saved.files.into_iter().map(&mut take).collect();
            io::Result::Ok(Message::restore(
                saved.request,
                saved.flags,
                saved.body,
                files?,
            ))
        };
        let mut session = Self::new(number, front, false)?;
        for saved in saved.messages {
            session.record.apply(message(saved)?);
        }
        session.pending = saved.pending.map(message).transpose()?;
        session.record.restore_replies(saved.replies);
        Ok(session)
    }

    /// What a later keeper needs of it; its descriptors go to `files`, with their names.
    pub(super) fn save<'a>(
        &'a self,
        guest: &str,
        files: &mut Vec<(String, BorrowedFd<'a>)>,
    ) -> SavedSession {
        let number = self.number;
        let mut keep = |name: String, file| {
            files.push((format!("s{number}.{name}"), file));
            name
        };
        keep("front".to_owned(), self.front.as_fd());
        let messages = self
            .record
            .replay()
            .into_iter()
            .map(|planned| SavedMessage {
                request: planned.request,
                flags: 0,
                body: planned.body,
                files: (planned.files.into_iter())
                    .map(|(name, file)| keep(name, file))
                    .collect(),
            });
        let messages = messages.collect();
        let pending = self.pending.as_ref().map(|message| SavedMessage {
            request: message.request,
            flags: message.flags(),
            body: message.body.clone(),
            files: (message.files.iter().enumerate())
                .map(|(nth, file)| keep(format!("p{nth}"), file.as_fd()))
                .collect(),
        });
        SavedSession {
            guest: guest.to_owned(),
            number,
            messages,
            replies: self.record.replies(),
            pending,
        }
    }

    /// The front-end's socket, and whether to wait for it to be readable.
    pub(super) const fn front(&self) -> (&UnixStream, bool) {
        let free = self.pending.is_none() && self.answer.is_none();
        let ready = match &self.back {
            Some(back) => back.replies == 0,
            None => self.alone,
        };
        (&self.front, free && ready)
    }

    /// The worker's socket, and whether to wait for it to be writable.
    pub(super) fn back(&self) -> Option<(&UnixStream, bool)> {
        let back = self.back.as_ref()?;
        Some((&back.stream, self.unsent || !back.replay.is_empty()))
    }

    /// A worker listens on the other end of `stream`: tells it what has been agreed on.
    ///
    /// # Errors
    /// The kernel's, if descriptors cannot be duplicated.
    pub(super) fn attach(&mut self, stream: UnixStream) -> io::Result<()> {
        let replay = self.record.replay();
        let replay: io::Result<VecDeque<_>> = replay.iter().map(Planned::message).collect();
        let replay = replay?;
        self.alone = false;
        self.unserved = false;
        self.back = Some(Back {
            stream,
            reader: Reader::default(),
            replies: replay.iter().filter(|message| message.asks()).count(),
            replay,
        });
        Ok(())
    }

    /// The worker is dead; the next one should get this connection.
    pub(super) fn detach(&mut self) {
        self.hang_up_back();
        self.unserved = true;
    }

    /// A worker that is ready should get it.
    pub(super) const fn is_unserved(&self) -> bool {
        self.unserved
    }

    fn hang_up_back(&mut self) {
        self.back = None;
        self.unsent = false;
    }

    /// There is no worker, and there will not be one soon.
    ///
    /// # Errors
    /// [`End`], if the front-end waits for an answer and does not take it.
    pub(super) fn answer_alone(&mut self) -> Result<(), End> {
        self.detach();
        self.alone = true;
        match self.pending.take() {
            Some(message) => self.answer(message),
            None => Ok(()),
        }
    }

    /// The worker has this connection as the last one had it.
    pub(super) fn is_resumed(&self) -> bool {
        self.back.as_ref().is_some_and(|back| back.replies == 0)
    }

    /// The front-end's socket is readable: takes the next message, which is sent when the worker's
    /// socket is looked at next. In between a keeper that may die keeps it, see
    /// [`Store`](super::store::Store).
    ///
    /// # Errors
    /// [`End`] if the connection is over.
    pub(super) fn read_front(&mut self) -> Result<(), End> {
        if !self.front().1 {
            return Ok(());
        }
        match self.reader.read(&self.front) {
            Ok(Read::Message(message)) if self.alone => self.answer(message),
            Ok(Read::Message(message)) => {
                self.pending = Some(message);
                self.unsent = true;
                Ok(())
            }
            Ok(Read::Later) => Ok(()),
            Ok(Read::Closed) => Err(End::Gone),
            Err(error) if is_hang_up(&error) => Err(End::Gone),
            Err(error) => Err(End::Broken(format!("a message is no message: {error}"))),
        }
    }

    /// The worker's socket can take more.
    ///
    /// # Errors
    /// [`End`] if the connection is over.
    pub(super) fn write_back(&mut self) -> Result<(), End> {
        while let Some(back) = &mut self.back
            && let Some(message) = back.replay.front()
        {
            match message.send(&back.stream) {
                Ok(()) => drop(back.replay.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Its end is told by another way; the next worker gets a replay of its own.
                Err(error) if is_hang_up(&error) => self.hang_up_back(),
                Err(error) => {
                    return Err(End::Broken(format!("cannot replay a message: {error}")));
                }
            }
        }
        if self.unsent {
            self.send_pending()
        } else {
            Ok(())
        }
    }

    /// The worker's socket is readable. Returns whether a replay has just ended. A worker that hung
    /// up is not an end: either it is dead, and the next one goes on, or it says so.
    ///
    /// # Errors
    /// [`End`] if the connection is over.
    pub(super) fn read_back(&mut self) -> Result<bool, End> {
        let mut resumed = false;
        while let Some(back) = &mut self.back {
            let reply = match back.reader.read(&back.stream) {
                Ok(Read::Message(reply)) => reply,
                Ok(Read::Later) => break,
                Ok(Read::Closed) | Err(_) => {
                    // Not polled any more, or it would be readable for ever.
                    self.hang_up_back();
                    break;
                }
            };
            if back.replies > 0 {
                back.replies -= 1;
                if back.replies == 0 {
                    resumed = true;
                    self.send_pending()?;
                }
                continue;
            }
            self.reply(reply)?;
        }
        Ok(resumed)
    }

    /// Passes a reply on, and notes what it says of the message that it answers.
    fn reply(&mut self, reply: Message) -> Result<(), End> {
        let Some(message) = self.pending.take() else {
            return Err(End::Broken("the worker answered what was not asked".into()));
        };
        if message.asks() {
            self.record.note_reply(&message, &reply.body);
        }
        if succeeded(&message, &reply) {
            self.record.apply(message);
        }
        self.answer = Some(reply);
        Ok(())
    }

    /// Sends the front-end its answer, if there is one.
    ///
    /// # Errors
    /// [`End`] if it does not take it.
    pub(super) fn send_answer(&mut self) -> Result<(), End> {
        match self.answer.take() {
            Some(answer) => send_front(&self.front, &answer),
            None => Ok(()),
        }
    }

    fn send_pending(&mut self) -> Result<(), End> {
        let (Some(back), Some(message)) = (&self.back, &self.pending) else {
            return Ok(());
        };
        match message.send(&back.stream) {
            Ok(()) => self.unsent = false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.unsent = true;
                return Ok(());
            }
            // Its end is told by another way; the next worker gets the message.
            Err(error) if is_hang_up(&error) => return Ok(()),
            Err(error) => return Err(End::Broken(format!("cannot pass a message on: {error}"))),
        }
        let answered = message.asks() || self.record.is_acknowledged(message);
        if !answered && let Some(message) = self.pending.take() {
            self.record.apply(message);
        }
        Ok(())
    }

    fn answer(&mut self, message: Message) -> Result<(), End> {
        if message.asks() && !self.record.knows(&message) {
            return Err(End::Broken(
                "it asks what no worker has answered yet".into(),
            ));
        }
        self.answer = self.record.answer(message);
        Ok(())
    }
}

fn send_front(front: &UnixStream, reply: &Message) -> Result<(), End> {
    match reply.send(front) {
        Ok(()) => Ok(()),
        Err(error) if is_hang_up(&error) => Err(End::Gone),
        Err(error) => Err(End::Broken(format!(
            "it does not read its replies: {error}"
        ))),
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected)
}
