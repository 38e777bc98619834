#![allow(missing_docs)]
use tmem_vm_tests::{artifacts::*, daemon::Programs};
use vm_images::*;
fn main() -> anyhow::Result<()> {
    let progress = Progress::stderr();
    let toolchain = Toolchain::ensure(&Cache::open()?, &progress)?;
    let kernel = Kernel::ensure(&toolchain, None)?;
    let module = Module::build(&kernel, &tmem_vm_tests::build::workspace().join("guest-driver"))?;
    let b = std::path::Path::new("/tmp/vmdev/bin");
    let initramfs = Initramfs::build(&toolchain, &kernel, &module, &spec(&b.join("tmem-workload"), Extras::None)?)?;
    let a = Artifacts { kernel: kernel.vmlinuz().to_owned(), release: String::new(), initramfs, qemu: toolchain.qemu(),
        programs: Programs { daemon: b.join("vhost-device-tmem"), tmemctl: b.join("tmemctl") }, logs: "/tmp/vmdev/guests".into() };
    let filter = std::env::args().nth(1);
    tmem_vm_tests::runner::run_with(&a, filter.as_deref(), 42)?;
    Ok(())
}
