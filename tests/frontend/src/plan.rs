// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which vhost-user messages a VMM sends, and in which order.

use std::fmt;

/// Whose order of messages is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// QEMU: features first and owner second, ring descriptors before the rings start, no
    /// acknowledgement for ring messages, configuration read whole.
    Qemu,
    /// cloud-hypervisor: owner first, every message acknowledged, no call descriptor where the
    /// guest has no interrupt vector, configuration read field by field.
    CloudHypervisor,
}

/// What the pretended VMM and its guest's transport do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Order of messages.
    pub style: Style,
    /// Descriptors of each ring, a power of two of at most 1024.
    pub queue_size: u16,
    /// Whether the rings get call descriptors; without, the driver can only poll.
    pub call: bool,
    /// Accept VIRTIO_RING_F_EVENT_IDX.
    pub event_idx: bool,
    /// Accept VIRTIO_RING_F_INDIRECT_DESC.
    pub indirect: bool,
    /// Set up at most this many queues, as a VMM that was told a lower count.
    pub queues_max: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            style: Style::Qemu,
            queue_size: 256,
            call: true,
            event_idx: true,
            indirect: true,
            queues_max: u16::MAX,
        }
    }
}

/// One message to the device, with its answer where it has one. Ring steps carry the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named after its vhost-user message")]
pub enum Step {
    SetOwner,
    GetFeatures,
    SetFeatures,
    GetProtocolFeatures,
    SetProtocolFeatures,
    GetQueueNum,
    GetConfig,
    SetMemTable,
    VringNum(u16),
    VringAddr(u16),
    VringBase(u16),
    VringKick(u16),
    VringCall(u16),
    VringErr(u16),
    VringEnable(u16),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The steps up to the number of queues.
pub(crate) fn greeting(style: Style) -> Vec<Step> {
    match style {
        Style::Qemu => vec![
            Step::GetFeatures,
            Step::GetProtocolFeatures,
            Step::SetProtocolFeatures,
            Step::GetQueueNum,
        ],
        Style::CloudHypervisor => vec![
            Step::SetOwner,
            Step::GetFeatures,
            Step::SetFeatures,
            Step::GetProtocolFeatures,
            Step::SetProtocolFeatures,
            Step::GetQueueNum,
        ],
    }
}

/// The steps from known queues to running rings.
pub(crate) fn start(options: Options, queues: u16) -> Vec<Step> {
    let mut plan = Vec::new();
    match options.style {
        Style::Qemu => {
            plan.extend([Step::SetOwner, Step::GetConfig]);
            plan.extend((0..queues).map(Step::VringErr));
        }
        Style::CloudHypervisor => plan.push(Step::GetConfig),
    }
    plan.extend([Step::SetFeatures, Step::SetMemTable]);
    for queue in 0..queues {
        plan.extend(ring(options, queue));
    }
    plan.extend((0..queues).map(Step::VringEnable));
    plan
}

/// The steps that set one ring up, without enabling it.
pub(crate) fn ring(options: Options, queue: u16) -> Vec<Step> {
    let mut plan = match options.style {
        Style::Qemu => vec![
            Step::VringNum(queue),
            Step::VringBase(queue),
            Step::VringAddr(queue),
            Step::VringKick(queue),
            Step::VringCall(queue),
        ],
        Style::CloudHypervisor => vec![
            Step::VringNum(queue),
            Step::VringAddr(queue),
            Step::VringBase(queue),
            Step::VringCall(queue),
            Step::VringKick(queue),
        ],
    };
    if !options.call {
        plan.retain(|step| *step != Step::VringCall(queue));
    }
    plan
}
