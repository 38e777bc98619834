// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the programs of this crate have in common: options, random numbers, a line of results.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Options of the form `--name value`, or `--name` for those that are switches.
#[derive(Debug)]
pub struct Options {
    values: BTreeMap<String, String>,
}

impl Options {
    /// Reads `arguments`; only `names` and `switches` are known.
    ///
    /// # Errors
    /// For an option that is not known, or has no value.
    pub fn parse(
        arguments: impl IntoIterator<Item = String>,
        names: &[&str],
        switches: &[&str],
    ) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").unwrap_or_default();
            if switches.contains(&name) {
                values.insert(name.to_owned(), "yes".to_owned());
            } else if names.contains(&name) {
                let value = arguments.next();
                let value = value.ok_or_else(|| format!("--{name} needs a value"))?;
                values.insert(name.to_owned(), value);
            } else {
                return Err(format!(
                    "there is no option {argument}; the options are --{}",
                    [names, switches].concat().join(", --")
                ));
            }
        }
        Ok(Self { values })
    }

    /// A switch.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// An option's text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A number, or what holds without the option.
    ///
    /// # Errors
    /// If it is no number.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, String> {
        self.text(name).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|_| format!("--{name} {text}: not a number"))
        })
    }

    /// Numbers with commas between them.
    ///
    /// # Errors
    /// If one of them is no number, or is 0.
    pub fn numbers(&self, name: &str, default: &[u32]) -> Result<Vec<u32>, String> {
        let Some(text) = self.text(name) else {
            return Ok(default.to_vec());
        };
        text.split(',')
            .map(|part| match part.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(format!("--{name} {text}: {part} is no number above 0")),
            })
            .collect()
    }
}

/// Random numbers that follow from a seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The sequence of `seed` for user number `nth`.
    #[must_use]
    pub fn of(seed: u64, nth: u64) -> Self {
        let mut rng = Self(seed ^ nth.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next();
        rng
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `bound`, or 0 if that is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u32::try_from(wide >> 64).unwrap_or(0)
    }

    /// A place in something of length `len`, or 0 if that is 0.
    pub fn place(&mut self, len: usize) -> usize {
        let wide = u128::from(self.next()) * len as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    /// Puts a slice into a random order.
    pub fn shuffle<T>(&mut self, of: &mut [T]) {
        for last in (1..of.len()).rev() {
            of.swap(last, self.place(last + 1));
        }
    }
}

/// Content of a page that follows from two numbers and is not one repeated byte.
pub fn fill(page: &mut [u8], index: u64, version: u64) {
    let mut rng = Rng::of(index, version);
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&rng.next().to_le_bytes());
    }
}

/// The line that tests read: `TMEM-RESULT {"a": 1, ...}`.
#[must_use]
pub fn result_line(figures: &[(&str, u64)]) -> String {
    let mut line = String::from("TMEM-RESULT {");
    for (nth, (name, value)) in figures.iter().enumerate() {
        let comma = if nth == 0 { "" } else { ", " };
        let _ = write!(line, "{comma}\"{name}\": {value}");
    }
    line.push('}');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let words = line.split_whitespace().map(str::to_owned);
        Options::parse(words, &["seed", "batches"], &["json"])
    }

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let options = parse("--seed 7 --json --batches 1,512").expect("known");
        assert_eq!(options.number("seed", 1), Ok(7));
        assert_eq!(options.numbers("batches", &[4]), Ok(vec![1, 512]));
        assert!(options.has("json"));
        assert!(parse("--sed 7").is_err() && parse("--seed").is_err());
        assert!(
            parse("--batches 0")
                .expect("read")
                .numbers("batches", &[])
                .is_err()
        );
    }

    #[test]
    fn numbers_follow_from_the_seed_and_stay_below_their_bound() {
        let (mut one, mut two) = (Rng::of(3, 1), Rng::of(3, 1));
        assert!((0..100).all(|_| one.next() == two.next()));
        assert_ne!(Rng::of(3, 1).next(), Rng::of(3, 2).next());
        assert!((0..1000).all(|_| one.below(7) < 7));
        assert_eq!(one.below(0), 0);
    }

    #[test]
    fn result_line_is_json() {
        assert_eq!(
            result_line(&[("a", 1), ("b", 2)]),
            r#"TMEM-RESULT {"a": 1, "b": 2}"#
        );
    }
}
