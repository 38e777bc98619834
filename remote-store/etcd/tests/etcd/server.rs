// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An etcd of our own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;
use tmem_etcd::{Client, ClientConfig, Endpoint};

/// How long a real process may take for what it does at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Etcd {
    child: Option<Child>,
    directory: TempDir,
    port: u16,
    peer_port: u16,
    tls: bool,
}

/// What a server with TLS needs, as PEM.
pub(crate) struct Tls {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn program() -> String {
    std::env::var("TMEM_ETCD").unwrap_or_else(|_| "etcd".into())
}

impl Etcd {
    fn new(tls: bool) -> Self {
        Self {
            child: None,
            directory: TempDir::new().unwrap(),
            port: free_port(),
            peer_port: free_port(),
            tls,
        }
    }

    pub(crate) async fn start() -> Self {
        let mut etcd = Self::new(false);
        etcd.run().await;
        etcd
    }

    /// One that asks for certificates. `client` makes a client that it takes.
    pub(crate) async fn start_with_tls(tls: Tls, client: impl Fn(&Endpoint) -> Client) -> Self {
        let mut etcd = Self::new(true);
        for (name, pem) in [
            ("ca.pem", &tls.authority),
            ("cert.pem", &tls.certificate),
            ("key.pem", &tls.key),
        ] {
            std::fs::write(etcd.directory.path().join(name), pem).unwrap();
        }
        let client = client(&etcd.endpoint());
        etcd.run_until(&client).await;
        etcd
    }

    /// Starts the process, which finds what an earlier one left.
    pub(crate) async fn run(&mut self) {
        let client = self.client();
        self.run_until(&client).await;
    }

    /// Starts the process and waits until it answers this client.
    async fn run_until(&mut self, ready: &Client) {
        let client = self.endpoint().to_string();
        let file = |name| self.directory.path().join(name);
        let mut command = Command::new(program());
        if self.tls {
            command.arg("--client-cert-auth");
            for (option, name) in [
                ("--trusted-ca-file", "ca.pem"),
                ("--cert-file", "cert.pem"),
                ("--key-file", "key.pem"),
            ] {
                command.arg(option).arg(file(name));
            }
        }
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let child = command
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")])
            .args(["--logger", "zap", "--log-outputs", "stderr"])
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!(
                "cannot start {}: {error}. These tests need etcd: install Debian's package \
                 etcd-server, or name the program in TMEM_ETCD",
                program()
            )
        });
        self.child = Some(child);
        let begun = Instant::now();
        while ready.put("/ready", b"", None).await.is_err() {
            if begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.directory.path().join("log"));
                panic!("etcd does not answer. Its log: {}", log.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the process where it is (SIGSTOP), all of its threads, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let process = Pid::from_child(self.child.as_ref().unwrap());
        if frozen {
            kill_process(process, Signal::STOP).unwrap();
            // Those on other processors may go on for a while.
            let (_, status) = waitpid(Some(process), WaitOptions::UNTRACED)
                .unwrap()
                .unwrap();
            assert!(status.stopped(), "{status:?}");
        } else {
            kill_process(process, Signal::CONT).unwrap();
        }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let scheme = if self.tls { "https" } else { "http" };
        let text = format!("{scheme}://127.0.0.1:{}", self.port);
        text.parse().unwrap()
    }

    /// A client that gives up before a test does, and late enough for a busy machine.
    pub(crate) fn client(&self) -> Client {
        client(vec![self.endpoint()])
    }

    /// Forgets all revisions before the present one, as an operator may.
    pub(crate) async fn compact(&self) {
        let revision = self.client().list("/").await.unwrap().revision;
        let body = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        let answer = Self::post(self.port, "/v3/kv/compaction", &body).await;
        assert!(answer.contains("revision"), "{answer}");
    }

    async fn post(port: u16, path: &str, body: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

pub(crate) fn client(endpoints: Vec<Endpoint>) -> Client {
    let config = ClientConfig {
        timeout: Duration::from_secs(3),
        ..ClientConfig::new(endpoints)
    };
    Client::new(config).unwrap()
}

/// An endpoint where nobody listens.
pub(crate) fn nobody() -> Endpoint {
    format!("http://127.0.0.1:{}", free_port()).parse().unwrap()
}

/// Waits for something that a real process does in its own time.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come to be");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
