// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Three stores, two copies of each page: one store dies or stands still under load, and the longest get
//! is looked for. Then its pages get their second copy again, within the bandwidth that was allowed.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tmem_remote_client::{Hedge, Settings};

use super::AREA;
use super::client::{Client, Slow, record, settings};
use super::servers::{Ours, Server};
use super::{Scale, StoreOptions};
use crate::pin::Processors;
use crate::row::{histogram, microseconds};
use crate::{Error, Result, Row};

/// How long a get may take when a store dies.
const KILLED_MAX: f64 = 50_000.0;
/// How long a get may take when a store stands still: so many advert periods, without hedging.
const FROZEN_PERIODS: f64 = 3.0;
/// And with it: so many times what one in a hundred takes otherwise.
const HEDGED_TIMES: f64 = 10.0;
/// How much slower one get in a hundred may be during repair.
const REPAIR_TIMES: f64 = 2.0;
/// How much of the allowed bandwidth is to be used.
const GOAL_REPAIR: f64 = 0.8;
/// Bytes a second that repair may copy.
const REPAIR_BYTES: u64 = 16 << 20;
/// Puts among 100 requests.
const PUTS: u32 = 10;
/// How long a repair may take at most.
const REPAIR_MAX: Duration = Duration::from_secs(120);
/// Slow gets that are told one by one.
const SLOW_MAX: usize = 4;
/// How long a store stands still.
const FROZEN: Duration = Duration::from_secs(2);
const REGIME: &str = "10 % put, 90 % get, one at a time, 3 stores, 2 copies, stores sleep";

pub(super) fn rows(
    options: &StoreOptions,
    scale: &Scale,
    processors: Processors,
) -> Result<Vec<Row>> {
    let mut rows = killed(options, scale, processors)?;
    rows.extend(frozen(options, scale, processors, Hedge::Off)?);
    rows.extend(frozen(options, scale, processors, Hedge::Auto)?);
    Ok(rows)
}

fn stores(options: &StoreOptions, slots: u32, processors: Processors) -> Result<Vec<Server>> {
    let ours = Ours {
        program: &options.server,
        pages: slots * 2,
        poll_us: 0,
        unix: false,
        certificates: None,
    };
    (0..3)
        .map(|_| Server::ours(ours, processors.server))
        .collect()
}

fn client(servers: &[Server], settings: Settings) -> Result<Client> {
    let mut client = Client::open(settings, servers, None)?;
    client.fill()?;
    Ok(client)
}

/// kill -9, the longest get, and the repair.
fn killed(options: &StoreOptions, scale: &Scale, processors: Processors) -> Result<Vec<Row>> {
    let slots = scale.few_keys;
    let mut servers = stores(options, slots, processors)?;
    let settings = Settings {
        min_copies: 1,
        repair_bytes_per_second: REPAIR_BYTES,
        ..settings("bench", slots, 2)
    };
    let mut client = client(&servers, settings)?;
    let before = client.run(PUTS, scale.pass * 2)?;
    let copied = client.handle.status().control.totals.copied_pages;
    if let Some(server) = servers.first_mut() {
        server.kill()?;
    }
    let repair = repair(&mut client, copied)?;
    let longest = microseconds(&repair.times, 1.0);
    let before = microseconds(&before, 0.99);
    let during = microseconds(&repair.while_copying, 0.99);
    #[expect(clippy::cast_precision_loss, reason = "bytes of a benchmark")]
    let allowed = REPAIR_BYTES as f64;
    let ratio = repair.rate / allowed;
    Ok(vec![
        AREA.limited(
            "kill -9 of one store: longest get",
            "us",
            longest,
            KILLED_MAX,
            REGIME,
        ),
        Row {
            floor: Some(allowed / 1e6),
            ratio: Some(ratio),
            goal: Some(GOAL_REPAIR),
            met: Some(ratio >= GOAL_REPAIR),
            ..AREA.note(
                "repair: bandwidth beside what is allowed",
                "MB/s",
                repair.rate / 1e6,
                format!("{REGIME}; {} pages copied, load goes on", repair.pages),
            )
        },
        AREA.limited(
            "repair: p99 of a get meanwhile, beside twice the p99 before",
            "us",
            during,
            REPAIR_TIMES * before,
            REGIME,
        ),
        AREA.note(
            "repair: from the kill until all pages have two copies",
            "s",
            repair.whole.as_secs_f64(),
            REGIME,
        ),
    ])
}

/// What a repair was like.
struct Repair {
    /// Of all gets since the kill.
    times: Histogram<u64>,
    /// Of those while pages were copied.
    while_copying: Histogram<u64>,
    /// Bytes a second, from the first tenth of the copies to the last.
    rate: f64,
    pages: u64,
    whole: Duration,
}

fn repair(client: &mut Client, copied: u64) -> Result<Repair> {
    let (mut times, mut while_copying) = (histogram(), histogram());
    let begun = Instant::now();
    // When how many pages were copied.
    let mut seen: Vec<(Instant, u64)> = Vec::new();
    let whole = loop {
        let status = client.handle.status();
        let pages = status.control.totals.copied_pages - copied;
        seen.push((Instant::now(), pages));
        let copying = pages > 0;
        if copying && status.is_whole() {
            break begun.elapsed();
        }
        if begun.elapsed() > REPAIR_MAX {
            return Err(Error::Refused {
                what: "the client",
                answer: format!("no end of repair: {:?}", status.control),
            });
        }
        let slice = Instant::now();
        while slice.elapsed() < Duration::from_millis(20) {
            let slot = client.any();
            if client.percent(PUTS) {
                client.put(slot)?;
            } else {
                let took = client.get(slot)?;
                record(&mut times, took);
                if copying {
                    record(&mut while_copying, took);
                }
            }
        }
    };
    let pages = seen.last().map_or(0, |(_, pages)| *pages);
    let at = |part: u64| seen.iter().find(|(_, seen)| *seen >= part);
    let rate = match (at(pages / 10), at(pages - pages / 10)) {
        (Some((from, first)), Some((to, last))) if to > from => {
            #[expect(clippy::cast_precision_loss, reason = "bytes of a benchmark")]
            let bytes = ((last - first) * 4096) as f64;
            bytes / to.duration_since(*from).as_secs_f64()
        }
        _ => 0.0,
    };
    Ok(Repair {
        times,
        while_copying,
        rate,
        pages,
        whole,
    })
}

/// SIGSTOP, and the longest get.
fn frozen(
    options: &StoreOptions,
    scale: &Scale,
    processors: Processors,
    hedge: Hedge,
) -> Result<Vec<Row>> {
    let slots = scale.few_keys;
    let servers = stores(options, slots, processors)?;
    let settings = Settings {
        min_copies: 1,
        hedge,
        ..settings("bench", slots, 2)
    };
    let period = settings.advert_period;
    let mut client = client(&servers, settings)?;
    let calm = client.run(PUTS, scale.pass * 2)?;
    let before = microseconds(&calm, 0.99);
    let (name, limit) = match hedge {
        Hedge::Off => (
            "SIGSTOP of one store: longest get, beside 3 advert periods",
            FROZEN_PERIODS * 1e6 * period.as_secs_f64(),
        ),
        Hedge::Auto | Hedge::After(_) => (
            "SIGSTOP of one store, hedged: longest get, beside 10 times the p99",
            HEDGED_TIMES * before,
        ),
    };
    let victim = servers.first().ok_or(Error::Processors { found: 0 })?;
    victim.freeze(true)?;
    let frozen = client.watch(PUTS, FROZEN, Duration::from_secs_f64(limit / 1e6));
    victim.freeze(false)?;
    let (times, slow) = frozen?;
    let regime = format!(
        "{REGIME}; advert period {} ms, p99 before {before:.0} us, longest before {:.0} us, p99 meanwhile \
         {:.0} us; {}",
        period.as_millis(),
        microseconds(&calm, 1.0),
        microseconds(&times, 0.99),
        describe(&slow)
    );
    Ok(vec![AREA.limited(
        name,
        "us",
        microseconds(&times, 1.0),
        limit,
        regime,
    )])
}

/// The gets that were longer than they may be, as far as there is room for them.
fn describe(slow: &[Slow]) -> String {
    let mut text = format!("{} gets were longer than that", slow.len());
    for (number, Slow { at, took, ran }) in slow.iter().take(SLOW_MAX).enumerate() {
        text.push_str(&format!(
            "{} {} us after {} ms, of which the client ran {} us",
            if number == 0 { ":" } else { "," },
            took.as_micros(),
            at.as_millis(),
            ran.as_micros(),
        ));
    }
    text
}
