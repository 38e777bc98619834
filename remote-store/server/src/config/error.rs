// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with a configuration. Each names the setting and what is allowed.

use std::path::PathBuf;

use thiserror::Error;

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("Cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of another type.
    #[error("Cannot use configuration file {}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: toml::de::Error,
    },
    /// Nothing to listen on.
    #[error(
        "There is nowhere to listen: give --listen tcp://IP:PORT or unix:PATH, or listen in [store]"
    )]
    NoListener,
    /// No capacity.
    #[error("There is no memory for pages: give --capacity SIZE, or capacity in [store]")]
    NoCapacity,
    /// Not a size.
    #[error(
        "{key} = {value:?} is not a size: write a whole number and KiB, MiB, GiB or TiB, a multiple of 4KiB, such as \"512MiB\""
    )]
    Size {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// A number out of range.
    #[error("{key} = {value} is not possible: {min} to {max} is")]
    Range {
        /// Which setting.
        key: &'static str,
        /// What it was set to.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Not an address.
    #[error("{key} = {value:?} is not an address: write tcp://IP:PORT, or unix:PATH")]
    Address {
        /// Which setting.
        key: &'static str,
        /// What it was set to.
        value: String,
    },
    /// Not a quota.
    #[error("--quota {value} is not a quota: write NAME=SIZE, such as host7=16GiB")]
    Quota {
        /// What was given.
        value: String,
    },
    /// Not a namespace's name.
    #[error("A quota cannot be given")]
    Namespace {
        /// Why.
        #[from]
        source: tmem_remote_protocol::ProtocolError,
    },
    /// Two quotas for one namespace.
    #[error("Namespace {name} has two quotas: leave one")]
    Twice {
        /// The namespace.
        name: String,
    },
    /// Clients from elsewhere without certificates.
    #[error(
        "Listening on {address} needs certificates, for it is reached from other hosts: give --cert, --key and --client-ca (remote-store cert makes some), or --insecure if everybody who reaches it may read and change every page"
    )]
    NeedsTls {
        /// Where.
        address: String,
    },
    /// Two that exclude each other.
    #[error("--insecure and certificates exclude each other: leave one")]
    InsecureTls,
    /// Part of what TLS needs.
    #[error("Certificates are given in part: cert, key and client_ca belong together")]
    PartOfTls,
    /// Pinned threads without processors.
    #[error("pin names {pins} processors for {shards} shards: name one for each, or leave it out")]
    Pins {
        /// Processors.
        pins: usize,
        /// Shards.
        shards: u16,
    },
    /// etcd without an address to announce.
    #[error(
        "A store is announced in etcd under the address that clients reach it at: give --advertise"
    )]
    NoAdvertise,
    /// This program was built without it.
    #[error("This remote-store was built without {feature}: leave {key} out, or build it with it")]
    NotBuilt {
        /// Which setting.
        key: &'static str,
        /// What it needs.
        feature: &'static str,
    },
}
