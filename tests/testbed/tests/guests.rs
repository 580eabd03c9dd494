//! guest × bus × profile
use haulier_testbed::guest::{Base, Guest, Recipe, Root};
use std::path::Path;
use std::time::Instant;

#[test]
#[ignore]
fn make() {
    let base = Base::get(&|s| println!("{s}")).unwrap();
    for (name, recipe) in [("btrfs", Recipe::UEFI.root(Root::Btrfs)), ("lvm", Recipe::UEFI.root(Root::Lvm)), ("luks", Recipe::UEFI.root(Root::Luks)), ("md", Recipe::BIOS_MBR.root(Root::Md))] {
        let start = Instant::now();
        let at = format!("/work/disks/{name}.img");
        std::fs::create_dir_all("/work/disks").unwrap();
        Guest::make(&base, recipe, Path::new(&at)).unwrap();
        println!("{name} {:?}", start.elapsed());
    }
}
