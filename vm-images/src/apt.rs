// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The host's apt, run with a configuration, lists and archives of its own in the cache, for a
//! machine that does not exist: trixie and trixie-backports with nothing installed. It resolves
//! and downloads packages; nothing is ever installed on the host, and no rights are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::cache::{Cache, remove_folder};
use crate::error::{Error, IoContext, Result};
use crate::key::KeyBuilder;
use crate::mirror::{self, Stanza};
use crate::progress::Progress;
use crate::run;

/// The Debian release that everything is built from.
pub(crate) const SUITE: &str = "trixie";

/// Package lists older than this are fetched anew.
const LISTS_MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Everything comes from one solver run over both suites, so that no two packages of the root ever
/// disagree on a library. Backports win, for the newest QEMU with libraries that fit it; the
/// compilers stay those of the release, because Debian builds the kernel with them.
const PREFERENCES: &str = "\
Package: *
Pin: release n=trixie-backports
Pin-Priority: 600

Package: rustc* rust-src libstd-rust* bindgen* clang* llvm* libllvm* libclang* lld* gcc* cpp* binutils*
Pin: release n=trixie
Pin-Priority: 900
";

/// A private apt.
#[derive(Clone, Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
    log: PathBuf,
    mirror: String,
}

impl Apt {
    /// Writes the configuration, and fetches the package lists when they are missing, old, or of
    /// another mirror. Old lists serve on when the mirror cannot be reached.
    pub(crate) fn open(cache: &Cache, progress: &Progress) -> Result<Self> {
        let _lock = cache.lock("apt", progress)?;
        let apt = Self {
            folder: cache.folder().join("apt"),
            log: cache.log("apt"),
            mirror: mirror::find()?,
        };
        let changed = apt.configure()?;
        let stamp = apt.folder.join("lists.stamp");
        let age = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| SystemTime::now().duration_since(t).ok());
        if changed || age.is_none_or(|age| age > LISTS_MAX_AGE) {
            let mut step = progress.step("Fetching Debian's package lists");
            let mut update = apt.get();
            update.args(["update", "--error-on=any"]);
            match run::logged(
                &mut update,
                "Fetching the package lists",
                &apt.log,
                &mut step,
            ) {
                Ok(()) => {
                    remove_folder(&apt.folder.join("answers"))?;
                    fs::write(&stamp, "").context("write", &stamp)?;
                    step.done("");
                }
                Err(error) if changed || age.is_none() => return Err(error),
                Err(_) => step.done("the mirror does not answer; yesterday's lists serve on"),
            }
        }
        Ok(apt)
    }

    /// The file names of all packages that `packages` need, sorted: their names and versions.
    pub(crate) fn resolve(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut command = self.get();
        command.args(["install", "--simulate"]).args(packages);
        let text = self.ask(&mut command, "Resolving packages")?;
        let mut files: Vec<String> = text.lines().filter_map(file_name).collect();
        files.sort();
        if files.is_empty() {
            return Err(Error::Output {
                what: "apt-get --simulate",
                detail: "it names no package".to_owned(),
            });
        }
        Ok(files)
    }

    /// Downloads what [`Apt::resolve`] found and gives the paths of the files.
    pub(crate) fn download(
        &self,
        packages: &[&str],
        files: &[String],
        step: &mut crate::progress::Step,
    ) -> Result<Vec<PathBuf>> {
        let archives = self.folder.join("archives");
        let mut command = self.get();
        command
            .args(["install", "--yes", "--download-only"])
            .args(packages);
        run::logged(&mut command, "Downloading packages", &self.log, step)?;
        // Only what no suite offers any more goes.
        run::logged(
            self.get().arg("autoclean"),
            "Cleaning archives",
            &self.log,
            step,
        )?;
        files
            .iter()
            .map(|file| {
                let path = archives.join(file);
                if path.exists() {
                    Ok(path)
                } else {
                    Err(Error::Output {
                        what: "apt-get --download-only",
                        detail: format!("{} is not there", path.display()),
                    })
                }
            })
            .collect()
    }

    /// Downloads single packages, `name=version` each, into `folder`, without what they need.
    pub(crate) fn fetch(
        &self,
        packages: &[String],
        folder: &Path,
        step: &mut crate::progress::Step,
    ) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(folder).context("create folder", folder)?;
        let mut command = self.get();
        command.arg("download").args(packages).current_dir(folder);
        run::logged(&mut command, "Downloading packages", &self.log, step)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).context("read folder", folder)? {
            let path = entry.context("read folder", folder)?.path();
            if path.extension().is_some_and(|e| e == "deb") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// The names of all packages that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let mut command = self.program("apt-cache");
        command.args(["pkgnames", prefix]);
        let text = self.ask(&mut command, "Listing packages")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The control stanzas of all versions of `packages`.
    pub(crate) fn show(&self, packages: &[String]) -> Result<Vec<Stanza>> {
        if packages.is_empty() {
            return Ok(Vec::new());
        }
        let mut command = self.program("apt-cache");
        command.arg("show").args(packages);
        let text = self.ask(&mut command, "Reading package data")?;
        Ok(mirror::stanzas(&text))
    }

    /// Runs a command that only reads the package lists. Apt takes seconds for it, and as long as
    /// the lists are the same the answer is, so it is kept beside them.
    fn ask(&self, command: &mut Command, what: &str) -> Result<String> {
        let key = KeyBuilder::new("answer", 1)
            .text(PREFERENCES)
            .text(&run::shell_line(command))
            .finish();
        let folder = self.folder.join("answers");
        let path = folder.join(&key);
        if let Ok(text) = fs::read_to_string(&path) {
            return Ok(text);
        }
        let text = run::output(command, what, &self.log)?;
        fs::create_dir_all(&folder).context("create folder", &folder)?;
        // Two runs may ask the same; each puts a whole file in place.
        let partial = folder.join(format!("{key}.{}.partial", std::process::id()));
        fs::write(&partial, &text).context("write", &partial)?;
        fs::rename(&partial, &path).context("put in place", &path)?;
        Ok(text)
    }

    /// The mirror's URL.
    pub(crate) fn mirror(&self) -> &str {
        &self.mirror
    }

    /// The configuration file, for other programs that run apt.
    pub(crate) fn acquire_settings(&self) -> PathBuf {
        self.folder.join("acquire.conf")
    }

    fn get(&self) -> Command {
        let mut command = self.program("apt-get");
        command.args(["-q", "--no-install-recommends"]);
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .env("APT_CONFIG", self.folder.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }

    /// Writes all files; says whether the sources are other than before.
    fn configure(&self) -> Result<bool> {
        let path = |name: &str| self.folder.join(name);
        for name in ["lists/partial", "archives/partial", "none"] {
            let folder = path(name);
            fs::create_dir_all(&folder).context("create folder", &folder)?;
        }
        let acquire = host_acquire_settings(&self.log)?;
        let show = |name: &str| path(name).display().to_string();
        let config = format!(
            "Dir::Etc::Parts \"{none}\";\nDir::Etc::Main \"{none}/apt.conf\";\n\
             Dir::Etc::SourceParts \"{none}\";\nDir::Etc::SourceList \"{sources}\";\n\
             Dir::Etc::Preferences \"{preferences}\";\nDir::Etc::PreferencesParts \"{none}\";\n\
             Dir::State \"{here}\";\nDir::State::lists \"{lists}\";\n\
             Dir::State::status \"{status}\";\nDir::Cache \"{here}\";\n\
             Dir::Cache::archives \"{archives}\";\nAPT::Sandbox::User \"root\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
             Acquire::Languages \"none\";\n{acquire}",
            none = show("none"),
            sources = show("sources.list"),
            preferences = show("preferences"),
            here = self.folder.display(),
            lists = show("lists"),
            status = show("status"),
            archives = show("archives"),
        );
        let keyring = mirror::keyring()?;
        let sources: String = [SUITE.to_owned(), format!("{SUITE}-backports")]
            .iter()
            .map(|suite| {
                let (key, url) = (keyring.display(), &self.mirror);
                format!("deb [signed-by={key}] {url} {suite} main\n")
            })
            .collect();
        let write = |name: &str, text: &str| {
            let path = path(name);
            fs::write(&path, text).context("write", &path)
        };
        let changed = fs::read_to_string(path("sources.list")).ok().as_ref() != Some(&sources);
        write("sources.list", &sources)?;
        write("preferences", PREFERENCES)?;
        write("status", "")?;
        write("acquire.conf", &acquire)?;
        write("apt.conf", &config)?;
        Ok(changed)
    }
}

/// The name under which apt keeps a package that a simulation says it would install, from a line
/// like `Inst name (version suite [architecture])`.
fn file_name(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    let version = rest.split(' ').next()?.replace(':', "%3a");
    let architecture = rest.split('[').nth(1)?.split(']').next()?;
    Some(format!("{name}_{version}_{architecture}.deb"))
}

/// The host's settings for fetching: proxies, retries, validity checks.
fn host_acquire_settings(log: &Path) -> Result<String> {
    let mut command = Command::new("apt-config");
    command.args(["dump", "Acquire"]).env("LC_ALL", "C");
    let text = run::output(&mut command, "Reading the host's apt configuration", log)?;
    let not_for_fetching = ["IndexTargets", "Languages", "cdrom", "Changelogs"];
    let wanted = |line: &&str| {
        line.strip_prefix("Acquire::")
            .is_some_and(|rest| !not_for_fetching.iter().any(|no| rest.starts_with(no)))
    };
    Ok(text
        .lines()
        .filter(wanted)
        .map(|line| format!("{line}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulation_gives_names_of_archive_files() {
        let line = "Inst qemu-utils (1:11.1.3+ds-1~bpo13+1 Debian Backports:trixie [amd64]) [x ]";
        assert_eq!(
            file_name(line).as_deref(),
            Some("qemu-utils_1%3a11.1.3+ds-1~bpo13+1_amd64.deb")
        );
        assert_eq!(file_name("Conf libc6 (2.41 Debian:13 [amd64])"), None);
    }
}
