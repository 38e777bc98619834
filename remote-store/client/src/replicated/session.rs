// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one thread needs to read and write: its connections, and what it has learnt of their pace.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::alarm::Alarm;
use super::lanes::Lanes;
use super::pace::Spin;
use super::prefetch::Prefetched;
use crate::connect::Connector;
use crate::control::{Random, View};
use crate::shared::Shared;

/// Reads and writes pages, as one thread or one task. Not to be sent elsewhere: its connections belong
/// to the runtime that it was first used in.
pub struct Session<C: Connector> {
    pub(crate) shared: Arc<Shared<C>>,
    pub(crate) lanes: Lanes<C>,
    pub(super) view: Arc<View>,
    pub(super) random: Random,
    pub(super) spin: Spin,
    pub(super) alarm: Rc<Alarm>,
    pub(super) prefetched: Prefetched,
    /// Where pages are put together; taken back once no store needs them.
    pub(super) bodies: BytesMut,
}

impl<C: Connector> std::fmt::Debug for Session<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl<C: Connector> Session<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, salt: u64) -> Self {
        let settings = &shared.settings;
        Self {
            lanes: Lanes::new(Arc::clone(&shared)),
            view: shared.view(),
            random: Random::new(settings.seed ^ salt.wrapping_mul(0xd6e8_feb8_6659_fd93)),
            spin: Spin::new(settings.poll),
            alarm: Rc::new(Alarm::new(C::IS_REAL_TIME)),
            prefetched: Prefetched::default(),
            bodies: BytesMut::new(),
            shared,
        }
    }
}
