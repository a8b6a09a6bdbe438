//! Datagrams: whose answer is whose.
//!
//! A client of a front has a port of the gateway to itself, towards one container, for as long as it or the container has
//! something to say.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
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
    /// At which of the host's addresses, where that is known: it takes answers from no other.
    pub(super) at: Option<IpAddr>,
}

struct Session {
    asker: Asker,
    to: SocketAddrV4,
    /// When something was said last.
    spoken: Instant,
    /// Whether the container has said something.
    is_answered: bool,
}

/// Where the datagram of an asker goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) port: u16,
    pub(super) to: SocketAddrV4,
    /// Whether the session is new.
    pub(super) is_new: bool,
    /// The front of the session that made room for it.
    pub(super) ended: Option<u64>,
}

/// The sessions of one gateway.
#[derive(Default)]
pub(super) struct Sessions {
    by_asker: HashMap<Asker, u16>,
    by_port: HashMap<u16, Session>,
    /// Since when each is silent: those that were never answered, and the others.
    silent: [BTreeSet<(Instant, u16)>; 2],
    next_port: u16,
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_port.len()
    }

    /// The port and the container of an asker. A new one gets what `choose` says; `None` if that is nothing. When there are too
    /// many, the one that is silent for longest makes room, first of all of those that were never answered: anybody can begin
    /// sessions as fast as he likes, in the name of any address.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        asker: Asker,
        choose: impl FnOnce() -> Option<SocketAddrV4>,
    ) -> Option<Asked> {
        if let Some(port) = self.by_asker.get(&asker).copied()
            && let Some(Session { to, .. }) = self.speak(now, port, false)
        {
            return Some(Asked { port, to: *to, is_new: false, ended: None });
        }
        let to = choose()?;
        let ended = if self.len() < SESSIONS_MAX { None } else { self.end_longest_silent() };
        let port = loop {
            // There are more ports than sessions.
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT).max(FIRST_PORT);
            if !self.by_port.contains_key(&self.next_port) {
                break self.next_port;
            }
        };
        self.by_asker.insert(asker, port);
        self.by_port.insert(port, Session { asker, to, spoken: now, is_answered: false });
        self.silent[0].insert((now, port));
        Some(Asked { port, to, is_new: true, ended })
    }

    /// Whose answer a datagram from `from` to `port` is.
    pub(super) fn answer(&mut self, now: Instant, port: u16, from: SocketAddrV4) -> Option<Asker> {
        self.by_port.get(&port).filter(|session| session.to == from)?;
        self.speak(now, port, true).map(|session| session.asker)
    }

    /// Something is said in a session, by its container or to it.
    fn speak(&mut self, now: Instant, port: u16, is_answer: bool) -> Option<&Session> {
        let session = self.by_port.get_mut(&port)?;
        self.silent[usize::from(session.is_answered)].remove(&(session.spoken, port));
        session.spoken = now;
        session.is_answered |= is_answer;
        self.silent[usize::from(session.is_answered)].insert((now, port));
        Some(session)
    }

    fn end_longest_silent(&mut self) -> Option<u64> {
        let (_, port) = self.silent.iter().find_map(BTreeSet::first).copied()?;
        self.end(port)
    }

    /// Ends a session; its front's number.
    fn end(&mut self, port: u16) -> Option<u64> {
        let session = self.by_port.remove(&port)?;
        self.silent[usize::from(session.is_answered)].remove(&(session.spoken, port));
        self.by_asker.remove(&session.asker);
        Some(session.asker.front)
    }

    /// Ends those in which nothing was said for long, and hands out the fronts' numbers of these.
    pub(super) fn expire(&mut self, now: Instant, mut ended: impl FnMut(u64)) {
        let over = |since: Instant| since + IDLE <= now;
        while let Some((_, port)) =
            self.silent.iter().filter_map(BTreeSet::first).find(|(since, _)| over(*since)).copied()
        {
            self.end(port).into_iter().for_each(&mut ended);
        }
    }

    /// Ends those that may not go on: `keeps` is told the front's number and the container.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(u64, &SocketAddrV4) -> bool) {
        self.by_port.retain(|_, session| keeps(session.asker.front, &session.to));
        self.by_asker.retain(|_, port| self.by_port.contains_key(port));
        self.silent.iter_mut().for_each(|silent| silent.retain(|(_, port)| self.by_port.contains_key(port)));
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.silent.iter().filter_map(BTreeSet::first).map(|(since, _)| *since + IDLE).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(port: u16) -> Asker {
        Asker { front: 1, client: SocketAddr::from(([192, 0, 2, 1], port)), at: None }
    }

    fn to(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([10, 240, 0, last].into(), 53)
    }

    /// The port of a new session.
    fn begin(sessions: &mut Sessions, now: Instant, client: u16, container: SocketAddrV4) -> u16 {
        let asked = sessions.ask(now, asker(client), || Some(container)).expect("room");
        assert!(asked.is_new && asked.to == container);
        asked.port
    }

    #[test]
    fn a_client_keeps_its_container_and_only_that_one_may_answer() {
        let now = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        let port = begin(&mut sessions, now, 1, to(1));
        let other = begin(&mut sessions, now, 2, to(2));
        assert_ne!(port, other);
        let again = Asked { port, to: to(1), is_new: false, ended: None };
        assert_eq!(sessions.ask(now, asker(1), || Some(to(9))), Some(again));
        assert_eq!(sessions.answer(now, port, to(1)), Some(asker(1)));
        assert_eq!(sessions.answer(now, port, to(2)), None);
        assert_eq!(sessions.answer(now, 7, to(1)), None);
    }

    #[test]
    fn silence_ends_a_session_and_speech_keeps_it() {
        let first = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        let port = begin(&mut sessions, first, 1, to(1));
        begin(&mut sessions, first, 2, to(1));
        sessions.answer(first + Duration::from_secs(30), port, to(1));
        let mut ended = 0;
        sessions.expire(first + IDLE, |_| ended += 1);
        assert_eq!((ended, sessions.len()), (1, 1));
        sessions.expire(first + IDLE + Duration::from_secs(30), |_| ended += 1);
        assert_eq!((ended, sessions.len(), sessions.next_timeout()), (2, 0, None));
    }

    #[test]
    fn a_session_that_may_not_go_on_is_gone_and_its_client_is_given_another_container() {
        let now = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        let port = begin(&mut sessions, now, 1, to(1));
        let kept = begin(&mut sessions, now, 2, to(2));
        sessions.retain(|front, container| front == 1 && *container == to(2));
        assert_eq!(sessions.answer(now, port, to(1)), None, "who comes to its address is a stranger");
        assert_eq!(sessions.answer(now, kept, to(2)), Some(asker(2)));
        begin(&mut sessions, now, 1, to(3));
        assert_eq!(sessions.len(), 2);
        sessions.expire(now + IDLE, |_| {});
        assert_eq!((sessions.len(), sessions.next_timeout()), (0, None));
    }

    #[test]
    fn of_too_many_those_go_that_are_silent_for_longest_and_first_those_that_nobody_answered() {
        let mut now = crate::sys::clock::now();
        let mut sessions = Sessions::default();
        let answered = begin(&mut sessions, now, 0, to(1));
        sessions.answer(now, answered, to(1)).expect("its own");
        let mut flood = 1..;
        for client in flood.by_ref().take(SESSIONS_MAX - 1) {
            now += Duration::from_millis(1);
            begin(&mut sessions, now, client, to(1));
        }
        assert_eq!(sessions.len(), SESSIONS_MAX);
        // The first of them speaks once more, so another one is silent for longest.
        now += Duration::from_millis(1);
        sessions.ask(now, asker(1), || None).expect("it has a session");
        for client in flood.by_ref().take(SESSIONS_MAX - 2) {
            now += Duration::from_millis(1);
            let asked = sessions.ask(now, asker(client), || Some(to(2))).expect("room");
            assert_eq!((asked.is_new, asked.ended, sessions.len()), (true, Some(1), SESSIONS_MAX));
        }
        assert!(!sessions.ask(now, asker(1), || None).expect("it has one still").is_new);
        assert!(sessions.ask(now, asker(2), || None).is_none(), "nothing is chosen, and nobody goes for it");
        begin(&mut sessions, now, 60_000, to(2));
        assert_eq!(sessions.answer(now, answered, to(1)), Some(asker(0)));
        // Where all were answered, it is the longest silent of these.
        let ports: Vec<u16> = sessions.by_port.keys().copied().collect();
        for port in ports {
            let from = sessions.by_port[&port].to;
            let later = now + Duration::from_millis(u64::from(port != answered));
            sessions.answer(later, port, from).expect("its own");
        }
        begin(&mut sessions, now, 60_001, to(2));
        assert_eq!((sessions.answer(now, answered, to(1)), sessions.len()), (None, SESSIONS_MAX));
        let mut ended = 0;
        sessions.expire(now + 2 * IDLE, |_| ended += 1);
        assert_eq!((ended, sessions.len(), sessions.next_timeout()), (SESSIONS_MAX, 0, None));
    }
}
