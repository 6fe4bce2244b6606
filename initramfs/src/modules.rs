//! Which kernel modules go in: the table's names, closed over what they depend on.
//!
//! A folder `lib/modules/VERSION` describes itself in text files made by `depmod`:
//!
//! ```text
//! modules.dep       kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/fs/mbcache.ko.xz
//! modules.softdep   softdep ext4 pre: crypto-crc32c
//! modules.alias     alias crypto-crc32c crc32c_generic
//! modules.builtin   kernel/fs/fuse/fuse.ko
//! ```
//!
//! In all of them, and between them, `-` and `_` in a module's name are the same; here it is always `_`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::table::Group;

/// Why the modules cannot be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    /// A file of the module folder cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A line of `modules.dep` is not `PATH: PATH ...`.
    #[error("modules.dep line {line}: {text:?} is not 'MODULE: MODULE ...' with relative paths")]
    Line {
        /// Line number from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A dependency is nowhere: the kernel would refuse the module that needs it.
    #[error("modules.dep: {module} needs {needs}, which is neither listed nor built in")]
    Dangling {
        /// The module that has the dependency.
        module: String,
        /// The name that is not found.
        needs: String,
    },
}

/// The module folder of one kernel, as its text files describe it.
#[derive(Debug, Default)]
pub struct ModuleTree {
    modules: BTreeMap<String, Module>,
    builtin: BTreeSet<String>,
    /// Names a soft dependency asks for, by module.
    soft: BTreeMap<String, Vec<String>>,
    /// Modules by alias; patterns with wildcards match devices, not names, and are left out.
    aliases: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Module {
    /// Below `lib/modules/VERSION`.
    path: String,
    needs: Vec<String>,
}

/// The chosen modules.
#[derive(Debug, Default)]
pub struct Selection {
    /// Module name to path below `lib/modules/VERSION`.
    pub modules: BTreeMap<String, String>,
    /// Rows of the table this kernel does not have, with the group.
    pub missing: Vec<(&'static str, &'static str)>,
}

impl ModuleTree {
    /// Reads the text files in `folder`, which is a `lib/modules/VERSION`.
    ///
    /// # Errors
    /// [`ModulesError::Read`] (only `modules.dep` must exist) and those of [`ModuleTree::parse`].
    pub fn open(folder: &Path) -> Result<ModuleTree, ModulesError> {
        let dep = read(&folder.join("modules.dep"))?;
        let optional = |name: &str| match read(&folder.join(name)) {
            Err(ModulesError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
        Self::parse(&dep, &optional("modules.softdep")?, &optional("modules.alias")?, &optional("modules.builtin")?)
    }

    /// Takes the four texts apart.
    ///
    /// # Errors
    /// [`ModulesError::Line`] for `modules.dep`. Lines of another kind in the other three are passed over, as
    /// modprobe does.
    pub fn parse(dep: &str, softdep: &str, alias: &str, builtin: &str) -> Result<ModuleTree, ModulesError> {
        let mut tree = ModuleTree { builtin: builtin.lines().map(name_of).collect(), ..ModuleTree::default() };
        for (line, text) in (1..).zip(dep.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let (path, needs) =
                parse_dep_line(text).ok_or_else(|| ModulesError::Line { line, text: text.to_owned() })?;
            tree.modules.insert(name_of(path), Module { path: path.to_owned(), needs });
        }
        for mut words in softdep.lines().map(str::split_whitespace) {
            if let (Some("softdep"), Some(module)) = (words.next(), words.next()) {
                let names = words.filter(|word| !matches!(*word, "pre:" | "post:")).map(str::to_owned);
                tree.soft.entry(name_of(module)).or_default().extend(names);
            }
        }
        for mut words in alias.lines().map(str::split_whitespace) {
            if let (Some("alias"), Some(alias), Some(module)) = (words.next(), words.next(), words.next())
                && !alias.contains(['*', '?', '['])
            {
                tree.aliases.entry(alias.replace('-', "_")).or_default().push(name_of(module));
            }
        }
        Ok(tree)
    }

    /// Chooses the modules of `table` and all they need, softly or not.
    ///
    /// # Errors
    /// [`ModulesError::Dangling`].
    pub fn select(&self, table: &[Group]) -> Result<Selection, ModulesError> {
        let mut chosen = Selection::default();
        let mut open = Vec::new();
        for (group, row) in table.iter().flat_map(|group| group.modules.iter().map(|row| (group.name, *row))) {
            let found = self.rows_modules(row);
            if found.is_empty() && !self.builtin.contains(&name_of(row)) {
                chosen.missing.push((group, row));
            }
            open.extend(found);
        }
        while let Some(name) = open.pop() {
            let Some(module) = self.modules.get(&name) else { continue };
            if chosen.modules.insert(name.clone(), module.path.clone()).is_some() {
                continue;
            }
            for needs in &module.needs {
                if !self.modules.contains_key(needs) && !self.builtin.contains(needs) {
                    return Err(ModulesError::Dangling { module: name, needs: needs.clone() });
                }
                open.push(needs.clone());
            }
            // A soft dependency that is nowhere is no fault: it is a wish.
            open.extend(self.soft.get(&name).into_iter().flatten().flat_map(|wish| self.resolve(wish)));
        }
        Ok(chosen)
    }

    /// The modules one row of the table names; none where the kernel lacks it or has it built in.
    fn rows_modules(&self, row: &str) -> Vec<String> {
        if row.ends_with('/') {
            let below = self.modules.iter().filter(|(_, module)| module.path.starts_with(row));
            return below.map(|(name, _)| name.clone()).collect();
        }
        self.resolve(row)
    }

    /// The modules meant by a name that may be an alias.
    fn resolve(&self, name: &str) -> Vec<String> {
        let name = name.replace('-', "_");
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        self.aliases.get(&name).cloned().unwrap_or_default()
    }
}

impl Selection {
    /// Keeps the lines of a `modules.dep` that are about chosen modules.
    pub fn reduce_dep(&self, text: &str) -> String {
        keep_lines(text, |line| line.split(':').next().is_some_and(|path| self.modules.contains_key(&name_of(path))))
    }

    /// Keeps the lines of a `modules.alias` that lead to chosen modules.
    pub fn reduce_alias(&self, text: &str) -> String {
        self.keep_lines_by_word(text, "alias", 2)
    }

    /// Keeps the lines of a `modules.softdep` that are about chosen modules.
    pub fn reduce_softdep(&self, text: &str) -> String {
        self.keep_lines_by_word(text, "softdep", 1)
    }

    fn keep_lines_by_word(&self, text: &str, keyword: &str, nth: usize) -> String {
        keep_lines(text, |line| {
            let mut words = line.split_whitespace();
            words.clone().next() == Some(keyword)
                && words.nth(nth).is_some_and(|w| self.modules.contains_key(&name_of(w)))
        })
    }
}

/// Reads a text file of the module folder.
///
/// # Errors
/// [`ModulesError::Read`]; a file that is not UTF-8 as well.
pub fn read(path: &Path) -> Result<String, ModulesError> {
    fs::read_to_string(path).map_err(|source| ModulesError::Read { path: path.to_owned(), source })
}

fn parse_dep_line(text: &str) -> Option<(&str, Vec<String>)> {
    let (path, needs) = text.split_once(':')?;
    // The paths are read from disk and become paths of the archive.
    let clean = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
    if path.contains(char::is_whitespace) || !clean(path) || !needs.split_whitespace().all(clean) {
        return None;
    }
    Some((path, needs.split_whitespace().map(name_of).collect()))
}

/// `kernel/drivers/usb/storage/usb-storage.ko.xz` and `usb-storage` are both `usb_storage`.
fn name_of(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    let stem = file.find(".ko").and_then(|at| file.get(..at)).unwrap_or(file);
    stem.replace('-', "_")
}

fn keep_lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| keep(line)).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEP: &str = "\
kernel/a/top.ko.xz: kernel/a/mid-dle.ko.xz kernel/a/low.ko.xz
kernel/a/mid-dle.ko.xz: kernel/a/low.ko.xz
kernel/a/low.ko.xz:
kernel/b/ring-1.ko: kernel/b/ring_2.ko
kernel/b/ring_2.ko: kernel/b/ring-1.ko
kernel/c/soft.ko.zst:
kernel/c/wished.ko.zst: kernel/a/low.ko.xz
kernel/c/also.ko.zst:
kernel/d/uses_builtin.ko: kernel/d/inside.ko
";
    const SOFTDEP: &str = "# comment\nsoftdep soft pre: crypto-wish post: also nowhere\nsoftdep\n";
    const ALIAS: &str = "# comment\nalias crypto-wish wished\nalias pci:v*d1 top\nalias pci:v*d2 also\nalias\n";
    const BUILTIN: &str = "kernel/d/inside.ko\n";

    fn tree() -> ModuleTree {
        ModuleTree::parse(DEP, SOFTDEP, ALIAS, BUILTIN).unwrap()
    }

    fn select(rows: &'static [&'static str]) -> Selection {
        tree().select(&[Group { name: "group", why: "", modules: rows }]).unwrap()
    }

    #[test]
    fn closes_over_dependencies() {
        for (name, rows, want) in [
            ("chain", &["top"][..], &["low", "mid_dle", "top"][..]),
            ("either dash", &["mid_dle"], &["low", "mid_dle"]),
            ("the other dash", &["mid-dle"], &["low", "mid_dle"]),
            ("circle", &["ring_1"], &["ring_1", "ring_2"]),
            ("soft ones, by alias and by name", &["soft"], &["also", "low", "soft", "wished"]),
            ("alias", &["crypto-wish"], &["low", "wished"]),
            ("folder", &["kernel/b/"], &["ring_1", "ring_2"]),
            ("built-in dependency", &["uses_builtin"], &["uses_builtin"]),
            ("built-in itself", &["inside"], &[]),
            ("nothing", &[], &[]),
        ] {
            let chosen = select(rows);
            assert_eq!(chosen.modules.keys().collect::<Vec<_>>(), want.iter().collect::<Vec<_>>(), "{name}");
            assert_eq!(chosen.missing, [], "{name}");
        }
    }

    #[test]
    fn reports_what_the_kernel_lacks() {
        let chosen = select(&["absent", "top", "kernel/e/", "pci:v*d1"]);
        assert_eq!(chosen.missing, [("group", "absent"), ("group", "kernel/e/"), ("group", "pci:v*d1")]);
    }

    #[test]
    fn a_dependency_that_is_nowhere_is_an_error() {
        let tree = ModuleTree::parse("kernel/x.ko: kernel/gone.ko\n", "", "", "").unwrap();
        let refused = tree.select(&[Group { name: "", why: "", modules: &["x"] }]).unwrap_err();
        assert_eq!(refused.to_string(), "modules.dep: x needs gone, which is neither listed nor built in");
    }

    #[test]
    fn keeps_the_lines_of_chosen_modules() {
        let chosen = select(&["top", "soft"]);
        assert_eq!(chosen.reduce_dep(DEP).lines().count(), 6, "{}", chosen.reduce_dep(DEP));
        assert_eq!(chosen.reduce_alias(ALIAS), "alias crypto-wish wished\nalias pci:v*d1 top\nalias pci:v*d2 also\n");
        assert_eq!(chosen.reduce_softdep(SOFTDEP), "softdep soft pre: crypto-wish post: also nowhere\n");
        assert_eq!(select(&["low"]).reduce_alias(ALIAS), "");
    }

    #[test]
    fn refuses_lines_that_lead_elsewhere() {
        for text in ["no colon", "/abs.ko:", "../up.ko:", "a/../../b.ko:", "a.ko: /etc/shadow", "two words.ko:", ":"] {
            let refused = ModuleTree::parse(text, "", "", "").map(|_| ()).unwrap_err();
            assert!(matches!(refused, ModulesError::Line { line: 1, .. }), "{text}: {refused}");
        }
    }

    /// Words as they stand in these files, and the characters that give them meaning, in any order.
    fn scrap() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "kernel/a/x.ko",
            "kernel/b/y-z.ko.xz",
            "x",
            "y_z",
            "y-z",
            ":",
            ": ",
            " ",
            "\n",
            "alias ",
            "softdep ",
            "pre:",
            "post:",
            "*",
            "/",
            "..",
            ".ko",
            "\t",
            "é",
            "\0",
            "#",
        ]);
        prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
    }

    /// Mostly lines of the form `form` makes of two to four names, now and then scrap.
    fn text(names: &'static [&'static str], form: fn(&[&str]) -> String) -> impl Strategy<Value = String> {
        let line =
            prop::collection::vec(prop::sample::select(names.to_vec()), 2..5).prop_map(move |names| form(&names));
        let any = prop_oneof![30 => line, 1 => scrap()];
        prop::collection::vec(any, 0..8).prop_map(|lines| lines.concat())
    }

    fn dep_text() -> impl Strategy<Value = String> {
        const PATHS: &[&str] = &["kernel/a/x.ko", "kernel/b/y-z.ko.xz", "kernel/c/w.ko", "kernel/d/inside.ko"];
        text(PATHS, |paths| format!("{}: {}\n", paths[0], paths[2..].join(" ")))
    }

    fn named_text(form: fn(&[&str]) -> String) -> impl Strategy<Value = String> {
        text(&["x", "y_z", "y-z", "w", "inside", "wish", "pre:", "post:", "w*"], form)
    }

    /// A `modules.dep` of modules `m0`, `m1`, ... with any dependencies among them, circles too.
    fn graph() -> impl Strategy<Value = Vec<Vec<usize>>> {
        (1..12_usize).prop_flat_map(|count| prop::collection::vec(prop::collection::vec(0..count, 0..4), count..=count))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn closure_is_what_a_slow_search_finds(needs in graph(), starts in prop::collection::vec(0..12_usize, 1..3)) {
            let path = |module: usize| format!("kernel/{}/m{module}.ko.xz", module % 3);
            let line = |(module, needs): (usize, &Vec<usize>)| {
                format!("{}: {}\n", path(module), needs.iter().map(|&n| path(n)).collect::<Vec<_>>().join(" "))
            };
            let dep: String = needs.iter().enumerate().map(line).collect();
            const NAMES: [&[&str]; 12] = [
                &["m0"], &["m1"], &["m2"], &["m3"], &["m4"], &["m5"], &["m6"], &["m7"], &["m8"], &["m9"], &["m10"], &["m11"],
            ];
            let table: Vec<_> = starts.iter().map(|&m| Group { name: "", why: "", modules: NAMES[m] }).collect();
            let chosen = ModuleTree::parse(&dep, "", "", "").unwrap().select(&table).unwrap();

            let mut want: BTreeSet<usize> = starts.iter().copied().filter(|&m| m < needs.len()).collect();
            for _ in 0..needs.len() {
                want.extend(want.clone().iter().flat_map(|&m| &needs[m]).copied());
            }
            let want: BTreeMap<_, _> = want.into_iter().map(|m| (format!("m{m}"), path(m))).collect();
            prop_assert_eq!(&chosen.modules, &want);
            prop_assert_eq!(chosen.missing.len(), starts.iter().filter(|&&m| m >= needs.len()).count());
            prop_assert_eq!(chosen.reduce_dep(&dep).lines().count(), want.len());
        }

        #[test]
        fn no_text_is_too_odd(
            dep in dep_text(),
            soft in named_text(|names| format!("softdep {}\n", names.join(" "))),
            alias in named_text(|names| format!("alias {} {}\n", names[0], names[1])),
            builtin in text(&["kernel/d/inside.ko"], |names| format!("{}\n", names[0])),
        ) {
            let Ok(tree) = ModuleTree::parse(&dep, &soft, &alias, &builtin) else { return Ok(()) };
            let table = [Group { name: "", why: "", modules: &["x", "y_z", "wish", "kernel/b/"] }];
            let Ok(chosen) = tree.select(&table) else { return Ok(()) };
            for path in chosen.modules.values() {
                prop_assert!(!path.split('/').any(|part| part == ".." || part.is_empty()), "{path}");
            }
            // What was chosen is whole: choosing again from the reduced files gives the same.
            let again = ModuleTree::parse(
                &chosen.reduce_dep(&dep), &chosen.reduce_softdep(&soft), &chosen.reduce_alias(&alias), &builtin,
            ).expect("lines of a good file").select(&table).expect("nothing it needs was dropped");
            prop_assert_eq!(chosen.modules, again.modules);
        }
    }
}
