// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Holds `docs/device.md` and the code together: sizes, offsets and numbers.

use std::collections::BTreeMap;

use tmem_abi as abi;

const TEXT: &str = include_str!("../../../docs/device.md");

/// Cells of the table rows that follow the line `from`, up to the first line that is no row.
fn table_after(from: &str) -> Vec<Vec<&'static str>> {
    let start = TEXT
        .find(from)
        .unwrap_or_else(|| panic!("docs/device.md has no line '{from}'"));
    TEXT[start + from.len()..]
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[track_caller]
fn layout_stands_in_the_text(name: &str, size: usize, fields: &[(&'static str, usize, usize)]) {
    let written: Vec<(String, usize, usize)> =
        table_after(&format!("<!-- layout: {name} {size} -->"))
            .iter()
            .map(|row| {
                (
                    row[2].to_owned(),
                    row[0].parse().expect("offset"),
                    row[1].parse().expect("bytes"),
                )
            })
            .collect();
    let coded: Vec<(String, usize, usize)> = fields
        .iter()
        .map(|(field, at, bytes)| ((*field).to_owned(), *at, *bytes))
        .collect();
    assert_eq!(
        written, coded,
        "{name} in docs/device.md and in wire.rs differ"
    );
}

#[test]
fn every_structure_is_as_written() {
    layout_stands_in_the_text("Config", abi::Config::SIZE, abi::Config::LAYOUT);
    layout_stands_in_the_text(
        "RequestHeader",
        abi::RequestHeader::SIZE,
        abi::RequestHeader::LAYOUT,
    );
    layout_stands_in_the_text(
        "ResponseHeader",
        abi::ResponseHeader::SIZE,
        abi::ResponseHeader::LAYOUT,
    );
    layout_stands_in_the_text(
        "ControlRequest",
        abi::ControlRequest::SIZE,
        abi::ControlRequest::LAYOUT,
    );
    layout_stands_in_the_text(
        "ControlResponse",
        abi::ControlResponse::SIZE,
        abi::ControlResponse::LAYOUT,
    );
    layout_stands_in_the_text("Event", abi::Event::SIZE, abi::Event::LAYOUT);
    layout_stands_in_the_text(
        "BalloonRequest",
        abi::BalloonRequest::SIZE,
        abi::BalloonRequest::LAYOUT,
    );
    layout_stands_in_the_text(
        "BalloonRange",
        abi::BalloonRange::SIZE,
        abi::BalloonRange::LAYOUT,
    );
    layout_stands_in_the_text(
        "BalloonResponse",
        abi::BalloonResponse::SIZE,
        abi::BalloonResponse::LAYOUT,
    );
    layout_stands_in_the_text(
        "BalloonStats",
        abi::BalloonStats::SIZE,
        abi::BalloonStats::LAYOUT,
    );
}

fn expect(found: &BTreeMap<&'static str, u64>, names: &[(&'static str, u64)]) {
    let wanted: BTreeMap<&'static str, u64> = names.iter().copied().collect();
    assert_eq!(*found, wanted);
}

#[test]
fn every_number_is_as_written() {
    use abi::{balloon, balloon_result, capability, event, op, result, status};
    let bit = |mask: u64| u64::from(mask.trailing_zeros());
    expect(
        &numbers_of_table("| capability | bit | meaning |"),
        &[
            ("PERSISTENT", bit(capability::PERSISTENT)),
            ("EPHEMERAL", bit(capability::EPHEMERAL)),
            ("EXCLUSIVE_GET", bit(capability::EXCLUSIVE_GET)),
            ("LIST", bit(capability::LIST)),
            ("SPARSE", bit(capability::SPARSE)),
            ("EVENTS", bit(capability::EVENTS)),
            ("BALLOON", bit(capability::BALLOON)),
            ("REPORTING", bit(capability::REPORTING)),
        ],
    );
    expect(
        &numbers_of_table(
            "| op | value | queue | readable after the header | writable after the response |",
        ),
        &[
            ("PUT", op::PUT.into()),
            ("GET", op::GET.into()),
            ("FLUSH", op::FLUSH.into()),
            ("FLUSH_OBJECT", op::FLUSH_OBJECT.into()),
            ("FLUSH_POOL", op::FLUSH_POOL.into()),
        ],
    );
    expect(
        &numbers_of_table("| status | value | meaning |"),
        &[
            ("OK", status::OK.into()),
            ("INVALID", status::INVALID.into()),
            ("UNSUPPORTED", status::UNSUPPORTED.into()),
            ("NO_POOL", status::NO_POOL.into()),
            ("EXISTS", status::EXISTS.into()),
            ("NO_SPACE", status::NO_SPACE.into()),
            ("NOT_READY", status::NOT_READY.into()),
            ("SHUTTING_DOWN", status::SHUTTING_DOWN.into()),
            ("DEVICE_ERROR", status::DEVICE_ERROR.into()),
        ],
    );
    expect(
        &numbers_of_table("| result | value | of | meaning |"),
        &[
            ("OK", result::OK.into()),
            ("MISS", result::MISS.into()),
            ("REFUSED_FULL", result::REFUSED_FULL.into()),
            ("REFUSED_FROZEN", result::REFUSED_FROZEN.into()),
            ("STALE", result::STALE.into()),
            ("CORRUPT", result::CORRUPT.into()),
            ("BAD_INDEX", result::BAD_INDEX.into()),
            ("IO_ERROR", result::IO_ERROR.into()),
        ],
    );
    expect(
        &numbers_of_table("| kind | value | meaning of the event's value |"),
        &[
            ("GRANT", event::GRANT.into()),
            ("HEALTH", event::HEALTH.into()),
            ("BALLOON", event::BALLOON.into()),
            ("STATS", event::STATS.into()),
        ],
    );
    expect(
        &numbers_of_table(
            "| balloon op | value | queue | readable after the request | writable after the response |",
        ),
        &[
            ("INFLATE", balloon::INFLATE.into()),
            ("DEFLATE", balloon::DEFLATE.into()),
            ("STATS", balloon::STATS.into()),
            ("REPORT", balloon::REPORT.into()),
        ],
    );
    expect(
        &numbers_of_table("| range's result | value | meaning |"),
        &[
            ("OK", balloon_result::OK.into()),
            ("OUTSIDE", balloon_result::OUTSIDE.into()),
            ("NO_FILE", balloon_result::NO_FILE.into()),
            ("HUGE", balloon_result::HUGE.into()),
            ("FAILED", balloon_result::FAILED.into()),
            ("OVER", balloon_result::OVER.into()),
        ],
    );
}

/// Name and value columns of the table with the heading row `heading`.
fn numbers_of_table(heading: &str) -> BTreeMap<&'static str, u64> {
    let start = TEXT
        .find(heading)
        .unwrap_or_else(|| panic!("docs/device.md has no table '{heading}'"));
    TEXT[start..]
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            (
                cells[0],
                cells[1]
                    .parse()
                    .unwrap_or_else(|_| panic!("no number in '{row}'")),
            )
        })
        .collect()
}
