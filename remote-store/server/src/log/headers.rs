// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which segments count, as the headers say, and the records behind the newest of them.

use super::error::LogError;
use super::layout::{Geometry, HEADER_LEN, HEADER_UNITS, Header, Listed, UNIT, bytes};
use super::medium::Medium;
use super::record::{Head, Kind};

/// What the headers say.
pub(super) struct Found {
    pub(super) newest: Header,
    /// The slots to read, by the number of their segment; the tail is last, without an end.
    pub(super) segments: Vec<(u32, u64, Option<u32>)>,
}

pub(super) fn read(medium: &dyn Medium, at: u64, into: &mut [u8]) -> Result<(), LogError> {
    medium.read(at, into).map_err(|source| LogError::Read {
        name: medium.name(),
        at,
        source,
    })
}

/// The record that `bytes` begin with, if all of it is there, in this segment and with this number.
pub(super) fn whole(bytes: &[u8], segment: u64, expected: Option<u64>) -> Option<Head> {
    let head = Head::parse(bytes)?;
    let right = head.segment == segment && expected.is_none_or(|number| number == head.sequence);
    (right && head.payload(bytes).is_some()).then_some(head)
}

/// Reads all headers: what they say, and a number that no segment has had.
pub(super) fn headers(
    medium: &dyn Medium,
    geometry: Geometry,
    salvage: bool,
    damage: &mut Vec<String>,
) -> Result<(Option<Found>, u64), LogError> {
    let (mut all, mut unreadable) = (Vec::new(), Vec::new());
    let mut there = vec![0; HEADER_LEN];
    for slot in 0..geometry.slots {
        read(medium, bytes(geometry.slot_at(slot)), &mut there)?;
        let header = Header::parse(&there);
        match header.filter(|header| header.geometry == geometry && header.slot == slot) {
            Some(header) => all.push(header),
            None if there.iter().all(|byte| *byte == 0) => {}
            None => unreadable.push(slot),
        }
    }
    let Some(newest) = all.iter().max_by_key(|header| header.segment) else {
        // A crash in the very first commit leaves at most a torn header of the first slot.
        let name = medium.name();
        read(medium, 0, &mut there)?;
        return match unreadable[..] {
            [] => Ok((None, 1)),
            [0] if there.starts_with(b"TMEMLOG1") => Ok((None, 1)),
            [0] if there
                .get(..512)
                .is_some_and(|first| first.iter().all(|byte| *byte == 0)) =>
            {
                Ok((None, 1))
            }
            _ => Err(LogError::NotALog { name }),
        };
    };
    let released = released_in(medium, newest)?;
    let mut listed = newest.listed.clone();
    listed.retain(|(slot, listed)| !released.contains(&(*slot, listed.segment)));
    let mut segments = Vec::new();
    for slot in unreadable {
        let listed = listed.iter().any(|(other, _)| *other == slot);
        if listed || !was_committed(medium, geometry, slot, newest.segment)? {
            continue;
        }
        let error = LogError::Damaged {
            name: medium.name(),
            at: bytes(geometry.slot_at(slot)),
            what: "the header of the last segment cannot be read, though it was committed",
        };
        if !salvage {
            return Err(error);
        }
        damage.push(error.to_string());
    }
    for (slot, Listed { segment, end }) in &listed {
        let there = all.iter().any(|header| {
            let same = header.log_id == newest.log_id && header.segment == *segment;
            same && header.slot == *slot
        });
        let fits = (HEADER_UNITS..=geometry.segment_units).contains(end);
        if there && fits {
            segments.push((*slot, *segment, Some(*end)));
            continue;
        }
        let error = LogError::Damaged {
            name: medium.name(),
            at: bytes(geometry.slot_at(*slot)),
            what: "the header of a segment that counts cannot be read",
        };
        if !salvage {
            return Err(error);
        }
        damage.push(error.to_string());
    }
    segments.push((newest.slot, newest.segment, None));
    segments.sort_unstable_by_key(|(_, segment, _)| *segment);
    let found = Found {
        newest: newest.clone(),
        segments,
    };
    // A life that ended without its last sync may have begun one segment more than can be seen. Its
    // records must not be taken for those of the next life.
    let next = newest.segment + 2;
    Ok((Some(found), next))
}

/// The segments that the tail says do not count any more.
fn released_in(medium: &dyn Medium, tail: &Header) -> Result<Vec<(u32, u64)>, LogError> {
    let begin = tail.geometry.slot_at(tail.slot);
    let mut there = vec![0; tail.geometry.segment_units as usize * UNIT];
    read(medium, bytes(begin), &mut there)?;
    let (mut at, mut released) = (HEADER_UNITS, Vec::new());
    let mut expected = tail.first_record;
    loop {
        let rest = there.get(at as usize * UNIT..).unwrap_or_default();
        let Some(head) = whole(rest, tail.segment, Some(expected)) else {
            return Ok(released);
        };
        if head.kind == Kind::Release {
            released.push((head.place.index, head.generation));
        }
        at += head.units();
        expected += 1;
    }
}

/// Whether a slot whose header cannot be read has a segment after the newest that can, of which records
/// were committed. A header that was torn when the host ended has none.
fn was_committed(
    medium: &dyn Medium,
    geometry: Geometry,
    slot: u32,
    newest: u64,
) -> Result<bool, LogError> {
    let mut there = vec![0; (geometry.segment_units - HEADER_UNITS) as usize * UNIT];
    read(
        medium,
        bytes(geometry.slot_at(slot) + HEADER_UNITS),
        &mut there,
    )?;
    let heads = there.chunks(UNIT).filter_map(Head::parse);
    let heads: Vec<Head> = heads.filter(|head| head.segment > newest).collect();
    let first = heads.iter().map(|head| head.sequence).min();
    Ok(heads.iter().any(|head| Some(head.committed()) >= first))
}
