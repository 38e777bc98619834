// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A watch: etcd's stream of what changes, one JSON message a line.

use std::collections::VecDeque;

use crate::client::KeyValue;
use crate::error::EtcdError;
use crate::http::Answer;
use crate::wire::{RawEvent, Streamed, WatchResponse};

/// The longest message that is taken.
const LINE_MAX: usize = 4 << 20;

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key was set.
    Put(KeyValue),
    /// A key is gone: deleted, or its lease ended.
    Delete {
        /// Which.
        key: String,
        /// By which revision.
        revision: i64,
    },
}

/// A watch under way. It ends when its connection does.
#[derive(Debug)]
pub struct Watch {
    answer: Answer,
    lines: Lines,
    ready: VecDeque<Change>,
    revision: i64,
    created: bool,
}

impl Watch {
    pub(crate) fn new(answer: Answer) -> Self {
        Self {
            answer,
            lines: Lines::default(),
            ready: VecDeque::new(),
            revision: 0,
            created: false,
        }
    }

    /// The revision of the last message.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Waits until etcd has confirmed the watch.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub async fn created(&mut self) -> Result<(), EtcdError> {
        while !self.created {
            self.more().await?;
        }
        Ok(())
    }

    /// The next change. Waits for ever if nothing changes, or if etcd is frozen: whoever waits puts
    /// a limit on it. Nothing is missed when the future is dropped.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`] if the changes asked for are forgotten, so that a list is needed;
    /// others if the connection broke.
    pub async fn next(&mut self) -> Result<Change, EtcdError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), EtcdError> {
        if let Some(line) = self.lines.pop() {
            return self.message(&line);
        }
        match self.answer.part().await? {
            Some(part) => self.lines.push(&part),
            None => Err(EtcdError::WatchEnded("the connection was closed".into())),
        }
    }

    fn message(&mut self, line: &[u8]) -> Result<(), EtcdError> {
        let message: Streamed<WatchResponse> =
            serde_json::from_slice(line).map_err(|error| EtcdError::Answer(error.to_string()))?;
        if let Some(error) = message.error {
            return Err(EtcdError::WatchEnded(error.message));
        }
        let Some(response) = message.result else {
            return Ok(());
        };
        if response.compact_revision.0 > 0 {
            return Err(EtcdError::Compacted(response.compact_revision.0));
        }
        if response.canceled {
            return Err(EtcdError::WatchEnded(response.cancel_reason));
        }
        self.created |= response.created;
        self.revision = self.revision.max(response.header.revision.0);
        for event in response.events {
            self.ready.push_back(change(event)?);
        }
        Ok(())
    }
}

fn change(event: RawEvent) -> Result<Change, EtcdError> {
    let key = KeyValue::try_from(event.kv)?;
    match event.kind.as_str() {
        "" | "PUT" => Ok(Change::Put(key)),
        "DELETE" => Ok(Change::Delete {
            revision: key.mod_revision,
            key: key.key,
        }),
        other => Err(EtcdError::Answer(format!("a change of kind {other}"))),
    }
}

/// Bytes as they come, cut into lines.
#[derive(Debug, Default)]
struct Lines {
    bytes: VecDeque<u8>,
    /// Bytes in front in which there is no end of a line.
    looked: usize,
}

impl Lines {
    fn push(&mut self, part: &[u8]) -> Result<(), EtcdError> {
        if self.bytes.len() + part.len() > LINE_MAX {
            return Err(EtcdError::TooLong(LINE_MAX));
        }
        self.bytes.extend(part);
        Ok(())
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        loop {
            let mut rest = self.bytes.iter().skip(self.looked);
            let Some(end) = rest.position(|byte| *byte == b'\n') else {
                self.looked = self.bytes.len();
                return None;
            };
            let end = self.looked + end;
            self.looked = 0;
            let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
            line.pop();
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_wherever_the_stream_is_cut() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\"";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.push(part).unwrap();
                while let Some(line) = lines.pop() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "{\"b\":2}"]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let part = vec![b'x'; 1 << 20];
        let pushed: Vec<bool> = (0..5).map(|_| lines.push(&part).is_ok()).collect();
        assert_eq!(pushed, [true, true, true, true, false]);
    }
}
