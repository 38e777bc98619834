// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an administrator does to stores.

use tmem_admin_api::{
    Replication, Store, StoreAddRequest, StoreState, TaskKind, TaskState, TaskStatus,
};
use tmem_remote_client::control::{Command, Refused, State};
use tmem_remote_client::driver::{CommandError, Handle};
use tmem_remote_client::membership::Source;

use super::show::{ALL_STORES, below};
use super::{StoresDesk, name_of, spec_of};
use crate::config::{StoreAddress, is_name};
use crate::snapshot::Running;
use crate::status::{StoreAdmin, TierError};
use crate::tiers::tasks::Watched;

fn not_done(error: CommandError) -> TierError {
    let reason = error.to_string();
    match error {
        CommandError::Address(_) => TierError::BadText { reason },
        CommandError::Refused(Refused::Unknown(name)) => TierError::NoSuchStore { name },
        _ => TierError::Refused { reason },
    }
}

impl Running {
    /// The stores, if the remote tier is on some.
    pub(crate) fn stores_desk(&self) -> Option<&StoresDesk> {
        self.tiers.stores()
    }

    fn desk(&self) -> Result<&StoresDesk, TierError> {
        self.stores_desk().ok_or_else(|| TierError::NotAvailable {
            what: "stores".to_owned(),
        })
    }

    fn known(&self, name: &str) -> Result<Store, TierError> {
        let name = name.to_owned();
        self.store(&name).ok_or(TierError::NoSuchStore { name })
    }

    /// A change was made that the table of copies does not keep.
    fn stores_changed(&self) {
        self.tiers.keep_settings(&self.engine);
    }
}

impl StoresDesk {
    /// What is wrong with a store that is to be added.
    fn refuses(&self, request: &StoreAddRequest) -> Option<TierError> {
        let bad = |reason| Some(TierError::BadText { reason });
        let address: StoreAddress = match request.address.parse() {
            Ok(address) => address,
            Err(error) => return bad(format!("{error}")),
        };
        for (what, word) in [("label", &request.label), ("domain", &request.domain)] {
            if let Some(word) = word.as_ref().filter(|word| !is_name(word)) {
                return bad(format!(
                    "{word:?} cannot be a {what}: up to 64 letters, digits, '-', '_' and '.', the first a letter or digit"
                ));
            }
        }
        if address.is_a_name() {
            return bad(format!(
                "the daemon cannot look {address} up: give the number of its host, or NAME@NUMBER:PORT"
            ));
        }
        let reach = self.config.reach();
        if !address.is_within(&reach) {
            let ports: Vec<_> = reach.ports.iter().map(u16::to_string).collect();
            let reason = format!(
                "the worker's sandbox does not let it connect to {address}, but to TCP ports {} and Unix sockets in folders of configured stores: add the port to `ports` of the remote tier in the configuration and restart the daemon",
                ports.join(", ")
            );
            return Some(TierError::Refused { reason });
        }
        None
    }
}

impl StoreAdmin for Running {
    fn replication(&self) -> Replication {
        let desk = self.stores_desk();
        desk.map(|desk| desk.shown_replication(&self.tiers.tasks, &self.engine))
            .unwrap_or_default()
    }

    fn stores(&self) -> Vec<Store> {
        let desk = self.stores_desk();
        desk.map(|desk| desk.shown_stores(&self.tiers.tasks, &self.engine))
            .unwrap_or_default()
    }

    fn add_store(&self, request: &StoreAddRequest) -> Result<String, TierError> {
        let desk = self.desk()?;
        if let Some(refusal) = desk.refuses(request) {
            return Err(refusal);
        }
        let name = name_of(request);
        if self.store(&name).is_some() {
            let reason = format!("there is a store {name:?} already");
            return Err(TierError::Refused { reason });
        }
        desk.command(Command::Add(spec_of(request)))
            .map_err(not_done)?;
        desk.roster.lock().named(Source::Admin, spec_of(request));
        {
            let mut settings = desk.settings.lock();
            settings.removed.retain(|removed| *removed != name);
            settings.draining.retain(|draining| *draining != name);
            settings.added.retain(|added| name_of(added) != name);
            settings.added.push(request.clone());
        }
        self.stores_changed();
        Ok(name)
    }

    fn remove_store(&self, name: &str, force: bool) -> Result<(), TierError> {
        let (desk, name) = (self.desk()?, self.known(name)?.name);
        let remove = Command::Remove {
            name: name.clone(),
            force,
        };
        desk.command(remove).map_err(not_done)?;
        desk.roster.lock().removed(&name);
        self.tiers
            .tasks
            .call_off_watched(TaskKind::StoreDrain, &name);
        {
            let mut settings = desk.settings.lock();
            settings.draining.retain(|draining| *draining != name);
            let before = settings.added.len();
            settings.added.retain(|added| name_of(added) != name);
            if settings.added.len() == before && !settings.removed.contains(&name) {
                settings.removed.push(name);
            }
        }
        self.stores_changed();
        Ok(())
    }

    fn drain_store(&self, name: &str) -> Result<TaskStatus, TierError> {
        let (desk, store) = (self.desk()?, self.known(name)?);
        let name = store.name;
        let tasks = &self.tiers.tasks;
        if let Some(task) = tasks.last_of_kind(&self.engine, TaskKind::StoreDrain, &name)
            && task.state == TaskState::Running
        {
            return Ok(task);
        }
        let left = (self.stores().iter())
            .filter(|store| store.state == StoreState::Up && store.name != name)
            .count();
        if left == 0 {
            let reason = "no other store is up that could take its pages".to_owned();
            return Err(TierError::Refused { reason });
        }
        let drain = Command::Drain { name: name.clone() };
        desk.command(drain).map_err(not_done)?;
        desk.settings.lock().draining.push(name.clone());
        self.stores_changed();
        let watch = drained(desk.handle.clone(), name.clone());
        Ok(tasks.watch(&self.engine, TaskKind::StoreDrain, &name, watch))
    }

    fn undrain_store(&self, name: &str) -> Result<(), TierError> {
        let (desk, name) = (self.desk()?, self.known(name)?.name);
        let undrain = Command::Undrain { name: name.clone() };
        desk.command(undrain).map_err(not_done)?;
        self.tiers
            .tasks
            .call_off_watched(TaskKind::StoreDrain, &name);
        let mut settings = desk.settings.lock();
        settings.draining.retain(|draining| *draining != name);
        drop(settings);
        self.stores_changed();
        Ok(())
    }

    fn repair_stores(&self) -> Result<TaskStatus, TierError> {
        let desk = self.desk()?;
        let tasks = &self.tiers.tasks;
        if let Some(task) = tasks.last_of_kind(&self.engine, TaskKind::Repair, ALL_STORES)
            && task.state == TaskState::Running
        {
            return Ok(task);
        }
        let surveys = desk.status().control.totals.surveys;
        desk.command(Command::Repair).map_err(not_done)?;
        let watch = repaired(desk.handle.clone(), surveys);
        Ok(tasks.watch(&self.engine, TaskKind::Repair, ALL_STORES, watch))
    }
}

/// How far a drain is.
fn drained(handle: Handle, name: String) -> impl Fn() -> Watched + Send {
    let copies = move || {
        let status = handle.status();
        let store = status.store(&name)?;
        Some((store.copies, store.member.state, store.member.drains))
    };
    let total = copies().map_or(0, |(copies, ..)| copies);
    move || {
        let Some((copies, state, drains)) = copies() else {
            return Watched::over(total, total, TaskState::Cancelled);
        };
        let done = total.saturating_sub(copies);
        match state {
            State::Drained => Watched::over(total, total, TaskState::Done),
            _ if !drains => Watched::over(done, total, TaskState::Cancelled),
            _ => Watched::over(done, total, TaskState::Running),
        }
    }
}

/// How far a repair is: every page was looked at since it began, and has its copies.
fn repaired(handle: Handle, surveys: u64) -> impl Fn() -> Watched + Send {
    let total = below(&handle.status());
    move || {
        let status = handle.status();
        let left = below(&status);
        let total = total.max(left);
        let looked = status.control.totals.surveys > surveys;
        let state = if looked && left == 0 && status.is_whole() {
            TaskState::Done
        } else {
            TaskState::Running
        };
        Watched::over(total - left, total, state)
    }
}
