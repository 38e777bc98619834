// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that say what they are: whoever reads one knows who wrote it, where, and as which version.

use tmem_pages::{PAGE_SIZE, PageBytes};

use crate::random::{Random, mix};

const MAGIC: u64 = 0x7061_6765_6f66_7473;

/// What a page's bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Who wrote it.
    pub writer: u32,
    /// The key, or slot, that it was written to.
    pub key: u32,
    /// Which write of that key it was.
    pub version: u64,
}

impl Stamp {
    /// The page that this stamp stands for; all of its bytes depend on the stamp.
    #[must_use]
    pub fn page(self) -> PageBytes {
        let mut bytes = [0; PAGE_SIZE];
        let name = u64::from(self.writer) << 32 | u64::from(self.key);
        let mut filling = Random::new(mix(name), self.version);
        for (at, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let value = match at {
                0 => MAGIC,
                1 => name,
                2 => self.version,
                _ => filling.draw(),
            };
            *word = value.to_le_bytes();
        }
        bytes
    }

    /// Whose page it is; none if any byte is not as it was written.
    #[must_use]
    pub fn of(page: &PageBytes) -> Option<Self> {
        let mut words = page.as_chunks::<8>().0.iter().copied();
        let magic = words.next().map(u64::from_le_bytes)?;
        let name = words.next().map(u64::from_le_bytes)?;
        let version = words.next().map(u64::from_le_bytes)?;
        let stamp = Self {
            writer: u32::try_from(name >> 32).ok()?,
            key: u32::try_from(name & u64::from(u32::MAX)).ok()?,
            version,
        };
        (magic == MAGIC && stamp.page() == *page).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_names_its_writer_key_and_version() {
        let stamp = Stamp {
            writer: 3,
            key: 70_000,
            version: 12,
        };
        assert_eq!(Stamp::of(&stamp.page()), Some(stamp));
    }

    #[test]
    fn one_changed_byte_anywhere_is_nobodys_page() {
        let stamp = Stamp {
            writer: 1,
            key: 2,
            version: 3,
        };
        let mut page = stamp.page();
        for at in (0..PAGE_SIZE).step_by(41) {
            page[at] ^= 1;
            assert_eq!(Stamp::of(&page), None, "byte {at}");
            page[at] ^= 1;
        }
        assert_eq!(Stamp::of(&[0; PAGE_SIZE]), None);
    }
}
