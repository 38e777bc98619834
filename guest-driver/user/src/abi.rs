// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface of `/dev/tmem`: ioctls, their arguments and their results, version 1.
//!
//! The guest's driver and the programs that use it compile this one file; `tmem.h` says the same in C
//! and is held to it by a test. All fields are of the machine's byte order, every structure has the
//! same layout for 32-bit and 64-bit programs, and all reserved fields must be zero.
//!
//! An open file is an *interface*. It has *pools*, named by handles that no other file knows. One
//! call, [`TRANSFER`], works on up to [`ENTRIES_MAX`] *entries*; an entry is a run of pages of the
//! pool, and for a put or a get the memory of the same length. All that a call can refuse as a
//! whole it refuses before anything has been touched.

/// Version of this interface.
pub const VERSION: u32 = 1;
/// Bytes of a page of a pool.
pub const PAGE_SIZE: usize = 4096;
/// The most entries of one [`Transfer`].
pub const ENTRIES_MAX: u32 = 512;
/// The most pages of memory in one [`Transfer`], summed over its entries.
pub const CALL_PAGES_MAX: u32 = 4096;
/// The most pools of one interface.
pub const POOLS_MAX: u32 = 8;
/// The most indices of a pool; the driver keeps two bits for each.
pub const OBJECT_PAGES_MAX: u32 = 1 << 26;
/// As a device number: the one with the lowest number.
pub const ANY_DEVICE: u32 = u32::MAX;

/// First byte of every ioctl number of this interface.
pub const MAGIC: u32 = 0xb9;
const WRITE: u32 = 1;
const READ: u32 = 2;

// An ioctl number has 14 bits for the size, which is asserted.
#[allow(clippy::cast_possible_truncation)]
const fn number(direction: u32, nth: u32, bytes: usize) -> u32 {
    assert!(bytes < 1 << 14);
    direction << 30 | (bytes as u32) << 16 | MAGIC << 8 | nth
}

/// What there is: [`Info`].
pub const INFO: u32 = number(READ | WRITE, 0, size_of::<Info>());
/// Makes a pool: [`Create`].
pub const CREATE: u32 = number(READ | WRITE, 1, size_of::<Create>());
/// Ends a pool and all its pages: [`Destroy`].
pub const DESTROY: u32 = number(WRITE, 2, size_of::<Destroy>());
/// Puts, gets or flushes: [`Transfer`]. Returns the number of pages that went well.
pub const TRANSFER: u32 = number(WRITE, 3, size_of::<Transfer>());
/// Counts of a pool: [`Stat`].
pub const STAT: u32 = number(READ | WRITE, 4, size_of::<Stat>());

/// Values of [`Create::kind`].
pub mod kind {
    /// A page stays until it is flushed; its place on the host is reserved when the pool is made.
    pub const PERSISTENT: u16 = 1;
    /// A page may vanish at any time; what a get returns is never stale.
    pub const EPHEMERAL: u16 = 2;
}

/// Values of [`Transfer::op`].
pub mod op {
    /// Stores pages.
    pub const PUT: u8 = 1;
    /// Fetches pages.
    pub const GET: u8 = 2;
    /// Forgets pages.
    pub const FLUSH: u8 = 3;
}

/// Bits of [`Transfer::flags`].
pub mod flag {
    /// GET: a page is forgotten once it is delivered.
    pub const EXCLUSIVE: u8 = 1 << 0;
}

/// Bits of [`Info::features`].
pub mod feature {
    /// Persistent pools can be made.
    pub const PERSISTENT: u32 = 1 << 0;
    /// Ephemeral pools can be made.
    pub const EPHEMERAL: u32 = 1 << 1;
    /// [`super::flag::EXCLUSIVE`] is understood.
    pub const EXCLUSIVE: u32 = 1 << 2;
}

/// Result bytes: one for each page of a PUT or GET, one for each entry of a FLUSH.
pub mod result {
    /// Stored, delivered, or gone.
    pub const OK: u8 = 0;
    /// GET: there is no such page; the memory is as it was.
    pub const MISS: u8 = 1;
    /// PUT: the host has no room for it. The page is not there any more, nor is an older one.
    pub const REFUSED_FULL: u8 = 2;
    /// PUT: the host's administrator has frozen the guest. As for `REFUSED_FULL`.
    pub const REFUSED_FROZEN: u8 = 3;
    /// GET: the stored page failed its checksum; nothing was delivered.
    pub const CORRUPT: u8 = 5;
    /// The host failed. A page put is as it was before.
    pub const IO_ERROR: u8 = 7;
    /// The device went away before the answer came; nothing is known of the page.
    pub const LOST: u8 = 0xff;
}

/// Declares a structure of the interface, together with what a test needs to compare it with C.
macro_rules! abi_struct {
    ($(#[$meta:meta])* $name:ident, $tag:literal, { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $name {
            /// The structure's name in C.
            pub const C_NAME: &'static str = $tag;
            /// Name, offset and size of each field, in bytes.
            pub const LAYOUT: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field), size_of::<$type>()),)*];
        }

        // Without padding, every byte of the structure is initialised, and any bytes are one.
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*);
    };
}

abi_struct! {
    /// Argument of [`INFO`]. The caller sets `device`, the rest is the answer.
    Info, "tmem_info", {
        /// Number of the device, as in `/dev/vtmem0`, or [`ANY_DEVICE`]; comes back as a number.
        device: u32,
        /// [`VERSION`] of the driver.
        version: u32,
        /// A bit for each device that there is.
        devices: u64,
        /// Bits of [`feature`].
        features: u32,
        /// [`ENTRIES_MAX`] of the driver.
        entries_max: u32,
        /// [`CALL_PAGES_MAX`] of the driver.
        call_pages_max: u32,
        /// The most pages that travel in one request of the device.
        request_pages: u32,
        /// Pairs of queues: so many calls travel without meeting.
        queue_pairs: u32,
        /// [`POOLS_MAX`] of the driver.
        pools_max: u32,
        /// Pages that the persistent pools of all programs may reserve on this device.
        persistent_pages: u64,
        /// Pages that they have reserved.
        persistent_reserved: u64,
        /// Pages that the ephemeral pools of all programs may reserve.
        ephemeral_pages: u64,
        /// Pages that they have reserved.
        ephemeral_reserved: u64,
    }
}

abi_struct! {
    /// Argument of [`CREATE`]. The answer is `pool`.
    Create, "tmem_create", {
        /// Number of the device, or [`ANY_DEVICE`].
        device: u32,
        /// One of [`kind`].
        kind: u16,
        /// Zero.
        reserved: u16,
        /// Indices of pages are below this; 1 to [`OBJECT_PAGES_MAX`].
        object_pages: u32,
        /// The most pages that the pool may hold, and so the pages that it reserves; 0: `object_pages`.
        limit: u32,
        /// Handle of the new pool.
        pool: u32,
        /// Zero.
        reserved_end: u32,
    }
}

abi_struct! {
    /// Argument of [`DESTROY`].
    Destroy, "tmem_destroy", {
        /// Handle of the pool.
        pool: u32,
        /// Zero.
        reserved: u32,
    }
}

abi_struct! {
    /// One run of pages of a [`Transfer`].
    Entry, "tmem_entry", {
        /// First page in the pool.
        index: u32,
        /// Length; at least 1.
        pages: u32,
        /// PUT, GET: where the memory begins, on the boundary of a page. FLUSH: zero.
        address: u64,
    }
}

abi_struct! {
    /// Argument of [`TRANSFER`].
    Transfer, "tmem_transfer", {
        /// Handle of the pool.
        pool: u32,
        /// One of [`op`].
        op: u8,
        /// Bits of [`flag`].
        flags: u8,
        /// Zero.
        reserved: u16,
        /// Number of entries; 1 to [`ENTRIES_MAX`].
        entries: u32,
        /// Zero.
        reserved_end: u32,
        /// Address of the array of [`Entry`].
        entry_array: u64,
        /// Address of the array of bytes of [`result`], or zero. Its length: the sum of all `pages`
        /// for PUT and GET, the number of entries for FLUSH.
        result_array: u64,
    }
}

abi_struct! {
    /// Argument of [`STAT`]. The caller sets `pool`, the rest is the answer.
    Stat, "tmem_stat", {
        /// Handle of the pool.
        pool: u32,
        /// One of [`kind`].
        kind: u16,
        /// Zero.
        reserved: u16,
        /// As given to [`CREATE`].
        object_pages: u32,
        /// Pages that the pool may hold.
        limit: u32,
        /// Pages that it holds; of an ephemeral pool: at most.
        held: u64,
        /// Pages put so far.
        puts: u64,
        /// Pages got so far.
        gets: u64,
        /// Gets that found no page.
        misses: u64,
        /// Pages flushed so far.
        flushes: u64,
        /// Puts that the host refused.
        refused: u64,
        /// Pages that failed otherwise, damaged ones included.
        errors: u64,
    }
}
