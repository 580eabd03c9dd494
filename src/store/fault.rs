//! What is wrong with a capture: in which file, and where on the disk that it is an image of.

use crate::extent::Extent;
use serde::Serialize;
use std::fmt;

/// After so many only the number is kept: a stick that lost half its blocks needs no more proof.
const FAULTS_KEPT: usize = 1000;

/// One thing that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The bytes of the disk that it concerns, if it is the image of one.
    pub disk_range: Option<Extent>,
    /// The bytes of the file.
    pub file_range: Option<Extent>,
    /// What is wrong.
    pub what: String,
}

impl Fault {
    /// A fault of a whole file.
    pub fn new(file: &str, what: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            disk_range: None,
            file_range: None,
            what: what.into(),
        }
    }

    /// Says which bytes of the disk it concerns.
    #[must_use]
    pub fn on_disk(mut self, range: Option<Extent>) -> Self {
        self.disk_range = range;
        self
    }

    /// Says where in the file it is.
    #[must_use]
    pub fn in_file(mut self, range: Option<Extent>) -> Self {
        self.file_range = range;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)?;
        let mut before = " (";
        for (range, of) in [(self.disk_range, "disk"), (self.file_range, "file")] {
            if let Some(range) = range {
                write!(
                    f,
                    "{before}bytes {} to {} of the {of}",
                    range.start(),
                    range.end()
                )?;
                before = ", ";
            }
        }
        if before == ", " {
            write!(f, ")")?;
        }
        Ok(())
    }
}

/// Faults in the order in which they were found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Faults {
    /// The first ones.
    pub list: Vec<Fault>,
    /// How many there are besides.
    pub more: u64,
}

impl Faults {
    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        if self.list.len() < FAULTS_KEPT {
            self.list.push(fault);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Adds those of another part.
    pub fn append(&mut self, other: Self) {
        for fault in other.list {
            self.push(fault);
        }
        self.more = self.more.saturating_add(other.more);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
