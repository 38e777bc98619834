// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What people ask for: each command is done at once, or refused with nothing changed.

use std::time::Duration;

use super::action::Action;
use super::config::Config;
use super::core::Core;
use super::event::{Command, Refused};
use super::member::Intent;
use super::repair::burst;

impl Core {
    pub(super) fn obey(
        &mut self,
        now: Duration,
        command: Command,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        match command {
            Command::Add(spec) => {
                self.members.add(&spec, now, out)?;
                let member = self.members.named(&spec.name)?;
                self.repair.want();
                member.keep();
            }
            Command::Drain { name } => {
                let member = self.members.named(&name)?;
                match member.intent {
                    Intent::Keep => {
                        member.intent = Intent::Drain { since: now };
                        (member.drained, member.held_at_first) = (false, None);
                    }
                    Intent::Drain { .. } => {}
                    Intent::GiveUp { .. } => return Err(Refused::Removing(name)),
                }
            }
            Command::Undrain { name } => {
                let member = self.members.named(&name)?;
                if member.given_up() {
                    return Err(Refused::Removing(name));
                }
                member.keep();
                self.repair.want_rebalance();
            }
            Command::Remove { name, force } => self.remove(name, force, now, out)?,
            Command::Repair => self.repair.want(),
            Command::Rebalance => self.repair.want_rebalance(),
            Command::SetBandwidth { bytes_per_second } => {
                self.config.repair_bytes_per_second = bytes_per_second;
                let burst = burst(bytes_per_second);
                self.repair.bucket.set_rate(bytes_per_second, burst, now);
            }
            Command::SetCopies(copies) => {
                let config = Config {
                    copies,
                    ..self.config.clone()
                };
                config.check()?;
                self.config = config;
            }
        }
        self.view_wrong = true;
        Ok(())
    }

    fn remove(
        &mut self,
        name: String,
        force: bool,
        now: Duration,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        let member = self.members.named(&name)?;
        if member.given_up() {
            return Ok(());
        }
        if !member.drained && !force {
            return Err(match member.held {
                Some(pages) if pages > 0 => Refused::HoldsPages { name, pages },
                _ => Refused::NotDrained(name),
            });
        }
        member.listed = false;
        member.intent = Intent::GiveUp { since: now };
        member.incarnation = 0;
        member.hang_up(now, out);
        self.repair.want();
        Ok(())
    }
}
