//! From a fresh connection to an export whose size and limits are known.

use std::io::{self, Read, Write};

use super::wire::{
    ALLOCATION, FIXED_NEWSTYLE, INFO_BLOCK_SIZE, INFO_EXPORT, NBD_MAGIC, NO_ZEROES, OPT_ABORT, OPT_GO,
    OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OPTION_REPLY_MAGIC, REP_ACK, REP_ERROR, REP_INFO,
    REP_META_CONTEXT, bytes, nonsense, send_option, u16_from, u32_from, u64_from,
};
use crate::bytes::Fields;

/// What a server says of an export, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Bytes in the export.
    pub(super) size: u64,
    /// Transmission flags.
    pub(super) flags: u16,
    /// Requests start and end at multiples of this: a power of two.
    pub(super) min_block: u32,
    /// Bytes of data in one request at most; a multiple of `min_block`.
    pub(super) max_block: u32,
    /// Whether replies are structured.
    pub(super) structured: bool,
    /// The number the server gave to the context that tells data from zeros.
    pub(super) allocation: Option<u32>,
}

/// Longest data of an option reply that is read, and how many replies one option may have.
const MAX_REPLY: u32 = 64 * 1024;
const MAX_REPLIES: usize = 64;

/// Unit and most bytes of a request where the server says nothing of them, as the protocol has it.
const DEFAULT_MIN_BLOCK: u32 = 512;
const DEFAULT_MAX_BLOCK: u32 = 32 << 20;
/// Bytes of data in one request of ours: memory for that many is taken per request in flight.
const OUR_MAX_BLOCK: u32 = 4 << 20;
/// Largest unit of requests that is accepted; the protocol allows no larger one.
const MAX_MIN_BLOCK: u32 = 64 * 1024;

/// Agrees with the server on the export called `name`.
///
/// # Errors
/// What the connection says, `InvalidData` for a server that breaks the protocol, `NotFound` and `PermissionDenied`
/// for one that refuses.
pub(super) fn negotiate<S: Read + Write>(stream: &mut S, name: &str) -> io::Result<Export> {
    if u64_from(stream)? != NBD_MAGIC || u64_from(stream)? != OPTION_MAGIC {
        return Err(nonsense("no greeting of an NBD server that negotiates".to_owned()));
    }
    let flags = u16_from(stream)?;
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(nonsense("the greeting of a server too old to negotiate".to_owned()));
    }
    stream.write_all(&u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())?;
    let structured = ask(stream, OPT_STRUCTURED_REPLY, &[], &mut |_, _| Ok(()))?.is_ok();
    let allocation = if structured { ask_for_allocation(stream, name)? } else { None };
    go(stream, name, structured, allocation)
}

/// What a server answers to an option it does not grant: the reply's type and its message.
struct Denied(u32, String);

/// Sends an option and hands every reply to `each` up to the last.
fn ask<S: Read + Write>(
    stream: &mut S,
    option: u32,
    data: &[u8],
    each: &mut dyn FnMut(u32, &[u8]) -> io::Result<()>,
) -> io::Result<Result<(), Denied>> {
    send_option(stream, option, data)?;
    for _ in 0..MAX_REPLIES {
        if u64_from(stream)? != OPTION_REPLY_MAGIC || u32_from(stream)? != option {
            return Err(nonsense(format!("something else than a reply to option {option}")));
        }
        let (kind, len) = (u32_from(stream)?, u32_from(stream)?);
        let reply = bytes(stream, len, MAX_REPLY)?;
        match kind {
            REP_ACK => return Ok(Ok(())),
            _ if kind & REP_ERROR != 0 => {
                return Ok(Err(Denied(kind, String::from_utf8_lossy(&reply).into_owned())));
            }
            _ => each(kind, &reply)?,
        }
    }
    Err(nonsense(format!("more than {MAX_REPLIES} replies to option {option}")))
}

/// Writes a string as the protocol has it: its length, then its bytes.
fn push_string(out: &mut Vec<u8>, text: &str) -> io::Result<()> {
    let len = u32::try_from(text.len()).ok().filter(|len| *len <= 4096);
    out.extend(len.ok_or_else(|| io::Error::other("the export's name is too long"))?.to_be_bytes());
    out.extend(text.as_bytes());
    Ok(())
}

fn cut(_: crate::bytes::Truncated) -> io::Error {
    nonsense("a reply that ends too early".to_owned())
}

fn ask_for_allocation<S: Read + Write>(stream: &mut S, name: &str) -> io::Result<Option<u32>> {
    let mut data = Vec::new();
    push_string(&mut data, name)?;
    data.extend(1u32.to_be_bytes());
    push_string(&mut data, ALLOCATION)?;
    let mut context = None;
    let answer = ask(stream, OPT_SET_META_CONTEXT, &data, &mut |kind, reply| {
        if kind == REP_META_CONTEXT && reply.get(4..) == Some(ALLOCATION.as_bytes()) {
            context = Some(Fields(reply).u32_be(0).map_err(cut)?);
        }
        Ok(())
    })?;
    Ok(context.filter(|_| answer.is_ok()))
}

fn go<S: Read + Write>(stream: &mut S, name: &str, structured: bool, allocation: Option<u32>) -> io::Result<Export> {
    let mut data = Vec::new();
    push_string(&mut data, name)?;
    data.extend(1u16.to_be_bytes());
    data.extend(INFO_BLOCK_SIZE.to_be_bytes());
    let mut export = None;
    let mut blocks = None;
    let answer = ask(stream, OPT_GO, &data, &mut |kind, reply| {
        let fields = Fields(reply);
        match (kind == REP_INFO).then(|| fields.u16_be(0)).transpose().map_err(cut)? {
            Some(INFO_EXPORT) => export = Some((fields.u64_be(2).map_err(cut)?, fields.u16_be(10).map_err(cut)?)),
            Some(INFO_BLOCK_SIZE) => {
                blocks = Some((fields.u32_be(2).map_err(cut)?, fields.u32_be(10).map_err(cut)?));
            }
            _ => {}
        }
        Ok(())
    })?;
    if let Err(denied) = answer {
        // The server waits for another option; what it says to this one no longer matters.
        let _ = send_option(stream, OPT_ABORT, &[]);
        return Err(refusal(name, &denied));
    }
    let (size, flags) = export.ok_or_else(|| nonsense("no size of the export".to_owned()))?;
    // A server that says nothing and holds a fraction of a sector must take single bytes.
    let usual = if size.is_multiple_of(u64::from(DEFAULT_MIN_BLOCK)) { DEFAULT_MIN_BLOCK } else { 1 };
    let (min, max) = blocks.unwrap_or((usual, DEFAULT_MAX_BLOCK));
    let (min_block, max_block) = check_blocks(min, max, size)?;
    Ok(Export { size, flags, min_block, max_block, structured, allocation })
}

fn check_blocks(min: u32, max: u32, size: u64) -> io::Result<(u32, u32)> {
    if !min.is_power_of_two() || min > MAX_MIN_BLOCK {
        return Err(nonsense(format!("a block size of {min} bytes")));
    }
    if i64::try_from(size).is_err() || !size.is_multiple_of(u64::from(min)) {
        return Err(nonsense(format!("a size of {size} bytes in blocks of {min}")));
    }
    let max = max.min(OUR_MAX_BLOCK);
    match max - max % min {
        0 => Err(nonsense(format!("blocks of at least {min} and at most {max} bytes"))),
        max => Ok((min, max)),
    }
}

fn refusal(name: &str, Denied(kind, message): &Denied) -> io::Error {
    let (error, reason) = match kind & !REP_ERROR {
        1 => (io::ErrorKind::Unsupported, "is too old to open an export by name and size".to_owned()),
        2 => (io::ErrorKind::PermissionDenied, format!("does not allow export '{name}'")),
        5 => (io::ErrorKind::PermissionDenied, "wants TLS, which this program does not speak".to_owned()),
        6 => (io::ErrorKind::NotFound, format!("has no export '{name}'")),
        7 => (io::ErrorKind::ConnectionRefused, "is shutting down".to_owned()),
        other => (io::ErrorKind::Other, format!("refused export '{name}' (error {other})")),
    };
    let said = if message.is_empty() { String::new() } else { format!(": {}", crate::escape::Escaped(message)) };
    io::Error::new(error, format!("the server {reason}{said}"))
}
