// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which kernels the suites offer, and what each lacks.

use std::collections::BTreeMap;

use crate::apt::Apt;
use crate::error::Result;
use crate::mirror::{Stanza, field};

const IMAGE: &str = "linux-image-";
const HEADERS: &str = "linux-headers-";
const FLAVOUR: &str = "-cloud-amd64";

/// A release that some package of the suites belongs to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Candidate {
    /// As `uname -r` prints it.
    pub(crate) release: String,
    /// The version of its packages.
    pub(crate) version: String,
    /// The image package and the packages of the same version that it depends on.
    image: Vec<String>,
    headers: bool,
    source: bool,
}

impl Candidate {
    /// What keeps a module from being built for it, in words.
    pub(crate) fn missing(&self) -> Option<String> {
        let parts = [
            (self.image.is_empty(), format!("{IMAGE}{}", self.release)),
            (!self.headers, format!("{HEADERS}{}", self.release)),
            (!self.source, self.source_package()),
        ];
        let missing: Vec<String> = parts
            .into_iter()
            .filter(|(missing, _)| *missing)
            .map(|(_, name)| name)
            .collect();
        (!missing.is_empty()).then(|| {
            let (names, version) = (missing.join(" and "), &self.version);
            format!("no {names} of version {version}")
        })
    }

    /// Whether a user means this one by `wanted`.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        [
            self.release.as_str(),
            self.version.as_str(),
            upstream(&self.release),
        ]
        .contains(&wanted)
    }

    /// The packages to unpack, `name=version` each, without the source.
    pub(crate) fn binary_packages(&self) -> Vec<String> {
        let headers = format!("{HEADERS}{}", self.release);
        self.image
            .iter()
            .chain(std::iter::once(&headers))
            .map(|name| format!("{name}={}", self.version))
            .collect()
    }

    /// The name of the package with the source of this series.
    pub(crate) fn source_package(&self) -> String {
        let series: Vec<&str> = upstream(&self.release).split('.').take(2).collect();
        format!("linux-source-{}", series.join("."))
    }
}

/// The upstream version: 7.2.12 of 7.2.12+deb13-cloud-amd64.
pub(crate) fn upstream(release: &str) -> &str {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.');
    &release[..end.unwrap_or(release.len())]
}

/// The rest of it: +deb13-cloud-amd64.
pub(crate) fn local_version(release: &str) -> &str {
    &release[upstream(release).len()..]
}

fn order(release: &str) -> Vec<u32> {
    upstream(release)
        .split('.')
        .filter_map(|n| n.parse().ok())
        .collect()
}

/// All cloud kernels of the suites, newest first.
pub(crate) fn candidates(apt: &Apt) -> Result<Vec<Candidate>> {
    let cloud = |prefix: &'static str| -> Result<Vec<String>> {
        let mut names = apt.names(prefix)?;
        names.retain(|name| release_of(name, prefix).is_some());
        Ok(names)
    };
    let images = apt.show(&cloud(IMAGE)?)?;
    let headers = apt.show(&cloud(HEADERS)?)?;
    let mut parts = Vec::new();
    for part in ["linux-base-", "linux-binary-", "linux-modules-"] {
        parts.extend(cloud(part)?);
    }
    let parts = apt.show(&parts)?;
    let mut sources = apt.names("linux-source-")?;
    sources.retain(|name| name["linux-source-".len()..].starts_with(|c: char| c.is_ascii_digit()));
    let sources = apt.show(&sources)?;
    Ok(collect(&images, &headers, &parts, &sources))
}

/// The release in a package's name; none for meta packages and other flavours.
fn release_of<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let release = name.strip_prefix(prefix)?;
    let versioned = release.starts_with(|c: char| c.is_ascii_digit());
    (versioned && release.ends_with(FLAVOUR) && !upstream(release).is_empty()).then_some(release)
}

fn collect(
    images: &[Stanza],
    headers: &[Stanza],
    parts: &[Stanza],
    sources: &[Stanza],
) -> Vec<Candidate> {
    let mut found: BTreeMap<String, Candidate> = BTreeMap::new();
    let named = |stanza: &Stanza| -> Option<(String, String)> {
        let name = field(stanza, "Package")?.to_owned();
        Some((name, field(stanza, "Version")?.to_owned()))
    };
    for (stanzas, prefix) in [(images, IMAGE), (headers, HEADERS)] {
        for (name, version) in stanzas.iter().filter_map(named) {
            let Some(release) = release_of(&name, prefix) else {
                continue;
            };
            let entry = found.entry(release.to_owned()).or_default();
            release.clone_into(&mut entry.release);
            // An image signed again may be newer than its headers; they must be of one build.
            entry.version.clone_from(&version);
            if prefix == IMAGE {
                entry.image = vec![name];
            } else {
                entry.headers = true;
            }
        }
    }
    let has = |stanzas: &[Stanza], name: &str, version: &str| {
        let wanted = (name.to_owned(), version.to_owned());
        stanzas.iter().filter_map(named).any(|n| n == wanted)
    };
    for entry in found.values_mut() {
        let image = format!("{IMAGE}{}", entry.release);
        let header = format!("{HEADERS}{}", entry.release);
        if !has(images, &image, &entry.version) {
            entry.image.clear();
        }
        entry.headers = has(headers, &header, &entry.version);
        entry.source = has(sources, &entry.source_package(), &entry.version);
        if !entry.image.is_empty() {
            // Newer kernels split image, modules and configuration into packages of their own.
            for (name, version) in parts.iter().filter_map(named) {
                if version == entry.version && name.ends_with(&format!("-{}", entry.release)) {
                    entry.image.push(name);
                }
            }
        }
    }
    let mut all: Vec<Candidate> = found.into_values().collect();
    all.sort_by_key(|candidate| std::cmp::Reverse(order(&candidate.release)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::stanzas;

    fn packages(list: &[(&str, &str)]) -> Vec<Stanza> {
        let text: Vec<String> = list
            .iter()
            .map(|(name, version)| format!("Package: {name}\nVersion: {version}\n"))
            .collect();
        stanzas(&text.join("\n"))
    }

    #[test]
    fn newest_kernel_is_first_and_says_what_it_lacks() {
        let images = packages(&[
            ("linux-image-7.2.9+deb13-cloud-amd64", "7.2.9-1"),
            ("linux-image-7.2.12+deb13-cloud-amd64", "7.2.12-1"),
            ("linux-image-cloud-amd64", "7.2.12-1"),
        ]);
        let headers = packages(&[
            ("linux-headers-7.2.9+deb13-cloud-amd64", "7.2.9-1"),
            ("linux-headers-7.2.12+deb13-cloud-amd64", "7.2.12-1"),
            ("linux-headers-7.3.4+deb13-cloud-amd64", "7.3.4-1"),
        ]);
        let parts = packages(&[
            ("linux-base-7.2.12+deb13-cloud-amd64", "7.2.12-1"),
            ("linux-modules-7.2.12+deb13-cloud-amd64", "7.2.12-1"),
            ("linux-modules-7.2.9+deb13-cloud-amd64", "7.2.9-1"),
        ]);
        let sources = packages(&[
            ("linux-source-7.3", "7.3.4-1"),
            ("linux-source-7.2", "7.2.12-1"),
        ]);
        let all = collect(&images, &headers, &parts, &sources);
        let releases: Vec<&str> = all.iter().map(|c| upstream(&c.release)).collect();
        assert_eq!(releases, ["7.3.4", "7.2.12", "7.2.9"]);
        assert_eq!(
            all[0].missing().as_deref(),
            Some("no linux-image-7.3.4+deb13-cloud-amd64 of version 7.3.4-1")
        );
        assert_eq!(all[1].missing(), None);
        assert_eq!(
            all[1].binary_packages(),
            [
                "linux-image-7.2.12+deb13-cloud-amd64=7.2.12-1",
                "linux-base-7.2.12+deb13-cloud-amd64=7.2.12-1",
                "linux-modules-7.2.12+deb13-cloud-amd64=7.2.12-1",
                "linux-headers-7.2.12+deb13-cloud-amd64=7.2.12-1",
            ]
        );
        assert_eq!(
            all[2].missing().as_deref(),
            Some("no linux-source-7.2 of version 7.2.9-1")
        );
    }

    #[test]
    fn user_may_name_a_kernel_in_three_ways() {
        let candidate = Candidate {
            release: "7.2.12+deb13-cloud-amd64".to_owned(),
            version: "7.2.12-1~bpo13+1".to_owned(),
            ..Candidate::default()
        };
        for wanted in ["7.2.12", "7.2.12+deb13-cloud-amd64", "7.2.12-1~bpo13+1"] {
            assert!(candidate.is(wanted), "{wanted}");
        }
        assert!(!candidate.is("7.2"));
        assert_eq!(local_version(&candidate.release), "+deb13-cloud-amd64");
    }
}
