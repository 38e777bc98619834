// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control queue: HELLO and pools.

use super::{Bench, UNTOUCHED};
use crate::why::{Result, ensure, same};
use crate::wire::{
    ControlRequest, ControlResponse, QUEUE_CONTROL, VERSION, control, hello, pool_kind,
    pool_layout, status,
};

/// POOL_CREATE of a dense pool.
pub(crate) fn dense(pool: u32, kind: u16, object_pages: u32) -> ControlRequest {
    ControlRequest {
        op: control::POOL_CREATE,
        pool,
        kind,
        layout: pool_layout::DENSE,
        object_pages,
        ..ControlRequest::default()
    }
}

/// POOL_CREATE of a sparse pool.
pub(crate) fn sparse(pool: u32, kind: u16) -> ControlRequest {
    ControlRequest {
        layout: pool_layout::SPARSE,
        object_pages: 0,
        ..dense(pool, kind, 0)
    }
}

impl Bench {
    /// Asks on the control queue.
    pub(crate) fn control(&mut self, request: &ControlRequest) -> Result<ControlResponse> {
        self.control_bytes(&request.to_bytes())
    }

    /// Asks on the control queue with any bytes.
    pub(crate) fn control_bytes(&mut self, request: &[u8]) -> Result<ControlResponse> {
        let question = self.question(0).part(0, request.len());
        question.put(0, request);
        let reply = self.reply(0).part(0, ControlResponse::SIZE);
        reply.fill(UNTOUCHED);
        let bytes = self.exchange(QUEUE_CONTROL, |chain| {
            chain.readable(question);
            chain.writable(reply);
        })?;
        same!(
            bytes as usize,
            ControlResponse::SIZE,
            "used bytes on the control queue"
        );
        let mut response = [0; ControlResponse::SIZE];
        reply.take(0, &mut response);
        Ok(ControlResponse::from_bytes(&response))
    }

    /// The status of the answer to a control request.
    pub(crate) fn control_status(&mut self, request: &ControlRequest) -> Result<u8> {
        self.control(request).map(|response| response.status)
    }

    /// HELLO with the bench's epoch.
    pub(crate) fn hello(&mut self) -> Result<ControlResponse> {
        let request = ControlRequest {
            op: control::HELLO,
            version: u32::from(VERSION),
            epoch_low: self.epoch[0],
            epoch_high: self.epoch[1],
            ..ControlRequest::default()
        };
        self.control(&request)
    }

    /// Draws an epoch and says HELLO with it.
    pub(crate) fn new_epoch(&mut self) -> Result {
        self.epoch = self.next_epoch();
        let answer = self.hello()?;
        same!(answer.status, status::OK, "HELLO of a new epoch: status");
        same!(answer.flags, 0, "HELLO of a new epoch: flags");
        same!(answer.held, 0, "HELLO of a new epoch: pages held");
        same!(answer.value, 0, "HELLO of a new epoch: highest ticket");
        Ok(())
    }

    /// Says HELLO with the epoch that the device must know.
    pub(crate) fn same_epoch(&mut self) -> Result {
        let answer = self.hello()?;
        same!(answer.status, status::OK, "HELLO again: status");
        same!(answer.flags, hello::SAME_EPOCH, "HELLO again: flags");
        ensure!(
            answer.value <= self.ticket,
            "HELLO again: ticket {} was never sent",
            answer.value
        );
        Ok(())
    }

    /// Makes a pool that must be made.
    pub(crate) fn create(&mut self, request: &ControlRequest) -> Result<u32> {
        same!(
            self.control_status(request)?,
            status::OK,
            "POOL_CREATE of pool {}: status",
            request.pool
        );
        Ok(request.pool)
    }

    /// Makes a dense persistent pool of this many pages.
    pub(crate) fn swap_area(&mut self, pages: u32) -> Result<u32> {
        let id = self.next_pool();
        self.create(&dense(id, pool_kind::PERSISTENT, pages))
    }

    /// POOL_STAT.
    pub(crate) fn stat(&mut self, pool: u32) -> Result<ControlResponse> {
        self.control(&ControlRequest {
            op: control::POOL_STAT,
            pool,
            ..ControlRequest::default()
        })
    }

    /// Destroys a pool that is there.
    pub(crate) fn destroy(&mut self, pool: u32) -> Result {
        let request = ControlRequest {
            op: control::POOL_DESTROY,
            pool,
            ..ControlRequest::default()
        };
        same!(
            self.control_status(&request)?,
            status::OK,
            "POOL_DESTROY of pool {pool}: status"
        );
        Ok(())
    }
}
