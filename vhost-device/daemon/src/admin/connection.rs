// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections: accepted, judged, bounded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tmem_admin_api::{ErrorAnswer, ErrorCode, Schema};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::access::{Access, Peer};
use super::router;
use crate::status::AdminSource;

/// Request line and headers together, in bytes; a request of this API has a few hundred.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Header lines.
const HEADERS_MAX: usize = 64;
/// Refusals under way at one time; callers beyond are hung up on.
const REFUSALS_MAX: usize = 16;
/// What is read of a refused request, unseen, so that the refusal is not lost to a reset.
const REFUSED_BYTES_MAX: usize = 64 << 10;
/// Rest after a failed accept. It fails when descriptors run out, and then again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds on what callers may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time; callers beyond are told to come back.
    pub connections: usize,
    /// A connection's time from accept to end. It covers a caller that does not send its request
    /// as well as one that does not read its answer.
    pub deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            deadline: Duration::from_secs(10),
        }
    }
}

/// Serves until `stop` is sent or its sender is gone.
pub(super) async fn accept(
    listener: UnixListener,
    access: Access,
    limits: Limits,
    source: Arc<dyn AdminSource>,
    mut stop: oneshot::Receiver<()>,
) {
    let router = router::router(source);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    // A caller that tries again and again is worth one line, not one for each try.
    let mut last_refused_uid = None;
    loop {
        let accepted = tokio::select! {
            _ = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "cannot tell who connected to the admin socket; hung up");
                continue;
            }
        };
        if !access.admits(&peer) {
            if last_refused_uid.replace(peer.uid) != Some(peer.uid) {
                tracing::warn!(
                    uid = peer.uid,
                    gid = peer.gid,
                    "refused an admin connection"
                );
            }
            spawn_refusal(
                stream,
                &refusals,
                forbidden(&peer),
                "403 Forbidden",
                limits.deadline,
            );
            continue;
        }
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            spawn_refusal(
                stream,
                &refusals,
                busy(limits),
                "503 Service Unavailable",
                limits.deadline,
            );
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(HEAD_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(limits.deadline, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
                Err(_) => tracing::debug!("admin connection took too long; hung up"),
            }
            drop(slot);
        });
    }
}

fn forbidden(peer: &Peer) -> ErrorAnswer {
    ErrorAnswer {
        schema: Schema,
        code: ErrorCode::Forbidden,
        message: format!(
            "user id {} may not use the admin API of this daemon",
            peer.uid
        ),
        hint: "run as root, or join the group that the daemon's configuration names for its admin \
               socket and log in again"
            .into(),
    }
}

fn busy(limits: Limits) -> ErrorAnswer {
    ErrorAnswer {
        schema: Schema,
        code: ErrorCode::Busy,
        message: format!(
            "{} admin connections are open, no more are served",
            limits.connections
        ),
        hint: format!("try again within {} s", limits.deadline.as_secs().max(1)),
    }
}

/// Tells a caller why it is not served, beside the accept loop.
fn spawn_refusal(
    stream: UnixStream,
    refusals: &Arc<Semaphore>,
    answer: ErrorAnswer,
    status: &'static str,
    deadline: Duration,
) {
    let Ok(slot) = Arc::clone(refusals).try_acquire_owned() else {
        return;
    };
    tokio::spawn(async move {
        if let Ok(Err(error)) = timeout(deadline, refuse(stream, &answer, status)).await {
            tracing::debug!(%error, "could not tell an admin caller that it is refused");
        }
        drop(slot);
    });
}

/// Writes the answer without looking at the request. Some of the request is awaited first, because
/// an HTTP client takes an answer that precedes its question for an error; and the rest is read
/// away afterwards, because a socket closed with unread bytes resets the connection, and the
/// caller may never see the answer.
async fn refuse(mut stream: UnixStream, answer: &ErrorAnswer, status: &str) -> io::Result<()> {
    let body = serde_json::to_string(answer).map_err(io::Error::other)?;
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let mut away = [0; 4096];
    let mut left = REFUSED_BYTES_MAX.saturating_sub(stream.read(&mut away).await?);
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    while left > 0 {
        match stream.read(&mut away).await? {
            0 => break,
            n => left = left.saturating_sub(n),
        }
    }
    Ok(())
}
