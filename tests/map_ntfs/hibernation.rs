//! Windows that is not off: hibernated, or "shut down" with Fast Startup.

use super::raw::{Sound, assert_all_taken, assert_clean};
use haulier::usedmap::State;

fn with(path: &str, head: &[u8]) -> Sound {
    let sound = Sound::new();
    let mut bytes = head.to_vec();
    bytes.resize(64 << 10, 0);
    sound.write_files(&[(path, bytes)]);
    sound
}

#[test]
fn a_hibernated_windows_says_what_to_do() {
    for (path, head) in [
        ("hiberfil.sys", b"hibr"),
        ("hiberfil.sys", b"HIBR"),
        ("Hiberfil.Sys", b"RSTR"),
    ] {
        let sound = with(path, head);
        let words = "Windows is hibernated or Fast Startup is on (boot Windows once and run \
                     shutdown /s /t 0 for a smaller copy)";
        assert_all_taken(&sound.image, State::Dirty, words);
        assert_all_taken(&sound.image, State::Dirty, "instead of about");
    }
}

#[test]
fn a_windows_that_woke_up_or_was_shut_down_is_off() {
    assert_clean(&with("hiberfil.sys", b"wake").image);
    assert_clean(&with("hiberfil.sys", b"WAKE").image);
    assert_clean(&with("hiberfil.sys", b"").image);
}

#[test]
fn only_the_file_in_the_root_directory_counts() {
    assert_clean(&with("old/hiberfil.sys", b"HIBR").image);
    assert_clean(&with("hiberfil.sys.bak", b"HIBR").image);
}
