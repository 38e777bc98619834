// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon as a library, in this process: what other tests and tools embed.

use tmem_abi::{event, health};
use tmem_frontend::Options;
use vhost_device_tmem::{Config, Daemon};

use crate::guest::{EPOCH, Guest};

#[test]
fn an_embedded_daemon_serves_tells_its_end_and_leaves_no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vm.sock");
    let config = format!(
        "[daemon]\ndram = \"64MiB\"\n[[guest]]\nname = \"vm\"\nsocket = {socket:?}\ngrant = \"32MiB\"\n"
    );
    let daemon = Daemon::start(&Config::from_toml(&config).unwrap()).unwrap();
    let source = daemon.source();
    let mut guest = Guest::join(&socket, Options::default());
    let tags: Vec<u64> = (0..256).collect();
    guest.put_ok(0, &tags);
    guest.assert_pages(0, &tags);
    let pools = source.pools("vm").unwrap();
    assert_eq!(pools.iter().map(|pool| pool.pages).sum::<u64>(), 256);
    // Another epoch in the same process: the pages of the old one are gone.
    guest.driver.hello(EPOCH + 1).unwrap();
    assert_eq!(source.pools("vm").unwrap().len(), 0);
    daemon.stop();
    assert_eq!(
        guest.driver.wait_event(event::HEALTH).unwrap().value,
        health::ENDING
    );
    assert!(!socket.exists());
}
