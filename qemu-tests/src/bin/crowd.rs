//! Fills a volume with many files, through the driver of a guest's kernel: for benchmarks on a machine that has none.
//!
//! usage: crowd DRIVER FILE FOLDERS: FOLDERS times a thousand files, of which some are deleted again

use std::{env, path::Path, process::ExitCode};

use qemu_tests::{
    At as _, Error, Result,
    guest::{
        Guest,
        orders::{Order, Task},
    },
    vm::{MINUTE, Work},
};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let done = match words.as_slice() {
        [driver, file, folders] => crowd(driver, Path::new(file), folders),
        _ => Err(Error::Wrong("usage: crowd DRIVER FILE FOLDERS".to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn crowd(driver: &str, file: &Path, folders: &str) -> Result<()> {
    let folders = folders.parse().map_err(|error| Error::Wrong(format!("{folders}: {error}")))?;
    let own = env::current_exe().at("this program")?;
    let guest = own.with_file_name("guest");
    let work = Work::new(&format!("crowd-{driver}"))?;
    let (disk, driver, options) = ("CROWD".to_owned(), driver.to_owned(), String::new());
    let order = Order { disk, device: None, driver, options, task: Task::Crowd { folders } };
    Guest::new(&work, "crowd", &guest).disk(file, "CROWD", 512).limit(90 * MINUTE).order(order).run()?;
    work.finish()
}
