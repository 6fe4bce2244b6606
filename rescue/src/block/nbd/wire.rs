//! Numbers and messages of the NBD protocol, newstyle fixed negotiation. Integers are big endian.
//!
//! ```text
//! option         | IHAVEOPT u64 | option u32 | len u32 | data |
//! option reply   | 0x3e889045565a9 u64 | option u32 | type u32 | len u32 | data |
//! request        | 0x25609513 u32 | flags u16 | type u16 | cookie u64 | offset u64 | len u32 | data of a write |
//! simple reply   | 0x67446698 u32 | error u32 | cookie u64 | data of a read |
//! structured     | 0x668e33ef u32 | flags u16 | type u16 | cookie u64 | len u32 | payload |
//! ```
//!
//! Source: the NBD protocol, `doc/proto.md` of the reference implementation.

use std::io::{self, Read, Write};

use nix::errno::Errno;

pub(super) const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the same bits from both sides: fixed newstyle, and no padding after an export's description.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

pub(super) const OPT_ABORT: u32 = 2;
pub(super) const OPT_GO: u32 = 7;
pub(super) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(super) const OPT_SET_META_CONTEXT: u32 = 10;

pub(super) const REP_ACK: u32 = 1;
pub(super) const REP_INFO: u32 = 3;
pub(super) const REP_META_CONTEXT: u32 = 4;
pub(super) const REP_ERROR: u32 = 1 << 31;

pub(super) const INFO_EXPORT: u16 = 0;
pub(super) const INFO_BLOCK_SIZE: u16 = 3;

pub(super) const FLAG_READ_ONLY: u16 = 1 << 1;
pub(super) const FLAG_SEND_FLUSH: u16 = 1 << 2;
pub(super) const FLAG_SEND_TRIM: u16 = 1 << 5;
pub(super) const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(super) const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;

pub(super) const REPLY_FLAG_DONE: u16 = 1;
pub(super) const REPLY_NONE: u16 = 0;
pub(super) const REPLY_OFFSET_DATA: u16 = 1;
pub(super) const REPLY_OFFSET_HOLE: u16 = 2;
pub(super) const REPLY_BLOCK_STATUS: u16 = 5;
/// Replies with this bit are errors, whatever else they say.
pub(super) const REPLY_ERROR: u16 = 1 << 15;

/// Of `base:allocation`: the extent reads as zeros.
pub(super) const STATE_ZERO: u32 = 2;

/// The context that tells data from zeros.
pub(super) const ALLOCATION: &str = "base:allocation";

/// What a client asks of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
    BlockStatus = 7,
}

/// One request, without the data of a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Request {
    /// Returns the bytes of the request's header.
    pub(super) fn header(self, cookie: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(28);
        out.extend(REQUEST_MAGIC.to_be_bytes());
        out.extend(0u16.to_be_bytes());
        out.extend((self.command as u16).to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out
    }
}

/// Reads `N` bytes.
pub(super) fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut out = [0; N];
    from.read_exact(&mut out)?;
    Ok(out)
}

/// Reads an integer of two bytes.
pub(super) fn u16_from(from: &mut impl Read) -> io::Result<u16> {
    array(from).map(u16::from_be_bytes)
}

/// Reads an integer of four bytes.
pub(super) fn u32_from(from: &mut impl Read) -> io::Result<u32> {
    array(from).map(u32::from_be_bytes)
}

/// Reads an integer of eight bytes.
pub(super) fn u64_from(from: &mut impl Read) -> io::Result<u64> {
    array(from).map(u64::from_be_bytes)
}

/// Reads `len` bytes into new memory, which is refused beyond `limit`.
pub(super) fn bytes(from: &mut impl Read, len: u32, limit: u32) -> io::Result<Vec<u8>> {
    if len > limit {
        return Err(nonsense(format!("a message of {len} bytes, where {limit} are the most")));
    }
    let mut out = vec![0; usize::try_from(len).map_err(|_| nonsense("a message that fits no memory".to_owned()))?];
    from.read_exact(&mut out)?;
    Ok(out)
}

/// Returns the error of a server that does not keep to the protocol.
pub(super) fn nonsense(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server sent {what}"))
}

/// Sends one option.
pub(super) fn send_option(to: &mut impl Write, option: u32, data: &[u8]) -> io::Result<()> {
    let len = u32::try_from(data.len()).map_err(|_| nonsense("too much to answer".to_owned()))?;
    let mut out = Vec::with_capacity(16 + data.len());
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend(option.to_be_bytes());
    out.extend(len.to_be_bytes());
    out.extend(data);
    to.write_all(&out)
}

/// Turns an error number of the protocol into the system's. Those are the same by intent, but a server may send any.
pub(super) fn errno(code: u32) -> Errno {
    match code {
        1 => Errno::EPERM,
        12 => Errno::ENOMEM,
        22 => Errno::EINVAL,
        28 => Errno::ENOSPC,
        75 => Errno::EOVERFLOW,
        95 => Errno::EOPNOTSUPP,
        108 => Errno::ESHUTDOWN,
        _ => Errno::EIO,
    }
}
