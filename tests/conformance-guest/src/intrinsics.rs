// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The instructions that Rust has no word for, and the memory functions that the compiler calls.
//!
//! Some KVM runs a guest's kernel mode by emulating it, an instruction in a microsecond or so, and
//! knows few instructions beyond the integer ones. String instructions cost it the least, so bulk
//! work is done by them, eight bytes at a time; and `mfence`, which it does not know, is replaced by
//! a locked instruction.

use core::arch::asm;

/// Ticks of the time-stamp counter: one to five a nanosecond.
pub(crate) fn ticks() -> u64 {
    // SAFETY: Reads a counter; kernel mode may.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// No read or write moves across it.
pub(crate) fn barrier() {
    // SAFETY: Adds nothing to a word of the stack below which nobody keeps anything.
    unsafe { asm!("lock or dword ptr [rsp - 8], 0") };
}

/// Stops this processor for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: Interrupts are off, so nothing follows but the monitor's end of this guest.
        unsafe { asm!("cli", "hlt") };
    }
}

/// Declares a pair of functions for one width of port.
macro_rules! port {
    ($read:ident, $write:ident, $type:ty, $register:tt, $in:literal, $out:literal) => {
        /// Reads an I/O port.
        pub(crate) fn $read(port: u16) -> $type {
            let value;
            // SAFETY: A port is no memory; what the device behind it does is its driver's affair.
            unsafe { asm!($in, in("dx") port, out($register) value, options(nomem, nostack)) };
            value
        }

        /// Writes an I/O port.
        pub(crate) fn $write(port: u16, value: $type) {
            // SAFETY: As above.
            unsafe { asm!($out, in("dx") port, in($register) value, options(nomem, nostack)) };
        }
    };
}

port!(in8, out8, u8, "al", "in al, dx", "out dx, al");
port!(in32, out32, u32, "eax", "in eax, dx", "out dx, eax");

/// Copies upwards.
///
/// # Safety
/// `bytes` bytes at both addresses must be this program's, and must not overlap unless the target
/// begins below the source.
pub(crate) unsafe fn copy(to: usize, from: usize, bytes: usize) {
    // SAFETY: By the caller's word.
    unsafe {
        asm!(
            "rep movsq", "mov ecx, {rest:e}", "rep movsb",
            inout("rdi") to => _, inout("rsi") from => _, inout("rcx") bytes / 8 => _,
            rest = in(reg) bytes % 8, options(nostack, preserves_flags)
        );
    }
}

/// Fills with an eight-byte value, the rest of the last one cut off.
///
/// # Safety
/// `bytes` bytes at the address must be this program's.
pub(crate) unsafe fn fill(to: usize, value: u64, bytes: usize) {
    // SAFETY: By the caller's word. `rest` is not `rax`, which is taken.
    unsafe {
        asm!(
            "rep stosq", "mov ecx, {rest:e}",
            "2: jecxz 3f", "stosb", "ror rax, 8", "dec ecx", "jmp 2b", "3:",
            inout("rdi") to => _, inout("rax") value => _, inout("rcx") bytes / 8 => _,
            rest = in(reg) bytes % 8, options(nostack)
        );
    }
}

/// Whether two pieces of memory, of whole eight-byte words, are equal.
///
/// # Safety
/// `words` × 8 bytes at both addresses must be this program's.
pub(crate) unsafe fn equal(left: usize, right: usize, words: usize) -> bool {
    let same: u8;
    // SAFETY: By the caller's word.
    unsafe {
        asm!(
            "cmp eax, eax", "repe cmpsq", "sete al",
            inout("rdi") left => _, inout("rsi") right => _, inout("rcx") words => _,
            out("al") same, options(nostack, readonly)
        );
    }
    same != 0
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: By the caller's word.
    unsafe { copy(to.addr(), from.addr(), bytes) };
    to
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if to.addr() <= from.addr() || to.addr() >= from.addr() + bytes {
        // SAFETY: By the caller's word; upwards is right here.
        unsafe { copy(to.addr(), from.addr(), bytes) };
    } else {
        // SAFETY: By the caller's word; downwards, by bytes, and the direction is set back.
        unsafe {
            asm!(
                "std", "rep movsb", "cld",
                inout("rdi") to.addr() + bytes - 1 => _, inout("rsi") from.addr() + bytes - 1 => _,
                inout("rcx") bytes => _, options(nostack)
            );
        }
    }
    to
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    let [byte, ..] = value.to_le_bytes();
    // SAFETY: By the caller's word.
    unsafe { fill(to.addr(), u64::from_le_bytes([byte; 8]), bytes) };
    to
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    let (a, b): (u8, u8);
    // SAFETY: By the caller's word. With no bytes both results stay equal.
    unsafe {
        asm!(
            "xor eax, eax", "xor edx, edx", "cmp eax, eax", "repe cmpsb", "je 2f",
            "mov al, [rsi - 1]", "mov dl, [rdi - 1]", "2:",
            inout("rsi") left => _, inout("rdi") right => _, inout("rcx") bytes => _,
            out("al") a, out("dl") b, options(nostack, readonly)
        );
    }
    i32::from(a) - i32::from(b)
}

/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: By the caller's word.
    unsafe { memcmp(left, right, bytes) }
}
