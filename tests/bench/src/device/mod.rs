// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Area `device`: 4 KiB gets and puts through virtqueues, our device and a block device by turns.
//!
//! One front-end drives both servers, with the same ring, indirect descriptors and waiting. Each
//! server is pinned to one processor and the client to another. A closed loop keeps 1 or 32
//! requests in flight. Before every timed pass of puts the buffers get new contents; after every
//! round each page is got and compared. The block device does less for a page: it has no index, no
//! checksum and no grant.
//!
//! The same cases are then asked of our daemon as people run it, a keeper and a sandboxed worker, and
//! of the same program as a single process; see `keeper`.
//!
//! The floor of copies ranges over 1 GiB, the pages of a run over less, so that a batch whose pages
//! partly lie in a cache may come out above the floor. On a machine that does other work as well the
//! medians say little: both servers and the client need their processors for themselves.

mod block;
mod keeper;
mod load;
mod ours;
mod plan;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use block::{Block, BlockServer};
use load::{Load, Pass, Shape};
use ours::{Model, TmemServer};
use plan::{CASES, Case};
use target::{Format, Op, Target};
use tmem_frontend::Wait;

use crate::pin::{self, Processors};
use crate::report::{Machine, SCHEMA};
use crate::{Error, Report, Result, floors};

/// Bytes of the pretended guest's memory.
const MEMORY: usize = 160 << 20;

/// Whether a server is told to poll before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polling {
    On,
    Off,
}

/// What to measure with.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Our daemon's program, built for release.
    pub daemon: PathBuf,
    /// The peer, `qemu-storage-daemon`: a path, or a name to be found on PATH. Without one, our
    /// figures stand beside the floors alone.
    pub peer: Option<PathBuf>,
    /// Fewer pages, shorter passes, fewer rounds.
    pub quick: bool,
}

/// Sizes that follow from `quick`.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Pages that each server holds.
    pages: u32,
    /// Pages of each guest buffer.
    buffers: u32,
    /// Passes of each figure.
    rounds: usize,
    /// Length of a pass.
    time: Duration,
    /// Starts of the daemon of either model.
    starts: usize,
}

impl Scale {
    const fn new(quick: bool) -> Self {
        if quick {
            Self {
                pages: 1 << 14,
                buffers: 1 << 12,
                rounds: 3,
                time: Duration::from_millis(100),
                starts: 3,
            }
        } else {
            Self {
                pages: 1 << 16,
                buffers: 1 << 14,
                rounds: 7,
                time: Duration::from_millis(300),
                starts: 7,
            }
        }
    }
}

/// Measures floors, our device and the peer, and our device with and without a keeper.
///
/// # Errors
/// When a server does not start, a request fails, or a page comes back wrong; and when the machine
/// has fewer than two processors.
pub fn device(options: &DeviceOptions) -> Result<Report> {
    let scale = Scale::new(options.quick);
    let processors = Processors::choose()?;
    let floors = floors::measure(processors, scale.rounds, options.quick)?;
    let mut results = floors.rows("device");
    for polling in [Polling::On, Polling::Off] {
        let (measured, way) = by_turns(options, scale, processors, polling)?;
        results.extend(plan::rows(&measured, polling, way, floors));
    }
    for polling in [Polling::On, Polling::Off] {
        let measured = keeper::by_turns(options, scale, processors, polling)?;
        results.extend(keeper::rows(&measured, polling, floors));
    }
    Ok(Report {
        schema: SCHEMA,
        machine: Machine::here(),
        results,
    })
}

/// All passes of one server in one case.
#[derive(Clone, Debug, Default)]
struct Series {
    passes: Vec<Pass>,
    /// Times that the server's threads went to sleep, for all passes together.
    sleeps: u64,
}

impl Series {
    /// The server's sleeps for each request.
    fn sleeps_a_request(&self) -> f64 {
        let requests: u64 = self.passes.iter().map(|pass| pass.requests).sum();
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
        let ratio = self.sleeps as f64 / requests.max(1) as f64;
        ratio
    }
}

/// Both servers' series, case by case.
#[derive(Clone, Debug)]
struct Measured {
    case: Case,
    ours: Series,
    peer: Series,
}

impl Measured {
    fn new(case: Case) -> Self {
        Self {
            case,
            ours: Series::default(),
            peer: Series::default(),
        }
    }
}

/// Runs the rounds of one regime: in each, every case on our server and then on the peer. Returns
/// the way in which the peer uses its file as well.
fn by_turns(
    options: &DeviceOptions,
    scale: Scale,
    processors: Processors,
    polling: Polling,
) -> Result<(Vec<Measured>, Option<&'static str>)> {
    // The peer's file must be in memory.
    let folder = tempfile::tempdir_in("/dev/shm").map_err(Error::system("use /dev/shm"))?;
    let path = folder.path();
    let pages = scale.pages;
    let ours = pin::on(processors.server, || {
        TmemServer::start(&options.daemon, Model::Keeper, path, pages, polling)
    })??;
    let peer = options.peer.as_deref();
    let peer = pin::on(processors.server, || {
        peer.map(|program| BlockServer::start(program, path, pages, polling))
            .transpose()
    })??;
    let way = peer.as_ref().map(|peer| peer.way);
    pin::on(processors.client, || {
        let target = ours.connect()?;
        let server = ours;
        let mut ours = Side::new(target, server.serving()?, scale, processors, polling)?;
        let mut peer = match &peer {
            Some(peer) => {
                let target = peer.connect()?;
                let process = peer.process.id();
                Some(Side::new(target, process, scale, processors, polling)?)
            }
            None => None,
        };
        let mut measured: Vec<_> = CASES.iter().copied().map(Measured::new).collect();
        for _ in 0..scale.rounds {
            for one in &mut measured {
                let case = one.case;
                ours.pass(case.op, case.ours, scale.time, &mut one.ours)?;
                if let Some(peer) = &mut peer {
                    peer.pass(case.op, case.peer, scale.time, &mut one.peer)?;
                }
            }
            ours.load.verify()?;
            if let Some(peer) = &mut peer {
                peer.load.verify()?;
            }
        }
        server.check_serving(ours.process)?;
        Ok((measured, way))
    })?
}

/// One server under load.
struct Side<F: Format> {
    load: Load<F>,
    /// The process that serves.
    process: u32,
}

impl<F: Format> Side<F> {
    fn new(
        mut target: Target<F>,
        process: u32,
        scale: Scale,
        processors: Processors,
        polling: Polling,
    ) -> Result<Self> {
        if !pin::is_on(process, processors.server) {
            return Err(Error::Unpinned {
                what: F::NAME,
                process,
                processor: processors.server,
            });
        }
        target.set_wait(if polling == Polling::On {
            Wait::Spin
        } else {
            Wait::Sleep
        });
        let load = Load::new(target, scale.pages, scale.buffers)?;
        Ok(Self { load, process })
    }

    fn pass(&mut self, op: Op, shape: Shape, time: Duration, into: &mut Series) -> Result<()> {
        if op == Op::Put {
            self.load.refill()?;
        }
        let before = pin::sleeps(self.process);
        into.passes.push(self.load.run(op, shape, time)?);
        // Less than before only if the process is gone, which is found out at the end.
        into.sleeps += pin::sleeps(self.process).saturating_sub(before);
        Ok(())
    }
}

/// Who the peer is, for the report.
const PEER: &str = Block::NAME;
