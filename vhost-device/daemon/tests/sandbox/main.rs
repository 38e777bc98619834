// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sandbox seen from inside: processes enter it and try what they must not be able to do, and
//! what they must.
//!
//! Each try is a process of its own, this program started again: it enters the sandbox while it has
//! one thread, does one thing, and says how that went, unless it was killed for trying. Started as
//! root, all layers are exercised, and those that a process without rights enters as well; started by
//! anyone else, the latter alone, and what is left out is printed.

mod acts;
mod attempts;
mod place;
mod probe;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use attempts::{ATTEMPTS, Attempt};
use probe::{Outcome, Role};

fn main() -> ExitCode {
    if let Some(told) = probe::told() {
        return told.run();
    }
    let mut arguments = Arguments::from_args();
    // Few at a time: each is a process or two.
    arguments.test_threads.get_or_insert(2);
    let mut trials: Vec<_> = Role::ALL
        .into_iter()
        .flat_map(|role| ATTEMPTS.iter().map(move |attempt| (role, attempt)))
        .filter(|(role, attempt)| attempt.concerns(*role))
        .map(|(role, attempt)| trial(role, attempt))
        .collect();
    trials.push(Trial::test(
        "strict mode refuses to do without a layer",
        strict,
    ));
    trials.push(Trial::test(
        "a process with two threads is refused",
        threads,
    ));
    trials.push(Trial::test("reports say which layers hold", reports));
    let conclusion = libtest_mimic::run(&arguments, trials);
    place::clean_up();
    conclusion.exit_code()
}

fn trial(role: Role, attempt: &'static Attempt) -> Trial {
    let name = format!("{role}: {}", attempt.name);
    let ignored = role.needs_root() && !probe::is_root();
    if ignored {
        println!("not exercised: {name}: only root enters this sandbox");
    }
    Trial::test(name, move || judge(role, attempt)).with_ignored_flag(ignored)
}

fn judge(role: Role, attempt: &Attempt) -> Result<(), Failed> {
    let outcome = probe::run(role, attempt.name, "auto")?;
    let works = attempt.works_for(role);
    match (&outcome, works) {
        (Outcome::Worked, true) | (Outcome::Refused(_) | Outcome::Killed, false) => Ok(()),
        (Outcome::Broke(text), _) => Err(format!("the probe itself failed: {text}").into()),
        (_, true) => Err(format!("must work, and {outcome:?}").into()),
        (Outcome::Worked, false) => {
            let report = probe::report(role)?;
            if attempt
                .excuse(role)
                .is_some_and(|words| report.contains(words))
            {
                println!("not exercised: {role}: {}: {report}", attempt.name);
                return Ok(());
            }
            Err("must not work, and did".into())
        }
    }
}

fn strict() -> Result<(), Failed> {
    let outcome = probe::run(Role::UserKeeper, "do nothing", "strict")?;
    match outcome {
        Outcome::Broke(text) if text.contains("namespaces") && text.contains("--sandbox auto") => {}
        other => return Err(format!("a keeper without rights: {other:?}").into()),
    }
    if !probe::is_root() {
        println!("not exercised: strict mode with every layer: only root has them");
        return Ok(());
    }
    match probe::run(Role::Keeper, "do nothing", "strict")? {
        Outcome::Worked => Ok(()),
        other => Err(format!("a keeper with all rights: {other:?}").into()),
    }
}

fn threads() -> Result<(), Failed> {
    for role in [Role::UserKeeper, Role::Worker] {
        match probe::run(role, probe::SECOND_THREAD, "auto")? {
            Outcome::Broke(text) if text.contains("2 threads") => {}
            other => return Err(format!("{role}: {other:?}").into()),
        }
    }
    Ok(())
}

fn reports() -> Result<(), Failed> {
    let report = |role| probe::report(role).map_err(Failed::from);
    let unprivileged = report(Role::UserKeeper)?;
    for layer in ["identity", "no-new-privileges", "landlock", "seccomp"] {
        if !unprivileged.contains(layer) || unprivileged.contains(&format!("no {layer} ")) {
            return Err(format!("a keeper without rights lacks {layer}: {unprivileged}").into());
        }
    }
    if probe::is_root() {
        for role in [
            Role::Keeper,
            Role::GuardedWorker,
            Role::StoresKeeper,
            Role::StoresGuardedWorker,
        ] {
            let all = report(role)?;
            if all.contains("no ") {
                return Err(format!("{role} lacks a layer: {all}").into());
            }
            let kept = all.contains("the network is the host's, for stores at TCP ports");
            if kept != role.has_stores() {
                return Err(format!("{role} on the network: {all}").into());
            }
        }
    }
    Ok(())
}
