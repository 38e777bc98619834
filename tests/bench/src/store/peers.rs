// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Our store beside Valkey and memcached: pages a second for each processor that the server keeps busy,
//! and bytes of memory for each page.
//!
//! All servers sleep when they have nothing to do, ours too (`--poll-us 0`): the regime is the same. The
//! generator polls. A server that is not busy all the time is not the bottleneck, so its rate is divided
//! by the share of its processor that it used, as the kernel counted it. With one request in flight on
//! each connection most of that is the kernel's: the floor says how many messages a processor can
//! receive and send at all.

use std::time::Duration;

use super::AREA;
use super::bare::{self, Sizes};
use super::load::{Load, Mix};
use super::pipe::Pipe;
use super::servers::{Ours, Server};
use super::wire::{self, Wire};
use super::{Scale, StoreOptions};
use crate::pin::Processors;
use crate::report::median;
use crate::row::Compared;
use crate::{Result, Row};

/// Connections to each server.
const CONNECTIONS: usize = 16;

/// What is asked for, in words and in numbers.
const MIXES: [(&str, Mix); 4] = [
    ("10 % put, 90 % get, pipeline 1", mix(10, 1)),
    ("10 % put, 90 % get, pipeline 10", mix(10, 10)),
    ("put, pipeline 1", mix(100, 1)),
    ("put, pipeline 10", mix(100, 10)),
];

const fn mix(puts: u32, depth: usize) -> Mix {
    Mix {
        puts,
        depth,
        connections: CONNECTIONS,
    }
}

/// A server under load, and what its passes gave.
struct Side {
    server: Server,
    load: Load,
    /// Bytes of memory for each page, besides the page.
    overhead: f64,
    passes: Vec<Passes>,
}

/// Of one mix.
#[derive(Clone, Debug, Default)]
struct Passes {
    /// Pages a second.
    rate: Vec<f64>,
    /// Pages for each second of the server's processor.
    core: Vec<f64>,
}

impl Side {
    fn start(
        server: Server,
        keys: u32,
        mut wire: impl FnMut() -> Result<Box<dyn Wire>>,
    ) -> Result<Self> {
        let mut pipes = Vec::new();
        for _ in 0..CONNECTIONS {
            pipes.push(Pipe::open(&server.address, wire()?)?);
        }
        let before = server.memory()?;
        let load = Load::new(server.name, pipes, keys, 1)?;
        let grown = server.memory()?.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "bytes of a benchmark")]
        let overhead = grown as f64 / f64::from(keys) - 4096.0;
        Ok(Self {
            server,
            load,
            overhead,
            passes: vec![Passes::default(); MIXES.len()],
        })
    }

    fn pass(&mut self, number: usize, time: Duration) -> Result<()> {
        let busy = self.server.busy();
        let pass = self.load.run(MIXES[number].1, time)?;
        let busy = self.server.busy().saturating_sub(busy).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark")]
        let pages = pass.pages as f64;
        self.passes[number].rate.push(pass.rate);
        self.passes[number].core.push(pages / busy.max(1e-9));
        Ok(())
    }
}

/// Beside each peer that there is, in a run of its own, so that there is memory for both.
pub(super) fn rows(
    options: &StoreOptions,
    scale: &Scale,
    processors: Processors,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    match &options.valkey {
        Some(program) => {
            let peer = Server::valkey(program, processors.server)?;
            let peer = Side::start(peer, scale.keys, || Ok(Box::<wire::Resp>::default()))?;
            let goals = Goals {
                rate: 2.0,
                overhead: Some(0.25),
            };
            rows.extend(beside(options, scale, processors, peer, &goals)?);
        }
        None => rows.push(AREA.note("beside valkey-server", "-", 0.0, "skipped: not here")),
    }
    match &options.memcached {
        Some(program) => {
            let peer = Server::memcached(program, scale.keys, processors.server)?;
            let peer = Side::start(peer, scale.keys, || Ok(Box::new(wire::Memcached)))?;
            let goals = Goals {
                rate: 1.5,
                overhead: None,
            };
            rows.extend(beside(options, scale, processors, peer, &goals)?);
        }
        None => rows.push(AREA.note("beside memcached", "-", 0.0, "skipped: not here")),
    }
    Ok(rows)
}

/// What is to be reached beside one peer.
struct Goals {
    /// Times its pages for each busy processor.
    rate: f64,
    /// Of its bytes beside each page, at most.
    overhead: Option<f64>,
}

fn beside(
    options: &StoreOptions,
    scale: &Scale,
    processors: Processors,
    mut peer: Side,
    goals: &Goals,
) -> Result<Vec<Row>> {
    let server = Ours {
        program: &options.server,
        pages: scale.keys + scale.keys / 8,
        poll_us: 0,
        unix: false,
        certificates: None,
    };
    let server = Server::ours(server, processors.server)?;
    let keys = scale.keys;
    let mut ours = Side::start(server, keys, || Ok(Box::new(wire::Ours::new(keys)?)))?;
    let mut rows = Vec::new();
    let peer_name = Some(peer.server.name.to_owned());
    for (number, (name, mix)) in MIXES.iter().enumerate() {
        let mut bare = Vec::new();
        for round in 0..scale.rounds {
            if mix.depth == 1 {
                let sizes = if mix.puts == 100 {
                    Sizes::PUT
                } else {
                    Sizes::GET
                };
                let rate = bare::per_core(sizes, mix.connections, processors, scale.pass)?;
                bare.push(rate);
            }
            // Whoever comes first meets another machine than who comes second.
            let mut sides = [&mut ours, &mut peer];
            sides.rotate_left(round % 2);
            for side in sides {
                side.pass(number, scale.pass)?;
            }
        }
        let (own, others) = (&ours.passes[number], &peer.passes[number]);
        let share = |passes: &Passes| 100.0 * median(&passes.rate) / median(&passes.core);
        let regime = format!(
            "{keys} keys, {} connections, generator polls, servers sleep and were busy {:.0} % and \
             {:.0} % of the time",
            mix.connections,
            share(own),
            share(others)
        );
        let mut per_core = Compared {
            area: AREA,
            name: format!("{name}, per busy server core"),
            unit: "pages/s",
            ours: &own.core,
            other: &others.core,
            peer: peer_name.clone(),
            less: false,
            goal: Some(goals.rate),
            regime: regime.clone(),
        }
        .row();
        if !bare.is_empty() {
            per_core.floor = Some(median(&bare));
            per_core.regime += "; floor: messages of the same sizes, received and sent by a thread that \
                                looks at none of them";
        }
        rows.push(per_core);
        rows.push(
            Compared {
                area: AREA,
                name: format!("{name}, as the generator saw it"),
                unit: "pages/s",
                ours: &own.rate,
                other: &others.rate,
                peer: peer_name.clone(),
                less: false,
                goal: None,
                regime,
            }
            .row(),
        );
    }
    rows.push(overhead(ours.overhead, peer.overhead, &peer_name, goals));
    Ok(rows)
}

fn overhead(ours: f64, others: f64, peer: &Option<String>, goals: &Goals) -> Row {
    let name = "memory beside each stored page";
    let regime = "resident memory's growth while the keys were put, for each of them, less 4096";
    let row = match goals.overhead {
        Some(part) => AREA.limited(name, "bytes", ours, part * others, regime),
        None => AREA.note(name, "bytes", ours, regime),
    };
    Row {
        peer: Some(others),
        peer_name: peer.clone(),
        ..row
    }
}
