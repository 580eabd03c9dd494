//! The kernel's device events, straight from its netlink socket.
//!
//! Format: `lib/kobject_uevent.c`: `ACTION@DEVPATH`, then `KEY=VALUE`s, each ended by a zero byte.

use anyhow::{Context, Result};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with, sockopt,
};
use std::collections::HashMap;

/// The kernel's messages; udev daemons, of which there are none here, would be group 2.
const KERNEL_GROUP: u32 = 1;
/// UEVENT_BUFFER_SIZE is 2 KiB.
const LONGEST: usize = 8192;
/// A server with hundreds of disks sends thousands of events at once.
const BACKLOG: usize = 16 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Uevent {
    /// `add`, `remove`, `change`, `bind`, …
    pub(crate) action: String,
    variables: HashMap<String, String>,
}

impl Uevent {
    /// `None` for what is no event of the kernel's.
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        let mut parts = message.split(|byte| *byte == 0);
        let header = std::str::from_utf8(parts.next()?).ok()?;
        let (action, path) = header.split_once('@')?;
        if action.is_empty() || !path.starts_with('/') {
            return None;
        }
        let variables = parts
            .filter_map(|part| std::str::from_utf8(part).ok()?.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Some(Self {
            action: action.to_owned(),
            variables,
        })
    }

    /// A variable's value.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.variables.get(key).map(String::as_str)
    }

    /// The name in `/sys/block` of the whole disk that this event brings, or whose medium it
    /// brings. Other changes of a disk do not count: a repartitioned stick sends them too.
    pub(crate) fn new_disk(&self) -> Option<String> {
        let is_new = match self.action.as_str() {
            "add" => true,
            "change" => self.get("DISK_MEDIA_CHANGE") == Some("1"),
            _ => false,
        };
        let is_disk = self.get("SUBSYSTEM") == Some("block") && self.get("DEVTYPE") == Some("disk");
        let name = self.get("DEVPATH")?.rsplit('/').next()?;
        (is_new && is_disk && !name.is_empty()).then(|| name.to_owned())
    }

    /// The name by which a new device asks for its driver.
    pub(crate) fn wanted_module(&self) -> Option<&str> {
        self.get("MODALIAS").filter(|_| self.action == "add")
    }
}

/// What came out of the socket.
#[derive(Debug)]
pub(crate) enum Received {
    /// An event.
    Event(Uevent),
    /// More came than the backlog holds: look at everything anew.
    Lost,
    /// Not for us.
    Nothing,
}

/// The socket; open it before looking at what is there already, so that nothing falls between.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    pub(crate) fn open() -> Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::KOBJECT_UEVENT),
        )
        .context("opening the netlink socket")?;
        sockopt::set_socket_recv_buffer_size_force(&socket, BACKLOG)
            .context("enlarging its backlog")?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_GROUP)).context("binding it")?;
        Ok(Self(socket))
    }

    /// Waits for the next event.
    pub(crate) fn receive(&self) -> Result<Received> {
        let mut buffer = [0; LONGEST];
        match recv(&self.0, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) => Ok(buffer
                .get(..length)
                .and_then(Uevent::parse)
                .map_or(Received::Nothing, Received::Event)),
            Err(Errno::NOBUFS) => Ok(Received::Lost),
            Err(Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error).context("receiving a device event"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: &[u8] =
        b"add@/devices/pci0000:00/0000:00:04.0/usb1/1-1/host2/block/sdb\0ACTION=add\0\
        DEVPATH=/devices/pci0000:00/0000:00:04.0/usb1/1-1/host2/block/sdb\0SUBSYSTEM=block\0\
        MAJOR=8\0MINOR=16\0DEVNAME=sdb\0DEVTYPE=disk\0DISKSEQ=9\0SEQNUM=1234\0";

    fn event(text: &str) -> Uevent {
        Uevent::parse(text.replace(' ', "\0").as_bytes()).unwrap()
    }

    #[test]
    fn a_new_disk_is_known() {
        let event = Uevent::parse(DISK).unwrap();
        assert_eq!(event.action, "add");
        assert_eq!(event.get("DISKSEQ"), Some("9"));
        assert_eq!(event.new_disk().as_deref(), Some("sdb"));
        assert_eq!(event.wanted_module(), None);
    }

    #[test]
    fn partitions_removals_and_mere_changes_bring_no_disk() {
        for text in [
            "add@/block/sdb/sdb1 DEVPATH=/block/sdb/sdb1 SUBSYSTEM=block DEVTYPE=partition",
            "remove@/block/sdb DEVPATH=/block/sdb SUBSYSTEM=block DEVTYPE=disk",
            "change@/block/sdb DEVPATH=/block/sdb SUBSYSTEM=block DEVTYPE=disk",
            "add@/class/bdi/8:16 DEVPATH=/class/bdi/8:16 SUBSYSTEM=bdi",
        ] {
            assert_eq!(event(text).new_disk(), None, "{text}");
        }
    }

    #[test]
    fn a_card_put_into_a_reader_brings_a_disk() {
        let text = "change@/block/sdb DEVPATH=/block/sdb SUBSYSTEM=block DEVTYPE=disk \
                    DISK_MEDIA_CHANGE=1";
        assert_eq!(event(text).new_disk().as_deref(), Some("sdb"));
    }

    #[test]
    fn a_new_device_asks_for_its_driver() {
        let text = "add@/devices/x MODALIAS=pci:v00008086d00002922";
        assert_eq!(event(text).wanted_module(), Some("pci:v00008086d00002922"));
        assert_eq!(event(&text.replace("add@", "bind@")).wanted_module(), None);
    }

    #[test]
    fn what_is_no_event_is_none() {
        for message in [
            &b""[..],
            b"libudev\0\xfe\xed\xca\xfe",
            b"@/x\0",
            b"add@x\0",
            b"\xff@/x",
        ] {
            assert_eq!(Uevent::parse(message), None, "{message:?}");
        }
        // Values that are not UTF-8 are left out.
        assert_eq!(
            Uevent::parse(b"add@/x\0A=\xff\0=\0B=1").unwrap().get("B"),
            Some("1")
        );
    }
}
