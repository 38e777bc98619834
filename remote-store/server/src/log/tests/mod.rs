// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log against a slow model, on a medium that loses power, and one test for each kind of trouble.

mod crash;
mod lossy;
mod model;
mod trouble;
mod work;

use std::sync::Arc;

use super::layout::Geometry;
use super::record::{Kind, Place};
use super::segments::State;
use super::{LogError, LogOptions, LogSync, Medium, Opened, PageLog};

/// A log so small that everything happens soon: seven or eight pages a segment.
pub(super) const SMALL: Geometry = Geometry {
    segment_units: 64 + 65 * 7 + 40,
    slots: 24,
};

pub(super) fn options(sync: LogSync) -> LogOptions {
    LogOptions {
        size: 0,
        sync,
        store_id: [7; 16],
        incarnation: 1,
        boot: [1; 16],
        salvage: false,
    }
}

pub(super) fn open(
    medium: &Arc<impl Medium + 'static>,
    options: &LogOptions,
) -> Result<Opened, LogError> {
    let medium = Arc::clone(medium) as Arc<dyn Medium>;
    let opened = PageLog::open_on(medium, SMALL, options)?;
    opened.log.self_check();
    Ok(opened)
}

impl PageLog {
    /// What is always true.
    pub(super) fn self_check(&self) {
        let mut live = vec![0; self.segments.all.len()];
        let mut add = |at: u32, units: u32| {
            let slot = self.geometry.slot_of(at);
            assert!(
                at >= self.geometry.slot_at(slot) + 64,
                "a record in a header"
            );
            live[slot as usize] += units;
        };
        let (mut pages, mut gone) = (0, 0);
        for (number, namespace) in &self.index.namespaces {
            namespace
                .about
                .iter()
                .for_each(|(at, length)| add(*at, 1 + u32::from(*length).div_ceil(64)));
            namespace.forgotten.iter().for_each(|at| add(*at, 1));
            for (pool, about) in &namespace.pools {
                about.floor.iter().for_each(|(_, at)| add(*at, 1));
                for (_, entry) in self.index.entries(*number, *pool) {
                    add(entry.at, entry.form.units());
                    match entry.form {
                        super::index::Form::Gone => gone += 1,
                        _ => pages += 1,
                    }
                }
            }
        }
        assert_eq!((self.index.pages, self.index.gone), (pages, gone));
        assert_eq!(
            self.live_units,
            live.iter().map(|units| u64::from(*units)).sum::<u64>()
        );
        for (segment, live) in self.segments.all.iter().zip(live) {
            assert_eq!(segment.live, live, "{segment:?}");
            assert!(segment.end - 64 >= live && segment.end <= self.geometry.segment_units);
            match segment.state {
                State::Free | State::Released | State::Excluded(_) | State::Cleaned(_) => {
                    assert_eq!(live, 0, "{segment:?}");
                }
                _ => {}
            }
        }
        assert_eq!(self.segments.count(|state| state == State::Tail), 1);
        assert_eq!(self.segments.at(self.segments.tail).state, State::Tail);
    }
}

#[test]
fn kinds_have_the_numbers_of_the_format() {
    let numbers = [
        Kind::Put,
        Kind::Filled,
        Kind::Flush,
        Kind::FlushPool,
        Kind::Namespace,
        Kind::Forget,
        Kind::Release,
    ];
    assert_eq!(numbers.map(|kind| kind as u8), [1, 2, 3, 4, 5, 6, 7]);
}

pub(super) const fn place(index: u32) -> Place {
    Place {
        namespace: 1,
        pool: 0,
        index,
    }
}
