//! Makes a store with chunks of another length than usual, for `scripts/bench chunks`.
//!
//! usage: new-store FOLDER BYTES

use std::{env, path::Path, process::ExitCode};

use rescue::store::{CreateOptions, Store};

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let made = match words.as_slice() {
        [folder, bytes] => bytes.parse().map_err(|error| format!("{bytes}: {error}")).and_then(|chunk_len| {
            Store::create(Path::new(folder), CreateOptions { chunk_len }).map(|_| ()).map_err(|error| error.to_string())
        }),
        _ => Err("usage: new-store FOLDER BYTES".to_owned()),
    };
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
