//! The same lock and the same programs give the same image, whatever else differs: user's mask,
//! time zone, language, folders, and packages unpacked anew.
//!
//! A test program of its own, because those things belong to a process: it runs itself once for
//! each build.

use haulier_image::packages::Lock;
use haulier_image::programs::Programs;
use haulier_image::{Inputs, build, cache_dir, lock_path};
use std::fs;
use std::path::Path;
use std::process::Command;

const WORD: &str = "--build-image-at";

fn main() {
    let arguments: Vec<_> = std::env::args_os().collect();
    if let [_, word, out] = arguments.as_slice()
        && word == WORD
    {
        return build_at(Path::new(out));
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let own = std::env::current_exe().unwrap();

    let first = Command::new(&own)
        .arg(WORD)
        .arg(at("first.img"))
        .status()
        .unwrap();
    assert!(first.success());

    // The downloads are shared, so that the mirror is not asked twice; the rest is made anew.
    fs::create_dir(at("cache")).unwrap();
    std::os::unix::fs::symlink(cache_dir().unwrap().join("debs"), at("cache/debs")).unwrap();
    fs::create_dir(at("tmp")).unwrap();
    fs::create_dir(at("elsewhere")).unwrap();
    let second = Command::new("sh")
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(&own)
        .arg(WORD)
        .arg(at("elsewhere/second.img"))
        .current_dir(at("elsewhere"))
        .env("HAULIER_CACHE", at("cache"))
        .env("TMPDIR", at("tmp"))
        .env("TZ", "Asia/Kathmandu")
        .env("LC_ALL", "C.UTF-8")
        .status()
        .unwrap();
    assert!(second.success());

    let (first, second) = (
        fs::read(at("first.img")).unwrap(),
        fs::read(at("elsewhere/second.img")).unwrap(),
    );
    assert_eq!(first.len(), second.len());
    let differs = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!(differs, None, "the first byte that differs");
    println!("both builds gave the same {} bytes", first.len());
}

fn build_at(out: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let stand_in = folder.path().join("program");
    fs::write(&stand_in, "the same program").unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    build(&Inputs {
        programs: Programs {
            haulier: stand_in.clone(),
            init: stand_in,
        },
        lock: Lock::read(&lock_path(workspace)).unwrap(),
        out: out.to_path_buf(),
    })
    .unwrap();
}
