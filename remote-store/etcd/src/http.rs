// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One request over one connection. Membership asks little and seldom, so a connection is made for
//! each request and nothing is kept that could be half dead.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::endpoint::Endpoint;
use crate::error::EtcdError;

/// The longest answer that is taken.
pub(crate) const ANSWER_MAX: usize = 16 << 20;

/// A response whose body is still to be read, and the connection that it comes over.
#[derive(Debug)]
pub(crate) struct Answer {
    endpoint: String,
    response: Response<Incoming>,
    connection: Connection,
}

/// Drives the connection; ends it when nobody is interested any more.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends `body` to `path`.
pub(crate) async fn post(
    endpoint: &Endpoint,
    tls: Option<&Arc<rustls::ClientConfig>>,
    path: &str,
    body: Vec<u8>,
) -> Result<Answer, EtcdError> {
    let connect = |source| EtcdError::Connect {
        endpoint: endpoint.to_string(),
        source,
    };
    let stream = match endpoint.address {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await,
    };
    let stream = stream.map_err(connect)?;
    stream.set_nodelay(true).map_err(connect)?;
    if !endpoint.tls {
        return send(endpoint, stream, path, body).await;
    }
    let config = tls.ok_or_else(|| EtcdError::NoTls(endpoint.to_string()))?;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|error| connect(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let connector = TlsConnector::from(Arc::clone(config));
    let stream = Box::pin(connector.connect(name, stream)).await;
    send(endpoint, stream.map_err(connect)?, path, body).await
}

async fn send<S>(
    endpoint: &Endpoint,
    stream: S,
    path: &str,
    body: Vec<u8>,
) -> Result<Answer, EtcdError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let http = |source| EtcdError::Http {
        endpoint: endpoint.to_string(),
        source,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let connection = Connection(tokio::spawn(async move {
        // What goes wrong here, the request's own future reports.
        let _ = connection.await;
    }));
    let request = Request::post(path)
        .header(HOST, endpoint.authority())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| EtcdError::Answer(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    Ok(Answer {
        endpoint: endpoint.to_string(),
        response,
        connection,
    })
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The next part of the body; None at its end.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, EtcdError> {
        while let Some(frame) = self.response.body_mut().frame().await {
            let frame = frame.map_err(|source| EtcdError::Http {
                endpoint: self.endpoint.clone(),
                source,
            })?;
            // Trailers are of no interest.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body.
    pub(crate) async fn all(mut self) -> Result<Vec<u8>, EtcdError> {
        let mut body = Vec::new();
        while let Some(part) = self.part().await? {
            if body.len() + part.len() > ANSWER_MAX {
                return Err(EtcdError::TooLong(ANSWER_MAX));
            }
            body.extend_from_slice(&part);
        }
        drop(self.connection);
        Ok(body)
    }
}
