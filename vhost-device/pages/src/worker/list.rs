// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What pages there are.

use super::Worker;
use crate::handle::{PageIndex, Ticket};
use crate::pool::Pool;

impl Worker {
    /// Notes the pages of a dense pool, in their order, from an index on, until `found` has `most` of
    /// them. Returns where to go on; nothing at the end. A page whose bytes are lost is one of them, with
    /// the lowest ticket. Pages that come and go meanwhile may be noted or not; a sparse pool has none.
    pub fn list(
        &self,
        pool: &Pool,
        from: PageIndex,
        most: usize,
        found: &mut Vec<(PageIndex, Ticket)>,
    ) -> Option<PageIndex> {
        self.check(pool);
        pool.index.list(&self.shared.frames, from, most, found)
    }
}

#[cfg(test)]
mod tests {
    use crate::*;

    #[test]
    fn pages_are_listed_in_order_and_in_parts() {
        let engine = Engine::new(EngineConfig {
            frames: 64,
            workers_max: 1,
            guests_max: 1,
        })
        .unwrap();
        let guest = engine
            .attach_guest(GuestConfig {
                name: "one".into(),
                grant_pages: 32,
            })
            .unwrap();
        let spec = PoolSpec {
            kind: PoolKind::Persistent,
            layout: Layout::Dense { pages: 100_000 },
        };
        let pool = guest.create_pool(PoolId(0), spec).unwrap();
        let mut worker = engine.worker().unwrap();
        let mut expected = Vec::new();
        for (number, index) in (1..).zip([0, 1, 511, 512, 70_000, 99_999]) {
            let mut page = [0; PAGE_SIZE];
            // Some are one byte repeated, others are not.
            page[1] = u8::try_from(number % 2).unwrap();
            let ticket = Ticket::new(number).unwrap();
            let mark = PageMark {
                ticket,
                checksum: page_checksum(&page),
            };
            let at = (ObjectId::ZERO, PageIndex(index));
            let wrong = PageMark {
                checksum: mark.checksum ^ 1,
                ..mark
            };
            let put = worker.put_summed(&pool, at.0, at.1, wrong, &page);
            assert_eq!(put, PutResult::BadSum);
            worker.put_summed(&pool, at.0, at.1, mark, &page);
            let mut back = [7; PAGE_SIZE];
            let (got, is) = worker.get_marked(&pool, at.0, at.1, &mut back);
            assert!(got.is_hit() && back == page);
            assert_eq!(is, Some(mark));
            expected.push((PageIndex(index), ticket));
        }
        for most in 1..8 {
            let (mut all, mut next) = (Vec::new(), Some(PageIndex(0)));
            while let Some(from) = next {
                let mut found = Vec::new();
                next = worker.list(&pool, from, most, &mut found);
                assert!(found.len() <= most);
                all.extend(found);
            }
            assert_eq!(all, expected);
        }
    }
}
