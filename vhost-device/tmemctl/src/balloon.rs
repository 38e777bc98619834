// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmemctl balloon`.

use std::io::Write;
use std::time::{Duration, Instant};

use tmem_admin_api::{
    Balloon, BalloonAutoRequest, BalloonBudgetRequest, BalloonDetail, BalloonDriver, BalloonList,
    BalloonMode, BalloonRequest, path,
};

use crate::args::{BalloonAutoArgs, BalloonSetArgs, BalloonShowArgs, BalloonVerb, Switch};
use crate::client::{Answer, Client, guest_path};
use crate::table::{self, Column, Layout, Text, View};
use crate::{Error, exit};

/// Between two looks at a guest that is on its way.
const PAUSE: Duration = Duration::from_millis(200);
/// Characters of a whole bar.
const BAR: u64 = 30;
/// Statistics come once a second: what a driver says of its floor is about this target after so long.
const HEARD: Duration = Duration::from_secs(3);

/// Columns of `balloon show`.
pub(crate) const COLUMNS: &[Column<Balloon>] = &[
    Column {
        name: "guest",
        usual: true,
        help: "the guest's name",
        cell: |b, _| Text::word(&b.guest),
    },
    Column {
        name: "mode",
        usual: true,
        help: "who decides: fixed (the administrator), auto (the daemon); a dash: there is no balloon",
        cell: |b, _| Text::word(if b.enabled { b.mode.as_str() } else { "-" }),
    },
    Column {
        name: "driver",
        usual: true,
        help: "the guest's driver: works, silent, absent",
        cell: |b, _| match b.driver {
            BalloonDriver::Works => Text::word(b.driver.as_str()),
            other => Text::word(other.as_str()).bad(),
        },
    },
    Column {
        name: "memory",
        usual: true,
        help: "the guest's whole memory",
        cell: |b, view| view.pages(b.memory_pages),
    },
    Column {
        name: "size",
        usual: true,
        help: "what it keeps of that now",
        cell: |b, view| view.pages(b.size_pages),
    },
    Column {
        name: "held",
        usual: true,
        help: "what its balloon holds",
        cell: |b, view| view.pages(b.held_pages),
    },
    Column {
        name: "target",
        usual: true,
        help: "what the balloon shall hold",
        cell: |b, view| view.pages(b.target_pages),
    },
    Column {
        name: "floor",
        usual: true,
        help: "the least that it keeps",
        cell: |b, view| view.pages(b.floor_pages),
    },
    Column {
        name: "ceiling",
        usual: false,
        help: "the most that the daemon lets it keep",
        cell: |b, view| optional(b.ceiling_pages, view),
    },
    Column {
        name: "weight",
        usual: false,
        help: "its part of what guests on auto want",
        cell: |b, _| Text::count(b.weight),
    },
    Column {
        name: "available",
        usual: true,
        help: "what the guest could have without swapping",
        cell: |b, view| optional(b.statistics.map(|stats| stats.available_pages), view),
    },
    Column {
        name: "swapped",
        usual: false,
        help: "what it has in swap",
        cell: |b, view| optional(b.statistics.map(|stats| stats.swapped_pages), view),
    },
    Column {
        name: "freed",
        usual: false,
        help: "what was given back to the host so far, by balloon and by reports",
        cell: |b, view| {
            view.pages(
                b.counts
                    .inflated_pages
                    .saturating_add(b.counts.reported_pages),
            )
        },
    },
    Column {
        name: "refused",
        usual: true,
        help: "ranges of pages that could not be given back",
        cell: |b, _| Text::trouble(b.counts.refused.values().sum()),
    },
    Column {
        name: "why",
        usual: true,
        help: "the daemon's last reason, of a guest on auto",
        cell: |b, _| Text::word(why(b)),
    },
];

/// The controller's last reason, or a dash.
pub(crate) fn why(balloon: &Balloon) -> &str {
    balloon
        .decision
        .as_ref()
        .map_or("-", |decision| &decision.reason)
}

fn optional(pages: Option<u64>, view: View) -> Text {
    pages.map_or_else(|| Text::number("-"), |pages| view.pages(pages))
}

fn balloon_path(guest: &str) -> String {
    format!("{}/balloon", guest_path(guest))
}

/// Does what `verb` says.
pub(crate) fn run(
    client: &Client,
    verb: &BalloonVerb,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Error> {
    match verb {
        BalloonVerb::Show(args) => show(client, args, view, out)?,
        BalloonVerb::Set(args) => set(client, args, view, out, err)?,
        BalloonVerb::Auto(args) => auto(client, args, view, out)?,
        BalloonVerb::Budget { pages } => {
            let body = BalloonBudgetRequest {
                budget_pages: pages.0,
            };
            let path = format!("{}/budget", path::BALLOONS);
            let answer = client.change::<BalloonList>(&path, &body)?;
            if view.json {
                table::print_json(&answer.text, out)?;
            } else {
                writeln!(out, "{}", budget(&answer.value, view)).map_err(Error::Output)?;
            }
        }
    }
    Ok(exit::OK)
}

fn budget(list: &BalloonList, view: View) -> String {
    let auto = list.balloons.iter().filter(|b| b.mode == BalloonMode::Auto);
    let kept = view.pages(auto.map(|b| b.size_pages).sum());
    let budget = list.budget_pages.map(|pages| view.pages(pages));
    let budget = budget.map_or_else(
        || "no budget".into(),
        |pages| format!("budget {}", pages.plain()),
    );
    format!("{budget}; guests on auto keep {}", kept.plain())
}

fn show(
    client: &Client,
    args: &BalloonShowArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if let Some(guest) = &args.guest {
        let answer = client.get::<BalloonDetail>(&balloon_path(guest))?;
        if view.json {
            return table::print_json(&answer.text, out);
        }
        return detail(&answer.value.balloon, view, out);
    }
    let answer = client.get::<BalloonList>(path::BALLOONS)?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let list = answer.value;
    Layout::choose(COLUMNS, &args.columns).print(&list.balloons, !args.no_headers, view, out)?;
    if args.columns.is_empty() && list.budget_pages.is_some() {
        writeln!(out, "\n{}", budget(&list, view)).map_err(Error::Output)?;
    }
    Ok(())
}

/// All that is known of one balloon.
fn detail(balloon: &Balloon, view: View, out: &mut dyn Write) -> Result<(), Error> {
    let size = |pages| view.pages(pages).plain().to_owned();
    let mut lines = vec![
        ("guest", balloon.guest.clone()),
        ("mode", balloon.mode.as_str().into()),
        ("driver", driver(balloon).into()),
        ("memory", size(balloon.memory_pages)),
        ("keeps", size(balloon.size_pages)),
        (
            "balloon",
            format!(
                "{} of {}",
                size(balloon.held_pages),
                size(balloon.target_pages)
            ),
        ),
        ("floor", size(balloon.floor_pages)),
        (
            "ceiling",
            balloon.ceiling_pages.map_or_else(|| "none".into(), size),
        ),
        ("weight", balloon.weight.to_string()),
    ];
    if let Some(decision) = &balloon.decision {
        lines.push((
            "decision",
            format!("{}: {}", decision.reason, decision.tells),
        ));
        let stalled = decision.stalled_permille;
        let stalled = stalled.map(|part| format!(", stalled {part} of 1000"));
        let faults = decision.faults_per_s;
        lines.push((
            "pressure",
            format!(
                "{faults} pages a second fetched again{}",
                stalled.unwrap_or_default()
            ),
        ));
    }
    if let Some(refusal) = &balloon.refusal {
        let (reason, seconds) = (refusal.reason.as_str(), refusal.age_ms / 1000);
        lines.push((
            "refused",
            format!("{reason}, {seconds} s ago: {}", refusal.tells),
        ));
    }
    if let Some(stats) = &balloon.statistics {
        lines.extend([
            ("available", size(stats.available_pages)),
            ("free", size(stats.free_pages)),
            ("swapped", size(stats.swapped_pages)),
            ("own floor", size(stats.floor_pages)),
            ("back on OOM", size(stats.oom_deflated_pages)),
            ("told", format!("{} ms ago", stats.age_ms)),
        ]);
    }
    let counts = &balloon.counts;
    lines.extend([
        ("inflated", size(counts.inflated_pages)),
        ("deflated", size(counts.deflated_pages)),
        ("reported", size(counts.reported_pages)),
    ]);
    let rows = lines
        .into_iter()
        .map(|(name, value)| vec![Text::word(name), Text::word(value)]);
    table::print(None, rows.collect(), &[], view, out)
}

const fn driver(balloon: &Balloon) -> &'static str {
    match (balloon.enabled, balloon.driver) {
        (false, _) => "the guest's device has no balloon (`enabled = false` in its configuration)",
        (_, BalloonDriver::Works) => "works",
        (_, BalloonDriver::Silent) => "silent: it has told nothing for some seconds",
        (_, BalloonDriver::Absent) => "absent: no guest is booted with virtio_tmem loaded",
    }
}

fn auto(
    client: &Client,
    args: &BalloonAutoArgs,
    view: View,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let named = args.floor.is_some() || args.ceiling.is_some() || args.weight.is_some();
    let body = BalloonAutoRequest {
        auto: match args.switch {
            Some(switch) => Some(switch == Switch::On),
            // Bounds alone leave it on or off.
            None => (!named).then_some(true),
        },
        floor_pages: args.floor,
        ceiling_pages: args.ceiling,
        weight: args.weight,
    };
    let path = format!("{}/auto", balloon_path(&args.guest));
    let answer = client.change::<BalloonDetail>(&path, &body)?;
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let balloon = answer.value.balloon;
    let size = |pages| view.pages(pages).plain().to_owned();
    let ceiling = balloon.ceiling_pages.map_or_else(|| "none".into(), size);
    writeln!(
        out,
        "balloon of {}: {}, floor {}, ceiling {ceiling}, weight {}",
        balloon.guest,
        balloon.mode.as_str(),
        size(balloon.floor_pages),
        balloon.weight
    )
    .map_err(Error::Output)
}

fn set(
    client: &Client,
    args: &BalloonSetArgs,
    view: View,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), Error> {
    let path = balloon_path(&args.guest);
    let body = BalloonRequest {
        size_pages: args.pages,
    };
    let begun = Instant::now();
    let mut answer = client.change::<BalloonDetail>(&path, &body)?;
    if args.wait {
        answer = follow(client, args, answer, view, err)?;
    }
    if view.json {
        return table::print_json(&answer.text, out);
    }
    let balloon = answer.value.balloon;
    let size = |pages| view.pages(pages).plain().to_owned();
    let done = if args.wait {
        let took = begun.elapsed();
        format!(", in {}.{} s", took.as_secs(), took.subsec_millis() / 100)
    } else if balloon.held_pages == balloon.target_pages {
        String::new()
    } else {
        ", on its way; `tmemctl balloon show` tells how far".into()
    };
    writeln!(
        out,
        "guest {} keeps {} of {}: balloon {} of {}{done}",
        balloon.guest,
        size(balloon.size_pages),
        size(balloon.memory_pages),
        size(balloon.held_pages),
        size(balloon.target_pages),
    )
    .map_err(Error::Output)
}

/// Waits until a balloon is as large as it shall be, or will not be.
fn follow(
    client: &Client,
    args: &BalloonSetArgs,
    begun: Answer<BalloonDetail>,
    view: View,
    err: &mut dyn Write,
) -> Result<Answer<BalloonDetail>, Error> {
    let path = balloon_path(&args.guest);
    let (start, limit) = (Instant::now(), Duration::from_secs(args.timeout));
    let from = begun.value.balloon.held_pages;
    let mut progress = Progress::new(from);
    let mut answer = begun;
    let end = loop {
        let balloon = &answer.value.balloon;
        progress.tell(balloon, view, err);
        if balloon.held_pages == balloon.target_pages {
            break Ok(());
        }
        if let Some(why) = hindrance(balloon, start.elapsed()) {
            break Err(why);
        }
        if start.elapsed() >= limit {
            break Err(format!(
                "it is not there after {} s, and goes on",
                args.timeout
            ));
        }
        std::thread::sleep(PAUSE);
        answer = client.get(&path)?;
    };
    progress.end(view, err);
    match end {
        Ok(()) => Ok(answer),
        Err(reason) => {
            let balloon = answer.value.balloon;
            let size = |pages| view.pages(pages).plain().to_owned();
            Err(Error::Balloon {
                guest: balloon.guest,
                held: size(balloon.held_pages),
                target: size(balloon.target_pages),
                reason,
            })
        }
    }
}

/// Why a balloon will not get to its target, if it will not.
fn hindrance(balloon: &Balloon, since: Duration) -> Option<String> {
    if balloon.driver == BalloonDriver::Absent {
        return Some("the guest's driver has gone".into());
    }
    let asked = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    if let Some(refusal) = &balloon.refusal
        && refusal.age_ms < asked
        && !matches!(refusal.reason.as_str(), "over" | "outside")
    {
        return Some(refusal.tells.clone());
    }
    let stats = balloon.statistics.as_ref().filter(|_| since >= HEARD)?;
    if stats.target_pages < balloon.target_pages && stats.held_pages >= stats.target_pages {
        return Some(
            "the guest's own floor keeps the rest; `tmemctl balloon show` tells it".into(),
        );
    }
    None
}

/// As of other long work: a bar that is drawn over on a terminal, a line each tenth elsewhere.
struct Progress {
    from: u64,
    told: u64,
    drawn: bool,
}

impl Progress {
    const fn new(from: u64) -> Self {
        Self {
            from,
            told: 0,
            drawn: false,
        }
    }

    fn tell(&mut self, balloon: &Balloon, view: View, err: &mut dyn Write) {
        let way = self.from.abs_diff(balloon.target_pages);
        if view.json || way == 0 {
            return;
        }
        let left = balloon.held_pages.abs_diff(balloon.target_pages).min(way);
        let percent = (way - left).saturating_mul(100) / way;
        let full = usize::try_from(percent * BAR / 100).unwrap_or(0);
        let rest = usize::try_from(BAR).unwrap_or(0).saturating_sub(full);
        let line = format!(
            "ballooning {}  [{}{}]  {percent} %  {} of {}",
            balloon.guest,
            "#".repeat(full),
            ".".repeat(rest),
            view.pages(balloon.held_pages).plain(),
            view.pages(balloon.target_pages).plain(),
        );
        // Progress is a courtesy: nobody reading it is no reason to stop.
        if view.progress {
            let _ = write!(err, "\r{line}\x1b[K");
            let _ = err.flush();
            self.drawn = true;
        } else if percent / 10 >= self.told {
            let _ = writeln!(err, "{line}");
            self.told = percent / 10 + 1;
        }
    }

    fn end(&self, view: View, err: &mut dyn Write) {
        if view.progress && self.drawn {
            let _ = writeln!(err);
        }
    }
}
