//! Process 1 of the helper guest: see `qemu_tests::guest`. It does nothing anywhere else.

fn main() {
    qemu_tests::guest::inside::main();
}
