// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The examples and tables of `docs/remote-protocol.md`, held against the code.

use bytes::BytesMut;

use crate::*;

fn examples() -> Vec<(&'static str, BytesMut)> {
    let mut all = Vec::new();
    let mut example = |name, write: &dyn Fn(&mut BytesMut)| {
        let mut buf = BytesMut::new();
        write(&mut buf);
        all.push((name, buf));
    };
    let hello = Hello {
        versions: Versions { min: 1, max: 1 },
        capabilities: Capabilities::LIST.union(Capabilities::ADVERTS),
        namespace: Namespace::new("host-1").unwrap(),
        epoch: 1_780_000_000_000,
        session: Session::Control,
        advert_period_ms: 100,
        wants: Wants {
            persistent_indices: 1 << 20,
            ephemeral_indices: 0,
            quota_pages: 0,
        },
    };
    let offer = Offer {
        versions: Versions::OWN,
        capabilities: Capabilities::ALL,
        max_pages: 256,
        max_in_flight: 64,
    };
    let agreed = negotiate(&hello, &offer).unwrap();
    let welcome = Welcome {
        version: agreed.version,
        capabilities: agreed.capabilities,
        store_id: *b"0123456789abcdef",
        incarnation: 0x1122_3344_5566_7788,
        max_pages: agreed.max_pages,
        max_in_flight: agreed.max_in_flight,
        advert_period_ms: agreed.advert_period_ms,
        advert: Advert {
            capacity_pages: 262_144,
            free_pages: 262_100,
            quota_pages: 65_536,
            used_pages: 44,
            seq: 0,
            load: 7,
            leaving: false,
        },
    };
    let page = [0x5a; PAGE_SIZE];
    let encoder = Encoder::new(1);
    let put = [PutEntry::new(0, 7, 42, checksum(&page))];
    example("hello", &|buf| Encoder::hello(buf, &hello));
    example("welcome", &|buf| Encoder::welcome(buf, &welcome));
    example("put", &|buf| encoder.put(buf, 1, &put, &[&page]));
    example("put done", &|buf| encoder.put_done(buf, 1, &[Status::Ok]));
    let get = [GetEntry::new(0, 7), GetEntry::new(0, 8)];
    example("get", &|buf| encoder.get(buf, 2, &get));
    example("get done", &|buf| {
        let mut writer = encoder.get_done(buf, 2, 2);
        writer.page(&page);
        writer.hit(42, checksum(&page));
        writer.miss(Status::Missing);
        writer.finish();
    });
    let flush = [FlushEntry::new(0, 7, 43)];
    example("flush", &|buf| encoder.flush(buf, 3, &flush));
    example("refused", &|buf| {
        Encoder::refused(buf, &Farewell::fenced(3, 8));
    });
    all
}

/// The bytes of a block of the document, as many as are printed there.
fn printed(name: &str) -> Vec<u8> {
    let mark = format!("<!-- example: {name} -->\n```text\n");
    let (_, rest) = DOCUMENT
        .split_once(&mark)
        .unwrap_or_else(|| panic!("no {name}"));
    let (block, _) = rest.split_once("```").expect("an end");
    let numbers = block.lines().flat_map(|line| {
        // The bytes stand between the offset and the words.
        let bytes = line.get(6..54.min(line.len())).unwrap_or_default();
        bytes.split_whitespace()
    });
    let byte = |number| u8::from_str_radix(number, 16).expect("a byte in hex");
    numbers.map(byte).collect()
}

const DOCUMENT: &str = include_str!("../../../../docs/remote-protocol.md");

#[test]
fn examples_of_the_specification_are_what_is_sent() {
    for (name, frame) in examples() {
        let (printed, pages) = (printed(name), frame.len() / PAGE_SIZE);
        let front = frame.len() - pages * PAGE_SIZE;
        assert_eq!(printed, frame[..front], "{name}");
        assert!(frame[front..].iter().all(|byte| *byte == 0x5a), "{name}");
    }
}

#[test]
fn tables_of_the_specification_have_all_codes() {
    let row = |code: &str, name: &str| {
        let begin = format!("\n| {code} | `{name}` |");
        assert!(DOCUMENT.contains(&begin), "no row {begin}");
    };
    for status in Status::ALL {
        row(&status.code().to_string(), status.name());
    }
    for code in 1..=10 {
        row(&code.to_string(), Reason::from_code(code).name());
    }
    for kind in Kind::ALL {
        row(&format!("{:#04x}", kind.code()), &format!("{kind:?}"));
    }
    let limits = [
        ("PAGES_MAX", PAGES_MAX as usize),
        ("LIST_MAX", LIST_MAX as usize),
        ("NAMESPACE_MAX", NAMESPACE_MAX),
        ("TEXT_MAX", TEXT_MAX),
        ("HANDSHAKE_MAX", HANDSHAKE_MAX),
        ("FRAME_MAX", FRAME_MAX),
        ("IN_FLIGHT_MAX", IN_FLIGHT_MAX as usize),
        ("ADVERT_PERIOD_MIN_MS", ADVERT_PERIOD_MIN_MS as usize),
        ("ADVERT_PERIOD_MAX_MS", ADVERT_PERIOD_MAX_MS as usize),
        ("ADVERTS_MISSED_MAX", ADVERTS_MISSED_MAX as usize),
        ("LOAD_MAX", LOAD_MAX as usize),
    ];
    for (name, value) in limits {
        let row = format!("\n| `{name}` | {value} |");
        assert!(DOCUMENT.contains(&row), "no row {row}");
    }
}
