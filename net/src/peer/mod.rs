//! What peers see of a core: its links.

mod dial;
pub(crate) mod greeting;
pub(crate) mod link;
