// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A medium that can lose power, or whose process can be killed, at any step.

use std::io;

use parking_lot::Mutex;

use super::work::Random;
use crate::log::Medium;

const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Inside {
    /// What survives.
    safe: Vec<u8>,
    /// What every reader sees.
    seen: Vec<u8>,
    /// Writes since the last sync.
    fresh: Vec<(usize, Vec<u8>)>,
    /// Writes and syncs that will still be done.
    steps_left: Option<u64>,
    fail_reads: bool,
    syncs: u64,
}

#[derive(Debug)]
pub(super) struct Lossy(Mutex<Inside>);

impl Lossy {
    pub(super) fn new(size: usize) -> Self {
        Self::with(vec![0; size])
    }

    pub(super) fn with(safe: Vec<u8>) -> Self {
        Self(Mutex::new(Inside {
            seen: safe.clone(),
            safe,
            ..Inside::default()
        }))
    }

    /// After so many more writes and syncs all fail: the one that does may be half done.
    pub(super) fn stop_after(&self, steps: u64) {
        self.0.lock().steps_left = Some(steps);
    }

    pub(super) fn fail_reads(&self) {
        self.0.lock().fail_reads = true;
    }

    pub(super) fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// What every reader sees, which a killed process leaves behind.
    pub(super) fn after_kill(&self) -> Vec<u8> {
        self.0.lock().seen.clone()
    }

    /// What the host's end leaves: of what was not synced any writes, any sectors of them.
    pub(super) fn after_power_loss(&self, random: &mut Random) -> Vec<u8> {
        let inside = self.0.lock();
        let mut image = inside.safe.clone();
        // Sometimes nearly all arrives, sometimes nearly nothing.
        let odds = 1 + random.below(8);
        for (at, bytes) in &inside.fresh {
            if random.below(8) >= odds {
                continue;
            }
            let torn = random.one_in(3);
            for (nth, sector) in bytes.chunks(SECTOR).enumerate() {
                if !torn || random.one_in(2) {
                    let at = at + nth * SECTOR;
                    image[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        image
    }
}

impl Inside {
    fn step(&mut self) -> bool {
        match &mut self.steps_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

impl Medium for Lossy {
    fn name(&self) -> String {
        "lossy".to_owned()
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let inside = self.0.lock();
        let at = usize::try_from(at).unwrap();
        let bytes = inside
            .seen
            .get(at..at + into.len())
            .filter(|_| !inside.fail_reads);
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inside = self.0.lock();
        let at = usize::try_from(at).unwrap();
        if !inside.step() {
            // What fails has written half.
            let half = &bytes[..bytes.len() / 2 / SECTOR * SECTOR];
            inside.seen[at..at + half.len()].copy_from_slice(half);
            inside.fresh.push((at, half.to_vec()));
            return Err(io::ErrorKind::StorageFull.into());
        }
        inside.seen[at..at + bytes.len()].copy_from_slice(bytes);
        inside.fresh.push((at, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inside = self.0.lock();
        if !inside.step() {
            return Err(io::ErrorKind::Other.into());
        }
        inside.safe = inside.seen.clone();
        inside.fresh.clear();
        inside.syncs += 1;
        Ok(())
    }
}
