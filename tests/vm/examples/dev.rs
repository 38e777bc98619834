#![allow(missing_docs)]
fn main() -> anyhow::Result<()> {
    let filter = std::env::args().nth(1);
    let s = tmem_vm_tests::run_all(&tmem_vm_tests::Options { filter, seed: None })?;
    assert_eq!(s.failed, 0);
    Ok(())
}
