//! Decides: what a node says and does, given what it heard, when it heard it, and what is durable.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod auth;
pub mod base;
pub mod control;
pub mod durable;
pub mod effect;
pub mod entry;
pub mod formation;
pub mod gateway;
pub mod links;
pub mod mail;
pub mod op;
pub mod path;
pub mod peer;
pub mod replica;
pub mod report;
pub mod shard;
pub mod state;
pub mod txn;
pub mod wire;
pub mod worker;
pub mod zab;
