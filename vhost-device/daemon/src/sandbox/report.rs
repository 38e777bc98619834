// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which layers a process has entered, for logs and for `tmemctl status`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Absent, Error, Mode};

/// A layer of the sandbox. Each holds when the others are broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// Not root.
    Identity,
    /// No capabilities, and none to be had.
    Capabilities,
    /// An exec gives no rights, and no other process may look into this one's memory.
    NoNewPrivileges,
    /// A private file tree and a network without interfaces.
    Namespaces,
    /// Files, TCP ports, abstract sockets and signals, by the kernel's Landlock.
    Landlock,
    /// System calls.
    Seccomp,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::Namespaces => "namespaces",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        })
    }
}

/// How far a layer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "reason")]
pub enum State {
    /// It holds.
    Entered,
    /// It holds, but for what this says.
    Partly(String),
    /// It does not, because of this.
    Missing(String),
}

/// A layer and how far it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerState {
    /// Which.
    pub layer: Layer,
    /// How far.
    #[serde(flatten)]
    pub state: State,
}

/// The layers of one process, in the order in which they were entered. Empty without a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Each layer once.
    pub layers: Vec<LayerState>,
}

impl Report {
    /// The report of a process without a sandbox.
    pub(super) const fn none() -> Self {
        Self { layers: Vec::new() }
    }

    /// Whether every layer holds, at least partly.
    #[must_use]
    pub fn complete(&self) -> bool {
        let missing = |layer: &LayerState| matches!(layer.state, State::Missing(_));
        !self.layers.is_empty() && !self.layers.iter().any(missing)
    }

    /// How far `layer` holds, if the process has tried to enter it.
    #[must_use]
    pub fn state(&self, layer: Layer) -> Option<&State> {
        let found = self.layers.iter().find(|entry| entry.layer == layer);
        found.map(|entry| &entry.state)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.layers.is_empty() {
            return f.write_str("none");
        }
        for (i, LayerState { layer, state }) in self.layers.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            match state {
                State::Entered => write!(f, "{separator}{layer}")?,
                State::Partly(but) => write!(f, "{separator}{layer} (partly: {but})")?,
                State::Missing(reason) => write!(f, "{separator}no {layer} ({reason})")?,
            }
        }
        Ok(())
    }
}

/// Layers as they are entered.
pub(super) struct Steps {
    mode: Mode,
    report: Report,
}

impl Steps {
    pub(super) const fn new(mode: Mode) -> Self {
        Self {
            mode,
            report: Report::none(),
        }
    }

    /// Enters `layer` by `step`.
    ///
    /// # Errors
    /// [`Error::Failed`]; in strict mode [`Error::Missing`] too.
    pub(super) fn take(
        &mut self,
        layer: Layer,
        step: impl FnOnce() -> Result<State, Absent>,
    ) -> Result<(), Error> {
        let state = match step() {
            Ok(state) => state,
            Err(Absent::Reason(reason)) => State::Missing(reason),
            Err(Absent::Broke { step, source }) => {
                return Err(Error::Failed {
                    layer,
                    step,
                    source,
                });
            }
        };
        if let (Mode::Strict, State::Missing(reason)) = (self.mode, &state) {
            let reason = reason.clone();
            return Err(Error::Missing { layer, reason });
        }
        self.report.layers.push(LayerState { layer, state });
        Ok(())
    }

    pub(super) fn report(self) -> Report {
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_right() -> Result<State, Absent> {
        Err(Absent::Reason("no right".into()))
    }

    #[test]
    fn what_is_missing_is_reported_or_in_strict_mode_an_error() {
        let mut auto = Steps::new(Mode::Auto);
        auto.take(Layer::Seccomp, || Ok(State::Entered)).unwrap();
        auto.take(Layer::Namespaces, no_right).unwrap();
        let report = auto.report();
        assert!(!report.complete());
        assert_eq!(report.to_string(), "seccomp, no namespaces (no right)");
        let refused = Steps::new(Mode::Strict).take(Layer::Namespaces, no_right);
        assert!(matches!(refused, Err(Error::Missing { .. })));
    }

    #[test]
    fn a_step_that_breaks_is_an_error_in_every_mode() {
        for mode in [Mode::Auto, Mode::Strict] {
            let broke = || Err(Absent::broke("a step")(std::io::Error::other("why")));
            let taken = Steps::new(mode).take(Layer::Landlock, broke);
            assert!(matches!(taken, Err(Error::Failed { .. })));
        }
    }

    #[test]
    fn a_report_survives_json() {
        let report = Report {
            layers: vec![
                LayerState {
                    layer: Layer::Landlock,
                    state: State::Partly("signals".into()),
                },
                LayerState {
                    layer: Layer::NoNewPrivileges,
                    state: State::Entered,
                },
            ],
        };
        let json = serde_json::to_string(&report).unwrap();
        assert!(
            json.contains(r#""layer":"no-new-privileges","state":"entered""#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert!(report.complete());
        assert!(!Report::none().complete());
    }
}
