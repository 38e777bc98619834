// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A medium that notes what is done to it, and makes of that what a crash may leave.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::Mode;
use super::super::header::EMPTY;
use super::super::medium::Medium;
use super::{Random, SMALL};
use crate::handle::{PAGE_SIZE, PageBytes};

const LINE: usize = 64;
const WORD: usize = 8;

/// What a crash takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The process alone: stores are kept in their order, and the last one may be cut short.
    Process,
    /// The host, with a file: what no fence has covered.
    File,
    /// The host, with mapped memory: what no flush and then a fence have covered.
    Dax,
}

/// What was done.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Store { at: usize, bytes: Vec<u8> },
    Flush { at: usize, bytes: usize },
    Fence,
    Length(usize),
}

/// A fence that is forgotten, by the store that came before it: tests must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// That of a page of the log.
    OfLog,
    /// That of a commit word that is emptied.
    OfEmptied,
}

#[derive(Debug, Default)]
struct Tape {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    forgotten: Option<Forgotten>,
    yields: bool,
    /// What will be loaded, as it was told: places and bytes.
    foreseen: Vec<(u64, u64)>,
}

impl Tape {
    fn forgets_fence(&self) -> bool {
        let stored = self.steps.iter().rev().find_map(|step| match step {
            Step::Store { at, bytes } => Some((*at, bytes.len())),
            _ => None,
        });
        let [log, log_end] = [0, SMALL.log_pages.into()].map(|page| SMALL.log_at(page, 0));
        match (self.forgotten, stored) {
            (Some(Forgotten::OfLog), Some((at, _))) => (log..log_end).contains(&(at as u64)),
            (Some(Forgotten::OfEmptied), Some((at, bytes))) => {
                at as u64 >= log_end && bytes == EMPTY.len()
            }
            _ => false,
        }
    }
}

/// The medium; copies are of the same one.
#[derive(Clone, Debug)]
pub(super) struct Recording {
    tape: Arc<Mutex<Tape>>,
    loss: Loss,
}

impl Recording {
    pub(super) fn new(bytes: Vec<u8>, loss: Loss) -> Self {
        let tape = Arc::new(Mutex::new(Tape {
            bytes,
            ..Tape::default()
        }));
        Self { tape, loss }
    }

    /// From now on, these fences are none.
    pub(super) fn forget(&self, forgotten: Option<Forgotten>) {
        self.tape.lock().forgotten = forgotten;
    }

    pub(super) fn loss(&self) -> Loss {
        self.loss
    }

    /// How many steps there were so far.
    pub(super) fn steps(&self) -> usize {
        self.tape.lock().steps.len()
    }

    pub(super) fn take_steps(&self) -> Vec<Step> {
        std::mem::take(&mut self.tape.lock().steps)
    }

    /// What will be loaded, as it was told since the last call.
    pub(super) fn take_foreseen(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.tape.lock().foreseen)
    }

    /// From now on, other threads may well change what one has just read.
    pub(super) fn yield_after_loads(&self) {
        self.tape.lock().yields = true;
    }

    fn store_bytes(&self, at: u64, bytes: Vec<u8>) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let mut tape = self.tape.lock();
        let to = tape.bytes.get_mut(at..at + bytes.len());
        to.ok_or(io::ErrorKind::UnexpectedEof)?
            .copy_from_slice(&bytes);
        tape.steps.push(Step::Store { at, bytes });
        Ok(())
    }
}

impl Medium for Recording {
    fn mode(&self) -> Mode {
        Mode::File
    }

    fn has_cheap_fence(&self) -> bool {
        self.loss == Loss::Dax
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.tape.lock().bytes.len() as u64)
    }

    fn load(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let tape = self.tape.lock();
        let from = tape.bytes.get(at..at + into.len());
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        let yields = tape.yields;
        drop(tape);
        if yields {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn will_load(&self, at: u64, bytes: u64) {
        self.tape.lock().foreseen.push((at, bytes));
    }

    fn store(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.store_bytes(at, bytes.to_vec())
    }

    fn store_pages(&self, at: u64, pages: &[&PageBytes]) -> io::Result<()> {
        let bytes = pages.iter().flat_map(|page| page.iter().copied()).collect();
        self.store_bytes(at, bytes)?;
        self.flush(at, (pages.len() * PAGE_SIZE) as u64)
    }

    fn flush(&self, at: u64, bytes: u64) -> io::Result<()> {
        let at = usize::try_from(at).unwrap();
        let bytes = usize::try_from(bytes).unwrap();
        self.tape.lock().steps.push(Step::Flush { at, bytes });
        Ok(())
    }

    fn mark(&self) -> u64 {
        0
    }

    fn fence(&self, _since: u64) -> io::Result<()> {
        let mut tape = self.tape.lock();
        if !tape.forgets_fence() {
            tape.steps.push(Step::Fence);
        }
        Ok(())
    }

    fn grow(&self, _from: u64, to: u64) -> io::Result<()> {
        self.set_length(to);
        Ok(())
    }

    fn shrink(&self, to: u64) -> io::Result<()> {
        self.set_length(to);
        Ok(())
    }
}

impl Recording {
    fn set_length(&self, to: u64) {
        let to = usize::try_from(to).unwrap();
        let mut tape = self.tape.lock();
        tape.bytes.resize(to, 0);
        tape.steps.push(Step::Length(to));
    }
}

/// What is in doubt of a line: what it may hold apart from what is safe, oldest first.
#[derive(Clone, Debug, Default)]
struct Doubt {
    versions: Vec<[u8; LINE]>,
    /// How many of them a flush has sent on their way.
    flushed: usize,
}

/// How the lines in doubt of one image are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// None of them arrived.
    Oldest,
    /// All of them did.
    Newest,
    /// Any subset, one in `n` torn.
    Random,
}

/// What is safe and what is in doubt, as the steps go by.
#[derive(Clone, Debug)]
pub(super) struct Crash {
    loss: Loss,
    safe: Vec<u8>,
    doubts: BTreeMap<usize, Doubt>,
    /// The last store, until another step comes.
    last: Option<(usize, Vec<u8>, Vec<u8>)>,
}

impl Crash {
    pub(super) fn new(bytes: Vec<u8>, loss: Loss) -> Self {
        Self {
            loss,
            safe: bytes,
            doubts: BTreeMap::new(),
            last: None,
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.last = None;
        match step {
            // The length is the file system's, which keeps it in a journal.
            Step::Length(to) => {
                self.safe.resize(*to, 0);
                self.doubts.retain(|line, _| (line + 1) * LINE <= *to);
            }
            Step::Store { at, bytes } if self.loss == Loss::Process => {
                let to = &mut self.safe[*at..at + bytes.len()];
                self.last = Some((*at, to.to_vec(), bytes.clone()));
                to.copy_from_slice(bytes);
            }
            Step::Store { at, bytes } => {
                let touched = at / LINE..(at + bytes.len()).div_ceil(LINE);
                for line in touched {
                    let mut content = self.newest(line);
                    for (offset, byte) in content.iter_mut().enumerate() {
                        let place = line * LINE + offset;
                        if place >= *at && place < at + bytes.len() {
                            *byte = bytes[place - at];
                        }
                    }
                    self.doubts.entry(line).or_default().versions.push(content);
                }
            }
            Step::Flush { at, bytes } => {
                for (_, doubt) in self
                    .doubts
                    .range_mut(at / LINE..(at + bytes).div_ceil(LINE))
                {
                    doubt.flushed = doubt.versions.len();
                }
            }
            Step::Fence => self.fence(),
        }
    }

    fn newest(&self, line: usize) -> [u8; LINE] {
        let newest = self
            .doubts
            .get(&line)
            .and_then(|doubt| doubt.versions.last());
        newest.copied().unwrap_or_else(|| {
            let mut content = [0; LINE];
            content.copy_from_slice(&self.safe[line * LINE..][..LINE]);
            content
        })
    }

    fn fence(&mut self) {
        let mut done = BTreeSet::new();
        for (line, doubt) in &mut self.doubts {
            let covered = match self.loss {
                Loss::Dax => doubt.flushed,
                Loss::File | Loss::Process => doubt.versions.len(),
            };
            if let Some(content) = doubt.versions.drain(..covered).next_back() {
                self.safe[line * LINE..][..LINE].copy_from_slice(&content);
            }
            doubt.flushed = 0;
            if doubt.versions.is_empty() {
                done.insert(*line);
            }
        }
        self.doubts.retain(|line, _| !done.contains(line));
    }

    /// What a crash now may leave.
    pub(super) fn image(&self, choice: Choice, random: &mut Random) -> Vec<u8> {
        let mut image = self.safe.clone();
        if let Some((at, before, after)) = &self.last {
            let words = u32::try_from(after.len() / WORD).unwrap();
            let kept = match choice {
                Choice::Oldest => 0,
                Choice::Newest => after.len(),
                Choice::Random => random.below(words + 1) as usize * WORD,
            };
            image[at + kept..at + after.len()].copy_from_slice(&before[kept..]);
        }
        // Sometimes nearly all lines arrive, and sometimes hardly any.
        let share = 1 + random.below(8);
        for (line, doubt) in &self.doubts {
            let to = &mut image[line * LINE..][..LINE];
            match choice {
                Choice::Oldest => {}
                Choice::Newest => to.copy_from_slice(doubt.versions.last().unwrap()),
                Choice::Random if random.one_in(16) => {
                    for at in (0..LINE).step_by(WORD) {
                        let version =
                            random.below(u32::try_from(doubt.versions.len()).unwrap() + 1);
                        if let Some(version) = (version as usize).checked_sub(1) {
                            to[at..at + WORD]
                                .copy_from_slice(&doubt.versions[version][at..at + WORD]);
                        }
                    }
                }
                Choice::Random if random.below(9) < share => {
                    let version = random.below(u32::try_from(doubt.versions.len()).unwrap());
                    to.copy_from_slice(&doubt.versions[version as usize]);
                }
                Choice::Random => {}
            }
        }
        image
    }
}
