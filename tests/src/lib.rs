//! The other machine.
