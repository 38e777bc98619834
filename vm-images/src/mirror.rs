// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Finds the Debian mirror that this machine already uses, so that none has to be named here.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Debian's releases, by code name and by role: what tells a Debian suite from a third party's.
const SUITES: [&str; 12] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "oldstable",
    "stable",
    "testing",
    "unstable",
    "oldoldstable",
];

/// Where the archive's keys lie; the name depends on the age of the package.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// The URL of the mirror: `$DEBIAN_MIRROR`, else the first entry for Debian itself in the host's
/// apt sources.
pub(crate) fn find() -> Result<String> {
    if let Some(url) = std::env::var("DEBIAN_MIRROR")
        .ok()
        .filter(|u| !u.is_empty())
    {
        return Ok(url);
    }
    let mut searched = Vec::new();
    let mut found = Vec::new();
    for path in source_files(Path::new("/etc/apt")) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let deb822 = path.extension().is_some_and(|e| e == "sources");
        found.extend(if deb822 {
            parse_deb822(&text)
        } else {
            parse_list(&text)
        });
        searched.push(path.display().to_string());
    }
    choose(&found).ok_or_else(|| Error::NoMirror {
        searched: if searched.is_empty() {
            "/etc/apt, which holds no sources".to_owned()
        } else {
            searched.join(", ")
        },
    })
}

/// The keyring that Debian's archive is checked with.
pub(crate) fn keyring() -> Result<PathBuf> {
    KEYRINGS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or_else(|| Error::NoKeyring {
            searched: KEYRINGS.join(" or "),
        })
}

fn source_files(etc: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = fs::read_dir(etc.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| p.extension().is_some_and(|e| e == "list" || e == "sources"))
        .collect();
    parts.sort();
    std::iter::once(etc.join("sources.list"))
        .filter(|p| p.exists())
        .chain(parts)
        .collect()
}

/// One enabled binary source.
#[derive(Debug, PartialEq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
}

impl Source {
    /// An entry for Debian itself: not a third party's, not the security archive.
    fn is_debian(&self) -> bool {
        let known = |suite: &String| {
            let base = suite
                .trim_end_matches("-updates")
                .trim_end_matches("-backports");
            SUITES.contains(&base)
        };
        !self.uri.contains("security")
            && !self.uri.starts_with("cdrom:")
            && self.suites.iter().any(known)
            && self.components.iter().any(|c| c == "main")
    }
}

/// A path that ends in `/debian` is surely the main archive; others count when there is none.
fn choose(sources: &[Source]) -> Option<String> {
    let ours = || sources.iter().filter(|s| s.is_debian());
    ours()
        .find(|s| s.uri.trim_end_matches('/').ends_with("/debian"))
        .or_else(|| ours().next())
        .map(|s| s.uri.trim_end_matches('/').to_owned())
}

/// The one-line style: `deb [options] uri suite component ...`.
fn parse_list(text: &str) -> Vec<Source> {
    let words = |line: &str| -> Option<Source> {
        let line = line.split('#').next().unwrap_or_default().trim();
        let rest = line.strip_prefix("deb")?;
        let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        Some(Source {
            uri: words.next()?,
            suites: vec![words.next()?],
            components: words.collect(),
        })
    };
    text.lines().filter_map(words).collect()
}

/// The deb822 style: stanzas of `Field: value`, continued by indented lines.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in stanzas(text) {
        let words = |name: &str| -> Vec<String> {
            field(&stanza, name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        };
        let enabled = field(&stanza, "Enabled").is_none_or(|v| v.trim() != "no");
        if enabled && words("Types").iter().any(|t| t == "deb") {
            sources.extend(words("URIs").into_iter().map(|uri| Source {
                uri,
                suites: words("Suites"),
                components: words("Components"),
            }));
        }
    }
    sources
}

/// A stanza's fields, in order.
pub(crate) type Stanza = Vec<(String, String)>;

/// Takes a control file apart: stanzas between empty lines, comments dropped.
pub(crate) fn stanzas(text: &str) -> Vec<Stanza> {
    let mut all: Vec<Stanza> = vec![Vec::new()];
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some(stanza) = all.last_mut() else { break };
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if line.starts_with(char::is_whitespace) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all.retain(|stanza| !stanza.is_empty());
    all
}

/// A field of a stanza; names are compared without case.
pub(crate) fn field<'a>(stanza: &'a Stanza, name: &str) -> Option<&'a str> {
    stanza
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_and_third_party_entries_are_passed_over() {
        let list = "# a comment\n\
            deb https://packages.example.net/tool stable main\n\
            deb http://example.org/debian-security bookworm-security main\n\
            deb-src http://example.org/source/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://example.org/debian/ bookworm main contrib\n";
        assert_eq!(
            choose(&parse_list(list)).as_deref(),
            Some("http://example.org/debian")
        );
    }

    #[test]
    fn deb822_stanzas_with_embedded_key_and_disabled_ones_are_understood() {
        let text = "Types: deb\nURIs: http://off.example.org/debian\nSuites: trixie\n\
            Components: main\nEnabled: no\n\n\
            # comment\nTypes: deb deb-src\nURIs: http://on.example.org/debian\n\
            Suites: trixie trixie-updates\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n";
        assert_eq!(
            choose(&parse_deb822(text)).as_deref(),
            Some("http://on.example.org/debian")
        );
    }

    #[test]
    fn other_distribution_gives_no_mirror() {
        let list = "deb http://archive.example.org/ubuntu noble main\n";
        assert_eq!(choose(&parse_list(list)), None);
    }

    #[test]
    fn mirror_list_of_a_cloud_image_is_taken() {
        let text = "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n\
            Suites: trixie trixie-updates\nComponents: main\n\n\
            Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian-security.list\n\
            Suites: trixie-security\nComponents: main\n";
        assert_eq!(
            choose(&parse_deb822(text)).as_deref(),
            Some("mirror+file:///etc/apt/mirrors/debian.list")
        );
    }
}
