//! What everything else is made of: identities, time, limits, errors, randomness and bytes.

pub mod bytes;
pub mod error;
pub mod id;
pub mod limits;
pub mod met;
pub mod prng;
pub mod time;
