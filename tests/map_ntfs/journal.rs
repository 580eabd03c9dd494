//! The journal: at rest or not. mkntfs and ntfs-3g leave an empty one, so the restart pages that
//! Windows writes are written here by hand.

use super::raw::{Sound, assert_all_taken, assert_clean, protect};
use haulier::usedmap::State;

/// A restart page of 4 KiB.
#[derive(Clone, Copy)]
struct Page {
    magic: &'static [u8; 4],
    lsn: u64,
    version: (u16, u16),
    client_in_use: u16,
    flags: u16,
}

const AT_REST: Page = Page {
    magic: b"RSTR",
    lsn: 1000,
    version: (1, 1),
    client_in_use: 0,
    flags: 2,
};

impl Page {
    fn bytes(self) -> Vec<u8> {
        let mut page = vec![0; 4096];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, self.magic);
        put(0x04, &0x1E_u16.to_le_bytes());
        put(0x06, &9_u16.to_le_bytes());
        put(0x10, &4096_u32.to_le_bytes());
        put(0x14, &4096_u32.to_le_bytes());
        put(0x18, &0x30_u16.to_le_bytes());
        put(0x1A, &self.version.1.to_le_bytes());
        put(0x1C, &self.version.0.to_le_bytes());
        put(0x1E, &7_u16.to_le_bytes());
        let lsn_at = if self.magic == b"CHKD" { 0x08 } else { 0x30 };
        put(lsn_at, &self.lsn.to_le_bytes());
        put(0x38, &1_u16.to_le_bytes());
        put(0x3A, &0xFFFF_u16.to_le_bytes());
        put(0x3C, &self.client_in_use.to_le_bytes());
        put(0x3E, &self.flags.to_le_bytes());
        protect(&mut page);
        page
    }
}

/// A volume whose journal begins with these pages.
fn with(pages: &[Page]) -> Sound {
    let sound = Sound::new();
    let journal = sound.data_of("/$LogFile");
    for (page, at) in pages.iter().zip((journal..).step_by(4096)) {
        sound.write(at, &page.bytes());
    }
    sound
}

const RUNNING: Page = Page {
    flags: 0,
    ..AT_REST
};

#[test]
fn an_empty_journal_is_at_rest() {
    assert_clean(&Sound::new().image);
}

#[test]
fn a_journal_that_windows_closed_is_at_rest() {
    assert_clean(&with(&[AT_REST, AT_REST]).image);
    // Nobody has it open: the flag does not matter.
    let closed = Page {
        client_in_use: 0xFFFF,
        ..RUNNING
    };
    assert_clean(&with(&[closed, closed]).image);
    let checked = Page {
        magic: b"CHKD",
        client_in_use: 0xFFFF,
        ..RUNNING
    };
    assert_clean(&with(&[checked, checked]).image);
}

#[test]
fn the_newer_of_the_two_pages_counts() {
    let newer = |page: Page| Page { lsn: 2000, ..page };
    assert_clean(&with(&[RUNNING, newer(AT_REST)]).image);
    assert_clean(&with(&[newer(AT_REST), RUNNING]).image);
    let words = "its journal holds changes that have not reached their places";
    for pages in [[AT_REST, newer(RUNNING)], [newer(RUNNING), AT_REST]] {
        assert_all_taken(&with(&pages).image, State::Dirty, words);
    }
}

#[test]
fn a_journal_in_use_is_dirty_and_says_what_to_do() {
    let sound = with(&[RUNNING, RUNNING]);
    assert_all_taken(&sound.image, State::Dirty, "shutdown /s /t 0");
    assert_all_taken(&sound.image, State::Dirty, "up to 16.7 MB instead of about");
}

#[test]
fn a_torn_page_does_not_count() {
    let sound = with(&[
        AT_REST,
        Page {
            lsn: 2000,
            ..RUNNING
        },
    ]);
    let second = sound.data_of("/$LogFile") + 4096;
    sound.write(second + 510, &[9]);
    assert_clean(&sound.image);
    sound.write(second - 4096 + 510, &[9]);
    assert_all_taken(&sound.image, State::Dirty, "no restart page");
}

#[test]
fn version_2_means_that_windows_holds_parts_in_memory() {
    let page = Page {
        version: (2, 0),
        ..AT_REST
    };
    assert_all_taken(&with(&[page, page]).image, State::Dirty, "Fast Startup");
}

#[test]
fn an_unknown_version_is_refused() {
    let page = Page {
        version: (3, 0),
        ..AT_REST
    };
    let sound = with(&[page, page]);
    assert_all_taken(&sound.image, State::Unsupported, "a journal of version 3.0");
}
