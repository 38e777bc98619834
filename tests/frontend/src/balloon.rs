// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The balloon queue and the report queue, one request at a time.

use std::sync::Arc;

use tmem_abi::{
    BalloonRange, BalloonRequest, BalloonResponse, BalloonStats, QUEUE_BALLOON, QUEUE_REPORT,
    balloon,
};

use crate::{Connection, Error, GuestMemory, Queue, Result, Segment};

/// Bytes of a request with the most ranges.
const ROOM: usize = BalloonRequest::SIZE + BalloonRange::SIZE * RANGES;
const RANGES: usize = tmem_abi::BALLOON_RANGES_MAX as usize;

/// Both queues, and the memory for their requests.
#[derive(Debug)]
pub struct BalloonQueues {
    memory: Arc<GuestMemory>,
    balloon: Queue,
    report: Queue,
    request: u64,
    answer: u64,
}

impl BalloonQueues {
    /// Takes both queues from a connection that has them.
    pub fn take(connection: &mut Connection) -> Result<Self> {
        let memory = Arc::clone(connection.memory());
        let mut queue = |index| {
            let what = "the balloon's queue";
            let taken = connection.take_queue(index);
            taken.ok_or(Error::NotOffered { what })
        };
        let room = |bytes| {
            let at = memory.allocate(bytes, 64)?;
            // Touched now, so that no request makes the guest larger.
            memory.write(at, &vec![0; bytes])?;
            Ok::<_, Error>(at)
        };
        Ok(Self {
            balloon: queue(QUEUE_BALLOON)?,
            report: queue(QUEUE_REPORT)?,
            request: room(ROOM)?,
            answer: room(BalloonResponse::SIZE + RANGES)?,
            memory,
        })
    }

    /// Lets pages go. Returns the pages that were freed, and the result of each range.
    pub fn inflate(&mut self, ranges: &[BalloonRange]) -> Result<(u64, Vec<u8>)> {
        self.ranges(balloon::INFLATE, ranges, ranges.len())
    }

    /// Takes pages back. Returns the pages that are off the account.
    pub fn deflate(&mut self, ranges: &[BalloonRange]) -> Result<u64> {
        Ok(self.ranges(balloon::DEFLATE, ranges, 0)?.0)
    }

    /// Tells of free pages. Returns the pages that were freed, and the result of each range.
    pub fn report(&mut self, ranges: &[BalloonRange]) -> Result<(u64, Vec<u8>)> {
        self.ranges(balloon::REPORT, ranges, ranges.len())
    }

    /// Tells how the guest is.
    pub fn tell(&mut self, stats: &BalloonStats) -> Result<()> {
        let head = BalloonRequest {
            op: balloon::STATS,
            ranges: 0,
        };
        let bytes = [&head.to_bytes()[..], &stats.to_bytes()].concat();
        self.send(false, &bytes, 0).map(drop)
    }

    fn ranges(
        &mut self,
        op: u32,
        ranges: &[BalloonRange],
        results: usize,
    ) -> Result<(u64, Vec<u8>)> {
        let count = u32::try_from(ranges.len()).expect("at most 256");
        let mut bytes = BalloonRequest { op, ranges: count }.to_bytes().to_vec();
        bytes.extend(ranges.iter().flat_map(BalloonRange::to_bytes));
        let (answer, results) = self.send(op == balloon::REPORT, &bytes, results)?;
        Ok((answer.pages, results))
    }

    /// Sends any bytes, on the report queue or the balloon's.
    ///
    /// # Errors
    /// [`Error::Status`] for an answer that is not OK, among others.
    pub fn send(
        &mut self,
        report: bool,
        bytes: &[u8],
        results: usize,
    ) -> Result<(BalloonResponse, Vec<u8>)> {
        self.memory.write(self.request, bytes)?;
        let length = |bytes: usize| u32::try_from(bytes).expect("some thousands");
        let room = length(BalloonResponse::SIZE + results);
        let chain = [
            Segment::readable(self.request, length(bytes.len())),
            Segment::writable(self.answer, room),
        ];
        let queue = if report {
            &mut self.report
        } else {
            &mut self.balloon
        };
        queue.ring().add(&chain, false)?;
        queue.notify()?;
        let used = queue.wait_used()?.length;
        if used > room {
            return Err(Error::UsedLength { used, room });
        }
        let mut head = [0; BalloonResponse::SIZE];
        self.memory.read(self.answer, &mut head)?;
        let answer = BalloonResponse::from_bytes(&head);
        if answer.status != tmem_abi::status::OK {
            return Err(Error::Status {
                request: "a balloon's request",
                status: answer.status,
            });
        }
        let mut told = vec![0; (used as usize).saturating_sub(BalloonResponse::SIZE)];
        let at = self.answer + BalloonResponse::SIZE as u64;
        self.memory.read(at, &mut told)?;
        Ok((answer, told))
    }
}
