//! rescue.
fn main() {}
