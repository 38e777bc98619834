// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Exclusive gets with a journal.

use super::*;

/// Takes two pages.
fn take(house: &mut House, pool: &Pool) {
    house.worker.begin_taking(RING, 9);
    for index in [0, 1] {
        let mut page = [0; PAGE_SIZE];
        let result = house
            .worker
            .take(pool, object(pool), PageIndex(index), &mut page);
        assert!(result.is_hit());
    }
}

#[test]
fn taken_pages_are_there_until_the_ring_says_that_they_arrived() {
    for id in 0..4 {
        let mut house = House::new();
        let pool = house.pool(id);
        let rule = if id == 3 {
            Rule::EachPageOrNone
        } else {
            Rule::Either
        };
        let before = house.killed(false);
        let kept = Rc::new(RefCell::new(before.clone()));
        kill_everywhere(&mut house, rule, false, |house| take(house, &pool));
        // Not published: every kill finds the pages, also within their return.
        assert_eq!(house.killed(false).pages, kept.borrow().pages);
        kill_everywhere(&mut house, rule, false, |house| house.worker.abort_taken());
        assert_eq!(house.killed(true).pages, before.pages);
    }
}

#[test]
fn taken_pages_are_gone_once_the_ring_says_that_they_arrived() {
    for id in 0..4 {
        let mut house = House::new();
        let pool = house.pool(id);
        take(&mut house, &pool);
        let after = house.killed(true);
        let (files, copies) = (
            house.files.try_clone().unwrap(),
            Rc::new(RefCell::new(Vec::new())),
        );
        let kept = Rc::clone(&copies);
        let keep = move || kept.borrow_mut().push(copy(&files));
        hook::around(keep, || {
            house.worker.commit_taken();
            // Their frames serve other pages at once.
            house.put(&pool, 600, 20, &framed(6));
        });
        let put = house.killed(true);
        assert_ne!(put, after);
        for (step, files) in copies.take().into_iter().enumerate() {
            compare(
                Rule::Either,
                &open(files, None).see(true),
                &after,
                &put,
                step,
            );
        }
    }
}

#[test]
fn put_over_a_taken_page_is_newer_than_its_return() {
    for id in 0..4 {
        let mut house = House::new();
        let pool = house.pool(id);
        take(&mut house, &pool);
        let rule = if id == 3 {
            Rule::EachPageOrNone
        } else {
            Rule::EachPage
        };
        let before = house.killed(false);
        let copies = Rc::new(RefCell::new(Vec::new()));
        let (files, kept) = (house.files.try_clone().unwrap(), Rc::clone(&copies));
        let keep = move || kept.borrow_mut().push(copy(&files));
        hook::around(keep, || {
            house.put(&pool, 0, 20, &framed(6));
            house
                .worker
                .flush_page(&pool, object(&pool), PageIndex(1), ticket(20));
        });
        let after = house.killed(false);
        for (step, files) in copies.take().into_iter().enumerate() {
            compare(rule, &open(files, None).see(false), &before, &after, step);
        }
    }
}

#[test]
fn resolving_what_a_kill_left_may_be_killed_as_well() {
    for id in 0..4 {
        let mut first = House::new();
        let pool = first.pool(id);
        take(&mut first, &pool);
        for used in [false, true] {
            let mut house = open(copy(&first.files), None);
            let guest = house.attach("guest");
            let rule = if id == 3 {
                Rule::EachPageOrNone
            } else {
                Rule::Either
            };
            let expected = first.killed(used);
            let copies = Rc::new(RefCell::new(Vec::new()));
            let (files, kept) = (house.files.try_clone().unwrap(), Rc::clone(&copies));
            let keep = move || kept.borrow_mut().push(copy(&files));
            hook::around(keep, || assert!(guest.resolve(RING, used) > 0));
            for (step, files) in copies.take().into_iter().enumerate() {
                let found = open(files, None).see(used);
                compare(rule, &found, &expected, &expected, step);
            }
            assert_eq!(house.see(!used).pages, expected.pages);
        }
    }
}
