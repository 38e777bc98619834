// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The stores of a simulated run: real ones, each on a simulated host, and what only a simulation can
//! do to them: look at what they hold, damage it, take it away behind their backs.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use remote_store::{Identity, Peer, Store, StoreConfig, serve_connection};
use tempfile::TempDir;
use tmem_pages::{
    GetMode, GetResult, ObjectId, PAGE_SIZE, PageBytes, PageIndex, Pool, PoolId, PutResult, Ticket,
    Worker,
};
use tmem_remote_protocol::pool;
use turmoil::net::TcpListener;

use crate::page::Stamp;
use crate::random::Random;

/// Where every store listens.
pub(crate) const PORT: u16 = 7400;
/// Pages that a store has room for.
const CAPACITY: u32 = 2048;

/// A store's name in the simulated network.
pub(crate) fn name(number: usize) -> String {
    format!("store-{number}")
}

/// One store: what its process would hold, outside of the simulated host, which comes and goes.
#[derive(Debug)]
struct Inside {
    number: usize,
    /// Times that it began empty.
    incarnation: u64,
    /// Its pages are in files here, if they must outlive the process.
    folder: Option<TempDir>,
    store: Option<Arc<Store>>,
    worker: Option<Worker>,
}

/// A handle on a store.
#[derive(Clone, Debug)]
pub(crate) struct StoreHost(Rc<RefCell<Inside>>);

impl StoreHost {
    /// A store that was never started. One that `keeps` its pages has them in files.
    pub(crate) fn new(number: usize, keeps: bool) -> std::io::Result<Self> {
        let shared_memory = Path::new("/dev/shm");
        let folder = match keeps {
            true if shared_memory.is_dir() => Some(tempfile::tempdir_in(shared_memory)?),
            true => Some(tempfile::tempdir()?),
            false => None,
        };
        Ok(Self(Rc::new(RefCell::new(Inside {
            number,
            incarnation: 0,
            folder,
            store: None,
            worker: None,
        }))))
    }

    /// Serves, on the simulated host that calls this, for ever.
    pub(crate) async fn serve(self) -> turmoil::Result {
        let shard = self.open()?.shard()?;
        let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
        loop {
            let (stream, address) = listener.accept().await?;
            let peer = Peer::trusted(address.to_string());
            let shard = Rc::clone(&shard);
            tokio::task::spawn_local(async move {
                serve_connection(stream, peer, shard).await;
            });
        }
    }

    /// The store, opened if its process has only just begun.
    fn open(&self) -> anyhow::Result<Arc<Store>> {
        let mut inside = self.0.borrow_mut();
        if let Some(store) = &inside.store {
            return Ok(Arc::clone(store));
        }
        inside.incarnation += 1;
        let mut store_id = [0; 16];
        store_id[0] = 1 + u8::try_from(inside.number)?;
        let identity = Identity {
            store_id,
            incarnation: inside.incarnation,
        };
        let mut config = StoreConfig::new(CAPACITY, identity);
        config.state_dir = inside.folder.as_ref().map(|dir| state(dir.path()));
        let (store, _) = Store::open(config)?;
        inside.worker = Some(store.engine().worker()?);
        inside.store = Some(Arc::clone(&store));
        Ok(store)
    }

    /// The process is gone: call after the simulated host was crashed. If it comes back, then `empty`,
    /// or with its pages if it has files.
    pub(crate) fn ended(&self, empty: bool) -> std::io::Result<()> {
        let mut inside = self.0.borrow_mut();
        inside.worker = None;
        inside.store = None;
        match &inside.folder {
            Some(dir) if empty => fs::remove_dir_all(state(dir.path())),
            _ => Ok(()),
        }
    }

    /// Calls `act` with a worker of the store's engine and a namespace's pool, if there are such.
    fn at<T>(
        &self,
        namespace: &str,
        pool: u32,
        act: impl FnOnce(&mut Worker, &Pool) -> T,
    ) -> Option<T> {
        let mut inside = self.0.borrow_mut();
        let store = inside.store.clone()?;
        let pool = store.engine().guest(namespace)?.pool(PoolId(pool))?;
        inside.worker.as_mut().map(|worker| act(worker, &pool))
    }

    /// What it would deliver of a persistent page now, as good or bad as it is: none if it has none.
    pub(crate) fn peek(&self, namespace: &str, index: u32) -> Option<Peeked> {
        let peeked = self.at(namespace, pool::PERSISTENT, |worker, pool| {
            let mut page = [0; PAGE_SIZE];
            let (object, index) = (ObjectId::ZERO, PageIndex(index));
            match worker.get(pool, object, index, GetMode::Copy, &mut page) {
                GetResult::Hit | GetResult::HitSameFilled => {
                    Some(Stamp::of(&page).map_or(Peeked::Damaged, Peeked::Page))
                }
                GetResult::Miss | GetResult::BadIndex => None,
                _ => Some(Peeked::Damaged),
            }
        });
        peeked.flatten()
    }

    /// Takes a page away, so that the store is one that acknowledges and forgets.
    pub(crate) fn forget(&self, namespace: &str, index: u32) {
        let newest = Ticket::new((1 << 52) - 1).unwrap_or(Ticket::MIN);
        self.at(namespace, pool::PERSISTENT, |worker, pool| {
            worker.flush_page(pool, ObjectId::ZERO, PageIndex(index), newest)
        });
    }

    /// Puts a page there that is not what was last put, so that the store is one that goes back.
    pub(crate) fn replace(&self, namespace: &str, index: u32, page: &PageBytes) -> bool {
        let replaced = self.at(namespace, pool::PERSISTENT, |worker, pool| {
            let (object, index) = (ObjectId::ZERO, PageIndex(index));
            let mut there = [0; PAGE_SIZE];
            let (_, mark) = worker.get_marked(pool, object, index, &mut there);
            let ticket = mark.map_or(Ticket::MIN, |mark| mark.ticket);
            worker.put(pool, object, index, ticket, page) == PutResult::Stored
        });
        replaced == Some(true)
    }

    /// Changes a byte in some pages, where they lie: those of whom, and which.
    pub(crate) fn rot(&self, random: &mut Random, one_in: u32) -> std::io::Result<Vec<Stamp>> {
        let inside = self.0.borrow();
        let Some(folder) = &inside.folder else {
            return Ok(Vec::new());
        };
        let path = state(folder.path()).join("frames");
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let pages = file.metadata()?.len() / PAGE_SIZE as u64;
        let mut rotten = Vec::new();
        let mut page = [0; PAGE_SIZE];
        for number in 0..pages {
            let at = number * PAGE_SIZE as u64;
            file.read_exact_at(&mut page, at)?;
            let Some(stamp) = Stamp::of(&page).filter(|_| random.one_in(one_in)) else {
                continue;
            };
            let byte = random.below(4096);
            let changed = page[byte as usize] ^ (1 << random.below(8));
            file.write_all_at(&[changed], at + u64::from(byte))?;
            rotten.push(stamp);
        }
        Ok(rotten)
    }
}

/// What a store has under an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peeked {
    /// This page.
    Page(Stamp),
    /// A page that it cannot deliver, or that is nobody's.
    Damaged,
}

fn state(folder: &Path) -> PathBuf {
    folder.join("state")
}
