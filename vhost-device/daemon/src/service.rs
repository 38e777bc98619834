// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a daemon of one process and a worker of two have in common: the engine with its guests, and
//! the last moments.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tmem_pages::{Engine, EngineFiles, Recovery};

use crate::config::{Config, GuestConfig, Socket};
use crate::connection::Place;
use crate::device::Station;
use crate::error::Error;
use crate::limits::{ENDING_GRACE, LAST_USER_GONE, LAST_USER_PAUSE};
use crate::snapshot::ServedGuest;
use crate::tiers::TierDesk;
use crate::tiers::files::OpenStores;
use crate::tiers::paths::Paths;
use crate::tiers::settings::{self, Settings};
use crate::told::Told;

/// Guests that a map has room for beyond those of the configuration that made it.
const SPARE_GUESTS: usize = 16;

/// What the engine is made of.
pub(crate) fn engine_config(config: &Config) -> tmem_pages::EngineConfig {
    tmem_pages::EngineConfig {
        frames: config.dram_frames_max(),
        // One moves pages.
        workers_max: u16::try_from(config.queue_pairs() + 1).unwrap_or(u16::MAX),
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

/// The engine and what is around it.
pub(crate) struct Opened {
    pub(crate) engine: Arc<Engine>,
    pub(crate) guests: Vec<ServedGuest>,
    pub(crate) tiers: TierDesk,
    pub(crate) recovery: Recovery,
}

/// Opens the engine, lets the guests of the configuration in, and sets all as it was before, or, at the
/// daemon's start, as it is configured: then there are no `settings`.
///
/// # Errors
/// [`Error`].
pub(crate) fn open(
    config: &Config,
    files: EngineFiles,
    stores: OpenStores,
    paths: &Arc<Paths>,
    settings: Option<Settings>,
    told: &Arc<Told>,
) -> Result<Opened, Error> {
    let (engine, recovery) =
        Engine::open_tiered(engine_config(config), files, stores.stores.clone()).map_err(
            |source| Error::Engine {
                mib: u64::from(config.dram_frames).div_ceil(256),
                source,
            },
        )?;
    let restarted = settings.is_some();
    let settings = settings.unwrap_or_else(|| Settings::of(config));
    engine.allow_overcommit(settings.overcommit);
    if !restarted {
        settings::grow(config, &engine)?;
    }
    let guests = config.guests.iter();
    let guests = guests
        .map(|guest| attach(&engine, guest, config.poll_us, paths))
        .collect::<Result<Vec<_>, _>>()?;
    for guest in engine.unclaimed() {
        // Fails only for a name that is not there.
        let pages = engine.detach_guest(guest.name()).unwrap_or(0);
        tracing::warn!(
            guest = guest.name(),
            pages,
            "a guest of an earlier configuration is forgotten"
        );
    }
    if restarted {
        settings.apply(&engine, paths);
    } else {
        settings::begin(config, &engine, paths)?;
    }
    for guest in &guests {
        if let Some(balloon) = settings.balloons.get(guest.station.guest.name()) {
            guest.station.balloon.resume(balloon.clone());
        }
    }
    let stations = guests.iter().map(|guest| Arc::clone(&guest.station));
    let stations = stations.collect();
    let tiers = TierDesk::new(config, paths, settings, told, stores, stations);
    tiers.keep_settings(&engine);
    Ok(Opened {
        engine,
        guests,
        tiers,
        recovery,
    })
}

fn attach(
    engine: &Engine,
    config: &GuestConfig,
    poll_us: u32,
    paths: &Arc<Paths>,
) -> Result<ServedGuest, Error> {
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
        station: Arc::new(
            Station::with_paths(guest, workers, poll_us, paths)
                .with_balloon(config.balloon.clone()),
        ),
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
