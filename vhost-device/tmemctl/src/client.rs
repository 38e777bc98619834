// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One request, one connection, one answer.
//!
//! The daemon's listening socket outlives the worker that answers on it: a connection made while
//! there is none waits for the next one, and one whose worker is killed breaks off.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tmem_admin_api::{ErrorAnswer, TaskDetail, path};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::Error;

/// From connecting to the answer's last byte. The daemon answers from memory.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
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

/// What is asked.
struct Question<'a> {
    method: Method,
    path: &'a str,
    /// JSON, or empty.
    body: String,
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

    /// Asks for `path` and reads the answer as a `T`. Asks once more if the connection breaks off,
    /// as it does when the worker that answers ends.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, Error> {
        match self.get_within(path, ANSWER_TIME_MAX) {
            Err(error) if error.broke_off() => self.get_within(path, ANSWER_TIME_MAX),
            result => result,
        }
    }

    /// Asks for `path` once, and gives the daemon `time` to answer.
    pub(crate) fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        time: Duration,
    ) -> Result<Answer<T>, Error> {
        let request = Question {
            method: Method::GET,
            path,
            body: String::new(),
        };
        self.ask(&request, time, StatusCode::OK)
    }

    /// Posts `body` to `path`, which begins a task.
    pub(crate) fn begin(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<TaskDetail>, Error> {
        self.post(path, written(body)?)
    }

    /// Posts `body` to `path`, which changes something at once, and reads what is then.
    pub(crate) fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, Error> {
        let request = Question {
            method: Method::POST,
            path,
            body: written(body)?,
        };
        self.ask(&request, ANSWER_TIME_MAX, StatusCode::OK)
    }

    /// Posts `body`, or nothing, to `path`, and reads the answer to what was accepted as a `T`.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: String,
    ) -> Result<Answer<T>, Error> {
        let method = Method::POST;
        let request = Question { method, path, body };
        self.ask(&request, ANSWER_TIME_MAX, StatusCode::ACCEPTED)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        request: &Question<'_>,
        time: Duration,
        wanted: StatusCode,
    ) -> Result<Answer<T>, Error> {
        let path = request.path;
        let (status, text) = self
            .runtime
            .block_on(async { tokio::time::timeout(time, self.exchange(request)).await })
            .map_err(|_| Error::Timeout {
                socket: self.socket.clone(),
                time,
            })??;
        if status != wanted {
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

    async fn exchange(&self, question: &Question<'_>) -> Result<(StatusCode, String), Error> {
        let path = question.path;
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
        let mut request = Request::new(Full::<Bytes>::from(question.body.clone()));
        *request.method_mut() = question.method.clone();
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

/// JSON; nothing is no body.
fn written(body: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string(body).map_err(Error::Request)?;
    Ok(if text == "null" { String::new() } else { text })
}

/// A name as it stands in a path.
pub(crate) fn escape(name: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(name, ESCAPED)
}

/// Path of one guest.
pub(crate) fn guest_path(name: &str) -> String {
    format!("{}/{}", path::GUESTS, escape(name))
}

/// `path`, narrowed to a guest if there is one.
pub(crate) fn of_guest(path: &str, guest: Option<&str>) -> String {
    match guest {
        Some(name) => format!("{path}?guest={}", utf8_percent_encode(name, ESCAPED)),
        None => path.into(),
    }
}
