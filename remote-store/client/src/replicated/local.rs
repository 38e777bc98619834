// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Threads that know nothing of async: each has a small runtime and one session for each client.

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::{Builder, Runtime};

use super::session::Session;
use crate::connect::Connector;
use crate::shared::Shared;

/// Tells threads' sessions apart in what they draw.
static SALT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static LOCAL: RefCell<Option<Local>> = const { RefCell::new(None) };
}

/// What a thread has. Sessions go before the runtime that their connections belong to.
struct Local {
    sessions: Vec<Own>,
    runtime: Runtime,
}

/// A session, of whatever kind of connections.
struct Own {
    session: Box<dyn Any>,
    is_closed: Box<dyn Fn() -> bool>,
}

/// Runs `work` with this thread's session, and waits for its end.
///
/// # Errors
/// If the system has no more descriptors or memory for a runtime.
///
/// # Panics
/// If it is called from async code: that would stop all other tasks of the thread.
pub(super) fn wait<C: Connector, T>(
    shared: &Arc<Shared<C>>,
    work: impl AsyncFnOnce(&mut Session<C>) -> T,
) -> io::Result<T> {
    LOCAL.with_borrow_mut(|local| {
        let Local { sessions, runtime } = match local {
            Some(local) => local,
            None => local.insert(Local {
                sessions: Vec::new(),
                runtime: Builder::new_current_thread().enable_all().build()?,
            }),
        };
        let ours = |own: &Own| {
            let session = own.session.downcast_ref::<Session<C>>();
            session.is_some_and(|session| Arc::ptr_eq(&session.shared, shared))
        };
        let at = match sessions.iter().position(ours) {
            Some(at) => at,
            None => {
                let _inside = runtime.enter();
                sessions.retain(|own| !(own.is_closed)());
                let salt = SALT.fetch_add(1, Ordering::Relaxed);
                let watched = Arc::clone(shared);
                sessions.push(Own {
                    session: Box::new(Session::new(Arc::clone(shared), salt)),
                    is_closed: Box::new(move || watched.is_closed()),
                });
                sessions.len() - 1
            }
        };
        let session = (sessions.get_mut(at)).and_then(|own| own.session.downcast_mut());
        match session {
            Some(session) => Ok(block_on(runtime, work(session))),
            None => Err(io::Error::other("this thread's session is gone")),
        }
    })
}

fn block_on<T>(runtime: &Runtime, work: impl Future<Output = T>) -> T {
    runtime.block_on(work)
}
