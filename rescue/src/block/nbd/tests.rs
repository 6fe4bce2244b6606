//! The client against a real server, `nbdkit`, and against one that sends nonsense.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    process::{Child, Command as Process, Stdio},
    thread,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    block::{
        buffer::AlignedBuf,
        read_vec,
        testing::{chain, compare_with_model, tool},
    },
    units::{GIB, KIB, MIB, TIB},
};

/// A running `nbdkit`; killed when dropped.
struct Server {
    child: Child,
    dir: TempDir,
}

impl Server {
    /// Starts `nbdkit ARGS` on a Unix socket in a folder of its own.
    fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [socket, pid] = ["socket", "pid"].map(|name| dir.path().join(name));
        // The socket is there before anybody listens; its number it writes when it does.
        let child = nbdkit(&["-U", socket.to_str().unwrap(), "-P", pid.to_str().unwrap()], args);
        let mut this = Self { child, dir };
        this.wait_for(|| pid.exists(), args);
        this
    }

    fn wait_for(&mut self, ready: impl Fn() -> bool, args: &[&str]) {
        let until = Instant::now() + Duration::from_secs(20);
        while !ready() {
            let status = self.child.try_wait().unwrap();
            assert!(status.is_none() && Instant::now() < until, "nbdkit {args:?} did not start: {status:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn name(&self) -> String {
        format!("unix:{}", self.dir.path().join("socket").display())
    }

    fn disk(&self) -> NbdDisk {
        NbdDisk::open_target(&self.name(), None).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nbdkit(place: &[&str], args: &[&str]) -> Child {
    Process::new(tool("nbdkit", "nbdkit"))
        .args(["--foreground", "--exit-with-parent"])
        .args(place)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn errno_of(error: &Error) -> Option<Errno> {
    match error {
        Error::Io { source, .. } | Error::Sync { source, .. } => source.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

#[test]
fn addresses_are_read() {
    let unix = |path: &str, export: &str| Ok((Server::unix(path), export.to_owned()));
    let tcp = |host: &str, port, export: &str| Ok((Server::tcp(host, port), export.to_owned()));
    for (text, want) in [
        ("unix:/run/a.sock", unix("/run/a.sock", "")),
        ("unix:/run/a.sock:disk 1", unix("/run/a.sock", "disk 1")),
        ("unix:", Err("the path of the socket is missing")),
        ("host:10810", tcp("host", 10810, "")),
        ("host:10810/a/b", tcp("host", 10810, "a/b")),
        ("host/a", tcp("host", 10809, "a")),
        ("//10.0.0.1:99/x", tcp("10.0.0.1", 99, "x")),
        ("[2001:db8::1]:99/x", tcp("2001:db8::1", 99, "x")),
        ("[::1]", tcp("::1", 10809, "")),
        ("host:port", Err("'port' is no port")),
        ("host:70000", Err("'70000' is no port")),
        (":10809/x", Err("the host is missing")),
        ("[::1]99", Err("a colon goes before the port")),
    ] {
        let got = Address::parse(text).map(|address| (address.server, address.export));
        assert_eq!(got, want.map_err(str::to_owned), "{text}");
    }
}

impl Server {
    fn unix(path: &str) -> super::Server {
        super::Server::Unix(path.into())
    }

    fn tcp(host: &str, port: u16) -> super::Server {
        super::Server::Tcp(host.to_owned(), port)
    }
}

#[test]
fn transfers_of_every_alignment_equal_a_model() {
    let blocks =
        ["blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=64K", "blocksize-error-policy=error"];
    for (name, args) in [
        ("several connections", vec!["memory", "3M"]),
        ("one connection", vec!["--filter=multi-conn", "memory", "3M", "multi-conn-mode=disable"]),
        ("simple replies", vec!["--no-sr", "memory", "3M"]),
        ("no write-zeroes", vec!["--filter=nozero", "memory", "3M"]),
        ("blocks of 4096", [vec!["--filter=blocksize-policy", "memory", "3M"], blocks.to_vec()].concat()),
    ] {
        let server = Server::start(&args);
        let disk = server.disk();
        let connections = if name == "several connections" { POOL } else { disk.connections.len() };
        assert_eq!(disk.connections.len(), connections, "{name}");
        compare_with_model(&disk, 0x9e37_79b9_7f4a_7c15, 150);
    }
}

#[test]
fn block_sizes_are_known() {
    let args = ["--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096", "blocksize-maximum=64K"];
    let server = Server::start(&args);
    let disk = server.disk();
    assert_eq!((disk.export.min_block, disk.export.max_block), (4096, 64 * 1024));
    let mut buf = AlignedBuf::zeroed(200 * 1024 + 512);
    disk.read_exact_at(&mut buf, 512).unwrap();
    disk.discard(Extent::new(512, 9000)).unwrap();
}

#[test]
fn many_threads_share_a_connection() {
    for mode in ["multi-conn-mode=disable", "multi-conn-mode=emulate"] {
        let args = ["--filter=multi-conn", "--filter=delay", "memory", "8M", "delay-read=2ms", "delay-write=1ms", mode];
        let server = Server::start(&args);
        let disk = server.disk();
        thread::scope(|scope| {
            for thread in 0..8u8 {
                let disk = &disk;
                scope.spawn(move || {
                    let base = u64::from(thread) * MIB;
                    for round in 0..20u8 {
                        let offset = base + u64::from(round) * 40_000;
                        let data = vec![thread * 20 + round + 1; 30_000];
                        disk.write_all_at(&data, offset).unwrap();
                        assert!(read_vec(disk, offset, data.len()).unwrap() == data);
                    }
                });
            }
        });
    }
}

#[test]
fn errors_of_the_server_keep_their_number() {
    for (filter, write, want) in [
        (["error-pread=EIO", "error-pread-rate=100%"], false, Errno::EIO),
        (["error-pwrite=ENOSPC", "error-pwrite-rate=100%"], true, Errno::ENOSPC),
        (["error-pwrite=EPERM", "error-pwrite-rate=100%"], true, Errno::EPERM),
        (["error-pread=ENOMEM", "error-pread-rate=100%"], false, Errno::ENOMEM),
    ] {
        let server = Server::start(&["--filter=error", "memory", "1M", filter[0], filter[1]]);
        let disk = server.disk();
        let result = if write { disk.write_all_at(&[1; 512], 1024) } else { disk.read_exact_at(&mut [0; 512], 1024) };
        let error = result.unwrap_err();
        assert_eq!(errno_of(&error), Some(want), "{filter:?}: {error:?}");
        assert!(matches!(error, Error::Io { offset: 1024, len: 512, .. }), "{error:?}");
        disk.check_unchanged().unwrap();
    }
}

#[test]
fn bad_sectors_of_a_map_fail_and_their_neighbours_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("map");
    std::fs::write(&map, "# Mapfile\n0x0 ? 1\n0x0 0x10000 +\n0x10000 0x400 -\n0x10400 0xEFC00 +\n").unwrap();
    let mapfile = format!("ddrescue-mapfile={}", map.display());
    let server = Server::start(&["--filter=ddrescue", "-r", "pattern", "1M", &mapfile]);
    let disk = NbdDisk::open_source(&server.name(), None).unwrap();
    for (offset, ok) in [(0xfe00, true), (0x10000, false), (0x10200, false), (0x10400, true)] {
        let result = disk.read_exact_at(&mut [0; 512], offset);
        assert_eq!(result.is_ok(), ok, "{offset:#x}: {result:?}");
        assert!(ok || errno_of(&result.unwrap_err()) == Some(Errno::EIO));
    }
    disk.check_unchanged().unwrap();
    assert_eq!(read_vec(&disk, 4096, 8).unwrap(), 4096u64.to_be_bytes());
}

#[test]
fn a_failed_flush_is_final() {
    let script = "flush=if [ -e $tmpdir/once ]; then exit 0; fi; touch $tmpdir/once; echo EIO broken >&2; exit 1";
    let zeros = "pread=dd if=/dev/zero count=$3 iflag=count_bytes status=none";
    let server = Server::start(&[
        "eval",
        "get_size=echo 1048576",
        zeros,
        "pwrite=cat >/dev/null",
        "can_write=exit 0",
        "can_flush=exit 0",
        script,
    ]);
    let disk = server.disk();
    disk.write_all_at(&[1; 512], 0).unwrap();
    assert_eq!(errno_of(&disk.sync().unwrap_err()), Some(Errno::EIO));
    assert!(matches!(disk.sync(), Err(Error::Sync { .. })), "a later flush proves nothing");
}

#[test]
fn a_server_killed_in_the_middle_of_reads_fails_them_all_soon() {
    let mut server = Server::start(&["--filter=delay", "memory", "4M", "delay-read=30"]);
    let disk = server.disk();
    let began = Instant::now();
    thread::scope(|scope| {
        let readers: Vec<_> = (0..6u64)
            .map(|n| {
                scope.spawn({
                    let disk = &disk;
                    move || disk.read_exact_at(&mut [0; 4096], n * 4096)
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        server.child.kill().unwrap();
        for reader in readers {
            let error = reader.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Io { action: "reading", .. }), "{error:?}");
        }
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(matches!(disk.check_unchanged(), Err(Error::Changed { .. })));
    assert!(disk.read_exact_at(&mut [0; 512], 0).is_err());
    assert!(disk.write_all_at(&[0; 512], 0).is_err());
    assert!(matches!(disk.sync(), Err(Error::Sync { .. })));
}

#[test]
fn a_silent_server_is_given_up() {
    let server = Server::start(&["--filter=delay", "memory", "1M", "delay-read=60"]);
    let limits = Limits { connect: Duration::from_secs(5), request: Duration::from_millis(400) };
    let disk = NbdDisk::open(&server.name(), None, limits).unwrap();
    let began = Instant::now();
    let error = disk.read_exact_at(&mut [0; 512], 0).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::TimedOut), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(matches!(disk.check_unchanged(), Err(Error::Changed { .. })));
}

#[test]
fn holes_are_told_from_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(2 * TIB).unwrap();
    let extents = [Extent::new(0, 64 * KIB), Extent::new(GIB, GIB + MIB), Extent::new(TIB, TIB + 64 * KIB)];
    for extent in extents {
        use std::os::unix::fs::FileExt as _;
        file.write_all_at(&vec![1; usize::try_from(extent.len()).unwrap()], extent.start).unwrap();
    }
    file.sync_all().unwrap();
    let server = Server::start(&["file", path.to_str().unwrap()]);
    let disk = server.disk();
    let (mut at, mut found) = (0, Vec::new());
    while let Some(data) = disk.next_data(at).unwrap() {
        found.push(data);
        at = data.end;
    }
    assert_eq!(found, extents);
    assert_eq!(disk.next_data(GIB + 5000).unwrap(), Some(Extent::new(GIB + 5000, GIB + MIB)));
    assert_eq!(disk.next_data(disk.len()).unwrap(), None);
}

#[test]
fn a_server_that_cannot_tell_holes_has_only_data() {
    for args in [
        vec!["--no-sr", "memory", "1M"],
        vec!["--filter=error", "memory", "1M", "error-extents=EIO", "error-extents-rate=100%"],
    ] {
        let server = Server::start(&args);
        assert_eq!(server.disk().next_data(512).unwrap(), Some(Extent::new(512, MIB)), "{args:?}");
    }
}

#[test]
fn exports_that_cannot_be_used_say_why() {
    let open = |server: &Server, export: &str, target: bool| {
        let name = format!("{}:{export}", server.name());
        let result = if target { NbdDisk::open_target(&name, None) } else { NbdDisk::open_source(&name, None) };
        chain(&result.unwrap_err())
    };
    for (name, args, export, target, want) in [
        ("read-only", vec!["-r", "memory", "1M"], "", true, "it is read-only"),
        ("odd size", vec!["memory", "1000"], "", false, "its 1000 bytes are no whole number of sectors of 512 bytes"),
        ("empty", vec!["memory", "0"], "", false, "its 0 bytes are no whole number"),
        (
            "unknown export",
            vec!["--filter=exportname", "memory", "1M", "exportname-strict=true", "exportname=good"],
            "bad",
            false,
            "the server has no export 'bad'",
        ),
    ] {
        let said = open(&Server::start(&args), export, target);
        assert!(said.contains(want), "{name}: {said}");
    }
    let missing = NbdDisk::open_source("unix:/nonexistent/socket", None).unwrap_err();
    assert!(matches!(missing, Error::Open { action: "opening", .. }), "{missing:?}");
    let wrong = NbdDisk::open_source("host:port", None).unwrap_err();
    assert_eq!(wrong.to_string(), "nbd:host:port: 'port' is no port");
}

#[test]
fn exports_are_told_apart_by_name() {
    let name = "x".repeat(512);
    let server = Server::start(&["info", "mode=exportname"]);
    let disk = NbdDisk::open_source(&format!("{}:{name}", server.name()), None).unwrap();
    assert_eq!(read_vec(&disk, 0, 512).unwrap(), name.as_bytes());
}

#[test]
fn a_server_is_reached_over_tcp() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let args = ["pattern", "1M"];
    let child = nbdkit(&["-i", "127.0.0.1", "-p", &port.to_string()], &args);
    let mut server = Server { child, dir: tempfile::tempdir().unwrap() };
    server.wait_for(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), &args);
    let disk = NbdDisk::open_source(&format!("127.0.0.1:{port}"), Some(SectorSize::B4096)).unwrap();
    assert_eq!((disk.len(), disk.sector_size()), (MIB, SectorSize::B4096));
    assert_eq!(read_vec(&disk, 65536, 8).unwrap(), 65536u64.to_be_bytes());
}

/// Bytes a client sends before its first request: flags, and three options for an export without a name.
const CLIENT_HANDSHAKE: usize = 4 + 16 + (16 + 27) + (16 + 8);

/// Serves one connection: negotiates well, waits for one request, answers with `replies` and hangs up.
fn answers(replies: Vec<u8>) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(&good_handshake()).unwrap();
        client.read_exact(&mut [0; CLIENT_HANDSHAKE + 28]).unwrap();
        // A client that has heard enough is gone by now.
        let _ = client.write_all(&replies);
    });
    (dir, format!("unix:{}", path.display()))
}

/// What a well-behaved server says up to the transmission phase: structured replies, an export of 1 MiB.
fn good_handshake() -> Vec<u8> {
    use wire::{
        INFO_EXPORT, NBD_MAGIC, OPT_GO, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OPTION_REPLY_MAGIC,
        REP_ACK, REP_INFO, REP_META_CONTEXT,
    };
    let mut out = Vec::new();
    let reply = |out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]| {
        out.extend(OPTION_REPLY_MAGIC.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    };
    out.extend(NBD_MAGIC.to_be_bytes());
    out.extend(OPTION_MAGIC.to_be_bytes());
    out.extend(3u16.to_be_bytes());
    reply(&mut out, OPT_STRUCTURED_REPLY, REP_ACK, &[]);
    reply(&mut out, OPT_SET_META_CONTEXT, REP_META_CONTEXT, &[&[0, 0, 0, 1], wire::ALLOCATION.as_bytes()].concat());
    reply(&mut out, OPT_SET_META_CONTEXT, REP_ACK, &[]);
    reply(&mut out, OPT_GO, REP_INFO, &[&INFO_EXPORT.to_be_bytes()[..], &MIB.to_be_bytes(), &[0, 1]].concat());
    reply(&mut out, OPT_GO, REP_INFO, &[0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
    reply(&mut out, OPT_GO, REP_ACK, &[]);
    out
}

const PATIENT: Limits = Limits { connect: Duration::from_secs(30), request: Duration::from_secs(30) };

fn structured(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out
}

fn simple(error: u32, cookie: u64, data: &[u8]) -> Vec<u8> {
    let header = [&wire::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat();
    [header, data.to_vec()].concat()
}

/// Reads 8 bytes at offset 0 from a server that answers so.
fn read_eight(replies: Vec<u8>) -> Result<[u8; 8], String> {
    let (_dir, name) = answers(replies);
    let disk = NbdDisk::open(&name, None, PATIENT).unwrap();
    let mut buf = [9; 8];
    disk.read_exact_at(&mut buf, 0).map(|()| buf).map_err(|e| chain(&e))
}

#[test]
fn replies_are_put_together_and_checked() {
    let data = |offset: u64, bytes: &[u8]| [&offset.to_be_bytes()[..], bytes].concat();
    let hole = |offset: u64, len: u32| [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat();
    let error = |code: u32| [&code.to_be_bytes()[..], &[0, 0]].concat();
    for (name, replies, want) in [
        ("simple", vec![simple(0, 1, &[7; 8])], Ok([7; 8])),
        ("simple error", vec![simple(5, 1, &[])], Err("Input/output error")),
        ("whole", vec![structured(1, 1, 1, &data(0, &[1; 8]))], Ok([1; 8])),
        (
            "pieces out of order, one a hole",
            vec![
                structured(0, 1, 1, &data(6, &[3; 2])),
                structured(0, 2, 1, &hole(2, 4)),
                structured(0, 1, 1, &data(0, &[1; 2])),
                structured(1, 0, 1, &[]),
            ],
            Ok([1, 1, 0, 0, 0, 0, 3, 3]),
        ),
        ("a piece missing", vec![structured(1, 1, 1, &data(0, &[1; 7]))], Err("7 of 8 bytes and called them all")),
        ("nothing", vec![structured(1, 0, 1, &[])], Err("0 of 8 bytes and called them all")),
        (
            "a piece twice",
            vec![structured(0, 1, 1, &data(0, &[1; 8])), structured(1, 1, 1, &data(4, &[1; 4]))],
            Err("4 bytes at 4 that were not asked for"),
        ),
        ("beyond", vec![structured(1, 1, 1, &data(4, &[1; 8]))], Err("8 bytes at 4 that were not asked for")),
        ("offset of no u64", vec![structured(1, 2, 1, &hole(u64::MAX, 9))], Err("that were not asked for")),
        ("an endless hole", vec![structured(1, 2, 1, &hole(0, u32::MAX))], Err("that were not asked for")),
        ("error first", vec![structured(0, 0x8001, 1, &error(5)), structured(1, 0, 1, &[])], Err("Input/output error")),
        (
            "data, then an error",
            vec![structured(0, 1, 1, &data(0, &[1; 8])), structured(1, 0x8001, 1, &error(28))],
            Err("No space left on device"),
        ),
        ("an error of number 0", vec![structured(1, 0x8001, 1, &error(0))], Err("Input/output error")),
        ("an unknown error type", vec![structured(1, 0x8abc, 1, &error(5))], Err("Input/output error")),
        ("an empty error", vec![structured(1, 0x8001, 1, &[])], Err("an error without a number")),
        ("an unknown type", vec![structured(1, 77, 1, &[])], Err("a reply of type 77 that does not fit")),
        ("block status", vec![structured(1, 5, 1, &[0; 12])], Err("a reply of type 5 that does not fit")),
        ("nobody asked", vec![simple(0, 99, &[1; 8])], Err("a reply to a request nobody made (99)")),
        ("no reply at all", vec![vec![0; 16]], Err("0x0 in the place of a reply")),
        ("cut", vec![structured(1, 1, 1, &data(0, &[1; 8]))[..25].to_vec()], Err("the server closed the connection")),
        ("hung up", vec![], Err("the server closed the connection")),
    ] {
        let got = read_eight(replies.concat());
        let as_wanted = match (&got, want) {
            (Ok(bytes), Ok(wanted)) => *bytes == wanted,
            (Err(said), Err(part)) => said.contains(part),
            _ => false,
        };
        assert!(as_wanted, "{name}: {got:?}");
    }
}

#[test]
fn states_of_blocks_that_make_no_sense_are_data() {
    let states = |list: &[(u32, u32)]| {
        let raw = list.iter().flat_map(|(len, state)| [len.to_be_bytes(), state.to_be_bytes()]);
        structured(1, 5, 1, &[vec![0, 0, 0, 1], raw.flatten().collect()].concat())
    };
    let whole = Extent::new(0, MIB);
    for (name, reply, want) in [
        ("zeros, then data", states(&[(4096, 3), (4096, 0), (8192, 2)]), Some(Extent::new(4096, 8192))),
        ("all zeros and more", states(&[(u32::MAX, 2)]), None),
        ("no length", states(&[(0, 2)]), Some(whole)),
        ("data of two kinds", states(&[(4096, 0), (4096, 1), (4096, 2)]), Some(Extent::new(0, 8192))),
        ("an error", structured(1, 0x8001, 1, &[0, 0, 0, 5, 0, 0]), Some(whole)),
        ("another context", structured(1, 5, 1, &[0, 0, 0, 9, 0, 0, 16, 0, 0, 0, 0, 2]), Some(whole)),
        ("nothing", structured(1, 0, 1, &[]), Some(whole)),
        ("hung up", vec![], Some(whole)),
    ] {
        let (_dir, name_of_server) = answers(reply);
        let disk = NbdDisk::open(&name_of_server, None, PATIENT).unwrap();
        assert_eq!(disk.next_data(0).unwrap(), want, "{name}");
    }
}

/// Changes bytes of `bytes` from `at` on.
fn damage(bytes: &mut [u8], at: usize, noise: &[u8]) {
    let at = at % bytes.len().max(1);
    bytes.iter_mut().skip(at).zip(noise).for_each(|(byte, noise)| *byte ^= noise);
}

/// A server that has said all it will say.
struct Script(io::Cursor<Vec<u8>>);

impl io::Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl io::Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..12)
}

#[test]
fn the_good_handshake_is_good() {
    let export = handshake::negotiate(&mut Script(io::Cursor::new(good_handshake())), "").unwrap();
    let want = Export { size: MIB, flags: 1, min_block: 1, max_block: 4 << 20, structured: true, allocation: Some(1) };
    assert_eq!(export, want);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_damaged_handshake_gives_an_error_or_a_sane_export(at in any::<usize>(), noise in noise(), cut in any::<usize>()) {
        let mut bytes = good_handshake();
        damage(&mut bytes, at, &noise);
        bytes.truncate(cut % (bytes.len() * 2));
        if let Ok(export) = handshake::negotiate(&mut Script(io::Cursor::new(bytes)), "export") {
            prop_assert!(export.min_block.is_power_of_two() && export.min_block <= 65536);
            prop_assert!(export.max_block >= export.min_block && export.max_block <= 4 << 20);
            prop_assert!(export.size.is_multiple_of(u64::from(export.min_block)) && export.size <= i64::MAX as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_replies_end_soon(at in any::<usize>(), noise in noise()) {
        let data = [&0u64.to_be_bytes()[..], &[1; 4]].concat();
        let mut replies = [structured(0, 1, 1, &data), structured(1, 2, 1, &[0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 4])].concat();
        damage(&mut replies, at, &noise);
        let began = Instant::now();
        let _ = read_eight(replies);
        prop_assert!(began.elapsed() < Duration::from_secs(15));
    }
}
