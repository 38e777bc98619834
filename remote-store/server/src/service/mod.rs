// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The program around the store: listeners, threads, signals, metrics, the service manager.
//!
//! The main thread accepts, hands over, and waits for signals; pages are served by the shards alone.
//! Start: the store with what it finds, certificates, shards, mover, listeners, and then the word that
//! it is ready. End: goodbyes, shards, mover, and the store with its files.

#[cfg(feature = "etcd")]
mod announce;
mod doors;
mod error;
mod listen;
mod logger;
mod mover;
mod notify;
mod shards;
mod tls;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use doors::Doors;
pub use error::ServiceError;
use error::trying;
use listen::Listener;
pub(crate) use listen::listen_unix;
use logger::LogThread;
use mover::MoverThread;
use notify::Notify;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shards::{Handed, Shards};
use tls::Tls;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, interval, sleep};
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::config::{Address, Config};
use crate::metrics;
use crate::store::{Identity, Opened, Store, StoreConfig};

/// Goodbyes have this long to get away.
const FAREWELL: Duration = Duration::from_millis(500);
/// Descriptors besides those of connections.
const OTHER_FILES: u64 = 128;
/// After an accept that failed for lack of something.
const BREATHER: Duration = Duration::from_millis(50);

/// Logs to standard error from now on.
///
/// # Errors
/// [`ServiceError::LogLevel`] if `level` is no level or filter.
pub fn log_to_stderr(level: &str, format: LogFormat) -> Result<(), ServiceError> {
    let filter = EnvFilter::try_new(level).map_err(|source| ServiceError::LogLevel {
        level: level.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// Serves until a signal.
///
/// # Errors
/// [`ServiceError`] if it cannot begin.
pub fn run(config: &Config) -> Result<(), ServiceError> {
    let notify = Notify::from_environment();
    raise_descriptor_limit(config.max_connections);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(trying("start the runtime"))?;
    let store = open_store(config)?;
    let tls = match &config.tls {
        Some(files) => Some(Arc::new(Tls::open(files)?)),
        None => None,
    };
    let mover = MoverThread::start(&store)?;
    let logger = LogThread::start(&store)?;
    let shards = Shards::start(&store, config.shards, &config.pin, config.poll)?;
    let served = runtime.block_on(serve(config, &store, tls, &shards, &notify));
    drop(runtime);
    shards.stop();
    drop(logger);
    drop(mover);
    served
}

fn open_store(config: &Config) -> Result<Arc<Store>, ServiceError> {
    let identity = Identity::random().map_err(trying("draw the store's id"))?;
    let store_config = StoreConfig {
        shards_max: config.shards,
        namespaces_max: config.namespaces_max,
        quotas: config.quotas.named.clone(),
        default_quota: config.quotas.others,
        only_listed: config.quotas.only_listed,
        state_dir: config.state_dir.clone(),
        pm: config.pm.clone(),
        log: config.log.clone(),
        limits: crate::Limits {
            idle: config.idle,
            ..crate::Limits::default()
        },
        ..StoreConfig::new(config.capacity_pages, identity)
    };
    let (store, opened) = Store::open(store_config)?;
    tell_what_was_found(&store, &opened);
    Ok(store)
}

fn tell_what_was_found(store: &Store, opened: &Opened) {
    let id = u128::from_be_bytes(opened.identity.store_id);
    let mib = store.capacity_pages() / 256;
    tracing::info!(
        store = format!("{id:032x}"),
        incarnation = opened.identity.incarnation,
        capacity_mib = mib,
        "store opened"
    );
    if !opened.recovery.fresh {
        let found = &opened.recovery;
        tracing::info!(
            namespaces = found.guests,
            pages = found.pages,
            damaged = found.damaged,
            whole = opened.whole,
            "pages of the last process are there"
        );
    }
}

/// Each connection takes a descriptor.
fn raise_descriptor_limit(connections: u32) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::from(connections) + OTHER_FILES;
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return;
    }
    let raised = limit.maximum.map_or(wanted, |most| most.min(wanted));
    let new = Rlimit {
        current: Some(raised.max(current)),
        maximum: limit.maximum,
    };
    let set = setrlimit(Resource::Nofile, new);
    if set.is_err() || raised < wanted {
        tracing::warn!(
            wanted,
            have = raised.max(current),
            "there may be fewer descriptors than connections: raise LimitNOFILE, or lower --max-connections"
        );
    }
}

/// What ends it, or has it read its files again.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }
}

async fn serve(
    config: &Config,
    store: &Arc<Store>,
    tls: Option<Arc<Tls>>,
    shards: &Shards,
    notify: &Notify,
) -> Result<(), ServiceError> {
    let mut signals = Signals::new().map_err(trying("wait for signals"))?;
    let doors = Doors::new(config.max_connections, config.max_connections_per_client);
    let listeners: Vec<Listener> = (config.listen.iter())
        .map(Listener::open)
        .collect::<Result<_, _>>()?;
    let metrics =
        match &config.metrics {
            Some(address) => Some(metrics::open(address, store, &doors).await.map_err(
                |source| ServiceError::Listen {
                    address: address.to_string(),
                    source,
                },
            )?),
            None => None,
        };
    for listener in &listeners {
        let address = listener.address().map_err(trying("listen"))?;
        let with_tls = matches!(address, Address::Tcp(_)) && tls.is_some();
        if !with_tls && !address.is_local() {
            tracing::warn!(%address, "whoever reaches this address reads and changes every page");
        }
        tracing::info!(%address, tls = with_tls, "listening");
        say(&format!("listening {address}"));
    }
    if let Some(address) = metrics.as_ref().and_then(metrics::Endpoint::address) {
        say(&format!("metrics {address}"));
    }
    #[cfg(feature = "etcd")]
    let announcement = match &config.etcd {
        Some(etcd) => Some(announce::Announcement::begin(etcd, store.identity())?),
        None => None,
    };
    say("ready");
    notify.ready();
    let accepting = futures_of(&listeners, &doors, tls.as_ref(), shards);
    let watching = async {
        let Some(period) = notify.watchdog() else {
            return std::future::pending().await;
        };
        let mut ticks = interval(period.max(Duration::from_millis(10)));
        loop {
            ticks.tick().await;
            notify.alive();
        }
    };
    let served = async {
        match metrics {
            Some(endpoint) => endpoint.serve().await,
            None => std::future::pending().await,
        }
    };
    let signal = async {
        loop {
            tokio::select! {
                biased;
                _ = signals.term.recv() => return "SIGTERM",
                _ = signals.int.recv() => return "SIGINT",
                _ = signals.hup.recv() => reload(config, store, tls.as_deref()),
            }
        }
    };
    let signal = tokio::select! {
        biased;
        signal = signal => signal,
        () = accepting => "nothing left to listen on",
        () = watching => "the watchdog's end",
        () = served => "the metrics' end",
    };
    tracing::info!(signal, "ending");
    notify.stopping();
    drop(listeners);
    // Clients that look for a store must not find this one any more.
    #[cfg(feature = "etcd")]
    if let Some(announcement) = announcement {
        announcement.end().await;
    }
    store.end("The store is ending");
    let deadline = Instant::now() + FAREWELL;
    while shards.connections() > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Accepts on all listeners, for ever.
async fn futures_of(
    listeners: &[Listener],
    doors: &Arc<Doors>,
    tls: Option<&Arc<Tls>>,
    shards: &Shards,
) {
    let mut accepting: Vec<_> = (listeners.iter())
        .map(|listener| Box::pin(accept(listener, doors, tls, shards)))
        .collect();
    std::future::poll_fn(|cx| {
        for future in &mut accepting {
            // None of them ends.
            let _pending = future.as_mut().poll(cx);
        }
        std::task::Poll::<()>::Pending
    })
    .await;
}

async fn accept(listener: &Listener, doors: &Arc<Doors>, tls: Option<&Arc<Tls>>, shards: &Shards) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((accepted, address, ip)) => {
                failing = false;
                match doors.enter(ip) {
                    Ok(pass) => shards.hand_over(Handed {
                        accepted,
                        address,
                        pass,
                        tls: tls.cloned(),
                    }),
                    // Closing it tells the client enough; a word each would be work for us.
                    Err(full) => tracing::debug!(client = address, "too many {full}"),
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "cannot accept connections; trying on");
                }
                sleep(BREATHER).await;
            }
        }
    }
}

/// Reads certificates and quotas again.
fn reload(config: &Config, store: &Store, tls: Option<&Tls>) {
    if let Some(tls) = tls {
        match tls.reload() {
            Ok(()) => tracing::info!("certificates read again"),
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, why, "the certificates stay as they were");
            }
        }
    }
    match config.read_quotas() {
        Ok(quotas) => {
            store.set_quotas(quotas.named, quotas.others, quotas.only_listed);
            tracing::info!("quotas read again");
        }
        Err(error) => {
            let why = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, why, "the quotas stay as they were");
        }
    }
}

/// Tells whoever started this program.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Nobody may be there to read.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
