// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The decisions of the guest's clean cache (`../decide`), compiled for user space and run against
//! a model of the disk and of a host that reorders, refuses, forgets and misremembers.
//!
//! The kernel module compiles the same files. What is modelled here is all around them: reads,
//! writes and discards that overlap; a disk that carries a write out block by block, at any time
//! until it says that it is done; failed writes that reach the disk later or never; a host that
//! executes requests late and in any order, answers later still, evicts pages when it likes, and
//! after a crash brings back any page that it was not last told to hold.
//!
//! The oracle is a floor for each block: the newest contents that a write was acknowledged for or
//! that a read has returned. What a read returns must not be older than the floor when it began.
//!
//! `world` has the model, `tests` runs it from seeds; `threads` has a smaller model with real
//! threads and locks. A failing seed is printed; `TMEM_SEED=N` runs that one alone.

#[cfg(test)]
mod cells;
#[cfg(test)]
#[path = "../../decide/mod.rs"]
mod decide;
#[cfg(test)]
mod host;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;
#[cfg(test)]
mod world;
