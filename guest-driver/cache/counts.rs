// SPDX-License-Identifier: GPL-2.0
//! What a target counts, for `dmsetup status` and debugfs. Everything is in blocks unless it says
//! otherwise.

use crate::{files, stats::Counter};
use kernel::{
    debugfs::{Dir, File},
    ffi::c_char,
    fmt,
    prelude::*,
    str::CString,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// Targets made so far; they are numbered in debugfs.
static TARGETS: Atomic<u32> = Atomic::new(0);

/// Declares [`Counts`] and the listing of its counters, in the order in which they are shown.
macro_rules! counts {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What a target has done since it was made or reset.
        pub(super) struct Counts {
            $( $(#[$doc])* pub(super) $name: Counter, )*
            /// Which device is mapped, and which is the disk below: major and minor numbers.
            pub(super) devices: [u32; 4],
        }

        impl Counts {
            pub(super) fn new(devices: [u32; 4]) -> Self {
                Self { $( $name: Counter::new(), )* devices }
            }

            /// All counters; their names end with a zero, as C wants them.
            fn all(&self) -> impl Iterator<Item = (&'static str, &Counter)> {
                [$( (concat!(stringify!($name), "\0"), &self.$name), )*].into_iter()
            }
        }
    };
}

counts! {
    /// Read from the host.
    hits,
    /// Asked of the host, which did not have them.
    misses,
    /// Read from the disk without a message, because the filter has no bit for them.
    spared,
    /// Asked of the host, and read from the disk for another reason than a miss of their own: the get
    /// failed, or a neighbour in it was missing.
    failed,
    /// Among these: pages that failed the host's checksum.
    corrupt,
    /// Read from the disk because the host has not answered anything for a while.
    bypassed,
    /// Reads (not blocks) that were not of whole blocks, and went to the disk as if there were no cache.
    unaligned,
    /// GET requests.
    gets,
    /// Copied to the host, and readable from there since.
    puts,
    /// Refused by the host.
    refused,
    /// Copied although a write came between: not readable.
    raced,
    /// Read from the disk without a copy, because all copies were under way or the ring was full.
    skipped,
    /// Taken from the filter by writes and discards.
    invalidated,
    /// Forgotten by the host on request.
    flushed,
    /// Not asked to be forgotten, for lack of room; the next copy or the host's own ageing replaces them.
    unflushed,
    /// Writes that failed.
    failed_writes,
    /// Times that the target took a fresh pool.
    renewals,
}

impl Counts {
    /// Name and value of counter `nth`; the name is static and ends with a zero.
    pub(super) fn nth(&self, nth: usize) -> Option<(*const c_char, u64)> {
        let (name, counter) = self.all().nth(nth)?;
        Some((name.as_ptr().cast(), counter.get()))
    }

    pub(super) fn reset(&self) {
        for (_, counter) in self.all() {
            counter.set(0);
        }
    }

    /// The file in debugfs.
    pub(super) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mapped_major, mapped_minor, major, minor] = self.devices;
        write!(f, "mapped {}:{}\n", mapped_major, mapped_minor)?;
        write!(f, "disk {}:{}\n", major, minor)?;
        for (name, counter) in self.all() {
            write!(f, "{} {}\n", name.trim_end_matches('\0'), counter.get())?;
        }
        Ok(())
    }
}

/// A target's folder in debugfs, `virtio_tmem/cache<n>`; it goes when this is dropped.
pub(super) struct Files {
    _counts: Pin<KBox<File<Arc<Counts>>>>,
    _dir: Dir,
}

impl Files {
    pub(super) fn new(counts: &Arc<Counts>) -> Result<Self> {
        let number = TARGETS.fetch_add(1u32, Relaxed);
        let name = CString::try_from_fmt(fmt!("cache{}", number))?;
        let dir = files::subdir(&name)?;
        let show: &'static _ = &|counts: &Arc<Counts>, f: &mut fmt::Formatter<'_>| counts.show(f);
        Ok(Self {
            _counts: KBox::pin_init(
                dir.read_callback_file(c"stats", counts.clone(), show),
                GFP_KERNEL,
            )?,
            _dir: dir,
        })
    }
}
