// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PUT and GET: runs and lists of every length, however their bytes are cut and placed.

use super::{Check, Kind};
use crate::bench::{Ask, Bench, Handle, Split, UNTOUCHED, dense};
use crate::content::Content;
use crate::memory::Region;
use crate::ring::{Chain, Descriptor};
use crate::why::{Context, Result, ensure, same};
use crate::wire::{
    RequestHeader, ResponseHeader, flag, get_queue, op, pool_kind, put_queue, result, status,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "runs",
        kind: Kind::Styles,
        run: runs,
    },
    Check {
        name: "lists",
        kind: Kind::Styles,
        run: lists,
    },
    Check {
        name: "list-with-an-index-twice",
        kind: Kind::Once,
        run: list_with_an_index_twice,
    },
    Check {
        name: "overwrite",
        kind: Kind::Styles,
        run: overwrite,
    },
    Check {
        name: "miss-leaves-the-buffer",
        kind: Kind::Styles,
        run: miss_leaves_the_buffer,
    },
    Check {
        name: "exclusive-get",
        kind: Kind::Styles,
        run: exclusive_get,
    },
    Check {
        name: "same-filled-pages",
        kind: Kind::Styles,
        run: same_filled_pages,
    },
    Check {
        name: "unaligned-pages",
        kind: Kind::Styles,
        run: unaligned_pages,
    },
    Check {
        name: "bytes-split-anyhow",
        kind: Kind::Styles,
        run: bytes_split_anyhow,
    },
];

/// Pages of a run, with what they are near: one, a chunk's border, the largest request.
const LENGTHS: [u32; 8] = [1, 2, 3, 31, 33, 128, 255, 256];

fn runs(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(1024)?);
    let most = bench.config.batch_pages;
    for (nth, pages) in (0..).zip(LENGTHS.into_iter().filter(|pages| *pages <= most)) {
        let index = 3 * nth;
        let split = split_for(bench, nth, pages);
        transfer(bench, at, index, &[], pages, split)
            .during(format_args!("run of {pages} pages, {split:?}"))?;
    }
    Ok(())
}

fn lists(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(1024)?);
    let most = bench.config.batch_pages;
    let mut list = [0; 256];
    for (nth, pages) in (0..).zip(LENGTHS.into_iter().filter(|pages| *pages <= most)) {
        // Scattered, without repetition: 1024 is a power of two and 397 odd.
        for (n, index) in (0..).zip(list.iter_mut()) {
            *index = (n * 397 + nth) % 1024;
        }
        let split = split_for(bench, nth, pages);
        transfer(bench, at, 0, &list[..pages as usize], pages, split)
            .during(format_args!("list of {pages} pages, {split:?}"))?;
    }
    Ok(())
}

/// A way to cut pages that fits the ring.
fn split_for(bench: &Bench, nth: u32, pages: u32) -> Split {
    let fits = bench.style.indirect || pages < 250;
    match nth % 3 {
        0 => Split::Whole,
        1 if fits => Split::Pages,
        _ => Split::Growing,
    }
}

/// Puts pages and gets them back.
fn transfer(
    bench: &mut Bench,
    at: Handle,
    index: u32,
    list: &[u32],
    pages: u32,
    split: Split,
) -> Result {
    let stamp = bench.next_stamps(u64::from(pages));
    bench.fill_put_stage(pages, stamp);
    let flags = if list.is_empty() { 0 } else { flag::LIST };
    let header = |op, ticket| RequestHeader {
        flags,
        ticket,
        ..at.header(op, index, pages)
    };
    let ticket = bench.next_ticket();
    let put = Ask {
        header: header(op::PUT, ticket),
        list,
        data: Some(bench.areas.put.pages(0, pages as usize)),
        split,
    };
    let answer = bench.ask(&put).during(format_args!("PUT"))?;
    answer.complete(pages).during(format_args!("PUT"))?;
    let get = Ask {
        header: header(op::GET, 0),
        list,
        data: Some(bench.areas.get.pages(0, pages as usize)),
        split,
    };
    let answer = bench.ask(&get).during(format_args!("GET"))?;
    answer.complete(pages).during(format_args!("GET"))?;
    bench.check_get_stage(pages, stamp)
}

fn list_with_an_index_twice(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(16)?);
    let stamp = bench.next_stamps(4);
    bench.fill_put_stage(4, stamp);
    let ticket = bench.next_ticket();
    let header = RequestHeader {
        flags: flag::LIST,
        ticket,
        ..at.header(op::PUT, 0, 4)
    };
    let put = Ask {
        header,
        list: &[5, 6, 5, 5],
        data: Some(bench.areas.put.pages(0, 4)),
        split: Split::Pages,
    };
    bench.ask(&put)?.complete(4)?;
    // In the list's order: the last one stays.
    bench.expect(at, 5, 1, stamp + 3)?;
    bench.expect(at, 6, 1, stamp + 1)?;
    let get = Ask {
        header: RequestHeader {
            flags: flag::LIST | flag::EXCLUSIVE,
            ..at.header(op::GET, 0, 2)
        },
        list: &[6, 6],
        data: Some(bench.areas.get.pages(0, 2)),
        split: Split::Pages,
    };
    let answer = bench.ask(&get)?;
    same!(answer.results(), [result::OK, result::MISS], "results");
    Ok(())
}

fn overwrite(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(256)?);
    let first = bench.store(at, 0, 100)?;
    let second = bench.store(at, 50, 100)?;
    bench.expect(at, 0, 50, first)?;
    bench.expect(at, 50, 100, second)?;
    // A get takes nothing away.
    bench.expect(at, 50, 100, second)?;
    same!(bench.stat(at.pool)?.pages, 150, "pages held");
    Ok(())
}

fn miss_leaves_the_buffer(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 8, 1)?;
    bench.areas.get.pages(0, 4).fill(UNTOUCHED);
    let answer = bench.get(at, 7, 4)?;
    same!(
        answer.results(),
        [result::MISS, result::OK, result::MISS, result::MISS],
        "results"
    );
    let page = |nth| bench.areas.get.page(nth);
    for nth in [0, 2, 3] {
        ensure!(page(nth).is_filled(UNTOUCHED), "buffer {nth} was written");
    }
    ensure!(bench.holds(page(1), Content::Stamp(stamp)), "page 8");
    Ok(())
}

fn exclusive_get(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.store(at, 0, 32)?;
    let get = Ask {
        header: RequestHeader {
            flags: flag::EXCLUSIVE,
            ..at.header(op::GET, 10, 32)
        },
        list: &[],
        data: Some(bench.areas.get.pages(0, 32)),
        split: Split::Growing,
    };
    let answer = bench.ask(&get)?;
    same!(answer.status, status::OK, "status");
    same!(answer.done, 22, "pages done");
    bench.check_get_stage(22, stamp + 10)?;
    bench.expect(at, 0, 10, stamp)?;
    bench.expect_gone(at, 10, 54)?;
    same!(bench.stat(at.pool)?.pages, 10, "pages held");
    // A page that is gone may come again.
    let stamp = bench.store(at, 10, 1)?;
    bench.expect(at, 10, 1, stamp)
}

fn same_filled_pages(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let values = [0, u64::MAX, 0x0101_0101_0101_0101, 0x0123_4567_89ab_cdef, 1];
    for (nth, value) in values.into_iter().enumerate() {
        bench.areas.put.page(nth).fill(value);
    }
    let ticket = bench.next_ticket();
    let put = Ask {
        header: RequestHeader {
            ticket,
            ..at.header(op::PUT, 0, 5)
        },
        list: &[],
        data: Some(bench.areas.put.pages(0, 5)),
        split: Split::Whole,
    };
    bench.ask(&put)?.complete(5)?;
    // One word aside, a page is not the same throughout.
    let near = bench.areas.put.page(0);
    for (nth, offset) in [(0, 0), (1, 2048), (2, 4088)] {
        near.fill(7);
        near.write::<u64>(offset, 8);
        let ticket = bench.next_ticket();
        let put = Ask {
            header: RequestHeader {
                ticket,
                ..at.header(op::PUT, 10 + nth, 1)
            },
            list: &[],
            data: Some(near),
            split: Split::Whole,
        };
        bench.ask(&put)?.complete(1)?;
        bench.get(at, 10 + nth, 1)?.complete(1)?;
        ensure!(
            bench.areas.get.page(0).equals(near),
            "a page that differs in the word at {offset}"
        );
    }
    bench.get(at, 0, 5)?.complete(5)?;
    for (nth, value) in values.into_iter().enumerate() {
        ensure!(
            bench.areas.get.page(nth).is_filled(value),
            "page filled with {value:#x}"
        );
    }
    let stat = bench.stat(at.pool)?;
    same!(stat.pages, 8, "pages held");
    // Which of them it keeps without a frame is the device's affair.
    ensure!(stat.value <= 5, "{} same-filled pages of 5", stat.value);
    // From same-filled to not, and back.
    let stamp = bench.store(at, 1, 2)?;
    bench.expect(at, 1, 2, stamp)?;
    let ticket = bench.next_ticket();
    bench.areas.put.page(0).fill(0);
    let put = Ask {
        header: RequestHeader {
            ticket,
            ..at.header(op::PUT, 2, 1)
        },
        list: &[],
        data: Some(bench.areas.put.page(0)),
        split: Split::Whole,
    };
    bench.ask(&put)?.complete(1)?;
    bench.get(at, 2, 1)?.complete(1)?;
    ensure!(bench.areas.get.page(0).is_filled(0), "the page made zeroes");
    Ok(())
}

/// No alignment of a page's address is asked for.
fn unaligned_pages(bench: &mut Bench) -> Result {
    let at = Handle::dense(bench.swap_area(64)?);
    let stamp = bench.next_stamps(3);
    bench.fill_put_stage(3, stamp);
    for offset in [1, 2, 8, 511, 4095] {
        let shifted = bench.areas.get.part(4096 + offset, 3 * 4096);
        shifted.copy_from(bench.areas.put.pages(0, 3));
        let ticket = bench.next_ticket();
        let put = Ask {
            header: RequestHeader {
                ticket,
                ..at.header(op::PUT, 0, 3)
            },
            list: &[],
            data: Some(shifted),
            split: Split::Pages,
        };
        bench.ask(&put)?.complete(3)?;
        shifted.fill(UNTOUCHED);
        let guards = [
            bench.areas.get.part(4096 + offset - 1, 1),
            bench.areas.get.part(4096 * 4 + offset, 1),
        ];
        for guard in guards {
            guard.write(0, 0x5a_u8);
        }
        let get = Ask {
            header: at.header(op::GET, 0, 3),
            data: Some(shifted),
            ..put
        };
        bench.ask(&get)?.complete(3)?;
        ensure!(
            shifted.equals(bench.areas.put.pages(0, 3)),
            "pages at offset {offset}"
        );
        for guard in guards {
            same!(guard.read::<u8>(0), 0x5a, "byte beside pages at {offset}");
        }
    }
    Ok(())
}

/// Nothing says how header, list and answer are cut into descriptors.
fn bytes_split_anyhow(bench: &mut Bench) -> Result {
    let id = bench.next_pool();
    let at = Handle::dense(bench.create(&dense(id, pool_kind::PERSISTENT, 64))?);
    let list = [9_u32, 7, 8];
    for step in [1, 5, 16, 47, 100] {
        let stamp = bench.next_stamps(3);
        bench.fill_put_stage(3, stamp);
        let ticket = bench.next_ticket();
        for (op, ticket) in [(op::PUT, ticket), (op::GET, 0)] {
            let header = RequestHeader {
                flags: flag::LIST,
                ticket,
                ..at.header(op, 0, 3)
            };
            let question = bench.question(0);
            question.put(0, &header.to_bytes());
            for (nth, index) in list.into_iter().enumerate() {
                question.write(RequestHeader::SIZE + nth * 4, index);
            }
            let question = question.part(0, RequestHeader::SIZE + 12);
            let reply = bench.reply(0).part(0, ResponseHeader::SIZE + 3);
            reply.fill(UNTOUCHED);
            let (put, get) = (bench.areas.put, bench.areas.get);
            let (queue, written) = if op == op::PUT {
                (put_queue(0), 0)
            } else {
                (get_queue(0), 3 * 4096)
            };
            let used = bench.exchange(queue, |chain| {
                push_split(chain, question, step, Descriptor::readable);
                if op == op::PUT {
                    push_split(chain, put.pages(0, 3), 4096, Descriptor::readable);
                }
                push_split(chain, reply, step, Descriptor::writable);
                if op == op::GET {
                    push_split(chain, get.pages(0, 3), 8192, Descriptor::writable);
                }
            })?;
            same!(
                used as usize,
                reply.bytes() + written,
                "used bytes, cut by {step}"
            );
            same!(reply.read::<u8>(0), status::OK, "status, cut by {step}");
            same!(reply.read::<u32>(4), 3, "pages done, cut by {step}");
        }
        bench
            .check_get_stage(3, stamp)
            .during(format_args!("cut by {step}"))?;
    }
    Ok(())
}

/// Adds a region in pieces of at most `step` bytes.
fn push_split(chain: &mut Chain, region: Region, step: usize, make: fn(Region) -> Descriptor) {
    let mut at = 0;
    while at < region.bytes() {
        let piece = step.min(region.bytes() - at);
        chain.push(make(region.part(at, piece)));
        at += piece;
    }
}
