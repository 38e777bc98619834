// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A store with certificates, and the neighbour: a client that writes and reads all the while.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tmem_remote_client::connect::{Connector, Network, NetworkConfig, Tls, Wire};
use tmem_remote_protocol::{Farewell, Hello, Session};
use tmem_store_tests::Stamp;
use tmem_store_tests::cluster::{StoreOptions, StoreProcess, remote_store};
use tmem_store_tests::peer::{Answer, Greeting, RawPeer, hello};

/// No answer takes the neighbour longer, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(5);

/// A folder with certificates, and a store.
pub(crate) struct Stage {
    folder: TempDir,
    pub(crate) store: StoreProcess,
}

impl Stage {
    /// A store that demands certificates of the authority in `good`, with the namespaces `neighbour`
    /// and `mallory`; an authority that it does not know is in `bad`.
    pub(crate) fn with_certificates(options: StoreOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for authority in ["good", "bad"] {
            certificate(&["ca", "--out"], &at.join(authority), &[]);
            for namespace in ["neighbour", "mallory"] {
                let client = ["--namespace", namespace];
                certify(&at.join(authority), "client", &client);
            }
        }
        let good = at.join("good");
        certify(&good, "server", &["--san", "127.0.0.1", "--name", "store"]);
        let options = options
            .with("--cert", good.join("store.pem"))
            .with("--key", good.join("store.key"))
            .with("--client-ca", good.join("ca.pem"));
        let store = StoreProcess::start(options, &at.join("log"), None).unwrap();
        Self { folder, store }
    }

    /// A store on loopback that demands none.
    pub(crate) fn open(options: StoreOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let store = StoreProcess::start(options, &log, None).unwrap();
        Self { folder, store }
    }

    pub(crate) fn folder(&self, authority: &str) -> PathBuf {
        self.folder.path().join(authority)
    }

    /// What a client of this certificate connects with.
    pub(crate) fn network(&self, authority: &str, name: &str, trusts: &str) -> Network {
        let read = |path: PathBuf| std::fs::read(path).unwrap();
        let tls = Tls {
            ca: read(self.folder(trusts).join("ca.pem")),
            cert: read(self.folder(authority).join(format!("{name}.pem"))),
            key: read(self.folder(authority).join(format!("{name}.key"))),
        };
        let config = NetworkConfig {
            tls: Some(tls),
            insecure: false,
        };
        Network::new(&config).unwrap()
    }

    /// What a client without a certificate connects with.
    pub(crate) fn plain() -> Network {
        Network::new(&NetworkConfig::default()).unwrap()
    }

    /// The neighbour starts its work.
    pub(crate) fn neighbour(&self, network: Network) -> Neighbour {
        let address = self.store.address();
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let told = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || block_on(work(network, address, told)));
        Neighbour { stop, done, thread }
    }

    /// The store's resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let process = self.store.pid().unwrap().as_raw_nonzero();
        let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    }
}

fn certificate(command: &[&str], out: &Path, more: &[&str]) {
    let status = Command::new(remote_store().unwrap())
        .arg("cert")
        .args(command)
        .arg(out)
        .args(more)
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.unwrap().success(), "remote-store cert {command:?}");
}

/// Makes a certificate of the authority in `folder`, there.
pub(crate) fn certify(folder: &Path, kind: &str, more: &[&str]) {
    let ca = folder.to_str().unwrap();
    let more = [&["--ca", ca], more].concat();
    certificate(&[kind, "--out"], folder, &more);
}

/// What a client meets that says hello in a network.
pub(crate) async fn greet(
    network: &Network,
    address: &str,
    hello: &Hello,
) -> Result<(Box<RawPeer<Wire>>, u64), Outcome> {
    let stream = network.connect(address).await;
    let stream = stream.map_err(|error| Outcome::Failed(error.to_string()))?;
    match RawPeer::greet(stream, hello).await {
        Ok(Greeting::Welcome(peer, welcome)) => Ok((peer, welcome.incarnation)),
        Ok(Greeting::Refused(farewell)) => Err(Outcome::Refused(farewell)),
        Err(error) => Err(Outcome::Failed(error.to_string())),
    }
}

/// How a client was not let in.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The connection failed.
    Failed(String),
    /// The store said why.
    Refused(Farewell),
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

/// A client that does nothing wrong.
pub(crate) struct Neighbour {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<Work>,
}

/// What the neighbour has done.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) pages: u64,
    pub(crate) slowest: Duration,
    pub(crate) complaint: Option<String>,
}

impl Neighbour {
    /// Ends the work, which must have gone on all the while without a mistake.
    pub(crate) fn end(self) -> Work {
        // It must go on after what the others did, too.
        let before = self.done.load(Ordering::Relaxed);
        let start = Instant::now();
        while self.done.load(Ordering::Relaxed) < before + 25 && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        self.stop.store(true, Ordering::Relaxed);
        let work = self.thread.join().unwrap();
        assert_eq!(work.complaint, None, "{work:?}");
        assert!(work.pages > 20, "{work:?}");
        assert!(work.slowest < PATIENCE, "{work:?}");
        work
    }
}

async fn work(
    network: Network,
    address: String,
    (stop, done): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> Work {
    let mut work = Work::default();
    let hello = hello("neighbour", 7, Session::Data).unwrap();
    let mut peer = match greet(&network, &address, &hello).await {
        Ok((peer, _)) => peer,
        Err(outcome) => {
            work.complaint = Some(format!("{outcome:?}"));
            return work;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        work.pages += 1;
        let key = u32::try_from(work.pages % 64).unwrap();
        let stamp = Stamp {
            writer: 1,
            key,
            version: work.pages,
        };
        let start = Instant::now();
        let put = peer.put(key, work.pages, &stamp.page()).await;
        let got = peer.get(key).await;
        work.slowest = work.slowest.max(start.elapsed());
        done.fetch_add(1, Ordering::Relaxed);
        let right = matches!(&got, Answer::Status(_, Some(page)) if Stamp::of(page) == Some(stamp));
        if !put.is_ok() || !right {
            work.complaint = Some(format!("put {put:?}, then page {stamp:?} was not read"));
            return work;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    work
}
