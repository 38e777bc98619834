// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an administrator sees of balloons, and does to them.

use tmem_admin_api::{Balloon, BalloonAutoRequest, BalloonMode};

use crate::snapshot::{Running, ServedGuest};
use crate::status::{BalloonAdmin, TierError};

type Answer<T> = Result<T, TierError>;

fn refused<T>(reason: String) -> Answer<T> {
    Err(TierError::Refused { reason })
}

/// Pages, for people.
fn mib(pages: u64) -> String {
    format!("{} MiB", pages.div_ceil(256))
}

impl Running {
    /// A guest whose device has a balloon.
    fn ballooned(&self, name: &str) -> Answer<&ServedGuest> {
        let guest = self.find(name).ok_or_else(|| TierError::NoSuchGuest {
            name: name.to_owned(),
        })?;
        if !guest.station.balloon.is_offered() {
            let what = format!(
                "the device of guest {name} has no balloon (`enabled = false` in its `balloon`)"
            );
            return Err(TierError::NotAvailable { what });
        }
        Ok(guest)
    }
}

impl ServedGuest {
    pub(crate) fn shown_balloon(&self) -> Balloon {
        let name = self.station.guest.name();
        self.station.balloon.show(name, self.has_driver())
    }
}

impl BalloonAdmin for Running {
    fn budget(&self) -> Option<u64> {
        self.tiers.balloon_host().0
    }

    fn balloons(&self) -> Vec<Balloon> {
        let balloons = self.guests.iter().map(ServedGuest::shown_balloon);
        let mut balloons: Vec<_> = balloons.collect();
        balloons.sort_by(|a, b| a.guest.cmp(&b.guest));
        balloons
    }

    fn balloon(&self, guest: &str) -> Option<Balloon> {
        self.find(guest).map(ServedGuest::shown_balloon)
    }

    fn set_balloon(&self, name: &str, size_pages: u64) -> Answer<()> {
        let guest = self.ballooned(name)?;
        let now = guest.shown_balloon();
        if now.memory_pages == 0 {
            return refused(format!(
                "no VMM has connected for guest {name}, so that its memory is not known; start the guest first"
            ));
        }
        if !guest.has_driver() {
            return refused(format!(
                "guest {name} has no driver that could follow; boot it and load virtio_tmem in it"
            ));
        }
        if size_pages < now.floor_pages {
            return refused(format!(
                "guest {name} keeps at least {}, its floor; ask for more, or lower that with \
                 `tmemctl balloon auto {name} --floor SIZE`",
                mib(now.floor_pages)
            ));
        }
        guest.station.balloon.set(|setting| {
            setting.auto = false;
            setting.size_pages = (size_pages < now.memory_pages).then_some(size_pages);
        });
        self.tiers.keep_settings(&self.engine);
        Ok(())
    }

    fn set_balloon_auto(&self, name: &str, request: &BalloonAutoRequest) -> Answer<()> {
        let guest = self.ballooned(name)?;
        let now = guest.shown_balloon();
        let floor = request.floor_pages.unwrap_or(now.floor_pages);
        let ceiling = match request.ceiling_pages {
            Some(0) => None,
            Some(pages) => Some(pages),
            None => now.ceiling_pages,
        };
        if let Some(ceiling) = ceiling.filter(|ceiling| *ceiling < floor) {
            return refused(format!(
                "a ceiling of {} would be below the floor of {}",
                mib(ceiling),
                mib(floor)
            ));
        }
        if now.memory_pages != 0 && floor > now.memory_pages {
            return refused(format!(
                "guest {name} has {} of memory and cannot keep {}",
                mib(now.memory_pages),
                mib(floor)
            ));
        }
        guest.station.balloon.set(|setting| {
            setting.floor_pages = floor;
            setting.ceiling_pages = ceiling;
            setting.weight = request.weight.unwrap_or(setting.weight);
            // A target that was reached stays as it is.
            setting.auto = request.auto.unwrap_or(now.mode == BalloonMode::Auto);
        });
        self.tiers.keep_settings(&self.engine);
        Ok(())
    }

    fn set_budget(&self, pages: Option<u64>) {
        self.tiers.set_balloon_budget(pages);
        self.tiers.keep_settings(&self.engine);
    }
}
