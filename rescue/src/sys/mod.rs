//! What only system calls can do, each behind a safe function: the only home of `unsafe`.

#![allow(unsafe_code, reason = "every block says what makes it sound")]

pub mod ioctl;
pub mod kmod;
pub mod mount;
pub mod power;
pub mod process;
pub mod tty;
pub mod uevent;
