//! A timer of microseconds for an event loop: epoll's own waits are counted in milliseconds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// Readable from when it has gone off until it is set again.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Goes off once, after so long. What it was set to before is forgotten.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        // Zero would switch it off.
        let after = Timespec::try_from(after.max(Duration::from_nanos(1))).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value: after };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    #[test]
    fn it_goes_off_once_for_each_time_that_it_is_set_and_not_before() {
        let (alarm, mut poll) = (Alarm::new().expect("a timer"), Poll::new().expect("a poll"));
        poll.registry().register(&mut SourceFd(&alarm.as_raw_fd()), Token(0), Interest::READABLE).expect("registers");
        let mut events = Events::with_capacity(4);
        for after in [Duration::from_micros(300), Duration::ZERO, Duration::from_millis(3)] {
            let begun = clock::now();
            alarm.set(after).expect("sets");
            poll.poll(&mut events, Some(Duration::from_secs(5))).expect("polls");
            assert_eq!(events.iter().count(), 1);
            assert!(clock::now() - begun >= after);
            poll.poll(&mut events, Some(Duration::from_millis(5))).expect("polls");
            assert!(events.is_empty());
        }
    }
}
