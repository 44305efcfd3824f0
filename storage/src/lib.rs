//! Lays out bytes: what goes where on the disk, and when it is durable.
//!
//! - [`disk`]: the whole boundary: disk operations as values, and their completions
//! - [`record`]: one record inside a batch
//! - [`batch`]: what one write carries: header, records, watermarks; the open batch and its riders
//! - [`segment`]: where the next batch goes: segments, their preparation and their recycling
//! - [`shard_log`]: how one shard's state follows from its records, live and at recovery
//! - [`wal`]: appends in, disk operations out, promises released when their bytes are durable
//! - [`scan`]: the batches of one stream's files, and what its end means
//! - `replay`: one shard's history, put together from its streams
//! - [`recover`]: all streams' files → the state and history of every shard
//! - [`snapshot`]: the snapshot file, chunk by chunk, and how it is published
//! - [`retain`]: which files may go
//! - [`meta`]: the identity of a data directory
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod batch;
pub mod disk;
pub mod meta;
pub mod record;
pub mod recover;
mod replay;
pub mod retain;
pub mod scan;
pub mod segment;
pub mod shard_log;
pub mod snapshot;
pub mod wal;
