// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A hash that stays the same from release to release.

/// A hash of a number.
const fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of bytes that stays the same from release to release: it is kept in the table. Never 0.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut sum = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    for byte in bytes {
        sum = mix(sum.rotate_left(8) ^ u64::from(*byte));
    }
    mix(sum).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_tells_bytes_apart_and_is_never_zero() {
        let hashes: std::collections::BTreeSet<u64> =
            (0..1000_u32).map(|n| hash(&n.to_le_bytes())).collect();
        assert_eq!(hashes.len(), 1000);
        assert_ne!(hash(b""), 0);
        assert_ne!(hash(b"ab"), hash(b"ba"));
    }
}
