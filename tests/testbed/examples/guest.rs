//! Makes a guest disk and boots it: `cargo run -p haulier-testbed --example guest -- uefi DISK`.
use haulier_testbed::{
    guest::{Base, Guest, Kind},
    qemu::*,
};
use std::time::{Duration, Instant};
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let (kind, fw) = match args[1].as_str() {
        "uefi" => (Kind::UefiGpt, Firmware::Uefi),
        "sb" => (Kind::UefiGpt, Firmware::SecureBoot),
        _ => (Kind::BiosMbr, Firmware::Bios),
    };
    let t = Instant::now();
    let base = Base::get(&|l| println!("{l}"))?;
    println!("base {:?}", t.elapsed());
    let g = Guest::make(&base, kind, args[2].as_ref())?;
    println!("disk {:?} {:?}", t.elapsed(), g);
    let mut m = Machine::new(fw)
        .disk(Drive::raw(&g.path, Bus::Sata, "S3RIAL01").model("INTEL SSDSC2KB96"))
        .stays_after_shutdown()
        .start()?;
    m.serial()
        .wait_for(&g.payload.line(), Duration::from_secs(200))?;
    println!("payload {:?}", t.elapsed());
    m.serial().wait_for("login: ", Duration::from_secs(100))?;
    println!("login {:?}", t.elapsed());
    m.qmp().screenshot("/tmp/testbed/shot.png".as_ref())?;
    m.serial().send("root\n")?;
    m.serial().wait_for("# ", Duration::from_secs(100))?;
    m.serial().send(
        "systemd-analyze; systemctl --failed; swapon; lsblk; findmnt -t ext4,vfat; poweroff\n",
    )?;
    let r = m.wait_shutdown(Duration::from_secs(100));
    println!("{}", m.serial().text());
    println!("off {:?}", t.elapsed());
    r?;
    println!("{:?}", m.qmp().block_stats("disk0")?);
    Ok(())
}
