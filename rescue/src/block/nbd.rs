//! A disk behind an NBD socket: fault filters, virtual machine images and test disks without a device or root.
//!
//! ```text
//! unix:/path/of/socket[:EXPORT]      host[:port][/EXPORT]      [2001:db8::1]:10809/EXPORT
//! ```
//!
//! Requests of several threads travel over one connection at the same time, or over a few where the server says that
//! it keeps them coherent. No wait is without an end: a server that dies or falls silent is an error of every request.

mod connection;
mod handshake;
mod stream;
mod wire;

use std::{
    io,
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::errno::Errno;

use self::{
    connection::{Answer, Connection, Failure},
    handshake::Export,
    stream::{Stream, Until},
    wire::{
        Command, FLAG_CAN_MULTI_CONN, FLAG_READ_ONLY, FLAG_SEND_FLUSH, FLAG_SEND_TRIM, FLAG_SEND_WRITE_ZEROES, Request,
        STATE_ZERO,
    },
};
use super::{
    Discard, Disk, Error, Identity, ReadAt, TargetDisk, Transport, align, check_range,
    transfer::{self, SyncState},
};
use crate::{extent::Extent, units::SectorSize};

/// How long to wait for a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection and its negotiation.
    pub connect: Duration,
    /// For the answer to one request. A server over a failing disk may need long.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(15), request: Duration::from_secs(120) }
    }
}

/// Connections to a server that keeps several coherent.
const POOL: usize = 4;

/// Bytes zeroed or discarded by one request.
const ZERO_PIECE: u32 = 32 << 20;

/// Bytes asked about by one request for the state of blocks.
const STATUS_PIECE: u64 = 2 << 30;

/// Requests for the state of blocks after which the rest of the disk counts as data: a server that answers in small
/// steps would cost more than reading.
const MAX_STATUS_REQUESTS: usize = 16 * 1024;

/// The port registered for NBD.
const PORT: u16 = 10809;

/// Where a server is, and which of its exports is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    server: Server,
    export: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Server {
    Unix(PathBuf),
    Tcp(String, u16),
}

impl Address {
    /// Reads what follows `nbd:`; says in words what is wrong with it.
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("unix:") {
            let (path, export) = rest.split_once(':').unwrap_or((rest, ""));
            if path.is_empty() {
                return Err("the path of the socket is missing".to_owned());
            }
            return Ok(Self { server: Server::Unix(path.into()), export: export.to_owned() });
        }
        let text = text.strip_prefix("//").unwrap_or(text);
        let (server, export) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or("a colon goes before the port")?)),
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(PORT), |port| port.parse().map_err(|_| format!("'{port}' is no port")))?;
        if host.is_empty() {
            return Err("the host is missing".to_owned());
        }
        Ok(Self { server: Server::Tcp(host.to_owned(), port), export: export.to_owned() })
    }

    fn connect(&self, limits: Limits) -> io::Result<(Stream, Export)> {
        let moment = Instant::now() + limits.connect;
        let stream = match &self.server {
            Server::Unix(path) => Stream::unix(path, limits.connect)?,
            Server::Tcp(host, port) => Stream::tcp(host, *port, limits.connect)?,
        };
        stream.limit_writes(limits.connect)?;
        let export = handshake::negotiate(&mut Until { stream: &stream, moment }, &self.export)?;
        Ok((stream, export))
    }
}

/// An NBD export, open.
#[derive(Debug)]
pub struct NbdDisk {
    identity: Identity,
    address: Address,
    export: Export,
    limits: Limits,
    connections: Vec<Connection>,
    turn: AtomicUsize,
    /// Held by writes that cover part of a block: two of them in one block must not read before either writes.
    splitting: Mutex<()>,
    synced: SyncState,
}

impl NbdDisk {
    /// Opens an export for reading.
    ///
    /// * `export`: what follows `nbd:`.
    /// * `sector_size`: 512 bytes where none is given.
    ///
    /// # Errors
    /// [`Error::Open`] when the server cannot be reached or has no such export; [`Error::Refused`] for an export that is
    /// no whole number of sectors.
    pub fn open_source(export: &str, sector_size: Option<SectorSize>) -> Result<Self, Error> {
        Self::open(export, sector_size, Limits::default())
    }

    /// Opens an export for reading and writing. The protocol has no way to keep others out.
    ///
    /// # Errors
    /// As [`NbdDisk::open_source`]; also [`Error::Refused`] for a read-only export.
    pub fn open_target(export: &str, sector_size: Option<SectorSize>) -> Result<Self, Error> {
        let disk = Self::open(export, sector_size, Limits::default())?;
        if disk.has(FLAG_READ_ONLY) {
            return Err(Error::Refused { disk: disk.identity.path, reason: "it is read-only".to_owned() });
        }
        Ok(disk)
    }

    /// Opens an export with time limits of one's own.
    ///
    /// # Errors
    /// As [`NbdDisk::open_source`].
    pub fn open(export: &str, sector_size: Option<SectorSize>, limits: Limits) -> Result<Self, Error> {
        let name = format!("nbd:{export}");
        let open_error = |source| Error::Open { action: "opening", disk: name.clone(), source };
        let address = Address::parse(export).map_err(|reason| Error::Refused { disk: name.clone(), reason })?;
        let (stream, export) = address.connect(limits).map_err(open_error)?;
        let sector_size = sector_size.unwrap_or(SectorSize::B512);
        if export.size == 0 || !sector_size.aligns(export.size) {
            let reason = format!("its {} bytes are no whole number of sectors of {sector_size} bytes", export.size);
            return Err(Error::Refused { disk: name, reason });
        }
        let mut connections = vec![Connection::new(stream, &export, limits.request).map_err(open_error)?];
        if export.flags & FLAG_CAN_MULTI_CONN != 0 {
            connections.extend(more_connections(&address, &export, limits));
        }
        let identity = Identity {
            path: name,
            model: None,
            serial: None,
            wwn: None,
            transport: Transport::Nbd,
            len: export.size,
            sector_size,
            physical_sector_size: sector_size,
        };
        Ok(Self {
            identity,
            address,
            export,
            limits,
            connections,
            turn: AtomicUsize::new(0),
            splitting: Mutex::new(()),
            synced: SyncState::default(),
        })
    }

    const fn has(&self, flag: u16) -> bool {
        self.export.flags & flag != 0
    }

    fn unit(&self) -> u64 {
        u64::from(self.export.min_block)
    }

    /// Returns the bytes of data in one request at most.
    fn piece(&self) -> usize {
        usize::try_from(self.export.max_block).unwrap_or(usize::MAX)
    }

    fn ask(&self, command: Command, offset: u64, len: usize, data: &[u8]) -> Result<Answer, Failure> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let len = u32::try_from(len).map_err(|_| Failure::Server(Errno::EINVAL as u32))?;
        self.connections[turn].ask(Request { command, offset, len }, data)
    }

    fn read_blocks(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let mut at = offset;
        for piece in buf.chunks_mut(self.piece()) {
            let range = Extent::new(at, at + piece.len() as u64);
            let answer = self.ask(Command::Read, at, piece.len(), &[]).map_err(|f| self.error("reading", range, &f))?;
            if answer.data.len() != piece.len() {
                let (wanted, got) = (piece.len(), answer.data.len());
                return Err(Error::Short { disk: self.identity.path.clone(), offset: at, wanted, got });
            }
            piece.copy_from_slice(&answer.data);
            at = range.end;
        }
        Ok(())
    }

    fn write_blocks(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        let mut at = offset;
        for piece in buf.chunks(self.piece()) {
            let range = Extent::new(at, at + piece.len() as u64);
            self.ask(Command::Write, at, piece.len(), piece).map_err(|f| self.error("writing", range, &f))?;
            at = range.end;
        }
        Ok(())
    }

    /// Runs a command without data over `range`, whole blocks; where it fails, says for which piece.
    fn in_pieces(&self, range: Extent, command: Command) -> Result<(), (Extent, Failure)> {
        let step = u64::from(ZERO_PIECE);
        let mut at = range.start;
        while at < range.end {
            let piece = Extent::new(at, range.end.min(at.saturating_add(step)));
            let len = usize::try_from(piece.len()).unwrap_or(usize::MAX);
            self.ask(command, at, len, &[]).map_err(|failure| (piece, failure))?;
            at = piece.end;
        }
        Ok(())
    }

    fn zero_blocks(&self, range: Extent) -> Result<(), Error> {
        if !self.has(FLAG_SEND_WRITE_ZEROES) {
            return transfer::write_zero_bytes(self, range);
        }
        match self.in_pieces(range, Command::WriteZeroes) {
            Ok(()) => Ok(()),
            Err((at, Failure::Server(code)))
                if matches!(wire::errno(code), Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EOVERFLOW) =>
            {
                transfer::write_zero_bytes(self, Extent::new(at.start, range.end))
            }
            Err((at, failure)) => Err(self.error("zeroing", at, &failure)),
        }
    }

    fn io(&self, action: &'static str, range: Extent, source: io::Error) -> Error {
        Error::Io { action, disk: self.identity.path.clone(), offset: range.start, len: range.len(), source }
    }

    fn error(&self, action: &'static str, range: Extent, failure: &Failure) -> Error {
        self.io(action, range, io_error(failure))
    }

    fn changed(&self, what: String) -> Error {
        Error::Changed { disk: self.identity.path.clone(), what }
    }

    /// Asks for the states of blocks from `offset` on; `None` where the server cannot tell.
    fn states(&self, offset: u64) -> Option<Vec<(u32, u32)>> {
        let len = self.identity.len.checked_sub(offset)?.min(STATUS_PIECE);
        let answer = self.ask(Command::BlockStatus, offset, usize::try_from(len).ok()?, &[]).ok()?;
        let usable = !answer.states.is_empty() && answer.states.iter().all(|(len, _)| *len > 0);
        usable.then_some(answer.states)
    }
}

/// Opens further connections to the same export; fewer where the server has had enough.
fn more_connections(address: &Address, first: &Export, limits: Limits) -> Vec<Connection> {
    let quick = Limits { connect: limits.connect.min(Duration::from_secs(2)), ..limits };
    let another = |_| match address.connect(quick) {
        Ok((stream, export)) if export == *first => Connection::new(stream, &export, limits.request).ok(),
        _ => None,
    };
    (1..POOL).map_while(another).collect()
}

fn io_error(failure: &Failure) -> io::Error {
    match failure {
        Failure::Server(code) => wire::errno(*code).into(),
        Failure::Gone(reason) => io::Error::new(reason.kind(), reason.to_string()),
    }
}

impl ReadAt for NbdDisk {
    fn len(&self) -> u64 {
        self.identity.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, offset, buf.len() as u64)?;
        align::read(buf, offset, self.unit(), |buf, at| self.read_blocks(buf, at))
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>, Error> {
        let rest = Extent::new(offset, self.identity.len);
        if rest.is_empty() || self.export.allocation.is_none() {
            return Ok((!rest.is_empty()).then_some(rest));
        }
        let mut at = offset - offset % self.unit();
        let mut data: Option<Extent> = None;
        for _ in 0..MAX_STATUS_REQUESTS {
            let Some(states) = self.states(at) else { break };
            for (len, state) in states {
                let extent = Extent::new(at, at.saturating_add(u64::from(len))).intersect(rest);
                at = at.saturating_add(u64::from(len)).min(self.identity.len);
                if extent.is_empty() {
                    continue;
                }
                match (&mut data, state & STATE_ZERO == 0) {
                    (Some(found), true) => found.end = extent.end,
                    (Some(found), false) => return Ok(Some(*found)),
                    (None, true) => data = Some(extent),
                    (None, false) => {}
                }
            }
            if at >= self.identity.len || data.is_some() {
                return Ok(data);
            }
        }
        Ok(Some(data.unwrap_or(Extent::new(at.max(offset), self.identity.len))))
    }
}

impl Disk for NbdDisk {
    fn sector_size(&self) -> SectorSize {
        self.identity.sector_size
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Asks every connection for a sign of life. The protocol tells the size only when a connection is made; where the
    /// server takes several, one more is made to ask.
    fn check_unchanged(&self) -> Result<(), Error> {
        for connection in &self.connections {
            connection.is_alive(self.export.min_block).map_err(|reason| self.changed(reason.to_string()))?;
        }
        if self.connections.len() < 2 {
            return Ok(());
        }
        let now = self.address.connect(self.limits).map_err(|e| self.changed(e.to_string()))?.1.size;
        if now != self.identity.len {
            return Err(self.changed(format!("it held {} bytes and now holds {now}", self.identity.len)));
        }
        Ok(())
    }
}

impl TargetDisk for NbdDisk {
    fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, offset, buf.len() as u64)?;
        let range = Extent::new(offset, offset + buf.len() as u64);
        let _guard = align::splits_units(range, self.unit())
            .then(|| self.splitting.lock().unwrap_or_else(PoisonError::into_inner));
        align::write(
            buf,
            offset,
            self.unit(),
            |buf, at| self.read_blocks(buf, at),
            |buf, at| self.write_blocks(buf, at),
        )
    }

    fn write_zeros(&self, range: Extent) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, range.start, range.len())?;
        let (head, body, tail) = align::whole_units(range, self.unit());
        transfer::write_zero_bytes(self, head)?;
        self.zero_blocks(body)?;
        transfer::write_zero_bytes(self, tail)
    }

    fn can_discard(&self) -> Option<Discard> {
        let granularity = self.unit().max(self.identity.sector_size.bytes());
        self.has(FLAG_SEND_TRIM).then_some(Discard { granularity, solid_state: false })
    }

    fn discard(&self, range: Extent) -> Result<(), Error> {
        check_range(&self.identity.path, self.identity.len, range.start, range.len())?;
        if !self.has(FLAG_SEND_TRIM) {
            return Err(self.io("discarding", range, Errno::EOPNOTSUPP.into()));
        }
        let (_, body, _) = align::whole_units(range, self.unit());
        self.in_pieces(body, Command::Trim).map_err(|(at, failure)| self.error("discarding", at, &failure))
    }

    fn sync(&self) -> Result<(), Error> {
        self.synced.sync(&self.identity.path, || {
            // A server without flush has nothing to be flushed, as the protocol has it.
            if !self.has(FLAG_SEND_FLUSH) {
                return Ok(());
            }
            self.ask(Command::Flush, 0, 0, &[]).map(|_| ()).map_err(|failure| io_error(&failure))
        })
    }

    fn drop_caches(&self) -> Result<(), Error> {
        Ok(())
    }

    fn reread_table(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
