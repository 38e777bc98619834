// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Asking etcd: each call goes to the endpoint that answered last, and to the others in turn if that
//! one does not answer. Whatever is asked here may be asked twice without harm.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::endpoint::Endpoint;
use crate::error::EtcdError;
use crate::http::{self, Answer};
use crate::watch::Watch;
use crate::wire::{
    Base64, Compare, DeleteResponse, GrantRequest, Int, LeaseRequest, LeaseResponse, Operation,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RawKeyValue, Refusal, Streamed,
    TxnRequest, TxnResponse, WatchCreate, WatchRequest,
};

/// Which etcd, and how.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Servers of one cluster.
    pub endpoints: Vec<Endpoint>,
    /// How long one server may take for one answer.
    pub timeout: Duration,
    /// For `https://` endpoints: whom to trust, and who we are.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl ClientConfig {
    /// Two seconds for an answer, and no TLS.
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            timeout: Duration::from_secs(2),
            tls: None,
        }
    }
}

/// A client of one etcd cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    /// The endpoint to ask first.
    first: AtomicUsize,
}

/// A key and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// What it holds.
    pub value: Vec<u8>,
    /// The revision that made it.
    pub create_revision: i64,
    /// The revision that changed it last.
    pub mod_revision: i64,
    /// The lease that it lives by; 0 if none.
    pub lease: i64,
}

impl TryFrom<RawKeyValue> for KeyValue {
    type Error = EtcdError;

    fn try_from(raw: RawKeyValue) -> Result<Self, EtcdError> {
        let key = String::from_utf8(raw.key.0);
        Ok(Self {
            key: key.map_err(|_| EtcdError::Answer("a key is no text".into()))?,
            value: raw.value.0,
            create_revision: raw.create_revision.0,
            mod_revision: raw.mod_revision.0,
            lease: raw.lease.0,
        })
    }
}

/// Keys at one moment.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The revision of that moment.
    pub revision: i64,
    /// The keys, in order.
    pub keys: Vec<KeyValue>,
}

/// What must hold for a put to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// There is no such key.
    Absent,
    /// The key was changed last by this revision.
    UnchangedSince(i64),
}

/// How a conditional put ended.
#[derive(Clone, Debug)]
pub enum Conditional {
    /// Done, by this revision.
    Done {
        /// The revision.
        revision: i64,
    },
    /// Not done: this is what the key is.
    Refused {
        /// None if there is no such key.
        found: Option<KeyValue>,
    },
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub id: i64,
    /// How long it lasts without a word from its holder.
    pub ttl: Duration,
}

/// The key after all those that begin with `prefix`.
fn end_of(prefix: &str) -> Base64 {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Base64(end);
        }
    }
    // All keys.
    Base64(vec![0])
}

fn seconds(time: Duration) -> i64 {
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX)
}

impl Client {
    /// A client. Connects to nobody yet.
    ///
    /// # Errors
    /// No endpoints, or one that needs TLS for which there are no settings.
    pub fn new(config: ClientConfig) -> Result<Self, EtcdError> {
        if config.endpoints.is_empty() {
            return Err(EtcdError::NoEndpoints);
        }
        let bare = |endpoint: &&Endpoint| endpoint.tls && config.tls.is_none();
        if let Some(endpoint) = config.endpoints.iter().find(bare) {
            return Err(EtcdError::NoTls(endpoint.to_string()));
        }
        Ok(Self(Arc::new(Shared {
            config,
            first: AtomicUsize::new(0),
        })))
    }

    /// How long one server may take for one answer.
    pub fn timeout(&self) -> Duration {
        self.0.config.timeout
    }

    /// All keys that begin with `prefix`.
    ///
    /// # Errors
    /// See [`EtcdError`]; so for all calls.
    pub async fn list(&self, prefix: &str) -> Result<Listing, EtcdError> {
        self.range(RangeRequest {
            key: prefix.into(),
            range_end: Some(end_of(prefix)),
        })
        .await
    }

    /// One key.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, EtcdError> {
        let request = RangeRequest {
            key: key.into(),
            range_end: None,
        };
        Ok(self.range(request).await?.keys.pop())
    }

    async fn range(&self, request: RangeRequest) -> Result<Listing, EtcdError> {
        let response: RangeResponse = self.call("/v3/kv/range", &request).await?;
        if response.more {
            return Err(EtcdError::Answer("the list is cut short".into()));
        }
        Ok(Listing {
            revision: response.header.revision.0,
            keys: key_values(response.kvs)?,
        })
    }

    /// Sets a key, for as long as a lease lasts if one is given. Says by which revision.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn put(&self, key: &str, value: &[u8], lease: Option<i64>) -> Result<i64, EtcdError> {
        let request = put_request(key, value, lease);
        let response: PutResponse = self.call("/v3/kv/put", &request).await?;
        Ok(response.header.revision.0)
    }

    /// Deletes a key. True if there was one.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn delete(&self, key: &str) -> Result<bool, EtcdError> {
        let request = RangeRequest {
            key: key.into(),
            range_end: None,
        };
        let response: DeleteResponse = self.call("/v3/kv/deleterange", &request).await?;
        Ok(response.deleted.0 > 0)
    }

    /// Sets a key if something holds of it, in one step; otherwise says what it is.
    ///
    /// # Errors
    /// See [`EtcdError`]. When no answer came, the put may have been done.
    pub async fn put_when(
        &self,
        when: When,
        key: &str,
        value: &[u8],
        lease: Option<i64>,
    ) -> Result<Conditional, EtcdError> {
        let put = Operation::Put(put_request(key, value, lease));
        self.txn(when, key, put).await
    }

    /// Deletes a key if something holds of it, in one step.
    ///
    /// # Errors
    /// See [`EtcdError`]. When no answer came, it may have been done.
    pub async fn delete_when(&self, when: When, key: &str) -> Result<Conditional, EtcdError> {
        let delete = Operation::Delete(RangeRequest {
            key: key.into(),
            range_end: None,
        });
        self.txn(when, key, delete).await
    }

    async fn txn(
        &self,
        when: When,
        key: &str,
        operation: Operation,
    ) -> Result<Conditional, EtcdError> {
        let (target, create, modified) = match when {
            When::Absent => ("CREATE", Some(Int(0)), None),
            When::UnchangedSince(revision) => ("MOD", None, Some(Int(revision))),
        };
        let request = TxnRequest {
            compare: vec![Compare {
                key: key.into(),
                target,
                result: "EQUAL",
                create_revision: create,
                mod_revision: modified,
            }],
            success: vec![operation],
            failure: vec![Operation::Range(RangeRequest {
                key: key.into(),
                range_end: None,
            })],
        };
        let response: TxnResponse = self.call("/v3/kv/txn", &request).await?;
        if response.succeeded {
            return Ok(Conditional::Done {
                revision: response.header.revision.0,
            });
        }
        let ranges = response.responses.into_iter();
        let found = ranges
            .filter_map(|response| response.response_range)
            .flat_map(|range| range.kvs)
            .next();
        Ok(Conditional::Refused {
            found: found.map(KeyValue::try_from).transpose()?,
        })
    }

    /// Asks for a lease.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn lease_grant(&self, ttl: Duration) -> Result<Lease, EtcdError> {
        let request = GrantRequest {
            ttl: Int(seconds(ttl).max(1)),
        };
        let response: LeaseResponse = self.call("/v3/lease/grant", &request).await?;
        let ttl = u64::try_from(response.ttl.0).unwrap_or(0);
        Ok(Lease {
            id: response.id.0,
            ttl: Duration::from_secs(ttl),
        })
    }

    /// Makes a lease last anew. False if there is no such lease any more.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn lease_keep_alive(&self, lease: i64) -> Result<bool, EtcdError> {
        let request = LeaseRequest { id: Int(lease) };
        let answer: Streamed<LeaseResponse> = self.call("/v3/lease/keepalive", &request).await?;
        match (answer.result, answer.error) {
            (Some(lease), _) => Ok(lease.ttl.0 > 0),
            (None, Some(error)) => Err(EtcdError::Refused {
                status: error.http_code,
                code: error.grpc_code,
                message: error.message,
            }),
            (None, None) => Err(EtcdError::Answer("neither a result nor an error".into())),
        }
    }

    /// Ends a lease and deletes its keys. A lease that is not there is as good as ended.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn lease_revoke(&self, lease: i64) -> Result<(), EtcdError> {
        #[derive(serde::Deserialize)]
        struct Revoked {}
        let request = LeaseRequest { id: Int(lease) };
        match self.call::<Revoked>("/v3/lease/revoke", &request).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Watches all keys that begin with `prefix`, from a revision on.
    ///
    /// # Errors
    /// See [`EtcdError`]; that a revision is compacted is said by the watch itself.
    pub async fn watch(&self, prefix: &str, from_revision: i64) -> Result<Watch, EtcdError> {
        let request = WatchRequest {
            create_request: WatchCreate {
                key: prefix.into(),
                range_end: end_of(prefix),
                start_revision: Int(from_revision),
            },
        };
        let answer = self.ask("/v3/watch", &request, Self::begin).await?;
        Ok(Watch::new(answer))
    }

    async fn call<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, EtcdError> {
        let body = self.ask(path, request, Self::whole).await?;
        serde_json::from_slice(&body).map_err(|error| EtcdError::Answer(error.to_string()))
    }

    async fn begin(answer: Answer) -> Result<Answer, EtcdError> {
        if answer.status() == 200 {
            return Ok(answer);
        }
        Err(refusal(answer.status(), &answer.all().await?))
    }

    async fn whole(answer: Answer) -> Result<Vec<u8>, EtcdError> {
        Self::begin(answer).await?.all().await
    }

    /// Asks one endpoint after the other, until one answers, each no longer than the timeout.
    async fn ask<T, F>(
        &self,
        path: &str,
        request: &impl Serialize,
        take: impl Fn(Answer) -> F,
    ) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, EtcdError>>,
    {
        let Shared { config, first } = &*self.0;
        let body = serde_json::to_vec(request);
        let body = body.map_err(|error| EtcdError::Answer(error.to_string()))?;
        let begin = first.load(Ordering::Relaxed);
        let mut last = EtcdError::NoEndpoints;
        for step in 0..config.endpoints.len() {
            let at = (begin + step) % config.endpoints.len();
            let Some(endpoint) = config.endpoints.get(at) else {
                continue;
            };
            let asked = async {
                let answer = http::post(endpoint, config.tls.as_ref(), path, body.clone()).await?;
                take(answer).await
            };
            let result = tokio::time::timeout(config.timeout, Box::pin(asked)).await;
            let result = result.unwrap_or_else(|_| {
                Err(EtcdError::Timeout {
                    endpoint: endpoint.to_string(),
                    after: config.timeout,
                })
            });
            match result {
                Err(error) if error.is_passing() => last = error,
                other => {
                    first.store(at, Ordering::Relaxed);
                    return other;
                }
            }
        }
        // The next call begins elsewhere: this one may have hung at a server that is frozen.
        first.store(begin + 1, Ordering::Relaxed);
        Err(last)
    }

    /// The endpoint that was used last is not to be trusted: the next call begins at another one.
    pub(crate) fn rotate(&self) {
        self.0.first.fetch_add(1, Ordering::Relaxed);
    }
}

fn put_request(key: &str, value: &[u8], lease: Option<i64>) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: Base64(value.to_vec()),
        lease: lease.map(Int),
    }
}

pub(crate) fn key_values(raw: Vec<RawKeyValue>) -> Result<Vec<KeyValue>, EtcdError> {
    raw.into_iter().map(KeyValue::try_from).collect()
}

fn refusal(status: u16, body: &[u8]) -> EtcdError {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_else(|_| Refusal {
        message: "an answer without words".into(),
        error: String::new(),
        code: 0,
    });
    EtcdError::Refused {
        status,
        code: refusal.code,
        message: if refusal.message.is_empty() {
            refusal.error
        } else {
            refusal.message
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_does_not_begin_with_it() {
        assert_eq!(end_of("/a/"), "/a0".into());
        assert_eq!(end_of("a\u{7f}"), Base64(vec![b'a', 0x80]));
        assert_eq!(end_of(""), Base64(vec![0]));
    }

    #[test]
    fn a_lease_is_asked_for_in_whole_seconds() {
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(3)), 3);
    }

    #[test]
    fn a_client_needs_an_endpoint_and_its_tls_settings() {
        let none = Client::new(ClientConfig::new(Vec::new()));
        assert!(matches!(none, Err(EtcdError::NoEndpoints)));
        let bare = ClientConfig::new(vec!["https://a".parse().unwrap()]);
        assert!(matches!(Client::new(bare), Err(EtcdError::NoTls(_))));
    }
}
