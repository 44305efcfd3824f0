//! Does: the only crate with system calls, threads, time and unsafe code.

pub mod config;
pub mod os;
pub mod ring;
