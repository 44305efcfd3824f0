//! Decides: what a node says and does, given what it heard, when it heard it, and what is durable.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod base;
pub mod control;
pub mod durable;
pub mod entry;
pub mod op;
pub mod path;
pub mod shard;
pub mod state;
pub mod txn;
