//! What every reader does with a checksum.

/// Tells whether a checksum is right, from whether it matches. Under the fuzzer each one is: what lies behind them is to be
/// reached, and few inputs would get past the first.
#[must_use]
pub const fn right(matches: bool) -> bool {
    matches || cfg!(fuzzing)
}
