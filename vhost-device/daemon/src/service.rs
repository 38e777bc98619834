// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a daemon of one process and a worker of two have in common: the engine with its guests, and
//! the last moments.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tmem_pages::{Engine, EngineFiles};

use crate::config::{Config, GuestConfig, Socket};
use crate::connection::Place;
use crate::device::Station;
use crate::error::Error;
use crate::limits::{ENDING_GRACE, LAST_USER_GONE, LAST_USER_PAUSE};
use crate::snapshot::ServedGuest;

/// Guests that a map has room for beyond those of the configuration that made it.
const SPARE_GUESTS: usize = 16;

/// What the engine is made of.
pub(crate) fn engine_config(config: &Config) -> tmem_pages::EngineConfig {
    tmem_pages::EngineConfig {
        frames: config.dram_frames,
        // At least one, and as many as the configuration was checked for.
        workers_max: u16::try_from(config.queue_pairs()).unwrap_or(u16::MAX),
        // Some more, for guests of an earlier configuration.
        guests_max: u16::try_from(config.guests.len() + SPARE_GUESTS).unwrap_or(u16::MAX),
    }
}

/// Waits until the last process that used these files is gone: a killed one gives its memory back,
/// page by page, before its locks. Who is not gone after [`LAST_USER_GONE`] will not go.
pub(crate) fn await_last_user(files: &EngineFiles) {
    let deadline = Instant::now() + LAST_USER_GONE;
    while files.in_use().unwrap_or(false) && Instant::now() < deadline {
        std::thread::sleep(LAST_USER_PAUSE);
    }
}

/// Lets the guests of the configuration into the engine, with a worker for each queue pair.
///
/// # Errors
/// [`Error::Guest`] or [`Error::Worker`].
pub(crate) fn attach_guests(engine: &Engine, config: &Config) -> Result<Vec<ServedGuest>, Error> {
    let guests = config.guests.iter();
    guests
        .map(|guest| attach(engine, guest, config.poll_us))
        .collect()
}

fn attach(engine: &Engine, config: &GuestConfig, poll_us: u32) -> Result<ServedGuest, Error> {
    let guest = engine
        .attach_guest(tmem_pages::GuestConfig {
            name: config.name.clone(),
            grant_pages: config.grant_pages,
        })
        .map_err(|source| Error::Guest {
            name: config.name.clone(),
            source,
        })?;
    let workers = (0..config.queue_pairs)
        .map(|_| engine.worker())
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Worker {
            name: config.name.clone(),
            source,
        })?;
    Ok(ServedGuest {
        station: Arc::new(Station::new(guest, workers, poll_us)),
        socket: match &config.socket {
            Socket::Path(path) => Some(path.clone()),
            Socket::Fd(_) => None,
        },
        connected: Arc::new(AtomicBool::new(false)),
    })
}

/// Gives the drivers a moment to hear of the end.
pub(crate) fn announce_end(places: &[&Place]) {
    for place in places {
        place.announce_end();
    }
    let deadline = Instant::now() + ENDING_GRACE;
    while Instant::now() < deadline && !places.iter().all(|place| place.told()) {
        std::thread::sleep(Duration::from_millis(1));
    }
}
