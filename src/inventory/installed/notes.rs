//! What could not be read, for the log: a gap in the inventory has a reason.

use std::cell::RefCell;

/// Notes that are kept: of a damaged disk there would be thousands.
const MOST: usize = 64;

/// The notes of one look at the disks.
#[derive(Debug, Default)]
pub(super) struct Notes(RefCell<Vec<String>>);

impl Notes {
    /// Adds one, unless it is there.
    pub(super) fn add(&self, note: String) {
        let mut notes = self.0.borrow_mut();
        if notes.len() < MOST && !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// All of them.
    pub(super) fn into_all(self) -> Vec<String> {
        self.0.into_inner()
    }
}
