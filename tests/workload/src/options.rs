// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line: `--name value` pairs, each read once by the workload that wants it.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Named values, as they stood on the command line.
pub(crate) struct Options(BTreeMap<String, String>);

impl Options {
    /// Reads `--name value` pairs.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--") else {
                return Err(format!("expected an option, found {argument}"));
            };
            let value = arguments
                .next()
                .ok_or_else(|| format!("--{name} needs a value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Self(values))
    }

    /// The value of `--name`, if it is there.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The number in `--name`, or `default` where the option is absent.
    pub(crate) fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        self.text(name).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|_| format!("--{name} {text} is not a number in range"))
        })
    }

    /// The number in `--name`, which must be there.
    pub(crate) fn required<T: FromStr>(&self, name: &str) -> Result<T, String> {
        let text = self
            .text(name)
            .ok_or_else(|| format!("--{name} is missing"))?;
        text.parse()
            .map_err(|_| format!("--{name} {text} is not a number in range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Result<Options, String> {
        Options::parse(words.iter().map(|&word| word.to_owned()))
    }

    #[test]
    fn values_are_found_by_name() {
        let options = options(&["--mib", "12", "--huge", "on"]).expect("well formed");
        assert_eq!(options.required::<usize>("mib"), Ok(12));
        assert_eq!(options.text("huge"), Some("on"));
        assert_eq!(options.number::<u32>("passes", 3), Ok(3));
    }

    #[test]
    fn malformed_words_are_refused() {
        assert!(options(&["mib", "12"]).is_err());
        assert!(options(&["--mib"]).is_err());
        let options = options(&["--mib", "many"]).expect("well formed");
        assert!(options.required::<usize>("mib").is_err());
        assert!(options.required::<usize>("seed").is_err());
    }
}
