// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the owner of the stores' state wants done, and what it has to tell people.

use std::fmt;
use std::sync::Arc;

use super::event::{Kind, MemberNo};
use super::view::{State, View};

/// Something that the driver does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make a control connection and say hello.
    Connect {
        /// To which member.
        member: MemberNo,
        /// The number of this attempt, which its events carry.
        session: u64,
        /// Where it is.
        address: String,
        /// What it is.
        kind: Kind,
    },
    /// End that attempt or connection; no event is expected.
    Close {
        /// Of which member.
        member: MemberNo,
        /// Which attempt.
        session: u64,
    },
    /// Compare the store's list with the table: what the store has and the table does not name is
    /// flushed with the generation listed, what the table names and the store lacks is cleared.
    Reconcile {
        /// Which member.
        member: MemberNo,
        /// Over which connection.
        session: u64,
        /// Its copies are in use already; this only sweeps up after a broken connection.
        trusted: bool,
    },
    /// Copy one page, and change the table only if nothing else did meanwhile. Answered by exactly
    /// one [`CopyDone`](super::Event::CopyDone).
    Copy {
        /// Which page.
        slot: u32,
        /// What the table says of it now.
        expected: u64,
        /// Where to read it.
        from: MemberNo,
        /// Where to write it.
        to: MemberNo,
        /// [`View::trust`] of the target: if it is another one by then, the copy failed.
        to_trust: u64,
        /// Members that give up their copy once the target has it.
        drop: u64,
    },
    /// Take these members off the page at once, if the table still says what it said; they are
    /// told in the background.
    Trim {
        /// Which page.
        slot: u32,
        /// What the table says of it now.
        expected: u64,
        /// Members that give up their copy.
        drop: u64,
    },
    /// What writes and reads are to go by from now on.
    Publish(Arc<View>),
    /// To be kept where a restart finds it: [`Known`](super::Known). A name of 0 frees the number.
    Remember {
        /// Which member.
        number: MemberNo,
        /// [`name_id`](super::name_id) of its name.
        name: u64,
        /// The incarnation whose copies are trusted; 0 if none.
        incarnation: u64,
    },
    /// The member is no more: end all connections to it.
    Forget {
        /// Which.
        member: MemberNo,
    },
    /// To be logged.
    Notice(Notice),
}

/// How much a notice matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Part of the day's work.
    Info,
    /// Somebody should look at it.
    Warn,
    /// Pages cannot be read.
    Error,
}

/// Something that people may want to know. Its text is for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A member's state changed.
    State {
        /// Whose.
        name: String,
        /// What it was.
        from: State,
        /// What it is.
        to: State,
        /// Why, if there is more to say.
        why: Option<String>,
    },
    /// The store came back without what it held.
    CameBackEmpty {
        /// Which.
        name: String,
    },
    /// Two members are one store.
    SameStore {
        /// The one that is not used.
        name: String,
        /// The one that is.
        other: String,
    },
    /// The store serves a younger owner of this namespace.
    Fenced {
        /// Which.
        name: String,
    },
    /// The table and the store's list have been compared.
    Reconciled {
        /// Which.
        name: String,
        /// Copies that it did not have.
        cleared: u64,
        /// Pages that nobody missed.
        flushed: u64,
    },
    /// So many pages have no copy that can be read now; their stores may come back.
    Unreachable {
        /// How many.
        pages: u64,
    },
    /// So many pages have no copy left anywhere.
    LostPages {
        /// How many.
        pages: u64,
    },
    /// Copying begins.
    RepairStarted {
        /// Pages with one readable copy.
        endangered: u64,
        /// Other pages with too few.
        thin: u64,
        /// Pages that are to leave a store.
        leaving: u64,
    },
    /// Nothing is left to copy.
    RepairDone {
        /// Pages copied.
        pages: u64,
    },
    /// Pages have too few copies, and no store takes another.
    NoRoom {
        /// How many.
        pages: u64,
    },
    /// Pages move to emptier stores.
    RebalanceStarted,
    /// The stores are about equally full.
    RebalanceDone {
        /// Pages moved.
        pages: u64,
    },
    /// A source named a store that cannot be a member.
    NotAdded {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
}

impl Notice {
    /// How much it matters.
    pub fn level(&self) -> Level {
        match self {
            Self::Unreachable { pages: 0 } | Self::LostPages { pages: 0 } => Level::Info,
            Self::Unreachable { .. } | Self::LostPages { .. } | Self::Fenced { .. } => Level::Error,
            Self::CameBackEmpty { .. }
            | Self::SameStore { .. }
            | Self::NoRoom { .. }
            | Self::NotAdded { .. } => Level::Warn,
            Self::State {
                to: State::Suspect | State::Dead,
                ..
            } => Level::Warn,
            _ => Level::Info,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State {
                name,
                from,
                to,
                why,
            } => {
                write!(f, "Store {name} is {to}, was {from}")?;
                why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
            }
            Self::CameBackEmpty { name } => {
                write!(f, "Store {name} came back without the pages it held")
            }
            Self::SameStore { name, other } => {
                write!(f, "Store {name} is the same as {other} and is not used")
            }
            Self::Fenced { name } => {
                write!(f, "Store {name} serves another owner of this namespace now")
            }
            Self::Reconciled {
                name,
                cleared,
                flushed,
            } => write!(
                f,
                "Store {name} is reconciled: {cleared} copies were missing, {flushed} pages were of no use"
            ),
            Self::Unreachable { pages } => {
                write!(f, "{pages} pages have no copy that can be read now")
            }
            Self::LostPages { pages } => write!(f, "{pages} pages have lost their last copy"),
            Self::RepairStarted {
                endangered,
                thin,
                leaving,
            } => write!(
                f,
                "Repair starts: {endangered} pages with one copy, {thin} others with too few, {leaving} to move away"
            ),
            Self::RepairDone { pages } => write!(f, "Repair is done: {pages} pages copied"),
            Self::NoRoom { pages } => write!(
                f,
                "{pages} pages lack a copy, and no store takes one: add a store"
            ),
            Self::RebalanceStarted => write!(f, "Rebalancing starts"),
            Self::RebalanceDone { pages } => write!(f, "Rebalancing is done: {pages} pages moved"),
            Self::NotAdded { name, why } => write!(f, "Store {name} was not added: {why}"),
        }
    }
}
