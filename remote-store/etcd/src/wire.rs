// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The JSON that etcd's gateway speaks: bytes as base64, 64-bit numbers as strings, and what is zero
//! or empty left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes, base64 on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl From<&str> for Base64 {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// A 64-bit number: a string on the wire, though a bare number is understood too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Int(pub(crate) i64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Number(i64),
        }
        match Either::deserialize(deserializer)? {
            Either::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
            Either::Number(number) => Ok(Self(number)),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Header {
    #[serde(default)]
    pub(crate) revision: Int,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RawKeyValue {
    #[serde(default)]
    pub(crate) key: Base64,
    #[serde(default)]
    pub(crate) value: Base64,
    #[serde(default)]
    pub(crate) create_revision: Int,
    #[serde(default)]
    pub(crate) mod_revision: Int,
    #[serde(default)]
    pub(crate) lease: Int,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct RangeRequest {
    pub(crate) key: Base64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) range_end: Option<Base64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RangeResponse {
    #[serde(default)]
    pub(crate) header: Header,
    #[serde(default)]
    pub(crate) kvs: Vec<RawKeyValue>,
    #[serde(default)]
    pub(crate) more: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct PutRequest {
    pub(crate) key: Base64,
    pub(crate) value: Base64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lease: Option<Int>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct PutResponse {
    #[serde(default)]
    pub(crate) header: Header,
}

#[derive(Debug, Deserialize)]
pub(crate) struct DeleteResponse {
    #[serde(default)]
    pub(crate) deleted: Int,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Compare {
    pub(crate) key: Base64,
    pub(crate) target: &'static str,
    pub(crate) result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) create_revision: Option<Int>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mod_revision: Option<Int>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) enum Operation {
    #[serde(rename = "request_put")]
    Put(PutRequest),
    #[serde(rename = "request_range")]
    Range(RangeRequest),
    #[serde(rename = "request_delete_range")]
    Delete(RangeRequest),
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TxnRequest {
    pub(crate) compare: Vec<Compare>,
    pub(crate) success: Vec<Operation>,
    pub(crate) failure: Vec<Operation>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TxnResponse {
    #[serde(default)]
    pub(crate) header: Header,
    #[serde(default)]
    pub(crate) succeeded: bool,
    #[serde(default)]
    pub(crate) responses: Vec<OperationResponse>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct OperationResponse {
    #[serde(default, alias = "responseRange")]
    pub(crate) response_range: Option<RangeResponse>,
}

#[derive(Debug, Serialize)]
pub(crate) struct GrantRequest {
    #[serde(rename = "TTL")]
    pub(crate) ttl: Int,
}

#[derive(Debug, Serialize)]
pub(crate) struct LeaseRequest {
    #[serde(rename = "ID")]
    pub(crate) id: Int,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LeaseResponse {
    #[serde(default, rename = "ID")]
    pub(crate) id: Int,
    #[serde(default, rename = "TTL")]
    pub(crate) ttl: Int,
}

#[derive(Debug, Serialize)]
pub(crate) struct WatchRequest {
    pub(crate) create_request: WatchCreate,
}

#[derive(Debug, Serialize)]
pub(crate) struct WatchCreate {
    pub(crate) key: Base64,
    pub(crate) range_end: Base64,
    pub(crate) start_revision: Int,
}

/// One message of a stream: the gateway wraps each, and reports errors in their place.
#[derive(Debug, Deserialize)]
pub(crate) struct Streamed<T> {
    pub(crate) result: Option<T>,
    pub(crate) error: Option<StreamError>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamError {
    #[serde(default, alias = "code")]
    pub(crate) grpc_code: u32,
    #[serde(default)]
    pub(crate) http_code: u16,
    #[serde(default)]
    pub(crate) message: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WatchResponse {
    #[serde(default)]
    pub(crate) header: Header,
    #[serde(default)]
    pub(crate) created: bool,
    #[serde(default)]
    pub(crate) canceled: bool,
    #[serde(default)]
    pub(crate) compact_revision: Int,
    #[serde(default)]
    pub(crate) cancel_reason: String,
    #[serde(default)]
    pub(crate) events: Vec<RawEvent>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RawEvent {
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    pub(crate) kv: RawKeyValue,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) code: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_strings_and_bytes_are_base64() {
        let put = PutRequest {
            key: "/a".into(),
            value: Base64(vec![0, 255]),
            lease: Some(Int(i64::MAX)),
        };
        let text = serde_json::to_string(&put).unwrap();
        let expected = r#"{"key":"L2E=","value":"AP8=","lease":"9223372036854775807"}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_left_out_is_zero() {
        let text = r#"{"header":{"revision":"7"},"kvs":[{"key":"L2E=","mod_revision":3}]}"#;
        let range: RangeResponse = serde_json::from_str(text).unwrap();
        assert_eq!(range.header.revision, Int(7));
        assert_eq!(range.kvs[0].key, Base64::from("/a"));
        assert_eq!(range.kvs[0].mod_revision, Int(3));
        assert_eq!(range.kvs[0].value, Base64::default());
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            r#"{"kvs":[{"key":"%%"}]}"#,
            r#"{"header":{"revision":"x"}}"#,
            "7",
        ] {
            assert!(
                serde_json::from_str::<RangeResponse>(text).is_err(),
                "{text}"
            );
        }
    }
}
