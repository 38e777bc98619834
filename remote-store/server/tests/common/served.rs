// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A store in this process, reached over streams in memory.

use std::rc::Rc;
use std::sync::Arc;

use remote_store::{Access, Ended, Identity, Peer, Shard, Store, StoreConfig, serve_connection};
use tokio::io::{DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::{Client, hello};

pub(crate) const IDENTITY: Identity = Identity {
    store_id: [9; 16],
    incarnation: 77,
};

/// A store in this process.
pub(crate) struct Served {
    pub(crate) store: Arc<Store>,
    pub(crate) shard: Rc<Shard>,
}

impl Served {
    pub(crate) fn new(change: impl FnOnce(&mut StoreConfig)) -> Self {
        let mut config = StoreConfig::new(1024, IDENTITY);
        change(&mut config);
        let (store, _) = Store::open(config).unwrap();
        let shard = store.shard().unwrap();
        Self { store, shard }
    }

    /// A connection, with so much room on its way, and how it ends.
    pub(crate) fn connect_by(
        &self,
        access: Access,
        room: usize,
    ) -> (DuplexStream, JoinHandle<Ended>) {
        let (ours, its) = duplex(room);
        let peer = Peer {
            address: "test".into(),
            access,
        };
        let served = spawn_local(serve_connection(its, peer, Rc::clone(&self.shard)));
        (ours, served)
    }

    pub(crate) fn connect(&self) -> (DuplexStream, JoinHandle<Ended>) {
        self.connect_by(Access::Any, 64 << 10)
    }

    pub(crate) async fn client(&self, namespace: &str, epoch: u64) -> Client<DuplexStream> {
        let (stream, _) = self.connect();
        Client::open(stream, &hello(namespace, epoch)).await.0
    }
}

/// Runs a test in a thread with its own time, which leaps over waiting.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}
