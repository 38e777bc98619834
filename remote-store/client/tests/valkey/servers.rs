// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real servers, as processes of the test. All are ended by their ids when the test ends.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redis::{Connection, Value, cmd};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;

/// How long a cluster may take to be whole; a failover takes about 2 seconds.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// One test with servers at a time: there are few processors, and failovers go by time.
static ONE: Mutex<()> = Mutex::new(());

/// The program to run, with what it calls itself.
fn program() -> Option<(PathBuf, String)> {
    let version = |path: &PathBuf| {
        let output = Command::new(path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let number = text.split("v=").nth(1)?.split('.').next()?.parse::<u32>();
        (number.ok()? >= 7).then_some(text)
    };
    let given = std::env::var_os("TMEM_VALKEY_SERVER").map(PathBuf::from);
    let must = given.is_some() || std::env::var_os("CI").is_some();
    let tried = match given {
        Some(path) => vec![path],
        None => vec!["valkey-server".into(), "redis-server".into()],
    };
    let found = tried
        .into_iter()
        .find_map(|path| version(&path).map(|text| (path, text)));
    assert!(
        found.is_some() || !must,
        "no valkey-server runs here: install Debian's valkey-server (backports on Debian 12), or set \
         TMEM_VALKEY_SERVER to the program"
    );
    found
}

/// One server.
pub(crate) struct Server {
    pub(crate) port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// Some servers, alone on this machine as far as these tests go.
pub(crate) struct Servers {
    program: PathBuf,
    pub(crate) all: Vec<Server>,
    folder: TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Servers {
    /// Starts servers with these settings; `None`, with a word about it, if there is no program.
    pub(crate) fn start(count: usize, settings: &[(&str, &str)]) -> Option<Self> {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((program, version)) = program() else {
            println!(
                "SKIPPED: no valkey-server, and no redis-server of version 7 or later, runs here"
            );
            return None;
        };
        println!("server: {} ({version})", program.display());
        let mut servers = Self {
            program,
            all: Vec::new(),
            folder: tempfile::tempdir().unwrap(),
            _one: one,
        };
        let ports = free_ports(2 * count);
        for (number, ports) in ports.chunks_exact(2).enumerate() {
            let folder = servers.folder.path().join(number.to_string());
            std::fs::create_dir(&folder).unwrap();
            let (port, bus) = (ports[0].to_string(), ports[1].to_string());
            let mut options: BTreeMap<&str, &str> = [
                ("bind", "127.0.0.1"),
                ("port", &port),
                ("cluster-port", &bus),
                ("dir", folder.to_str().unwrap()),
                ("logfile", "log"),
                ("save", ""),
                ("appendonly", "no"),
                ("daemonize", "no"),
                ("cluster-enabled", "yes"),
                ("cluster-node-timeout", "1000"),
                ("cluster-require-full-coverage", "no"),
                ("cluster-allow-reads-when-down", "no"),
                ("repl-diskless-sync-delay", "0"),
                ("maxmemory", "256mb"),
                ("maxmemory-policy", "noeviction"),
                ("min-replicas-to-write", "1"),
                ("min-replicas-max-lag", "2"),
            ]
            .into();
            options.extend(settings.iter().copied());
            if options["cluster-enabled"] == "no" {
                options.remove("cluster-port");
            }
            let arguments = options
                .into_iter()
                .flat_map(|(name, value)| [format!("--{name}"), value.to_owned()])
                .collect();
            servers.all.push(Server {
                port: ports[0],
                arguments,
                child: None,
            });
            servers.restart(number);
        }
        Some(servers)
    }

    /// Three primaries with a replica each: servers 0 to 2 and 3 to 5, to begin with.
    pub(crate) fn cluster(settings: &[(&str, &str)]) -> Option<Self> {
        let servers = Self::start(6, settings)?;
        let mut first = servers.connect(0);
        for (number, range) in [(0, [0, 5460]), (1, [5461, 10922]), (2, [10923, 16383])] {
            let mut connection = servers.connect(number);
            let _: () = cmd("CLUSTER")
                .arg("ADDSLOTSRANGE")
                .arg(&range)
                .query(&mut connection)
                .unwrap();
            let _: () = (cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(number + 1))
                .query(&mut connection)
                .unwrap();
        }
        for server in &servers.all[1..] {
            let mut meet = cmd("CLUSTER");
            meet.arg("MEET").arg("127.0.0.1").arg(server.port);
            // The bus is not where it would be by default.
            let bus = server
                .arguments
                .iter()
                .skip_while(|word| *word != "--cluster-port")
                .nth(1);
            let _: () = meet.arg(bus).query(&mut first).unwrap();
        }
        for number in 0..3 {
            let mut connection = servers.connect(number);
            let id: String = cmd("CLUSTER").arg("MYID").query(&mut connection).unwrap();
            let replica = number + 3;
            wait("a replica to know its primary", || {
                let mut connection = servers.connect(replica);
                cmd("CLUSTER")
                    .arg("REPLICATE")
                    .arg(&id)
                    .query::<()>(&mut connection)
                    .is_ok()
            });
        }
        servers.wait_whole();
        Some(servers)
    }

    /// Waits until three primaries have all hash slots and a replica each that is connected.
    pub(crate) fn wait_whole(&self) {
        wait("the cluster to be whole", || {
            (0..self.all.len()).all(|number| self.is_sound(number)) && self.primaries().len() == 3
        });
    }

    fn is_sound(&self, number: usize) -> bool {
        let Some(mut connection) = self.try_connect(number) else {
            return false;
        };
        let mut info = |command: &str, section: &str| -> String {
            cmd(command)
                .arg(section)
                .query(&mut connection)
                .unwrap_or_default()
        };
        let replication = info("INFO", "replication");
        let cluster = info("CLUSTER", "INFO");
        let has = |text: &str, line: &str| text.lines().any(|other| other.trim() == line);
        let linked = if has(&replication, "role:master") {
            replication
                .lines()
                .any(|line| line.starts_with("slave0:") && line.contains("state=online"))
        } else {
            has(&replication, "master_link_status:up")
        };
        let ranges: Vec<Vec<Value>> = (cmd("CLUSTER").arg("SLOTS"))
            .query(&mut connection)
            .unwrap_or_default();
        // First, last, the primary, a replica.
        let all_replicated = !ranges.is_empty() && ranges.iter().all(|range| range.len() >= 4);
        linked
            && all_replicated
            && has(&cluster, "cluster_state:ok")
            && has(&cluster, "cluster_known_nodes:6")
            && has(&cluster, "cluster_size:3")
    }

    /// The servers that call themselves primaries of some hash slots.
    pub(crate) fn primaries(&self) -> Vec<usize> {
        (0..self.all.len())
            .filter(|number| {
                let Some(mut connection) = self.try_connect(*number) else {
                    return false;
                };
                let nodes: String = (cmd("CLUSTER").arg("NODES"))
                    .query(&mut connection)
                    .unwrap_or_default();
                nodes.lines().any(|line| {
                    line.contains("myself,master") && line.split_ascii_whitespace().count() > 8
                })
            })
            .collect()
    }

    /// The server that a sound one calls the primary of a key.
    pub(crate) fn primary_of(&self, key: &str) -> usize {
        (0..self.all.len())
            .find_map(|number| self.primary_by(number, key))
            .unwrap()
    }

    fn primary_by(&self, number: usize, key: &str) -> Option<usize> {
        let mut connection = self.try_connect(number)?;
        let hashed: i64 = (cmd("CLUSTER").arg("KEYSLOT").arg(key))
            .query(&mut connection)
            .ok()?;
        let ranges: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query(&mut connection).ok()?;
        let port = ranges.iter().find_map(|range| match range.as_slice() {
            [
                Value::Int(first),
                Value::Int(last),
                Value::Array(primary),
                ..,
            ] if (*first..=*last).contains(&hashed) => match primary.get(1) {
                Some(Value::Int(port)) => Some(*port),
                _ => None,
            },
            _ => None,
        })?;
        self.all
            .iter()
            .position(|server| i64::from(server.port) == port)
    }

    /// `host:port` of all.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.all
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect()
    }

    /// A connection to a server that answers.
    pub(crate) fn connect(&self, number: usize) -> Connection {
        let mut found = None;
        wait("a server to answer", || {
            found = self.try_connect(number);
            found.is_some()
        });
        found.unwrap()
    }

    fn try_connect(&self, number: usize) -> Option<Connection> {
        let limit = Duration::from_millis(500);
        let port = self.all[number].port;
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
        let mut connection = client.get_connection_with_timeout(limit).ok()?;
        connection.set_read_timeout(Some(limit)).ok()?;
        cmd("PING").query::<()>(&mut connection).ok()?;
        Some(connection)
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.all[number].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts a server that is not running, with what is in its folder.
    pub(crate) fn restart(&mut self, number: usize) {
        let server = &mut self.all[number];
        assert!(server.child.is_none());
        let child = Command::new(&self.program)
            .args(&server.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        server.child = Some(child);
    }

    /// SIGSTOP, and until all threads have stopped.
    pub(crate) fn freeze(&self, number: usize) {
        let process = self.process(number);
        kill_process(process, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(process), WaitOptions::UNTRACED)
            .unwrap()
            .unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self, number: usize) {
        kill_process(self.process(number), Signal::CONT).unwrap();
    }

    fn process(&self, number: usize) -> Pid {
        Pid::from_child(self.all[number].child.as_ref().unwrap())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for number in 0..self.all.len() {
            self.kill(number);
        }
    }
}

/// Waits until something holds, and fails if it never does.
pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < WHOLE_MAX, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Ports that nobody listens on, all different.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}
