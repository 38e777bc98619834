// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes that ought to be gone: they have a client's name, and an epoch that is over, and speak to
//! stores as if it were not. Nothing that they say may have an effect.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tmem_remote_protocol::{Reason, Session};
use tokio::time::timeout;
use turmoil::net::TcpStream;

use super::client;
use super::stores::{PORT, name as store_name};
use super::world::Shared;
use crate::page::Stamp;
use crate::peer::{Answer, Greeting, RawPeer, hello};

/// The simulated host of all latecomers.
pub(crate) const NAME: &str = "latecomer";
/// A page of a latecomer names this writer.
pub(crate) const WRITER: u32 = 0xdead;
/// The longest that it waits for anything.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a latecomer does.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    /// Says hello to each of these stores with an epoch that is over. Who welcomes it is wrong.
    Greet {
        /// The client whose name it has.
        client: usize,
        /// The epoch.
        epoch: u64,
        /// Stores that know of a newer epoch.
        stores: Vec<usize>,
    },
    /// Connects to each of these stores while its epoch is the newest.
    Connect {
        /// The client whose name it has.
        client: usize,
        /// The epoch.
        epoch: u64,
        /// The stores.
        stores: Vec<usize>,
    },
    /// Puts and flushes on the connections that it has, now that there is a newer epoch. Who obeys is
    /// wrong, if it is one of these stores.
    Disturb {
        /// Stores that know of a newer epoch.
        stores: Vec<usize>,
        /// A slot that nobody uses.
        slot: u32,
    },
}

/// A handle on the latecomers' host.
#[derive(Clone, Debug)]
pub(crate) struct Latecomers {
    errands: Rc<RefCell<VecDeque<Errand>>>,
    busy: Rc<RefCell<bool>>,
    world: Shared,
}

impl Latecomers {
    pub(crate) fn new(world: &Shared) -> Self {
        Self {
            errands: Rc::default(),
            busy: Rc::default(),
            world: world.clone(),
        }
    }

    /// Sends one.
    pub(crate) fn send(&self, errand: Errand) {
        self.errands.borrow_mut().push_back(errand);
    }

    /// Whether all errands are done.
    pub(crate) fn is_idle(&self) -> bool {
        self.errands.borrow().is_empty() && !*self.busy.borrow()
    }

    /// Runs, on the simulated host that calls this, for ever.
    pub(crate) async fn run(self) -> turmoil::Result {
        let mut peers: Vec<(usize, RawPeer<TcpStream>)> = Vec::new();
        loop {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let Some(errand) = self.errands.borrow_mut().pop_front() else {
                continue;
            };
            *self.busy.borrow_mut() = true;
            match errand {
                Errand::Greet {
                    client,
                    epoch,
                    stores,
                } => self.greet(client, epoch, &stores).await,
                Errand::Connect {
                    client,
                    epoch,
                    stores,
                } => {
                    peers.clear();
                    for store in stores {
                        if let Some(Ok(Greeting::Welcome(peer, _))) =
                            say_hello(client, epoch, store).await
                        {
                            peers.push((store, *peer));
                        }
                    }
                    self.world.note(format_args!(
                        "latecomer c{client} of epoch {epoch} has {} connections",
                        peers.len()
                    ));
                }
                Errand::Disturb { stores, slot } => {
                    for (store, peer) in &mut peers {
                        if stores.contains(store) {
                            self.disturb(*store, peer, slot).await;
                        }
                    }
                    peers.clear();
                }
            }
            *self.busy.borrow_mut() = false;
        }
    }

    async fn greet(&self, client: usize, epoch: u64, stores: &[usize]) {
        for store in stores {
            let greeted = say_hello(client, epoch, *store).await;
            match greeted {
                Some(Ok(Greeting::Welcome(..))) => self.world.fail(format_args!(
                    "store {store} welcomed a client of epoch {epoch}, which is over"
                )),
                Some(Ok(Greeting::Refused(farewell))) => {
                    self.world.note(format_args!(
                        "latecomer c{client} of epoch {epoch} at store {store}: {farewell}"
                    ));
                    if farewell.reason == Reason::Fenced {
                        self.world.with(|world| world.counts.refused += 1);
                    }
                }
                Some(Err(error)) => self
                    .world
                    .note(format_args!("latecomer at store {store}: {error}")),
                None => self
                    .world
                    .note(format_args!("latecomer at store {store}: no answer")),
            }
        }
    }

    async fn disturb(&self, store: usize, peer: &mut RawPeer<TcpStream>, slot: u32) {
        let stamp = Stamp {
            writer: WRITER,
            key: slot,
            version: 1,
        };
        let put = timeout(PATIENCE, peer.put(slot, 7, &stamp.page())).await;
        self.judge(store, "put", put.ok());
        let flush = timeout(PATIENCE, peer.flush(slot, 7)).await;
        self.judge(store, "flush", flush.ok());
    }

    fn judge(&self, store: usize, what: &str, answer: Option<Answer>) {
        match answer {
            Some(answer) if answer.is_ok() => self.world.fail(format_args!(
                "store {store} obeyed the {what} of a client whose epoch is over"
            )),
            Some(answer) => {
                self.world.note(format_args!(
                    "latecomer's {what} at store {store}: {answer:?}"
                ));
                self.world.with(|world| world.counts.refused += 1);
            }
            None => self.world.note(format_args!(
                "latecomer's {what} at store {store}: no answer"
            )),
        }
    }
}

async fn say_hello(
    client: usize,
    epoch: u64,
    store: usize,
) -> Option<std::io::Result<Greeting<TcpStream>>> {
    let greeted = timeout(PATIENCE, async {
        let stream = TcpStream::connect((store_name(store), PORT)).await?;
        let hello = hello(&client::name(client), epoch, Session::Data)?;
        RawPeer::greet(stream, &hello).await
    });
    greeted.await.ok()
}
