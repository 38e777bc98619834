// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the daemon knows of its tiers besides the engine.

use std::sync::Arc;

use parking_lot::Mutex;
use tmem_admin_api::TierName;
use tmem_pages::{Engine, Tier};

use super::files::OpenStores;
use super::paths::Paths;
use super::settings::{LinkSetting, Settings};
use super::stores::StoresDesk;
use super::tasks::Tasks;
use super::traces::Traces;
use crate::config::Config;
use crate::device::Station;
use crate::limits::SETTINGS_BYTES_MAX;
use crate::told::Told;

/// See the module's head.
pub(crate) struct TierDesk {
    pub(crate) config: Config,
    pub(crate) paths: Arc<Paths>,
    pub(crate) tasks: Tasks,
    pub(crate) traces: Traces,
    /// Links and drains are added when it is told.
    pub(super) settings: Mutex<Settings>,
    told: Arc<Told>,
    /// Whose balloons are kept, too.
    stations: Vec<Arc<Station>>,
    /// Calls whoever works on tasks.
    work: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// With their files, which must stay open.
    stores: OpenStores,
}

impl TierDesk {
    /// Of a daemon that has just started, with `settings`.
    pub(crate) fn new(
        config: &Config,
        paths: &Arc<Paths>,
        settings: Settings,
        told: &Arc<Told>,
        stores: OpenStores,
        stations: Vec<Arc<Station>>,
    ) -> Self {
        Self {
            config: config.clone(),
            paths: Arc::clone(paths),
            tasks: Tasks::default(),
            traces: Traces::new(config.trace_dir.clone(), Arc::clone(told)),
            settings: Mutex::new(settings),
            told: Arc::clone(told),
            stations,
            work: Mutex::new(None),
            stores,
        }
    }

    /// The stores of the remote tier, if it is on some.
    pub(crate) fn stores(&self) -> Option<&StoresDesk> {
        self.stores.elsewhere.as_ref()?.desk.as_ref()
    }

    /// What guests on auto may keep together, in pages, and what the host shall have free, in bytes.
    pub(crate) fn balloon_host(&self) -> (Option<u64>, Option<u64>) {
        let budget = self.settings.lock().balloon_budget;
        (budget, self.config.balloon.reserve_bytes)
    }

    /// Sets the first of these.
    pub(crate) fn set_balloon_budget(&self, pages: Option<u64>) {
        self.settings.lock().balloon_budget = pages;
    }

    /// Has `call` called when there is a task to work on.
    pub(crate) fn on_work(&self, call: Box<dyn Fn() + Send>) {
        *self.work.lock() = Some(call);
    }

    pub(super) fn call_worker(&self) {
        if let Some(call) = &*self.work.lock() {
            call();
        }
    }

    /// Tells the keeper what a worker after this one is to know.
    pub(crate) fn keep_settings(&self, engine: &Engine) {
        let mut settings = self.settings.lock();
        let draining = |name: &&TierName| {
            let tier: Tier = super::settings::tier_of(**name);
            engine.tier(tier).is_some_and(|stats| stats.draining)
        };
        settings.draining = TierName::ALL.iter().filter(draining).copied().collect();
        if let Some(stores) = self.stores() {
            settings.stores = stores.settings();
        }
        let setting = |station: &Arc<Station>| {
            let name = station.guest.name().to_owned();
            (name, station.balloon.setting())
        };
        settings.balloons = self.stations.iter().map(setting).collect();
        settings.measured = self.paths.known_calibration().map(Into::into);
        let views = self.paths.links().map(|links| links.show());
        let views = views.unwrap_or_default().into_iter();
        settings.links = views.filter_map(LinkSetting::of).collect();
        let told = |settings: &Settings| serde_json::to_value(settings);
        let short = |value: &serde_json::Value| value.to_string().len() <= SETTINGS_BYTES_MAX;
        match told(&settings) {
            Ok(value) if short(&value) => self.told.keep_settings(value),
            Ok(_) => {
                tracing::error!(
                    "guests have too many links of their own for these to outlive the worker"
                );
                settings.links.retain(LinkSetting::is_of_all);
                if let Ok(value) = told(&settings) {
                    self.told.keep_settings(value);
                }
            }
            Err(error) => tracing::error!(%error, "settings would not outlive the worker"),
        }
    }
}
