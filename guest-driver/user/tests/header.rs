// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `tmem.h` says what `abi.rs` says: a C compiler checks each structure, constant and ioctl number.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use tmem_user::abi;

/// A C file that does not compile unless `tmem.h` agrees.
fn assertions() -> String {
    let mut c = String::from("#include <stddef.h>\n#include \"tmem.h\"\n");
    macro_rules! layout {
        ($($name:ident),*) => {$(
            let tag = abi::$name::C_NAME;
            let size = size_of::<abi::$name>();
            assert!(!abi::$name::LAYOUT.is_empty(), "{tag} has no fields");
            let _ = writeln!(c, "_Static_assert(sizeof(struct {tag}) == {size}, \"{tag}\");");
            for (field, offset, size) in abi::$name::LAYOUT {
                let _ = writeln!(
                    c,
                    "_Static_assert(offsetof(struct {tag}, {field}) == {offset} && \
                     sizeof(((struct {tag} *)0)->{field}) == {size}, \"{tag}.{field}\");"
                );
            }
        )*};
    }
    layout!(Info, Create, Destroy, Entry, Transfer, Stat);
    let constants: &[(&str, u64)] = &[
        ("TMEM_VERSION", abi::VERSION.into()),
        ("TMEM_PAGE_SIZE", abi::PAGE_SIZE as u64),
        ("TMEM_ENTRIES_MAX", abi::ENTRIES_MAX.into()),
        ("TMEM_CALL_PAGES_MAX", abi::CALL_PAGES_MAX.into()),
        ("TMEM_POOLS_MAX", abi::POOLS_MAX.into()),
        ("TMEM_OBJECT_PAGES_MAX", abi::OBJECT_PAGES_MAX.into()),
        ("TMEM_ANY_DEVICE", abi::ANY_DEVICE.into()),
        ("TMEM_PERSISTENT", abi::kind::PERSISTENT.into()),
        ("TMEM_EPHEMERAL", abi::kind::EPHEMERAL.into()),
        ("TMEM_PUT", abi::op::PUT.into()),
        ("TMEM_GET", abi::op::GET.into()),
        ("TMEM_FLUSH", abi::op::FLUSH.into()),
        ("TMEM_EXCLUSIVE", abi::flag::EXCLUSIVE.into()),
        ("TMEM_HAS_PERSISTENT", abi::feature::PERSISTENT.into()),
        ("TMEM_HAS_EPHEMERAL", abi::feature::EPHEMERAL.into()),
        ("TMEM_HAS_EXCLUSIVE", abi::feature::EXCLUSIVE.into()),
        ("TMEM_OK", abi::result::OK.into()),
        ("TMEM_MISS", abi::result::MISS.into()),
        ("TMEM_REFUSED_FULL", abi::result::REFUSED_FULL.into()),
        ("TMEM_REFUSED_FROZEN", abi::result::REFUSED_FROZEN.into()),
        ("TMEM_CORRUPT", abi::result::CORRUPT.into()),
        ("TMEM_IO_ERROR", abi::result::IO_ERROR.into()),
        ("TMEM_LOST", abi::result::LOST.into()),
        ("TMEM_MAGIC", abi::MAGIC.into()),
        ("TMEM_INFO", abi::INFO.into()),
        ("TMEM_CREATE", abi::CREATE.into()),
        ("TMEM_DESTROY", abi::DESTROY.into()),
        ("TMEM_TRANSFER", abi::TRANSFER.into()),
        ("TMEM_STAT", abi::STAT.into()),
    ];
    for (name, value) in constants {
        let _ = writeln!(c, "_Static_assert({name} == {value}ULL, \"{name}\");");
    }
    c
}

/// What a C compiler says of `source`; the header's folder is known to it.
fn compile(source: &str, options: &[&str]) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("test.c");
    std::fs::write(&file, source).expect("write");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args(["-std=gnu11", "-Wall", "-Werror", "-fsyntax-only"])
        .args(options)
        .arg("-I")
        .arg(env!("CARGO_MANIFEST_DIR"))
        .arg(&file)
        .output()
        .unwrap_or_else(|error| panic!("{compiler} does not run, yet Rust links by it: {error}"));
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn header_agrees_with_the_rust_definitions() {
    compile(&assertions(), &[]).expect("tmem.h differs from abi.rs");
}

#[test]
fn a_difference_would_be_noticed() {
    let wrong = assertions().replacen("== 8 ", "== 12 ", 1);
    assert_ne!(wrong, assertions());
    let said = compile(&wrong, &[]).expect_err("a wrong offset");
    assert!(said.contains("static assertion failed"), "{said}");
}

#[test]
fn example_of_the_chapter_compiles() {
    let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/paging.md");
    let text = std::fs::read_to_string(book).expect("the chapter");
    let start = text.find("```c\n").expect("an example in C") + "```c\n".len();
    let example = &text[start..];
    let end = example.find("```").expect("its end");
    compile(&example[..end], &["-Wno-unused"]).expect("the example");
}
