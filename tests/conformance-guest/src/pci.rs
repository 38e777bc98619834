// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PCI by configuration mechanism 1, and the virtio device on bus 0.

use crate::intrinsics::{in32, out32};
use crate::memory::Region;
use crate::paging;
use crate::why::{Result, fail};
use crate::wire::VIRTIO_ID;

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const SLOTS: u8 = 32;
const VENDOR: u32 = 0x1af4;
const DEVICE_FIRST: u32 = 0x1040;
const COMMAND: u8 = 4;
/// Memory decoding and bus mastering.
const COMMAND_ON: u32 = 0b110;
const STATUS_CAPABILITIES: u32 = 1 << 20;
const CAPABILITIES: u8 = 0x34;
const CAPABILITY_VENDOR: u8 = 9;
const BAR_FIRST: u8 = 0x10;
const BAR_IS_IO: u32 = 1;
const BAR_IS_64: u32 = 0b100;
const BAR_FLAGS: u32 = 0xf;
/// Where BARs go that no firmware has placed: above every small guest's memory, below the interrupt
/// controllers.
const PLACE_FIRST: u32 = 0xd000_0000;
const PLACE_LAST: u32 = 0xe000_0000;
/// A list of capabilities that is longer loops.
const CAPABILITIES_LIMIT: usize = 48;

/// A virtio structure's place, as its capability tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Structure {
    /// Common configuration.
    Common = 1,
    /// Notifications.
    Notify = 2,
    /// The device's configuration space.
    Device = 4,
}

/// A PCI device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    slot: u8,
}

impl Function {
    /// Finds the virtio-tmem device on bus 0 and switches its memory on.
    pub(crate) fn find() -> Result<Self> {
        let wanted = (DEVICE_FIRST + u32::from(VIRTIO_ID)) << 16 | VENDOR;
        let Some(function) = (0..SLOTS)
            .map(|slot| Self { slot })
            .find(|function| function.read(0) == wanted)
        else {
            return fail!("no PCI device {wanted:#010x} on bus 0");
        };
        function.place_bars()?;
        function.write(COMMAND, function.read(COMMAND) | COMMAND_ON);
        Ok(function)
    }

    fn select(self, register: u8) {
        let address = 1 << 31 | u32::from(self.slot) << 11 | u32::from(register & 0xfc);
        out32(ADDRESS, address);
    }

    /// Reads the 32-bit register that holds the byte at `register`.
    fn read(self, register: u8) -> u32 {
        self.select(register);
        in32(DATA)
    }

    fn write(self, register: u8, value: u32) {
        self.select(register);
        out32(DATA, value);
    }

    /// Gives an address to every memory BAR that has none.
    fn place_bars(self) -> Result {
        let mut next = PLACE_FIRST;
        let mut bar = 0;
        while bar < 6 {
            let register = BAR_FIRST + bar * 4;
            let value = self.read(register);
            let wide = value & BAR_IS_IO == 0 && value & BAR_IS_64 != 0;
            bar += if wide { 2 } else { 1 };
            let upper = if wide { self.read(register + 4) } else { 0 };
            if value & BAR_IS_IO != 0 || value & !BAR_FLAGS != 0 || upper != 0 {
                continue;
            }
            self.write(register, u32::MAX);
            let size = (!(self.read(register) & !BAR_FLAGS)).wrapping_add(1);
            if size == 0 {
                self.write(register, 0);
                continue;
            }
            next = next.next_multiple_of(size);
            if next.saturating_add(size) > PLACE_LAST {
                return fail!("no room for BAR at {register:#x}, {size} bytes");
            }
            self.write(register, next);
            next += size;
        }
        Ok(())
    }

    /// The address of the BAR of this number.
    fn bar(self, number: u8) -> Result<u64> {
        if number > 5 {
            return fail!("a capability names BAR {number}");
        }
        let register = BAR_FIRST + number * 4;
        let low = self.read(register);
        if low & BAR_IS_IO != 0 {
            return fail!("BAR {number} is no memory");
        }
        let high = if low & BAR_IS_64 != 0 {
            self.read(register + 4)
        } else {
            0
        };
        Ok(u64::from(high) << 32 | u64::from(low & !BAR_FLAGS))
    }

    /// Maps a virtio structure. Also returns the 32 bits that follow its capability, which for
    /// notifications are their multiplier.
    pub(crate) fn map(self, structure: Structure) -> Result<(Region, u32)> {
        if self.read(COMMAND) & STATUS_CAPABILITIES == 0 {
            return fail!("the device has no capabilities");
        }
        let mut at = self.byte(CAPABILITIES) & 0xfc;
        for _ in 0..CAPABILITIES_LIMIT {
            if at == 0 {
                break;
            }
            if self.byte(at) == CAPABILITY_VENDOR && self.byte(at + 3) == structure as u8 {
                let address = self.bar(self.byte(at + 4))? + u64::from(self.read(at + 8));
                let bytes = self.read(at + 12) as usize;
                paging::map(address, bytes)?;
                let Ok(start) = usize::try_from(address) else {
                    return fail!("an address of more bits than this machine has");
                };
                // SAFETY: Just mapped, and registers of a device, where no program keeps anything.
                let region = unsafe { Region::new(start, bytes) };
                return Ok((region, self.read(at + 16)));
            }
            at = self.byte(at + 1) & 0xfc;
        }
        fail!("the device has no {structure:?} structure")
    }

    fn byte(self, register: u8) -> u8 {
        self.read(register).to_le_bytes()[usize::from(register & 3)]
    }
}
