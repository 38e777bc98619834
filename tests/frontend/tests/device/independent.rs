// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A front-end that shares no code with ours: the `virtio-driver` crate's transport and virtqueue.
//!
//! Its block driver cannot speak our requests, but its vhost-user transport and its `Virtqueue` are
//! public and generic over configuration space and request, which is all that a driver needs. All
//! its queues have one size and one request type, so control requests use the same slot as puts.

use std::thread;
use std::time::Instant;

use tmem_abi::{
    Config, ControlRequest, ControlResponse, MAGIC, PAGE_SIZE, QUEUE_CONTROL, RequestHeader,
    ResponseHeader, VERSION, control, get_queue, op, put_queue, result, status,
};
use tmem_frontend::{WAIT, page_content};
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{ByteValued, VhostUser, VirtioFeatureFlags, VirtioTransport};

/// Control, event, balloon, report, and one pair.
const QUEUES: usize = tmem_abi::queue_count(1) as usize;
const QUEUE_SIZE: u16 = 16;
const POOL: u32 = 3;

/// The configuration space as that crate wants it.
#[derive(Clone, Copy)]
struct ConfigBytes([u8; Config::SIZE]);

// SAFETY: an array of bytes has no padding, and any bytes are a value of it.
unsafe impl ByteValued for ConfigBytes {}

/// What each chain's slot holds, in memory that the device sees.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    readable: [u8; RequestHeader::SIZE],
    writable: [u8; ControlResponse::SIZE],
    page: [u8; PAGE_SIZE],
}

type Transport = VhostUser<ConfigBytes, Slot>;

struct OtherDriver {
    // Before the transport, which owns the memory that the queues lie in.
    queues: Vec<Virtqueue<'static, Slot>>,
    transport: Transport,
}

/// How a chain is laid out.
#[derive(Clone, Copy)]
enum Page {
    None,
    Read,
    Written,
}

impl OtherDriver {
    fn connect(socket: &str, features: VirtioFeatureFlags) -> Self {
        let mut transport = Transport::new(socket, features.bits()).unwrap();
        assert!(transport.max_queues().unwrap() >= QUEUES);
        let accepted = VirtioFeatureFlags::from_bits_truncate(transport.get_features());
        assert!(
            accepted.contains(features),
            "the device lacks some of {features:?}"
        );
        let size = usize::from(QUEUE_SIZE);
        let layout = VirtqueueLayout::new::<Slot>(QUEUES, size, accepted).unwrap();
        let translators: Vec<_> = (0..QUEUES).map(|_| transport.iova_translator()).collect();
        let memory = transport.alloc_queue_mem(&layout).unwrap().as_mut_ptr();
        let mut queues = Vec::new();
        for (number, translator) in translators.into_iter().enumerate() {
            // SAFETY: the transport allocated QUEUES areas of `end_offset` bytes, one after another,
            // and keeps them until it is dropped, which happens after the queues.
            let start = unsafe { memory.add(number * layout.end_offset) };
            // SAFETY: as above; each area is made into a slice once, so the slices are apart.
            let area = unsafe { std::slice::from_raw_parts_mut(start, layout.end_offset) };
            queues.push(Virtqueue::new(translator, area, QUEUE_SIZE, accepted).unwrap());
        }
        transport.setup_queues(&queues).unwrap();
        Self { queues, transport }
    }

    /// Sends one chain and waits for its slot.
    fn call(
        &mut self,
        queue: u16,
        request: &[u8],
        answer: usize,
        kind: Page,
        content: Option<&[u8; PAGE_SIZE]>,
    ) -> Slot {
        let queue = usize::from(queue);
        let id = self.queues[queue]
            .add_request(|slot, add| {
                slot.readable[..request.len()].copy_from_slice(request);
                slot.writable.fill(0xee);
                if let Some(content) = content {
                    slot.page = *content;
                }
                let part = |bytes: &mut [u8]| virtio_driver::iovec {
                    iov_base: bytes.as_mut_ptr().cast(),
                    iov_len: bytes.len(),
                };
                add(part(&mut slot.readable[..request.len()]), false)?;
                if matches!(kind, Page::Read) {
                    add(part(&mut slot.page), false)?;
                }
                add(part(&mut slot.writable[..answer]), true)?;
                if matches!(kind, Page::Written) {
                    add(part(&mut slot.page), true)?;
                }
                Ok(())
            })
            .unwrap();
        if self.queues[queue].avail_notif_needed() {
            self.transport
                .get_submission_notifier(queue)
                .notify()
                .unwrap();
        }
        let start = Instant::now();
        loop {
            if let Some(done) = self.queues[queue].completions().next() {
                assert_eq!(done.id, id);
                return done.req;
            }
            assert!(start.elapsed() < WAIT, "queue {queue} hangs");
            thread::yield_now();
        }
    }

    fn control(&mut self, request: &ControlRequest) -> ControlResponse {
        let size = ControlResponse::SIZE;
        let slot = self.call(QUEUE_CONTROL, &request.to_bytes(), size, Page::None, None);
        ControlResponse::from_bytes(&slot.writable)
    }
}

fn response(slot: &Slot) -> ResponseHeader {
    ResponseHeader::from_bytes(slot.writable.first_chunk().unwrap())
}

#[test]
fn another_front_end_negotiates_and_moves_pages() {
    let host = crate::host::Host::one();
    let socket = host.socket(0);
    for features in [
        VirtioFeatureFlags::VERSION_1,
        VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX,
    ] {
        let mut driver = OtherDriver::connect(socket.to_str().unwrap(), features);
        let config = Config::from_bytes(&driver.transport.get_config().unwrap().0);
        assert_eq!((config.magic, config.version), (MAGIC, VERSION));

        let hello = ControlRequest {
            op: control::HELLO,
            version: VERSION.into(),
            epoch_low: features.bits(),
            ..Default::default()
        };
        assert_eq!(driver.control(&hello).status, status::OK);
        let create = ControlRequest {
            op: control::POOL_CREATE,
            pool: POOL,
            kind: tmem_abi::pool_kind::PERSISTENT,
            layout: tmem_abi::pool_layout::DENSE,
            object_pages: 1000,
            ..Default::default()
        };
        assert_eq!(driver.control(&create).status, status::OK);

        let answer = ResponseHeader::SIZE + 1;
        for index in 0..100 {
            let content = page_content(u64::from(index));
            let put = RequestHeader {
                op: op::PUT,
                pool: POOL,
                index,
                pages: 1,
                ticket: u64::from(index) + 1,
                ..Default::default()
            };
            let slot = driver.call(
                put_queue(0),
                &put.to_bytes(),
                answer,
                Page::Read,
                Some(&content),
            );
            assert_eq!(
                (response(&slot).status, response(&slot).done),
                (status::OK, 1)
            );
        }
        for index in (0..100).rev() {
            let get = RequestHeader {
                op: op::GET,
                pool: POOL,
                index,
                pages: 1,
                ..Default::default()
            };
            let scrub = [0xa5; PAGE_SIZE];
            let slot = driver.call(
                get_queue(0),
                &get.to_bytes(),
                answer,
                Page::Written,
                Some(&scrub),
            );
            assert_eq!(slot.writable[ResponseHeader::SIZE], result::OK);
            assert!(slot.page == page_content(u64::from(index)), "page {index}");
        }
    }
}
