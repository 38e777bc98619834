// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can be wrong with a configuration. Each names the setting and what is allowed.

use std::path::PathBuf;

use crate::limits::STORES_MAX;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("Cannot read configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("Cannot use configuration file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<ConfigError>,
    },
    /// Not TOML, an unknown key, a missing one, or a value of another type.
    #[error("Not a configuration: {}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    /// Not a size.
    #[error(
        "{key} = {value:?} is not a size: write a whole number and B, KiB, MiB, GiB or TiB, such as \"512MiB\""
    )]
    Size {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// A size that is no whole number of pages, or none, or too many.
    #[error("{key} = {value:?} is not possible: it must be a multiple of 4KiB, from 4KiB to 15TiB")]
    SizeRange {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// A number out of range.
    #[error("{key} = {value} is not possible: {min} to {max} is")]
    Range {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// Not a name.
    #[error(
        "{key} = {value:?} is not a guest's name: 1 to 64 letters, digits, '-', '_' and '.' are, the first a letter or digit"
    )]
    Name {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// Two guests with one name or socket.
    #[error("{key} = {value:?} is used twice: each guest needs its own")]
    Twice {
        /// Which setting.
        key: String,
        /// What both were set to.
        value: String,
    },
    /// No guest.
    #[error("There is no guest to serve: add a [[guest]] with name, socket and grant")]
    NoGuest,
    /// Neither file nor socket.
    #[error("There is no guest to serve: give --config FILE, --socket-path PATH or --fd FDNUM")]
    NoSocket,
    /// More is promised than there is.
    #[error(
        "The grants add up to {granted} pages of 4KiB and the tiers hold {held}: lower a grant, raise the tiers to {} MiB together at least, or set overcommit = true and live with puts that fail",
        granted.div_ceil(256)
    )]
    Overcommitted {
        /// Pages promised.
        granted: u64,
        /// Pages that all tiers hold together.
        held: u64,
    },
    /// The guests' floors do not fit into DRAM.
    #[error(
        "The floors add up to {floors} pages of 4KiB and dram holds {dram}: lower a floor or raise dram to {} MiB at least",
        floors.div_ceil(256)
    )]
    Floors {
        /// Pages that guests always have room for.
        floors: u64,
        /// Pages that there are.
        dram: u64,
    },
    /// A guest's floor is above its cap.
    #[error("{key} is above the guest's dram_cap: it could never have that much")]
    FloorAboveCap {
        /// Which setting.
        key: String,
    },
    /// The size of DRAM is missing or given twice.
    #[error(
        "The size of dram must be given once, and is given {times}: as size in section [dram], or as dram in section [daemon]"
    )]
    DramSize {
        /// `twice` or `nowhere`.
        times: &'static str,
    },
    /// The most that DRAM can grow to is less than it has.
    #[error("dram.max is below the size of dram, {size} MiB: leave it out, or raise it")]
    DramMax {
        /// The size.
        size: u64,
    },
    /// Not a percentage.
    #[error(
        "{key} = {value:?} is not possible: write a whole number of percent, such as \"5%\", up to \"90%\""
    )]
    Percent {
        /// Which setting.
        key: String,
        /// What it was set to.
        value: String,
    },
    /// The watermarks are no distance apart.
    #[error(
        "dram.low_watermark = \"{low}%\" must be below dram.high_watermark = \"{high}%\": pages leave dram when less than the lower part of it is free, until the higher part is"
    )]
    Watermarks {
        /// Percent.
        low: u8,
        /// Percent.
        high: u8,
    },
    /// A link cannot be set to that.
    #[error("{key} is not what a link can be set to")]
    Link {
        /// Which setting.
        key: String,
        /// Which word, and what would be right.
        source: tmem_pages::link::LinkError,
    },
    /// DiME's word for the DRAM cap, in a place that belongs to no guest or has a better one.
    #[error("{key} has local_npages, which is no property of a link: use dram_cap of the guest")]
    LocalPages {
        /// Which setting.
        key: String,
    },
    /// There is no such policy.
    #[error("{key} names a policy that there is not")]
    Policy {
        /// Which setting.
        key: String,
        /// Which there are.
        source: tmem_pages::policy::UnknownPolicy,
    },
    /// Not an absolute path.
    #[error("{key} = {path} is not an absolute path")]
    NotAbsolute {
        /// Which setting.
        key: &'static str,
        /// What it was set to.
        path: PathBuf,
    },
    /// A page that does not outlive the host's crash cannot be kept over it.
    #[error(
        "pm.keep_over_reboot = true needs pm.durability = \"host\": pages that only outlive the process are worth nothing after a reboot"
    )]
    KeepNeedsHost,
    /// A link leads to a tier that is not there.
    #[error(
        "{key} is about a tier that there is not: add a section [{tier}], or leave the link out"
    )]
    NoTier {
        /// Which setting.
        key: String,
        /// The tier.
        tier: &'static str,
    },
    /// A text that says nothing.
    #[error("{key} is empty: leave it out if nothing is to be emulated")]
    Empty {
        /// Which setting.
        key: String,
    },
    /// A seed without a policy.
    #[error("{key} is given without a policy: name the policy that draws lots by it")]
    SeedAlone {
        /// Which setting.
        key: String,
    },
    /// More workers than the engine takes.
    #[error(
        "The guests have {pairs} queue pairs together and {max} is the most: lower queue_pairs, or start another daemon"
    )]
    TooManyPairs {
        /// Pairs of all guests.
        pairs: u64,
        /// The most.
        max: u16,
    },
    /// A setting of another kind of remote tier.
    #[error("remote.{key} needs remote.kind = {of}: add that, or leave {key} out")]
    RemoteKind {
        /// Which setting.
        key: &'static str,
        /// The kinds that have it.
        of: String,
    },
    /// Not an address.
    #[error("{key} is not where a store can be")]
    StoreAddress {
        /// Which setting.
        key: String,
        /// What is wrong with it.
        source: super::address::AddressError,
    },
    /// Not a time after which another store is asked.
    #[error(
        "remote.hedge = {value:?} is not possible: write \"auto\", \"off\", or a time of at most a second, such as \"500us\" or \"5ms\""
    )]
    Hedge {
        /// What it was set to.
        value: String,
    },
    /// Nobody says which stores there are.
    #[error(
        "The remote tier has no store: add a section [[remote.store]] with its address, or name servers of etcd with remote.etcd"
    )]
    NoStore,
    /// More than can be told apart.
    #[error("The remote tier has {stores} stores and {STORES_MAX} is the most: name fewer")]
    TooManyStores {
        /// How many.
        stores: usize,
    },
    /// Fewer stores than copies.
    #[error(
        "remote.replicas = {replicas} needs {replicas} stores, and {known} is configured: add sections [[remote.store]], or lower remote.replicas"
    )]
    TooFewStores {
        /// Copies of a page.
        replicas: u8,
        /// Stores.
        known: usize,
    },
    /// Pages would cross a network for everybody to read and to change.
    #[error(
        "{key} = {value:?} is beyond this host, and pages would go there in the clear: add a section [remote.tls], or say remote.insecure = true if the network is as safe as this host"
    )]
    PlainStore {
        /// Which setting.
        key: String,
        /// The address.
        value: String,
    },
    /// Not the address of a server of etcd.
    #[error(
        "remote.etcd has {value:?}: write addresses by number, such as \"http://10.0.0.1:2379\"; its list holds no secret, and stores are trusted by their certificates"
    )]
    EtcdEndpoint {
        /// What it was set to.
        value: String,
    },
    /// No node of the cluster is known.
    #[error(
        "The remote tier has no node of a Valkey Cluster: name some with remote.nodes = [\"10.0.0.1:6379\"]"
    )]
    NoNode,
    /// Nodes of a cluster tell each other's TCP addresses.
    #[error("{key} = {value:?} is a Unix socket, and a Valkey Cluster has none: write HOST:PORT")]
    NodeSocket {
        /// Which setting.
        key: String,
        /// The address.
        value: String,
    },
    /// Keys of a cluster have no such names.
    #[error(
        "remote.namespace = {value:?} has a dot, and on a Valkey Cluster it may not: use letters, digits, '-' and '_'"
    )]
    ValkeyNamespace {
        /// What it was set to.
        value: String,
    },
    /// Pages would cross a network for everybody to read and to change, and there is no other way.
    #[error(
        "{key} = {value:?} is beyond this host, and pages go to a Valkey Cluster in the clear: say remote.insecure = true if the network is as safe as this host"
    )]
    PlainNode {
        /// Which setting.
        key: String,
        /// The address.
        value: String,
    },
}
