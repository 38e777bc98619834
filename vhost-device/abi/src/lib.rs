// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What guest and host agree on: the wire format of the virtio-tmem device.
//!
//! The text is `docs/device.md`; its only code is [`wire`], one file without dependencies,
//! allocation or `unsafe`, which the guest's kernel module includes too
//! (`guest-driver/wire.rs` is a link to it). Every structure is converted to and from its bytes by
//! `to_bytes` and `from_bytes`, so neither side ever casts memory that the other side can change.
#![no_std]
#![forbid(unsafe_code)]

pub mod wire;
pub use wire::*;
