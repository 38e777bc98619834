// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a benchmark hands back: a report for programs, words for people, and pictures.

use crate::Report;

/// The figures of one benchmark.
#[derive(Clone, Debug)]
pub struct Figures {
    /// For programs, and what is held against goals.
    pub report: Report,
    /// For people.
    pub text: String,
    /// Pictures, to be kept in files.
    pub plots: Vec<Plot>,
}

/// One picture.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Name of its file.
    pub name: &'static str,
    /// The picture itself.
    pub svg: String,
}

/// A report that speaks for itself.
impl From<Report> for Figures {
    fn from(report: Report) -> Self {
        Self {
            text: report.to_string(),
            report,
            plots: Vec::new(),
        }
    }
}
