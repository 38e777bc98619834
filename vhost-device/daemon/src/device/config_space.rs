// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device configuration space: what the device is, in 64 bytes that do not change.

use tmem_abi::{BATCH_PAGES_MAX, Config, MAGIC, PAGE_SHIFT, POOLS_MAX, VERSION, capability};

use super::Station;

/// What every device can do.
const CAPABILITIES: u64 = capability::PERSISTENT
    | capability::EPHEMERAL
    | capability::EXCLUSIVE_GET
    | capability::LIST
    | capability::SPARSE
    | capability::EVENTS;

/// The space of a guest's device.
#[must_use]
pub fn config_space(station: &Station) -> Config {
    let balloon = &station.balloon;
    let with = |there: bool, capability: u64| if there { capability } else { 0 };
    let capabilities = CAPABILITIES
        | with(balloon.is_offered(), capability::BALLOON)
        | with(balloon.takes_reports(), capability::REPORTING);
    Config {
        magic: MAGIC,
        version: VERSION,
        queue_pairs: station.pairs(),
        capabilities,
        batch_pages: BATCH_PAGES_MAX,
        pools: POOLS_MAX,
        grant_pages: station.guest.grant_pages(),
        page_shift: PAGE_SHIFT,
        poll_us: station.poll_us(),
    }
}

/// The bytes from `offset`, exactly `size` of them, whatever is asked for: some front-ends end their
/// guest when the answer has another length. Beyond the space there are zeros.
#[must_use]
pub fn read(config: &Config, offset: u32, size: u32) -> Vec<u8> {
    let mut space = config.to_bytes().to_vec();
    let (offset, size) = (offset as usize, size as usize);
    space.drain(..offset.min(space.len()));
    space.resize(size, 0);
    space
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Config {
        Config {
            magic: MAGIC,
            version: VERSION,
            queue_pairs: 3,
            capabilities: CAPABILITIES,
            grant_pages: 0x0102_0304_0506_0708,
            ..Config::default()
        }
    }

    #[test]
    fn any_part_of_the_space_is_answered_at_the_length_asked_for() {
        let config = space();
        let all = config.to_bytes();
        for offset in 0..=70 {
            for size in 0..=80 {
                let read = read(&config, offset, size);
                assert_eq!(read.len(), size as usize);
                for (at, byte) in (offset as usize..).zip(read) {
                    assert_eq!(byte, all.get(at).copied().unwrap_or(0), "byte {at}");
                }
            }
        }
        assert_eq!(read(&config, u32::MAX, 4), [0; 4]);
    }

    #[test]
    fn the_space_begins_with_the_magic_and_the_version() {
        assert_eq!(read(&space(), 0, 8), *b"TMEM\x01\x00\x03\x00");
    }
}
