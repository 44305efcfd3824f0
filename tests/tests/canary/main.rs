//! The checkers can fail: each is fed a small history with one planted fault, through the same
//! functions as the simulation feeds it, and must complain in the right words. The same history
//! without the fault must pass, or the complaint would prove nothing.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod agreement;
mod cluster;
mod durability;
mod hearing;
mod logs;
mod persistent;
mod replay;
mod sessions;
mod watches;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is done must end with a complaint in these words.
fn complains(expected: &str, act: impl FnOnce()) {
    let complaint = catch_unwind(AssertUnwindSafe(act)).expect_err("nobody has complained");
    let text = complaint.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| complaint.downcast_ref::<&str>().copied()).unwrap_or("");
    assert!(text.contains(expected), "the complaint is not about {expected:?}, but {text:?}");
}
