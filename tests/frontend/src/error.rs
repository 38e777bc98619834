// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong on the guest's side.

use std::path::PathBuf;
use std::time::Duration;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the front-end, or a device that broke the rules of the ring.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Guest memory could not be made.
    #[error("Cannot make {bytes} bytes of guest memory as a memfd")]
    Memory {
        /// Size asked for, in bytes.
        bytes: u64,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Guest memory could not be mapped as the regions say.
    #[error("Cannot map guest memory; its regions must be sorted and apart")]
    Map(#[from] vm_memory::mmap::FromRangesError),
    /// An address is outside of guest memory.
    #[error("No {bytes} bytes of guest memory at {address:#x}")]
    Address {
        /// Guest physical address.
        address: u64,
        /// Length of the access, in bytes.
        bytes: usize,
    },
    /// Guest memory is used up.
    #[error("Guest memory has no room for {bytes} bytes more; give the front-end larger regions")]
    OutOfMemory {
        /// Size asked for, in bytes.
        bytes: usize,
    },
    /// The socket could not be reached.
    #[error("Cannot connect to the device's socket {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A vhost-user message failed.
    #[error("The device did not carry out {step}")]
    Message {
        /// What was asked for.
        step: String,
        /// The protocol's reason.
        source: vhost::Error,
    },
    /// A raw message could not be sent.
    #[error("Cannot write a raw message to the device's socket")]
    Raw(#[source] std::io::Error),
    /// The device lacks something that the step needs.
    #[error("The device does not offer {what}")]
    NotOffered {
        /// The missing feature.
        what: &'static str,
    },
    /// A descriptor for events could not be made or used.
    #[error("Cannot use an event descriptor")]
    Event(#[source] std::io::Error),
    /// The ring is full.
    #[error("The ring has {free} free descriptors and the chain needs {needed}")]
    RingFull {
        /// Descriptors that the chain takes.
        needed: usize,
        /// Descriptors that are free.
        free: usize,
    },
    /// The request queue has no free slot.
    #[error("All {slots} slots of the request queue are in flight; collect completions first")]
    NoSlot {
        /// Slots of the queue.
        slots: usize,
    },
    /// The device returned a chain that it was never given.
    #[error("The device used descriptor {id}, which is not the head of a chain in flight")]
    NotInFlight {
        /// The id in the used ring.
        id: u32,
    },
    /// The device claims to have written more than the chain holds.
    #[error("The device claims {used} bytes written to a chain with room for {room}")]
    UsedLength {
        /// Length in the used ring, in bytes.
        used: u32,
        /// Writable bytes of the chain.
        room: u32,
    },
    /// Nothing came back.
    #[error("Queue {queue} returned nothing for {waited:?}; the device hangs")]
    Hang {
        /// Virtqueue index.
        queue: u16,
        /// Time waited.
        waited: Duration,
    },
    /// The device refused a control request.
    #[error("The device answered {request} with status {status}")]
    Status {
        /// What was asked for.
        request: &'static str,
        /// One of `tmem_abi::status`.
        status: u8,
    },
    /// A program could not be started, or did not come up.
    #[error("Cannot run {program}")]
    Process {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}
