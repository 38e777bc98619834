// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A cache of frames under one of the engine's policies.

use tmem_pages::policy::{Hits, Replacement};

use super::{Step, Trace};

/// The seed of policies that draw.
const SEED: u64 = 1;
/// No frame.
const NONE: u32 = u32::MAX;

/// Gets that find their page in a cache of `size` frames.
pub(super) fn hits(trace: &Trace, policy: &str, size: u32) -> usize {
    let mut cache = Cache::new(trace.pages, policy, size);
    let steps = trace.steps.iter();
    steps.filter(|step| cache.step(**step)).count()
}

/// The engine's policy with as little around it as can be.
pub(super) struct Cache {
    policies: Replacement,
    /// Whether the policy wants to hear of hits.
    tells: bool,
    /// Of each page, its frame.
    frames: Vec<u32>,
    /// Of each frame, its page.
    pages: Vec<u32>,
    free: Vec<u32>,
}

impl Cache {
    pub(super) fn new(pages: u32, policy: &str, size: u32) -> Self {
        let mut policies = Replacement::new();
        let known = policies.set(0, policy, SEED).is_ok();
        debug_assert!(known, "a name from the registry");
        Self {
            tells: policies.hits(0) != Hits::None,
            policies,
            frames: vec![NONE; pages as usize],
            pages: vec![NONE; size as usize],
            free: (0..size).rev().collect(),
        }
    }

    /// True if this is a get that hits.
    pub(super) fn step(&mut self, step: Step) -> bool {
        match step {
            Step::Get(page) => {
                let frame = self.frames[page as usize];
                if frame == NONE {
                    self.come(page);
                } else if self.tells {
                    self.policies.touch(frame);
                }
                frame != NONE
            }
            Step::Put(page) => {
                self.go(page);
                self.come(page);
                false
            }
            Step::Flush(page) => {
                self.go(page);
                false
            }
        }
    }

    fn come(&mut self, page: u32) {
        let frame = self.free.pop().or_else(|| {
            let frame = self.policies.victim(0)?;
            let old = self.pages[frame as usize];
            self.policies.left(frame, u64::from(old));
            self.frames[old as usize] = NONE;
            Some(frame)
        });
        if let Some(frame) = frame {
            self.pages[frame as usize] = page;
            self.frames[page as usize] = frame;
            self.policies.insert(0, frame, u64::from(page));
        }
    }

    fn go(&mut self, page: u32) {
        let frame = std::mem::replace(&mut self.frames[page as usize], NONE);
        if frame != NONE {
            self.policies.remove(frame);
            self.free.push(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(steps: Vec<Step>) -> Trace {
        Trace {
            name: String::new(),
            steps,
            footprint: 10,
            pages: 10,
            remark: None,
        }
    }

    #[test]
    fn gets_hit_what_was_put_or_got_and_is_there_still() {
        use Step::{Flush, Get, Put};
        let steps = [
            Put(1),
            Get(1), // hit
            Get(2),
            Get(2), // hit
            Get(3), // lru and fifo: 1 leaves
            Get(1),
            Flush(3),
            Get(3),
            Put(3),
            Get(3), // hit
        ];
        let trace = trace(steps.to_vec());
        assert_eq!(hits(&trace, "fifo", 2), 3);
        assert_eq!(hits(&trace, "lru", 2), 3);
        assert_eq!(hits(&trace, "lru", 3), 4);
    }
}
