// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a guest's balloon is as it is: a word for tables and metrics, a sentence for people.

use std::fmt;

/// Declares the reasons with their words and sentences, so that none can lack one.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident, $word:literal, $tells:literal;)*) => {
        /// Why the controller decided as it did.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// One word, for tables and metrics.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// One sentence.
            #[must_use]
            pub const fn tells(self) -> &'static str {
                match self { $(Self::$name => $tells,)* }
            }
        }
    };
}

reasons! {
    /// Fewer than two reports.
    Learning, "learning", "too few statistics have come from it to judge by; it is left as it is";
    /// Reports have stopped.
    Silent, "silent", "its statistics are too old to judge by; it is left as it is";
    /// Reports stopped long ago.
    Restored, "restored", "it has been silent for long; memory goes back to it as room allows";
    /// The host cannot free its memory.
    Refused, "refused", "the host cannot free its memory, so a balloon in it would gain nothing";
    /// The balloon did not grow.
    Stuck, "stuck", "its balloon stopped short of the target, which was brought down to what it holds";
    /// The balloon grows.
    Settling, "settling", "its balloon is still on the way to the last target";
    /// Swap-ins and refaults.
    Faulting, "faulting", "it reads pages back that it had to give away; memory goes back to it";
    /// PSI.
    Stalled, "stalled", "its tasks wait for memory, says its agent; memory goes back to it";
    /// Swap-outs that no balloon caused.
    Filling, "filling", "its programs take memory faster than it has any; memory goes back to it";
    /// The OOM notifier.
    Oom, "oom", "it ran out of memory and took some back by itself; more goes back to it";
    /// Wants more than there is.
    Waiting, "waiting", "it wants memory that others still have; they are being squeezed";
    /// Has all.
    Full, "full", "it wants memory and has all of its RAM";
    /// After a return.
    Resting, "resting", "memory went back to it just now; it is not squeezed for a while";
    /// A squeeze hurt.
    Sore, "sore", "squeezing it further hurt it lately; it is not tried again for a while";
    /// Surplus is taken.
    Idle, "idle", "it has memory that it does not use; some is taken, slowly";
    /// Others or the host need it.
    Asked, "asked", "it is idle and others need memory; some that it has not used lately is taken";
    /// Too little for all.
    Share, "share", "busy guests want more than there is; it is brought to its share by weight";
    /// At its floor.
    Floor, "floor", "it is idle and at its floor";
    /// Nothing to do.
    Steady, "steady", "it has what it uses";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
