// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rings, descriptor tables and requests filled with bytes, driven through the device in process.
//!
//! ```text
//! cargo +nightly fuzz run ring -- -max_total_time=30
//! ```
//! The input is a program of rounds. A round writes a request that follows the rules, damages it with
//! patches anywhere in guest memory, makes it available on one of the six queues, and kicks. So the
//! fuzzer starts deep inside the request path and walks outward to nonsense. After the last round
//! the engine checks itself.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tmem_abi::{BalloonRange, BalloonRequest, balloon};
use tmem_abi::{ControlRequest, RequestHeader, control, op, pool_kind, pool_layout};
use tmem_pages::{Engine, EngineConfig, Epoch, GuestConfig, Layout};
use tmem_pages::{PoolId, PoolKind, PoolSpec};
use vhost_device_tmem::device::ring::{Memory, Ring};
use vhost_device_tmem::device::{Device, Station};
use vhost_device_tmem::sandbox::Mode;
use vhost_user_backend::{VhostUserBackend, VringT};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

const QUEUE: u16 = 16;
const MEMORY: u64 = 0x4_0000;
const HEADS: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
const PUT: usize = 5;
const GET: usize = 4;

struct World {
    engine: Arc<Engine>,
    station: Arc<Station>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let engine = Engine::new(EngineConfig {
        frames: 64,
        guests_max: 1,
        workers_max: 1,
    })
    .expect("an engine");
    let guest = engine
        .attach_guest(GuestConfig {
            name: "fuzz".into(),
            grant_pages: 32,
        })
        .expect("a guest");
    let worker = engine.worker().expect("a worker");
    let station = Arc::new(Station::new(guest, vec![worker], 0));
    World { engine, station }
});

/// The input, read from its front; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = N.min(self.0.len());
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }
    fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }
    fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }
}

struct Rig {
    mem: GuestMemoryMmap,
    rings: Vec<Ring>,
    device: Device,
    avail: [u16; 6],
}

const fn base(queue: usize) -> u64 {
    0x1000 * (queue as u64 + 1)
}
const fn avail(queue: usize) -> u64 {
    base(queue) + 0x200
}
const fn used(queue: usize) -> u64 {
    base(queue) + 0x400
}

impl Rig {
    fn new(input: &mut Input<'_>) -> Self {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
        let mem = mem.expect("guest memory");
        let memory: Memory = GuestMemoryAtomic::new(mem.clone());
        let station = Arc::clone(&WORLD.station);
        let device = Device::new(station, memory.clone(), Mode::None).expect("a device");
        let flags = input.byte();
        let rings = (0..6).map(|queue| {
            let ring = Ring::new(memory.clone(), 1024).expect("a ring");
            ring.set_queue_size(QUEUE);
            // Sometimes a ring at the very end of memory, or beyond.
            let used = if flags & 2 != 0 && queue == PUT {
                MEMORY - 8
            } else {
                used(queue)
            };
            let _ = ring.set_queue_info(base(queue), avail(queue), used);
            ring.set_queue_event_idx(flags & 1 != 0);
            ring.set_queue_ready(true);
            ring.set_enabled(true);
            ring
        });
        Self {
            mem,
            rings: rings.collect(),
            device,
            avail: [0; 6],
        }
    }

    fn write(&self, bytes: &[u8], at: u64) {
        let _ = self.mem.write_slice(bytes, GuestAddress(at));
    }

    /// A chain of (address, length, flags) at the beginning of the queue's table.
    fn link(&self, queue: usize, pieces: &[(u64, u32, u16)]) {
        for (nth, (addr, len, flags)) in (0..).zip(pieces) {
            let next = u16::from(usize::from(nth) + 1 < pieces.len());
            let descriptor = Descriptor::new(*addr, *len, flags | next, nth + 1);
            let at = GuestAddress(base(queue) + 16 * u64::from(nth));
            let _ = self.mem.write_obj(descriptor, at);
        }
    }

    fn round(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        let pages = u32::from(kind >> 4) + 1;
        let ticket = u64::from(input.byte()) + 1;
        let index = u32::from(input.byte());
        let header = |op, flags, pages, ticket| RequestHeader {
            op,
            flags,
            pool: u32::from(index & 1),
            index: if flags & 1 != 0 { 0 } else { index },
            pages,
            ticket,
            ..RequestHeader::default()
        };
        let list: Vec<u8> = (0..pages).flat_map(|n| (index ^ n).to_le_bytes()).collect();
        let listed = u16::from(kind & 8 != 0);
        let list_bytes = if listed != 0 { list.len() as u32 } else { 0 };
        let (head, response) = (HEADS, HEADS + 0x400);
        let results = 8 + pages;
        let request = |header: RequestHeader| {
            self.write(&header.to_bytes(), head);
            self.write(&list, head + 48);
            48 + list_bytes
        };
        let flag = listed as u8;
        let queue = match kind & 7 {
            0 | 1 => {
                let bytes = request(header(op::PUT, flag, pages, ticket));
                let data = (DATA, pages * 4096, 0);
                self.link(PUT, &[(head, bytes, 0), data, (response, results, 2)]);
                PUT
            }
            2 | 3 => {
                let exclusive = (ticket as u8 & 1) << 1;
                let bytes = request(header(op::GET, flag | exclusive, pages, 0));
                let data = (DATA, pages * 4096, 2);
                self.link(GET, &[(head, bytes, 0), (response, results, 2), data]);
                GET
            }
            4 => {
                let bytes = request(header(op::FLUSH, flag, pages, ticket));
                self.link(PUT, &[(head, bytes, 0), (response, results, 2)]);
                PUT
            }
            5 => {
                let op = op::FLUSH_OBJECT + flag;
                self.write(
                    &RequestHeader {
                        index: 0,
                        ..header(op, 0, 0, ticket)
                    }
                    .to_bytes(),
                    head,
                );
                self.link(PUT, &[(head, 48, 0), (response, 8, 2)]);
                PUT
            }
            6 => {
                let op = ticket as u32 % 5;
                let dense = index & 1 == 0;
                let create = op == control::POOL_CREATE;
                let control = ControlRequest {
                    op,
                    version: u32::from(op == control::HELLO),
                    pool: if op == control::HELLO { 0 } else { index & 3 },
                    kind: if create {
                        pool_kind::PERSISTENT + (index as u16 >> 7)
                    } else {
                        0
                    },
                    layout: if create {
                        pool_layout::SPARSE - u16::from(dense)
                    } else {
                        0
                    },
                    object_pages: if create && dense { index } else { 0 },
                    ..ControlRequest::default()
                };
                self.write(&control.to_bytes(), head);
                self.link(0, &[(head, 40, 0), (response, 48, 2)]);
                0
            }
            _ if ticket & 3 == 0 => {
                self.link(1, &[(response, 16, 2)]);
                1
            }
            _ => {
                let queue = 2 + usize::from(listed);
                let op = match ticket & 3 {
                    1 if queue == 3 => balloon::REPORT,
                    1 => balloon::INFLATE,
                    2 => balloon::DEFLATE,
                    _ => balloon::STATS,
                };
                let ranges = if op == balloon::STATS { 0 } else { pages };
                let bytes = if op == balloon::STATS { 128 } else { 16 * ranges };
                self.write(&BalloonRequest { op, ranges }.to_bytes(), head);
                for nth in 0..ranges {
                    let range = BalloonRange {
                        first: u64::from(index) + u64::from(nth) * ticket,
                        pages: 1 + (nth & 3),
                    };
                    self.write(&range.to_bytes(), head + 16 + 16 * u64::from(nth));
                }
                self.link(queue, &[(head, 16 + bytes, 0), (response, 16 + pages, 2)]);
                queue
            }
        };
        for _ in 0..input.byte() % 8 {
            self.patch(queue, input);
        }
        let slot = u64::from(self.avail[queue] % QUEUE);
        self.avail[queue] = self.avail[queue].wrapping_add(1);
        // A head other than the first now and then, and an index that jumps.
        let jump = input.byte();
        let head = if jump & 0xe0 == 0x20 {
            u16::from(jump)
        } else {
            0
        };
        if jump & 0xe0 == 0x40 {
            self.avail[queue] = self.avail[queue].wrapping_add(u16::from(jump & 0x1f));
        }
        self.write(&head.to_le_bytes(), avail(queue) + 4 + 2 * slot);
        self.write(&self.avail[queue].to_le_bytes(), avail(queue) + 2);
        let (rings, thread) = if queue < 4 {
            (&self.rings[..4], 0)
        } else {
            (&self.rings[4..], 1)
        };
        let kicked = self.device.handle_event(0, EventSet::IN, rings, thread);
        assert!(kicked.is_ok(), "an error would end the thread");
    }

    fn patch(&self, queue: usize, input: &mut Input<'_>) {
        let place = input.byte();
        let offset = u64::from(input.word());
        let at = match place & 3 {
            0 => base(queue) + offset % 0x100,
            1 => HEADS + offset % 0x80,
            2 => avail(queue) + offset % 0x40,
            _ => offset * 4 % MEMORY,
        };
        if place & 4 == 0 {
            self.write(&input.bytes::<1>(), at);
        } else {
            self.write(&input.bytes::<8>(), at);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let guest = &WORLD.station.guest;
    // What the last input left is gone.
    guest.begin_epoch(Epoch([0xaa; 16]));
    guest.begin_epoch(Epoch([0; 16]));
    let pools = [
        (PoolKind::Persistent, Layout::Dense { pages: 200 }),
        (PoolKind::Ephemeral, Layout::Sparse),
    ];
    for (id, (kind, layout)) in (0..).zip(pools) {
        guest
            .create_pool(PoolId(id), PoolSpec { kind, layout })
            .expect("a pool");
    }
    let mut rig = Rig::new(&mut input);
    for _ in 0..64 {
        rig.round(&mut input);
        if input.0.is_empty() {
            break;
        }
    }
    for ring in &rig.rings {
        ring.set_queue_ready(false);
        assert_eq!(
            ring.drain(std::time::Duration::ZERO),
            (0, 0),
            "a request was left in flight"
        );
    }
    drop(rig);
    WORLD.engine.self_check();
});
