// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Slots in a file without a name, on a file system: where a page that comes up keeps its slot.

use std::path::Path;

use tmem_pages::slots::{Durability, SlotFile};

pub(crate) fn on_file(slots: u32) -> SlotFile {
    let file = tempfile::tempfile().unwrap();
    let opened = SlotFile::open(file.into(), Path::new("slots"), slots, Durability::Process);
    opened.unwrap().0
}
