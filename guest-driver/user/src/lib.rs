// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Explicit paging to the host's memory, for programs in a guest with the virtio_tmem driver.
//!
//! A program that knows its own pages hands the cold ones to the host and gets them back, many in one
//! call:
//!
//! ```
//! use tmem_user::{Gets, Interface, Kind, PageBuffer, PoolOptions, Puts, fake::Fake};
//!
//! # fn main() -> Result<(), tmem_user::Error> {
//! // In a guest: Interface::open()?
//! let interface = Interface::with(Fake::new(1024));
//! let pool = interface.create(&PoolOptions::new(Kind::Persistent, 1000))?;
//!
//! let mut memory = PageBuffer::new(8)?;
//! memory[0].fill(1);
//! memory[1].fill(2);
//! let mut puts = Puts::new();
//! puts.add(70, &memory[..1]).add(500, &memory[1..2]);
//! assert_eq!(pool.put(&mut puts)?, 2);
//!
//! let mut gets = Gets::new();
//! let (first, rest) = memory.split_at_mut(4);
//! gets.add(500, &mut first[..1]).add(71, &mut rest[..1]);
//! assert_eq!(pool.get(&mut gets)?, 1);
//! assert!(gets.results()[0].is_ok() && gets.results()[1].is_miss());
//! drop(gets);
//! assert_eq!(memory[0][0], 2);
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! | --- | --- |
//! | [`abi`] | the ioctls, as the kernel module compiles them; in C: `tmem.h` |
//! | [`driver`] | the device behind an interface, or something that stands in for it |
//! | [`fake`] | one that stands in for it, for tests of programs |
//! | [`Interface`], [`Pool`] | an open file, a pool of it |
//! | [`Puts`], [`Gets`], [`Flushes`] | what one call moves |
//! | [`PageBuffer`] | memory on page boundaries |
//! | [`program`] | options, random numbers and results of the programs beside this library |
//!
//! What the calls promise stands in the book's chapter "Paging for programs".

pub mod abi;
mod batch;
pub mod driver;
mod error;
pub mod fake;
mod interface;
mod memory;
pub mod program;

pub use batch::{Flushes, Gets, PageResult, Puts};
pub use error::Error;
pub use interface::{Info, Interface, Kind, Pool, PoolOptions, Stat};
pub use memory::{Page, PageBuffer};
