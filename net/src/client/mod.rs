//! What clients see of a core: ports, connections, figures, four-letter words.

pub(crate) mod admin;
pub(crate) mod connection;
pub(crate) mod crowd;
pub(crate) mod java;
pub(crate) mod listener;
pub(crate) mod traffic;
pub(crate) mod words;
