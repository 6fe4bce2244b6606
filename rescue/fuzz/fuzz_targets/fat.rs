#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rescue_fuzz::survey("fat", data));
