// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every verb against the daemon's real server, in process, over a made-up daemon.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use clap::{CommandFactory, Parser};
use serde_json::{Value, json};
use tmemctl::Terminal;
use tmemctl::args::Cli;
use vhost_device_tmem::admin::{Access, METRICS};

use crate::fake::FakeSource;
use crate::host::Daemon;
use crate::ran::{golden, run, run_on};

/// clap's exit code for a command line that it does not take.
fn usage_error(arguments: &[&str]) -> i32 {
    Cli::try_parse_from(["tmemctl"].iter().chain(arguments))
        .unwrap_err()
        .exit_code()
}

#[test]
fn tables_are_as_documented() {
    let verbs: [(&str, &[&str]); 9] = [
        ("status.txt", &["status"]),
        ("status-bytes.txt", &["status", "--bytes"]),
        ("daemon-show.txt", &["daemon", "show"]),
        ("guest-list.txt", &["guest", "list"]),
        ("guest-show.txt", &["guest", "show", "web"]),
        ("pool-list.txt", &["pool", "list"]),
        ("stats.txt", &["stats"]),
        ("stats-guest.txt", &["stats", "--guest", "web", "-b"]),
        (
            "stats-watch.txt",
            &["stats", "--guest", "web", "--watch", "0.1", "--count", "2"],
        ),
    ];
    for (name, arguments) in verbs {
        // A daemon each: the made-up counters move when they are looked at.
        let ran = Daemon::healthy().run(arguments);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
        golden(name, &ran.out);
    }
}

#[test]
fn json_is_the_daemons_answer_on_one_line() {
    let verbs: [(&str, &[&str]); 6] = [
        ("status.json", &["status", "--json"]),
        ("daemon.json", &["daemon", "show", "--json"]),
        ("guests.json", &["--json", "guest", "list"]),
        ("guest.json", &["guest", "show", "web", "--json"]),
        ("pools.json", &["pool", "list", "--json"]),
        ("stats.json", &["stats", "--json"]),
    ];
    for (name, arguments) in verbs {
        let ran = Daemon::healthy().run(arguments);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
        assert_eq!(ran.out.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(value["schema"], json!(1), "{arguments:?}");
        golden(name, &format!("{value:#}\n"));
    }
}

#[test]
fn watching_as_json_prints_an_answer_a_line() {
    let ran = Daemon::healthy().run(&["stats", "--watch", "0.1", "--count", "3", "--json"]);
    assert_eq!(ran.code, 0);
    let times: Vec<u64> = ran
        .out
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["uptime_ns"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(
        times,
        [2_000_000_000, 3_000_000_000, 4_000_000_000],
        "the first is the base"
    );
}

#[test]
fn columns_are_shown_as_asked() {
    let daemon = Daemon::healthy();
    let ran = daemon.run(&[
        "pool",
        "list",
        "--guest",
        "web",
        "-o",
        "pages,id",
        "--no-headers",
    ]);
    assert_eq!(ran.out, "2000  0\n 200  7\n");
    let ran = daemon.run(&["guest", "list", "--columns", "name", "-o", "socket"]);
    assert_eq!(
        ran.out
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["NAME", "SOCKET"]
    );
    assert!(ran.out.contains("/run/tmem/web.sock"));
}

#[test]
fn a_degraded_daemon_gives_exit_code_4() {
    let daemon = Daemon::of(FakeSource::degraded());
    let ran = daemon.run(&["status"]);
    assert_eq!((ran.code, ran.err.as_str()), (4, ""));
    assert!(
        ran.out.contains("degraded") && ran.out.contains("tier dram is full"),
        "{}",
        ran.out
    );
    let ran = daemon.run(&["status", "--json"]);
    assert_eq!(ran.code, 4);
    let value: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["reasons"], json!(["tier dram is full"]));
    assert_eq!(daemon.run(&["guest", "list"]).code, 0, "only status judges");
}

#[test]
fn an_unknown_guest_gives_exit_code_1_and_the_next_command() {
    let daemon = Daemon::healthy();
    for arguments in [
        &["guest", "show", "ghost"][..],
        &["pool", "list", "--guest", "ghost"],
        &["stats", "--guest", "ghost"],
    ] {
        let ran = daemon.run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{arguments:?}");
        assert_eq!(
            ran.err,
            "tmemctl: no guest is named \"ghost\"\nhint: `tmemctl guest list` shows the guests\n"
        );
    }
    let ran = daemon.run(&["guest", "show", "ghost", "--json"]);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &error["schema"]), (1, &json!(1)));
    assert_eq!(error["code"], "no_such_guest");
}

#[test]
fn a_name_that_needs_escaping_arrives_whole() {
    let ran = Daemon::healthy().run(&["guest", "show", "a \"b\"/c"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("a \"b\"/c"));
    let ran = Daemon::healthy().run(&["stats", "--guest", "a \"b\"/c", "-o", "guest,got,get-p50"]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.out.lines().nth(1).unwrap().ends_with('-'),
        "nothing measured: {}",
        ran.out
    );
}

#[test]
fn no_daemon_gives_exit_code_3_and_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let ran = run(&socket, &["status"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    assert!(ran.err.contains(socket.to_str().unwrap()), "{}", ran.err);
    assert!(ran.err.contains("hint: start the daemon"), "{}", ran.err);
    let ran = run(&socket, &["status", "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.err).unwrap()["code"],
        "unreachable"
    );

    drop(UnixListener::bind(&socket).unwrap());
    let ran = run(&socket, &["guest", "list"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("has ended; start it"), "{}", ran.err);
}

#[test]
fn whoever_is_not_admitted_is_told_why() {
    let daemon = Daemon::start(
        FakeSource::healthy(),
        Access {
            uids: Vec::new(),
            group: None,
        },
    );
    let ran = daemon.run(&["status"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("may not use the admin API"), "{}", ran.err);
    assert!(
        ran.err.contains("hint: run as root, or join the group"),
        "{}",
        ran.err
    );
    let ran = daemon.run(&["status", "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&ran.err).unwrap()["code"],
        "forbidden"
    );
}

#[test]
fn something_that_is_no_daemon_gives_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let other = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 16];
        stream.read_exact(&mut asked).unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        // Reads the rest, so that closing does not reset the connection.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let ran = run(&socket, &["status"]);
    other.join().unwrap();
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.err
            .contains("hint: check that --socket names the admin socket"),
        "{}",
        ran.err
    );
}

#[test]
fn wrong_usage_gives_exit_code_2() {
    for arguments in [
        &["gest", "list"][..],
        &["pool", "list", "-o", "no-such-column"],
        &["stats", "--watch", "0"],
        &["stats", "--watch", "nan"],
        &["stats", "--count", "3"],
        &["guest", "show"],
        &["completions", "cmd.exe"],
        &["daemon"],
        &["daemon", "restart", "--timeout", "0"],
        &["daemon", "upgrade", "--binary", ""],
        &[],
    ] {
        assert_eq!(usage_error(arguments), 2, "{arguments:?}");
    }
    assert_eq!(usage_error(&["--help"]), 0);
}

#[test]
fn colours_are_used_only_when_they_are_wanted() {
    let daemon = Daemon::healthy();
    let plain = run(&daemon.socket, &["status"]);
    let colours = Terminal {
        colours: true,
        progress: false,
    };
    let colourful = run_on(colours, &daemon.socket, &["status"]);
    assert!(!plain.out.contains('\u{1b}'));
    assert!(colourful.out.contains('\u{1b}'));
}

#[test]
fn completions_and_man_pages_are_written_for_every_visible_verb() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(Path::new("/nowhere"), &["completions", "bash"]);
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("complete -F _tmemctl"), "{}", ran.out);
    let out = dir.path().join("man");
    let ran = run(Path::new("/nowhere"), &["manual", out.to_str().unwrap()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    for file in [
        "tmemctl.1",
        "tmemctl-status.1",
        "tmemctl-daemon.1",
        "tmemctl-daemon-show.1",
        "tmemctl-daemon-upgrade.1",
        "tmemctl-daemon-restart.1",
        "tmemctl-guest-show.1",
        "tmemctl-pool-list.1",
        "tmemctl-stats.1",
        "tmemctl-guest-limit.1",
        "tmemctl-guest-reclaim.1",
        "tmemctl-tier-drain.1",
        "tmemctl-tier-watermarks.1",
        "tmemctl-policy-set.1",
        "tmemctl-link-fault.1",
        "tmemctl-trace-start.1",
        "tmemctl.bash",
        "_tmemctl",
        "tmemctl.fish",
    ] {
        assert!(
            out.join(file).exists(),
            "{file} is missing; written:\n{}",
            ran.out
        );
    }
    assert!(
        !out.join("tmemctl-manual.1").exists(),
        "hidden verbs have no page"
    );
    assert_eq!(ran.out.lines().count(), fs::read_dir(&out).unwrap().count());
    let page = fs::read_to_string(out.join("tmemctl-stats.1")).unwrap();
    assert!(page.contains("watch"));
}

/// The page about `tmemctl` in the book: its examples, columns and metrics.
#[test]
fn the_book_shows_what_is_printed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let book = fs::read_to_string(root.join("../../docs/tmemctl.md")).unwrap();
    for name in [
        "status.txt",
        "daemon-show.txt",
        "daemon-upgrade.txt",
        "daemon-failed.txt",
        "guest-show.txt",
        "pool-list.txt",
        "stats-watch.txt",
        "tier-list.txt",
        "tier-show.txt",
        "tier-stats.txt",
        "tier-drain.txt",
        "guest-limit.txt",
        "guest-reclaim.txt",
        "policy-list.txt",
        "link-show.txt",
        "link-set.txt",
        "trace-stop.txt",
        "status-overcommitted.txt",
        "store-list.txt",
        "store-drain.txt",
        "balloon-show.txt",
        "balloon-set.txt",
        "balloon-auto.txt",
        "top.txt",
    ] {
        let printed = fs::read_to_string(root.join("tests/golden").join(name)).unwrap();
        assert!(
            book.contains(&printed),
            "docs/tmemctl.md does not show golden/{name}"
        );
    }
    let mut command = Cli::command();
    command.build();
    for noun_and_verb in [
        &["guest", "list"][..],
        &["pool", "list"],
        &["stats"],
        &["tier", "list"],
        &["tier", "stats"],
        &["store", "list"],
        &["link", "show"],
        &["balloon", "show"],
        &["top"],
    ] {
        let verb = noun_and_verb.iter().fold(&command, |command, name| {
            command.find_subcommand(name).unwrap()
        });
        let columns = verb
            .get_arguments()
            .find(|arg| arg.get_id() == "columns")
            .unwrap();
        for column in columns.get_possible_values() {
            let line = format!(
                "| `{}` | {} |",
                column.get_name(),
                column.get_help().unwrap()
            );
            assert!(book.contains(&line), "docs/tmemctl.md lacks {line}");
        }
    }
    for metric in METRICS {
        let line = format!("| `{}` | ", metric.name);
        assert!(
            book.contains(&line),
            "docs/tmemctl.md lacks {}",
            metric.name
        );
        assert!(
            book.contains(metric.help),
            "docs/tmemctl.md lacks {:?}",
            metric.help
        );
    }
}
