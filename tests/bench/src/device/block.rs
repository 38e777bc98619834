// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The peer: qemu-storage-daemon's vhost-user-blk export of a RAM-backed file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tmem_abi::PAGE_SIZE;
use tmem_frontend::{Connection, DaemonProcess, GuestMemory, Options};

use super::target::{Format, Op, Target};
use super::{MEMORY, Polling};
use crate::{Error, Result};

/// VIRTIO_BLK_T_IN and VIRTIO_BLK_T_OUT.
const TYPES: [u32; 2] = [0, 1];
/// Bytes of a sector.
const SECTOR: usize = 512;

/// virtio-blk's requests: 16 bytes of header, data, one byte of status.
#[derive(Debug)]
pub(crate) struct Block;

impl Format for Block {
    const NAME: &'static str = "qemu-storage-daemon";
    const HEADER: usize = 16;
    const ANSWER_FIRST: bool = false;

    fn header(&mut self, op: Op, indices: &[u32], header: &mut [u8]) -> usize {
        let kind = TYPES[usize::from(op == Op::Put)];
        let sector = u64::from(indices[0]) * (PAGE_SIZE / SECTOR) as u64;
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[4..8].fill(0);
        header[8..16].copy_from_slice(&sector.to_le_bytes());
        Self::HEADER
    }

    fn answer(&self, _pages: usize) -> u32 {
        1
    }

    fn failure(&self, answer: &[u8], _pages: usize) -> Option<u8> {
        (answer[0] != 0).then_some(answer[0])
    }
}

/// How the peer reads and writes its file: in each regime the way that moved the most pages on a
/// tmpfs comes first, and what an older kernel refuses is followed by what it takes.
const fn ways(polling: Polling) -> &'static [&'static str] {
    match polling {
        Polling::On => &["aio=native,cache.direct=on", "aio=io_uring", "aio=threads"],
        Polling::Off => &["aio=io_uring", "aio=threads"],
    }
}

/// The peer's process and what it serves.
#[derive(Debug)]
pub(crate) struct BlockServer {
    pub(crate) process: DaemonProcess,
    /// How it reads and writes its file.
    pub(crate) way: &'static str,
    socket: PathBuf,
}

impl BlockServer {
    /// Starts `program` over a file of `pages` pages in `folder`, which should be a tmpfs.
    pub(crate) fn start(
        program: &Path,
        folder: &Path,
        pages: u32,
        polling: Polling,
    ) -> Result<Self> {
        let file = folder.join(format!("disk-{polling:?}"));
        let make = || -> std::io::Result<()> {
            std::fs::File::create(&file)?.set_len(u64::from(pages) * PAGE_SIZE as u64)
        };
        make().map_err(Error::system("make the peer's file"))?;
        let (last, first) = ways(polling).split_last().expect("there is a way");
        for way in first {
            if let Ok(server) = Self::start_with(program, folder, &file, polling, way) {
                return Ok(server);
            }
        }
        Self::start_with(program, folder, &file, polling, last)
    }

    fn start_with(
        program: &Path,
        folder: &Path,
        file: &Path,
        polling: Polling,
        way: &'static str,
    ) -> Result<Self> {
        let socket = folder.join(format!("block-{polling:?}.sock"));
        // A millisecond: far longer than the pauses of a closed loop.
        let poll = if polling == Polling::On { 1_000_000 } else { 0 };
        let args = [
            "--object".to_owned(),
            format!("iothread,id=worker,poll-max-ns={poll}"),
            "--blockdev".to_owned(),
            format!("file,node-name=ram,filename={},{way}", file.display()),
            "--export".to_owned(),
            format!(
                "vhost-user-blk,id=disk,node-name=ram,writable=on,iothread=worker,\
                 addr.type=unix,addr.path={}",
                socket.display()
            ),
        ];
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        let process =
            DaemonProcess::start(&mut command, &[&socket]).map_err(Error::frontend(Block::NAME))?;
        Ok(Self {
            process,
            way,
            socket,
        })
    }

    /// Connects and makes the target.
    pub(crate) fn connect(&self) -> Result<Target<Block>> {
        let fail = Error::frontend(Block::NAME);
        let memory = GuestMemory::new(MEMORY).map_err(&fail)?;
        let options = Options {
            queues_max: 1,
            ..Options::default()
        };
        let mut connection =
            Connection::establish(&self.socket, &memory, options).map_err(&fail)?;
        let queue = connection
            .take_queue(0)
            .expect("a fresh connection has its queue");
        Target::new(Block, connection, queue, None)
    }
}
