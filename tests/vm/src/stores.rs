// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real `remote-store` processes on loopback, which a daemon keeps its guests' pages on, and which tests
//! kill.

use crate::process::Process;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Names of the stores, and so how many there are.
pub const NAMES: [&str; 3] = ["store1", "store2", "store3"];
const START_DEADLINE: Duration = Duration::from_secs(30);
/// What the program says when clients may come.
const READY: &str = "ready";
const LISTENING: &str = "listening tcp://";

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its program or its log.
    #[error("Cannot start {name}, or read {log}")]
    Io {
        /// The store.
        name: &'static str,
        /// Its log.
        log: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It does not serve.
    #[error("{name} does not serve; {log} says:\n{said}")]
    Silent {
        /// The store.
        name: &'static str,
        /// Its log.
        log: PathBuf,
        /// What is in it.
        said: String,
    },
}

#[derive(Debug)]
struct Store {
    name: &'static str,
    address: String,
    process: Process,
}

/// Three stores. Dropping them kills them.
#[derive(Debug)]
pub struct Stores {
    program: PathBuf,
    logs: PathBuf,
    capacity_mib: u32,
    stores: Vec<Store>,
}

impl Stores {
    /// Starts them, with so much memory each and with their logs in `logs`.
    ///
    /// # Errors
    /// If one does not serve within 30 s.
    pub fn start(program: &Path, capacity_mib: u32, logs: &Path) -> Result<Self, Error> {
        let mut stores = Self {
            program: program.to_owned(),
            logs: logs.to_owned(),
            capacity_mib,
            stores: Vec::new(),
        };
        for name in NAMES {
            let store = stores.serve(name, "127.0.0.1:0")?;
            stores.stores.push(store);
        }
        Ok(stores)
    }

    fn serve(&self, name: &'static str, listen: &str) -> Result<Store, Error> {
        let log = self.logs.join(format!("{name}.log"));
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--listen", &format!("tcp://{listen}")])
            .args(["--capacity", &format!("{}MiB", self.capacity_mib)]);
        let failed = |source| Error::Io {
            name,
            log: log.clone(),
            source,
        };
        let process = Process::spawn(command, &log).map_err(failed)?;
        let start = Instant::now();
        loop {
            let said = std::fs::read_to_string(&log).map_err(failed)?;
            let address = said.lines().find_map(|line| line.strip_prefix(LISTENING));
            if let Some(address) = address
                && said.lines().any(|line| line == READY)
            {
                return Ok(Store {
                    name,
                    address: address.to_owned(),
                    process,
                });
            }
            if process.has_ended() || start.elapsed() > START_DEADLINE {
                return Err(Error::Silent { name, log, said });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The tables of a daemon whose remote tier is on them, two copies of each page; `bandwidth` bounds
    /// what a second of repair copies.
    #[must_use]
    pub fn tables(&self, size: &str, bandwidth: &str) -> String {
        let mut text = format!(
            "\n[remote]\nkind = \"stores\"\nsize = {size:?}\nreplicas = 2\nnamespace = \"guests\"\n\
             repair_bandwidth = {bandwidth:?}\n"
        );
        for store in &self.stores {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n[[remote.store]]\naddress = {:?}\nlabel = {:?}\n",
                store.address, store.name
            );
        }
        text
    }

    /// Kills the store of this number by SIGKILL.
    pub fn kill(&self, nth: usize) {
        if let Some(store) = self.stores.get(nth) {
            store.process.kill();
        }
    }

    /// Starts it again, empty, where it was.
    ///
    /// # Errors
    /// If it does not serve within 30 s.
    pub fn start_again(&mut self, nth: usize) -> Result<(), Error> {
        let Some(store) = self.stores.get(nth) else {
            return Ok(());
        };
        let again = self.serve(store.name, &store.address)?;
        if let Some(store) = self.stores.get_mut(nth) {
            *store = again;
        }
        Ok(())
    }
}
