//! How wide the pipelines of jobs are: bounded by the machine, and by what buffers may take.

/// More threads than this gain nothing: one disk is behind them.
const MAX_WORKERS: u64 = 16;
/// Bytes that chunk buffers of one job may take, at about four a worker.
const BUDGET: u64 = 96 << 20;

/// Returns how many workers hash, compress or decode.
///
/// * `chunk_len`: bytes in a chunk.
#[must_use]
pub fn workers(chunk_len: u64) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let by_memory = (BUDGET / chunk_len.max(1) / 4).clamp(1, MAX_WORKERS);
    cores.min(usize::try_from(by_memory).unwrap_or(1))
}
