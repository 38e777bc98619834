// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest with a disk, a `tmem-cache` target in front of it, and a host with room for the cache.

use crate::bench::{Bench, LONG, QUICK, number};
use crate::daemon::{Daemon, Worker};
use crate::guest::Guest;
use crate::suite::worker::scene::{next_worker, served};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::time::{Duration, Instant};

/// The cached disk in the guest; it is the first mapped device.
pub(super) const MAPPED: &str = "/dev/dm-0";
const MEMORY_MIB: u32 = 256;
/// What the guest is promised for swap; the rest of the host's DRAM is for the cache.
const GRANT: &str = "32MiB";
/// With this grant, the cache has to give pages up.
const GRANT_LARGE: &str = "500MiB";
/// Steps of a [`Disturber`].
const ROUNDS: u32 = 7;
const CHECK_LOG: &str = "/tmp/check.log";
const STATUS: &str = "tmem-workload dm --do status --name cached";
/// How long a target may take to find a device that has come back.
const FIND: Duration = Duration::from_secs(30);

/// A target's counters.
#[derive(Debug)]
pub(super) struct Status(Value);

impl Status {
    pub(super) fn of(&self, name: &str) -> Result<u64> {
        number(&self.0, name)
    }
}

pub(super) struct Scene {
    pub(super) daemon: Daemon,
    pub(super) guest: Guest,
    sectors: u64,
    /// The disk's bytes.
    _disk: tempfile::NamedTempFile,
}

impl Scene {
    /// Boots it all; the target has `words` behind its disk.
    pub(super) fn set(bench: &Bench<'_>, mib: u64, words: &str) -> Result<Self> {
        Self::set_in(bench, MEMORY_MIB, mib, words)
    }

    /// The same in a guest with so much memory.
    pub(super) fn set_in(
        bench: &Bench<'_>,
        memory_mib: u32,
        mib: u64,
        words: &str,
    ) -> Result<Self> {
        let disk = tempfile::NamedTempFile::new().context("Cannot create a disk")?;
        File::set_len(disk.as_file(), mib << 20).context("Cannot size the disk")?;
        let daemon = bench.daemon_with(&["vm0"], &format!("crash_limit = {}", u32::MAX), false)?;
        daemon.tell(&["guest", "limit", "vm0", "--grant", GRANT])?;
        let guest = bench.boot_with_disk(&daemon, "vm0", memory_mib, disk.path())?;
        let mut scene = Self {
            daemon,
            guest,
            sectors: mib << 11,
            _disk: disk,
        };
        let table = scene.table(words);
        // The target's module is found by the target's name.
        scene
            .guest
            .run(
                &format!(
                    "modprobe virtio_blk && modprobe dm_mod && modprobe dm_flakey && \
                     for i in $(seq 100); do [ -b /dev/vda ] && break; sleep 0.1; done; \
                     modprobe $(cat /sys/bus/virtio/devices/*/modalias | grep -i d0000000d | head -n 1) && \
                     tmem-workload dm --do create --name cached --table '{table}'"
                ),
                QUICK,
            )?
            .ok()?;
        scene.wait_until_attached()?;
        Ok(scene)
    }

    /// The table of a target with `words` behind its disk.
    pub(super) fn table(&self, words: &str) -> String {
        format!("0 {} tmem-cache /dev/vda {words}", self.sectors)
            .trim_end()
            .to_owned()
    }

    pub(super) fn status(&mut self) -> Result<Status> {
        Ok(Status(self.guest.run(STATUS, QUICK)?.ok()?.result()?))
    }

    pub(super) fn message(&mut self, text: &str) -> Result<()> {
        let command = format!("tmem-workload dm --do message --name cached --text {text}");
        self.guest.run(&command, QUICK)?.ok()?;
        Ok(())
    }

    /// Waits until the target has a pool; returns the milliseconds.
    pub(super) fn wait_until_attached(&mut self) -> Result<u64> {
        let start = Instant::now();
        while self.status()?.of("attached")? == 0 {
            ensure!(start.elapsed() < FIND, "The target finds no device");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(u64::try_from(start.elapsed().as_millis())?)
    }

    /// Runs `command` in the guest while the host suffers, once every `life`; returns its result.
    pub(super) fn disturbed(
        &mut self,
        command: &str,
        deadline: Duration,
        life: Duration,
    ) -> Result<Value> {
        let mut disturber = Disturber::new(&self.daemon, life);
        let output = self
            .guest
            .run_watched(command, deadline, &mut || disturber.tick())?;
        disturber.end()?;
        Ok(output.ok()?.result()?)
    }

    /// A file system with a tree of source files, and a group with little memory to scan it.
    pub(super) fn make_tree(&mut self, mib: u64, memory_mib: u64, seed: u64) -> Result<()> {
        self.guest
            .run(
                &format!(
                    "mke2fs -q -t ext4 -b 4096 -E nodiscard {MAPPED} && mount {MAPPED} /mnt && \
                     tmem-workload tree --do make --path /mnt --mib {mib} --seed {seed} && \
                     umount /mnt && mount -o noatime {MAPPED} /mnt"
                ),
                LONG,
            )?
            .ok()?;
        self.make_group(memory_mib)
    }

    /// A group of programs with little memory, `scan`.
    pub(super) fn make_group(&mut self, memory_mib: u64) -> Result<()> {
        self.guest
            .run(
                &format!(
                    "mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && \
                     echo +memory >/sys/fs/cgroup/cgroup.subtree_control && \
                     mkdir /sys/fs/cgroup/scan && \
                     echo {memory_mib}M >/sys/fs/cgroup/scan/memory.max"
                ),
                QUICK,
            )?
            .ok()?;
        Ok(())
    }

    /// Reads and checks the whole tree with little memory.
    pub(super) fn scan(&mut self, mib: u64, seed: u64) -> Result<Value> {
        let command = format!(
            "sh -c 'echo $$ >/sys/fs/cgroup/scan/cgroup.procs && \
             exec tmem-workload tree --do scan --path /mnt --mib {mib} --seed {seed}'"
        );
        Ok(self.guest.run(&command, LONG)?.ok()?.result()?)
    }

    /// Median times in µs of reads of a block past the page cache: from the disk, and from the host.
    pub(super) fn read_times(&mut self, seed: u64) -> Result<(u64, u64)> {
        let mut read = |path: &str| -> Result<u64> {
            let command = format!(
                "tmem-workload reads --path {path} --mib 8 --seed {seed} --count 3000 --kib 4"
            );
            number(&self.guest.run(&command, LONG)?.ok()?.result()?, "p50_us")
        };
        let disk = read("/dev/vda")?;
        // So that all of it is on the host.
        read(MAPPED)?;
        let host = read(MAPPED)?;
        Ok((disk, host))
    }

    /// Lets readers and writers run on their own until [`Scene::end_check`].
    pub(super) fn start_check(&mut self, mib: u64, seed: u64) -> Result<()> {
        let command = format!(
            "tmem-workload disk --path {MAPPED} --mib {mib} --seed {seed} --blocks 20000 \
             --pause-us 2000 --least-ms 9000 >{CHECK_LOG} 2>&1 & echo $! >/tmp/check.pid"
        );
        self.guest.run(&command, QUICK)?.ok()?;
        Ok(())
    }

    /// Waits for their end and gives their result.
    pub(super) fn end_check(&mut self) -> Result<Value> {
        let command = format!(
            "while kill -0 $(cat /tmp/check.pid) 2>/dev/null; do sleep 0.2; done; cat {CHECK_LOG}"
        );
        let output = self.guest.run(&command, LONG)?.ok()?;
        let result = output.result()?;
        ensure!(
            number(&result, "mismatches")? == 0,
            "Older blocks were read:\n{}",
            output.text()
        );
        Ok(result)
    }

    /// Binds the device that was unbound.
    pub(super) fn bind_again(&mut self) -> Result<()> {
        self.guest
            .run(
                "for d in /sys/bus/virtio/devices/*; do \
                 grep -qi d0000000d $d/modalias && basename $d >/sys/bus/virtio/drivers/virtio_tmem/bind; \
                 done; true",
                QUICK,
            )?
            .ok()?;
        Ok(())
    }

    /// A write that the disk fails keeps its block out of the cache, whatever is read of it
    /// afterwards; returns how many have failed. The target of the scene is gone after this.
    pub(super) fn failing_writes(&mut self, seed: u64) -> Result<u64> {
        const BLOCKS: u64 = 256;
        let sectors = BLOCKS * 8;
        let good = format!("0 {sectors} linear /dev/vda 0");
        // Up for no second, down for an hour, in which writes fail.
        let bad = format!("0 {sectors} flakey /dev/vda 0 0 3600 1 error_writes");
        let dm = "tmem-workload dm --name";
        let read = format!(
            "tmem-workload reads --path /dev/dm-1 --mib 1 --seed {seed} --count {BLOCKS} --kib 4 \
             --order rising"
        );
        self.guest
            .run(
                &format!(
                    "{dm} cached --do remove && {dm} below --do create --table '{good}' && \
                     {dm} above --do create --table '0 {sectors} tmem-cache /dev/dm-0' && \
                     {read} && {read} && {dm} below --do load --table '{bad}'"
                ),
                LONG,
            )?
            .ok()?;
        let write = "dd if=/dev/zero of=/dev/dm-1 bs=4k count=1 seek=7 oflag=direct conv=notrunc";
        let write = self.guest.run(write, QUICK)?;
        ensure!(
            write.status != 0,
            "The write did not fail: {}",
            write.text()
        );
        let result = self
            .guest
            .run(
                &format!(
                    "{dm} below --do load --table '{good}' && {read} && {read} && \
                     {dm} above --do status"
                ),
                LONG,
            )?
            .ok()?
            .result()?;
        let present = number(&result, "present")?;
        ensure!(
            present == BLOCKS - 1,
            "All but the block of the failed write should be cached: {result}"
        );
        let failed = number(&result, "failed_writes")?;
        self.guest
            .run(
                &format!("{dm} above --do message --text reset && {read} && {read} && {dm} above --do status"),
                LONG,
            )?
            .ok()
            .and_then(|output| output.result())
            .map_err(anyhow::Error::from)
            .and_then(|result| number(&result, "present"))
            .and_then(|present| {
                ensure!(present == BLOCKS, "After a reset {present} blocks are cached");
                Ok(())
            })?;
        self.guest
            .run(
                &format!("{dm} above --do remove && {dm} below --do remove"),
                QUICK,
            )?
            .ok()?;
        Ok(failed)
    }

    /// Tables that make no sense are refused.
    pub(super) fn refuses_nonsense(&mut self) -> Result<()> {
        for table in [
            "0 2048 tmem-cache".to_owned(),
            "0 2048 tmem-cache /dev/none".to_owned(),
            "0 2048 tmem-cache /dev/vda vtmemx".to_owned(),
            "0 2048 tmem-cache /dev/vda copies 0".to_owned(),
            "0 2048 tmem-cache /dev/vda copies".to_owned(),
            "0 2048 tmem-cache /dev/vda faster 1".to_owned(),
            "0 4 tmem-cache /dev/vda".to_owned(),
        ] {
            let command = format!(
                "tmem-workload dm --do create --name odd --table '{table}'; status=$?; \
                 tmem-workload dm --do remove --name odd; exit_with() {{ return $1; }}; exit_with $status"
            );
            let output = self.guest.run(&command, QUICK)?;
            ensure!(output.status != 0, "`{table}` was accepted");
        }
        Ok(())
    }

    /// Ends guest and daemon.
    pub(super) fn end(self) -> Result<()> {
        self.guest.shut_down()?;
        self.daemon.shut_down()?;
        Ok(())
    }
}

/// Makes the host suffer, one thing after the other.
struct Disturber<'a> {
    daemon: &'a Daemon,
    life: Duration,
    last: Instant,
    round: u32,
    stopped: Option<Worker>,
    failure: Option<anyhow::Error>,
}

impl<'a> Disturber<'a> {
    fn new(daemon: &'a Daemon, life: Duration) -> Self {
        Self {
            daemon,
            life,
            last: Instant::now(),
            round: 0,
            stopped: None,
            failure: None,
        }
    }

    /// To be called now and then.
    fn tick(&mut self) {
        if self.last.elapsed() < self.life || self.failure.is_some() {
            return;
        }
        self.last = Instant::now();
        let round = self.round;
        self.round += 1;
        self.failure = self.step(round).err();
    }

    fn step(&mut self, round: u32) -> Result<()> {
        let guest = |words: &[&str]| -> Result<()> {
            let mut all = vec!["guest"];
            all.extend(words);
            self.daemon.tell(&all)?;
            Ok(())
        };
        match round % ROUNDS {
            // Most of the cached pages go, and copies are refused for lack of room.
            0 => guest(&["limit", "vm0", "--grant", GRANT_LARGE]),
            1 => guest(&["limit", "vm0", "--grant", GRANT]),
            2 => guest(&["freeze", "vm0"]),
            3 => guest(&["thaw", "vm0"]),
            // The next one has the requests that this one had.
            4 => {
                let worker = self.daemon.worker().context("There is no worker")?;
                Ok(worker.kill()?)
            }
            // Readers have to notice that nobody answers.
            5 => {
                let worker = next_worker(self.daemon, None)?;
                worker.stop()?;
                self.stopped = Some(worker);
                Ok(())
            }
            _ => self.go_on(),
        }
    }

    fn go_on(&mut self) -> Result<()> {
        if let Some(worker) = self.stopped.take() {
            worker.go_on()?;
        }
        // Until somebody answers again.
        served(self.daemon, |_| true)?;
        Ok(())
    }

    /// Leaves the host as it was.
    fn end(mut self) -> Result<()> {
        self.go_on()?;
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        ensure!(
            self.round >= ROUNDS,
            "The host suffered {} times only; let it take longer",
            self.round
        );
        self.daemon.tell(&["guest", "thaw", "vm0"])?;
        self.daemon
            .tell(&["guest", "limit", "vm0", "--grant", GRANT])?;
        Ok(())
    }
}
