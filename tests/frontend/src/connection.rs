// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VMM's part: one vhost-user connection, message by message.

mod rings;

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tmem_abi::Config;
use vhost::VhostBackend;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vmm_sys_util::eventfd::EventFd;

use crate::plan::{self, Options, Step, Style};
use crate::watchdog::Watchdog;
use crate::{Error, GuestMemory, Queue, Result, RingLayout};

/// VIRTIO_RING_F_INDIRECT_DESC.
const INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_RING_F_EVENT_IDX.
const EVENT_IDX: u64 = 1 << 29;
/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VIRTIO_F_VERSION_1.
const VERSION_1: u64 = 1 << 32;
/// The most queues that a connection may have before the device says how many there are.
const QUEUES_MAX: u64 = 256;

/// How long a socket may exist before its server listens.
const LISTENING: Duration = Duration::from_secs(10);

/// What the connection keeps of a ring whose driver half may be on another thread.
#[derive(Debug)]
struct Ring {
    layout: RingLayout,
    kick: EventFd,
    call: Option<EventFd>,
    error: EventFd,
    base: u16,
}

/// The socket; closed at once when dropped, whoever else holds a descriptor of it.
struct Stream(UnixStream);

impl Drop for Stream {
    fn drop(&mut self) {
        // The device may have closed it already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A connection to the device, and the rings that were set up over it.
pub struct Connection {
    frontend: Frontend,
    stream: Stream,
    watchdog: Watchdog,
    memory: Arc<GuestMemory>,
    options: Options,
    offered: u64,
    accepted: u64,
    protocol: VhostUserProtocolFeatures,
    config: Config,
    rings: Vec<Ring>,
    queues: Vec<Option<Queue>>,
    todo: VecDeque<Step>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("options", &self.options)
            .field("accepted", &self.accepted)
            .field("rings", &self.rings.len())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, and sends nothing yet.
    pub fn open(socket: &Path, memory: &Arc<GuestMemory>, options: Options) -> Result<Self> {
        let fail = |source| Error::Connect {
            path: socket.to_path_buf(),
            source,
        };
        let stream = connect(socket).map_err(fail)?;
        let watched = stream.try_clone().map_err(fail)?;
        let raw = stream.try_clone().map_err(fail)?;
        Ok(Self {
            frontend: Frontend::from_stream(stream, QUEUES_MAX),
            stream: Stream(raw),
            watchdog: Watchdog::new(watched),
            memory: Arc::clone(memory),
            options,
            offered: 0,
            accepted: 0,
            protocol: VhostUserProtocolFeatures::empty(),
            config: Config::default(),
            rings: Vec::new(),
            queues: Vec::new(),
            todo: plan::greeting(options.style).into(),
        })
    }

    /// Connects and takes every step up to running rings.
    pub fn establish(socket: &Path, memory: &Arc<GuestMemory>, options: Options) -> Result<Self> {
        let mut connection = Self::open(socket, memory, options)?;
        while connection.advance()?.is_some() {}
        Ok(connection)
    }

    /// Connects for a guest whose rings already exist, as a VMM does after the device's socket
    /// broke: the rings go on from `bases`, one available index a ring.
    pub fn reestablish(socket: &Path, lost: Self, bases: impl Fn(u16) -> u16) -> Result<Self> {
        let Self {
            memory,
            options,
            mut rings,
            queues,
            stream,
            ..
        } = lost;
        drop(stream);
        let mut connection = Self::open(socket, &memory, options)?;
        for (index, ring) in (0..).zip(&mut rings) {
            ring.base = bases(index);
        }
        connection.rings = rings;
        connection.queues = queues;
        while connection.advance()?.is_some() {}
        Ok(connection)
    }

    /// Takes the next step of the order that [`Options::style`] names; `None` once the rings run.
    pub fn advance(&mut self) -> Result<Option<Step>> {
        let Some(step) = self.todo.pop_front() else {
            return Ok(None);
        };
        self.step(step)?;
        if step == Step::GetQueueNum {
            self.todo
                .extend(plan::start(self.options, self.queue_count()));
        }
        Ok(Some(step))
    }

    /// The step that [`Self::advance`] would take.
    #[must_use]
    pub fn next_step(&self) -> Option<Step> {
        self.todo.front().copied()
    }

    /// Takes one step, whatever came before.
    pub fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::SetOwner => self.send(step, |frontend| frontend.set_owner()),
            Step::GetFeatures => {
                self.offered = self.send(step, |frontend| frontend.get_features())?;
                Ok(())
            }
            Step::SetFeatures => self.set_features(),
            Step::GetProtocolFeatures => {
                let offered = self.send(step, |frontend| frontend.get_protocol_features())?;
                self.protocol = choose_protocol_features(offered)?;
                Ok(())
            }
            Step::SetProtocolFeatures => self.set_protocol_features(),
            Step::GetQueueNum => {
                let count = self.send(step, |frontend| frontend.get_queue_num())?;
                let count = u16::try_from(count).unwrap_or(u16::MAX);
                self.make_queues(count.min(self.options.queues_max))
            }
            Step::GetConfig => self.read_config(),
            Step::SetMemTable => {
                let regions = self.memory.regions();
                self.send(step, |frontend| frontend.set_mem_table(&regions))
                    .map(drop)
            }
            Step::VringNum(queue) => {
                let size = self.options.queue_size;
                self.send(step, |frontend| frontend.set_vring_num(queue.into(), size))
            }
            Step::VringAddr(queue) => {
                let data = self.ring_addresses(queue)?;
                self.send(step, |frontend| {
                    frontend.set_vring_addr(queue.into(), &data)
                })
            }
            Step::VringBase(queue) => {
                let base = self.rings[usize::from(queue)].base;
                self.send(step, |frontend| frontend.set_vring_base(queue.into(), base))
            }
            Step::VringKick(queue) | Step::VringCall(queue) | Step::VringErr(queue) => {
                self.set_descriptor(step, queue)
            }
            Step::VringEnable(queue) => self.enable(queue, true),
        }
    }

    /// Sends one message under the watchdog's eye.
    fn send<T>(
        &mut self,
        what: impl fmt::Display,
        message: impl FnOnce(&mut Frontend) -> vhost::Result<T>,
    ) -> Result<T> {
        let frontend = &mut self.frontend;
        self.watchdog
            .watch(|| message(frontend))
            .map_err(|source| Error::Message {
                step: what.to_string(),
                source,
            })
    }

    fn set_features(&mut self) -> Result<()> {
        let mut wanted = VERSION_1 | PROTOCOL_FEATURES;
        if self.options.event_idx {
            wanted |= EVENT_IDX;
        }
        if self.options.indirect {
            wanted |= INDIRECT_DESC;
        }
        let missing = wanted & !self.offered;
        if missing != 0 {
            return Err(Error::NotOffered {
                what: "VERSION_1, EVENT_IDX, INDIRECT_DESC or vhost-user's own bit",
            });
        }
        self.send(Step::SetFeatures, |frontend| frontend.set_features(wanted))?;
        self.accepted = wanted;
        Ok(())
    }

    fn set_protocol_features(&mut self) -> Result<()> {
        let chosen = self.protocol;
        self.send(Step::SetProtocolFeatures, |frontend| {
            frontend.set_protocol_features(chosen)
        })?;
        if self.options.style == Style::CloudHypervisor {
            self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        Ok(())
    }

    fn set_descriptor(&mut self, step: Step, queue: u16) -> Result<()> {
        let ring = &self.rings[usize::from(queue)];
        let (frontend, index) = (&self.frontend, usize::from(queue));
        self.watchdog
            .watch(|| match step {
                Step::VringKick(_) => frontend.set_vring_kick(index, &ring.kick),
                Step::VringErr(_) => frontend.set_vring_err(index, &ring.error),
                _ => match &ring.call {
                    Some(call) => frontend.set_vring_call(index, call),
                    None => Ok(()),
                },
            })
            .map_err(|source| Error::Message {
                step: step.to_string(),
                source,
            })
    }

    fn read_config(&mut self) -> Result<()> {
        let mut bytes = [0; Config::SIZE];
        match self.options.style {
            Style::Qemu => self.get_config(0, &mut bytes)?,
            Style::CloudHypervisor => {
                for (_, offset, size) in Config::LAYOUT {
                    let field = &mut bytes[*offset..offset + size];
                    self.get_config(u32::try_from(*offset).expect("below 64"), field)?;
                }
            }
        }
        self.config = Config::from_bytes(&bytes);
        Ok(())
    }

    /// Reads the configuration space at `offset` until `into` is full.
    pub fn get_config(&mut self, offset: u32, into: &mut [u8]) -> Result<()> {
        let size = u32::try_from(into.len()).expect("a short read");
        let flags = VhostUserConfigFlags::empty();
        let room = vec![0; into.len()];
        let (_, bytes) = self.send("GET_CONFIG", |frontend| {
            frontend.get_config(offset, size, flags, &room)
        })?;
        into.copy_from_slice(&bytes);
        Ok(())
    }

    /// Sends RESET_DEVICE.
    pub fn reset_device(&mut self) -> Result<()> {
        self.send("RESET_DEVICE", |frontend| frontend.reset_device())
    }

    /// Sends SET_MEM_TABLE with another view of guest memory.
    pub fn set_memory(&mut self, memory: &GuestMemory) -> Result<()> {
        let regions = memory.regions();
        self.send(Step::SetMemTable, |frontend| {
            frontend.set_mem_table(&regions)
        })
        .map(drop)
    }

    /// Writes bytes to the socket as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.0.write_all(bytes).map_err(Error::Raw)
    }

    /// The configuration space, once GetConfig was taken.
    #[must_use]
    pub const fn config(&self) -> Config {
        self.config
    }

    /// Feature bits that the device offered.
    #[must_use]
    pub const fn offered(&self) -> u64 {
        self.offered
    }

    /// What the connection was opened with.
    #[must_use]
    pub const fn options(&self) -> Options {
        self.options
    }

    /// Guest memory.
    #[must_use]
    pub const fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

/// Connects, again and again while the socket exists but nobody listens yet.
fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let start = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused && start.elapsed() < LISTENING =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

fn choose_protocol_features(
    offered: VhostUserProtocolFeatures,
) -> Result<VhostUserProtocolFeatures> {
    let needed = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK;
    if !offered.contains(needed) {
        return Err(Error::NotOffered {
            what: "protocol features MQ, CONFIG and REPLY_ACK",
        });
    }
    let optional =
        VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS | VhostUserProtocolFeatures::RESET_DEVICE;
    Ok(needed | (offered & optional))
}
