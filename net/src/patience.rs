//! Waiting for what nobody announces: a freed port, another process's lock, memory that the kernel
//! has yet to take off an account. At start only, and for a limited time.

use std::time::{Duration, Instant};

/// Asks again until there is an answer, or until `limit` has passed; the last answer is final.
pub(crate) fn ask_until<T>(limit: Duration, mut ask: impl FnMut(LastTime) -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let last_time = LastTime(Instant::now() >= deadline);
        match ask(last_time) {
            Some(answer) => return answer,
            None => assert!(!last_time.0, "the last time there is an answer"),
        }
        wait();
    }
}

/// Whether it will not be asked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LastTime(pub(crate) bool);

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody; asking again is the only way to know"
)]
fn wait() {
    std::thread::sleep(ROUND);
}

const ROUND: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LastTime, ask_until};

    #[test]
    fn it_is_asked_until_it_answers_or_the_time_is_up() {
        let mut asked = 0;
        let answer = ask_until(Duration::from_secs(60), |LastTime(last)| {
            asked += 1;
            assert!(!last);
            (asked == 3).then_some("third")
        });
        assert_eq!((answer, asked), ("third", 3));
        let answer = ask_until(Duration::ZERO, |LastTime(last)| last.then_some("too late"));
        assert_eq!(answer, "too late");
    }
}
