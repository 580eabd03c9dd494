//! Why a structure on a disk is not trusted. Nobody fails because of one: what it would have told
//! is copied instead, and the person is told the reason.

#![forbid(unsafe_code)]

use crate::error::{Error, Kind};

/// Why a reader gives no answer. Each text is a clause that says what was seen and, where it
/// helps, what the technician can do, in brackets: "its log holds writes that have not reached
/// their places (boot the server once and power it off properly for a smaller copy)".
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Not shut down properly.
    Dirty(String),
    /// Contradicts itself.
    Damaged(String),
    /// A feature that we do not know.
    Unsupported(String),
    /// Could not be read.
    Unreadable(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.kind() {
            Kind::Corrupt => Self::Damaged(error.to_string()),
            Kind::Unsupported => Self::Unsupported(error.to_string()),
            _ => Self::Unreadable(error),
        }
    }
}

impl Refusal {
    /// Another refusal of the same kind. One that could not be read stays so in words only.
    pub(crate) fn same_kind(&self, why: String) -> Self {
        match self {
            Self::Dirty(_) => Self::Dirty(why),
            Self::Damaged(_) => Self::Damaged(why),
            Self::Unsupported(_) => Self::Unsupported(why),
            Self::Unreadable(error) => Self::Unreadable(Error::new(error.kind(), why)),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dirty(why) | Self::Damaged(why) | Self::Unsupported(why) => f.write_str(why),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}
