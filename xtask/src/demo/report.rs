// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the demo found: a table for people, JSON for programs.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

/// Number of the JSON's layout; changes when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// A time's median and tail.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Latency {
    /// Median.
    pub(crate) p50_ns: u64,
    /// 99 of 100 took no longer.
    pub(crate) p99_ns: u64,
}

/// One workload's figures.
#[derive(Clone, Serialize)]
pub(crate) struct Run {
    /// The workload.
    pub(crate) name: &'static str,
    /// Memory that it needs.
    pub(crate) mib: u64,
    /// Its time.
    pub(crate) seconds: f64,
    /// Pages or values that were wrong.
    pub(crate) mismatches: u64,
    /// Pages that went to the host.
    pub(crate) pages_put: u64,
    /// Pages that came back.
    pub(crate) pages_got: u64,
    /// Pages that the guest gave up.
    pub(crate) pages_flushed: u64,
    /// The most that was on the host at one time.
    pub(crate) bytes_on_host_peak: u64,
    /// A get as the driver sees it.
    pub(crate) get_in_guest: Latency,
    /// A get as the daemon sees it.
    pub(crate) get_on_host: Latency,
}

/// What became of the stores.
#[derive(Clone, Default, Serialize)]
pub(crate) struct OnStores {
    /// The one that was killed.
    pub(crate) killed: String,
    /// Copies of pages that were on it.
    pub(crate) copies_lost: u64,
    /// Until every page had two copies again.
    pub(crate) repaired_after_seconds: f64,
    /// Copies that were made anew, those for the store that came back included.
    pub(crate) repaired_pages: u64,
    /// Gets that another store answered.
    pub(crate) failovers: u64,
    /// Gets for which another store was asked in time.
    pub(crate) hedged: u64,
    /// Pages without a copy.
    pub(crate) lost_pages: u64,
}

/// How one figure of a run is shown.
type Figure = fn(&Run) -> String;

/// The whole demo.
pub(crate) struct Report {
    /// The guest's CPU was emulated, so times say little.
    pub(crate) emulated_cpu: bool,
    /// The guest's kernel release.
    pub(crate) kernel: String,
    /// The guest's memory.
    pub(crate) guest_memory_mib: u32,
    /// What of it programs could use.
    pub(crate) guest_free_mib: u64,
    /// The most memory that the daemon took.
    pub(crate) daemon_peak_resident_bytes: u64,
    /// Time of the whole demo, builds included.
    pub(crate) seconds: f64,
    /// The workloads.
    pub(crate) runs: Vec<Run>,
    /// The stores.
    pub(crate) stores: OnStores,
    /// What the guest's kernel complained of.
    pub(crate) kernel_complaint: Option<String>,
}

impl Report {
    fn sum(&self, of: fn(&Run) -> u64) -> u64 {
        self.runs.iter().map(of).sum()
    }

    /// Pages and values that were wrong, over all workloads.
    pub(crate) fn mismatches(&self) -> u64 {
        self.sum(|run| run.mismatches)
    }

    /// All figures, for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "mismatches": self.mismatches(),
            "pages_put": self.sum(|run| run.pages_put),
            "pages_got": self.sum(|run| run.pages_got),
            "pages_flushed": self.sum(|run| run.pages_flushed),
            "bytes_on_host_peak": self.runs.iter().map(|run| run.bytes_on_host_peak).max(),
            "emulated_cpu": self.emulated_cpu,
            "kernel": self.kernel,
            "guest_memory_mib": self.guest_memory_mib,
            "guest_free_mib": self.guest_free_mib,
            "daemon_peak_resident_bytes": self.daemon_peak_resident_bytes,
            "seconds": self.seconds,
            "workloads": self.runs,
            "stores": self.stores,
            "kernel_complaint": self.kernel_complaint,
        })
    }

    /// A table with a line for each figure and a column for each workload.
    pub(crate) fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        let mut header = vec![String::new()];
        header.extend(self.runs.iter().map(|run| run.name.to_owned()));
        table.set_header(header);
        let rows: [(&str, Figure); 10] = [
            ("memory needed", |run| format!("{} MiB", run.mib)),
            ("time", |run| format!("{:.1} s", run.seconds)),
            ("pages put", |run| run.pages_put.to_string()),
            ("pages got", |run| run.pages_got.to_string()),
            ("pages flushed", |run| run.pages_flushed.to_string()),
            ("most on the host", |run| {
                format!("{} MiB", run.bytes_on_host_peak >> 20)
            }),
            ("get in the guest, median", |run| {
                microseconds(run.get_in_guest.p50_ns)
            }),
            ("get in the guest, 99 %", |run| {
                microseconds(run.get_in_guest.p99_ns)
            }),
            ("get on the host, median / 99 %", |run| {
                format!(
                    "{} / {}",
                    microseconds(run.get_on_host.p50_ns),
                    microseconds(run.get_on_host.p99_ns)
                )
            }),
            ("mismatches", |run| run.mismatches.to_string()),
        ];
        for (label, value) in rows {
            let mut row = vec![label.to_owned()];
            row.extend(self.runs.iter().map(value));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let note = if self.emulated_cpu {
            "Times are of a CPU that QEMU emulates (TCG).\n"
        } else {
            ""
        };
        format!(
            "\n{table}\nStores: {} was killed with {} pages on it; {} gets failed over, {} were hedged, \
             {} pages were copied anew, after {:.1} s each had two copies again, {} were lost.\n\
             Guest: {} MiB, {} MiB of them free, kernel {}. Daemon: {} MiB at most. \
             All took {:.0} s.\n{note}",
            self.stores.killed,
            self.stores.copies_lost,
            self.stores.failovers,
            self.stores.hedged,
            self.stores.repaired_pages,
            self.stores.repaired_after_seconds,
            self.stores.lost_pages,
            self.guest_memory_mib,
            self.guest_free_mib,
            self.kernel,
            self.daemon_peak_resident_bytes >> 20,
            self.seconds,
        )
    }
}

fn microseconds(ns: u64) -> String {
    let tenths = u32::try_from(ns / 100).unwrap_or(u32::MAX);
    format!("{:.1} µs", f64::from(tenths) / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let latency = Latency {
            p50_ns: 12_345,
            p99_ns: 99_000,
        };
        let run = Run {
            name: "redis",
            mib: 350,
            seconds: 12.0,
            mismatches: 0,
            pages_put: 7,
            pages_got: 5,
            pages_flushed: 3,
            bytes_on_host_peak: 9 << 20,
            get_in_guest: latency,
            get_on_host: latency,
        };
        let other = Run {
            name: "stress-ng",
            mismatches: 2,
            ..run.clone()
        };
        Report {
            emulated_cpu: true,
            kernel: "7.2".to_owned(),
            guest_memory_mib: 256,
            guest_free_mib: 117,
            daemon_peak_resident_bytes: 1 << 30,
            seconds: 30.0,
            runs: vec![run, other],
            stores: OnStores {
                killed: "store2".to_owned(),
                copies_lost: 7000,
                ..OnStores::default()
            },
            kernel_complaint: None,
        }
    }

    #[test]
    fn json_sums_the_workloads() {
        let json = report().json();
        assert_eq!(json["mismatches"], 2);
        assert_eq!(json["pages_put"], 14);
        assert_eq!(json["pages_got"], 10);
        assert_eq!(json["pages_flushed"], 6);
        assert_eq!(json["stores"]["copies_lost"], 7000);
        assert_eq!(json["workloads"][0]["name"], "redis");
        assert_eq!(json["workloads"][1]["get_in_guest"]["p99_ns"], 99_000);
    }

    #[test]
    fn table_says_what_the_times_are_of() {
        let text = report().text();
        assert!(text.contains("12.3 µs") && text.contains("emulates (TCG)"));
        assert!(text.contains("store2 was killed with 7000 pages on it"));
    }
}
