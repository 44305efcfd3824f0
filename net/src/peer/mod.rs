//! What peers see of a core: its links.

pub(crate) mod greeting;
pub(crate) mod link;
