// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether the process's own limits leave room for every guest: found out at the start, rather than
//! by the guest that comes last.

use std::io;

use rustix::process::{Resource, getrlimit, getuid, setrlimit};

/// Descriptors of either process besides the guests': standard streams, logs, files of pages, event
/// loops, the admin API's listener and callers, the channel between keeper and worker.
const OWN_FILES: u64 = 256;

/// Of a guest: listener, connection, channel of its device, event loops, exit events.
const GUEST_FILES: u64 = 16;

/// Of a guest: regions of its memory, each a descriptor. Eight is what a table of memory has room
/// for; a VMM that plugs memory while the guest runs adds more, one by one.
const REGION_FILES: u64 = 32;

/// Of a queue: kick, call and error event, and a worker's end of each loop.
const QUEUE_FILES: u64 = 4;

/// Control, event, balloon and report queue.
const QUEUES_FIXED: u64 = tmem_abi::QUEUE_REQUEST_FIRST as u64;

/// The process holds a descriptor twice while it hands it over.
const HANDED_OVER: u64 = 2;

/// Threads of either process besides the guests': control, admin and main ones, two workers while
/// one takes over from the other.
const OWN_THREADS: u64 = 16;

/// Of a guest besides its queue workers: its connection, who waits for its end, its small queues.
const GUEST_THREADS: u64 = 4;

/// What the guests take of the process's limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Open descriptors of one process.
    pub open_files: u64,
    /// Threads of all its processes.
    pub threads: u64,
}

/// A limit that is too low.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Descriptors.
    #[error(
        "Cannot serve {guests} guests with at most {limit} open files: they take up to {needed}; raise LimitNOFILE= of the unit (or `ulimit -Hn`), or serve fewer guests or queue pairs"
    )]
    OpenFiles {
        /// Guests.
        guests: usize,
        /// What they take.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// Threads.
    #[error(
        "Cannot serve {guests} guests with at most {limit} threads: they take up to {needed}; raise LimitNPROC= of the unit (or `ulimit -Hu`), or serve fewer guests or queue pairs"
    )]
    Threads {
        /// Guests.
        guests: usize,
        /// What they take.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// The soft limit stays where it is.
    #[error("Cannot raise the soft limit on {what} to {to}")]
    Raise {
        /// Which.
        what: &'static str,
        /// To what.
        to: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Demand {
    /// Of guests with these numbers of queue pairs.
    #[must_use]
    pub fn of(queue_pairs: &[u16]) -> Self {
        let mut demand = Self {
            open_files: OWN_FILES,
            threads: OWN_THREADS,
        };
        for pairs in queue_pairs.iter().copied().map(u64::from) {
            let queues = (QUEUES_FIXED + 2 * pairs) * QUEUE_FILES;
            demand.open_files += GUEST_FILES + HANDED_OVER * (REGION_FILES + queues);
            // While a new worker takes over, there are two.
            demand.threads += 2 * (GUEST_THREADS + pairs);
        }
        demand
    }
}

/// Checks the process's limits against guests with these numbers of queue pairs, and raises the soft
/// ones as far as they go.
///
/// # Errors
/// [`LimitError`], which says which limit to raise. Root is not limited in its threads.
pub fn check_limits(queue_pairs: &[u16]) -> Result<Demand, LimitError> {
    let demand = Demand::of(queue_pairs);
    let guests = queue_pairs.len();
    if let Err(limit) = raise(Resource::Nofile, "open files", demand.open_files)? {
        let needed = demand.open_files;
        return Err(LimitError::OpenFiles {
            guests,
            needed,
            limit,
        });
    }
    if !getuid().is_root()
        && let Err(limit) = raise(Resource::Nproc, "threads", demand.threads)?
    {
        let needed = demand.threads;
        return Err(LimitError::Threads {
            guests,
            needed,
            limit,
        });
    }
    Ok(demand)
}

/// Raises the soft limit to the hard one. Gives the hard limit if that is lower than `needed`.
fn raise(
    resource: Resource,
    what: &'static str,
    needed: u64,
) -> Result<Result<(), u64>, LimitError> {
    let mut limit = getrlimit(resource);
    if let Some(maximum) = limit.maximum.filter(|maximum| *maximum < needed) {
        return Ok(Err(maximum));
    }
    // Without a hard limit there is no number to raise to but what is needed.
    let to = limit.maximum.unwrap_or(needed);
    if limit.current.is_none_or(|current| current >= to) {
        return Ok(Ok(()));
    }
    limit.current = Some(to);
    setrlimit(resource, limit).map_err(|error| LimitError::Raise {
        what,
        to,
        source: error.into(),
    })?;
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_and_queue_pair_adds_to_the_demand() {
        let none = Demand::of(&[]);
        let small = Demand::of(&[1]);
        let large = Demand::of(&[8]);
        assert!(none.open_files < small.open_files && small.open_files < large.open_files);
        assert!(none.threads < small.threads && small.threads < large.threads);
        // Three descriptors a queue, two queues a pair, are there in any case.
        assert!(large.open_files - small.open_files >= 7 * 2 * 3);
    }

    #[test]
    fn more_guests_than_the_hard_limit_allows_are_refused_with_the_number_to_raise_it_to() {
        let Some(hard) = getrlimit(Resource::Nofile).maximum else {
            println!("not exercised: open files are not limited here");
            return;
        };
        // Each takes more than a hundred.
        let guests = usize::try_from(hard / 100 + 1).unwrap();
        let guests = vec![crate::limits::QUEUE_PAIRS_MAX; guests];
        let needed = Demand::of(&guests).open_files;
        let Err(error) = check_limits(&guests) else {
            panic!("{needed} files fit into {hard}");
        };
        let text = error.to_string();
        assert!(text.contains(&needed.to_string()), "{text}");
        assert!(text.contains(&hard.to_string()), "{text}");
    }

    #[test]
    fn a_few_guests_fit() {
        let demand = check_limits(&[2, 2]).unwrap();
        let soft = getrlimit(Resource::Nofile).current;
        assert!(soft.is_none_or(|soft| soft >= demand.open_files));
    }
}
