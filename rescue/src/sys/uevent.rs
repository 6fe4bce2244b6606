//! The kernel's announcements of devices that come and go.
//!
//! A message is `ACTION@DEVPATH`, then `KEY=VALUE` strings, each ended by a zero byte. Source: Linux kernel,
//! lib/kobject_uevent.c.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
    },
};

/// The kernel's own messages; group 2 would be those of udev.
const KERNEL_GROUP: u32 = 1;
/// Room for the burst of a controller with dozens of disks.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel's buffer for one message is 2 KiB; more is never sent.
const MAX_MESSAGE: usize = 16 << 10;

/// One announcement. Strings are raw: escape before showing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `add`, `remove`, `change`, `bind`, `move` ….
    pub action: String,
    /// The device's folder below `/sys`, `/devices/pci0000:00/…`.
    pub device: String,
    /// `block`, `usb`, `pci` ….
    pub subsystem: String,
    /// What to load drivers by.
    pub modalias: Option<String>,
    /// The device node's name below `/dev`, `sda1`.
    pub node: Option<String>,
    /// `disk` or `partition`, for block devices.
    pub kind: Option<String>,
}

impl Event {
    /// Reads one message; `None` when it is not one of the kernel's.
    #[must_use]
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut strings = message.split(|b| *b == 0).map(String::from_utf8_lossy);
        let (action, device) = strings.next()?.split_once('@').map(|(a, d)| (a.to_owned(), d.to_owned()))?;
        let mut event = Self { action, device, ..Self::default() };
        for string in strings {
            let Some((key, value)) = string.split_once('=') else { continue };
            match key {
                "SUBSYSTEM" => value.clone_into(&mut event.subsystem),
                "MODALIAS" => event.modalias = Some(value.to_owned()),
                "DEVNAME" => event.node = Some(value.to_owned()),
                "DEVTYPE" => event.kind = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(event)
    }

    /// Tells whether a disk or partition came, went or changed.
    #[must_use]
    pub fn is_block(&self) -> bool {
        self.subsystem == "block"
    }
}

/// What [`Listener::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An announcement.
    Event(Event),
    /// Nothing within the time.
    Silence,
    /// More came than the socket holds: some are lost, so look at all devices again.
    Lost,
}

/// An open socket on which announcements arrive, from its opening on.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Opens the socket. Look at the devices that are there already only after it: then none is missed.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkKObjectUEvent)?;
        // Without the right to force it the default buffer has to do; a full one is noticed.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self(fd))
    }

    /// Waits up to `limit` for the next announcement.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn next(&self, limit: Duration) -> io::Result<Heard> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Heard::Silence),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut message = vec![0; MAX_MESSAGE];
        match recv(self.0.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => Ok(message.get(..len).and_then(Event::parse).map_or(Heard::Silence, Heard::Event)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Heard::Silence),
            Err(Errno::ENOBUFS) => Ok(Heard::Lost),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_becomes_its_fields() {
        let message = b"add@/devices/pci0/sda\0ACTION=add\0DEVPATH=/devices/pci0/sda\0SUBSYSTEM=block\0\
            MODALIAS=scsi:t-0x00\0DEVNAME=sda\0DEVTYPE=disk\0SEQNUM=12\0";
        let event = Event::parse(message).unwrap();
        assert_eq!((event.action.as_str(), event.device.as_str()), ("add", "/devices/pci0/sda"));
        assert!(event.is_block());
        assert_eq!(event.modalias.as_deref(), Some("scsi:t-0x00"));
        assert_eq!((event.node.as_deref(), event.kind.as_deref()), (Some("sda"), Some("disk")));
        assert_eq!(Event::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(Event::parse(b""), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_message_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Event::parse(&bytes);
        }
    }
}
