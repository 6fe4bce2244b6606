//! Files in and out of NTFS images: through ntfs-3g and FUSE where that is allowed, else by ntfscp, ntfsls and ntfscat.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use crate::tools::{Bench, run, run_any, tool};

/// Tells whether images can be mounted here, by mounting one.
pub fn fuse() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let bench = Bench::new();
        let image = bench.blank("probe", 4 << 20);
        run("mkntfs", &["-q", "-F", "-f", &image]);
        let mounted = Mounted::open(&bench, &image, "ro").map(drop);
        mounted.inspect_err(|why| eprintln!("volumes are filled by ntfscp and read by ntfscat: {why}")).is_ok()
    })
}

/// A mounted image; unmounted, and all of it written, when it goes out of scope.
pub struct Mounted {
    pub root: PathBuf,
    child: Child,
}

impl Mounted {
    pub fn new(bench: &Bench, image: &str, options: &str) -> Self {
        Self::open(bench, image, options).unwrap()
    }

    fn open(bench: &Bench, image: &str, options: &str) -> Result<Self, String> {
        let root = bench.dir.path().join("mounted");
        fs::create_dir(&root).unwrap();
        let before = fs::metadata(&root).unwrap().dev();
        let mut command = Command::new(tool("ntfs-3g"));
        command.args([image, root.to_str().unwrap(), "-o", &format!("no_detach,{options}")]);
        let log = bench.path("ntfs-3g.log");
        let mut child = command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let begun = Instant::now();
        while fs::metadata(&root).unwrap().dev() == before {
            if let Some(status) = child.try_wait().unwrap() {
                fs::remove_dir(&root).unwrap();
                return Err(format!("ntfs-3g: {status}: {}", fs::read_to_string(&log).unwrap()));
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "ntfs-3g mounts nothing");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { root, child })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let root = self.root.to_str().unwrap();
        let done = |name: &str, args: &[&str]| {
            Command::new(name).args(args).arg(root).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        // Programs that other tests start have our files open until they run.
        let begun = Instant::now();
        while !done("umount", &[]) && !done("fusermount", &["-u"]) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{root} stays mounted");
            thread::sleep(Duration::from_millis(20));
        }
        // Only when the driver has ended is everything in the image.
        self.child.wait().unwrap();
        fs::remove_dir(&self.root).unwrap();
    }
}

/// Returns every file by content, metadata files and named streams of the root included.
pub fn contents(bench: &Bench, image: &str) -> BTreeMap<PathBuf, String> {
    if !fuse() {
        return flat_contents(image);
    }
    let mounted = Mounted::new(bench, image, "ro,show_sys_files,streams_interface=windows");
    let mut found = BTreeMap::new();
    hash(&mounted.root, &mounted.root, &mut found);
    for name in ["large:stream", "large:second"] {
        if let Ok(bytes) = fs::read(mounted.root.join(name)) {
            found.insert(name.into(), blake3::hash(&bytes).to_string());
        }
    }
    found
}

/// Hashes everything below `dir`; of what cannot be read, as some of the system's files, the reason.
fn hash(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type());
        let content = match kind {
            Ok(kind) if kind.is_dir() => {
                hash(root, &path, found);
                "folder".to_owned()
            }
            Ok(kind) if kind.is_symlink() => format!("{:?}", fs::read_link(&path).map_err(|error| error.kind())),
            Ok(_) => match fs::read(&path) {
                Ok(bytes) => blake3::hash(&bytes).to_string(),
                Err(error) => error.kind().to_string(),
            },
            Err(error) => error.kind().to_string(),
        };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), content);
    }
}

/// Returns the files of the root folder, and the system's own.
fn flat_contents(image: &str) -> BTreeMap<PathBuf, String> {
    let listed = run("ntfsls", &["-a", "-s", "-i", "-f", image]);
    let names = listed.lines().filter_map(|line| line.trim().split_once(' '));
    let read = |(inode, name): (&str, &str)| {
        let output = run_any("ntfscat", &["-f", "-i", inode, image]);
        (PathBuf::from(name), blake3::hash(&output.stdout).to_string())
    };
    names.map(read).collect()
}

/// Copies the files below `tree` into the root folder, under their path with dashes.
pub fn copy_flat(tree: &Path, image: &str) {
    let mut todo = vec![tree.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => todo.push(path),
                kind if kind.is_file() => {
                    let name = path.strip_prefix(tree).unwrap().to_str().unwrap().replace('/', "-");
                    run("ntfscp", &["-q", "-f", image, path.to_str().unwrap(), &name]);
                }
                _ => {}
            }
        }
    }
}

/// Returns the clusters that ntfsclone calls used, having compared the bitmap with all files itself.
pub fn used_clusters(bench: &Bench, image: &str) -> (u64, Vec<u64>) {
    let saved = bench.path("ntfsclone.image");
    let _ = fs::remove_file(&saved);
    run("ntfsclone", &["-q", "-f", "--save-image", "-o", &saved, image]);
    let bytes = fs::read(&saved).unwrap();
    fs::remove_file(&saved).unwrap();
    assert!(bytes.starts_with(b"\0ntfsclone-image"));
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let four = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()));
    let (cluster, clusters, mut at) = (four(18), word(30), usize::try_from(four(46)).unwrap());
    let (mut number, mut used) = (0, Vec::new());
    // Behind the last cluster comes the copy of the boot sector.
    while number < clusters {
        if bytes[at] == 0 {
            number += word(at + 1);
            at += 9;
        } else {
            used.push(number);
            number += 1;
            at += 1 + usize::try_from(cluster).unwrap();
        }
    }
    (cluster, used)
}

/// Returns what the checkers say.
pub fn verdict(image: &str) -> Vec<(Option<i32>, String)> {
    let say = |name: &str, args: &[&str]| {
        let output = run_any(name, args);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).replace(image, ""))
    };
    vec![say("ntfsfix", &["-n", image]), say("ntfsresize", &["-f", "-i", image]), say("ntfsinfo", &["-f", "-m", image])]
}
