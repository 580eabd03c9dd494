//! `report.html` of a capture: what it says, and that nothing in it can break out of the page. The
//! page is held against `xmllint`'s HTML parser.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A disk with an ext4 of that label all over it.
fn disk(folder: &Path, label: &str) -> PathBuf {
    let disk = folder.join("disk.img");
    File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let path = disk.to_str().unwrap();
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", label, path]);
    disk
}

fn page_of(disk: &Path, extra: &[&str]) -> PathBuf {
    let store = disk.with_file_name("store");
    fs::create_dir(&store).unwrap();
    let mut args = vec!["capture", "--name", "db-01", "--disk"];
    args.extend([disk.to_str().unwrap(), "--to", store.to_str().unwrap()]);
    args.extend(extra);
    let out = run(env!("CARGO_BIN_EXE_haulier"), &args);
    Path::new(out.lines().last().unwrap()).join("report.html")
}

/// What a browser would show.
fn text(page: &Path, xpath: &str) -> String {
    run(
        "xmllint",
        &[
            "--html",
            "--nowarning",
            "--xpath",
            &format!("string({xpath})"),
            page.to_str().unwrap(),
        ],
    )
}

#[test]
fn the_page_says_what_was_taken_and_that_it_was_compared() {
    let folder = tempfile::tempdir().unwrap();
    let page = page_of(&disk(folder.path(), "root"), &[]);
    let verdict = text(&page, "//div[contains(@class,'verdict')]");
    assert!(
        verdict.starts_with("Complete. Every byte was read back"),
        "{verdict}"
    );
    let disk = text(&page, "//body");
    assert!(
        disk.contains("67108864 bytes") && disk.contains("“root”"),
        "{disk}"
    );
    // The manifest and the page agree on the image's digest.
    let manifest = fs::read(page.with_file_name("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["disks"][0]["sha256"].as_str().unwrap();
    assert!(disk.contains(digest), "{disk}");
    let files = manifest["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "report.html"));
}

#[test]
fn a_capture_that_was_not_read_back_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let page = page_of(&disk(folder.path(), "root"), &["--no-verify"]);
    let verdict = text(&page, "//div[contains(@class,'verdict')]");
    assert!(verdict.contains("not read back"), "{verdict}");
}

#[test]
fn a_label_that_is_html_stays_a_label_and_nothing_is_loaded_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = disk(folder.path(), "");
    let label = b"<img src=x>&\"'\0\0\0\0";
    // s_volume_name, without the checksum that old filesystems do not have either.
    run("tune2fs", &["-O", "^metadata_csum", path.to_str().unwrap()]);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(label, 1024 + 0x78).unwrap();
    let page = page_of(&path, &[]);
    let loaded = text(
        &page,
        "count(//img | //script | //link | //iframe | //@src)",
    );
    assert_eq!(loaded.trim(), "0");
    assert!(text(&page, "//body").contains("<img src=x>&"));
    let html = fs::read_to_string(&page).unwrap();
    assert!(!html.contains("http"), "something is loaded from elsewhere");
}
