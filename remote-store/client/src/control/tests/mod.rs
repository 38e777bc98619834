// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The core under made-up events: scenarios, and a world in which anything may happen.

mod anything;
mod life;
mod placing;
mod repairing;
mod world;
