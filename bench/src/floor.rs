//! What this machine can do at best, measured in the same run as everything that is compared to it.

pub(crate) mod disk;
pub(crate) mod server;
