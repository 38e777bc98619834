// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Our side: the daemon with one guest and one pair of queues.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tmem_abi::{RequestHeader, ResponseHeader, flag, get_queue, op, put_queue, result, status};
use tmem_frontend::{Connection, DaemonProcess, Driver, GuestMemory, Options};

use super::target::{Format, Op, Target};
use super::{MEMORY, Polling};
use crate::{Error, Result, pin};

/// The pool of the benchmark.
const POOL: u32 = 1;
/// What the daemon is told to poll, in microseconds: far longer than the pauses of a closed loop.
const POLL_US: u32 = 1000;

/// Our requests; pages of a batch are listed unless they are a run.
#[derive(Debug, Default)]
pub(crate) struct Tmem {
    ticket: u64,
}

impl Format for Tmem {
    const NAME: &'static str = "vhost-device-tmem";
    const HEADER: usize = RequestHeader::SIZE + 4 * super::target::BATCH;
    const ANSWER_FIRST: bool = true;

    fn header(&mut self, op: Op, indices: &[u32], header: &mut [u8]) -> usize {
        let listed = indices.len() > 1;
        let put = op == Op::Put;
        if put {
            self.ticket += 1;
        }
        let fixed = RequestHeader {
            op: if put { op::PUT } else { op::GET },
            flags: if listed { flag::LIST } else { 0 },
            pool: POOL,
            index: if listed { 0 } else { indices[0] },
            pages: u32::try_from(indices.len()).expect("a small batch"),
            ticket: if put { self.ticket } else { 0 },
            ..RequestHeader::default()
        };
        header[..RequestHeader::SIZE].copy_from_slice(&fixed.to_bytes());
        if !listed {
            return RequestHeader::SIZE;
        }
        let list = header[RequestHeader::SIZE..].chunks_exact_mut(4);
        for (bytes, index) in list.zip(indices) {
            bytes.copy_from_slice(&index.to_le_bytes());
        }
        RequestHeader::SIZE + 4 * indices.len()
    }

    fn answer(&self, pages: usize) -> u32 {
        u32::try_from(ResponseHeader::SIZE + pages).expect("a small batch")
    }

    fn failure(&self, answer: &[u8], pages: usize) -> Option<u8> {
        let results = &answer[ResponseHeader::SIZE..ResponseHeader::SIZE + pages];
        let failed = results.iter().copied().find(|result| *result != result::OK);
        if answer[0] == status::OK {
            failed
        } else {
            Some(answer[0])
        }
    }
}

/// As what the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    /// A keeper and its worker, sandboxed as far as the machine allows: what people run.
    Keeper,
    /// `--single-process`: no keeper and no sandbox.
    Single,
}

/// The daemon.
#[derive(Debug)]
pub(crate) struct TmemServer {
    process: DaemonProcess,
    model: Model,
    socket: PathBuf,
    pages: u32,
}

impl TmemServer {
    /// Starts `program` for a guest of `pages` pages.
    pub(crate) fn start(
        program: &Path,
        model: Model,
        folder: &Path,
        pages: u32,
        polling: Polling,
    ) -> Result<Self> {
        let socket = folder.join(format!("tmem-{model:?}-{polling:?}.sock"));
        let poll = if polling == Polling::On { POLL_US } else { 0 };
        let mut command = Command::new(program);
        command
            .arg("--socket-path")
            .arg(&socket)
            .args(["--dram", &format!("{}KiB", (u64::from(pages) + 1024) * 4)])
            .args(["--queue-pairs", "1", "--log-level", "warn"])
            .args(["--poll-us", &poll.to_string()])
            .stdin(Stdio::null());
        if model == Model::Single {
            command.arg("--single-process");
        }
        let process =
            DaemonProcess::start(&mut command, &[&socket]).map_err(Error::frontend(Tmem::NAME))?;
        Ok(Self {
            process,
            model,
            socket,
            pages,
        })
    }

    /// Id of the process that serves guests: the keeper's one child, or the only process.
    pub(crate) fn serving(&self) -> Result<u32> {
        let process = self.process.id();
        if self.model == Model::Single {
            return Ok(process);
        }
        match pin::children(process)[..] {
            [worker] => Ok(worker),
            ref workers => Err(Error::Worker {
                keeper: process,
                found: workers.len(),
            }),
        }
    }

    /// Fails unless `worker` serves still.
    pub(crate) fn check_serving(&self, worker: u32) -> Result<()> {
        if self.serving()? == worker {
            Ok(())
        } else {
            Err(Error::Replaced { worker })
        }
    }

    /// Ends it, and waits until its memory is free for what is measured next.
    pub(crate) fn end(mut self) -> Result<()> {
        let ended = self.process.terminate();
        ended.map(drop).map_err(Error::frontend(Tmem::NAME))
    }

    /// Connects, greets, makes the pool and the target.
    pub(crate) fn connect(&self) -> Result<Target<Tmem>> {
        let fail = Error::frontend(Tmem::NAME);
        let memory = GuestMemory::new(MEMORY).map_err(&fail)?;
        let connection = Connection::establish(&self.socket, &memory, Options::default());
        let mut driver = Driver::over(connection.map_err(&fail)?, 1).map_err(&fail)?;
        let hello = driver.hello(1).map_err(&fail)?;
        driver.create_dense(POOL, self.pages).map_err(&fail)?;
        let pair = driver.take_pair(0).expect("a fresh driver has its pair");
        let format = Tmem {
            ticket: hello.ticket,
        };
        let (gets, puts) = (pair.get.into_queue(), pair.put.into_queue());
        debug_assert_eq!((gets.index(), puts.index()), (get_queue(0), put_queue(0)));
        Target::new(format, driver.into_connection(), gets, Some(puts))
    }
}
