//! A capture from disk to store through the real program, held against `qemu-img`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MIB: u64 = 1 << 20;

/// Runs a program and gives its output; a missing program is a failure that names it.
fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

fn run_ok(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn haulier(args: &[&str]) -> (i32, String, String) {
    let output = run(env!("CARGO_BIN_EXE_haulier"), args);
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Bytes that do not compress and differ by seed (splitmix64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bytes.extend((z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A 192 MiB GPT disk: a BIOS boot partition, an ext4 filesystem with files whose free space is
/// full of noise, and noise in the gap before the first partition.
fn server_disk(dir: &Path) -> PathBuf {
    let disk = dir.join("server.img");
    let file = fs::File::create(&disk).unwrap();
    file.set_len(192 * MIB).unwrap();
    let mut sfdisk = Command::new("/sbin/sfdisk")
        .args(["--quiet", disk.to_str().unwrap()])
        .stdin(Stdio::piped())
        .spawn()
        .expect("sfdisk is needed for this test");
    sfdisk
        .stdin
        .take()
        .unwrap()
        .write_all(
            b"label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\n\
              start=8192, size=327680, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n",
        )
        .unwrap();
    assert!(sfdisk.wait().unwrap().success());
    file.write_all_at(&noise(1, 4096), 40 * 512).unwrap();
    file.write_all_at(&noise(2, 300_000), 2048 * 512).unwrap();
    for block in 0..160 {
        file.write_all_at(&noise(100 + block, MIB as usize), 8192 * 512 + block * MIB)
            .unwrap();
    }
    drop(file);

    let files = dir.join("files");
    fs::create_dir_all(files.join("srv/data")).unwrap();
    for n in 0..40_u64 {
        let len = (n * n * 977 % 900_000) as usize;
        let content = if n % 2 == 0 {
            noise(n, len)
        } else {
            b"haulier ".repeat(len / 8)
        };
        fs::write(files.join(format!("srv/data/{n}")), content).unwrap();
    }
    run_ok(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            "ext4",
            "-E",
            "offset=4194304,nodiscard",
            "-d",
            files.to_str().unwrap(),
            disk.to_str().unwrap(),
            "160M",
        ],
    );
    disk
}

fn sha256(path: &Path) -> String {
    run_ok("sha256sum", &[path.to_str().unwrap()])[..64].to_owned()
}

struct Capture {
    _dir: tempfile::TempDir,
    disk: PathBuf,
    store: PathBuf,
    /// The finished capture.
    path: PathBuf,
}

fn capture(extra: &[&str]) -> Capture {
    let dir = tempfile::tempdir().unwrap();
    let disk = server_disk(dir.path());
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let mut args = vec![
        "capture",
        "--disk",
        disk.to_str().unwrap(),
        "--to",
        store.to_str().unwrap(),
    ];
    args.extend(["--name", "db-01"]);
    args.extend(extra);
    let (code, out, err) = haulier(&args);
    assert_eq!(code, 0, "{out}{err}");
    let path = PathBuf::from(out.lines().last().unwrap());
    let image = path.join("disk-0.qcow2");
    run_ok(
        "qemu-img",
        &["check", "-f", "qcow2", image.to_str().unwrap()],
    );
    Capture {
        _dir: dir,
        disk,
        store,
        path,
    }
}

/// The disk as the image must show it: bytes outside the map are zero.
fn masked(disk: &Path, to: &Path) -> u64 {
    let (code, out, err) = haulier(&["map", disk.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0, "{err}");
    let map: serde_json::Value = serde_json::from_str(&out).unwrap();
    let source = fs::File::open(disk).unwrap();
    let target = fs::File::create(to).unwrap();
    target.set_len(source.metadata().unwrap().len()).unwrap();
    for extent in map["extents"].as_array().unwrap() {
        let start = extent["start_byte"].as_u64().unwrap();
        let mut bytes = vec![0; extent["length_bytes"].as_u64().unwrap() as usize];
        source.read_exact_at(&mut bytes, start).unwrap();
        target.write_all_at(&bytes, start).unwrap();
    }
    map["used_bytes"].as_u64().unwrap()
}

fn image_is_the_masked_disk(extra: &[&str]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let capture = capture(extra);
    let image = capture.path.join("disk-0.qcow2");
    let expected = dir.path().join("masked.img");
    let used = masked(&capture.disk, &expected);
    run_ok(
        "qemu-img",
        &[
            "compare",
            "-f",
            "raw",
            "-F",
            "qcow2",
            expected.to_str().unwrap(),
            image.to_str().unwrap(),
        ],
    );
    assert!(
        used < 64 * MIB,
        "{used} bytes of a disk with 17 MB of files"
    );
    fs::metadata(&image).unwrap().len()
}

#[test]
fn the_image_holds_the_used_bytes_and_zeros_elsewhere() {
    let plain = image_is_the_masked_disk(&["--compression", "none"]);
    let zstd = image_is_the_masked_disk(&[]);
    let zlib = image_is_the_masked_disk(&["--compression", "zlib"]);
    assert!(
        zstd < plain && zlib < plain,
        "plain {plain}, zstd {zstd}, zlib {zlib}"
    );
}

#[test]
fn the_source_is_the_same_to_the_bit_and_the_capture_is_proven() {
    let dir = tempfile::tempdir().unwrap();
    let disk = server_disk(dir.path());
    let before = sha256(&disk);
    let written = fs::metadata(&disk).unwrap().modified().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let (code, out, err) = haulier(&[
        "capture",
        "--disk",
        disk.to_str().unwrap(),
        "--to",
        store.to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(sha256(&disk), before);
    assert_eq!(fs::metadata(&disk).unwrap().modified().unwrap(), written);
    let capture = out.lines().last().unwrap();
    for file in [
        "machine.json",
        "domain.xml",
        "manifest.json",
        "capture.log",
        "disk-0.qcow2",
    ] {
        assert!(Path::new(capture).join(file).is_file(), "{file}");
    }
    for target in [capture, store.to_str().unwrap()] {
        let (code, out, err) = haulier(&["verify", target]);
        assert_eq!(code, 0, "{out}{err}");
    }
}

#[test]
fn one_flipped_bit_is_found_and_named() {
    let capture = capture(&[]);
    let image = capture.path.join("disk-0.qcow2");
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    let (code, _, err) = haulier(&["verify", capture.path.to_str().unwrap()]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("disk-0.qcow2"), "{err}");
}

#[test]
fn a_capture_that_is_not_read_back_has_the_digest_of_b3sum_and_every_flipped_bit_is_found() {
    let capture = capture(&["--no-verify"]);
    let image = capture.path.join("disk-0.qcow2");
    let manifest = fs::read(capture.path.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let record = &manifest["disks"][0];
    assert_eq!(record.get("sha256"), None);
    let told = run_ok("b3sum", &["--no-names", image.to_str().unwrap()]);
    assert_eq!(record["blake3"].as_str(), Some(told.trim()));
    let sums = fs::read_to_string(capture.path.join("SHA256SUMS")).unwrap();
    assert!(sums.contains("manifest.json") && !sums.contains("disk-0"));
    let store = capture.store.to_str().unwrap();
    assert_eq!(haulier(&["verify", store]).0, 0);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&image)
        .unwrap();
    let length = file.metadata().unwrap().len();
    // Header, data, and the tables at the end.
    for at in [
        0,
        9,
        30_000,
        65_536,
        length / 2,
        length - 65_537,
        length - 1,
    ] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
        let (code, _, err) = haulier(&["verify", store]);
        assert!(
            code == 1 && err.contains("disk-0.qcow2"),
            "byte {at}: {err}"
        );
        let out = capture.store.join("imported");
        let (code, _, err) = haulier(&[
            "import",
            store,
            "--to",
            "qemu",
            "--out",
            out.to_str().unwrap(),
        ]);
        assert!(code != 0 && !out.exists(), "byte {at}: {err}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(haulier(&["verify", store]).0, 0);
}

#[test]
fn a_capture_killed_in_the_middle_is_visibly_not_whole() {
    let dir = tempfile::tempdir().unwrap();
    let disk = server_disk(dir.path());
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_haulier"))
        .args([
            "capture",
            "--name",
            "db-01",
            "--compression",
            "zlib",
            "--disk",
        ])
        .args([disk.to_str().unwrap(), "--to", store.to_str().unwrap()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Killed as soon as there is an image being written.
    let image = loop {
        let found = walk(&store)
            .into_iter()
            .find(|path| path.ends_with("disk-0.qcow2"));
        if let Some(image) = found {
            break image;
        }
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it could be killed"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(image.to_str().unwrap().contains(".partial/"), "{image:?}");
    let (code, out, _) = haulier(&["list", store.to_str().unwrap(), "--json"]);
    assert_eq!(code, 0);
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(list["captures"][0]["state"], "partial", "{out}");
    let (code, _, err) = haulier(&["verify", image.parent().unwrap().to_str().unwrap()]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("not a finished capture"), "{err}");
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_destination_that_fills_up_leaves_nothing_that_looks_whole_and_can_be_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let disk = server_disk(dir.path());
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    // A file size limit cuts the image's last write short, as a full medium does.
    let script = format!(
        "trap '' XFSZ; ulimit -f 4096; exec '{}' capture --name db-01 --disk '{}' --to '{}'",
        env!("CARGO_BIN_EXE_haulier"),
        disk.display(),
        store.display()
    );
    let output = run("bash", &["-c", &script]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("disk-0.qcow2"), "{err}");
    let left = walk(&store);
    let unfinished = |path: &PathBuf| {
        let path = path.to_str().unwrap();
        path.contains(".partial/") || path.contains(".journal/")
    };
    assert!(left.iter().all(unfinished), "{left:?}");
    let log = left
        .iter()
        .find(|path| path.ends_with("capture.log"))
        .expect("the log is kept");
    assert!(fs::read_to_string(log).unwrap().contains("error:"));
    assert!(err.contains("--resume"), "{err}");
    let (code, out, err) = haulier(&[
        "capture",
        "--name",
        "db-01",
        "--resume",
        "--disk",
        disk.to_str().unwrap(),
        "--to",
        store.to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = haulier(&["verify", out.trim()]);
    assert_eq!(code, 0, "{err}");
    assert!(!walk(&store).iter().any(unfinished));
}

#[test]
fn bad_input_is_refused_with_a_sentence_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let odd = dir.path().join("odd.img");
    fs::write(&odd, b"not a disk").unwrap();
    let cases: [(&str, i32, &str); 3] = [
        (
            odd.to_str().unwrap(),
            4,
            "not a whole number of 512-byte sectors",
        ),
        ("/nonexistent/disk", 4, "no disk"),
        ("/dev/null", 4, "neither a block device nor an image file"),
    ];
    for (disk, code, words) in cases {
        let (got, _, err) = haulier(&["capture", "--disk", disk, "--to", store.to_str().unwrap()]);
        assert_eq!(got, code, "{err}");
        assert!(err.contains(words) && err.contains(disk), "{err}");
    }
    assert_eq!(walk(&store), Vec::<PathBuf>::new());
    assert_eq!(haulier(&["capture"]).0, 2);
}

#[test]
fn a_plan_writes_nothing_and_comes_near_the_truth() {
    let capture = capture(&[]);
    let empty = tempfile::tempdir().unwrap();
    let (code, out, err) = haulier(&[
        "plan",
        "--json",
        "--disk",
        capture.disk.to_str().unwrap(),
        "--to",
        empty.path().to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(walk(empty.path()), Vec::<PathBuf>::new());
    let plan: serde_json::Value = serde_json::from_str(&out).unwrap();
    let image = fs::metadata(capture.path.join("disk-0.qcow2"))
        .unwrap()
        .len();
    let estimate = plan["disks"][0]["estimated_image_bytes"].as_u64().unwrap();
    assert!(
        estimate > image / 2 && estimate < image * 2,
        "estimated {estimate}, got {image}"
    );
    assert!(plan["worst_case_bytes"].as_u64().unwrap() > image);
    assert!(capture.store.exists());
}
