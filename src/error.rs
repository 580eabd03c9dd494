//! The one error of the library: what was being done, on which device, at which byte, and why it
//! failed. `anyhow` appears only at the edge (`cli`, `main`).

use std::fmt;

/// What sort of failure it is: decides the exit code and whether a caller may degrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The operating system said no: see the source.
    Io,
    /// The bytes contradict their format.
    Corrupt,
    /// The bytes are right, we do not handle what they say.
    Unsupported,
    /// Refused before anything was written (no space, source in use, ambiguous stick).
    Refused,
    /// The destination is full.
    NoSpace,
    /// A device that was there is gone.
    Vanished,
    /// A digest does not match: what is stored is not what was read.
    Mismatch,
}

/// `Result` with the library's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// See the module: built as a sentence, `Error::new(kind, "reading the superblock").on(dev).at(1024)`.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    doing: String,
    device: Option<String>,
    offset: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    advice: Option<String>,
}

impl Error {
    /// `doing` is a lower-case phrase that reads as a trace: "reading the backup GPT header".
    pub fn new(kind: Kind, doing: impl Into<String>) -> Self {
        Self {
            kind,
            doing: doing.into(),
            device: None,
            offset: None,
            source: None,
            advice: None,
        }
    }

    /// An operating system error met while `doing`.
    pub fn io(doing: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => Kind::NoSpace,
            Some(code)
                if code == rustix::io::Errno::NODEV.raw_os_error()
                    || code == rustix::io::Errno::NXIO.raw_os_error() =>
            {
                Kind::Vanished
            }
            _ => Kind::Io,
        };
        Self::new(kind, doing).because(source)
    }

    /// Corrupt data: `fact` is one checked contradiction with its numbers.
    pub fn corrupt(fact: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, fact)
    }

    /// Refused before anything was written.
    pub fn refused(why: impl Into<String>) -> Self {
        Self::new(Kind::Refused, why)
    }

    /// Names the device or file as people know it (path, model, serial).
    #[must_use]
    pub fn on(mut self, device: impl Into<String>) -> Self {
        self.device.get_or_insert(device.into());
        self
    }

    /// The byte on the device at which it happened.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset.get_or_insert(offset);
        self
    }

    /// The cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What the technician should do now.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Changes the kind, for a caller that knows better (a read error of a device that is gone).
    #[must_use]
    pub fn into_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The byte on the device at which it happened, if known.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.doing)?;
        if let Some(device) = &self.device {
            write!(f, " on {device}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        let mut cause: Option<&dyn std::error::Error> = self
            .source
            .as_deref()
            .map(|source| source as &dyn std::error::Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            // Our own errors print their chain themselves.
            cause = if error.is::<Error>() {
                None
            } else {
                error.source()
            };
        }
        if let Some(advice) = &self.advice {
            write!(f, ". {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_sentence() {
        let error = Error::io(
            "reading the superblock",
            std::io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
        )
        .on("/dev/sda2 (model X, serial 7)")
        .at(1024)
        .advise("Check the cable");
        assert_eq!(
            error.to_string(),
            "reading the superblock on /dev/sda2 (model X, serial 7) at byte 1024: \
             Input/output error (os error 5). Check the cable"
        );
        assert_eq!(error.kind(), Kind::Io);
    }

    #[test]
    fn a_full_disk_and_a_vanished_one_have_their_own_kind() {
        assert_eq!(
            Error::io("writing", rustix::io::Errno::NOSPC).kind(),
            Kind::NoSpace
        );
        assert_eq!(
            Error::io("reading", rustix::io::Errno::NODEV).kind(),
            Kind::Vanished
        );
    }
}
