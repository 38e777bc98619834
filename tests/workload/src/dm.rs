// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device mapper without dmsetup: the few ioctls that the tests need.
//!
//! A request is a header of 312 bytes, then what the command wants; the answer has the same form.

use crate::options::Options;
use crate::report::Report;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

const CONTROL: &str = "/dev/mapper/control";
const HEADER: usize = 312;
const NAME_AT: usize = 48;
const NAME_MAX: usize = 127;
const SPEC: usize = 40;
const ROOM: usize = 16 * 1024;

const CREATE: u64 = 3;
const REMOVE: u64 = 4;
const SUSPEND: u64 = 6;
const LOAD: u64 = 9;
const STATUS: u64 = 12;
const MESSAGE: u64 = 14;

/// Flag of SUSPEND; without it, the device goes on.
const FLAG_SUSPEND: u32 = 1 << 1;
/// Flag of STATUS: the table instead.
const FLAG_TABLE: u32 = 1 << 4;

/// A request for the device `name`.
struct Request(Vec<u8>);

impl Request {
    fn new(name: &str, flags: u32) -> Result<Self, String> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(format!("{name:?} is no name for a device"));
        }
        let mut bytes = vec![0; ROOM];
        let size = u32::try_from(ROOM).unwrap_or(u32::MAX);
        let start = u32::try_from(HEADER).unwrap_or(u32::MAX);
        for (at, word) in [(0, 4), (12, size), (16, start), (28, flags)] {
            put(&mut bytes, at, word);
        }
        bytes[NAME_AT..NAME_AT + name.len()].copy_from_slice(name.as_bytes());
        Ok(Self(bytes))
    }

    /// Sends it; the answer is in its place.
    fn send(&mut self, control: &File, command: u64, what: &str) -> Result<(), String> {
        // _IOWR(0xfd, command, struct dm_ioctl)
        let code = (3 << 30) | ((HEADER as u64) << 16) | (0xfd << 8) | command;
        // SAFETY: the buffer begins with a header that tells its length, and lives through the call.
        let result = unsafe { libc::ioctl(control.as_raw_fd(), code, self.0.as_mut_ptr()) };
        if result < 0 {
            return Err(format!("{what}: {}", io::Error::last_os_error()));
        }
        Ok(())
    }

    fn word(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.0[at..at + 4]);
        u32::from_le_bytes(word)
    }
}

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

/// `tmem-workload dm --do VERB --name NAME [--table TEXT] [--text WORDS]`
pub(crate) fn run(options: &Options) -> Result<Report, String> {
    let verb: String = options.required("do")?;
    let name: String = options.required("name")?;
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open(CONTROL)
        .map_err(|error| format!("cannot open {CONTROL}: {error}"))?;
    match verb.as_str() {
        "create" => {
            Request::new(&name, 0)?.send(&control, CREATE, "create")?;
            load(&control, &name, &options.required::<String>("table")?)?;
        }
        "load" => load(&control, &name, &options.required::<String>("table")?)?,
        "suspend" => Request::new(&name, FLAG_SUSPEND)?.send(&control, SUSPEND, "suspend")?,
        "resume" => Request::new(&name, 0)?.send(&control, SUSPEND, "resume")?,
        "remove" => Request::new(&name, 0)?.send(&control, REMOVE, "remove")?,
        "message" => {
            let mut request = Request::new(&name, 0)?;
            let text: String = options.required("text")?;
            // After the sector that the message is for.
            request.0[HEADER + 8..HEADER + 8 + text.len()].copy_from_slice(text.as_bytes());
            request.send(&control, MESSAGE, "message")?;
        }
        "status" => return status(&control, &name),
        other => return Err(format!("there is no verb {other}")),
    }
    Ok(Report::default())
}

/// Loads a table, whose lines are separated by `;`, and lets the device go on with it.
fn load(control: &File, name: &str, table: &str) -> Result<(), String> {
    let mut request = Request::new(name, 0)?;
    let mut at = HEADER;
    let mut lines = 0;
    for line in table.split(';') {
        let mut words = line.trim().splitn(4, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(start), Some(length)) = (number(), number()) else {
            return Err(format!("{line:?} is no line of a table"));
        };
        let (kind, rest) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let next = (SPEC + rest.len() + 1).next_multiple_of(8);
        let bytes = &mut request.0[at..at + next];
        bytes[..8].copy_from_slice(&start.to_le_bytes());
        bytes[8..16].copy_from_slice(&length.to_le_bytes());
        bytes[20..24].copy_from_slice(&u32::try_from(next).unwrap_or(0).to_le_bytes());
        bytes[24..24 + kind.len()].copy_from_slice(kind.as_bytes());
        bytes[SPEC..SPEC + rest.len()].copy_from_slice(rest.as_bytes());
        at += next;
        lines += 1;
    }
    put(&mut request.0, 20, lines);
    request.send(control, LOAD, "load")?;
    Request::new(name, 0)?.send(control, SUSPEND, "resume")
}

/// The counters of the first target, as a report.
fn status(control: &File, name: &str) -> Result<Report, String> {
    let mut request = Request::new(name, FLAG_TABLE)?;
    request.send(control, STATUS, "status")?;
    println!("table: {}", text_of(&request));
    let mut request = Request::new(name, 0)?;
    request.send(control, STATUS, "status")?;
    let text = text_of(&request);
    let mut words = text.split_whitespace();
    let mut report = Report::default();
    report.count(
        "attached",
        u64::from(words.next().is_some_and(|word| word == "attached")),
    );
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        report.count(
            // A handful of names, once a run.
            String::leak(name.to_owned()),
            value.parse().map_err(|_| format!("{name} is {value}"))?,
        );
    }
    Ok(report)
}

/// The text behind the first target's head in an answer.
fn text_of(request: &Request) -> String {
    let start = request.word(16) as usize + SPEC;
    let bytes = request.0.get(start..).unwrap_or(&[]);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
