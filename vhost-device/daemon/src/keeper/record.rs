// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a front-end and a worker have agreed on: the last effective control messages of one
//! connection, with the descriptors that came with them. No sockets here: messages in, messages out.
//!
//! ```text
//! front-end ──message──▶ apply ──▶ Record ──replay──▶ the next worker
//!                                    └──answer──▶ the front-end, while there is no worker
//! ```
//! A ring's base is not kept with care: a worker begins every ring at the used index that it finds in
//! guest memory, since it completes each ring in order.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::message::{Message, request};

/// Regions that fit into one table message; more came, and go, one by one.
const TABLE_REGIONS_MAX: usize = 8;
/// Regions that a guest's memory may have; what the vhost-user crate takes.
const REGIONS_MAX: usize = 509;
/// Rings of a device; their descriptors' messages have a byte for the number.
const RINGS_MAX: u32 = 256;
/// Parts of the configuration space that are remembered.
const CONFIGS_MAX: usize = 64;
/// Bit of a ring's descriptor message that says that there is none.
const NO_FILE: u64 = 1 << 8;
/// Protocol feature: a message may ask to be acknowledged.
const REPLY_ACK: u64 = 1 << 3;
/// The reply to a message that could not be carried out.
const FAILURE: u64 = 1;
const REGION_BYTES: usize = 32;

/// A region of the guest's memory: guest address, bytes, front-end's address, offset in the file.
#[derive(Debug)]
struct Region {
    fields: [u64; 4],
    file: OwnedFd,
}

impl Region {
    fn bytes(&self) -> Vec<u8> {
        self.fields.iter().flat_map(|f| f.to_ne_bytes()).collect()
    }

    /// The guest's address that the front-end has at its own address `user`.
    fn to_guest(&self, user: u64) -> Option<u64> {
        let [guest, bytes, base, _] = self.fields;
        let offset = user.checked_sub(base)?;
        (offset < bytes).then(|| guest.wrapping_add(offset))
    }

    /// The other way round.
    fn to_user(&self, address: u64) -> Option<u64> {
        let [guest, bytes, base, _] = self.fields;
        let offset = address.checked_sub(guest)?;
        (offset < bytes).then(|| base.wrapping_add(offset))
    }
}

/// Where a ring is: flags, then the guest's addresses of descriptors, used and available ring, then
/// the log's address. Front-ends name their own addresses, which a later table of memory may give
/// another meaning; a ring that runs stays where it is in guest memory.
#[derive(Debug)]
struct Addresses {
    flags: u32,
    parts: [u64; 3],
    log: u64,
}

/// A descriptor of a ring: never named, named as none, or there.
type RingFile = Option<Option<OwnedFd>>;

#[derive(Debug, Default)]
struct Ring {
    size: Option<u32>,
    addresses: Option<Addresses>,
    base: Option<u32>,
    call: RingFile,
    kick: RingFile,
    err: RingFile,
    enabled: Option<u32>,
}

/// A message that is about to be sent, or kept.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub(super) request: u32,
    pub(super) body: Vec<u8>,
    /// Descriptors, and names that tell them apart within their connection.
    pub(super) files: Vec<(String, BorrowedFd<'a>)>,
}

impl Planned<'_> {
    const fn with(request: u32, body: Vec<u8>) -> Self {
        Self {
            request,
            body,
            files: Vec::new(),
        }
    }

    const fn bare(request: u32) -> Self {
        Self::with(request, Vec::new())
    }

    /// The message itself.
    ///
    /// # Errors
    /// The kernel's, if descriptors cannot be duplicated.
    pub(super) fn message(&self) -> io::Result<Message> {
        let files = self.files.iter().map(|(_, file)| file.try_clone_to_owned());
        let files = files.collect::<io::Result<_>>()?;
        Ok(Message::new(self.request, self.body.clone(), files))
    }
}

/// The record of one connection.
#[derive(Debug, Default)]
pub(super) struct Record {
    owned: bool,
    features: Option<u64>,
    protocol_features: Option<u64>,
    memory: Vec<Region>,
    rings: BTreeMap<u32, Ring>,
    /// Replies that do not change while a connection lasts, by request and body.
    replies: BTreeMap<(u32, Vec<u8>), Vec<u8>>,
}

impl Record {
    /// Notes a message that has been carried out.
    pub(super) fn apply(&mut self, message: Message) {
        let (word, long) = (message.word(0), message.long(0));
        let second = message.word(1);
        // More than a byte is no ring's number, and not worth remembering.
        let index = word.filter(|index| *index < RINGS_MAX);
        let ring = |rings: &mut BTreeMap<u32, Ring>, set: &mut dyn FnMut(&mut Ring)| {
            if let Some(index) = index {
                set(rings.entry(index).or_default());
            }
        };
        match message.request {
            request::SET_OWNER => self.owned = true,
            request::RESET_OWNER => {
                self.owned = false;
                self.features = None;
                self.protocol_features = None;
            }
            request::SET_FEATURES => self.features = long,
            request::SET_PROTOCOL_FEATURES => self.protocol_features = long,
            request::SET_MEM_TABLE => self.set_memory(message),
            request::ADD_MEM_REG => self.add_region(message),
            request::REM_MEM_REG => self.remove_region(&message),
            request::SET_VRING_NUM => ring(&mut self.rings, &mut |ring| ring.size = second),
            request::SET_VRING_BASE => ring(&mut self.rings, &mut |ring| ring.base = second),
            request::SET_VRING_ENABLE => ring(&mut self.rings, &mut |ring| ring.enabled = second),
            request::SET_VRING_ADDR => {
                let addresses = self.addresses(&message);
                if let (Some(index), Some(addresses)) = (index, addresses) {
                    self.rings.entry(index).or_default().addresses = Some(addresses);
                }
            }
            request::GET_VRING_BASE => ring(&mut self.rings, &mut |ring| {
                ring.kick = None;
                ring.call = None;
            }),
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
                self.set_file(message);
            }
            request::RESET_DEVICE => {
                self.features = None;
                for ring in self.rings.values_mut() {
                    ring.enabled = Some(0);
                }
            }
            _ => {}
        }
    }

    /// A worker acknowledges this message.
    pub(super) fn is_acknowledged(&self, message: &Message) -> bool {
        // The crate acknowledges once it has told its features and REPLY_ACK is negotiated.
        let told = (request::GET_FEATURES, Vec::new());
        let negotiated = match message.request {
            request::SET_PROTOCOL_FEATURES => message.long(0),
            _ => self.protocol_features,
        };
        message.wants_acknowledgement()
            && self.replies.contains_key(&told)
            && negotiated.is_some_and(|features| features & REPLY_ACK != 0)
    }

    /// Notes the reply to a question, if it is of a kind that stays true.
    pub(super) fn note_reply(&mut self, question: &Message, reply: &[u8]) {
        let stays = question.asks() && question.request != request::GET_VRING_BASE;
        if stays && self.replies.len() < CONFIGS_MAX {
            let key = (question.request, question.body.clone());
            self.replies.insert(key, reply.to_vec());
        }
    }

    /// All replies that were noted: request, body, reply.
    pub(super) fn replies(&self) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        let replies = self.replies.iter();
        replies
            .map(|((request, body), reply)| (*request, body.clone(), reply.clone()))
            .collect()
    }

    /// Notes replies again.
    pub(super) fn restore_replies(&mut self, replies: Vec<(u32, Vec<u8>, Vec<u8>)>) {
        for (request, body, reply) in replies {
            self.replies.insert((request, body), reply);
        }
    }

    /// The answer to this question is known without a worker.
    pub(super) fn knows(&self, message: &Message) -> bool {
        message.request == request::GET_VRING_BASE
            || (self.replies).contains_key(&(message.request, message.body.clone()))
    }

    /// Answers a message in place of a worker, and notes it. Nothing if no answer is wanted, or none
    /// is known.
    pub(super) fn answer(&mut self, message: Message) -> Option<Message> {
        let body = if message.request == request::GET_VRING_BASE {
            // Which number is said does not matter, as long as it comes back: see the module's head.
            let index = message.word(0)?;
            let base = self.rings.get(&index).and_then(|ring| ring.base);
            let words = [index, base.unwrap_or(0)].map(u32::to_ne_bytes);
            Some(words.concat())
        } else if message.asks() {
            let key = (message.request, message.body.clone());
            Some(self.replies.get(&key)?.clone())
        } else if self.is_acknowledged(&message) {
            Some(0_u64.to_ne_bytes().to_vec())
        } else {
            None
        };
        let reply = body.map(|body| message.reply(body));
        self.apply(message);
        reply
    }

    /// What brings a new worker to where the last one was. The last of it is answered, which shows that
    /// all of it has been carried out. Descriptors have names that say what they are.
    pub(super) fn replay(&self) -> Vec<Planned<'_>> {
        // The crate learns from these which features it has offered.
        let mut plan = vec![Planned::bare(request::GET_FEATURES)];
        if self.owned {
            plan.push(Planned::bare(request::SET_OWNER));
        }
        if let Some(features) = self.protocol_features {
            plan.push(Planned::bare(request::GET_PROTOCOL_FEATURES));
            let body = features.to_ne_bytes().to_vec();
            plan.push(Planned::with(request::SET_PROTOCOL_FEATURES, body));
        }
        if let Some(features) = self.features {
            let body = features.to_ne_bytes().to_vec();
            plan.push(Planned::with(request::SET_FEATURES, body));
        }
        self.replay_memory(&mut plan);
        for (index, ring) in &self.rings {
            self.replay_ring(*index, ring, &mut plan);
        }
        plan.push(Planned::bare(request::GET_FEATURES));
        plan
    }

    fn replay_memory<'a>(&'a self, plan: &mut Vec<Planned<'a>>) {
        let file = |region: &'a Region| (format!("m{:x}", region.fields[0]), region.file.as_fd());
        if self.memory.len() > TABLE_REGIONS_MAX {
            for region in &self.memory {
                let body = [0_u64.to_ne_bytes().to_vec(), region.bytes()].concat();
                let files = vec![file(region)];
                plan.push(Planned {
                    files,
                    ..Planned::with(request::ADD_MEM_REG, body)
                });
            }
        } else if !self.memory.is_empty() {
            // At most TABLE_REGIONS_MAX.
            let count = u64::try_from(self.memory.len()).unwrap_or(0);
            let mut body = count.to_le_bytes().to_vec();
            body.extend(self.memory.iter().flat_map(Region::bytes));
            let files = self.memory.iter().map(file).collect();
            plan.push(Planned {
                files,
                ..Planned::with(request::SET_MEM_TABLE, body)
            });
        }
    }

    fn replay_ring<'a>(&'a self, index: u32, ring: &'a Ring, plan: &mut Vec<Planned<'a>>) {
        let mut state = |request, value: Option<u32>| {
            if let Some(value) = value {
                let body = [index, value].map(u32::to_ne_bytes).concat();
                plan.push(Planned::with(request, body));
            }
        };
        state(request::SET_VRING_NUM, ring.size);
        state(request::SET_VRING_BASE, ring.base);
        // A ring that was stopped may have been in memory that is gone.
        if let Some(body) = (ring.addresses.as_ref()).and_then(|at| self.address_body(index, at)) {
            plan.push(Planned::with(request::SET_VRING_ADDR, body));
        }
        for (request, kind, file) in [
            (request::SET_VRING_CALL, 'c', &ring.call),
            (request::SET_VRING_ERR, 'e', &ring.err),
            (request::SET_VRING_KICK, 'k', &ring.kick),
        ] {
            if let Some(file) = file {
                let flag = if file.is_some() { 0 } else { NO_FILE };
                let body = (u64::from(index) | flag).to_ne_bytes().to_vec();
                let file = file
                    .as_ref()
                    .map(|file| (format!("{kind}{index}"), file.as_fd()));
                plan.push(Planned {
                    files: file.into_iter().collect(),
                    ..Planned::with(request, body)
                });
            }
        }
        if let Some(enabled) = ring.enabled {
            let body = [index, enabled].map(u32::to_ne_bytes).concat();
            plan.push(Planned::with(request::SET_VRING_ENABLE, body));
        }
    }

    /// What SET_VRING_ADDR says, in guest addresses.
    fn addresses(&self, message: &Message) -> Option<Addresses> {
        let guest = |at| {
            let user = message.long(at)?;
            self.memory.iter().find_map(|region| region.to_guest(user))
        };
        Some(Addresses {
            flags: message.word(1)?,
            parts: [guest(1)?, guest(2)?, guest(3)?],
            log: message.long(4)?,
        })
    }

    /// The body of a SET_VRING_ADDR that says the same, if the ring's memory is still there.
    fn address_body(&self, index: u32, addresses: &Addresses) -> Option<Vec<u8>> {
        let mut body = [index, addresses.flags].map(u32::to_ne_bytes).concat();
        for address in addresses.parts {
            let user = self
                .memory
                .iter()
                .find_map(|region| region.to_user(address));
            body.extend(user?.to_ne_bytes());
        }
        body.extend(addresses.log.to_ne_bytes());
        Some(body)
    }

    fn set_memory(&mut self, message: Message) {
        let regions = message.body.get(8..).unwrap_or_default();
        self.memory = regions
            .chunks_exact(REGION_BYTES)
            .zip(message.files)
            .map(|(bytes, file)| Region {
                fields: fields(bytes),
                file,
            })
            .collect();
    }

    fn add_region(&mut self, mut message: Message) {
        if self.memory.len() < REGIONS_MAX
            && let (Some(bytes), Some(file)) = (message.body.get(8..), message.files.pop())
        {
            self.memory.push(Region {
                fields: fields(bytes),
                file,
            });
        }
    }

    fn remove_region(&mut self, message: &Message) {
        let gone = fields(message.body.get(8..).unwrap_or_default());
        self.memory.retain(|region| region.fields[..3] != gone[..3]);
    }

    fn set_file(&mut self, mut message: Message) {
        let Some(word) = message.long(0) else { return };
        // The lowest byte is the ring's number.
        let [index, ..] = word.to_le_bytes();
        let file = if word & NO_FILE == 0 {
            message.files.pop()
        } else {
            None
        };
        let ring = self.rings.entry(u32::from(index)).or_default();
        match message.request {
            request::SET_VRING_KICK => ring.kick = Some(file),
            request::SET_VRING_CALL => ring.call = Some(file),
            _ => ring.err = Some(file),
        }
    }
}

/// A worker has carried out the message that it replied to.
pub(super) fn succeeded(message: &Message, reply: &Message) -> bool {
    message.asks() || reply.long(0).is_some_and(|code| code < FAILURE)
}

fn fields(bytes: &[u8]) -> [u64; 4] {
    let mut fields = [0; 4];
    for (field, bytes) in fields.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *field = u64::from_ne_bytes(*bytes);
    }
    fields
}
