// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use clap::Parser;
use tmem_admin_api::{Durability, LinkDirection, TierName};

use super::*;

mod stores;

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

/// The file above with tiers, and guests' parts of them.
fn tiered() -> String {
    let tiers = r#"
    [dram]
    max = "2GiB"
    low_watermark = "3%"
    high_watermark = "8%"

    [pm]
    path = "/var/lib/tmem/pm"
    size = "8GiB"
    durability = "host"
    keep_over_reboot = true

    [remote]
    size = "4GiB"

    [link.remote]
    in = "latency=5us bandwidth=25Gbit/s"
    out = "latency=6us"

    [[guest]]
    name = "vm2"
    socket = "/run/tmem/vm2.sock"
    grant = "10GiB"
    dram_cap = "512MiB"
    weight = 400
    floor = "64MiB"
    policy = "random"
    policy_seed = 7

    [guest.link.pm]
    in = "latency_ns=900"
    "#;
    let daemon = "poll_us = 9\n    trace_dir = \"/var/lib/tmem/traces\"";
    let file = FILE.replacen("admin_socket", &format!("{daemon}\n    admin_socket"), 1);
    format!("{file}{tiers}")
}

fn tiered_error(from: &str, to: &str) -> String {
    let text = tiered();
    assert!(text.contains(from), "{from}");
    let error = Config::from_toml(&text.replacen(from, to, 1)).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

#[test]
fn tiers_and_guests_parts_of_them_are_read_in_pages() {
    let config = Config::from_toml(&tiered()).unwrap();
    assert_eq!(
        (config.dram_frames, config.dram_frames_max()),
        (1 << 18, 1 << 19)
    );
    let marks = config.dram.watermarks;
    assert_eq!((marks.low_percent, marks.high_percent), (3, 8));
    let pm = config.pm.as_ref().unwrap();
    assert_eq!(
        (pm.path.as_path(), pm.pages),
        (Path::new("/var/lib/tmem/pm"), 8 << 18)
    );
    assert!(pm.keep_over_reboot && pm.durability == Durability::Host);
    assert_eq!(config.remote.as_ref().unwrap().pages, 4 << 18);
    assert_eq!(config.tier_pages(), (1 + 8 + 4) << 18);
    assert_eq!(
        config.trace_dir.as_deref(),
        Some(Path::new("/var/lib/tmem/traces"))
    );
    let ways: Vec<_> = config
        .links
        .iter()
        .map(|link| (link.tier, link.direction))
        .collect();
    let remote = TierName::Remote;
    assert_eq!(
        ways,
        [(remote, LinkDirection::In), (remote, LinkDirection::Out)]
    );
    assert_eq!(config.links[1].text, "latency=6us");
    let limits = &config.guests[2].limits;
    assert_eq!(limits.dram_cap_pages, Some(512 << 8));
    assert_eq!((limits.weight, limits.floor_pages), (400, 64 << 8));
    assert_eq!(
        (limits.policy.as_deref(), limits.policy_seed),
        (Some("random"), Some(7))
    );
    assert_eq!(limits.links[0].text, "latency_ns=900");
    assert_eq!(
        config.guests[0].limits,
        GuestLimits::default(),
        "not told, not limited"
    );
    assert!(!config.overcommit);
}

#[test]
fn a_configuration_travels_between_processes() {
    let config = Config::from_toml(&tiered()).unwrap();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    // A keeper that knows no tiers starts a worker that does.
    let mut older = serde_json::to_value(Config::from_toml(FILE).unwrap()).unwrap();
    let fields = older.as_object_mut().unwrap();
    for new in ["dram", "pm", "remote", "links", "overcommit", "trace_dir"] {
        assert!(fields.remove(new).is_some(), "{new}");
    }
    for guest in fields["guests"].as_array_mut().unwrap() {
        guest.as_object_mut().unwrap().remove("limits");
    }
    let read: Config = serde_json::from_value(older).unwrap();
    assert_eq!(read, Config::from_toml(FILE).unwrap());
}

#[test]
fn the_size_of_dram_is_given_once_in_either_place() {
    let elsewhere = FILE.replacen("dram = \"1GiB\"", "", 1) + "[dram]\nsize = \"1GiB\"";
    let config = Config::from_toml(&elsewhere).unwrap();
    assert_eq!(config.dram_frames, 1 << 18);
    assert_eq!(
        config.dram_frames_max(),
        1 << 18,
        "it cannot grow unless told"
    );
    assert!(tiered_error("max = \"2GiB\"", "size = \"2GiB\"").contains("twice"));
    assert!(changed("dram = \"1GiB\"", "").contains("nowhere"));
    assert!(tiered_error("max = \"2GiB\"", "max = \"512MiB\"").contains("1024 MiB"));
}

#[test]
fn watermarks_are_percentages_with_a_distance() {
    for bad in ["5", "101%", "5.5%", "-1%", "%", "91%"] {
        let text = tiered_error("\"3%\"", &format!("{bad:?}"));
        assert!(text.contains("dram.low_watermark"), "{bad}: {text}");
    }
    let text = tiered_error("\"3%\"", "\"8%\"");
    assert!(text.contains("dram.high_watermark = \"8%\""), "{text}");
    let alone = |key: &str, value: &str| {
        let text = format!("{FILE}[dram]\n{key} = {value:?}");
        let marks = Config::from_toml(&text).unwrap().dram.watermarks;
        (marks.low_percent, marks.high_percent)
    };
    assert_eq!(alone("low_watermark", "3%"), (3, 10));
    assert_eq!(alone("low_watermark", "20%"), (20, 40));
    assert_eq!(alone("high_watermark", "4%"), (2, 4));
    assert_eq!(alone("high_watermark", "10%"), (5, 10), "the usual");
}

#[test]
fn what_makes_no_sense_of_a_tier_is_named() {
    for (from, to, said) in [
        ("\"8GiB\"", "\"8GB\"", "pm.size"),
        ("size = \"4GiB\"", "size = \"0B\"", "remote.size"),
        ("\"host\"", "\"ever\"", "`process` or `host`"),
        (
            "durability = \"host\"",
            "",
            "needs pm.durability = \"host\"",
        ),
        (
            "\"/var/lib/tmem/pm\"",
            "\"pm\"",
            "pm.path = pm is not an absolute path",
        ),
        ("\"/var/lib/tmem/traces\"", "\"t\"", "daemon.trace_dir"),
        (
            "[remote]\n    size = \"4GiB\"",
            "",
            "add a section [remote]",
        ),
        ("[guest.link.pm]", "[guest.link.dram]", "dram"),
        (
            "latency=6us",
            "latency=6parsec",
            "link.remote.out is not what a link can be set to",
        ),
        ("latency=6us", " ", "link.remote.out is empty"),
        ("latency_ns=900", "fast", "guest[2].link.pm.in"),
        ("latency_ns=900", "local_npages=9", "use dram_cap"),
        ("weight = 400", "weight = 0", "1 to 10000"),
        ("weight = 400", "weight = 10001", "guest[2].weight"),
        (
            "\"64MiB\"",
            "\"513MiB\"",
            "guest[2].floor is above the guest's dram_cap",
        ),
        ("\"64MiB\"", "\"1KiB\"", "guest[2].floor"),
        ("policy = \"random\"", "policy = \"lifo\"", "s3-fifo"),
        (
            "policy = \"random\"",
            "",
            "guest[2].policy_seed is given without a policy",
        ),
    ] {
        let text = tiered_error(from, to);
        assert!(text.contains(said), "{from} -> {to}: {text}");
    }
}

#[test]
fn floors_must_fit_into_dram() {
    let text = tiered().replacen("dram_cap = \"512MiB\"", "", 1);
    let fits = text.replacen("\"64MiB\"", "\"1GiB\"", 1);
    assert!(Config::from_toml(&fits).is_ok());
    let error = error(&text.replacen("\"64MiB\"", "\"1025MiB\"", 1));
    assert!(
        error.contains("The floors add up") && error.contains("1025 MiB"),
        "{error}"
    );
}

#[test]
fn grants_must_fit_into_all_tiers_unless_overcommitted() {
    let larger = tiered().replacen("\"10GiB\"", "\"13GiB\"", 1);
    let text = error(&larger);
    assert!(text.contains("overcommit = true"), "{text}");
    assert!(text.contains("14080 MiB"), "{text}");
    let overcommitted = larger.replacen("poll_us = 9", "overcommit = true", 1);
    let config = Config::from_toml(&overcommitted).unwrap();
    assert!(config.overcommit && config.promised_pages() > config.tier_pages());
}

#[test]
fn a_cap_may_be_nothing() {
    let text = tiered().replacen("\"512MiB\"\n    weight", "\"0B\"\n    weight", 1);
    let text = text.replacen("floor = \"64MiB\"", "", 1);
    let config = Config::from_toml(&text).unwrap();
    assert_eq!(config.guests[2].limits.dram_cap_pages, Some(0));
}

/// The keys that serde takes in `section`, as its error about an unknown one lists them.
fn keys_of(section: &str) -> Vec<String> {
    let error = error(&format!("{section}\nno_such_key = 1"));
    let (_, list) = error.split_once("expected ").unwrap();
    let words = list.split('`').skip(1).step_by(2);
    words.map(String::from).collect()
}

#[test]
fn every_key_is_in_the_book_and_in_the_packaged_file() {
    let book = include_str!("../../../../docs/running.md");
    let packaged = include_str!("../../../../packaging/tmem.toml");
    for (section, least) in [
        ("[daemon]", 12),
        ("[dram]", 4),
        ("[pm]\npath = \"/x\"\nsize = \"1GiB\"", 4),
        ("[remote]\nsize = \"1GiB\"", 17),
        ("[link.pm]", 2),
        ("[link]", 2),
        ("[balloon]", 2),
        ("[[guest]]", 9),
    ] {
        let keys = keys_of(section);
        assert!(keys.len() >= least, "{section}: {keys:?}");
        for key in keys {
            assert!(
                book.contains(&key),
                "docs/running.md lacks {key} of {section}"
            );
            assert!(
                packaged.contains(&key),
                "packaging/tmem.toml lacks {key} of {section}"
            );
        }
    }
}
