//! Builds the initramfs.
fn main() {}
