//! What `rescue help` says.

/// Returns the help on one command, or on all of them.
#[must_use]
pub fn text(command: Option<&str>) -> &'static str {
    match command {
        Some("disks") => DISKS,
        Some("show") => SHOW,
        Some("capture") => CAPTURE,
        Some("images") => IMAGES,
        Some("restore") => RESTORE,
        Some("verify") => VERIFY,
        Some("export") => EXPORT,
        _ => OVERVIEW,
    }
}

const OVERVIEW: &str = "\
rescue images whole disks into a store and writes them back, while no system runs on them.

  rescue                              the screens: everything below with keys and plans to read first
                                      (rescue tui [--store FOLDER] [--monochrome] is the same)
  rescue disks                        the disks of this machine, with tables and file systems
  rescue show DISK                    one disk: its table, regions, used and free bytes, what is kept
  rescue capture DISK STORE           image DISK into STORE, a folder; made if there is none
  rescue images STORE                 the images in STORE
  rescue restore STORE IMAGE DISK     overwrite DISK with IMAGE, and read it back
  rescue verify STORE [IMAGE]         read and check every byte that STORE (or IMAGE) needs
  rescue export STORE IMAGE -o FILE   write IMAGE, or one region of it, as a raw disk; - for standard output
  rescue help COMMAND                 more on one of them

A DISK is a device (/dev/nvme0n1), a file that stands in for one (disk.raw), an NBD export
(nbd:unix:/run/export.sock, nbd:host:10809), or a disk by what it is rather than by where the
kernel put it: serial:S4EWNX0R, wwn:eui.0025388b11b2, guid:6f1d2a3c-… (GPT disk GUID).
An IMAGE is `latest`, or the first digits of an id that `rescue images` shows.

Exit codes: 0 COMPLETE, 1 FAILED, 2 the command line makes no sense, 3 refused before anything
was written, 4 PARTIAL (something could not be read; what could be was kept).

A first try without a spare disk: rescue capture disk.raw my-store; rescue images my-store
";

const DISKS: &str = "\
rescue disks [--json]

Lists the disks of this machine: model, serial, size, table, and what each partition holds.
Memory, loop, optical and boot-partition devices are left out. Needs to be root to look into them.

  --json    an array of objects, one a disk; where a command fails, an object with error and refused
";

const SHOW: &str = "\
rescue show DISK [--map | --extents] [--keep-swap-files] [--json] [--sector-size BYTES]

Shows one disk: its partition table and what is wrong with it, and for each region the file system,
version, label, UUID, block size and state, what is used and free by the file system's own books, how
much an image would keep and why that is more than the books say, the files whose contents are left
out, and the volumes of a container. Changes nothing.

  --map                  draw what is kept of each region; ASCII where LANG or LC_* name no UTF-8
  --extents              print what is kept, for scripts: a line an extent, in the order of the disk, with
                         four fields between tabs: region (head, gap, tail, whole, or the number of the
                         partition), first byte on the disk, byte after the last, length
  --keep-swap-files      as a capture with --keep-swap-files sees it
  --json                 one object: identity, table, disk_id, problems, regions. A region has kind, range
                         (start and end on the disk), partition, detected (name, version, label, uuid,
                         block_size, state), used (bytes an image keeps), usage (used and free by the file
                         system's own books, or null), left_out (path, bytes), inside (name, bytes,
                         detected, kept), widened, notes. With --extents an array of objects: kind,
                         number (of a partition), start, end, len
  --sector-size BYTES    512 (the default) or 4096, when DISK is a file
";

const CAPTURE: &str = "\
rescue capture DISK STORE [--level N] [--note TEXT] [--dry-run] [--json] [--sector-size BYTES]

Images DISK into the folder STORE. Only blocks in use are read, every distinct chunk is stored once,
whatever disk or machine it came from. DISK is opened read-only and set read-only in the kernel for
as long as it takes; a disk that is mounted for writing is refused. There is no image before all of it
is safely stored; interrupted, a capture leaves nothing but chunks that the next one uses again.

  -l, --level N          zstd level, 1 (fast) to 19 (small); default 3
      --note TEXT        kept with the image and shown by `rescue images`
      --keep-swap-files  keep what lies in swap, page and hibernation files; without it, it counts as free
  -n, --dry-run          show the plan and stop
      --json             the result as one JSON object; progress as JSON lines on standard error
      --sector-size BYTES  512 (the default) or 4096, when DISK is a file

Ends as COMPLETE (0), PARTIAL (4: sectors were unreadable; the image is marked) or FAILED (1: no image).
";

const IMAGES: &str = "\
rescue images STORE [--json]

Lists the images in STORE, newest first: id, time, machine, disk, size, what it added to the store.

  --json    an array of objects: id, created, machine, disk, label, bytes, allocated, stored, …
";

const RESTORE: &str = "\
rescue restore STORE IMAGE DISK [--free WHAT] [--yes] [--dry-run] [--accept-partial] [--json]
               [--sector-size BYTES]

Overwrites DISK with IMAGE. DISK is read first, and what it holds already is not written again. Before the
first write every frame that DISK needs is read and checked, and the first and last MiB of DISK are kept in
the store (folder undo/). The head of the disk is written last, after everything else was read back from the
medium: a restore that stopped half-way leaves a disk that does not start, and doing it again goes on from
there. On a larger disk the backup GPT moves to the new end.

You are asked to type the end of the disk's serial number.

  -y, --yes              do not ask; only when DISK is a file, an NBD export, or named by serial:, wwn: or guid:
  -n, --dry-run          show the plan and stop
      --free WHAT        what becomes of DISK's free bytes: leave (they keep what is there now), discard (the disk
                         is told that they are not needed: TRIM, or holes in a file), zero (they are zeroed and
                         read back). Default: discard for a solid-state disk that can, else leave. Places where
                         signatures of what was there before may lie are zeroed in any case
      --accept-partial   restore an image although sectors of its source were unreadable
      --json             the result as one JSON object; progress as JSON lines on standard error
      --sector-size BYTES  512 or 4096, when DISK is a file; default: as the image

Refused (3): a disk in use, read-only, too small, with other sectors, or holding the store.
";

const VERIFY: &str = "\
rescue verify STORE [IMAGE] [--json]

Reads every byte of STORE (or all that IMAGE needs) and checks it: stored bytes, decompressed chunks,
indexes, manifests. Damage is named by image, region and bytes of the disk, and remembered, so that the
next capture of the same data stores it anew. Exit code 0 when all is well, 1 when not.

  --json    the result as one JSON object; progress as JSON lines on standard error
";

const EXPORT: &str = "\
rescue export STORE IMAGE -o FILE [--region REGION] [--overwrite] [--accept-partial] [--dry-run] [--json]

Writes IMAGE as a raw disk of exactly the source's length, for virtual machines, loop devices and other
tools. What the image does not keep is zero; in FILE, runs of zeros are holes. FILE has another name
(FILE.unfinished-…) until all of it is written and synced: a half file is never called FILE. Every chunk
is checked by its hash before it is written; FILE is not read back.

  -o, --output FILE      the file; `-` writes every byte, in order, to standard output, and everything else
                         that is said to standard error
      --region REGION    one region alone: the number of a partition, head, tail, whole, or gap where there
                         is one only (`rescue show` lists them)
      --overwrite        replace FILE when all of the new one is written
      --accept-partial   export although sectors of the source were unreadable; they are zeros
  -n, --dry-run          show the plan and stop
      --json             the result as one JSON object; progress as JSON lines on standard error

Ends as COMPLETE (0: synced; where standard output is a pipe, all of it was taken), PARTIAL (4) or FAILED
(1: there is no FILE; what came through standard output is not whole).
Refused (3): FILE exists, is a device or a link, or lies in STORE; standard output is a terminal or a disk.
A disk is written by `rescue restore`, which proves what it wrote.
";
