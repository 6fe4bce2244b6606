//! What only system calls can do, each behind a safe function: the only home of `unsafe`.

#![allow(unsafe_code, reason = "every block says what makes it sound")]

pub mod ioctl;
