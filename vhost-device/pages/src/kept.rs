// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Words that outlive the process: the atomics of the map. In tests, a hook is called before each of
//! their stores, so that a kill can be tried between any two of them.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

macro_rules! kept {
    ($(#[$doc:meta])* $name:ident, $atomic:ident, $word:ident) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub(crate) struct $name($atomic);

        impl $name {
            #[inline]
            pub(crate) fn load(&self, order: Ordering) -> $word {
                self.0.load(order)
            }

            #[inline]
            pub(crate) fn store(&self, word: $word, order: Ordering) {
                before_store();
                self.0.store(word, order);
            }
        }
    };
}

kept! {
    /// 8 bits in the map.
    Kept8, AtomicU8, u8
}
kept! {
    /// 16 bits in the map.
    Kept16, AtomicU16, u16
}
kept! {
    /// 32 bits in the map.
    Kept32, AtomicU32, u32
}
kept! {
    /// 64 bits in the map.
    Kept64, AtomicU64, u64
}

impl Kept8 {
    #[inline]
    pub(crate) fn compare_exchange(
        &self,
        current: u8,
        new: u8,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u8, u8> {
        before_store();
        self.0.compare_exchange(current, new, success, failure)
    }
}

impl Kept64 {
    #[inline]
    pub(crate) fn fetch_sub(&self, word: u64, order: Ordering) -> u64 {
        before_store();
        self.0.fetch_sub(word, order)
    }

    #[inline]
    pub(crate) fn fetch_or(&self, word: u64, order: Ordering) -> u64 {
        before_store();
        self.0.fetch_or(word, order)
    }

    #[inline]
    pub(crate) fn fetch_and(&self, word: u64, order: Ordering) -> u64 {
        before_store();
        self.0.fetch_and(word, order)
    }

    #[inline]
    pub(crate) fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        before_store();
        (self.0).compare_exchange_weak(current, new, success, failure)
    }
}

/// Called before whatever changes the map.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn before_store() {}

/// Called before whatever changes the map.
#[cfg(test)]
pub(crate) fn before_store() {
    hook::call();
}

/// The hook of the current thread.
#[cfg(test)]
pub(crate) mod hook {
    use std::cell::RefCell;

    thread_local! {
        static HOOK: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    /// Calls the hook, which has no hook itself.
    pub(super) fn call() {
        let hook = HOOK.with_borrow_mut(Option::take);
        if let Some(mut hook) = hook {
            hook();
            HOOK.set(Some(hook));
        }
    }

    /// Runs `work`, and calls `hook` before each store to the map in it.
    pub(crate) fn around<R>(hook: impl FnMut() + 'static, work: impl FnOnce() -> R) -> R {
        HOOK.set(Some(Box::new(hook)));
        let result = work();
        HOOK.set(None);
        result
    }
}
