//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long anything may take that should happen at once: long, for two busy cores.
pub const SOON: Duration = Duration::from_secs(20);

const PAUSE: Duration = Duration::from_millis(25);

/// The time that has passed since `start`.
#[expect(clippy::disallowed_methods, reason = "the tests run in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Asks `condition` again and again until it has something.
///
/// # Errors
/// If it has nothing when the time is over; with its last error, if it had one.
pub fn until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = now();
    loop {
        let outcome = condition();
        let late = start.elapsed() > limit;
        match outcome {
            Ok(Some(value)) => return Ok(value),
            Ok(None) if late => bail!("{what}: not within {limit:?}"),
            Err(error) if late => return Err(error).context(format!("{what}: not within {limit:?}")),
            Ok(None) | Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// As [`until`].
pub fn until_true(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, limit, || Ok(condition()?.then_some(())))
}
