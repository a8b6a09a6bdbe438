use std::time::Instant;

/// Some moment: the tests count from it.
#[allow(clippy::disallowed_methods)] // A test has to begin somewhere.
pub(super) fn start() -> Instant {
    Instant::now()
}
