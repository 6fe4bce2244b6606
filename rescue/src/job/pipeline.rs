//! How wide the pipelines of jobs are: bounded by the machine, and by what buffers may take.

/// More threads than this gain nothing: one disk is behind them.
const MAX_WORKERS: u64 = 16;
/// Bytes that chunk buffers of one job may take, at about four a worker.
const BUDGET: u64 = 96 << 20;

/// Threads of which each is waiting for a disk while others use the cores.
const WAITING: usize = 2;

/// Returns how many workers hash, compress or decode.
///
/// * `chunk_len`: bytes in a chunk.
#[must_use]
pub fn workers(chunk_len: u64) -> usize {
    cores().min(by_memory(chunk_len))
}

/// Returns how many workers read or write a disk themselves between their calculations: more than there are cores, so
/// that disk and cores are busy at the same time.
///
/// * `chunk_len`: bytes in a chunk.
#[must_use]
pub fn transfer_workers(chunk_len: u64) -> usize {
    (cores() + WAITING).min(by_memory(chunk_len))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn by_memory(chunk_len: u64) -> usize {
    let workers = (BUDGET / chunk_len.max(1) / 4).clamp(1, MAX_WORKERS);
    usize::try_from(workers).unwrap_or(1)
}
