// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a second copy and what mutual TLS cost, with the client that the daemon uses.
//!
//! Both stores of two copies share one processor here, so their work for a page is done one after the
//! other; on two hosts it is done at the same time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::AREA;
use super::client::{Client, record, settings};
use super::servers::{Ours, Server};
use super::{Scale, StoreOptions};
use crate::floors::per_second;
use crate::pin::Processors;
use crate::row::{Compared, histogram, microseconds};
use crate::{Error, Result, Row};

/// Two copies may take 1.25 times what one takes.
const GOAL_COPIES: f64 = 0.8;
/// TLS may cost 35 % of throughput.
const GOAL_TLS: f64 = 0.65;
/// Pages that are asked for ahead.
const AHEAD: usize = 9;

pub(super) fn rows(
    options: &StoreOptions,
    scale: &Scale,
    processors: Processors,
) -> Result<Vec<Row>> {
    Ok(vec![
        copies(options, scale, processors)?,
        tls(options, scale, processors)?,
    ])
}

fn copies(options: &StoreOptions, scale: &Scale, processors: Processors) -> Result<Row> {
    let slots = scale.few_keys;
    let ours = Ours {
        program: &options.server,
        pages: slots * 4,
        // Two that poll would take turns of milliseconds on their one processor.
        poll_us: 0,
        unix: false,
        certificates: None,
    };
    let start = || Server::ours(ours, processors.server);
    let servers = [start()?, start()?];
    let mut medians = [Vec::new(), Vec::new()];
    let open = |name: &str, replicas: u8| {
        let mut client = Client::open(settings(name, slots, replicas), &servers, None)?;
        client.fill()?;
        Ok::<_, Error>(client)
    };
    let mut clients = [open("two", 2)?, open("one", 1)?];
    for round in 0..scale.rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            let times = puts(&mut clients[which], scale.pass)?;
            medians[which].push(microseconds(&times, 0.5));
        }
    }
    Ok(Compared {
        area: AREA,
        name: "put with two copies, median, beside one copy".to_owned(),
        unit: "us",
        ours: &medians[0],
        other: &medians[1],
        peer: None,
        less: true,
        goal: Some(GOAL_COPIES),
        regime: "ack all, TCP, client polls, both stores sleep and share one processor; on two hosts they \
                 would work at the same time"
            .to_owned(),
    }
    .row())
}

fn puts(client: &mut Client, time: Duration) -> Result<Histogram<u64>> {
    let mut times = histogram();
    let start = Instant::now();
    while start.elapsed() < time {
        let slot = client.any();
        record(&mut times, client.put(slot)?);
    }
    Ok(times)
}

fn tls(options: &StoreOptions, scale: &Scale, processors: Processors) -> Result<Row> {
    let folder = tempfile::tempdir().map_err(Error::system("make a folder for certificates"))?;
    certificates(&options.server, folder.path())?;
    let slots = scale.few_keys;
    let start = |certificates| {
        let ours = Ours {
            program: &options.server,
            pages: slots * 2,
            poll_us: 0,
            unix: false,
            certificates,
        };
        Server::ours(ours, processors.server)
    };
    let servers = [[start(Some(folder.path()))?], [start(None)?]];
    let open = |which: usize, certificates| {
        let mut client = Client::open(settings("bench", slots, 1), &servers[which], certificates)?;
        client.fill()?;
        Ok::<_, Error>(client)
    };
    let mut clients = [open(0, Some(folder.path()))?, open(1, None)?];
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..scale.rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            rates[which].push(mixed(&mut clients[which], scale.pass)?);
        }
    }
    Ok(Compared {
        area: AREA,
        name: "10 % put, 90 % get, pipeline 9, mutual TLS beside plain TCP".to_owned(),
        unit: "pages/s",
        ours: &rates[0],
        other: &rates[1],
        peer: None,
        less: false,
        goal: Some(GOAL_TLS),
        regime: "one copy, client polls plain TCP and sleeps on TLS, store sleeps".to_owned(),
    }
    .row())
}

/// Nine gets that are asked for ahead and a put, again and again; pages a second.
fn mixed(client: &mut Client, time: Duration) -> Result<f64> {
    let mut pages = 0;
    let start = Instant::now();
    while start.elapsed() < time {
        let slots: [u32; AHEAD] = std::array::from_fn(|_| client.any());
        client.ahead(&slots);
        for slot in slots {
            client.get(slot)?;
        }
        let slot = client.any();
        client.put(slot)?;
        pages += AHEAD as u64 + 1;
    }
    Ok(per_second(pages, start))
}

/// A root, a server's and a client's certificate, made by our own program.
fn certificates(program: &Path, folder: &Path) -> Result<()> {
    for arguments in [
        &["ca"][..],
        &["server", "--name", "server", "--san", "127.0.0.1"],
        &["client", "--name", "client", "--namespace", "bench"],
    ] {
        let mut command = Command::new(program);
        command.arg("cert").args(arguments).arg("--out").arg(folder);
        if arguments != ["ca"] {
            command.arg("--ca").arg(folder);
        }
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.map_err(Error::system("make certificates"))?;
        if !status.success() {
            return Err(Error::Refused {
                what: "remote-store cert",
                answer: status.to_string(),
            });
        }
    }
    Ok(())
}
