// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connections of one thread: at most one to each store, made when it is first needed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tmem_remote_protocol::{Reply, Session as SessionKind};
use tokio::time::{Instant, timeout};

use crate::connect::Connector;
use crate::control::{MemberNo, View};
use crate::lane::{Lane, LaneError, RequestId};
use crate::replicated::pace::Late;
use crate::settings::MEMBERS_MAX;
use crate::shared::{Note, Shared};

/// The pause after the first failure; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A new measurement counts for one part in this many of the average.
const RTT_WEIGHT: u32 = 8;

type LaneOf<C> = Lane<<C as Connector>::Stream>;
/// How to ask, once there is a connection.
pub(crate) type Start<'a, C> = dyn FnMut(&mut LaneOf<C>) -> Result<RequestId, LaneError> + 'a;
type Opening<C> = Pin<Box<dyn Future<Output = Result<LaneOf<C>, LaneError>>>>;

enum State<C: Connector> {
    Closed,
    Failed {
        retry_at: Instant,
        /// The view that held when it failed.
        view: u64,
        last: LaneError,
    },
    Opening(Opening<C>),
    Open(Box<LaneOf<C>>),
}

struct Place<C: Connector> {
    state: State<C>,
    address: Arc<str>,
    failures: u32,
    rtt: Duration,
    late: Late,
}

impl<C: Connector> Place<C> {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }
}

/// One request to one store.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) member: MemberNo,
    pub(crate) begun: Instant,
    id: Option<RequestId>,
    /// The connection is not older than the call.
    is_new: bool,
}

impl Call {
    pub(crate) fn new(member: MemberNo) -> Self {
        Self {
            member,
            begun: Instant::now(),
            id: None,
            is_new: false,
        }
    }

    /// It went out on a connection from before, which may have died with nobody to notice.
    pub(crate) fn used_old_connection(&self) -> bool {
        !self.is_new
    }
}

/// See the module's head.
pub(crate) struct Lanes<C: Connector> {
    shared: Arc<Shared<C>>,
    places: Vec<Place<C>>,
}

impl<C: Connector> Lanes<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>) -> Self {
        let settings = &shared.settings;
        let place = |_| Place {
            state: State::Closed,
            address: Arc::from(""),
            failures: 0,
            rtt: Duration::ZERO,
            late: Late::new(settings.hedge, settings.request_timeout),
        };
        Self {
            places: (0..MEMBERS_MAX).map(place).collect(),
            shared,
        }
    }

    /// Polls for the answer to a call: connects if need be, then asks with `start`.
    pub(crate) fn poll_call(
        &mut self,
        cx: &mut Context<'_>,
        view: &View,
        call: &mut Call,
        start: &mut Start<'_, C>,
        take: &mut dyn FnMut(Reply<'_>),
    ) -> Poll<Result<(), LaneError>> {
        loop {
            if !matches!(self.places.get(call.member.index()), Some(place) if place.is_open()) {
                call.is_new = true;
            }
            let lane = match ready!(self.poll_open(cx, view, call.member)) {
                Ok(lane) => lane,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let id = match call.id {
                Some(id) => id,
                None => match start(lane) {
                    Ok(id) => *call.id.insert(id),
                    Err(error) if call.is_new || !error.is_end() => {
                        return Poll::Ready(Err(error));
                    }
                    Err(_) => {
                        self.close(call);
                        continue;
                    }
                },
            };
            match ready!(lane.poll_reply(cx, id, take)) {
                Ok(()) => {
                    self.note_rtt(call.member, call.begun.elapsed());
                    return Poll::Ready(Ok(()));
                }
                // It may have ended long ago, with nobody to notice: the store deserves another
                // try, and every request may be made twice.
                Err(error) if !call.is_new && error.is_end() => self.close(call),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn close(&mut self, call: &mut Call) {
        call.id = None;
        if let Some(place) = self.places.get_mut(call.member.index()) {
            place.state = State::Closed;
        }
    }

    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        view: &View,
        member: MemberNo,
    ) -> Poll<Result<&mut LaneOf<C>, LaneError>> {
        let Some(place) = self.places.get_mut(member.index()) else {
            return Poll::Ready(Err(LaneError::Unknown));
        };
        let Some(known) = view.member(member) else {
            place.state = State::Closed;
            return Poll::Ready(Err(LaneError::Unknown));
        };
        if place.address != known.address {
            place.address = Arc::clone(&known.address);
            place.state = State::Closed;
        }
        if let State::Failed {
            retry_at,
            view: then,
            last,
        } = &place.state
        {
            // What the driver has heard since may be that the store is well.
            let news = *then != view.version() && view.good() & member.bit() != 0;
            if !news && Instant::now() < *retry_at {
                let last = Arc::new(last.clone());
                return Poll::Ready(Err(LaneError::Waiting(last)));
            }
            place.state = State::Closed;
        }
        if let State::Closed = place.state {
            place.state = State::Opening(open(&self.shared, &place.address, SessionKind::Data));
        }
        if let State::Opening(opening) = &mut place.state {
            match ready!(opening.as_mut().poll(cx)) {
                Ok(lane) => place.state = State::Open(Box::new(lane)),
                Err(error) => {
                    place.state = State::Closed;
                    return Poll::Ready(Err(error));
                }
            }
        }
        match &mut place.state {
            State::Open(lane) => Poll::Ready(Ok(lane)),
            _ => Poll::Ready(Err(LaneError::Unknown)),
        }
    }

    /// A call failed for good: its connection is closed, and the driver is told.
    pub(crate) fn fail(&mut self, view: &View, member: MemberNo, error: &LaneError) {
        if let Some(epoch) = error.fenced_by() {
            self.shared.fence(epoch);
            self.shared.note(Note::Fenced);
        }
        if matches!(
            error,
            LaneError::Busy(_)
                | LaneError::TooLarge(_)
                | LaneError::Waiting(_)
                | LaneError::Unknown
        ) {
            return;
        }
        self.shared.metrics.store(member.index()).errors.one();
        let Some(place) = self.places.get_mut(member.index()) else {
            return;
        };
        let pause = BACKOFF_MIN.saturating_mul(1 << place.failures.min(8));
        place.failures = place.failures.saturating_add(1);
        place.state = State::Failed {
            retry_at: Instant::now() + pause.min(BACKOFF_MAX),
            view: view.version(),
            last: error.clone(),
        };
        self.shared.note(Note::Suspected(member));
    }

    /// Nobody waits for this call any more.
    pub(crate) fn abandon(&mut self, call: &Call) {
        if let (Some(lane), Some(id)) = (self.lane(call.member), call.id) {
            lane.abandon(id);
        }
    }

    /// The open connection to a member, if there is one.
    pub(crate) fn lane(&mut self, member: MemberNo) -> Option<&mut LaneOf<C>> {
        match &mut self.places.get_mut(member.index())?.state {
            State::Open(lane) => Some(lane),
            _ => None,
        }
    }

    /// Takes in what came late, without waiting; a connection whose oldest answer is overdue is closed.
    pub(crate) fn catch_up(&mut self, view: &View, member: MemberNo) {
        let overdue = self.shared.settings.request_timeout;
        let Some(lane) = self.lane(member) else {
            return;
        };
        if lane.outstanding() == 0 {
            return;
        }
        let caught = lane.catch_up(&mut Context::from_waker(Waker::noop()));
        let error = match caught {
            Err(error) => error,
            Ok(())
                if lane
                    .waiting_since()
                    .is_some_and(|since| since.elapsed() > overdue) =>
            {
                LaneError::Timeout(overdue)
            }
            Ok(()) => return,
        };
        self.ended(view, member, &error);
    }

    /// A connection failed while no call depended on it. If it only ended, then perhaps long ago, with
    /// a life of the store's that is over: the next call connects anew, and finds out.
    pub(crate) fn ended(&mut self, view: &View, member: MemberNo, error: &LaneError) {
        if !error.is_end() {
            return self.fail(view, member, error);
        }
        if let Some(place) = self.places.get_mut(member.index()) {
            place.state = State::Closed;
        }
    }

    /// The next call to a member connects, also if it is not due after a failure.
    pub(crate) fn make_due(&mut self, member: MemberNo) {
        if let Some(place) = self.places.get_mut(member.index())
            && matches!(place.state, State::Failed { .. })
        {
            place.state = State::Closed;
        }
    }

    /// Reads what these members have sent, without waiting. True if there was something.
    pub(crate) fn fill_now(&mut self, members: impl Iterator<Item = MemberNo>) -> bool {
        let mut any = false;
        for member in members {
            if let Some(lane) = self.lane(member) {
                // A dead connection is found when its call is polled.
                any |= lane.fill_now().unwrap_or(true);
            }
        }
        any
    }

    /// A page came from this member.
    pub(crate) fn learn(&mut self, member: MemberNo, took: Duration) {
        if let Some(place) = self.places.get_mut(member.index()) {
            place.late.learn(took);
        }
    }

    /// How long after a request to this member another one is to be asked; never, if none is. At once,
    /// if it owes an answer for that long already.
    pub(crate) fn hedge_after(&self, member: MemberNo) -> Option<Duration> {
        let place = self.places.get(member.index())?;
        let after = place.late.after()?;
        let owes = match &place.state {
            State::Open(lane) => lane.waiting_since(),
            _ => None,
        };
        let is_late = owes.is_some_and(|since| since.elapsed() >= after);
        Some(if is_late { Duration::ZERO } else { after })
    }

    /// How good it is to ask this member now; less is better. Answers that are due come first, then
    /// how long answers took, in steps wide enough that stores alike are asked alike.
    pub(crate) fn cost(&mut self, member: MemberNo) -> (u8, u32) {
        let rank = match self.places.get(member.index()).map(|place| &place.state) {
            Some(State::Open(lane)) if lane.outstanding() == 0 => 0,
            Some(State::Closed) => 1,
            Some(State::Opening(_)) => 2,
            Some(State::Open(_)) => 3,
            Some(State::Failed { .. }) | None => 4,
        };
        let rtt = self
            .places
            .get(member.index())
            .map_or(Duration::ZERO, |place| place.rtt);
        let nanos = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        (rank, nanos.max(1).ilog2())
    }

    fn note_rtt(&mut self, member: MemberNo, took: Duration) {
        self.shared.metrics.rtt(member.index()).record(took);
        if let Some(place) = self.places.get_mut(member.index()) {
            place.failures = 0;
            place.rtt = if place.rtt.is_zero() {
                took
            } else {
                (place.rtt * (RTT_WEIGHT - 1) + took) / RTT_WEIGHT
            };
        }
    }
}

/// Connects and introduces itself.
pub(crate) fn open<C: Connector>(
    shared: &Arc<Shared<C>>,
    address: &Arc<str>,
    session: SessionKind,
) -> Opening<C> {
    let shared = Arc::clone(shared);
    let address = Arc::clone(address);
    Box::pin(async move {
        let limit = shared.settings.connect_timeout;
        let opened = timeout(limit, async {
            let stream = (shared.connector.connect(&address).await)
                .map_err(|error| LaneError::Connect(Arc::new(error)))?;
            Lane::open(stream, C::read_now, &shared.hello(session)).await
        });
        match opened.await {
            Ok(opened) => opened,
            Err(_) => Err(LaneError::Timeout(limit)),
        }
    })
}
