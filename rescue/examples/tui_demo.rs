//! Shows the screens with a made-up machine behind them; no disk is touched.
//!
//! `cargo run --features demo --example tui_demo [-- --booted] [--monochrome]`

use std::process::ExitCode;

fn main() -> ExitCode {
    let has = |flag: &str| std::env::args().skip(1).any(|argument| argument == flag);
    match rescue::tui::demo::show(has("--booted"), has("--monochrome")) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => {
            eprintln!("tui_demo: {error}");
            ExitCode::FAILURE
        }
    }
}
