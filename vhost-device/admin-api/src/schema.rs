// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The schema number of an answer, as a type that can only be the right one.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The schema that this crate describes. It is written as its number; reading another number is
/// an error, so that no client shows figures whose meaning has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schema;

impl Schema {
    /// The number on the wire.
    pub const NUMBER: u32 = 1;
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(Self::NUMBER)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            Self::NUMBER => Ok(Self),
            other => Err(serde::de::Error::custom(format_args!(
                "answer has schema {other}, this program reads schema {}",
                Self::NUMBER
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schema;

    #[test]
    fn writes_its_number_and_reads_no_other() {
        assert_eq!(serde_json::to_string(&Schema).unwrap(), "1");
        assert!(serde_json::from_str::<Schema>("1").is_ok());
        let error = serde_json::from_str::<Schema>("2").unwrap_err().to_string();
        assert!(error.contains("schema 2"), "{error}");
    }
}
