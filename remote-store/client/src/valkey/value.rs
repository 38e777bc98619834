// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What lies in the cluster: the key of a slot, and the value: a header of 32 bytes before the page.
//!
//! ```text
//! 0      4       8     12      16      24          32        40
//! magic  format  slot  CRC-32  store   generation  page ...
//! ```
//! `store` is made of the namespace's name and the slot memory's id, which is drawn anew when the
//! memory is: a value of an earlier life of the same namespace is not taken for one of this life. The
//! reader knows all of the header but the upper part of the generation, and compares all of it.
//!
//! A key is `{tmem.NAMESPACE.CHUNK}SLOT`. The cluster hashes what stands in braces, so the 256 slots of
//! a chunk are on one node and one pipeline reaches them all.

use tmem_pages::{PAGE_SIZE, PageBytes};

use super::turn::Turn;

/// Slots whose keys hash alike.
pub(super) const CHUNK: u32 = 256;
/// Bytes of a value.
pub(super) const VALUE_BYTES: usize = HEADER_BYTES + PAGE_SIZE;

const HEADER_BYTES: usize = 32;
const MAGIC: u32 = u32::from_le_bytes(*b"tmvk");
const FORMAT: u32 = 1;

/// What a value's header says besides magic and format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) slot: u32,
    pub(super) checksum: u32,
    pub(super) store: u64,
    pub(super) generation: u64,
}

/// Why a value is not what was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// An earlier write of the same slot.
    Older,
    /// Not a value of this store, or not all of one.
    Foreign,
    /// The page's bytes are not those that were written.
    Damaged,
}

impl Header {
    /// The value of a page.
    pub(super) fn value(&self, page: &PageBytes) -> Vec<u8> {
        let mut value = Vec::with_capacity(VALUE_BYTES);
        for word in [MAGIC, FORMAT, self.slot, self.checksum] {
            value.extend_from_slice(&word.to_le_bytes());
        }
        for long in [self.store, self.generation] {
            value.extend_from_slice(&long.to_le_bytes());
        }
        value.extend_from_slice(page);
        value
    }

    fn read(value: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (words, _) = value.as_chunks::<4>();
        let (longs, _) = value.as_chunks::<8>();
        match (words, longs) {
            ([magic, format, slot, checksum, ..], [_, _, store, generation])
                if u32::from_le_bytes(*magic) == MAGIC && u32::from_le_bytes(*format) == FORMAT =>
            {
                Some(Self {
                    slot: u32::from_le_bytes(*slot),
                    checksum: u32::from_le_bytes(*checksum),
                    store: u64::from_le_bytes(*store),
                    generation: u64::from_le_bytes(*generation),
                })
            }
            _ => None,
        }
    }
}

/// The page of a value, if it is the one of this store, slot, turn and checksum.
pub(super) fn page_of(
    value: &[u8],
    store: u64,
    slot: u32,
    turn: Turn,
    checksum: u32,
) -> Result<&PageBytes, Wrong> {
    let (header, rest) = value
        .split_first_chunk::<HEADER_BYTES>()
        .ok_or(Wrong::Foreign)?;
    let page: &PageBytes = rest.try_into().map_err(|_| Wrong::Foreign)?;
    let header = Header::read(header).ok_or(Wrong::Foreign)?;
    if (header.store, header.slot) != (store, slot) {
        return Err(Wrong::Foreign);
    }
    if Turn::of(header.generation) != turn || header.checksum != checksum {
        return Err(Wrong::Older);
    }
    if tmem_remote_protocol::checksum(page) != checksum {
        return Err(Wrong::Damaged);
    }
    Ok(page)
}

/// What tells this store's values from all others.
pub(super) fn store_number(namespace: &str, memory: &[u8; 16]) -> u64 {
    // FNV-1a: any two lives of a namespace differ in 16 random bytes.
    let bytes = namespace.bytes().chain([0]).chain(*memory);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The chunk of a slot.
pub(super) fn chunk_of(slot: u32) -> u32 {
    slot / CHUNK
}

/// A slot's key.
pub(super) fn key(namespace: &str, slot: u32) -> String {
    format!("{{tmem.{namespace}.{}}}{slot}", chunk_of(slot))
}

/// Which keys are this namespace's, for SCAN.
pub(super) fn keys_of(namespace: &str) -> String {
    format!("{{tmem.{namespace}.*}}*")
}

/// The slot of a key, if it is one of this namespace.
pub(super) fn slot_of(namespace: &str, key: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(key).ok()?;
    let slot = text.rsplit_once('}')?.1.parse().ok()?;
    (self::key(namespace, slot) == text).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valkey::turn::Mark;

    const STORE: u64 = 0x1234_5678_9abc_def0;

    fn page() -> PageBytes {
        let mut page = [7; PAGE_SIZE];
        page[100] = 1;
        page
    }

    fn header(turn: Turn) -> Header {
        Header {
            slot: 9,
            checksum: tmem_remote_protocol::checksum(&page()),
            store: STORE,
            generation: turn.generation(1000),
        }
    }

    #[test]
    fn page_comes_back_out_of_its_value() {
        let turn = Mark::read(0).next();
        let header = header(turn);
        let value = header.value(&page());
        assert_eq!(value.len(), VALUE_BYTES);
        assert_eq!(
            page_of(&value, STORE, 9, turn, header.checksum),
            Ok(&page())
        );
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let turn = Mark::read(0).next();
        let header = header(turn);
        let value = header.value(&page());
        // The generation above its turn is not known to the reader: bytes 24 to 31 are left out.
        for at in (0..24).chain(32..VALUE_BYTES) {
            let mut other = value.clone();
            other[at] ^= 0x10;
            let got = page_of(&other, STORE, 9, turn, header.checksum);
            assert!(got.is_err(), "byte {at}");
        }
        for length in [0, 31, 32, VALUE_BYTES - 1] {
            let got = page_of(&value[..length], STORE, 9, turn, header.checksum);
            assert_eq!(got, Err(Wrong::Foreign));
        }
    }

    #[test]
    fn earlier_write_of_the_same_bytes_is_older() {
        let first = Mark::read(0).next();
        let second = Mark::read(first.page()).next();
        let header = header(first);
        let value = header.value(&page());
        let got = page_of(&value, STORE, 9, second, header.checksum);
        assert_eq!(got, Err(Wrong::Older));
        let got = page_of(&value, STORE, 9, first, header.checksum + 1);
        assert_eq!(got, Err(Wrong::Older));
    }

    #[test]
    fn another_life_of_the_namespace_has_another_number() {
        assert_ne!(store_number("a", &[0; 16]), store_number("a", &[1; 16]));
        assert_ne!(store_number("a", &[0; 16]), store_number("b", &[0; 16]));
    }

    #[test]
    fn key_says_its_slot_to_its_namespace_alone() {
        assert_eq!(key("vm", 513), "{tmem.vm.2}513");
        assert_eq!(slot_of("vm", b"{tmem.vm.2}513"), Some(513));
        for other in [
            "{tmem.vm.1}513",
            "{tmem.other.2}513",
            "{tmem.vm.2}0513",
            "{tmem.vm.2}-1",
            "513",
            "",
        ] {
            assert_eq!(slot_of("vm", other.as_bytes()), None, "{other}");
        }
    }
}
