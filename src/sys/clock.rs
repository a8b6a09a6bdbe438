//! The clocks. Nobody else reads one: the core takes `now` as an argument.

use std::time::{Instant, SystemTime};

/// The monotonic clock.
#[allow(clippy::disallowed_methods)] // This is the place.
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock: it may be wrong, and jump.
#[allow(clippy::disallowed_methods)] // This is the place.
pub fn wall() -> SystemTime {
    SystemTime::now()
}
