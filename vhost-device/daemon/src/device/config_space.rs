// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device configuration space: what the device is, in 64 bytes that do not change.

use tmem_abi::{BATCH_PAGES_MAX, Config, MAGIC, PAGE_SHIFT, POOLS_MAX, VERSION, capability};

/// What this device can do.
const CAPABILITIES: u64 = capability::PERSISTENT
    | capability::EPHEMERAL
    | capability::EXCLUSIVE_GET
    | capability::LIST
    | capability::SPARSE
    | capability::EVENTS;

/// The space of a device with `queue_pairs` pairs, a grant of `grant_pages` and at most `poll_us` of
/// polling.
#[must_use]
pub fn config_space(queue_pairs: u16, grant_pages: u64, poll_us: u32) -> Config {
    Config {
        magic: MAGIC,
        version: VERSION,
        queue_pairs,
        capabilities: CAPABILITIES,
        batch_pages: BATCH_PAGES_MAX,
        pools: POOLS_MAX,
        grant_pages,
        page_shift: PAGE_SHIFT,
        poll_us,
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

    #[test]
    fn any_part_of_the_space_is_answered_at_the_length_asked_for() {
        let config = config_space(2, 0x0102_0304_0506_0708, 50);
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
        let config = config_space(3, 7, 0);
        assert_eq!(read(&config, 0, 8), *b"TMEM\x01\x00\x03\x00");
    }
}
