// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Queues, configuration space, requests, statuses and events of virtio-tmem, version 1.
//!
//! All integers are little-endian. Offsets and sizes here and in `docs/device.md` are held
//! together by a test.
//!
//! A request is one descriptor chain: device-readable bytes first, then device-writable ones.
//!
//! ```text
//! request queue   readable: RequestHeader [u32 index; pages if LIST] [page data of a PUT]
//!                 writable: ResponseHeader [u8 result; pages of PUT, GET, listed FLUSH] [page data of a GET]
//! control queue   readable: ControlRequest      writable: ControlResponse
//! event queue                                   writable: Event
//! balloon queue   readable: BalloonRequest [BalloonRange; ranges] or BalloonRequest BalloonStats
//!                 writable: BalloonResponse [u8 result; ranges of INFLATE]
//! report queue    as the balloon queue, with REPORT alone
//! ```

/// Virtio device id: "memory balloon", reserved by the virtio specification without a chapter.
pub const VIRTIO_ID: u16 = 13;
/// First word of the configuration space: the bytes `TMEM`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"TMEM");
/// Version of this interface.
pub const VERSION: u16 = 1;

/// Bytes in a page; no other size exists in version 1.
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`], as it stands in [`Config::page_shift`].
pub const PAGE_SHIFT: u8 = 12;
/// The most pages in one PUT, GET or listed FLUSH.
pub const BATCH_PAGES_MAX: u32 = 256;
/// The most pools a guest may have at one time.
pub const POOLS_MAX: u32 = 64;
/// The most get/put queue pairs of one device.
pub const QUEUE_PAIRS_MAX: u16 = 32;
/// The largest virtqueue that a device offers or a driver uses, in descriptors.
pub const QUEUE_SIZE_MAX: u16 = 1024;
/// The most ranges in one request on the balloon and report queues.
pub const BALLOON_RANGES_MAX: u32 = 256;
/// Tickets are below this bound, so that they fit beside a tag in the host's index.
pub const TICKET_LIMIT: u64 = 1 << 52;

/// Queue 0: control requests.
pub const QUEUE_CONTROL: u16 = 0;
/// Queue 1: events from the device.
pub const QUEUE_EVENT: u16 = 1;
/// Queue 2: balloon; reserved unless the device has [`capability::BALLOON`].
pub const QUEUE_BALLOON: u16 = 2;
/// Queue 3: free page reports; reserved unless the device has [`capability::REPORTING`].
pub const QUEUE_REPORT: u16 = 3;
/// The first request queue; pairs follow each other, get queue first.
pub const QUEUE_REQUEST_FIRST: u16 = 4;

/// Index of the get queue of `pair`.
#[must_use]
pub const fn get_queue(pair: u16) -> u16 {
    QUEUE_REQUEST_FIRST + 2 * pair
}

/// Index of the put queue of `pair`; flushes travel here as well.
#[must_use]
pub const fn put_queue(pair: u16) -> u16 {
    QUEUE_REQUEST_FIRST + 2 * pair + 1
}

/// Number of virtqueues of a device with `pairs` request queue pairs.
#[must_use]
pub const fn queue_count(pairs: u16) -> u16 {
    QUEUE_REQUEST_FIRST + 2 * pairs
}

/// Bits of [`Config::capabilities`]. They replace device feature bits, which not every VMM passes on.
pub mod capability {
    /// Persistent pools: an acknowledged page stays until it is flushed.
    pub const PERSISTENT: u64 = 1 << 0;
    /// Ephemeral pools: a page may vanish at any time.
    pub const EPHEMERAL: u64 = 1 << 1;
    /// [`super::flag::EXCLUSIVE`] on GET.
    pub const EXCLUSIVE_GET: u64 = 1 << 2;
    /// [`super::flag::LIST`] on PUT, GET and FLUSH.
    pub const LIST: u64 = 1 << 3;
    /// Pools with sparse objects.
    pub const SPARSE: u64 = 1 << 4;
    /// The device sends [`super::Event`]s.
    pub const EVENTS: u64 = 1 << 5;
    /// The balloon queue is in use.
    pub const BALLOON: u64 = 1 << 6;
    /// The report queue is in use.
    pub const REPORTING: u64 = 1 << 7;
}

/// Values of [`RequestHeader::op`].
pub mod op {
    /// Store pages (put queue).
    pub const PUT: u8 = 1;
    /// Fetch pages (get queue).
    pub const GET: u8 = 2;
    /// Forget the pages `index .. index + pages`, or the listed ones (put queue).
    pub const FLUSH: u8 = 3;
    /// Forget all pages of an object (put queue).
    pub const FLUSH_OBJECT: u8 = 4;
    /// Forget all pages of a pool (put queue).
    pub const FLUSH_POOL: u8 = 5;
}

/// Bits of [`RequestHeader::flags`].
pub mod flag {
    /// The request names `pages` indices one by one, after the header.
    pub const LIST: u8 = 1 << 0;
    /// GET: the page is forgotten once it is delivered.
    pub const EXCLUSIVE: u8 = 1 << 1;
    /// Every bit that has a meaning.
    pub const ALL: u8 = LIST | EXCLUSIVE;
}

/// Values of [`ResponseHeader::status`], [`ControlResponse::status`] and [`BalloonResponse::status`]:
/// the fate of a whole request.
pub mod status {
    /// The request was carried out; results a page, where the request has them, say how it went.
    pub const OK: u8 = 0;
    /// The request is malformed; nothing was touched.
    pub const INVALID: u8 = 1;
    /// The operation, or a flag or layout of it, is not one of this device's or this queue's.
    pub const UNSUPPORTED: u8 = 2;
    /// No pool has this id.
    pub const NO_POOL: u8 = 3;
    /// POOL_CREATE: a pool with this id and other properties exists.
    pub const EXISTS: u8 = 4;
    /// POOL_CREATE: no more pools, or no memory for another.
    pub const NO_SPACE: u8 = 5;
    /// A HELLO with the driver's boot epoch must come first.
    pub const NOT_READY: u8 = 6;
    /// The device is going away and did not carry the request out.
    pub const SHUTTING_DOWN: u8 = 7;
    /// The device failed for a reason of its own; nothing was touched.
    pub const DEVICE_ERROR: u8 = 8;
}

/// Results of a single page.
pub mod result {
    /// Stored, delivered or (listed FLUSH) gone.
    pub const OK: u8 = 0;
    /// GET: no such page. The buffer is untouched.
    pub const MISS: u8 = 1;
    /// PUT: beyond the grant, or no room for an ephemeral page. An older version is gone.
    pub const REFUSED_FULL: u8 = 2;
    /// PUT: the guest is frozen. An older version is gone.
    pub const REFUSED_FROZEN: u8 = 3;
    /// PUT or FLUSH: the page has a newer ticket; it is left as it is.
    pub const STALE: u8 = 4;
    /// GET: the stored page failed its checksum; its bytes are not delivered.
    pub const CORRUPT: u8 = 5;
    /// The index is outside the object.
    pub const BAD_INDEX: u8 = 6;
    /// The page buffer is not in guest memory, or the tier that holds the page failed.
    pub const IO_ERROR: u8 = 7;
}

/// Values of [`ControlRequest::op`].
pub mod control {
    /// Begin: names the driver's version and boot epoch.
    pub const HELLO: u32 = 1;
    /// Make a pool.
    pub const POOL_CREATE: u32 = 2;
    /// Flush and remove a pool.
    pub const POOL_DESTROY: u32 = 3;
    /// Read a pool's counts.
    pub const POOL_STAT: u32 = 4;
}

/// Values of [`ControlRequest::kind`].
pub mod pool_kind {
    /// An acknowledged page is gettable until it is flushed.
    pub const PERSISTENT: u16 = 1;
    /// A page may vanish at any time; what a get returns is never stale.
    pub const EPHEMERAL: u16 = 2;
}

/// Values of [`ControlRequest::layout`].
pub mod pool_layout {
    /// Object 0 alone, indices below `object_pages`: a swap area.
    pub const DENSE: u16 = 1;
    /// Any object, any index: files.
    pub const SPARSE: u16 = 2;
}

/// Values of [`BalloonRequest::op`].
pub mod balloon {
    /// The driver let these pages go; the device frees them (balloon queue).
    pub const INFLATE: u32 = 1;
    /// The driver has taken these pages back; for the account alone (balloon queue).
    pub const DEFLATE: u32 = 2;
    /// The driver tells how its guest is (balloon queue).
    pub const STATS: u32 = 3;
    /// Free pages whose contents are worthless; the device may drop them before it answers (report queue).
    pub const REPORT: u32 = 4;
}

/// Results of a single range of INFLATE or REPORT, and [`BalloonStats::reason`].
pub mod balloon_result {
    /// Freed.
    pub const OK: u8 = 0;
    /// Not all of the range is in the guest's memory.
    pub const OUTSIDE: u8 = 1;
    /// The memory has no shared file of which a part could be freed.
    pub const NO_FILE: u8 = 2;
    /// The memory is made of huge pages that the range does not cover.
    pub const HUGE: u8 = 3;
    /// The host's file system would not free it.
    pub const FAILED: u8 = 4;
    /// INFLATE: more than the target asks for.
    pub const OVER: u8 = 5;
}

/// Values of [`Event::kind`].
pub mod event {
    /// `value` is the guest's grant, in pages.
    pub const GRANT: u32 = 1;
    /// `value` is one of [`super::health`].
    pub const HEALTH: u32 = 2;
    /// `value` is the balloon's target, in pages.
    pub const BALLOON: u32 = 3;
    /// `value` is the interval at which the device wants [`super::BalloonStats`], in milliseconds; 0: not at all.
    pub const STATS: u32 = 4;
}

/// Values of a [`event::HEALTH`] event.
pub mod health {
    /// All is well.
    pub const OK: u64 = 0;
    /// The device works, with less redundancy or speed than it is set up for.
    pub const DEGRADED: u64 = 1;
    /// The device is about to end; persistent pages stay where they are.
    pub const ENDING: u64 = 2;
}

/// Reads `N` bytes at `OFFSET`; both are constants, so that a wrong one does not compile.
const fn bytes<const OFFSET: usize, const N: usize, const SIZE: usize>(
    from: &[u8; SIZE],
) -> [u8; N] {
    const { assert!(OFFSET + N <= SIZE, "field outside its structure") };
    let mut out = [0; N];
    let mut at = 0;
    while at < N {
        out[at] = from[OFFSET + at];
        at += 1;
    }
    out
}

/// Writes `N` bytes at `OFFSET`.
const fn put<const OFFSET: usize, const N: usize, const SIZE: usize>(
    into: &mut [u8; SIZE],
    value: [u8; N],
) {
    const { assert!(OFFSET + N <= SIZE, "field outside its structure") };
    let mut at = 0;
    while at < N {
        into[OFFSET + at] = value[at];
        at += 1;
    }
}

/// Declares a wire structure: its fields with their byte offsets, and both conversions.
macro_rules! wire_struct {
    (
        $(#[$meta:meta])*
        $name:ident, $size:literal, { $( $(#[$field_meta:meta])* $offset:literal $field:ident: $type:ty, )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl $name {
            /// Bytes of this structure on the wire.
            pub const SIZE: usize = $size;
            /// Name, offset and size of each field, in bytes.
            pub const LAYOUT: &'static [(&'static str, usize, usize)] =
                &[ $( (stringify!($field), $offset, core::mem::size_of::<$type>()), )* ];

            /// Reads the structure; any bytes are a structure, their meaning is checked by its user.
            #[must_use]
            pub const fn from_bytes(from: &[u8; $size]) -> Self {
                Self { $( $field: <$type>::from_le_bytes(bytes::<$offset, { core::mem::size_of::<$type>() }, $size>(from)), )* }
            }

            /// Writes the structure; bytes that belong to no field are zero.
            #[must_use]
            pub const fn to_bytes(&self) -> [u8; $size] {
                let mut into = [0; $size];
                $( put::<$offset, { core::mem::size_of::<$type>() }, $size>(&mut into, self.$field.to_le_bytes()); )*
                into
            }
        }
    };
}

wire_struct! {
    /// The configuration space. Read-only, and constant while the device is in use.
    Config, 64, {
        /// [`MAGIC`].
        0 magic: u32,
        /// [`VERSION`].
        4 version: u16,
        /// Get/put queue pairs, 1 to [`QUEUE_PAIRS_MAX`].
        6 queue_pairs: u16,
        /// Bits of [`capability`].
        8 capabilities: u64,
        /// The most pages a request may carry, 1 to [`BATCH_PAGES_MAX`].
        16 batch_pages: u32,
        /// The most pools, 1 to [`POOLS_MAX`].
        20 pools: u32,
        /// Pages of persistent pools that the host has promised to hold for this guest.
        24 grant_pages: u64,
        /// log2 of the page size in bytes.
        32 page_shift: u8,
        /// For how long the device polls before it sleeps, in microseconds; 0: it does not.
        36 poll_us: u32,
    }
}

wire_struct! {
    /// Head of every request on a request queue.
    RequestHeader, 48, {
        /// One of [`op`].
        0 op: u8,
        /// Bits of [`flag`].
        1 flags: u8,
        /// The pool, as the guest named it.
        4 pool: u32,
        /// Low 64 bits of the object id.
        8 object_low: u64,
        /// Middle 64 bits of the object id.
        16 object_middle: u64,
        /// High 64 bits of the object id.
        24 object_high: u64,
        /// First page of the run; 0 with [`flag::LIST`], FLUSH_OBJECT and FLUSH_POOL.
        32 index: u32,
        /// Pages of the run or the list; 0 with FLUSH_OBJECT and FLUSH_POOL.
        36 pages: u32,
        /// PUT and FLUSH*: age of the request, 1 to [`TICKET_LIMIT`] - 1; 0 in a GET.
        40 ticket: u64,
    }
}

wire_struct! {
    /// First of the writable bytes of a request; results of single pages follow.
    ResponseHeader, 8, {
        /// One of [`status`].
        0 status: u8,
        /// Pages stored, delivered or flushed.
        4 done: u32,
    }
}

wire_struct! {
    /// A request on the control queue.
    ControlRequest, 40, {
        /// One of [`control`].
        0 op: u32,
        /// HELLO: [`VERSION`] of the driver.
        4 version: u32,
        /// HELLO: low half of the boot epoch, a number that the guest draws anew at each boot.
        8 epoch_low: u64,
        /// HELLO: high half of the boot epoch.
        16 epoch_high: u64,
        /// POOL_*: the pool's id, chosen by the guest.
        24 pool: u32,
        /// POOL_CREATE: one of [`pool_kind`].
        28 kind: u16,
        /// POOL_CREATE: one of [`pool_layout`].
        30 layout: u16,
        /// POOL_CREATE of a dense pool: indices are below this, 1 to 2^32 - 1. Otherwise 0.
        32 object_pages: u32,
    }
}

wire_struct! {
    /// The answer on the control queue.
    ControlResponse, 48, {
        /// One of [`status`].
        0 status: u8,
        /// HELLO: bits of [`hello`].
        4 flags: u32,
        /// HELLO: the guest's grant in pages. POOL_STAT: pages in the pool.
        8 pages: u64,
        /// HELLO: the highest ticket seen in this epoch. POOL_STAT: same-filled pages among them.
        16 value: u64,
        /// HELLO: pages that the guest's pools hold. POOL_STAT: pages put so far.
        24 held: u64,
        /// POOL_STAT: pages delivered so far.
        32 gets: u64,
        /// POOL_STAT: pages flushed so far.
        40 flushes: u64,
    }
}

/// Bits of [`ControlResponse::flags`] in the answer to HELLO.
pub mod hello {
    /// The epoch is the one that the device knows: the guest's pools are as they were.
    pub const SAME_EPOCH: u32 = 1 << 0;
}

wire_struct! {
    /// What the device tells without being asked.
    Event, 16, {
        /// One of [`event`](mod@event).
        0 kind: u32,
        /// Counts the events of a connection from 1; a gap means that the driver's buffers ran out.
        4 sequence: u32,
        /// Depends on `kind`.
        8 value: u64,
    }
}

wire_struct! {
    /// Head of every request on the balloon and report queues.
    BalloonRequest, 16, {
        /// One of [`balloon`].
        0 op: u32,
        /// [`BalloonRange`]s that follow, 1 to [`BALLOON_RANGES_MAX`]; 0 with STATS.
        4 ranges: u32,
    }
}

wire_struct! {
    /// Pages that follow each other in the guest's memory.
    BalloonRange, 16, {
        /// Guest-physical address of the first page, divided by [`PAGE_SIZE`].
        0 first: u64,
        /// Number of pages, at least 1.
        8 pages: u32,
    }
}

wire_struct! {
    /// First of the writable bytes; a result for each range follows, for INFLATE and REPORT.
    BalloonResponse, 16, {
        /// One of [`status`].
        0 status: u8,
        /// Pages freed, for INFLATE and REPORT; pages taken off the account, for DEFLATE.
        8 pages: u64,
    }
}

/// A figure of [`BalloonStats`] that the driver does not know.
pub const STATS_UNKNOWN: u64 = u64::MAX;

wire_struct! {
    /// How a guest is. Pages are of [`PAGE_SIZE`]; counts run from the guest's boot unless another
    /// start is named.
    BalloonStats, 128, {
        /// Counts the reports of a driver, from 1.
        0 sequence: u64,
        /// Pages in the balloon.
        8 held: u64,
        /// Pages that the driver works towards: what the device asked for, and the guest's floor allows.
        16 target: u64,
        /// The guest's memory in pages, without what the balloon holds.
        24 total: u64,
        /// Pages that could be had without swapping.
        32 available: u64,
        /// Pages that nothing uses.
        40 free: u64,
        /// Pages read back from swap.
        48 swap_ins: u64,
        /// Pages written to swap.
        56 swap_outs: u64,
        /// Pages that came back soon after they had been evicted, of files and of programs.
        64 refaults: u64,
        /// Page faults that had to wait for a device.
        72 major_faults: u64,
        /// Time in which some task waited for memory, in microseconds; [`STATS_UNKNOWN`] without an agent.
        80 psi_some_us: u64,
        /// Time in which all tasks waited for memory, in microseconds; [`STATS_UNKNOWN`] without an agent.
        88 psi_full_us: u64,
        /// Pages that the guest's own side leaves to the guest, whatever the target.
        96 floor: u64,
        /// Pages that the balloon gave back because the guest was out of memory, since the driver's start.
        104 oom_deflated: u64,
        /// Why pages were refused last, one of [`balloon_result`]; 0: none were since the last target.
        112 reason: u64,
        /// Pages of swap in use.
        120 swapped: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each structure's fields lie inside it, in order, aligned, and apart.
    fn well_formed(layout: &[(&str, usize, usize)], size: usize) {
        let mut end = 0;
        for (name, offset, bytes) in layout {
            assert!(*offset >= end, "{name} overlaps the field before it");
            assert_eq!(offset % bytes, 0, "{name} is not aligned");
            end = offset + bytes;
        }
        assert!(end <= size);
        assert_eq!(size % 8, 0);
    }

    #[test]
    fn layouts_are_well_formed() {
        well_formed(Config::LAYOUT, Config::SIZE);
        well_formed(RequestHeader::LAYOUT, RequestHeader::SIZE);
        well_formed(ResponseHeader::LAYOUT, ResponseHeader::SIZE);
        well_formed(ControlRequest::LAYOUT, ControlRequest::SIZE);
        well_formed(ControlResponse::LAYOUT, ControlResponse::SIZE);
        well_formed(Event::LAYOUT, Event::SIZE);
        well_formed(BalloonRequest::LAYOUT, BalloonRequest::SIZE);
        well_formed(BalloonRange::LAYOUT, BalloonRange::SIZE);
        well_formed(BalloonResponse::LAYOUT, BalloonResponse::SIZE);
        well_formed(BalloonStats::LAYOUT, BalloonStats::SIZE);
    }

    #[test]
    fn bytes_survive_the_round_trip() {
        let header = RequestHeader {
            op: op::PUT,
            flags: flag::LIST,
            pool: 0x0102_0304,
            object_low: 5,
            object_middle: u64::MAX,
            object_high: 1 << 63,
            index: u32::MAX,
            pages: 256,
            ticket: TICKET_LIMIT - 1,
        };
        assert_eq!(RequestHeader::from_bytes(&header.to_bytes()), header);
        assert_eq!(header.to_bytes()[4..8], [4, 3, 2, 1]);
    }

    #[test]
    fn golden_bytes_of_the_balloon() {
        let request = BalloonRequest {
            op: balloon::INFLATE,
            ranges: 256,
        };
        assert_eq!(request.to_bytes()[..8], [1, 0, 0, 0, 0, 1, 0, 0]);
        let range = BalloonRange {
            first: 0x0010_0200,
            pages: 512,
        };
        assert_eq!(
            range.to_bytes(),
            [0, 2, 16, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
        );
        let response = BalloonResponse {
            status: status::OK,
            pages: 512,
        };
        assert_eq!(
            response.to_bytes(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn statistics_fill_their_structure() {
        let bytes: [u8; BalloonStats::SIZE] = core::array::from_fn(|at| at.to_le_bytes()[0]);
        assert_eq!(BalloonStats::from_bytes(&bytes).to_bytes(), bytes);
    }

    #[test]
    fn fixed_queues_are_apart_from_request_queues() {
        let fixed = [QUEUE_CONTROL, QUEUE_EVENT, QUEUE_BALLOON, QUEUE_REPORT];
        for (number, queue) in fixed.into_iter().enumerate() {
            assert_eq!(usize::from(queue), number);
            assert!(queue < QUEUE_REQUEST_FIRST);
        }
        assert_eq!(get_queue(0), QUEUE_REQUEST_FIRST);
        assert_eq!(queue_count(1), put_queue(0) + 1);
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let response = ResponseHeader {
            status: status::NO_POOL,
            done: 0x0a0b,
        };
        assert_eq!(response.to_bytes(), [3, 0, 0, 0, 0x0b, 0x0a, 0, 0]);
        let config = Config {
            magic: MAGIC,
            version: VERSION,
            queue_pairs: 2,
            ..Config::default()
        };
        assert_eq!(config.to_bytes()[..8], *b"TMEM\x01\x00\x02\x00");
    }
}
