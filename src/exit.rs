//! The exit codes, in one place. They are a contract: scripts and fleets depend on them.

use crate::error::{Error, Kind};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Done, but with damage that the report names (bad sectors).
    Damage = 3,
    /// Refused before anything was written (no space, source in use, dirty).
    Refused = 4,
}

impl Exit {
    /// The exit code that an error ends with.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Refused => Self::Refused,
            Kind::Io
            | Kind::Corrupt
            | Kind::Unsupported
            | Kind::NoSpace
            | Kind::Vanished
            | Kind::Mismatch => Self::Failed,
        }
    }

    /// The number given to the operating system.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Damage => 3,
            Self::Refused => 4,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
