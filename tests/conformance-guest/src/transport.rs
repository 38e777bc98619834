// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A modern virtio device on PCI: its registers, and the steps of its set-up one by one, so that
//! a check may stop after any of them.

use crate::memory::Region;
use crate::pci::{Function, Structure};
use crate::time::Deadline;
use crate::why::{Result, fail};
use crate::wire::Config;

/// Feature bits.
pub(crate) mod feature {
    pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
    pub(crate) const EVENT_IDX: u64 = 1 << 29;
    pub(crate) const VERSION_1: u64 = 1 << 32;
    pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;
    pub(crate) const RING_PACKED: u64 = 1 << 34;
    pub(crate) const NOTIFICATION_DATA: u64 = 1 << 38;
}

/// Bits of the device status.
pub(crate) mod device_status {
    pub(crate) const ACKNOWLEDGE: u8 = 1;
    pub(crate) const DRIVER: u8 = 2;
    pub(crate) const DRIVER_OK: u8 = 4;
    pub(crate) const FEATURES_OK: u8 = 8;
    pub(crate) const NEEDS_RESET: u8 = 64;
}

/// Offsets in the common configuration.
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(super) const DEVICE_FEATURE: usize = 4;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(super) const DRIVER_FEATURE: usize = 12;
    pub(super) const QUEUES: usize = 18;
    pub(super) const DEVICE_STATUS: usize = 20;
    pub(super) const QUEUE_SELECT: usize = 22;
    pub(super) const QUEUE_SIZE: usize = 24;
    pub(super) const QUEUE_ENABLE: usize = 28;
    pub(super) const QUEUE_NOTIFY_OFFSET: usize = 30;
    pub(super) const QUEUE_DESCRIPTORS: usize = 32;
    pub(super) const QUEUE_DRIVER: usize = 40;
    pub(super) const QUEUE_DEVICE: usize = 48;
}

/// Where the three parts of a queue lie, in guest physical memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuePlace {
    /// Descriptor table.
    pub(crate) descriptors: u64,
    /// Available ring.
    pub(crate) available: u64,
    /// Used ring.
    pub(crate) used: u64,
}

/// The device's registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transport {
    common: Region,
    notify: Region,
    multiplier: u32,
    device: Region,
}

impl Transport {
    /// Finds the device and maps its registers.
    pub(crate) fn find() -> Result<Self> {
        let function = Function::find()?;
        let (common, _) = function.map(Structure::Common)?;
        let (notify, multiplier) = function.map(Structure::Notify)?;
        let (device, _) = function.map(Structure::Device)?;
        Ok(Self {
            common,
            notify,
            multiplier,
            device,
        })
    }

    /// Feature bits that the device offers.
    pub(crate) fn features(self) -> u64 {
        let half = |select: u32| {
            self.common.write(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.common.read::<u32>(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    /// Accepts features.
    pub(crate) fn accept(self, features: u64) {
        for (select, shift) in [(0_u32, 0), (1, 32)] {
            self.common.write(common::DRIVER_FEATURE_SELECT, select);
            self.common
                .write(common::DRIVER_FEATURE, low_half(features >> shift));
        }
    }

    /// The device's status.
    pub(crate) fn status(self) -> u8 {
        self.common.read(common::DEVICE_STATUS)
    }

    /// Adds bits to the status.
    pub(crate) fn add_status(self, bits: u8) {
        self.common
            .write(common::DEVICE_STATUS, self.status() | bits);
    }

    /// Resets the device and waits until it has.
    pub(crate) fn reset(self) -> Result {
        self.common.write(common::DEVICE_STATUS, 0_u8);
        let deadline = Deadline::new();
        while self.status() != 0 {
            if deadline.is_over() {
                return fail!("a reset does not end, status {:#x}", self.status());
            }
        }
        Ok(())
    }

    /// Virtqueues that the monitor has made.
    pub(crate) fn queues(self) -> u16 {
        self.common.read(common::QUEUES)
    }

    /// The largest size of a queue; 0 if there is no such queue.
    pub(crate) fn queue_size(self, queue: u16) -> u16 {
        self.common.write(common::QUEUE_SELECT, queue);
        self.common.read(common::QUEUE_SIZE)
    }

    /// Tells where a queue lies and how large it is, without enabling it.
    pub(crate) fn place_queue(self, queue: u16, size: u16, place: QueuePlace) {
        self.common.write(common::QUEUE_SELECT, queue);
        self.common.write(common::QUEUE_SIZE, size);
        for (register, address) in [
            (common::QUEUE_DESCRIPTORS, place.descriptors),
            (common::QUEUE_DRIVER, place.available),
            (common::QUEUE_DEVICE, place.used),
        ] {
            // Registers of eight bytes are written by halves.
            self.common.write(register, low_half(address));
            self.common.write(register + 4, low_half(address >> 32));
        }
    }

    /// Enables a queue.
    pub(crate) fn enable_queue(self, queue: u16) {
        self.common.write(common::QUEUE_SELECT, queue);
        self.common.write(common::QUEUE_ENABLE, 1_u16);
    }

    /// The offset of a queue's doorbell.
    pub(crate) fn doorbell(self, queue: u16) -> usize {
        self.common.write(common::QUEUE_SELECT, queue);
        let offset = self.common.read::<u16>(common::QUEUE_NOTIFY_OFFSET);
        usize::from(offset) * self.multiplier as usize
    }

    /// Rings a doorbell; one beyond the device's registers is none.
    pub(crate) fn kick(self, doorbell: usize, queue: u16) {
        if doorbell + 2 <= self.notify.bytes() {
            self.notify.write(doorbell, queue);
        }
    }

    /// The bytes between doorbells.
    pub(crate) fn doorbell_step(self) -> usize {
        self.multiplier as usize
    }

    /// The bytes of doorbells.
    pub(crate) fn doorbell_bytes(self) -> usize {
        self.notify.bytes()
    }

    /// The device's configuration space, as registers.
    pub(crate) fn space(self) -> Region {
        self.device
    }

    /// The device's configuration, read by words of four bytes.
    pub(crate) fn config(self) -> Result<Config> {
        let mut bytes = [0; Config::SIZE];
        if self.device.bytes() < bytes.len() {
            return fail!("the configuration space has {} bytes", self.device.bytes());
        }
        for (nth, word) in bytes.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&self.device.read::<u32>(nth * 4).to_le_bytes());
        }
        Ok(Config::from_bytes(&bytes))
    }
}

fn low_half(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
