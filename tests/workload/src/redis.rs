// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fills a Redis server with values that follow from a seed, and reads all of them back.
//!
//! Speaks the server's own protocol over its Unix socket, a window of commands at a time.

use crate::options::Options;
use crate::pattern::Words;
use crate::report::{Report, elapsed_ms};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Commands that are under way at one time.
const WINDOW: u64 = 64;
/// Differences that are told in full; the rest are counted.
const TOLD_MAX: u64 = 8;

struct Plan {
    values: u64,
    bytes: usize,
    seed: u64,
}

impl Plan {
    fn read(options: &Options) -> Result<Self, String> {
        Ok(Self {
            values: options.required("values")?,
            bytes: options.required("bytes")?,
            seed: options.required("seed")?,
        })
    }

    fn key(number: u64) -> String {
        format!("value:{number:012}")
    }

    fn value(&self, number: u64) -> Vec<u8> {
        let mut words = Words::of_page(self.seed, number, 0);
        let mut value = Vec::with_capacity(self.bytes + 8);
        while value.len() < self.bytes {
            value.extend_from_slice(&words.next().to_le_bytes());
        }
        value.truncate(self.bytes);
        value
    }
}

struct Connection {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Connection {
    fn open(options: &Options) -> Result<Self, String> {
        let path = options.text("socket").ok_or("--socket is missing")?;
        let output = UnixStream::connect(path)
            .map_err(|error| format!("cannot connect to the server at {path}: {error}"))?;
        let input = output
            .try_clone()
            .map_err(|error| format!("cannot share the connection: {error}"))?;
        Ok(Self {
            input: BufReader::with_capacity(64 << 10, input),
            output,
        })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.output
            .write_all(bytes)
            .map_err(|error| format!("the server takes no more commands: {error}"))
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.input.read_line(&mut line) {
            Ok(0) => Err("the server closed the connection".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(format!("no answer from the server: {error}")),
        }
    }

    /// Reads the answer to a GET: the value, or `None` where the server has none.
    fn value(&mut self) -> Result<Option<Vec<u8>>, String> {
        let head = self.line()?;
        let length: i64 = head
            .strip_prefix('$')
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("the server answered {head} to GET"))?;
        let Ok(length) = usize::try_from(length) else {
            return Ok(None);
        };
        let mut value = vec![0; length + 2];
        self.input
            .read_exact(&mut value)
            .map_err(|error| format!("the server's answer ended early: {error}"))?;
        value.truncate(length);
        Ok(Some(value))
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Stores `--values` values of `--bytes` bytes.
pub(crate) fn fill(options: &Options) -> Result<Report, String> {
    let plan = Plan::read(options)?;
    let mut server = Connection::open(options)?;
    let start = Instant::now();
    let mut next = 0;
    while next < plan.values {
        let end = plan.values.min(next + WINDOW);
        let mut commands = Vec::new();
        for number in next..end {
            let key = Plan::key(number);
            commands.extend(command(&[b"SET", key.as_bytes(), &plan.value(number)]));
        }
        server.send(&commands)?;
        for number in next..end {
            let answer = server.line()?;
            if answer != "+OK" {
                return Err(format!("value {number} was not stored: {answer}"));
            }
        }
        next = end;
    }
    let mut report = Report::default();
    report.count("values", plan.values);
    report.count("bytes", plan.values * plan.bytes as u64);
    report.count("elapsed_ms", elapsed_ms(start));
    Ok(report)
}

/// Reads the values that `fill` stored, in an order of their own, and compares every byte.
pub(crate) fn check(options: &Options) -> Result<Report, String> {
    let plan = Plan::read(options)?;
    let mut server = Connection::open(options)?;
    let mut report = Report::default();
    let start = Instant::now();
    // A step that shares no factor with the count visits every value once, far from the last one.
    let step = (plan.values * 5 / 8..)
        .find(|&step| greatest_common_divisor(step, plan.values) == 1)
        .ok_or("there is no value to read")?;
    let order: Vec<u64> = (0..plan.values)
        .map(|turn| (turn * step) % plan.values)
        .collect();
    for window in order.chunks(usize::try_from(WINDOW).map_err(|error| error.to_string())?) {
        let mut commands = Vec::new();
        for &number in window {
            commands.extend(command(&[b"GET", Plan::key(number).as_bytes()]));
        }
        server.send(&commands)?;
        for &number in window {
            if server.value()?.as_deref() != Some(&plan.value(number)) {
                report.mismatches += 1;
                if report.mismatches <= TOLD_MAX {
                    eprintln!("value {number} is not what was stored");
                }
            }
        }
    }
    report.count("values", plan.values);
    report.count("bytes", plan.values * plan.bytes as u64);
    report.count("elapsed_ms", elapsed_ms(start));
    Ok(report)
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(socket: &str) -> Options {
        let words = format!("--socket {socket} --values 200 --bytes 1001 --seed 5");
        Options::parse(words.split(' ').map(str::to_owned)).expect("well formed")
    }

    /// A server that stores what it is sent, except that it flips a bit of the value `spoil`.
    fn serve(listener: &std::os::unix::net::UnixListener, spoil: Option<&str>) {
        let mut store = std::collections::HashMap::new();
        for _ in 0..2 {
            let (stream, _) = listener.accept().expect("a client connects");
            let mut client = Connection {
                output: stream.try_clone().expect("a second handle"),
                input: BufReader::new(stream),
            };
            while let Ok(head) = client.line() {
                let words: Vec<Vec<u8>> = (0..head[1..].parse::<usize>().expect("a count"))
                    .map(|_| client.value().expect("a word").expect("not nil"))
                    .collect();
                if words[0] == b"SET" {
                    let mut value = words[2].clone();
                    if spoil.is_some_and(|key| key.as_bytes() == words[1]) {
                        value[1000] ^= 1;
                    }
                    store.insert(words[1].clone(), value);
                    client.send(b"+OK\r\n").expect("sent");
                } else {
                    let value = &store[&words[1]];
                    let mut answer = format!("${}\r\n", value.len()).into_bytes();
                    answer.extend_from_slice(value);
                    answer.extend_from_slice(b"\r\n");
                    client.send(&answer).expect("sent");
                }
            }
        }
    }

    fn fill_and_check(spoil: Option<&'static str>) -> Report {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let server = std::thread::spawn(move || serve(&listener, spoil));
        let options = options(path.to_str().expect("UTF-8"));
        assert!(fill(&options).expect("filled").is_clean());
        let report = check(&options).expect("read");
        server.join().expect("the server ends with its clients");
        report
    }

    #[test]
    fn what_was_stored_is_read_back() {
        assert!(fill_and_check(None).is_clean());
    }

    #[test]
    fn a_flipped_bit_is_one_mismatch() {
        assert_eq!(fill_and_check(Some("value:000000000137")).mismatches, 1);
    }
}
