// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Logging, to standard error.
//!
//! | level | what |
//! | --- | --- |
//! | error | the daemon, or a guest's queue, cannot do its work; somebody should look |
//! | warn | a guest or a VMM broke a rule and was served as well as possible |
//! | info | starts and ends: of the daemon, of connections, of guests' boots |
//! | debug | negotiation, resets |
//! | trace | nothing of ours; the crates' own |
//!
//! What a guest can cause is logged once a kind and interval, with a count; nothing is logged for a
//! request that follows the rules.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// The filter is not one.
#[derive(Debug, thiserror::Error)]
#[error("Cannot log at {level:?}: use error, warn, info, debug or trace, or filters by module")]
pub struct Error {
    level: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Logs what `level` lets through from now on, messages of the crates that use `log` as well.
///
/// # Errors
/// [`Error`] if `level` is no level or filter.
pub fn start(level: &str, format: LogFormat) -> Result<(), Error> {
    let filter = EnvFilter::try_new(level).map_err(|source| Error {
        level: level.to_owned(),
        source,
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
