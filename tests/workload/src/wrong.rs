// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Does a wrong thing to a virtio device behind its driver's back, so that the device asks for a reset.
//!
//! The device's registers are reached through PCI configuration space, by the window that virtio has
//! there (VIRTIO 1.3, section 4.1.4.9). Other than with 1, a driver must not write to `queue_enable`
//! (4.1.4.3.2); QEMU's devices ask for a reset then (2.1.2, `DEVICE_NEEDS_RESET`).

use crate::options::Options;
use crate::report::Report;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

/// Where configuration space says where its first capability is.
const CAPABILITIES_AT: u8 = 0x34;
const CONFIG_BYTES: usize = 256;
/// A capability of the vendor's, which virtio's are.
const VENDOR: u8 = 0x09;
/// `struct virtio_pci_cap`: offsets in it.
const NEXT_AT: usize = 1;
const TYPE_AT: usize = 3;
const BAR_AT: usize = 4;
const OFFSET_AT: usize = 8;
const LENGTH_AT: usize = 12;
/// `struct virtio_pci_cfg_cap`: what is read and written here goes to the window's place.
const DATA_AT: usize = 16;
/// `VIRTIO_PCI_CAP_COMMON_CFG` and `VIRTIO_PCI_CAP_PCI_CFG`.
const COMMON: u8 = 1;
const WINDOW: u8 = 5;
/// `struct virtio_pci_common_cfg`: the offset of `queue_enable`, of 16 bits.
const QUEUE_ENABLE: u32 = 28;
/// No driver writes this there.
const WRONG: u16 = 2;

/// Where two of the device's capabilities begin, and what one of them says.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    window: usize,
    bar: u8,
    common: u32,
}

impl Places {
    /// Of a device with this configuration space.
    fn find(config: &[u8; CONFIG_BYTES]) -> Result<Self, String> {
        let (mut window, mut common) = (None, None);
        let mut at = usize::from(config[usize::from(CAPABILITIES_AT)]);
        // No more of them have room.
        for _ in 0..CONFIG_BYTES / 4 {
            let Some(capability) = config.get(at..at + DATA_AT).filter(|_| at > 0) else {
                break;
            };
            match (capability[0], capability[TYPE_AT]) {
                (VENDOR, WINDOW) => window = Some(at),
                (VENDOR, COMMON) => {
                    let offset = capability[OFFSET_AT..LENGTH_AT].try_into();
                    let offset = offset.map_err(|_| "a capability is cut short")?;
                    common = Some((capability[BAR_AT], u32::from_le_bytes(offset)));
                }
                _ => {}
            }
            at = usize::from(capability[NEXT_AT]);
        }
        match (window, common) {
            (Some(window), Some((bar, common))) => Ok(Self {
                window,
                bar,
                common,
            }),
            _ => Err("the device has no virtio capabilities".to_owned()),
        }
    }
}

/// Has the virtio device `--device`, such as `virtio0`, ask for a reset.
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let name = options.text("device").ok_or("--device is missing")?;
    let path = format!("/sys/bus/virtio/devices/{name}/../config");
    let file = OpenOptions::new().read(true).write(true).open(&path);
    let file = file.map_err(|error| format!("cannot open {path}: {error}"))?;
    let mut config = [0; CONFIG_BYTES];
    file.read_exact_at(&mut config, 0)
        .map_err(|error| format!("cannot read {path}: {error}"))?;
    let places = Places::find(&config)?;
    let write = |at: usize, bytes: &[u8]| {
        write(&file, places.window + at, bytes)
            .map_err(|error| format!("cannot write to {path}: {error}"))
    };
    write(BAR_AT, &[places.bar])?;
    write(OFFSET_AT, &(places.common + QUEUE_ENABLE).to_le_bytes())?;
    write(LENGTH_AT, &2_u32.to_le_bytes())?;
    write(DATA_AT, &WRONG.to_le_bytes())?;
    let mut report = Report::default();
    report.count("wrong_writes", 1);
    Ok(report)
}

fn write(file: &File, at: usize, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all_at(bytes, at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(capabilities: &[(u8, [u8; DATA_AT])]) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        if let Some((first, _)) = capabilities.first() {
            config[usize::from(CAPABILITIES_AT)] = *first;
        }
        for (at, bytes) in capabilities {
            let at = usize::from(*at);
            config[at..at + DATA_AT].copy_from_slice(bytes);
        }
        config
    }

    #[test]
    fn window_and_common_registers_are_found_wherever_they_are() {
        let config = config(&[
            (0x40, [0x11, 0x50, 0, 9, 9, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0]),
            (
                0x50,
                [9, 0x60, 16, 1, 4, 0, 0, 0, 0, 0x10, 0, 0, 56, 0, 0, 0],
            ),
            (0x60, [9, 0, 20, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ]);
        let expected = Places {
            window: 0x60,
            bar: 4,
            common: 0x1000,
        };
        assert_eq!(Places::find(&config), Ok(expected));
    }

    #[test]
    fn device_without_them_or_with_a_ring_of_them_is_an_error() {
        assert!(Places::find(&config(&[])).is_err());
        let ring = [9, 0x40, 16, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Places::find(&config(&[(0x40, ring)])).is_err());
        let end = [9, 0xf8, 16, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(Places::find(&config(&[(0x40, end)])).is_err());
    }
}
