// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which kernels the suites offer, what each lacks, and which one the user asks for.

use std::collections::BTreeMap;

use crate::apt::Apt;
use crate::error::Result;
use crate::mirror::{Stanza, field};

const IMAGE: &str = "linux-image-";
const HEADERS: &str = "linux-headers-";
const FLAVOUR: &str = "-cloud-amd64";

/// Names a kernel to commands that have no `--kernel`, such as the tests.
pub(crate) const VARIABLE: &str = "TMEM_KERNEL";
/// The series that tests have gone through many times. In guests of little memory, newer ones were seen
/// to call the OOM killer while most of the swap area was free.
const PROVEN: &str = "7.2";
/// So many other kernels are named when one fails.
const NAMED: usize = 4;

/// The kernel that a user asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    name: String,
    /// How it was said, for messages.
    pub(crate) said: String,
}

impl Wish {
    /// The option goes before the variable; an empty variable is none.
    pub(crate) fn new(option: Option<&str>, variable: Option<String>) -> Option<Self> {
        if let Some(name) = option {
            return Some(Self {
                name: name.to_owned(),
                said: format!("--kernel {name}"),
            });
        }
        let name = variable.filter(|name| !name.is_empty())?;
        Some(Self {
            said: format!("{VARIABLE}={name}"),
            name,
        })
    }

    /// Whether `candidate` is the one.
    pub(crate) fn means(&self, candidate: &Candidate) -> bool {
        candidate.is(&self.name)
    }
}

/// How to come by another kernel than `release`, in words.
pub(crate) fn advice(all: &[Candidate], release: &str) -> String {
    let others: Vec<&str> = all
        .iter()
        .filter(|other| other.release != release && other.missing().is_none())
        .map(|other| other.release.as_str())
        .take(NAMED)
        .collect();
    let offered = match others.is_empty() {
        true => "the suites have no other with image, headers and source".to_owned(),
        false => format!("the suites also have {}", others.join(", ")),
    };
    format!(
        "Another is chosen with --kernel RELEASE, or with {VARIABLE}=RELEASE in the environment \
         where a command has no such option; {offered}"
    )
}

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

    /// It is of the series that is proven.
    fn is_proven(&self) -> bool {
        let rest = self.release.strip_prefix(PROVEN);
        rest.is_some_and(|rest| rest.starts_with('.'))
    }

    /// Why it is passed over for one of the proven series, in words.
    pub(crate) fn not_proven(&self) -> String {
        let release = &self.release;
        format!("{release}: series {PROVEN} is the proven one; {VARIABLE}={release} takes it")
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

/// All of them, those of the proven series before others.
pub(crate) fn proven_first(all: &[Candidate]) -> Vec<&Candidate> {
    let mut order: Vec<&Candidate> = all.iter().collect();
    order.sort_by_key(|candidate| !candidate.is_proven());
    order
}

/// The complete ones that are newer than `chosen`, and of no proven series as it is.
pub(crate) fn unproven_before<'a>(
    all: &'a [Candidate],
    chosen: &Candidate,
) -> impl Iterator<Item = &'a Candidate> {
    let newer = all
        .iter()
        .take_while(|other| other.release != chosen.release);
    let proven = chosen.is_proven();
    newer.filter(move |other| proven && !other.is_proven() && other.missing().is_none())
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
    fn proven_series_goes_before_a_newer_one() {
        let candidate = |release: &str| Candidate {
            release: release.to_owned(),
            image: vec!["image".to_owned()],
            headers: true,
            source: true,
            ..Candidate::default()
        };
        let all = ["7.20.1+x", "7.3.4+x", "7.2.12+x", "7.2.9+x", "6.12+x"].map(candidate);
        let order = proven_first(&all);
        let order: Vec<&str> = order.iter().map(|of| of.release.as_str()).collect();
        assert_eq!(
            order,
            ["7.2.12+x", "7.2.9+x", "7.20.1+x", "7.3.4+x", "6.12+x"]
        );
        let passed: Vec<&str> = unproven_before(&all, &all[2])
            .map(|of| of.release.as_str())
            .collect();
        assert_eq!(passed, ["7.20.1+x", "7.3.4+x"]);
        // Where there is none of the series, the newest is taken without a word.
        assert_eq!(proven_first(&all[..2])[0].release, "7.20.1+x");
        assert_eq!(unproven_before(&all, &all[1]).count(), 0);
    }

    #[test]
    fn option_goes_before_the_variable_and_an_empty_variable_is_none() {
        let said = |option, variable: Option<&str>| {
            Wish::new(option, variable.map(str::to_owned)).map(|wish| wish.said)
        };
        assert_eq!(
            said(Some("7.3.4"), Some("7.2.12")).as_deref(),
            Some("--kernel 7.3.4")
        );
        assert_eq!(
            said(None, Some("7.2.12")).as_deref(),
            Some("TMEM_KERNEL=7.2.12")
        );
        assert_eq!(said(None, Some("")), None);
        assert_eq!(said(None, None), None);
    }

    #[test]
    fn advice_names_only_other_kernels_that_are_complete() {
        let candidate = |release: &str, source| Candidate {
            release: release.to_owned(),
            image: vec![format!("{IMAGE}{release}")],
            headers: true,
            source,
            ..Candidate::default()
        };
        let all = [
            candidate("7.3.4-cloud", true),
            candidate("7.2.13-cloud", false),
            candidate("7.2.12-cloud", true),
        ];
        let text = advice(&all, "7.3.4-cloud");
        assert!(text.contains("--kernel RELEASE"), "{text}");
        assert!(text.contains("TMEM_KERNEL=RELEASE"), "{text}");
        assert!(text.ends_with("also have 7.2.12-cloud"), "{text}");
        let text = advice(&all[..1], "7.3.4-cloud");
        assert!(text.ends_with("no other with image, headers and source"));
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
