// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sources of members, merged: plain data in, events out.

use std::collections::BTreeMap;

use crate::control::{Event, MemberSpec};

/// Who names a store. When several do, the first in this order says where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A person, at run time.
    Admin,
    /// The configuration.
    Config,
    /// etcd's list.
    Etcd,
}

/// Which stores are named, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    stores: BTreeMap<String, BTreeMap<Source, MemberSpec>>,
}

impl Roster {
    /// Nobody has said anything yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A source names a store, or describes it anew. Some if that changes what holds.
    pub fn named(&mut self, source: Source, spec: MemberSpec) -> Option<Event> {
        let sources = self.stores.entry(spec.name.clone()).or_default();
        let before = sources.first_key_value().map(|(_, spec)| spec.clone());
        sources.insert(source, spec);
        let (_, after) = sources.first_key_value()?;
        (before.as_ref() != Some(after)).then(|| Event::AddMember(after.clone()))
    }

    /// A source names a store no more. Some if that changes what holds.
    pub fn unnamed(&mut self, source: Source, name: &str) -> Option<Event> {
        let sources = self.stores.get_mut(name)?;
        let before = sources.first_key_value().map(|(_, spec)| spec.clone());
        sources.remove(&source)?;
        let Some((_, after)) = sources.first_key_value() else {
            self.stores.remove(name);
            return Some(Event::Unlist {
                name: name.to_owned(),
            });
        };
        (before.as_ref() != Some(after)).then(|| Event::AddMember(after.clone()))
    }

    /// A person removed a store: neither they nor the configuration name it any more. If etcd still
    /// does, it comes back with etcd's next change of it, as long as it runs.
    pub fn removed(&mut self, name: &str) {
        if let Some(sources) = self.stores.get_mut(name) {
            sources.retain(|source, _| *source == Source::Etcd);
            if sources.is_empty() {
                self.stores.remove(name);
            }
        }
    }

    /// Who names a store, the one that says where it is first.
    pub fn sources(&self, name: &str) -> impl Iterator<Item = Source> {
        let sources = self.stores.get(name);
        sources
            .into_iter()
            .flat_map(|sources| sources.keys().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Kind;

    fn spec(name: &str, address: &str) -> MemberSpec {
        MemberSpec {
            name: name.into(),
            address: address.into(),
            kind: Kind::Remote,
            domain: None,
            weight_percent: 100,
        }
    }

    #[test]
    fn a_store_is_listed_until_its_last_source_names_it_no_more() {
        let mut roster = Roster::new();
        let one = spec("one", "a:1");
        let added = roster.named(Source::Etcd, one.clone());
        assert_eq!(added, Some(Event::AddMember(one.clone())));
        assert_eq!(roster.named(Source::Config, one.clone()), None);
        assert_eq!(roster.unnamed(Source::Etcd, "one"), None);
        let sources: Vec<Source> = roster.sources("one").collect();
        assert_eq!(sources, [Source::Config]);
        let gone = Event::Unlist { name: "one".into() };
        assert_eq!(roster.unnamed(Source::Config, "one"), Some(gone));
        assert_eq!(roster.unnamed(Source::Config, "one"), None);
    }

    #[test]
    fn the_configuration_says_where_a_store_is_and_a_person_overrules_it() {
        let mut roster = Roster::new();
        roster.named(Source::Config, spec("one", "a:1"));
        assert_eq!(roster.named(Source::Etcd, spec("one", "b:2")), None);
        let admin = spec("one", "c:3");
        let moved = roster.named(Source::Admin, admin.clone());
        assert_eq!(moved, Some(Event::AddMember(admin)));
        let back = roster.unnamed(Source::Admin, "one");
        assert_eq!(back, Some(Event::AddMember(spec("one", "a:1"))));
    }

    #[test]
    fn a_removed_store_is_named_again_by_etcd_alone() {
        let mut roster = Roster::new();
        roster.named(Source::Config, spec("one", "a:1"));
        roster.named(Source::Etcd, spec("one", "a:1"));
        roster.removed("one");
        let sources: Vec<Source> = roster.sources("one").collect();
        assert_eq!(sources, [Source::Etcd]);
        roster.removed("two");
        let moved = spec("one", "a:2");
        let added = roster.named(Source::Etcd, moved.clone());
        assert_eq!(added, Some(Event::AddMember(moved)));
    }
}
