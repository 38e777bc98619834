// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connections over which stores say how they are.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;

use tmem_remote_protocol::{Advert as Said, Reason, Session as SessionKind};
use tokio::time::sleep;

use super::hands::Hands;
use crate::connect::Connector;
use crate::control::{Advert, Event, Lost, MemberNo};
use crate::lane::LaneError;
use crate::replicated::lanes::open;

/// After so many adverts the store hears of us: it may end connections that are silent.
const PING_EVERY: u32 = 10;

impl<C: Connector> Hands<C> {
    /// A store's, from its begin to its end.
    pub(super) async fn watch(self: Rc<Self>, member: MemberNo, session: u64, address: Arc<str>) {
        let mut lane = match open(&self.shared, &address, SessionKind::Control).await {
            Ok(lane) => lane,
            Err(error) => {
                let why = self.lost(&error);
                self.tell(Event::ConnectFailed {
                    member,
                    session,
                    why,
                });
                return;
            }
        };
        let (store, incarnation) = (lane.welcome().store_id, lane.welcome().incarnation);
        self.tell(Event::Connected {
            member,
            session,
            store,
            incarnation,
        });
        let mut heard = 0_u32;
        let error = loop {
            match poll_fn(|cx| lane.poll_advert(cx)).await {
                Ok(said) => {
                    heard = heard.wrapping_add(1);
                    if heard.is_multiple_of(PING_EVERY)
                        && let Ok(ping) = lane.start_ping()
                    {
                        lane.abandon(ping);
                    }
                    let advert = advert(&said);
                    self.tell(Event::Advert {
                        member,
                        session,
                        advert,
                    });
                }
                Err(error) => break error,
            }
        };
        let why = self.lost(&error);
        self.tell(Event::Lost {
            member,
            session,
            why,
        });
    }

    /// The disk's, which is always there.
    pub(super) async fn watch_disk(self: Rc<Self>, member: MemberNo, session: u64) {
        let Some(disk) = self.shared.disk.clone() else {
            let why = Lost::Rejected("no disk was given at the start".into());
            self.tell(Event::ConnectFailed {
                member,
                session,
                why,
            });
            return;
        };
        let id = disk.id();
        let incarnation = id
            .as_chunks::<8>()
            .0
            .iter()
            .fold(0, |sum, part| sum ^ u64::from_le_bytes(*part));
        self.tell(Event::Connected {
            member,
            session,
            store: id,
            incarnation: incarnation.max(1),
        });
        loop {
            let capacity_pages = u64::from(disk.slots());
            let replicas = self.shared.settings.replicas;
            let copies = self.shared.table.counts(replicas).copies;
            let used_pages = copies.get(member.index()).copied().unwrap_or(0);
            let advert = Advert {
                capacity_pages,
                free_pages: capacity_pages.saturating_sub(used_pages),
                quota_pages: capacity_pages,
                used_pages,
                load: 0,
            };
            self.tell(Event::Advert {
                member,
                session,
                advert,
            });
            sleep(self.shared.settings.advert_period).await;
        }
    }

    fn lost(&self, error: &LaneError) -> Lost {
        if let Some(epoch) = error.fenced_by() {
            self.shared.fence(epoch);
            return Lost::Fenced;
        }
        match error {
            LaneError::Connect(error) | LaneError::Io(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::NotFound => Lost::Refused,
                ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe => Lost::Reset,
                ErrorKind::UnexpectedEof => Lost::Closed,
                ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable => Lost::TimedOut,
                _ => Lost::Rejected(format!("connection failed: {error}")),
            },
            LaneError::Timeout(_) => Lost::TimedOut,
            LaneError::Closed => Lost::Closed,
            LaneError::Goodbye(farewell) if farewell.reason == Reason::Stopping => Lost::Closed,
            other => Lost::Rejected(other.to_string()),
        }
    }
}

fn advert(said: &Said) -> Advert {
    Advert {
        capacity_pages: said.capacity_pages,
        free_pages: said.free_pages,
        quota_pages: said.quota_pages,
        used_pages: said.used_pages,
        load: said.load,
    }
}
