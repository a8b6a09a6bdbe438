//! Datagrams: whose answer is whose.
//!
//! A client of a front has a port of the gateway to itself, towards one container, for as long as it or the container has
//! something to say.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

/// How long a session lasts in which nothing is said (RFC 4787 wants two minutes of a translator that cannot know better; a
/// front's clients begin again by themselves).
const IDLE: Duration = Duration::from_secs(60);
/// Sessions of one gateway.
const SESSIONS_MAX: usize = 4096;
/// Ports below are for servers.
const FIRST_PORT: u16 = 1024;

/// Who asks: a client of a front.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Asker {
    /// The front's number.
    pub(super) front: u64,
    pub(super) client: SocketAddr,
}

struct Session {
    asker: Asker,
    to: SocketAddrV4,
    spoken: Instant,
}

/// The sessions of one gateway.
#[derive(Default)]
pub(super) struct Sessions {
    by_asker: HashMap<Asker, u16>,
    by_port: HashMap<u16, Session>,
    /// When each is to be looked at: it may have spoken since.
    timers: BTreeSet<(Instant, u16)>,
    next_port: u16,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_port.len()
    }

    /// The port and the container of an asker. A new one gets what `choose` says; `None` if that is nothing, or there are too
    /// many.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        asker: Asker,
        choose: impl FnOnce() -> Option<SocketAddrV4>,
    ) -> Option<(u16, SocketAddrV4)> {
        if let Some(port) = self.by_asker.get(&asker)
            && let Some(session) = self.by_port.get_mut(port)
        {
            session.spoken = now;
            return Some((*port, session.to));
        }
        if self.len() >= SESSIONS_MAX {
            return None;
        }
        let to = choose()?;
        let port = loop {
            // There are more ports than sessions.
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT).max(FIRST_PORT);
            if !self.by_port.contains_key(&self.next_port) {
                break self.next_port;
            }
        };
        self.by_asker.insert(asker, port);
        self.by_port.insert(port, Session { asker, to, spoken: now });
        self.timers.insert((now + IDLE, port));
        Some((port, to))
    }

    /// Whose answer a datagram from `from` to `port` is.
    pub(super) fn answer(&mut self, now: Instant, port: u16, from: SocketAddrV4) -> Option<Asker> {
        let session = self.by_port.get_mut(&port).filter(|session| session.to == from)?;
        session.spoken = now;
        Some(session.asker)
    }

    /// Ends those in which nothing was said for long, and hands out the fronts' numbers of these.
    pub(super) fn expire(&mut self, now: Instant, mut ended: impl FnMut(u64)) {
        while let Some((_, port)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            let Some(session) = self.by_port.get(&port) else { continue };
            let until = session.spoken + IDLE;
            if until > now {
                self.timers.insert((until, port));
            } else {
                let asker = session.asker;
                ended(asker.front);
                self.by_asker.remove(&asker);
                self.by_port.remove(&port);
            }
        }
    }

    /// Ends those that may not go on: `keeps` is told the front's number and the container.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(u64, &SocketAddrV4) -> bool) {
        self.by_port.retain(|_, session| keeps(session.asker.front, &session.to));
        self.by_asker.retain(|_, port| self.by_port.contains_key(port));
        self.timers.retain(|(_, port)| self.by_port.contains_key(port));
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(port: u16) -> Asker {
        Asker { front: 1, client: SocketAddr::from(([192, 0, 2, 1], port)) }
    }

    fn to(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 240, 0, last].into(), 53)
    }

    #[test]
    fn a_client_keeps_its_container_and_only_that_one_may_answer() {
        let now = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        let (port, _) = sessions.ask(now, asker(1), || Some(to(1))).expect("room");
        let (other, _) = sessions.ask(now, asker(2), || Some(to(2))).expect("room");
        assert_ne!(port, other);
        assert_eq!(sessions.ask(now, asker(1), || Some(to(9))), Some((port, to(1))));
        assert_eq!(sessions.answer(now, port, to(1)), Some(asker(1)));
        assert_eq!(sessions.answer(now, port, to(2)), None);
        assert_eq!(sessions.answer(now, 7, to(1)), None);
    }

    #[test]
    fn silence_ends_a_session_and_speech_keeps_it() {
        let begin = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        let (port, _) = sessions.ask(begin, asker(1), || Some(to(1))).expect("room");
        sessions.ask(begin, asker(2), || Some(to(1))).expect("room");
        sessions.answer(begin + Duration::from_secs(30), port, to(1));
        let mut ended = 0;
        sessions.expire(begin + IDLE, |_| ended += 1);
        assert_eq!((ended, sessions.len()), (1, 1));
        sessions.expire(begin + IDLE + Duration::from_secs(30), |_| ended += 1);
        assert_eq!((ended, sessions.len(), sessions.next_timeout()), (2, 0, None));
    }

    #[test]
    fn a_session_that_may_not_go_on_is_gone_and_its_client_is_given_another_container() {
        let now = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        let (port, _) = sessions.ask(now, asker(1), || Some(to(1))).expect("room");
        let (kept, _) = sessions.ask(now, asker(2), || Some(to(2))).expect("room");
        sessions.retain(|front, container| front == 1 && *container == to(2));
        assert_eq!(sessions.answer(now, port, to(1)), None, "who comes to its address is a stranger");
        assert_eq!(sessions.answer(now, kept, to(2)), Some(asker(2)));
        let (_, container) = sessions.ask(now, asker(1), || Some(to(3))).expect("room");
        assert_eq!((container, sessions.len()), (to(3), 2));
        sessions.expire(now + IDLE, |_| {});
        assert_eq!((sessions.len(), sessions.next_timeout()), (0, None));
    }

    #[test]
    fn sessions_are_bounded() {
        let now = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        for client in 0..=SESSIONS_MAX as u16 {
            let asked = sessions.ask(now, asker(client), || Some(to(1)));
            assert_eq!(asked.is_some(), usize::from(client) < SESSIONS_MAX);
        }
    }
}
