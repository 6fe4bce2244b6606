//! Kernel modules: which ones a device or a name needs, in which order, and loading them.
//!
//! The index is what `depmod` leaves in `/lib/modules/RELEASE`: `modules.dep` (`path: dependency…`, all of them, the
//! deepest last), `modules.alias` (`alias PATTERN MODULE`), `modules.softdep` (`softdep MODULE pre: … post: …`) and
//! `modules.builtin` (one path a line). Names are compared with `-` read as `_`, as everywhere in the kernel.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{cmdline, glob};
use crate::{escape::Escaped, sys::kmod};

/// No index file of a real kernel comes near this; bounds what a damaged archive can make us read.
const MAX_INDEX: u64 = 64 << 20;
/// Chains of real kernels are some ten long; one of thousands would take more stack than a thread has.
const MAX_DEPTH: u32 = 64;

/// Why a module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a module nor an alias of one.
    #[error("no module is called {}", Escaped(.0))]
    Unknown(String),
    /// The kernel did not take it.
    #[error("module {name} ({}) was not taken by the kernel", path.display())]
    Insert {
        /// The module.
        name: String,
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The texts of an index, each empty where there is no such file.
#[derive(Clone, Debug, Default)]
pub struct IndexTexts {
    /// `modules.dep`.
    pub dep: Vec<u8>,
    /// `modules.alias`.
    pub alias: Vec<u8>,
    /// `modules.softdep`.
    pub softdep: Vec<u8>,
    /// `modules.builtin`.
    pub builtin: Vec<u8>,
}

#[derive(Debug, Default)]
struct Module {
    path: String,
    needs: Vec<String>,
    before: Vec<String>,
    after: Vec<String>,
}

/// Which modules there are, what they need and which devices they are for.
#[derive(Debug, Default)]
pub struct Index {
    modules: HashMap<String, Module>,
    builtin: HashSet<String>,
    /// Patterns by what stands before their first `:`, so that a PCI device is not compared with every USB pattern.
    aliases: HashMap<Vec<u8>, Vec<(Vec<u8>, String)>>,
}

/// One module to insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Its file, relative to the folder of the index.
    pub path: String,
    /// Whether the one asked for is of use without it: it is only a soft dependency.
    pub optional: bool,
}

/// Returns `name` as the kernel compares it.
#[must_use]
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// As [`normalise`], but for patterns: `-` inside `[…]` is a range and stays.
fn normalise_pattern(pattern: &[u8]) -> Vec<u8> {
    let mut in_set = false;
    let one = |byte: &u8| {
        in_set = (in_set || *byte == b'[') && *byte != b']';
        if *byte == b'-' && !in_set { b'_' } else { *byte }
    };
    pattern.iter().map(one).collect()
}

/// Returns the module's name in a path: `kernel/fs/ext4/ext4.ko.xz` is `ext4`.
fn name_in_path(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    (!name.is_empty()).then(|| normalise(name))
}

fn bus(alias: &[u8]) -> &[u8] {
    let end = alias.iter().position(|b| *b == b':').unwrap_or(0);
    let bus = alias.get(..end).unwrap_or_default();
    if bus.iter().any(|b| b"*?[\\".contains(b)) { &[] } else { bus }
}

fn lines(text: &[u8]) -> impl Iterator<Item = String> + '_ {
    text.split(|b| *b == b'\n').map(|line| String::from_utf8_lossy(line).trim().to_owned())
}

impl Index {
    /// Reads the index in `folder`. A file that is missing counts as empty: everything may be built in.
    #[must_use]
    pub fn read(folder: &Path) -> Self {
        let text = |name: &str| {
            let mut bytes = Vec::new();
            if let Ok(file) = File::open(folder.join(name)) {
                let _ = file.take(MAX_INDEX).read_to_end(&mut bytes);
            }
            bytes
        };
        Self::parse(&IndexTexts {
            dep: text("modules.dep"),
            alias: text("modules.alias"),
            softdep: text("modules.softdep"),
            builtin: text("modules.builtin"),
        })
    }

    /// Parses an index. Lines that make no sense are left out.
    #[must_use]
    pub fn parse(texts: &IndexTexts) -> Self {
        let mut index = Self::default();
        for line in lines(&texts.dep) {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let Some(name) = name_in_path(path) else { continue };
            // The deepest dependency stands last and is needed first.
            let needs = needs.split_whitespace().rev().filter_map(name_in_path).collect();
            index.modules.insert(name, Module { path: path.to_owned(), needs, ..Module::default() });
        }
        index.builtin = lines(&texts.builtin).filter_map(|path| name_in_path(&path)).collect();
        for line in lines(&texts.alias) {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let pattern = normalise_pattern(pattern.as_bytes());
                index.aliases.entry(bus(&pattern).to_vec()).or_default().push((pattern, normalise(module)));
            }
        }
        lines(&texts.softdep).for_each(|line| index.add_softdep(&line));
        index
    }

    fn add_softdep(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some("softdep"), Some(module)) = (words.next(), words.next()) else { return };
        let Some(module) = self.modules.get_mut(&normalise(module)) else { return };
        let mut before = true;
        for word in words {
            match word {
                "pre:" => before = true,
                "post:" => before = false,
                name if before => module.before.push(normalise(name)),
                name => module.after.push(normalise(name)),
            }
        }
    }

    /// Tells whether `name` is part of the kernel itself.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normalise(name))
    }

    /// Lists the modules that `text` means: the one of that name, else every one with a matching alias.
    #[must_use]
    pub fn find(&self, text: &str) -> Vec<String> {
        let name = normalise(text);
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        let text = normalise_pattern(text.as_bytes());
        let mut found: Vec<String> = Vec::new();
        let mut buses = vec![bus(&text), &[]];
        buses.dedup();
        for (pattern, module) in buses.into_iter().filter_map(|bus| self.aliases.get(bus)).flatten() {
            if glob::matches(pattern, &text) && !found.contains(module) {
                found.push(module.clone());
            }
        }
        found
    }

    /// Lists what has to be inserted for `module`, in order: soft dependencies before it, dependencies, the module,
    /// soft dependencies behind it. Circles are cut where they close.
    #[must_use]
    pub fn order(&self, module: &str) -> Vec<Step> {
        let (mut steps, mut seen) = (Vec::new(), HashSet::new());
        self.visit(&normalise(module), (MAX_DEPTH, false), &mut seen, &mut steps);
        steps
    }

    fn visit(&self, name: &str, (depth, optional): (u32, bool), seen: &mut HashSet<String>, steps: &mut Vec<Step>) {
        let Some(module) = self.modules.get(name) else { return };
        let Some(depth) = depth.checked_sub(1).filter(|_| seen.insert(name.to_owned())) else { return };
        for soft in module.before.iter().flat_map(|soft| self.find(soft)) {
            self.visit(&soft, (depth, true), seen, steps);
        }
        for needed in &module.needs {
            self.visit(needed, (depth, optional), seen, steps);
        }
        steps.push(Step { name: name.to_owned(), path: module.path.clone(), optional });
        for soft in module.after.iter().flat_map(|soft| self.find(soft)) {
            self.visit(&soft, (depth, true), seen, steps);
        }
    }
}

/// How [`Loader`] inserts a file with parameters.
type Insert = Box<dyn FnMut(&Path, &str) -> io::Result<()> + Send>;

/// Loads modules, each once.
pub struct Loader {
    folder: PathBuf,
    index: Index,
    /// `name=value …` by module, from the kernel command line.
    params: HashMap<String, String>,
    /// Not loaded because a device asks for them: `modprobe.blacklist=` on the kernel command line.
    blacklist: HashSet<String>,
    loaded: HashSet<String>,
    insert: Insert,
}

impl Loader {
    /// Returns a loader for the running kernel, with what the kernel command line says of modules.
    #[must_use]
    pub fn for_running_kernel(command_line: &str) -> Self {
        let release = nix::sys::utsname::uname().map(|name| name.release().to_owned()).unwrap_or_default();
        let folder = Path::new("/lib/modules").join(release);
        let index = Index::read(&folder);
        Self::new(folder, index, command_line, Box::new(kmod::insert))
    }

    fn new(folder: PathBuf, index: Index, command_line: &str, insert: Insert) -> Self {
        let (mut params, mut blacklist) = (HashMap::<String, String>::new(), HashSet::new());
        for (key, value) in cmdline::words(command_line) {
            match (key.split_once('.'), value) {
                (Some(("modprobe", "blacklist")), Some(list)) => blacklist.extend(list.split(',').map(normalise)),
                (Some((module, param)), value) => {
                    let all = params.entry(normalise(module)).or_default();
                    let quoted = value.map(|v| if v.contains(' ') { format!("=\"{v}\"") } else { format!("={v}") });
                    *all = format!("{all} {param}{}", quoted.unwrap_or_default()).trim().to_owned();
                }
                _ => {}
            }
        }
        Self { folder, index, params, blacklist, loaded: HashSet::new(), insert }
    }

    /// Tells how many modules there are to choose from.
    #[must_use]
    pub fn known(&self) -> usize {
        self.index.modules.len()
    }

    /// Loads every module for the device alias `modalias`; returns the names of those that are new.
    ///
    /// # Errors
    /// [`Error::Insert`] for the first that failed, after all were tried. An alias nobody has is no error: most
    /// devices need no driver here.
    pub fn load_for_device(&mut self, modalias: &str) -> Result<Vec<String>, Error> {
        let mut found = self.index.find(modalias);
        found.retain(|name| !self.blacklist.contains(name));
        self.load_all(&found)
    }

    /// Loads the module called `name`, or every one with that alias; returns the names of those that are new.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Insert`] for the first that failed, after all were tried.
    pub fn load(&mut self, name: &str) -> Result<Vec<String>, Error> {
        if self.index.is_builtin(name) {
            return Ok(Vec::new());
        }
        match self.index.find(name) {
            found if found.is_empty() => Err(Error::Unknown(name.to_owned())),
            found => self.load_all(&found),
        }
    }

    fn load_all(&mut self, modules: &[String]) -> Result<Vec<String>, Error> {
        let (mut new, mut failed) = (Vec::new(), None);
        for step in modules.iter().flat_map(|module| self.index.order(module)).collect::<Vec<_>>() {
            if self.loaded.contains(&step.name) {
                continue;
            }
            let path = self.folder.join(&step.path);
            let params = self.params.get(&step.name).map_or("", String::as_str);
            match (self.insert)(&path, params) {
                Ok(()) => {
                    self.loaded.insert(step.name.clone());
                    new.push(step.name);
                }
                Err(source) if !step.optional && failed.is_none() => {
                    failed = Some(Error::Insert { name: step.name, path, source });
                }
                Err(_) => {}
            }
        }
        failed.map_or(Ok(new), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    fn texts() -> IndexTexts {
        IndexTexts {
            dep: b"kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz kernel/lib/crc16.ko\n\
                kernel/fs/jbd2/jbd2.ko.xz:\nkernel/fs/mbcache.ko.xz:\nkernel/lib/crc16.ko:\n\
                kernel/crypto/crc32c-generic.ko:\nkernel/crypto/crc32c-intel.ko:\n\
                kernel/usb/usb-storage.ko: kernel/usb/usbcore.ko\nkernel/usb/usbcore.ko: kernel/usb/usb-common.ko\n\
                kernel/usb/usb-common.ko:\nkernel/usb/uas.ko: kernel/usb/usb-storage.ko kernel/usb/usbcore.ko\n\
                a/x.ko: a/y.ko\na/y.ko: a/x.ko\nrubbish\n: :\n.ko:\n"
                .to_vec(),
            alias: b"# Aliases\nalias fs-ext4 ext4\nalias crypto-crc32c crc32c_generic\nalias crypto-crc32c crc32c_intel\n\
                alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\nalias usb:v*p*d*dc*dsc*dp*ic08isc06ip62in* uas\n\
                alias usb:v*p*d*dc*dsc*dp*ic08isc06ip[56]*in* uas\nalias char-major-10-* x\nalias a*:b y\nalias\nalias b\n"
                .to_vec(),
            softdep: b"softdep ext4 pre: crypto-crc32c\nsoftdep usb_storage post: uas\nsoftdep none pre: a\nsoftdep\n".to_vec(),
            builtin: b"kernel/fs/ramfs.ko\nkernel/drivers/virtio/virtio-pci.ko\n".to_vec(),
        }
    }

    fn names(steps: &[Step]) -> Vec<&str> {
        steps.iter().map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn dependencies_and_soft_ones_come_in_order() {
        let index = Index::parse(&texts());
        let ext4 = index.order("ext4");
        assert_eq!(names(&ext4), ["crc32c_generic", "crc32c_intel", "crc16", "mbcache", "jbd2", "ext4"]);
        assert_eq!(ext4.iter().map(|s| s.optional).collect::<Vec<_>>(), [true, true, false, false, false, false]);
        assert_eq!(ext4[5].path, "kernel/fs/ext4/ext4.ko.xz");
        assert_eq!(names(&index.order("usb-storage")), ["usb_common", "usbcore", "usb_storage", "uas"]);
        assert!(index.order("nothing").is_empty());
    }

    #[test]
    fn circles_are_cut() {
        let index = Index::parse(&texts());
        assert_eq!(names(&index.order("x")), ["y", "x"]);
        assert_eq!(names(&index.order("y")), ["x", "y"]);
    }

    #[test]
    fn names_and_aliases_are_found() {
        let index = Index::parse(&texts());
        for (text, want) in [
            ("usb-storage", vec!["usb_storage"]),
            ("usb_storage", vec!["usb_storage"]),
            ("fs-ext4", vec!["ext4"]),
            ("fs_ext4", vec!["ext4"]),
            ("crypto-crc32c", vec!["crc32c_generic", "crc32c_intel"]),
            ("usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", vec!["usb_storage", "uas"]),
            ("char-major-10-57", vec!["x"]),
            ("abc:b", vec!["y"]),
            ("pci:v1", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(index.find(text), want, "{text}");
        }
        assert!(index.is_builtin("virtio_pci") && !index.is_builtin("ext4"));
    }

    fn loader(command_line: &str, fail: &'static str) -> (Loader, Arc<Mutex<Vec<String>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&log);
        let insert = move |path: &Path, params: &str| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !fail.is_empty() && name.starts_with(fail) {
                return Err(io::Error::from_raw_os_error(nix::libc::ENODEV));
            }
            seen.lock().unwrap().push(format!("{name} {params}").trim().to_owned());
            Ok(())
        };
        (Loader::new("/m".into(), Index::parse(&texts()), command_line, Box::new(insert)), log)
    }

    #[test]
    fn each_module_is_loaded_once_and_with_its_parameters() {
        let line = "quiet usb-storage.delay_use=0 usb_storage.quirks=\"a b\" usbcore.old modprobe.blacklist=uas,ext4";
        let (mut loader, log) = loader(line, "");
        let new = loader.load_for_device("usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00").unwrap();
        assert_eq!(new, ["usb_common", "usbcore", "usb_storage", "uas"], "uas by softdep, not by its alias");
        assert_eq!(
            *log.lock().unwrap(),
            ["usb-common.ko", "usbcore.ko old", "usb-storage.ko delay_use=0 quirks=\"a b\"", "uas.ko"]
        );
        assert!(loader.load("usb-storage").unwrap().is_empty());
        assert!(loader.load("virtio-pci").unwrap().is_empty(), "built in");
        assert!(loader.load_for_device("nobody:knows").unwrap().is_empty());
        assert!(matches!(loader.load("nobody"), Err(Error::Unknown(_))));
        assert_eq!(loader.load("ext4").unwrap().last().map(String::as_str), Some("ext4"), "blacklist is for aliases");
    }

    #[test]
    fn a_soft_dependency_may_fail_and_a_real_one_may_not() {
        let (mut soft, _) = loader("", "crc32c");
        assert_eq!(soft.load("fs-ext4").unwrap().len(), 4);
        let (mut hard, _) = loader("", "jbd2");
        let error = hard.load("fs-ext4").unwrap_err();
        assert_eq!(error.to_string(), "module jbd2 (/m/kernel/fs/jbd2/jbd2.ko.xz) was not taken by the kernel");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_index_makes_it_panic_or_order_a_module_twice(
            dep in "([a-c]/?[a-d]\\.ko: ?([a-d]\\.ko ?){0,4}\n?){0,12}",
            alias in "(alias [a-d*?:\\[\\]-]{0,6} [a-d]\n?){0,8}",
            softdep in "(softdep [a-d] (pre:|post:)? ?([a-d*] ?){0,3}\n){0,6}",
            name in "[a-d:-]{0,4}",
        ) {
            let index = Index::parse(&IndexTexts {
                dep: dep.into_bytes(), alias: alias.into_bytes(), softdep: softdep.into_bytes(), builtin: Vec::new(),
            });
            for found in index.find(&name) {
                let steps = index.order(&found);
                let distinct: HashSet<_> = steps.iter().map(|step| &step.name).collect();
                prop_assert_eq!(distinct.len(), steps.len());
            }
        }

        #[test]
        fn bytes_that_are_no_text_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), name in ".{0,10}") {
            let index = Index::parse(&IndexTexts {
                dep: bytes.clone(), alias: bytes.clone(), softdep: bytes.clone(), builtin: bytes,
            });
            let _ = index.find(&name);
        }
    }
}
