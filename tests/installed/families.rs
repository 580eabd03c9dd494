//! The same questions to other families of distributions: their files lie elsewhere. (No oracle but
//! their manuals: what a file says has to come out.)

use crate::scene::{BOOT_UUID, Packing, ROOT_UUID, disk, esp_image, ext4, initramfs, look_at};
use haulier::inventory::System;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A system on a partition, its kernels on another one.
fn read(fill: impl FnOnce(&Path, &Path)) -> System {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for folder in ["root/boot", "root/etc", "boot"] {
        fs::create_dir_all(path(folder)).unwrap();
    }
    let fstab =
        format!("UUID={ROOT_UUID} / ext4 defaults 0 0\nUUID={BOOT_UUID} /boot ext4 defaults 0 0\n");
    write(&path("root"), "etc/fstab", fstab);
    fill(&path("root"), &path("boot"));
    ext4(&path("boot"), &path("boot.img"), 32, BOOT_UUID, &[]);
    ext4(&path("root"), &path("root.img"), 32, ROOT_UUID, &[]);
    disk(&path("disk"), &[&path("boot.img"), &path("root.img")]);
    let mut found = look_at(&[path("disk")]);
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.systems.len(), 1);
    found.systems.remove(0)
}

#[test]
fn red_hat_has_entries_of_the_boot_loader_specification() {
    let newer = "5.14.0-503.11.1.el9_5.x86_64";
    let older = "5.14.0-427.el9.x86_64";
    let id = "0123456789abcdef0123456789abcdef";
    let system = read(|root, boot| {
        write(
            root,
            "etc/os-release",
            "ID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"9.5\"\nPRETTY_NAME=\"Red Hat Enterprise Linux 9.5 (Plow)\"\n",
        );
        write(root, "etc/hostname", "db1.example.org\n");
        for release in [newer, older] {
            write(
                root,
                &format!("usr/lib/modules/{release}/modules.builtin"),
                "",
            );
            write(boot, &format!("vmlinuz-{release}"), "MZ");
            write(
                boot,
                &format!("initramfs-{release}.img"),
                initramfs(Packing::Gzip, true),
            );
            write(
                boot,
                &format!("loader/entries/{id}-{release}.conf"),
                format!(
                    "title Red Hat Enterprise Linux ({release}) 9.5 (Plow)\nversion {release}\nlinux /vmlinuz-{release}\n\
                 initrd /initramfs-{release}.img $tuned_initrd\noptions root=/dev/mapper/rhel-root ro \
                 resume=/dev/mapper/rhel-swap rd.lvm.lv=rhel/root\ngrub_users $grub_users\n"
                ),
            );
        }
        write(boot, &format!("vmlinuz-0-rescue-{id}"), "MZ");
        write(
            boot,
            &format!("loader/entries/{id}-0-rescue.conf"),
            "title rescue\nversion 0-rescue-x\nlinux /vmlinuz-0-rescue\n",
        );
        symlink("usr/lib", root.join("lib")).unwrap();
        write(
            boot,
            "grub2/grub.cfg",
            "set default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n",
        );
        write(
            boot,
            "grub2/grubenv",
            format!("# GRUB Environment Block\nsaved_entry={id}-{older}\nboot_success=1\n####"),
        );
        write(
            root,
            "etc/NetworkManager/system-connections/eno1.nmconnection",
            "[connection]\nid=eno1\ntype=ethernet\ninterface-name=eno1\n[ipv4]\nmethod=auto\n",
        );
    });
    assert_eq!(system.id.as_deref(), Some("rhel"));
    assert_eq!(system.hostname.as_deref(), Some("db1.example.org"));
    let kernels = system.kernels.unwrap();
    let releases: Vec<&str> = kernels
        .iter()
        .map(|kernel| kernel.release.as_str())
        .collect();
    assert_eq!(releases, [older, newer]);
    assert_eq!(kernels[0].default, Some(true));
    let path = format!("/boot/initramfs-{older}.img");
    assert_eq!(kernels[0].initramfs.as_deref(), Some(&*path));
    assert!(
        kernels[0]
            .initramfs_drivers
            .as_ref()
            .unwrap()
            .iter()
            .any(|d| d == "ahci")
    );
    let line = system.command_line.unwrap();
    assert_eq!(line.root.as_deref(), Some("/dev/mapper/rhel-root"));
    assert_eq!(line.file, format!("/boot/loader/entries/{id}-{older}.conf"));
    assert_eq!(line.resume.as_deref(), Some("/dev/mapper/rhel-swap"));
    let network = system.network.unwrap();
    assert_eq!(network.managers, ["network-manager"]);
    assert_eq!(network.interfaces[0].name.as_deref(), Some("eno1"));
}

#[test]
fn systemd_boot_has_kernels_on_the_esp() {
    let newer = "6.12.57-1-lts";
    let older = "6.6.30-1-lts";
    let id = "0123456789abcdef0123456789abcdef";
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let (root, esp) = (path("root"), path("esp"));
    write(
        &root,
        "etc/os-release",
        "ID=arch\nPRETTY_NAME=\"Arch Linux\"\n",
    );
    let fstab = format!("UUID={ROOT_UUID} / ext4 rw 0 1\nUUID=4A1D-7E33 /efi vfat rw 0 2\n");
    write(&root, "etc/fstab", fstab);
    fs::create_dir_all(root.join("efi")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    for release in [newer, older] {
        write(
            &root,
            &format!("usr/lib/modules/{release}/modules.builtin"),
            "",
        );
        // As kernel-install(8) lays them out.
        let folder = format!("{id}/{release}");
        write(&esp, &format!("{folder}/linux"), "MZ");
        write(
            &esp,
            &format!("{folder}/initrd"),
            initramfs(Packing::Zstd, true),
        );
        write(
            &esp,
            &format!("loader/entries/{id}-{release}.conf"),
            format!(
                "title Arch Linux\nversion {release}\nmachine-id {id}\nlinux /{folder}/linux\n\
                 initrd /{folder}/initrd\noptions root=UUID={ROOT_UUID} rw\n"
            ),
        );
    }
    write(
        &esp,
        "loader/loader.conf",
        format!("default {id}-{older}.conf\ntimeout 3\n"),
    );
    write(&esp, "EFI/systemd/systemd-bootx64.efi", "MZ");
    esp_image(&esp, &path("esp.img"));
    ext4(&root, &path("root.img"), 64, ROOT_UUID, &[]);
    disk(&path("disk"), &[&path("esp.img"), &path("root.img")]);
    let mut found = look_at(&[path("disk")]);
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.systems.len(), 1);
    let system = found.systems.remove(0);
    let kernels = system.kernels.unwrap();
    let releases: Vec<&str> = kernels.iter().map(|kernel| &*kernel.release).collect();
    assert_eq!(releases, [older, newer]);
    for (kernel, first) in kernels.iter().zip([true, false]) {
        assert_eq!(kernel.default, Some(first));
        let initramfs = format!("/efi/{id}/{}/initrd", kernel.release);
        assert_eq!(kernel.initramfs.as_deref(), Some(&*initramfs));
        let drivers = kernel.initramfs_drivers.as_ref().unwrap();
        assert!(
            drivers.iter().any(|driver| driver == "virtio_blk"),
            "{drivers:?}"
        );
    }
    let line = system.command_line.unwrap();
    assert_eq!(line.root.as_deref(), Some(&*format!("UUID={ROOT_UUID}")));
    assert_eq!(line.file, format!("/efi/loader/entries/{id}-{older}.conf"));
}

#[test]
fn suse_has_ifcfg_files_of_its_own_and_ubuntu_has_netplan() {
    let release = "6.4.0-150600.23.25-default";
    let system = read(|root, boot| {
        write(
            root,
            "etc/os-release",
            "ID=\"sles\"\nID_LIKE=\"suse\"\nVERSION_ID=\"15.6\"\nPRETTY_NAME=\"SUSE Linux Enterprise Server 15 SP6\"\n",
        );
        write(root, &format!("lib/modules/{release}/modules.builtin"), "");
        write(boot, &format!("vmlinuz-{release}"), "MZ");
        write(
            boot,
            &format!("initrd-{release}"),
            initramfs(Packing::Zstd, false),
        );
        write(
            boot,
            "grub2/grub.cfg",
            format!(
                "set default=\"${{saved_entry}}\"\nmenuentry 'SLES 15-SP6' --class sles $menuentry_id_option 'gnulinux-simple-x' {{\n\tlinux /boot/vmlinuz-{release} root=UUID={ROOT_UUID} net.ifnames=0\n\tinitrd /boot/initrd-{release}\n}}\n"
            ),
        );
        write(
            boot,
            "grub2/grubenv",
            "# GRUB Environment Block\nsaved_entry=SLES 15-SP6\n",
        );
        write(
            root,
            "etc/sysconfig/network/ifcfg-eth0",
            "BOOTPROTO='static'\nIPADDR='192.0.2.7/24'\nSTARTMODE='auto'\n",
        );
        write(
            root,
            "etc/sysconfig/network/ifcfg-lo",
            "IPADDR=127.0.0.1/8\n",
        );
        write(
            root,
            "etc/udev/rules.d/70-persistent-net.rules",
            "SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"b0:26:28:aa:bb:01\", NAME=\"eth0\"\n",
        );
    });
    assert_eq!(system.rtc, Some(haulier::inventory::RtcBasis::Utc));
    let kernels = system.kernels.unwrap();
    assert_eq!(
        kernels[0].initramfs.as_deref(),
        Some(&*format!("/boot/initrd-{release}"))
    );
    assert!(kernels[0].initramfs_drivers.is_some());
    let network = system.network.unwrap();
    assert_eq!(network.managers, ["wicked"]);
    assert_eq!(network.interfaces.len(), 1);
    assert_eq!(network.interfaces[0].addresses, ["192.0.2.7/24"]);
    assert_eq!(network.names[0].name, "eth0");
    assert_eq!(network.names[0].mac.as_deref(), Some("b0:26:28:aa:bb:01"));
    assert_eq!(network.predictable_names, Some(false));

    let system = read(|root, _| {
        write(
            root,
            "etc/os-release",
            "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n",
        );
        write(
            root,
            "etc/netplan/50-cloud-init.yaml",
            "network:\n  version: 2\n  ethernets:\n    lan:\n      match: {macaddress: 'b0:26:28:aa:bb:01'}\n      set-name: lan0\n      dhcp4: true\n",
        );
        write(root, "etc/netplan/90-broken.yaml.bak", "][");
    });
    assert_eq!(system.kernels, None);
    let network = system.network.unwrap();
    assert_eq!(network.managers, ["netplan"]);
    assert_eq!(network.interfaces[0].name.as_deref(), Some("lan0"));
    assert_eq!(
        network.interfaces[0].mac.as_deref(),
        Some("b0:26:28:aa:bb:01")
    );
    assert_eq!(network.interfaces[0].addresses, ["dhcp"]);
}
