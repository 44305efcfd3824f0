//! What a shard holds: the tree of znodes, and its form as bytes.

pub mod image;
pub mod tree;
