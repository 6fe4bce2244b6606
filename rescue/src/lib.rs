//! Images, restores and clones whole disks while no operating system runs.
//!
//! The rooms and the only way arrows point: `units → extent → block → {table, fs} → store → job → {tui, cli, init}`.
//! Only `job` writes to a disk, only `store` writes to a store, only `sys` contains `unsafe`.

pub mod block;
pub mod bytes;
pub mod cli;
pub mod escape;
pub mod exit;
pub mod extent;
pub mod fs;
pub mod init;
pub mod job;
pub mod store;
pub mod sys;
pub mod table;
pub mod tui;
pub mod units;
