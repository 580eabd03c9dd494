//! Real installed systems on their metal, captured by the appliance, imported, and booted as VMs: the same
//! host name, the same addresses on the same network cards, the same files.
//!
//! Guest × bus × profile, a test a guest. Those that every run makes are few; the others are `#[ignore]`d
//! and run by `cargo xtask test --all`. Each prints its rows of the table in docs/guests.md.

mod scene;

use haulier_testbed::guest::{Boot, Flavor, Recipe, Root};
use haulier_testbed::qemu::Bus;
use scene::{Metal, Scene, Virtual};

/// The names that udev gives to the metal's two cards: their places on the first bus.
const ADDRESSES: &[(&str, &str)] = &[("enp0s24", "10.20.30.1/24"), ("enp0s25", "10.20.31.1/24")];

#[test]
fn uefi_without_a_fallback_loader_with_static_addresses() {
    let recipe = Recipe::UEFI.without_fallback_loader().addresses(ADDRESSES);
    let scene = Scene::new(&Metal::new(
        "Debian 13, UEFI, ext4, no fallback loader",
        recipe,
        Bus::Sata,
    ));
    scene.travels(&Virtual::libvirt("auto"));
}

#[test]
fn bios_with_a_gpt_on_a_raid_controller() {
    let recipe = Recipe {
        boot: Boot::BiosGpt,
        ..Recipe::BIOS_MBR
    };
    let scene = Scene::new(&Metal::new(
        "Debian 13, BIOS, GPT, ext4",
        recipe,
        Bus::MegaSas,
    ));
    scene.travels(&Virtual::qemu("faithful"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn a_cloud_that_takes_no_variables() {
    let recipe = Recipe::UEFI.without_fallback_loader().addresses(ADDRESSES);
    let scene = Scene::new(&Metal::new(
        "Debian 13, UEFI, ext4, no fallback loader",
        recipe,
        Bus::Nvme,
    ));
    scene.lands_in_a_cloud();
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn secure_boot_with_the_owners_own_keys() {
    let scene = Scene::new(&Metal::new(
        "Debian 13, UEFI, ext4, Secure Boot with own keys",
        Recipe::UEFI.own_keys().addresses(ADDRESSES),
        Bus::Sata,
    ));
    scene.travels(&Virtual::qemu("auto"));
    scene.travels(&Virtual::libvirt("auto"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn lvm_root() {
    all(
        "Debian 13, UEFI, LVM",
        Recipe::UEFI.root(Root::Lvm).addresses(ADDRESSES),
        Bus::Sata,
    );
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn xfs_root_on_nvme() {
    all(
        "Debian 13, UEFI, XFS, partitions by name",
        Recipe::UEFI
            .root(Root::Xfs)
            .by_place("/dev/nvme0n1p")
            .addresses(ADDRESSES),
        Bus::Nvme,
    );
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn btrfs_root_in_a_subvolume() {
    all(
        "Debian 13, UEFI, btrfs subvolumes",
        Recipe::UEFI.root(Root::Btrfs).addresses(ADDRESSES),
        Bus::Sata,
    );
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn md_raid1_root_over_two_disks() {
    all(
        "Debian 13, BIOS, md RAID 1",
        Recipe::BIOS_MBR.root(Root::Md).addresses(ADDRESSES),
        Bus::Sata,
    );
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn luks_root() {
    let recipe = Recipe::UEFI.root(Root::Luks).addresses(ADDRESSES);
    all("Debian 13, UEFI, LUKS2", recipe, Bus::Sata);
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn bios_with_an_mbr_on_sas() {
    all(
        "Debian 13, BIOS, MBR, ext4",
        // Libvirt's network here has no DHCP server.
        Recipe::BIOS_MBR.addresses(ADDRESSES),
        Bus::MptSas,
    );
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn an_initramfs_without_virtio() {
    let recipe = Recipe::UEFI.without_virtio().addresses(ADDRESSES);
    let scene = Scene::new(&Metal::new(
        "Debian 13, UEFI, ext4, MODULES=list",
        recipe,
        Bus::Sata,
    ));
    // It stays on what it has a driver for, unless it is told to change.
    let domain = scene.travels(&Virtual::libvirt("auto"));
    assert!(
        domain.contains("bus='sata'") && !domain.contains("bus='virtio'"),
        "{domain}"
    );
    scene.travels(&Virtual::qemu("virtio"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn luks_root_by_crypttab_whose_initramfs_is_made_anew() {
    let recipe = Recipe::UEFI.root(Root::Luks).crypttab().without_virtio();
    let scene = Scene::new(&Metal::new(
        "Debian 13, UEFI, LUKS2 by crypttab, MODULES=list",
        recipe.addresses(ADDRESSES),
        Bus::Sata,
    ));
    scene.travels(&Virtual::qemu("virtio"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn an_initramfs_for_its_metal_and_a_disk_that_is_not_there() {
    let recipe = Recipe::UEFI
        .modules_dep()
        .by_place("/dev/sda")
        .absent_disk();
    let scene = Scene::new(&Metal::new(
        "Debian 13, UEFI, ext4, MODULES=dep, partitions by name, one of an absent disk",
        recipe.addresses(ADDRESSES),
        Bus::Sata,
    ));
    scene.travels(&Virtual::qemu("virtio"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn lvm_root_by_a_devices_file_under_dracut() {
    let recipe = Recipe::UEFI.root(Root::Lvm).dracut().lvm_devices();
    let scene = Scene::new(&Metal::new(
        "Debian 13 with dracut and NetworkManager, UEFI, LVM with a devices file",
        recipe.addresses(ADDRESSES),
        Bus::Sata,
    ));
    scene.travels(&Virtual::qemu("virtio"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn dracut_and_network_manager() {
    let recipe = Recipe::UEFI.dracut().addresses(ADDRESSES);
    let scene = Scene::new(&Metal::new(
        "Debian 13 with dracut and NetworkManager, UEFI, ext4",
        recipe,
        Bus::Sata,
    ));
    scene.travels(&Virtual::libvirt("auto"));
    scene.travels(&Virtual::qemu("virtio"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn a_vm_of_vmware_whose_initramfs_knows_no_other_disk() {
    let scene = Scene::new(&Metal::new(
        "Debian 13, BIOS, MBR, ext4, MODULES=list of VMware's",
        Recipe::BIOS_MBR.of_vmware().addresses(ADDRESSES),
        Bus::PvScsi,
    ));
    // Nothing here has such a disk: it comes to SATA, and the initramfs gets the driver.
    let domain = scene.travels(&Virtual::libvirt("auto"));
    assert!(domain.contains("bus='sata'"), "{domain}");
    scene.travels(&Virtual::qemu("virtio"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn systemd_boot_with_kernels_on_the_esp() {
    let recipe = Recipe::UEFI.systemd_boot(Flavor::SystemdBoot);
    let scene = Scene::new(&Metal::new(
        "Debian 13, UEFI, ext4, systemd-boot",
        recipe.addresses(ADDRESSES),
        Bus::Sata,
    ));
    scene.travels(&Virtual::libvirt("auto"));
    scene.travels(&Virtual::qemu("virtio"));
}

#[test]
#[ignore = "minutes: cargo xtask test --all"]
fn unified_kernel_images_with_the_root_by_its_place() {
    let recipe = Recipe::UEFI
        .systemd_boot(Flavor::Unified)
        .esp_unlisted()
        .by_place("/dev/sda");
    let scene = Scene::new(&Metal::new(
        "Debian 13 with dracut, UEFI, ext4, unified kernel images, partitions by name, no ESP in fstab",
        recipe.addresses(ADDRESSES),
        Bus::Sata,
    ));
    scene.travels(&Virtual::qemu("virtio"));
    scene.travels(&Virtual::libvirt("auto"));
}

/// Both profiles in both hypervisors.
fn all(name: &'static str, recipe: Recipe, bus: Bus) {
    let scene = Scene::new(&Metal::new(name, recipe, bus));
    for profile in ["faithful", "virtio"] {
        scene.travels(&Virtual::qemu(profile));
        scene.travels(&Virtual::libvirt(profile));
    }
}
