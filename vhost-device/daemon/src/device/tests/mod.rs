// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A driver of a few lines, and what the device does with what it writes.

mod balloon;
mod control;
mod malformed;
mod requests;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tmem_abi::{ControlRequest, RequestHeader, control as op, pool_kind, pool_layout};
use tmem_admin_api::GuestStats;
use tmem_pages::{Engine, EngineConfig, GuestConfig};
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::{Device, Memory, Ring, Station};
use crate::device::request::Malformed;
use crate::sandbox::Mode;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Descriptors of each ring.
pub(super) const QUEUE: u16 = 64;
/// Bytes of guest memory.
pub(super) const MEMORY: u64 = 4 << 20;
/// Page data begins here; below are rings and requests.
pub(super) const DATA: u64 = 2 << 20;
/// Guest memory of each ring.
const RING_BYTES: u64 = 0x2000;
/// Requests and responses begin here.
const HEADS: u64 = 0x10_0000;
pub(super) const POOL: u32 = 7;

/// Which ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Control,
    Event,
    Balloon,
    Report,
    Get,
    Put,
}

impl Queue {
    fn base(self) -> u64 {
        RING_BYTES * (self as u64 + 1)
    }
    fn avail(self) -> u64 {
        self.base() + 16 * u64::from(QUEUE)
    }
    fn used(self) -> u64 {
        self.base() + 0x1000
    }
}

/// One descriptor of a chain, in order; `next` is filled in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
}

pub(super) fn readable(addr: u64, len: u32) -> Piece {
    Piece {
        addr,
        len,
        flags: 0,
    }
}

pub(super) fn writable(addr: u64, len: u32) -> Piece {
    Piece {
        flags: WRITE,
        ..readable(addr, len)
    }
}

/// A device and the driver's view of it.
pub(super) struct Rig {
    pub(super) mem: GuestMemoryMmap,
    pub(super) rings: Vec<Ring>,
    pub(super) device: Device,
    pub(super) engine: Arc<Engine>,
    pub(super) station: Arc<Station>,
    seen: [u16; 6],
    next_descriptor: u16,
    next_head: u64,
}

impl Rig {
    /// A device that has not been greeted.
    pub(super) fn new() -> Self {
        let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = std::fs::File::from(file);
        file.set_len(MEMORY).unwrap();
        let bytes = usize::try_from(MEMORY).unwrap();
        let region = (GuestAddress(0), bytes, Some(FileOffset::new(file, 0)));
        let mem = GuestMemoryMmap::from_ranges_with_files(&[region]).unwrap();
        let engine = Engine::new(EngineConfig {
            frames: 1024,
            guests_max: 1,
            workers_max: 1,
        })
        .unwrap();
        let guest = engine
            .attach_guest(GuestConfig {
                name: "vm0".into(),
                grant_pages: 512,
            })
            .unwrap();
        let station = Arc::new(Station::new(guest, vec![engine.worker().unwrap()], 0));
        let memory: Memory = GuestMemoryAtomic::new(mem.clone());
        let device = Device::new(Arc::clone(&station), memory.clone(), Mode::None).unwrap();
        let queues = [
            Queue::Control,
            Queue::Event,
            Queue::Balloon,
            Queue::Report,
            Queue::Get,
            Queue::Put,
        ];
        let rings = queues.map(|queue| {
            let ring = Ring::new(memory.clone(), 1024).unwrap();
            ring.set_queue_size(QUEUE);
            ring.set_queue_info(queue.base(), queue.avail(), queue.used())
                .unwrap();
            ring.set_queue_event_idx(true);
            ring.set_queue_ready(true);
            ring.set_enabled(true);
            ring
        });
        Self {
            mem,
            rings: rings.to_vec(),
            device,
            engine,
            station,
            seen: [0; 6],
            next_descriptor: 0,
            next_head: HEADS,
        }
    }

    /// A device whose guest has said HELLO and has a dense and persistent pool of 300 pages.
    pub(super) fn ready() -> Self {
        let mut rig = Self::new();
        let hello = ControlRequest {
            op: op::HELLO,
            version: 1,
            epoch_low: 1,
            ..ControlRequest::default()
        };
        assert_eq!(rig.control(&hello).0, tmem_abi::status::OK);
        let create = ControlRequest {
            op: op::POOL_CREATE,
            pool: POOL,
            kind: pool_kind::PERSISTENT,
            layout: pool_layout::DENSE,
            object_pages: 300,
            ..ControlRequest::default()
        };
        assert_eq!(rig.control(&create).0, tmem_abi::status::OK);
        rig
    }

    pub(super) fn ring(&self, queue: Queue) -> &Ring {
        &self.rings[queue as usize]
    }

    /// Guest memory for a request or a response.
    pub(super) fn room(&mut self, bytes: &[u8]) -> u64 {
        let at = self.next_head;
        self.next_head += 0x1000;
        self.mem.write_slice(bytes, GuestAddress(at)).unwrap();
        at
    }

    pub(super) fn write_descriptor(&self, table: u64, index: u16, descriptor: Descriptor) {
        let at = GuestAddress(table + 16 * u64::from(index));
        self.mem.write_obj(descriptor, at).unwrap();
    }

    /// Links `pieces` into the queue's table. Returns the head.
    pub(super) fn link(&mut self, queue: Queue, pieces: &[Piece]) -> u16 {
        let head = self.next_descriptor;
        for (nth, piece) in pieces.iter().enumerate() {
            let last = nth + 1 == pieces.len();
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % QUEUE;
            let flags = piece.flags | if last { 0 } else { NEXT };
            let descriptor = Descriptor::new(piece.addr, piece.len, flags, self.next_descriptor);
            self.write_descriptor(queue.base(), index, descriptor);
        }
        head
    }

    /// Makes a head available.
    pub(super) fn offer(&self, queue: Queue, head: u16) {
        let index = self.available(queue);
        let at = queue.avail() + 4 + 2 * u64::from(index % QUEUE);
        self.mem.write_obj(head, GuestAddress(at)).unwrap();
        self.set_available(queue, index.wrapping_add(1));
    }

    fn available(&self, queue: Queue) -> u16 {
        self.mem.read_obj(GuestAddress(queue.avail() + 2)).unwrap()
    }

    pub(super) fn set_available(&self, queue: Queue, index: u16) {
        let at = GuestAddress(queue.avail() + 2);
        self.mem.store(index, at, Ordering::Release).unwrap();
    }

    /// Lets the device work on the queue until it has nothing more to do.
    pub(super) fn kick(&self, queue: Queue) {
        let (rings, thread) = match queue {
            Queue::Get | Queue::Put => (&self.rings[4..], 1),
            _ => (&self.rings[..4], 0),
        };
        self.device
            .handle_event(0, EventSet::IN, rings, thread)
            .unwrap();
    }

    /// What was used since the last call: head and length.
    pub(super) fn used(&mut self, queue: Queue) -> Vec<(u32, u32)> {
        let index: u16 = self.mem.read_obj(GuestAddress(queue.used() + 2)).unwrap();
        let mut used = Vec::new();
        while self.seen[queue as usize] != index {
            let slot = u64::from(self.seen[queue as usize] % QUEUE);
            let at = queue.used() + 4 + 8 * slot;
            let pair: [u32; 2] = self.mem.read_obj(GuestAddress(at)).unwrap();
            used.push((pair[0], pair[1]));
            self.seen[queue as usize] = self.seen[queue as usize].wrapping_add(1);
        }
        used
    }

    /// Sends one chain, which must be used. Returns the used length.
    pub(super) fn send(&mut self, queue: Queue, pieces: &[Piece]) -> u32 {
        let head = self.link(queue, pieces);
        self.offer(queue, head);
        self.kick(queue);
        let used = self.used(queue);
        assert_eq!(used.len(), 1, "the chain must be used once");
        assert_eq!(used[0].0, u32::from(head));
        used[0].1
    }

    pub(super) fn bytes(&self, at: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Sends a control request. Returns the status and the response.
    pub(super) fn control(&mut self, request: &ControlRequest) -> (u8, tmem_abi::ControlResponse) {
        let request = self.room(&request.to_bytes());
        let response = self.room(&[0xee; 48]);
        let used = self.send(
            Queue::Control,
            &[readable(request, 40), writable(response, 48)],
        );
        assert_eq!(used, 48);
        let bytes = self.bytes(response, 48).try_into().unwrap();
        let response = tmem_abi::ControlResponse::from_bytes(&bytes);
        (response.status, response)
    }

    pub(super) fn stats(&self) -> GuestStats {
        self.station.metrics.snapshot("vm0")
    }

    pub(super) fn malformed(&self, kind: Malformed) -> u64 {
        let stats = self.stats();
        stats.malformed.get(kind.as_str()).copied().unwrap_or(0)
    }
}

/// A request for `pages` pages from `index` of the test's pool.
pub(super) fn header(op: u8, index: u32, pages: u32, ticket: u64) -> RequestHeader {
    RequestHeader {
        op,
        pool: POOL,
        index,
        pages,
        ticket,
        ..RequestHeader::default()
    }
}
