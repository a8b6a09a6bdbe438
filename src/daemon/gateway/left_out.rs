//! Which containers have not taken a connection lately: they are asked last.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

/// As long as nginx leaves out a server of its own accord.
const LEFT_OUT: Duration = Duration::from_secs(2);

/// Those that refused, or did not answer, and until when that counts.
#[derive(Default)]
pub(super) struct LeftOut(HashMap<SocketAddrV4, Instant>);

impl LeftOut {
    /// One has not taken a connection.
    pub(super) fn insert(&mut self, now: Instant, container: SocketAddrV4) {
        self.0.retain(|_, until| *until > now);
        self.0.insert(container, now + LEFT_OUT);
    }

    /// One has taken a connection.
    pub(super) fn remove(&mut self, container: SocketAddrV4) {
        self.0.remove(&container);
    }

    pub(super) fn contains(&self, now: Instant, container: SocketAddrV4) -> bool {
        self.0.get(&container).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_took_no_connection_is_left_out_for_a_while_or_until_it_takes_one() {
        let now = crate::sys::clock::now();
        let [one, other] = [1, 2].map(|last| SocketAddrV4::new([10, 240, 0, last].into(), 80));
        let mut left_out = LeftOut::default();
        left_out.insert(now, one);
        left_out.insert(now, other);
        left_out.remove(other);
        assert!(left_out.contains(now, one) && !left_out.contains(now, other));
        assert!(!left_out.contains(now + LEFT_OUT, one));
        left_out.insert(now + LEFT_OUT, other);
        assert_eq!(left_out.0.len(), 1, "what is over is forgotten");
    }
}
