//! ZooKeeper's client wire: bytes ⇄ `op`. Only what stands at the edge (a node's client side, load
//! generators, tests) imports it.

pub mod client;
pub mod frame;
pub mod jute;
pub mod reply;
pub mod request;
