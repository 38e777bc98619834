// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Progress on stderr: one live line on a terminal, plain lines with the elapsed time elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where steps are shown. Clones share one clock.
#[derive(Clone, Debug)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    terminal: bool,
    quiet: bool,
}

impl Progress {
    /// Shows steps on stderr.
    #[must_use]
    pub fn stderr() -> Self {
        Self::with(std::io::stderr().is_terminal(), false)
    }

    /// Shows nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self::with(false, true)
    }

    fn with(terminal: bool, quiet: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                start: Instant::now(),
                terminal,
                quiet,
            }),
        }
    }

    /// Begins a step; it ends when the returned guard is dropped or told how it ended.
    #[must_use]
    pub fn step(&self, label: &str) -> Step {
        let bar = (self.shared.terminal && !self.shared.quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {prefix} {msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(label.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            self.line(&format!("{label} ..."));
        }
        Step {
            progress: self.clone(),
            bar,
            label: label.to_owned(),
            start: Instant::now(),
            shown: Instant::now(),
        }
    }

    /// One line that stays on the screen.
    pub fn line(&self, text: &str) {
        if !self.shared.quiet {
            let at = self.shared.start.elapsed().as_secs_f64();
            eprintln!("[{at:7.1} s] {text}");
        }
    }
}

/// A step under way.
#[derive(Debug)]
pub struct Step {
    progress: Progress,
    bar: Option<ProgressBar>,
    label: String,
    start: Instant,
    shown: Instant,
}

/// Without a terminal, a running step says so at most this often.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

impl Step {
    /// Shows what the step does right now, such as "120 of 258 packages".
    pub fn update(&mut self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        } else if self.shown.elapsed() >= LINE_INTERVAL {
            self.shown = Instant::now();
            self.progress.line(&format!("{}: {text}", self.label));
        }
    }

    /// Ends the step with a word on its result.
    pub fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = self.start.elapsed().as_secs_f64();
        let colon = if result.is_empty() { "" } else { ": " };
        self.progress
            .line(&format!("{}{colon}{result} ({took:.1} s)", self.label));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
