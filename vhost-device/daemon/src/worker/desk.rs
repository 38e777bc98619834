// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The worker's main thread: hears the keeper, and begins and clears away connections.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vhost::vhost_user::Listener;

use crate::channel::{Channel, ToKeeper, ToWorker};
use crate::connection::Place;
use crate::device::record::Records;
use crate::error::Error;
use crate::sandbox;
use crate::service;
use crate::snapshot::Running;
use crate::told::Told;

/// A guest's place, and the connection that waits until the last one is cleared away.
struct Seat {
    place: Place,
    /// Number of the connection that is served.
    session: u64,
    next: Option<(u64, UnixListener)>,
}

/// The state of the loop.
struct State {
    channel: Arc<Channel>,
    told: Arc<Told>,
    seats: Vec<Seat>,
    /// What is known of requests that are answered out of turn.
    records: Option<Arc<Records>>,
    /// How it ends, once it has to.
    over: Option<Result<(), Error>>,
}

/// The main thread's loop.
pub(super) struct Desk {
    manager: EventManager<Rc<RefCell<State>>>,
    state: Rc<RefCell<State>>,
}

impl Desk {
    /// A loop that hears the keeper on `channel`.
    ///
    /// # Errors
    /// The kernel's, if there is no event descriptor to be had.
    pub(super) fn new(
        channel: Arc<Channel>,
        running: &Running,
        told: Arc<Told>,
        mode: sandbox::Mode,
        records: Option<Arc<Records>>,
    ) -> Result<Self, Error> {
        let seats = running.guests.iter().map(|guest| {
            let (station, connected) = (Arc::clone(&guest.station), Arc::clone(&guest.connected));
            let place = Place::new(station, connected, mode).map_err(Error::Control)?;
            Ok(Seat {
                place,
                session: 0,
                next: None,
            })
        });
        let state = Rc::new(RefCell::new(State {
            channel,
            told,
            seats: seats.collect::<Result<_, Error>>()?,
            records,
            over: None,
        }));
        let mut manager = EventManager::new()?;
        manager.add_subscriber(Rc::clone(&state));
        Ok(Self { manager, state })
    }

    /// Runs until the keeper says that it is enough, or is gone.
    ///
    /// # Errors
    /// [`Error`], if the keeper is gone or cannot be understood.
    pub(super) fn run(&mut self) -> Result<(), Error> {
        loop {
            self.manager.run()?;
            let mut state = self.state.borrow_mut();
            match state.over.take() {
                None => {}
                // The keeper is gone, and another may follow: the drivers are told nothing.
                Some(Err(error)) => return Err(error),
                Some(Ok(())) => {
                    let places: Vec<_> = state.seats.iter().map(|seat| &seat.place).collect();
                    service::announce_end(&places);
                    for seat in &mut state.seats {
                        seat.place.end();
                    }
                    return Ok(());
                }
            }
        }
    }
}

impl State {
    fn hear(&mut self) {
        while self.over.is_none() {
            match self.channel.receive() {
                Ok(None) => return,
                Ok(Some((ToWorker::Serve { guest, session }, files))) => {
                    let listener = files.into_iter().next().map(UnixListener::from);
                    if let (Some(seat), Some(listener)) = (self.seats.get_mut(guest), listener) {
                        seat.next = Some((session, listener));
                    }
                    self.seat(guest);
                }
                Ok(Some((ToWorker::Status(status), _))) => self.told.update(*status),
                Ok(Some((ToWorker::Ping, _))) => self.say(&ToKeeper::Pong),
                Ok(Some((ToWorker::Trace { error }, files))) => {
                    self.told.trace_opened(files.into_iter().next(), error);
                }
                Ok(Some((ToWorker::End, _))) => self.over = Some(Ok(())),
                Ok(Some((ToWorker::Check | ToWorker::Start(_), _))) => {}
                Err(error) => self.over = Some(Err(Error::Control(error))),
            }
        }
    }

    /// Serves the guest's next connection, if there is one and the place is free.
    fn seat(&mut self, guest: usize) {
        let Some(seat) = self.seats.get_mut(guest) else {
            return;
        };
        if seat.place.is_taken() {
            return;
        }
        let Some((session, listener)) = seat.next.take() else {
            return;
        };
        seat.session = session;
        let records = (self.records.as_ref())
            .and_then(|records| records.of_guest(seat.place.name(), session));
        seat.place.note_in(records);
        if let Err(error) = seat.place.serve(&mut Listener::from(listener)) {
            tracing::error!(
                guest = seat.place.name(),
                error = &error as &dyn std::error::Error,
                "a VMM was turned away"
            );
            self.say(&ToKeeper::Ended { guest, session });
        }
    }

    /// A connection has ended.
    fn clear(&mut self, guest: usize) {
        if let Some(seat) = self.seats.get_mut(guest) {
            seat.place.join();
            let session = seat.session;
            self.say(&ToKeeper::Ended { guest, session });
        }
        self.seat(guest);
    }

    fn say(&mut self, what: &ToKeeper) {
        if let Err(error) = self.channel.send(what, &[]) {
            self.over = Some(Err(Error::Control(error)));
        }
    }
}

impl MutEventSubscriber for State {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let channel = Events::new_raw(self.channel.as_fd().as_raw_fd(), EventSet::IN);
        let ended = self.seats.iter().map(|seat| seat.place.ended());
        let ended = ended.map(|fd| Events::new_raw(fd, EventSet::IN));
        for events in std::iter::once(channel).chain(ended) {
            if let Err(error) = ops.add(events) {
                self.over = Some(Err(error.into()));
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if events.fd() == self.channel.as_fd().as_raw_fd() {
            return self.hear();
        }
        let guest = self
            .seats
            .iter()
            .position(|seat| seat.place.ended() == events.fd());
        if let Some(guest) = guest {
            self.clear(guest);
        }
    }
}
