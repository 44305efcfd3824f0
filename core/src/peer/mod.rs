//! What the servers of one ensemble say to each other, and its bytes.

pub mod codec;
pub mod formation;
pub mod hello;
pub mod message;
