// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is known of a client once it has said hello.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tmem_remote_protocol::{
    Capabilities, Encoder, Farewell, Hello, Offer, Reason, Versions, Welcome, negotiate,
};
use tokio::time::Instant;

use super::{Access, Ended, Peer};
use crate::shard::Shard;
use crate::store::{Journal, Namespace, NamespaceError, Store};

/// A client that was welcomed.
pub(super) struct Session {
    pub(super) namespace: Arc<Namespace>,
    pub(super) epoch: u64,
    pub(super) encoder: Encoder,
    adverts: Option<Adverts>,
}

struct Adverts {
    period: Duration,
    due: Instant,
    seq: u64,
}

impl Session {
    /// Judges a hello.
    pub(super) fn open(
        hello: &Hello,
        peer: &Peer,
        store: &Store,
        now: Instant,
    ) -> Result<(Self, Welcome), Farewell> {
        let limits = store.limits();
        let offer = Offer {
            versions: Versions::OWN,
            capabilities: capabilities(store),
            max_pages: limits.pages,
            max_in_flight: limits.in_flight,
        };
        let agreed = negotiate(hello, &offer)?;
        let name = hello.namespace.as_str();
        if let Access::Only(names) = &peer.access
            && !names.iter().any(|allowed| allowed == name)
        {
            let text = format!("The client's certificate is not for namespace {name}");
            return Err(Farewell::new(Reason::Denied, text));
        }
        let namespace = store
            .open_namespace(name, hello.epoch, hello.wants.persistent_indices)
            .map_err(|error| refusal(&error))?;
        if hello.wants.quota_pages > namespace.quota() {
            let text = format!(
                "Namespace {name} may keep {} pages here, and {} are wanted",
                namespace.quota(),
                hello.wants.quota_pages
            );
            return Err(Farewell::new(Reason::NoRoom, text));
        }
        let adverts = (agreed.advert_period_ms > 0).then(|| {
            let period = Duration::from_millis(u64::from(agreed.advert_period_ms));
            Adverts {
                period,
                due: now + period,
                seq: 1,
            }
        });
        let identity = store.identity();
        let welcome = Welcome {
            version: agreed.version,
            capabilities: agreed.capabilities,
            store_id: identity.store_id,
            incarnation: identity.incarnation,
            max_pages: agreed.max_pages,
            max_in_flight: agreed.max_in_flight,
            advert_period_ms: agreed.advert_period_ms,
            advert: store.advert(&namespace, 0),
        };
        namespace.connect();
        let session = Self {
            namespace,
            epoch: hello.epoch,
            encoder: Encoder::new(agreed.version),
            adverts,
        };
        Ok((session, welcome))
    }

    pub(super) fn name(&self) -> &str {
        self.namespace.name()
    }

    /// The end, if a newer client came.
    pub(super) fn fenced(&self) -> Option<Ended> {
        let newest = self.namespace.newest();
        (newest != self.epoch).then_some(Ended::Fenced {
            epoch: self.epoch,
            newest,
        })
    }

    pub(super) fn advert_due(&self) -> Option<Instant> {
        self.adverts.as_ref().map(|adverts| adverts.due)
    }

    /// Adds an advert to `output` if one is due. One that the client would not take is left out.
    pub(super) fn advertise(
        &mut self,
        now: Instant,
        quiet: bool,
        shard: &Shard,
        output: &mut Vec<u8>,
    ) {
        let Some(adverts) = &mut self.adverts else {
            return;
        };
        if now < adverts.due {
            return;
        }
        // Late ones are not made up for.
        while adverts.due <= now {
            adverts.due += adverts.period;
        }
        shard.idled(now);
        if quiet {
            let mut bytes = BytesMut::new();
            self.encoder.advert(
                &mut bytes,
                &shard.store.advert(&self.namespace, adverts.seq),
            );
            adverts.seq += 1;
            output.extend_from_slice(&bytes);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.namespace.disconnect();
    }
}

fn capabilities(store: &Store) -> Capabilities {
    let own = Capabilities::EPHEMERAL
        .union(Capabilities::LIST)
        .union(Capabilities::ADVERTS);
    let host = (store.journal.as_ref()).is_some_and(Journal::outlives_the_host);
    match (store.recovers(), host) {
        (_, true) => own
            .union(Capabilities::RECOVERS)
            .union(Capabilities::SYNCED),
        (true, false) => own.union(Capabilities::RECOVERS),
        (false, false) => own,
    }
}

fn refusal(error: &NamespaceError) -> Farewell {
    let reason = match error {
        NamespaceError::Fenced { epoch, newest, .. } => return Farewell::fenced(*epoch, *newest),
        NamespaceError::Unlisted { .. } => Reason::Denied,
        NamespaceError::Guest { .. }
        | NamespaceError::Pool { .. }
        | NamespaceError::TooLarge { .. } => Reason::NoRoom,
        NamespaceError::Unkept { .. } => Reason::Internal,
    };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    Farewell::new(reason, text)
}
