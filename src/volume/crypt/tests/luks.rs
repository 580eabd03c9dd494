//! LUKS1 by qemu-img and LUKS2 by cryptsetup, both of which encrypt without the kernel: that is what
//! ours is held against, in both directions.

use super::fixture::{self, plain};
use super::*;
use std::path::PathBuf;

const PASSPHRASE: &str = "correct horse battery staple";

fn secrets() -> Secrets {
    Secrets::from_passphrase(PASSPHRASE)
}

/// Ours reads what was encrypted.
fn reads(name: &str, encrypted: &Path) {
    let disk = disk_of(encrypted);
    let plain_disk = disk_of(&plain().path());
    let unlocked = opened(&disk, &secrets());
    assert_eq!(
        digest(&unlocked.volume, 0, fixture::SIZE),
        digest(&plain_disk, 0, fixture::SIZE),
        "the plaintext of {name}"
    );
}

/// And theirs reads what we keep.
fn survives(name: &str, encrypted: &Path, decrypt: impl Fn(&Path, &Path)) {
    reads(name, encrypted);
    let disk = disk_of(encrypted);
    let unlocked = opened(&disk, &secrets());
    let used = fixture::used_of(&unlocked.volume, "ext4");
    let kept = kept_by_map(&disk, &secrets());
    assert_eq!(kept, super::kept(&disk, &secrets(), &used));

    let metadata = unlocked.metadata.total().0;
    let (taken, own) = (kept.total().0, plain().used + metadata);
    println!(
        "| {name} | {taken} | {} + {metadata} of headers | {:.4} |",
        plain().used,
        taken as f64 / own as f64
    );
    assert!(taken * 100 <= own * 101, "{name}: {taken} of {own} bytes");

    let dir = tempfile::tempdir().unwrap();
    let punched = dir.path().join("punched.img");
    fs::copy(encrypted, &punched).unwrap();
    punch(&punched, &kept);
    let out = dir.path().join("out.img");
    decrypt(&punched, &out);
    let file = fs::OpenOptions::new().write(true).open(&out).unwrap();
    file.set_len(fixture::SIZE).unwrap();
    fixture::check(&out);
    assert_eq!(fixture::read_files(&out), plain().files, "{name}");
}

/// qemu-img encrypts with these options, and decrypts where the variant is worth the time.
fn luks1(name: &str, options: &str, whole_way: bool) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("luks.img");
    let secret = format!("secret,id=s0,data={PASSPHRASE}");
    let made = format!("key-secret=s0,iter-time=10{options}");
    let plain = plain().path();
    run(
        "qemu-img",
        &[
            "convert",
            "-f",
            "raw",
            "-O",
            "luks",
            "--object",
            &secret,
            "-o",
            &made,
            arg(&plain),
            arg(&image),
        ],
    );
    if !whole_way {
        return reads(name, &image);
    }
    survives(name, &image, |punched, out| {
        let source = format!("driver=luks,key-secret=s0,file.filename={}", arg(punched));
        run(
            "qemu-img",
            &[
                "convert",
                "--object",
                &secret,
                "--image-opts",
                &source,
                "-O",
                "raw",
                arg(out),
            ],
        );
    });
}

macro_rules! luks1 {
    ($($name:ident $options:literal $whole_way:literal)*) => {
        mod luks1 {
            $(
                #[test]
                fn $name() {
                    super::luks1(concat!("LUKS1 ", stringify!($name)), $options, $whole_way);
                }
            )*
        }
    };
}

luks1! {
    aes_256_xts_plain64_sha256 "" true
    aes_128_xts_plain64_sha512 ",cipher-alg=aes-128,hash-alg=sha512" false
    aes_256_xts_plain_sha1 ",ivgen-alg=plain,hash-alg=sha1" false
    aes_256_xts_plain64_ripemd160 ",hash-alg=ripemd160" false
    aes_256_cbc_essiv_sha256 ",cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256" true
    aes_128_cbc_plain64 ",cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=plain64" false
    serpent_256_xts_plain64 ",cipher-alg=serpent-256" true
    serpent_128_cbc_essiv ",cipher-alg=serpent-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256" false
    twofish_256_xts_plain64_sha224 ",cipher-alg=twofish-256,hash-alg=sha224" false
    twofish_128_cbc_plain64 ",cipher-alg=twofish-128,cipher-mode=cbc,ivgen-alg=plain64" false
}

/// A passphrase for cryptsetup.
fn key_file(dir: &Path) -> PathBuf {
    let path = dir.join("key");
    fs::write(&path, PASSPHRASE).unwrap();
    path
}

/// cryptsetup encrypts a copy of the filesystem in place.
fn make_luks2(dir: &Path, options: &[&str]) -> PathBuf {
    let image = dir.join("luks2.img");
    fs::copy(plain().path(), &image).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(fixture::SIZE + (32 << 20)).unwrap();
    drop(file);
    let key = key_file(dir);
    let mut args = vec![
        "reencrypt",
        "--encrypt",
        "--type",
        "luks2",
        "--batch-mode",
        "--reduce-device-size",
        "32M",
        "--key-file",
        arg(&key),
    ];
    args.extend(options);
    args.push(arg(&image));
    run("cryptsetup", &args);
    image
}

fn luks2(name: &str, options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let image = make_luks2(dir.path(), options);
    let key = key_file(dir.path());
    survives(name, &image, |punched, out| {
        // Decrypts in place, and keeps the header elsewhere.
        let header = dir.path().join("header");
        run(
            "cryptsetup",
            &[
                "reencrypt",
                "--decrypt",
                "--batch-mode",
                "--force-offline-reencrypt",
                "--header",
                arg(&header),
                "--key-file",
                arg(&key),
                arg(punched),
            ],
        );
        fs::copy(punched, out).unwrap();
    });
}

const FAST: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
const ARGON2_FAST: [&str; 6] = [
    "--pbkdf-force-iterations",
    "4",
    "--pbkdf-memory",
    "65536",
    "--pbkdf-parallel",
    "2",
];

#[test]
fn luks2_by_default_but_less_work() {
    luks2("LUKS2 as cryptsetup makes it, argon2id", &ARGON2_FAST);
}

#[test]
fn luks2_in_sectors_of_512_by_argon2i() {
    let options = ["--sector-size", "512", "--pbkdf", "argon2i"];
    luks2(
        "LUKS2 sectors of 512, argon2i",
        &[&options[..], &ARGON2_FAST].concat(),
    );
}

#[test]
fn luks2_in_sectors_of_4096_by_pbkdf2() {
    let options = ["--sector-size", "4096", "--hash", "sha512"];
    luks2(
        "LUKS2 sectors of 4096, pbkdf2 sha512",
        &[&options[..], &FAST].concat(),
    );
}

#[test]
fn luks2_in_sectors_of_2048_in_cbc() {
    let options = [
        "--sector-size",
        "2048",
        "--cipher",
        "aes-cbc-essiv:sha256",
        "--key-size",
        "256",
    ];
    luks2(
        "LUKS2 aes-cbc-essiv, sectors of 2048",
        &[&options[..], &FAST].concat(),
    );
}

/// A small volume that is only to be opened.
fn format(dir: &Path, options: &[&str]) -> PathBuf {
    let image = dir.join("small.img");
    fs::write(&image, vec![0; 20 << 20]).unwrap();
    let key = key_file(dir);
    let mut args = vec!["luksFormat", "--batch-mode", "--key-file", arg(&key)];
    args.extend(options);
    args.push(arg(&image));
    run("cryptsetup", &args);
    image
}

/// The volume key as cryptsetup finds it decrypts as ours does: both see the same plaintext behind
/// whichever slot.
#[test]
fn any_of_several_slots_opens() {
    for kind in ["luks1", "luks2"] {
        let dir = tempfile::tempdir().unwrap();
        let image = format(dir.path(), &[&["--type", kind][..], &FAST].concat());
        let key = key_file(dir.path());
        let other = dir.path().join("other");
        // Not text, and longer than a block of the hash.
        let bytes: Vec<u8> = (0..=255).collect();
        fs::write(&other, &bytes).unwrap();
        let mut add = vec![
            "luksAddKey",
            "--batch-mode",
            "--key-file",
            arg(&key),
            "--key-slot",
            "5",
        ];
        add.extend(FAST);
        add.extend([arg(&image), arg(&other)]);
        run("cryptsetup", &add);
        let disk = disk_of(&image);
        let by_passphrase = opened(&disk, &secrets());
        let by_file = opened(&disk, &Secrets::from_key_file(&other).unwrap());
        let end = by_file.volume.size().0;
        assert_eq!(
            digest(&by_file.volume, 0, end),
            digest(&by_passphrase.volume, 0, end)
        );
        // Behind another secret too.
        let mut both = Secrets::from_passphrase("wrong");
        both.append(secrets());
        opened(&disk, &both);
        let wrong = Secrets::from_passphrase("Correct horse battery staple");
        assert!(matches!(closed(&disk, &wrong), Locked::WrongSecret));
        assert!(matches!(closed(&disk, &Secrets::new()), Locked::NoSecret));
        // A slot that is removed opens no more.
        run(
            "cryptsetup",
            &[
                "luksKillSlot",
                "--batch-mode",
                "--key-file",
                arg(&key),
                arg(&image),
                "5",
            ],
        );
        let gone = Secrets::from_key_file(&other).unwrap();
        assert!(matches!(closed(&disk, &gone), Locked::WrongSecret));
    }
}

#[test]
fn the_header_tells_what_blkid_tells() {
    let blkid = |image: &Path, tag: &str| {
        let out = run("blkid", &["-p", "-s", tag, "-o", "value", arg(image)]);
        Some(out.trim().to_owned()).filter(|text| !text.is_empty())
    };
    for (options, name, label) in [
        (&["--type", "luks1"][..], "LUKS1", None),
        (
            &["--type", "luks2", "--label", "archive"],
            "LUKS2",
            Some("archive"),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let image = format(dir.path(), &[options, &FAST].concat());
        let header = super::super::header(&disk_of(&image)).unwrap();
        assert_eq!(header.name, name);
        assert_eq!(header.uuid, blkid(&image, "UUID"));
        assert!(header.uuid.is_some());
        assert_eq!(header.label.as_deref(), label);
        assert_eq!(header.label, blkid(&image, "LABEL"));
        assert_eq!(header.cipher, "aes-xts-plain64");
        assert!(!header.opens_by_itself);
    }
}

#[test]
fn a_volume_that_is_being_encrypted_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = make_luks2(dir.path(), &[&["--init-only"][..], &FAST].concat());
    let why = refused(closed(&disk_of(&image), &secrets()));
    assert!(why.contains("being encrypted anew"), "{why}");
}

#[test]
fn a_cipher_that_is_not_known_is_named() {
    for (options, named) in [
        (
            ",cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=plain64",
            "cast5-cbc-plain64",
        ),
        (",cipher-mode=ecb", "aes-ecb-plain64"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("luks.img");
        let secret = format!("secret,id=s0,data={PASSPHRASE}");
        run(
            "qemu-img",
            &[
                "create",
                "-f",
                "luks",
                "--object",
                &secret,
                "-o",
                &format!("key-secret=s0,iter-time=10{options}"),
                arg(&image),
                "1M",
            ],
        );
        let why = refused(closed(&disk_of(&image), &secrets()));
        assert!(why.contains(named), "{why}");
        assert_eq!(
            super::super::header(&disk_of(&image)).unwrap().cipher,
            named
        );
    }
}

/// The key slot of a token is opened by the token; there is no passphrase to ask for.
#[test]
fn slots_of_a_tpm_or_a_tang_server_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let image = format(dir.path(), &[&["--type", "luks2"][..], &FAST].concat());
    let key = key_file(dir.path());
    for (kind, told) in [
        ("systemd-tpm2", "now only this machine's TPM opens it"),
        ("clevis", "a Tang server"),
        ("systemd-recovery", "one of its passphrases or key files"),
    ] {
        edit_json(&image, |json| {
            json["tokens"]["0"] = serde_json::json!({"type": kind, "keyslots": ["0"]});
        });
        let header = super::super::header(&disk_of(&image)).unwrap();
        assert!(header.opened_by.contains(told), "{}", header.opened_by);
    }
    // With a second slot, a person can open it.
    edit_json(&image, |json| {
        json["tokens"]["0"] = serde_json::json!({"type": "clevis", "keyslots": ["0"]});
    });
    let mut add = vec!["luksAddKey", "--batch-mode", "--key-file", arg(&key)];
    add.extend(FAST);
    add.extend([arg(&image), arg(&key)]);
    run("cryptsetup", &add);
    let header = super::super::header(&disk_of(&image)).unwrap();
    assert_eq!(header.opened_by, "one of its passphrases or key files");
}

/// What a good header would be refused for, one change at a time.
#[test]
fn what_is_not_understood_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let sound = format(dir.path(), &[&["--type", "luks2"][..], &FAST].concat());
    let image = dir.path().join("changed.img");
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change); 18] = [
        ("dm-integrity", |json| {
            json["segments"]["0"]["integrity"] =
                serde_json::json!({"type": "hmac(sha256)", "journal_encryption": "none"});
        }),
        ("hw-opal", |json| {
            json["segments"]["0"]["type"] = "hw-opal".into()
        }),
        ("2 parts", |json| {
            json["segments"]["1"] = json["segments"]["0"].clone();
        }),
        ("inline-hw-tags", |json| {
            json["config"]["requirements"] = serde_json::json!({"mandatory": ["inline-hw-tags"]});
        }),
        ("aes-hctr2-plain64", |json| {
            json["segments"]["0"]["encryption"] = "aes-hctr2-plain64".into();
        }),
        ("cipher_null-ecb", |json| {
            json["segments"]["0"]["encryption"] = "cipher_null-ecb".into();
        }),
        ("sectors of 8192", |json| {
            json["segments"]["0"]["sector_size"] = 8192.into()
        }),
        ("begin at byte 4096", |json| {
            json["segments"]["0"]["offset"] = "4096".into()
        }),
        ("does not fit", |json| {
            json["segments"]["0"]["size"] = "18446744073709551104".into();
        }),
        ("a number that is none", |json| {
            json["segments"]["0"]["offset"] = "-1".into()
        }),
        ("no digest", |json| {
            json["digests"]["0"]["segments"] = serde_json::json!([])
        }),
        ("checked by sha3", |json| {
            json["digests"]["0"]["type"] = "sha3".into()
        }),
        ("reencrypt", |json| {
            json["keyslots"]["0"]["type"] = "reencrypt".into()
        }),
        ("uses scrypt", |json| {
            json["keyslots"]["0"]["kdf"]["type"] = "scrypt".into()
        }),
        ("hash whirlpool", |json| {
            json["keyslots"]["0"]["kdf"]["hash"] = "whirlpool".into();
        }),
        ("sizes of key slot 0", |json| {
            json["keyslots"]["0"]["af"]["stripes"] = 4_000_000_000_u64.into();
        }),
        ("more rounds", |json| {
            json["keyslots"]["0"]["kdf"]["iterations"] = u32::MAX.into();
        }),
        ("JSON is not understood", |json| {
            json["keyslots"] = "none".into()
        }),
    ];
    for (told, change) in cases {
        fs::copy(&sound, &image).unwrap();
        edit_json(&image, change);
        let why = refused(closed(&disk_of(&image), &secrets()));
        assert!(why.contains(told), "{told}: {why}");
    }
}

/// A memory of Argon2 beyond all bounds is refused before it is taken.
#[test]
fn a_slot_that_wants_all_memory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = format(dir.path(), &[&["--type", "luks2"][..], &FAST].concat());
    edit_json(&image, |json| {
        let salt = json["keyslots"]["0"]["kdf"]["salt"].clone();
        json["keyslots"]["0"]["kdf"] = serde_json::json!({
            "type": "argon2id", "salt": salt, "time": 4, "memory": 1_u32 << 31, "cpus": 4,
        });
    });
    let why = refused(closed(&disk_of(&image), &secrets()));
    assert!(why.contains("2097152 MiB of memory"), "{why}");
}

/// The newer copy of the header counts, and either is enough.
#[test]
fn either_copy_of_the_header_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let image = format(dir.path(), &[&["--type", "luks2"][..], &FAST].concat());
    let header = || super::super::header(&disk_of(&image));
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    let sound = header().unwrap();
    let bytes = fs::read(&image).unwrap();
    let spoil = |at: u64| {
        let old = bytes[usize::try_from(at).unwrap()];
        file.write_all_at(&[old ^ 1], at).unwrap();
    };
    let mend = || file.write_all_at(&bytes[..0x8000], 0).unwrap();
    // A byte of the JSON, of a checksum, of the size.
    for at in [0x1010, 0x1C0, 0x0D] {
        spoil(at);
        assert_eq!(header().unwrap(), sound, "the first copy, byte {at:#x}");
        opened(&disk_of(&image), &secrets());
        mend();
        spoil(0x4000 + at);
        assert_eq!(header().unwrap(), sound, "the second copy, byte {at:#x}");
        spoil(at);
        let why = refused(closed(&disk_of(&image), &secrets()));
        assert!(why.contains("its LUKS2 header"), "{why}");
        mend();
    }
    // The second one alone was written last.
    write_copy(&image, 0x4000, 99, |json| {
        json["segments"]["0"]["encryption"] = "newer-xts-plain64".into();
    });
    assert_eq!(header().unwrap().cipher, "newer-xts-plain64");
    write_copy(&image, 0x4000, 1, |_| {});
    assert_eq!(header().unwrap(), sound);
}

/// Changes the metadata of both copies.
fn edit_json(image: &Path, change: impl Fn(&mut serde_json::Value)) {
    for at in [0, 0x4000] {
        write_copy(image, at, 50, &change);
    }
}

/// Writes a copy of the header anew, with a right checksum.
fn write_copy(image: &Path, at: u64, seqid: u64, change: impl Fn(&mut serde_json::Value)) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .unwrap();
    let mut copy = vec![0; 0x4000];
    file.read_exact_at(&mut copy, at).unwrap();
    let end = copy[0x1000..].iter().position(|&byte| byte == 0).unwrap() + 0x1000;
    let mut json = serde_json::from_slice(&copy[0x1000..end]).unwrap();
    change(&mut json);
    let text = serde_json::to_vec(&json).unwrap();
    copy[0x1000..].fill(0);
    copy[0x1000..0x1000 + text.len()].copy_from_slice(&text);
    copy[0x10..0x18].copy_from_slice(&seqid.to_be_bytes());
    copy[0x1C0..0x200].fill(0);
    let checksum = Sha256::digest(&copy);
    copy[0x1C0..0x1E0].copy_from_slice(&checksum);
    file.write_all_at(&copy, at).unwrap();
}

/// A slot that holds another key than the volume's opens nothing.
#[test]
fn an_unbound_slot_is_not_tried() {
    let dir = tempfile::tempdir().unwrap();
    let image = format(dir.path(), &[&["--type", "luks2"][..], &FAST].concat());
    let other = dir.path().join("other");
    fs::write(&other, "unbound").unwrap();
    let mut add = vec![
        "luksAddKey",
        "--batch-mode",
        "--unbound",
        "--key-size",
        "512",
        "--key-slot",
        "3",
    ];
    add.extend(FAST);
    add.extend([arg(&image), arg(&other)]);
    run("cryptsetup", &add);
    let disk = disk_of(&image);
    let unbound = Secrets::from_passphrase("unbound");
    assert!(matches!(closed(&disk, &unbound), Locked::WrongSecret));
    opened(&disk, &secrets());
}
