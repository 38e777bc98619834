// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Deliberate mistakes. A simulation that finds nothing is worth what it would have found: with any
//! of these, some seed must fail.

use std::fmt;
use std::str::FromStr;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// Nothing.
    #[default]
    None,
    /// A client that swallows flushes.
    KeepsFlushed,
    /// A store that acknowledges pages, and forgets some of them.
    Forgets,
    /// A store that brings back older pages than it was given last.
    GoesBack,
    /// A latecomer that is taken for the client itself, as if there were no fencing.
    NoFence,
}

impl Mutation {
    /// All of them but none.
    pub const ALL: [Self; 4] = [
        Self::KeepsFlushed,
        Self::Forgets,
        Self::GoesBack,
        Self::NoFence,
    ];
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::KeepsFlushed => "keeps-flushed",
            Self::Forgets => "forgets",
            Self::GoesBack => "goes-back",
            Self::NoFence => "no-fence",
        })
    }
}

impl FromStr for Mutation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().chain([Self::None]);
        known
            .clone()
            .find(|mutation| mutation.to_string() == text)
            .ok_or_else(|| {
                let names: Vec<String> = known.map(|mutation| mutation.to_string()).collect();
                format!("one of {}", names.join(", "))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for mutation in Mutation::ALL {
            assert_eq!(mutation.to_string().parse(), Ok(mutation));
        }
        assert!("everything".parse::<Mutation>().is_err());
    }
}
