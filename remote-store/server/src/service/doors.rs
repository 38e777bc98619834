// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who may come in: so many connections, and so many from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts those who are in.
#[derive(Debug)]
pub(crate) struct Doors {
    most: u32,
    most_of_one: u32,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    all: u32,
    by_address: BTreeMap<IpAddr, u32>,
    turned_away: u64,
}

/// The right to be in, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    doors: Arc<Doors>,
    address: Option<IpAddr>,
}

impl Doors {
    /// Doors for so many, and so many from one address.
    pub(crate) fn new(most: u32, most_of_one: u32) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_one,
            inside: Mutex::default(),
        })
    }

    /// Lets one in, or says what there are too many of. Those without an address are of this host.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Pass, &'static str> {
        let address = address.map(|address| address.to_canonical());
        let mut inside = self.inside.lock();
        let of_one = address.map_or(0, |address| {
            inside.by_address.get(&address).copied().unwrap_or(0)
        });
        let full = if inside.all >= self.most {
            Some("connections")
        } else if of_one >= self.most_of_one {
            Some("connections from this address")
        } else {
            None
        };
        if let Some(full) = full {
            inside.turned_away += 1;
            return Err(full);
        }
        inside.all += 1;
        if let Some(address) = address {
            inside.by_address.insert(address, of_one + 1);
        }
        Ok(Pass {
            doors: Arc::clone(self),
            address,
        })
    }

    /// Those who are in, and those who were turned away so far.
    pub(crate) fn counts(&self) -> (u32, u64) {
        let inside = self.inside.lock();
        (inside.all, inside.turned_away)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.doors.inside.lock();
        inside.all -= 1;
        if let Some(address) = self.address
            && let Some(count) = inside.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                inside.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_every_place() {
        let doors = Doors::new(3, 2);
        let greedy: IpAddr = "10.0.0.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let first = doors.enter(Some(greedy)).unwrap();
        let _second = doors.enter(Some(mapped)).unwrap();
        assert!(doors.enter(Some(greedy)).is_err());
        let _local = doors.enter(None).unwrap();
        assert!(doors.enter(None).is_err());
        assert_eq!(doors.counts(), (3, 2));
        drop(first);
        let _third = doors.enter(Some(greedy)).unwrap();
        assert_eq!(doors.inside.lock().by_address.len(), 1);
    }
}
