// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From messages to bytes: each is appended to a buffer.
//!
//! Pages are copied into the buffer by [`Encoder::put`] and [`GetDoneWriter::page`]. Whoever would
//! rather hand them to the socket from where they are writes [`Encoder::put_front`] and sends them
//! behind it.

use bytes::BytesMut;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use crate::entries::{FlushEntry, GetEntry, GotEntry, ListedEntry, PutEntry};
use crate::handshake::{Advert, Farewell, Hello, Welcome};
use crate::header::{self, Kind};
use crate::limits::{HEADER_LEN, PAGE_SIZE, PAGES_MAX, PageBytes, VERSION_HANDSHAKE};
use crate::message::{RawFlushPool, RawFlushPoolDone, RawList, RawListed};
use crate::status::Status;

/// Writes the frames of a connection.
///
/// A caller keeps to the limits of the agreement; a frame that no reader may accept is a caller's
/// mistake, and all methods panic on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    version: u8,
}

impl Encoder {
    /// For the frames after the handshake, in the version that was agreed.
    #[must_use]
    pub const fn new(version: u8) -> Self {
        Self { version }
    }

    /// Appends a hello.
    pub fn hello(buf: &mut BytesMut, hello: &Hello) {
        hello.write(buf, VERSION_HANDSHAKE);
    }

    /// Appends a welcome.
    pub fn welcome(buf: &mut BytesMut, welcome: &Welcome) {
        welcome.write(buf, VERSION_HANDSHAKE);
    }

    /// Appends a refusal.
    pub fn refused(buf: &mut BytesMut, farewell: &Farewell) {
        farewell.write(buf, VERSION_HANDSHAKE, Kind::Refused);
    }

    /// Appends a goodbye.
    pub fn goodbye(self, buf: &mut BytesMut, farewell: &Farewell) {
        farewell.write(buf, self.version, Kind::Goodbye);
    }

    /// Appends an advert.
    pub fn advert(self, buf: &mut BytesMut, advert: &Advert) {
        advert.write(buf, self.version);
    }

    /// Appends a put with its pages: as many as entries.
    pub fn put(self, buf: &mut BytesMut, request: u64, entries: &[PutEntry], pages: &[&PageBytes]) {
        assert_eq!(entries.len(), pages.len(), "a put has a page an entry");
        buf.reserve(HEADER_LEN + size_of_val(entries) + pages.len() * PAGE_SIZE);
        self.put_front(buf, request, entries);
        for page in pages {
            buf.extend_from_slice(*page);
        }
    }

    /// Appends a put without its pages: they have to follow in the stream, as many as entries.
    pub fn put_front(self, buf: &mut BytesMut, request: u64, entries: &[PutEntry]) {
        self.list_of(buf, Kind::Put, request, entries, entries.len());
    }

    /// Appends a get.
    pub fn get(self, buf: &mut BytesMut, request: u64, entries: &[GetEntry]) {
        self.list_of(buf, Kind::Get, request, entries, 0);
    }

    /// Appends a flush.
    pub fn flush(self, buf: &mut BytesMut, request: u64, entries: &[FlushEntry]) {
        self.list_of(buf, Kind::Flush, request, entries, 0);
    }

    /// Appends the flush of a pool.
    pub fn flush_pool(self, buf: &mut BytesMut, request: u64, pool: u32, generation: u64) {
        let raw = RawFlushPool {
            pool: U32::new(pool),
            generation: U64::new(generation),
        };
        self.single(buf, Kind::FlushPool, request, raw.as_bytes());
    }

    /// Appends a list.
    pub fn list(self, buf: &mut BytesMut, request: u64, pool: u32, from: u32, max: u32) {
        let raw = RawList {
            pool: U32::new(pool),
            from: U32::new(from),
            max: U32::new(max),
        };
        self.single(buf, Kind::List, request, raw.as_bytes());
    }

    /// Appends a ping.
    pub fn ping(self, buf: &mut BytesMut, request: u64) {
        self.single(buf, Kind::Ping, request, &[]);
    }

    /// Appends the reply to a put: a status a page.
    pub fn put_done(self, buf: &mut BytesMut, request: u64, statuses: &[Status]) {
        self.list_of(buf, Kind::PutDone, request, statuses, 0);
    }

    /// Appends the reply to a flush: a status a page.
    pub fn flush_done(self, buf: &mut BytesMut, request: u64, statuses: &[Status]) {
        self.list_of(buf, Kind::FlushDone, request, statuses, 0);
    }

    /// Appends the reply to the flush of a pool.
    pub fn flush_pool_done(self, buf: &mut BytesMut, request: u64, status: Status, pages: u64) {
        let raw = RawFlushPoolDone {
            pages: U64::new(pages),
            status,
        };
        self.single(buf, Kind::FlushPoolDone, request, raw.as_bytes());
    }

    /// Appends the reply to a list.
    pub fn listed(
        self,
        buf: &mut BytesMut,
        request: u64,
        entries: &[ListedEntry],
        next: u32,
        end: bool,
    ) {
        let next = U32::new(next);
        let body = [RawListed { next, end }.as_bytes(), entries.as_bytes()].concat();
        let what = (self.version, Kind::Listed);
        header::write(buf, what, (entries.len(), 0), request, &body);
    }

    /// Appends the reply to a ping.
    pub fn pong(self, buf: &mut BytesMut, request: u64) {
        self.single(buf, Kind::Pong, request, &[]);
    }

    /// Begins the reply to a get of `count` pages: it is written into `buf` page by page.
    pub fn get_done(self, buf: &mut BytesMut, request: u64, count: usize) -> GetDoneWriter<'_> {
        assert!(
            (1..=PAGES_MAX as usize).contains(&count),
            "a reply to a get of {count} pages"
        );
        let (begin, front) = (buf.len(), HEADER_LEN + count * size_of::<GotEntry>());
        buf.reserve(front + count * PAGE_SIZE);
        buf.resize(begin + front, 0);
        GetDoneWriter {
            version: self.version,
            buf,
            begin,
            request,
            count,
            answered: 0,
            hits: 0,
        }
    }

    fn list_of<T: IntoBytes + Immutable>(
        self,
        buf: &mut BytesMut,
        kind: Kind,
        request: u64,
        entries: &[T],
        pages: usize,
    ) {
        assert!(
            (1..=PAGES_MAX as usize).contains(&entries.len()),
            "a {kind} of {} entries",
            entries.len()
        );
        let counts = (entries.len(), pages);
        header::write(
            buf,
            (self.version, kind),
            counts,
            request,
            entries.as_bytes(),
        );
    }

    fn single(self, buf: &mut BytesMut, kind: Kind, request: u64, body: &[u8]) {
        header::write(buf, (self.version, kind), (0, 0), request, body);
    }
}

/// The reply to a get, being written: for each page in its turn, [`page`](Self::page) and
/// [`hit`](Self::hit), or [`miss`](Self::miss); then [`finish`](Self::finish).
#[derive(Debug)]
#[must_use = "a reply that is not finished is not a frame"]
pub struct GetDoneWriter<'a> {
    version: u8,
    buf: &'a mut BytesMut,
    /// Where the frame begins in `buf`.
    begin: usize,
    request: u64,
    count: usize,
    answered: usize,
    hits: usize,
}

impl GetDoneWriter<'_> {
    fn pages_at(&self) -> usize {
        self.begin + HEADER_LEN + self.count * size_of::<GotEntry>()
    }

    /// Takes the bytes of the page whose turn it is. Of two in one turn the last counts.
    pub fn page(&mut self, page: &PageBytes) {
        self.buf.truncate(self.pages_at() + self.hits * PAGE_SIZE);
        self.buf.extend_from_slice(page);
    }

    /// The page whose bytes were taken is a hit.
    pub fn hit(&mut self, generation: u64, crc: u32) {
        self.hits += 1;
        assert_eq!(
            self.buf.len(),
            self.pages_at() + self.hits * PAGE_SIZE,
            "a hit without a page"
        );
        self.entry(&GotEntry::hit(generation, crc));
    }

    /// The page does not come, for this reason. Bytes that were taken for it are dropped.
    pub fn miss(&mut self, status: Status) {
        assert!(!status.is_ok(), "a page that does not come and is well");
        self.buf.truncate(self.pages_at() + self.hits * PAGE_SIZE);
        self.entry(&GotEntry::miss(status));
    }

    fn entry(&mut self, entry: &GotEntry) {
        let at = self.begin + HEADER_LEN + self.answered * size_of::<GotEntry>();
        assert!(self.answered < self.count, "more pages than were asked for");
        self.buf[at..at + size_of::<GotEntry>()].copy_from_slice(entry.as_bytes());
        self.answered += 1;
    }

    /// Pages that still have to be answered.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.count - self.answered
    }

    /// Ends the frame.
    pub fn finish(self) {
        assert_eq!(self.answered, self.count, "a page has no answer");
        let (head, pages) = (self.begin + HEADER_LEN, self.pages_at());
        let header = header::header(
            (self.version, Kind::GetDone),
            (self.count, self.hits),
            self.request,
            &self.buf[head..pages],
        );
        self.buf[self.begin..head].copy_from_slice(&header);
    }
}
