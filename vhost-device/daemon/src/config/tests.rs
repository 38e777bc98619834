// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use clap::Parser;

use super::*;

const FILE: &str = r#"
    [daemon]
    dram = "1GiB"
    admin_socket = "/run/tmem/admin.sock"

    [[guest]]
    name = "vm0"
    socket = "/run/tmem/vm0.sock"
    grant = "512MiB"
    queue_pairs = 4

    [[guest]]
    name = "vm1"
    socket = "/run/tmem/vm1.sock"
    grant = "256 MiB"
"#;

fn error(text: &str) -> String {
    Config::from_toml(text).unwrap_err().to_string()
}

fn changed(from: &str, to: &str) -> String {
    assert!(FILE.contains(from));
    error(&FILE.replacen(from, to, 1))
}

fn from_flags(flags: &[&str]) -> Result<Config, ConfigError> {
    let args = std::iter::once("vhost-device-tmem").chain(flags.iter().copied());
    Config::from_args(&Args::try_parse_from(args).unwrap())
}

#[test]
fn a_file_says_everything() {
    let config = Config::from_toml(FILE).unwrap();
    assert_eq!((config.dram_frames, config.poll_us), (1 << 18, POLL_US));
    assert_eq!(config.guests.len(), 2);
    let guest = &config.guests[0];
    assert_eq!((guest.grant_pages, guest.queue_pairs), (1 << 17, 4));
    assert_eq!(guest.socket, Socket::Path("/run/tmem/vm0.sock".into()));
    assert_eq!(config.guests[1].queue_pairs, QUEUE_PAIRS);
    assert_eq!(config.queue_pairs(), 6);
}

#[test]
fn flags_say_the_same_for_one_guest() {
    let config = from_flags(&[
        "--socket-path",
        "/s",
        "--name",
        "vm0",
        "--grant",
        "512MiB",
        "--dram",
        "1GiB",
        "--queue-pairs",
        "3",
        "--poll-us",
        "0",
        "--admin-socket",
        "/a",
    ])
    .unwrap();
    assert_eq!((config.dram_frames, config.poll_us), (1 << 18, 0));
    assert_eq!(config.admin.unwrap().socket, Path::new("/a"));
    let guest = &config.guests[0];
    assert_eq!(
        (guest.name.as_str(), guest.grant_pages, guest.queue_pairs),
        ("vm0", 1 << 17, 3)
    );
}

#[test]
fn a_guest_alone_is_granted_all_there_is() {
    let config = from_flags(&["--fd", "3", "--dram", "64MiB"]).unwrap();
    assert_eq!(config.guests[0].grant_pages, 64 << 8);
    assert_eq!(config.guests[0].socket, Socket::Fd(3));
}

#[test]
fn no_guest_is_an_error_that_says_what_to_give() {
    assert!(
        from_flags(&[])
            .unwrap_err()
            .to_string()
            .contains("--socket-path")
    );
    assert!(error("[daemon]\ndram = \"1GiB\"").contains("[[guest]]"));
}

#[test]
fn descriptor_and_path_exclude_each_other() {
    let args = ["x", "--fd", "3", "--socket-path", "/s"];
    assert!(Args::try_parse_from(args).is_err());
    assert!(Args::try_parse_from(["x", "--config", "c", "--dram", "1GiB"]).is_err());
}

#[test]
fn an_unknown_key_is_named() {
    let text = changed("queue_pairs", "queue_pear");
    assert!(text.contains("queue_pear"), "{text}");
    assert!(
        text.contains("queue_pairs"),
        "the allowed keys are listed: {text}"
    );
    assert!(changed("dram", "drum").contains("drum"));
}

#[test]
fn a_missing_key_is_named() {
    assert!(changed("grant = \"512MiB\"", "").contains("grant"));
}

#[test]
fn a_bad_size_is_named_with_what_is_allowed() {
    for bad in [
        "512",
        "MiB",
        "-1MiB",
        "1.5GiB",
        "1 parsec",
        "",
        "99999999999TiB",
    ] {
        let text = changed("512MiB", bad);
        assert!(
            text.contains("guest[0].grant") && text.contains("MiB"),
            "{bad}: {text}"
        );
    }
    for bad in ["0MiB", "1KiB", "16TiB"] {
        let text = changed("512MiB", bad);
        assert!(text.contains("multiple of 4KiB"), "{bad}: {text}");
    }
    assert!(changed("1GiB", "oops").contains("daemon.dram"));
}

#[test]
fn numbers_out_of_range_are_named_with_their_range() {
    for bad in ["queue_pairs = 0", "queue_pairs = 31"] {
        let text = changed("queue_pairs = 4", bad);
        assert!(
            text.contains("guest[0].queue_pairs") && text.contains("1 to 30"),
            "{text}"
        );
    }
    let text = changed("dram = \"1GiB\"", "dram = \"1GiB\"\npoll_us = 10001");
    assert!(text.contains("0 to 10000"), "{text}");
}

#[test]
fn a_bad_name_is_refused() {
    for bad in ["", "-vm", "a/b", "vm 0", "ä", &"x".repeat(65)] {
        let text = changed("\"vm0\"", &format!("\"{bad}\""));
        assert!(text.contains("guest[0].name"), "{bad}: {text}");
    }
}

#[test]
fn names_and_sockets_are_used_once() {
    assert!(changed("vm1\"", "vm0\"").contains("used twice"));
    assert!(changed("vm1.sock", "vm0.sock").contains("guest[1].socket"));
}

#[test]
fn grants_beyond_dram_say_how_much_is_needed() {
    let text = changed("256 MiB", "513MiB");
    assert!(text.contains("1025 MiB"), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let text = Config::from_file(Path::new("/nowhere/tmem.toml"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("/nowhere/tmem.toml"), "{text}");
}

#[test]
fn packaged_file_is_a_configuration() {
    let text = include_str!("../../../../packaging/tmem.toml");
    let config = Config::from_toml(text).unwrap();
    assert!(!config.guests.is_empty());
}
