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

/// The wall clock as Unix time in seconds; 0 before 1970.
pub fn unix_s() -> u64 {
    wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The wall clock as Unix time in milliseconds; 0 before 1970.
pub fn unix_ms() -> u64 {
    let since = wall().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
