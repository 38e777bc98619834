// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl tier`, `guest limit` and its neighbours, `policy`, `link` and `trace`, against the daemon's
//! real server, in process, over a made-up daemon.

use std::path::Path;

use clap::Parser;
use serde_json::{Value, json};
use tmemctl::Terminal;
use tmemctl::args::Cli;

use crate::fake::FakeSource;
use crate::fake::tiers::FakeTiers;
use crate::host::Daemon;
use crate::ran::{golden, run, run_on};

#[test]
fn tables_are_as_documented() {
    for (name, line) in [
        ("tier-list.txt", "tier list"),
        ("tier-show.txt", "tier show pm"),
        ("tier-stats.txt", "tier stats --guest web"),
        ("tier-resize.txt", "tier resize dram 1536MiB"),
        ("tier-drain.txt", "tier drain pm"),
        ("tier-undrain.txt", "tier undrain pm"),
        ("tier-watermarks.txt", "tier watermarks --low 3 --high 8%"),
        (
            "guest-limit.txt",
            "guest limit web --dram-cap 1GiB --weight 200",
        ),
        ("guest-freeze.txt", "guest freeze web"),
        ("guest-thaw.txt", "guest thaw web"),
        ("guest-reclaim.txt", "guest reclaim web 512MiB"),
        ("policy-list.txt", "policy list"),
        ("policy-set.txt", "policy set web random --seed 7"),
        ("balloon-show.txt", "balloon show"),
        ("balloon-show-web.txt", "balloon show web"),
        ("balloon-set.txt", "balloon set web 256MiB"),
        (
            "balloon-auto.txt",
            "balloon auto web --floor 256MiB --weight 200",
        ),
        ("balloon-budget.txt", "balloon budget 4GiB"),
        ("top.txt", "top --count 1 --every 0.1"),
        ("link-show.txt", "link show"),
        (
            "link-set.txt",
            "link set remote latency=20us bandwidth=10Gbit/s",
        ),
        (
            "link-set-guest.txt",
            "link set --guest web latency_ns=20000 local_npages=65536",
        ),
        ("link-clear.txt", "link clear remote"),
        (
            "link-fault.txt",
            "link fault remote --direction in drop=0.01 seed=7",
        ),
        ("trace-start.txt", "trace start web --name monday"),
    ] {
        // A daemon each, so that none sees what another did.
        let arguments: Vec<_> = line.split(' ').collect();
        let ran = Daemon::healthy().run(&arguments);
        assert_eq!(ran.code, 0, "{line}: {}", ran.err);
        golden(name, &ran.shown(&format!("tmemctl {line}")));
    }
}

#[test]
fn json_is_the_daemons_last_answer_on_one_line() {
    for (name, line) in [
        ("tiers.json", "tier list"),
        ("tier.json", "tier show pm"),
        ("tier-watermarks.json", "tier watermarks --low 3"),
        ("tier-undrain.json", "tier undrain pm"),
        ("task-drain.json", "tier drain pm"),
        ("task-begun.json", "tier resize dram 2GiB --no-wait"),
        ("task-reclaim.json", "guest reclaim web 512MiB"),
        ("guest-limits.json", "guest limit web --dram-cap none"),
        ("policies.json", "policy list"),
        ("guest-policy.json", "policy set web random --seed 7"),
        ("balloons.json", "balloon show"),
        ("balloon.json", "balloon show web"),
        ("balloon-set.json", "balloon set web 512MiB"),
        ("links.json", "link show"),
        ("links-set.json", "link set pm latency=20us"),
        ("links-clear.json", "link clear pm"),
        ("links-faults.json", "link fault remote --clear"),
        ("trace.json", "trace start web"),
    ] {
        let arguments: Vec<_> = line.split(' ').chain(["--json"]).collect();
        let ran = Daemon::healthy().run(&arguments);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}");
        assert_eq!(ran.out.matches('\n').count(), 1, "{line}");
        let value: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(value["schema"], json!(1), "{line}");
        golden(name, &format!("{value:#}\n"));
    }
}

/// How long it takes is all that differs from one time to the next.
#[test]
fn a_balloon_that_is_waited_for_tells_how_far_it_is() {
    let ran = Daemon::healthy().run(&["balloon", "set", "web", "256MiB", "--wait"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let first = "ballooning web  [..............................]  0 %  512.0 MiB of 768.0 MiB";
    assert!(ran.err.starts_with(first), "{}", ran.err);
    let last = "]  100 %  768.0 MiB of 768.0 MiB\n";
    assert!(ran.err.ends_with(last), "{}", ran.err);
    let kept = "guest web keeps 256.0 MiB of 1.0 GiB: balloon 768.0 MiB of 768.0 MiB, in ";
    assert!(ran.out.starts_with(kept), "{}", ran.out);
}

#[test]
fn a_balloon_that_cannot_be_set_says_why_and_what_to_do() {
    let daemon = Daemon::healthy();
    let ran = daemon.run(&["balloon", "set", "web", "64MiB"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("keeps at least 128 MiB"), "{}", ran.err);
    let ran = daemon.run(&["balloon", "set", "a \"b\"/c", "64MiB"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("load virtio_tmem"), "{}", ran.err);
    let ran = daemon.run(&["balloon", "auto", "nobody"]);
    assert!(ran.err.contains("no guest is named"), "{}", ran.err);
}

#[test]
fn a_trace_is_ended_with_its_counts() {
    let daemon = Daemon::healthy();
    daemon.run(&["trace", "start", "web"]);
    let ran = daemon.run(&["trace", "stop", "web"]);
    golden("trace-stop.txt", &ran.shown("tmemctl trace stop web"));
    let ran = daemon.run(&["trace", "stop", "web"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("is not being traced"), "{}", ran.err);
}

#[test]
fn progress_is_drawn_over_on_a_terminal() {
    const TERMINAL: Terminal = Terminal {
        colours: false,
        progress: true,
    };
    let daemon = Daemon::healthy();
    let ran = run_on(TERMINAL, &daemon.socket, &["tier", "drain", "pm"]);
    assert_eq!(ran.code, 0);
    assert_eq!(ran.err.matches('\r').count(), 4, "{:?}", ran.err);
    assert_eq!(ran.err.matches('\n').count(), 1, "{:?}", ran.err);
    assert!(ran.err.contains(" 66 %  "), "{:?}", ran.err);
    let ran = run_on(TERMINAL, &daemon.socket, &["tier", "drain", "pm", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "programs see none");
}

#[test]
fn a_task_that_is_not_waited_for_is_told_with_its_number() {
    let daemon = Daemon::healthy();
    let ran = daemon.run(&["tier", "drain", "pm", "--no-wait"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.out, "drain of pm: begun as task 1\n");
    let ran = daemon.run(&["tier", "list", "-o", "tier,state,task"]);
    assert!(ran.out.contains("draining"), "{}", ran.out);
    assert!(ran.out.contains("drain 1 running, 0 %"), "{}", ran.out);
}

#[test]
fn what_the_daemon_refuses_gives_exit_code_1_with_reason_and_hint() {
    let daemon = Daemon::of(FakeSource::healthy().on(Some(FakeTiers::without_pm())));
    for (line, said, hint, code) in [
        (
            "tier show pm",
            "has no tier \"pm\"",
            "tier list",
            "no_such_tier",
        ),
        (
            "tier drain pm",
            "has no tier \"pm\"",
            "tier list",
            "no_such_tier",
        ),
        (
            "tier drain dram",
            "promised 64 MiB",
            "nothing was changed",
            "refused",
        ),
        (
            "tier resize dram 3GiB",
            "beyond 2048 MiB",
            "nothing was changed",
            "refused",
        ),
        (
            "tier watermarks --low 9 --high 9",
            "must be below",
            "nothing was changed",
            "refused",
        ),
        (
            "guest limit ghost --weight 1",
            "named \"ghost\"",
            "guest list",
            "no_such_guest",
        ),
        (
            "guest limit web --grant 4KiB",
            "2000 persistent",
            "nothing was changed",
            "refused",
        ),
        (
            "guest limit web --dram-cap 4MiB",
            "floor, 256 MiB",
            "nothing was",
            "refused",
        ),
        (
            "guest limit web --floor 2GiB",
            "fit into dram",
            "nothing was",
            "refused",
        ),
        (
            "guest freeze ghost",
            "named \"ghost\"",
            "guest list",
            "no_such_guest",
        ),
        (
            "guest reclaim ghost 4KiB",
            "named \"ghost\"",
            "guest list",
            "no_such_guest",
        ),
        (
            "policy set web lifo",
            "no policy \"lifo\"",
            "policy list",
            "no_such_policy",
        ),
        (
            "link set remote fast",
            "\"fast\" is not a setting",
            "link set --help",
            "bad_text",
        ),
        (
            "link set remote latency=1ns",
            "600 ns is the least",
            "nothing was",
            "refused",
        ),
        (
            "link set pm latency=1us",
            "has no tier \"pm\"",
            "tier list",
            "no_such_tier",
        ),
        (
            "link fault remote eat",
            "stall= or slow=",
            "link fault --help",
            "bad_text",
        ),
        (
            "trace start web",
            "no trace_dir",
            "configuration",
            "not_available",
        ),
        (
            "trace start web --name ../x",
            "not a name",
            "letters",
            "bad_request",
        ),
    ] {
        let arguments: Vec<_> = line.split(' ').collect();
        let ran = daemon.run(&arguments);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{line}");
        assert!(ran.err.starts_with("tmemctl: "), "{line}: {}", ran.err);
        let (message, told) = ran.err.split_once("\nhint: ").unwrap();
        assert!(message.contains(said), "{line}: {message}");
        assert!(told.contains(hint), "{line}: {told}");
        let json: Vec<_> = line.split(' ').chain(["--json"]).collect();
        let error: Value = serde_json::from_str(&daemon.run(&json).err).unwrap();
        assert_eq!(
            (&error["code"], &error["schema"]),
            (&json!(code), &json!(1))
        );
    }
}

#[test]
fn a_daemon_without_tiers_says_so() {
    let daemon = Daemon::of(FakeSource::healthy().on(None));
    let ran = daemon.run(&["tier", "list"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("not available in this configuration"),
        "{}",
        ran.err
    );
    let ran = daemon.run(&["guest", "list", "-o", "name,policy,weight,frozen,freeable"]);
    assert_eq!(ran.code, 0);
    let web = ran.out.lines().last().unwrap().split_whitespace();
    assert_eq!(web.collect::<Vec<_>>(), ["web", "-", "-", "-", "-"]);
}

#[test]
fn wrong_usage_gives_exit_code_2() {
    for line in [
        "tier",
        "tier show tape",
        "tier resize pm",
        "tier resize pm 12",
        "tier resize pm 0MiB",
        "tier resize pm 4097B",
        "tier resize pm 1.5GiB",
        "tier drain pm --no-wait --timeout 5",
        "tier watermarks --low 91",
        "tier watermarks --low five",
        "tier list -o no-such-column",
        "guest limit web",
        "guest limit web --weight 0",
        "guest limit web --weight 10001",
        "guest limit web --dram-cap nothing",
        "guest reclaim web",
        "policy set web",
        "policy set web random --seed -1",
        "link set",
        "link set remote --direction sideways latency=1us",
        "link fault remote",
        "link fault remote drop=0.01 --clear",
        "trace start",
    ] {
        let arguments = ["tmemctl"].into_iter().chain(line.split(' '));
        let error = Cli::try_parse_from(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    // What clap cannot tell is told in the same way, before the daemon is asked.
    for (line, said) in [
        ("link set latency=1us", "name a tier"),
        (
            "link set tape latency=1us",
            "neither a tier (dram, pm, remote) nor a setting",
        ),
        ("link set remote", "link clear"),
    ] {
        let arguments: Vec<_> = line.split(' ').collect();
        let ran = run(Path::new("/nowhere"), &arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{line}: {}", ran.err);
        assert!(ran.err.contains(said), "{line}: {}", ran.err);
    }
}

#[test]
fn an_overcommitted_daemon_is_degraded_and_says_by_how_much() {
    let daemon = Daemon::of(FakeSource::healthy().on(Some(FakeTiers::overcommitted())));
    let ran = daemon.run(&["status"]);
    assert_eq!((ran.code, ran.err.as_str()), (4, ""));
    let shown = ran.shown("tmemctl status");
    let head: Vec<_> = shown.lines().take(8).collect();
    golden(
        "status-overcommitted.txt",
        &format!("{}\n", head.join("\n")),
    );
}
