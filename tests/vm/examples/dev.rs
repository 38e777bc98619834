#![allow(missing_docs)]
use std::time::Duration;
use tmem_vm_tests::{artifacts::*, build, guest::Guest, vmm::*};
use vm_images::*;
fn main() -> anyhow::Result<()> {
    let progress = Progress::stderr();
    let cache = Cache::open()?;
    let toolchain = Toolchain::ensure(&cache, &progress)?;
    let kernel = Kernel::ensure(&toolchain, None)?;
    let ko = std::env::args().nth(1).unwrap();
    let module = Module {
        ko: ko.clone().into(),
        debug_ko: ko.into(),
        modinfo: String::new(),
        warnings: String::new(),
    };
    let workload = build::workload()?;
    let initramfs = Initramfs::build(
        &toolchain,
        &kernel,
        &module,
        &spec(&workload, Extras::Workloads)?,
    )?;
    println!("{}", initramfs.display());
    let (qemu, why) = Qemu::probe(&toolchain.qemu(), kernel.vmlinuz());
    println!("{why:?}");
    let vmm = Vmm::Qemu(qemu);
    let machine = Machine {
        memory_mib: 256,
        cpus: 2,
        kernel: kernel.vmlinuz().to_owned(),
        initramfs,
        cmdline: String::new(),
        tmem: None,
    };
    let dir = std::path::Path::new("/tmp/vmdev/logs");
    std::fs::create_dir_all(dir)?;
    let t = std::time::Instant::now();
    let mut guest = Guest::boot(&vmm, &machine, Lines::of("dev", dir, dir))?;
    println!("boot {:?}", t.elapsed());
    for c in std::env::args().skip(2) {
        let t = std::time::Instant::now();
        let o = guest.run(&c, Duration::from_secs(120))?;
        println!("$ {c}\n{}\n[{}] {:?}", o.text(), o.status, t.elapsed());
    }
    guest.shut_down()?;
    Ok(())
}
