// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A program that holds pages until it is told to end, or is killed.

use crate::told;
use std::path::Path;
use std::time::Duration;
use tmem_user::program::{Options, fill, result_line};
use tmem_user::{Gets, Interface, Kind, PageBuffer, PoolOptions, Puts};

/// Puts pages, waits for a file, and gets them back.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> Result<bool, String> {
    let options = Options::parse(arguments, &["pages", "until"], &[])?;
    let pages = u32::try_from(options.number("pages", 1000)?).map_err(|_| "too many pages")?;
    let until = options.text("until").ok_or("name a file by --until")?;
    let interface = Interface::open().map_err(|error| told(&error))?;
    let pool = interface
        .create(&PoolOptions::new(Kind::Persistent, pages))
        .map_err(|error| told(&error))?;
    let mut memory = PageBuffer::new(pages as usize).map_err(|error| told(&error))?;
    for (page, index) in memory.iter_mut().zip(0..) {
        fill(&mut page[..], index, 1);
    }
    let mut puts = Puts::new();
    for (page, index) in memory.chunks(64).zip((0..).step_by(64)) {
        puts.add(index, page);
    }
    let put = pool.put(&mut puts).map_err(|error| told(&error))?;
    drop(puts);
    println!("TMEM-HOLDING {put}");
    while !Path::new(until).exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    let copy: Vec<_> = memory.to_vec();
    memory.iter_mut().for_each(|page| page.fill(0));
    let mut gets = Gets::new();
    for (pages, index) in memory.chunks_mut(64).zip((0..).step_by(64)) {
        gets.add(index, pages);
    }
    let got = pool.get(&mut gets).map_err(|error| told(&error))?;
    drop(gets);
    let different = memory
        .iter()
        .zip(&copy)
        .filter(|(one, other)| one != other)
        .count() as u64;
    println!(
        "{}",
        result_line(&[
            ("put", put.into()),
            ("got", got.into()),
            ("mismatches", different),
        ])
    );
    Ok(different == 0 && got == pages)
}
