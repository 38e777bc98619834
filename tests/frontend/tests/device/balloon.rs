// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The balloon: what leaves the guest's memory file is what was let go, no more and no less, whatever
//! the daemon, the administrator or another guest does meanwhile.

use rustix::process::{Signal, kill_process};
use tmem_abi::{BalloonRange, BalloonStats, PAGE_SIZE, balloon_result, event};
use tmem_admin_api::{Balloon, BalloonDetail, BalloonDriver, BalloonList, BalloonMode, path};
use tmem_frontend::{BalloonQueues, Error, Options, WAIT};

use crate::guest::Guest;
use crate::host::{Host, Settings};
use crate::tiers::asked;

const OK: u8 = balloon_result::OK;
/// Pages that a test's guest has touched, all of them by the balloon's tests.
const PAGES: u32 = 1024;

/// A guest whose pages from the returned one on are all there, and its balloon's queues, whose rings
/// are there as well.
fn join(host: &Host, number: usize) -> (Guest, BalloonQueues, u64) {
    let mut guest = Guest::join(&host.socket(number), Options::default());
    let mut queues = BalloonQueues::take(guest.driver.connection()).unwrap();
    let start = guest.memory.allocate_pages(PAGES as usize).unwrap();
    for page in 0..u64::from(PAGES) {
        let content = [u8::try_from(page % 251).unwrap() + 1; PAGE_SIZE];
        guest
            .memory
            .write(start + page * PAGE_SIZE as u64, &content)
            .unwrap();
    }
    for report in [false, true] {
        // No request at all; the rings have been used after it.
        let sent = queues.send(report, &[0; 4], 0);
        assert!(matches!(sent, Err(Error::Status { .. })), "{sent:?}");
    }
    (guest, queues, start / PAGE_SIZE as u64)
}

/// Has the guest keep all but `pages`, and waits until its driver is told.
fn squeeze(host: &Host, guest: &mut Guest, name: &str, pages: u64) {
    let size_pages = show(host, name).memory_pages - pages;
    let body = format!("{{\"size_pages\": {size_pages}}}");
    let path = format!("{}/{name}/balloon", path::GUESTS);
    let set: BalloonDetail = asked(host, "POST", &path, &body);
    assert_eq!(set.balloon.target_pages, pages);
    while guest.driver.wait_event(event::BALLOON).unwrap().value != pages {}
}

fn show(host: &Host, name: &str) -> Balloon {
    let path = format!("{}/{name}/balloon", path::GUESTS);
    let detail: BalloonDetail = asked(host, "GET", &path, "");
    detail.balloon
}

fn range(first: u64, pages: u32) -> BalloonRange {
    BalloonRange { first, pages }
}

/// Checks pages of the test by what `join` wrote, or by zeroes.
fn assert_pages(guest: &Guest, start: u64, gone: impl Fn(u64) -> bool) {
    for page in 0..u64::from(PAGES) {
        let mut byte = [0];
        let address = (start + page) * PAGE_SIZE as u64 + 17;
        guest.memory.read(address, &mut byte).unwrap();
        let wanted = u8::try_from(page % 251).unwrap() + 1;
        assert_eq!(byte[0], if gone(page) { 0 } else { wanted }, "page {page}");
    }
}

#[test]
fn the_file_shrinks_by_what_is_let_go_and_grows_by_what_is_used_again() {
    let host = Host::one();
    let (mut guest, mut queues, start) = join(&host, 0);
    squeeze(&host, &mut guest, "vm0", 600);
    let before = guest.memory.file_pages().unwrap();
    let ranges = [
        range(start, 512),
        range(start + 520, 1),
        range(start + 600, 80),
    ];
    assert_eq!(queues.inflate(&ranges).unwrap(), (593, vec![OK; 3]));
    assert_eq!(guest.memory.file_pages().unwrap(), before - 593);
    let shown = show(&host, "vm0");
    assert_eq!((shown.held_pages, shown.target_pages), (593, 600));
    assert_eq!(shown.size_pages, shown.memory_pages - 593);
    let gone = |page| page < 512 || page == 520 || (600..680).contains(&page);
    assert_pages(&guest, start, gone);
    // Looking at a page of zeroes brought it back; nobody minds.
    assert_eq!(queues.deflate(&[range(start, 512)]).unwrap(), 512);
    for page in 0..512 {
        guest
            .memory
            .write((start + page) * PAGE_SIZE as u64, &[9; PAGE_SIZE])
            .unwrap();
    }
    assert_eq!(show(&host, "vm0").held_pages, 81);
    let mut byte = [0];
    guest
        .memory
        .read((start + 511) * PAGE_SIZE as u64, &mut byte)
        .unwrap();
    assert_eq!(byte, [9]);
}

#[test]
fn free_pages_that_are_reported_leave_the_file_and_no_account() {
    let host = Host::one();
    let (guest, mut queues, start) = join(&host, 0);
    let before = guest.memory.file_pages().unwrap();
    assert_eq!(
        queues.report(&[range(start, 512)]).unwrap(),
        (512, vec![OK])
    );
    assert_eq!(guest.memory.file_pages().unwrap(), before - 512);
    let shown = show(&host, "vm0");
    assert_eq!((shown.held_pages, shown.counts.reported_pages), (0, 512));
    assert_pages(&guest, start, |page| page < 512);
}

#[test]
fn what_is_refused_stays_as_it_is_and_is_told() {
    let host = Host::one();
    let (mut guest, mut queues, start) = join(&host, 0);
    let before = guest.memory.file_pages().unwrap();
    let over = balloon_result::OVER;
    assert_eq!(queues.inflate(&[range(start, 4)]).unwrap(), (0, vec![over]));
    squeeze(&host, &mut guest, "vm0", 8);
    let beyond = guest.memory.end() / PAGE_SIZE as u64;
    let ranges = [range(start, 8), range(beyond, 1), range(start + 8, 1)];
    let (pages, results) = queues.inflate(&ranges).unwrap();
    assert_eq!((pages, results), (8, vec![OK, over, over]));
    let outside = balloon_result::OUTSIDE;
    let ranges = [range(beyond, 1), range(beyond - 1, 2)];
    assert_eq!(queues.report(&ranges).unwrap(), (0, vec![outside; 2]));
    assert_eq!(guest.memory.file_pages().unwrap(), before - 8);
    let refusal = show(&host, "vm0").refusal.unwrap();
    assert_eq!(refusal.reason.as_str(), "outside");
    assert_pages(&guest, start, |page| page < 8);
}

#[test]
fn malformed_requests_free_nothing_and_harm_nobody() {
    let host = Host::start(&Settings {
        guests: 2,
        ..Settings::default()
    });
    let (mut guest, mut queues, start) = join(&host, 0);
    let mut other = Guest::join(&host.socket(1), Options::default());
    other.put_ok(0, &[1, 2, 3]);
    squeeze(&host, &mut guest, "vm0", 512);
    let before = guest.memory.file_pages().unwrap();
    for (report, bytes) in [
        (false, vec![0xff; 32]),
        (false, vec![0; 16]),
        (true, vec![0xff; 4096]),
        (true, vec![1, 0, 0, 0, 1]),
    ] {
        let sent = queues.send(report, &bytes, 4);
        assert!(matches!(sent, Err(Error::Status { .. })), "{sent:?}");
    }
    assert_eq!(guest.memory.file_pages().unwrap(), before);
    let all = range(start, 512);
    assert_eq!(queues.inflate(&[all]).unwrap(), (512, vec![OK]));
    guest.put_ok(0, &[4, 5]);
    guest.assert_pages(0, &[4, 5]);
    other.assert_pages(0, &[1, 2, 3]);
}

#[test]
fn a_target_outlives_the_worker_and_what_is_held_is_told_anew() {
    let host = Host::one();
    let (mut guest, mut queues, start) = join(&host, 0);
    squeeze(&host, &mut guest, "vm0", 300);
    queues.inflate(&[range(start, 256)]).unwrap();
    let before = guest.memory.file_pages().unwrap();
    let worker = host.worker().unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    // The driver has not said HELLO again, and is told all the same.
    while guest.driver.wait_event(event::BALLOON).unwrap().value != 300 {}
    let shown = show(&host, "vm0");
    assert_eq!((shown.target_pages, shown.held_pages), (300, 0));
    assert_eq!(shown.driver, BalloonDriver::Silent);
    let stats = BalloonStats {
        sequence: 9,
        held: 256,
        target: 300,
        available: 77,
        psi_some_us: tmem_abi::STATS_UNKNOWN,
        ..BalloonStats::default()
    };
    queues.tell(&stats).unwrap();
    let shown = show(&host, "vm0");
    assert_eq!(
        (shown.held_pages, shown.driver),
        (256, BalloonDriver::Works)
    );
    let told = shown.statistics.unwrap();
    assert_eq!((told.available_pages, told.psi_some_us), (77, None));
    assert_eq!(guest.memory.file_pages().unwrap(), before);
    let over = balloon_result::OVER;
    let more = [range(start + 256, 44), range(start + 300, 1)];
    assert_eq!(queues.inflate(&more).unwrap(), (44, vec![OK, over]));
}

#[test]
fn a_guest_on_auto_is_decided_about_within_its_bounds() {
    let host = Host::one();
    let (_guest, mut queues, _) = join(&host, 0);
    let path = format!("{}/vm0/balloon/auto", path::GUESTS);
    let body = "{\"auto\": true, \"floor_pages\": 4096}";
    let set: BalloonDetail = asked(&host, "POST", &path, body);
    assert_eq!(set.balloon.mode, BalloonMode::Auto);
    let start = std::time::Instant::now();
    let decision = loop {
        queues.tell(&BalloonStats::default()).unwrap();
        if let Some(decision) = show(&host, "vm0").decision {
            break decision;
        }
        assert!(start.elapsed() < WAIT, "the controller decides nothing");
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert!(!decision.reason.is_empty() && !decision.tells.is_empty());
    assert!(decision.size_pages >= 4096);
    let off: BalloonDetail = asked(&host, "POST", &path, "{\"auto\": false}");
    assert_eq!(off.balloon.mode, BalloonMode::Fixed);
    assert_eq!(off.balloon.decision, None);
    let body = "{\"budget_pages\": 4096}";
    let list: BalloonList = asked(&host, "POST", "/v1/balloons/budget", body);
    assert_eq!((list.budget_pages, list.balloons.len()), (Some(4096), 1));
}

#[test]
fn a_guest_without_a_balloon_is_answered_with_unsupported() {
    let host = Host::start(&Settings {
        guest: "balloon = { enabled = false }".into(),
        ..Settings::default()
    });
    let (guest, mut queues, start) = join(&host, 0);
    let before = guest.memory.file_pages().unwrap();
    for sent in [
        queues.inflate(&[range(start, 1)]),
        queues.report(&[range(start, 1)]),
    ] {
        let unsupported = tmem_abi::status::UNSUPPORTED;
        assert!(matches!(sent, Err(Error::Status { status, .. }) if status == unsupported));
    }
    assert_eq!(guest.memory.file_pages().unwrap(), before);
    assert!(!show(&host, "vm0").enabled);
}
