//! Lays out bytes: what goes where on the disk, and when it is durable.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
