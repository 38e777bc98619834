// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the monitor's entry to Rust: the PVH note, long mode, exceptions.
//!
//! A monitor that reads the note enters at `pvh_entry` in 32-bit protected mode, without paging and
//! with the start info's address in `ebx`. The code below maps the first 4 GiB one to one with
//! 2 MiB pages (1 GiB pages end in a triple fault under some KVM), turns long mode on, sets a stack
//! and enters [`crate::start`]. SSE stays off: the compiler makes none for this target, and a KVM
//! that emulates the guest's kernel mode knows few of its instructions.

use core::arch::{asm, global_asm};

use crate::memory::Region;

/// Bytes of stack. The deepest frames hold a few answers of 256 results and lists of 256 indices.
const STACK_BYTES: usize = 256 * 1024;

/// Exceptions of the processor.
const EXCEPTIONS: usize = 32;
/// Bytes of a stub.
const STUB_BYTES: usize = 16;
/// Bytes of an entry of the exception table.
const ENTRY_BYTES: usize = 16;
/// The boot code's segment.
const CODE_SELECTOR: u16 = 8;
/// Present, interrupt gate.
const INTERRUPT_GATE: u16 = 0x8e00;

global_asm!(
    r#"
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4, 8, 18              // name and descriptor size; XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry
    .popsection

    .pushsection .text.boot, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset stack_top
    mov [start_info], ebx

    // PML4[0] -> PDPT; PDPT[0..4] -> directories; each entry of those maps 2 MiB.
    mov eax, offset directory_pointers
    or eax, 3
    mov [page_map], eax
    mov eax, offset directories
    or eax, 3
    mov edi, offset directory_pointers
    mov ecx, 4
1:  mov [edi], eax
    add eax, 4096
    add edi, 8
    dec ecx
    jnz 1b
    mov eax, 0x83               // present, writable, 2 MiB
    mov edi, offset directories
    mov ecx, 2048
2:  mov [edi], eax
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b

    mov eax, cr4
    or eax, 0x20                // PAE
    mov cr4, eax
    mov eax, offset page_map
    mov cr3, eax
    mov ecx, 0xc0000080         // EFER
    rdmsr
    or eax, 0x100               // LME
    wrmsr
    mov eax, cr0
    or eax, 0x80000001          // PG, PE
    mov cr0, eax
    lgdt [descriptor_pointer]
    ljmp 8, offset long_mode

    .code64
long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov rsp, offset stack_top
    mov edi, [start_info]
    xor ebp, ebp
    call {start}
3:  hlt
    jmp 3b

    // One stub an exception, each {stub_bytes} bytes long; none returns.
    .balign {stub_bytes}
    .global exception_stubs
exception_stubs:
    .set vector, 0
    .rept {exceptions}
    mov edi, vector
    mov rsi, rsp
    jmp {exception}
    .balign {stub_bytes}
    .set vector, vector + 1
    .endr
    .popsection

    .pushsection .data.boot, "aw"
    .balign 8
descriptors:
    .quad 0
    .quad 0x00af9b000000ffff    // 64-bit code
    .quad 0x00cf93000000ffff    // data
descriptor_pointer:
    .word 23
    .long descriptors
    .popsection

    .pushsection .bss.boot, "aw", @nobits
    .balign 4096
    .global page_map
page_map:           .skip 4096
directory_pointers: .skip 4096
directories:        .skip 4 * 4096
stack:              .skip {stack_bytes}
stack_top:
start_info:         .skip 8
    .global exception_table
    .balign 16
exception_table:    .skip {exceptions} * 16
    .popsection
    "#,
    start = sym crate::start,
    stack_bytes = const STACK_BYTES,
    stub_bytes = const STUB_BYTES,
    exceptions = const EXCEPTIONS,
    exception = sym exception,
);

/// Lets exceptions, all of them mistakes of this program, be told instead of ending the machine
/// without a word.
pub(crate) fn catch_exceptions() {
    unsafe extern "C" {
        static exception_stubs: u8;
        static exception_table: u8;
    }
    let stubs = (&raw const exception_stubs).addr();
    let start = (&raw const exception_table).addr();
    // SAFETY: The boot code has the table in a place of its own.
    let table = unsafe { Region::new(start, EXCEPTIONS * ENTRY_BYTES) };
    for vector in 0..EXCEPTIONS {
        let entry = table.part(vector * ENTRY_BYTES, ENTRY_BYTES);
        let [a, b, c, d, rest @ ..] = ((stubs + vector * STUB_BYTES) as u64).to_le_bytes();
        entry.write(0, u16::from_le_bytes([a, b]));
        entry.write(2, CODE_SELECTOR);
        entry.write(4, INTERRUPT_GATE);
        entry.write(6, u16::from_le_bytes([c, d]));
        entry.write(8, u32::from_le_bytes(rest));
    }
    let mut pointer = [0; 10];
    pointer[..2].copy_from_slice(&511_u16.to_le_bytes());
    pointer[2..].copy_from_slice(&(start as u64).to_le_bytes());
    // SAFETY: The table is complete, and stays.
    unsafe { asm!("lidt [{}]", in(reg) pointer.as_ptr(), options(readonly, nostack)) };
}

/// Tells an exception, and ends the guest.
extern "C" fn exception(vector: u32, stack: u64) -> ! {
    // SAFETY: The processor has just pushed at least as much.
    let pushed = unsafe { Region::new(usize::try_from(stack).unwrap_or(0), 24) };
    let words: [u64; 3] = [pushed.read(0), pushed.read(8), pushed.read(16)];
    panic!("exception {vector}, the stack holds {words:x?}");
}
