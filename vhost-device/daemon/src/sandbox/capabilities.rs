// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Capabilities: none is kept, and none can come back.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::{Absent, State};

/// Whether this process may do what takes `capability`.
pub(super) fn has(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Sees to it that no later exec can give a capability, by any file. Without the right to do so,
/// the promise that an exec gives nothing stands for it.
pub(super) fn empty_bounding_set() -> Result<(), Absent> {
    if !has(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)
                .map_err(|error| broke("dropping one from the bounding set", error))?,
            Ok(false) => {}
            // The kernel knows no more of them.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(broke("reading the bounding set", error)),
        }
    }
    Ok(())
}

/// Drops every capability that this process has or could take.
pub(super) fn drop_all() -> Result<State, Absent> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // A unit's filter may forbid to set what is set already. Without permitted and inheritable
    // capabilities the ambient ones are none either.
    if capabilities(None).is_ok_and(|own| own == none) {
        return Ok(State::Entered);
    }
    // Old kernels have no ambient set, and then nothing is in it.
    let _ = clear_ambient_capability_set();
    set_capabilities(None, none).map_err(|error| broke("dropping them", error))?;
    Ok(State::Entered)
}

fn broke(step: &str, error: Errno) -> Absent {
    Absent::broke(step)(error.into())
}
