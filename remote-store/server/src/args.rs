// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line. Man page and completions are made from it.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  A store for tests, on this host alone:
    remote-store serve --listen tcp://127.0.0.1:7440 --capacity 1GiB
  Certificates for two hosts and one client, and a store that other hosts reach:
    remote-store cert ca --out certs
    remote-store cert server --out certs --ca certs --name store1 --san store1.example --san 10.0.0.1
    remote-store cert client --out certs --ca certs --namespace host7
    remote-store serve --listen tcp://0.0.0.0:7440 --capacity 64GiB --state-dir /dev/shm/remote-store \\
        --cert certs/store1.pem --key certs/store1.key --client-ca certs/ca.pem
  Everything from a file:
    remote-store serve --config /etc/tmem/remote-store.toml

Exit codes: 0 ended by a signal, or done; 1 failed; 2 wrong usage.";

/// Keeps pages of other hosts in this host's memory
#[derive(Clone, Debug, Parser)]
#[command(name = "remote-store", version, about, long_about, after_help = EXAMPLES)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve pages, until SIGTERM or SIGINT. Does not put itself into the background
    #[command(after_help = EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Make a certificate authority, and certificates that it signs
    #[command(subcommand)]
    Cert(CertCommand),
}

/// `remote-store serve`. What is given here goes before what the file says.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct ServeArgs {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Listen here: tcp://IP:PORT (port 0: any), or unix:PATH; may be given several times. Beyond
    /// loopback and Unix sockets clients need certificates
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Vec<String>,

    /// Memory for pages, such as 64GiB
    #[arg(long, value_name = "SIZE")]
    pub capacity: Option<String>,

    /// Keep pages, and which store this is, in files in this folder, so that they outlive the process;
    /// on tmpfs, such as /dev/shm [default: anonymous memory, which ends with the process]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Keep pages that memory has no room for in this file
    #[arg(long, value_name = "FILE", requires = "pm_size")]
    pub pm_file: Option<PathBuf>,

    /// How much of it, such as 256GiB
    #[arg(long, value_name = "SIZE", requires = "pm_file")]
    pub pm_size: Option<String>,

    /// What its pages outlive: `process`, or `host` as well, which is slower [default: process]
    #[arg(long, value_name = "WHAT", requires = "pm_file")]
    pub pm_durability: Option<PmDurability>,

    /// The certificate that this store shows, PEM
    #[arg(long, value_name = "FILE", requires_all = ["key", "client_ca"])]
    pub cert: Option<PathBuf>,

    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Clients must show a certificate that this authority signed, PEM. All three files are read again
    /// at SIGHUP
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub client_ca: Option<PathBuf>,

    /// Listen beyond loopback without certificates: whoever reaches the port reads and changes every
    /// page
    #[arg(long)]
    pub insecure: bool,

    /// The most that a namespace may keep, such as host7=16GiB; may be given several times
    #[arg(long = "quota", value_name = "NAME=SIZE")]
    pub quotas: Vec<String>,

    /// The most that each other namespace may keep [default: all that there is]
    #[arg(long, value_name = "SIZE")]
    pub default_quota: Option<String>,

    /// Refuse namespaces that have no quota of their own
    #[arg(long)]
    pub only_listed: bool,

    /// The most namespaces [default: 64]
    #[arg(long, value_name = "N")]
    pub namespaces_max: Option<u16>,

    /// Threads that serve pages [default: as many as there are processors, 8 at most]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,

    /// The longest that a shard polls for requests before it sleeps, in microseconds; 0: never
    /// [default: 50]
    #[arg(long, value_name = "MICROSECONDS")]
    pub poll_us: Option<u32>,

    /// Pin the shards to these processors, one each, such as 2,3
    #[arg(long, value_name = "CPU,…", value_delimiter = ',')]
    pub pin: Vec<u16>,

    /// Serve /metrics and /healthz here: IP:PORT, or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,

    /// The most connections at one time [default: 16384]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<u32>,

    /// The most of them from one IP address [default: 4096]
    #[arg(long, value_name = "N")]
    pub max_connections_per_client: Option<u32>,

    /// End connections on which nothing was asked for in so many seconds [default: never]
    #[arg(long, value_name = "SECONDS")]
    pub idle_timeout: Option<u32>,

    /// Keep a copy of every persistent page in a log in this file: a put is answered once it is there
    #[arg(long, value_name = "FILE", requires = "log_size")]
    pub log: Option<PathBuf>,

    /// How long the log's file is, such as 128GiB: more than the pages that it is to hold, by a quarter
    /// at least
    #[arg(long, value_name = "SIZE", requires = "log")]
    pub log_size: Option<String>,

    /// What an answered put outlives by it: `process`, or `host` as well, which waits for the disk
    /// [default: host]
    #[arg(long, value_name = "WHAT", requires = "log")]
    pub log_sync: Option<PmDurability>,

    /// Start with what can be read of a damaged log; its other pages are lost here
    #[arg(long)]
    pub log_salvage: bool,

    /// Announce this store in etcd, at these URLs
    #[arg(
        long,
        value_name = "URL,…",
        value_delimiter = ',',
        requires = "advertise"
    )]
    pub etcd: Vec<String>,

    /// The address that is announced, as clients reach it
    #[arg(long, value_name = "ADDRESS")]
    pub advertise: Option<String>,

    /// The name that is announced [default: the address]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// What to log: error, warn, info, debug, trace, or filters as in `info,remote_store=debug`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// How to log, always on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// What pages in a file outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PmDurability {
    /// The process.
    Process,
    /// The host too.
    Host,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `remote-store cert`.
#[derive(Clone, Debug, Subcommand)]
pub enum CertCommand {
    /// Make a certificate authority: ca.pem and ca.key
    Ca(CaArgs),
    /// Make a store's certificate: NAME.pem and NAME.key
    Server(ServerCertArgs),
    /// Make a client's certificate, for the namespaces that it may use: NAME.pem and NAME.key
    Client(ClientCertArgs),
}

/// Where certificates go, and for how long they are good.
#[derive(Clone, Debug, ClapArgs)]
pub struct CertArgs {
    /// The folder that the files are written to; made if it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// Days that the certificate is good for
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    pub days: u32,

    /// Days ago from which on it is good; more than --days makes one that has expired
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    pub days_ago: u32,

    /// Write over files that are there
    #[arg(long)]
    pub force: bool,
}

/// `remote-store cert ca`.
#[derive(Clone, Debug, ClapArgs)]
pub struct CaArgs {
    /// Where to and for how long
    #[command(flatten)]
    pub cert: CertArgs,

    /// The authority's name
    #[arg(long, value_name = "NAME", default_value = "virtio-tmem stores")]
    pub name: String,
}

/// `remote-store cert server`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ServerCertArgs {
    /// Where to and for how long
    #[command(flatten)]
    pub cert: CertArgs,

    /// The folder of the authority's ca.pem and ca.key
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,

    /// The files' name
    #[arg(long, value_name = "NAME", default_value = "server")]
    pub name: String,

    /// A host name or IP address under which clients reach the store; may be given several times
    #[arg(long = "san", value_name = "HOST", required = true)]
    pub sans: Vec<String>,
}

/// `remote-store cert client`.
#[derive(Clone, Debug, ClapArgs)]
pub struct ClientCertArgs {
    /// Where to and for how long
    #[command(flatten)]
    pub cert: CertArgs,

    /// The folder of the authority's ca.pem and ca.key
    #[arg(long, value_name = "DIR")]
    pub ca: PathBuf,

    /// A namespace that the client may use; may be given several times
    #[arg(long = "namespace", value_name = "NAME", required = true)]
    pub namespaces: Vec<String>,

    /// The files' name [default: the first namespace]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}
