//! Systems in volumes that lie on disks by way of others.

use crate::map_support::lvm::Disks;
use crate::map_support::{arg, run};
use crate::scene::{MIB, ROOT_UUID, check, disk, ext4, look_at, system};
use std::fs;

#[test]
fn a_root_and_a_usr_on_striped_logical_volumes_are_put_together() {
    let mut disks = Disks::new();
    let loops = disks.loops.clone();
    disks.lvm(&["pvcreate", "-y", &loops[0], &loops[1]]);
    disks.lvm(&["vgcreate", "-s", "1M", "vgt", &loops[0], &loops[1]]);
    disks.make_volume("ro-ot", &["-L", "64M", "-i", "2", "-I", "64k"]);
    disks.make_volume("usr", &["-L", "48M"]);
    let places = [disks.places("ro-ot"), disks.places("usr")];
    disks.detach();
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let fstab = "/dev/mapper/vgt-ro--ot / ext4 defaults 0 1\n/dev/vgt/usr /usr ext4 ro 0 2\n";
    fs::create_dir_all(path("root/boot")).unwrap();
    system(&path("root"), &path("root/boot"), fstab);
    fs::rename(path("root/usr"), path("usr")).unwrap();
    fs::create_dir(path("root/usr")).unwrap();
    ext4(&path("root"), &path("root.img"), 64, ROOT_UUID, &[]);
    let other = ROOT_UUID.replace("c11", "c33");
    ext4(&path("usr"), &path("usr.img"), 48, &other, &[]);
    disks.copy(&path("root.img"), &places[0], true);
    disks.copy(&path("usr.img"), &places[1], true);
    let found = look_at(&disks.images);
    assert_eq!(found.notes, Vec::<String>::new());
    assert_eq!(found.systems.len(), 1);
    check(&found.systems[0]);
    let place = &found.systems[0].root;
    assert_eq!(place.volume.as_deref(), Some("vgt/ro-ot"));
    assert_eq!(place.partition, None);
    assert_eq!(place.disks.len(), 2);
    // Without the second disk only a part is there: nothing is made up.
    let found = look_at(&disks.images[..1]);
    assert!(found.systems.is_empty(), "{:?}", found.systems);
}

#[test]
fn an_encrypted_volume_without_a_key_is_named_as_one() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::File::create(path("locked"))
        .unwrap()
        .set_len(32 * MIB)
        .unwrap();
    fs::write(path("key"), "secret").unwrap();
    let (locked, key) = (path("locked"), path("key"));
    let format = ["luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2"];
    let cheap = ["--pbkdf-force-iterations", "1000", arg(&locked), arg(&key)];
    run("cryptsetup", &[&format[..], &cheap[..]].concat());
    let uuid = run("cryptsetup", &["luksUUID", arg(&locked)]);
    disk(&path("disk"), &[&locked]);
    let found = look_at(&[path("disk")]);
    assert_eq!(found.systems.len(), 1);
    let system = &found.systems[0];
    assert_eq!((system.kind, &system.name), (None, &None));
    assert!(system.root.encrypted);
    assert_eq!(system.root.filesystem, "LUKS2");
    assert_eq!(system.root.partition, Some(1));
    assert_eq!(system.root.uuid.as_deref(), Some(uuid.trim()));
    assert!(found.notes[0].contains("no key"), "{:?}", found.notes);
}
