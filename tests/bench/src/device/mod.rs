// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Area `device`: 4 KiB gets and puts through virtqueues, our device and a block device by turns.

mod block;
mod load;
mod target;

/// Bytes of the pretended guest's memory.
const MEMORY: usize = 160 << 20;

/// Whether a server is told to poll before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polling {
    On,
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn peer() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let server = block::BlockServer::start(std::path::Path::new("qemu-storage-daemon"), dir.path(), 16384, Polling::Off, &std::env::var("AIO").unwrap_or("threads".into())).unwrap();
        let mut load = load::Load::new(server.connect().unwrap(), 16384, 4096).unwrap();
        load.verify().unwrap();
        for (depth, pages, run) in [(1,1,false),(32,1,false),(1,32,true)] { for op in [target::Op::Get, target::Op::Put] {
            load.refill().unwrap();
            let p = load.run(op, load::Shape{depth,pages,run}, std::time::Duration::from_millis(300)).unwrap();
            println!("{depth} {pages} {op:?} {p:?} ");
            load.verify().unwrap();
        }}
    }
}
