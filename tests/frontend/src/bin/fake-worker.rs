// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A worker that a keeper should not have trusted: its file's name says what it does.
//!
//! | name | |
//! | --- | --- |
//! | `silent` | says nothing |
//! | `stranger` | speaks another version of the channel |
//! | `refuses` | says that it cannot go on with the state |
//! | `dies` | says that it can, and ends when it is to serve |
//! | `hangs` | says that it can, and does nothing when it is to serve |

use std::io;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The version of the channel that the keeper speaks.
const CHANNEL: u32 = 1;

fn main() -> io::Result<()> {
    let program = std::env::args().nth(1).filter(|first| first == "--worker");
    if program.is_none() {
        return Err(io::Error::other("only a keeper starts this"));
    }
    let path = std::fs::read_link("/proc/self/exe")?;
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let channel = if name == "stranger" {
        CHANNEL + 1
    } else {
        CHANNEL
    };
    if name != "silent" {
        say(&format!(
            r#"{{"hello":{{"channel":{channel},"version":"9.9.{name}"}}}}"#
        ))?;
    }
    loop {
        let mut bytes = vec![0; 1 << 18];
        let (_, length) = recv(rustix::stdio::stdin(), &mut bytes[..], RecvFlags::empty())?;
        let heard = String::from_utf8_lossy(&bytes[..length]);
        match (&*name, heard.starts_with("\"check\"")) {
            _ if length == 0 => return Ok(()),
            ("refuses", true) => {
                say(r#"{"refused":{"reason":"the map is of version 77"}}"#)?;
                return Ok(());
            }
            ("dies" | "hangs", true) => say("\"checked\"")?,
            ("dies", false) => return Err(io::Error::other("as its name says")),
            _ => std::thread::sleep(Duration::from_secs(60)),
        }
    }
}

fn say(what: &str) -> io::Result<()> {
    send(rustix::stdio::stdin(), what.as_bytes(), SendFlags::empty())?;
    Ok(())
}
