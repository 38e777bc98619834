// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One request, one connection, one answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tmem_admin_api::{ErrorAnswer, path};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::Error;

/// From connecting to the answer's last byte. The daemon answers from memory.
const ANSWER_SECONDS_MAX: u64 = 10;
/// The longest answer that is taken: some ten thousand guests' statistics.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What needs no escape in a path segment or a query value.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A way to the daemon.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

/// An answer, understood and as it came.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    pub(crate) text: String,
}

impl Client {
    /// Prepares to talk to the daemon at `socket`; connects to nothing yet.
    pub(crate) fn new(socket: &Path) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Runtime)?;
        Ok(Self {
            socket: socket.into(),
            runtime,
        })
    }

    /// Asks for `path` and reads the answer as a `T`.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Error> {
        let deadline = Duration::from_secs(ANSWER_SECONDS_MAX);
        let (status, text) = self
            .runtime
            .block_on(async { tokio::time::timeout(deadline, self.exchange(path)).await })
            .map_err(|_| Error::Timeout {
                socket: self.socket.clone(),
                seconds: ANSWER_SECONDS_MAX,
            })??;
        if status != StatusCode::OK {
            return Err(serde_json::from_str::<ErrorAnswer>(&text).map_or_else(
                |_| Error::Status {
                    path: path.into(),
                    status: status.as_u16(),
                },
                Error::Refused,
            ));
        }
        let value = serde_json::from_str(&text).map_err(|source| Error::Unreadable {
            path: path.into(),
            source,
        })?;
        Ok(Answer { value, text })
    }

    async fn exchange(&self, path: &str) -> Result<(StatusCode, String), Error> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| Error::Unreachable {
                    socket: self.socket.clone(),
                    source,
                })?;
        let failed = |source| Error::Connection {
            socket: self.socket.clone(),
            source,
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        // Its errors come out of the sender and the body as well.
        tokio::spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = path.parse().map_err(|source| Error::Body {
            path: path.into(),
            source: Box::new(source),
        })?;
        request
            .headers_mut()
            .insert(header::HOST, header::HeaderValue::from_static("tmem"));
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let unreceived = |source| Error::Body {
            path: path.into(),
            source,
        };
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(unreceived)?.to_bytes();
        let text = String::from_utf8(bytes.into()).map_err(|source| unreceived(source.into()))?;
        Ok((status, text))
    }
}

/// Path of one guest.
pub(crate) fn guest_path(name: &str) -> String {
    format!("{}/{}", path::GUESTS, utf8_percent_encode(name, ESCAPED))
}

/// `path`, narrowed to a guest if there is one.
pub(crate) fn of_guest(path: &str, guest: Option<&str>) -> String {
    match guest {
        Some(name) => format!("{path}?guest={}", utf8_percent_encode(name, ESCAPED)),
        None => path.into(),
    }
}
