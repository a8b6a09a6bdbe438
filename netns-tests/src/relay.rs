//! A bad line between two hosts: delay, jitter, loss, reordering and duplicates, all decided by a seed.
//!
//! The switch gets an address that stands for each host. Rules of nft, which keep no state, lead what one node sends to the
//! other's port to the address that stands for it, and give what comes from there its true source back: so the nodes see
//! each other where they are, and every datagram passes here in userspace.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::Host;
use crate::output::run;
use crate::wait::now;

/// The port of every node.
const PORT: u16 = 51790;
/// The first byte of what is between containers; no datagram of QUIC begins so.
const FRAME: u8 = 0x08;
/// Datagrams that may be under way in one direction; more are lost.
const HELD_MAX: usize = 8192;
/// How long a direction listens before it looks whether something is due, at most.
const LISTEN: Duration = Duration::from_millis(5);
/// The addresses that stand for hosts begin above this one.
const STAND_IN: u8 = 200;

/// What a line does to datagrams, each way.
#[derive(Debug, Clone, Copy, Default)]
pub struct Impairment {
    pub delay: Duration,
    /// Up to so much more, for each datagram anew.
    pub jitter: Duration,
    pub loss_percent: u32,
    pub duplicate_percent: u32,
    /// So many are held back by [`Self::held_back`].
    pub reorder_percent: u32,
    pub held_back: Duration,
}

/// What the line has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    pub datagrams: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub held_back: u64,
}

#[derive(Debug, Default)]
struct Counts {
    datagrams: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    held_back: AtomicU64,
}

/// A bad line. It is good again when this is dropped, and then no datagram passes.
#[derive(Debug)]
pub struct Relay {
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    directions: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Puts one between two hosts.
    ///
    /// # Errors
    /// If the rules cannot be set.
    pub fn between(one: &Host, other: &Host, impairment: Impairment, seed: u64) -> Result<Self> {
        let (for_one, for_other) = (stand_in(one)?, stand_in(other)?);
        lead(one, other.address(), &for_other)?;
        lead(other, one.address(), &for_one)?;
        let (as_one, as_other) = (UdpSocket::bind((&*for_one, PORT))?, UdpSocket::bind((&*for_other, PORT))?);
        let mut relay = Self { counts: Arc::default(), stop: Arc::default(), directions: Vec::new() };
        // What comes to the stand-in of a host is for that host, and comes to it from the stand-in of the sender.
        for (from, by, to, seed) in [
            (as_other.try_clone()?, as_one.try_clone()?, other.address(), seed),
            (as_one, as_other, one.address(), !seed),
        ] {
            let direction = Direction {
                from,
                by,
                to: format!("{to}:{PORT}"),
                impairment,
                chances: Chances::new(seed),
                held: BinaryHeap::new(),
                next: 0,
                counts: relay.counts.clone(),
                stop: relay.stop.clone(),
            };
            relay.directions.push(thread::spawn(move || direction.run()));
        }
        Ok(relay)
    }

    /// What it has done so far.
    pub fn passed(&self) -> Passed {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { datagrams, lost, duplicated, held_back } = &*self.counts;
        Passed { datagrams: of(datagrams), lost: of(lost), duplicated: of(duplicated), held_back: of(held_back) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for direction in self.directions.drain(..) {
            // A direction that panicked has said so.
            let _ = direction.join();
        }
    }
}

/// Gives the switch the address that stands for a host.
fn stand_in(host: &Host) -> Result<String> {
    let (net, last) = host.address().rsplit_once('.').context("an IPv4 address")?;
    let address = format!("{net}.{}", last.parse::<u8>()?.checked_add(STAND_IN).context("a host of the first few")?);
    run("ip", &["address", "replace", &format!("{address}/24"), "dev", "switch"])?;
    Ok(address)
}

/// Leads a host's datagrams for `peer` over `stand_in`, and back.
fn lead(host: &Host, peer: &str, stand_in: &str) -> Result<()> {
    let rules = format!(
        "add table ip line; \
         add chain ip line out {{ type route hook output priority -150; }}; \
         add chain ip line in {{ type filter hook prerouting priority -350; }}; \
         add rule ip line out ip daddr {peer} udp dport {PORT} ip daddr set {stand_in}; \
         add rule ip line in ip saddr {stand_in} udp sport {PORT} ip saddr set {peer}"
    );
    host.exec(&["nft", &rules])?.ok().map(drop)
}

/// One way of the line.
struct Direction {
    from: UdpSocket,
    by: UdpSocket,
    to: String,
    impairment: Impairment,
    chances: Chances,
    /// When each is due, the earliest first; of those due at one time the one that came first.
    held: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    next: u64,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
}

impl Direction {
    fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let due = self.held.peek().map(|Reverse((at, ..))| at.saturating_duration_since(now()));
            // A timeout of zero would be none.
            let listen = due.unwrap_or(LISTEN).clamp(Duration::from_micros(100), LISTEN);
            let heard = self.from.set_read_timeout(Some(listen)).and_then(|()| self.from.recv(&mut buffer));
            match heard {
                Ok(len) => self.take(&buffer[..len]),
                // Or an ICMP error of what was sent before: its receiver is down for now.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.counts.add_lost(),
                Err(_) => {}
            }
            self.send_due();
        }
    }

    fn take(&mut self, datagram: &[u8]) {
        let Impairment { delay, jitter, loss_percent, duplicate_percent, reorder_percent, held_back } = self.impairment;
        self.counts.datagrams.fetch_add(1, Ordering::Relaxed);
        let chance = self.chances.of(datagram);
        // Each is drawn for each datagram, so that one setting does not move the others' chances.
        let (lost, twice, late) =
            [loss_percent, duplicate_percent, reorder_percent].map(|percent| chance.is_so(percent)).into();
        if lost || self.held.len() >= HELD_MAX {
            return self.counts.add_lost();
        }
        if late {
            self.counts.held_back.fetch_add(1, Ordering::Relaxed);
        }
        if twice {
            self.counts.duplicated.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..1 + u32::from(twice) {
            let more = jitter.mul_f64(chance.fraction()) + if late { held_back } else { Duration::ZERO };
            self.held.push(Reverse((now() + delay + more, self.next, datagram.to_vec())));
            self.next += 1;
        }
    }

    fn send_due(&mut self) {
        while self.held.peek().is_some_and(|Reverse((at, ..))| *at <= now()) {
            if let Some(Reverse((.., datagram))) = self.held.pop()
                && self.by.send_to(&datagram, &*self.to).is_err()
            {
                self.counts.add_lost();
            }
        }
    }
}

impl Counts {
    fn add_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

/// What one way of the line draws for each kind of datagram: the frames of one length, such as initiations, are a kind of their
/// own. So the seed decides what becomes of the tenth initiation, however many other datagrams have passed by then.
#[derive(Debug)]
struct Chances {
    seed: u64,
    frames: BTreeMap<usize, Chance>,
    others: Chance,
}

impl Chances {
    fn new(seed: u64) -> Self {
        Self { seed, frames: BTreeMap::new(), others: Chance(seed) }
    }

    fn of(&mut self, datagram: &[u8]) -> &mut Chance {
        if datagram.first() != Some(&FRAME) {
            return &mut self.others;
        }
        let length = datagram.len();
        self.frames.entry(length).or_insert_with(|| Chance(Chance(self.seed ^ length as u64).next()))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn is_so(&mut self, percent: u32) -> bool {
        self.next() % 100 < u64::from(percent)
    }

    /// From 0 up to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The share of the datagrams that were lost is near what was asked for.
///
/// # Errors
/// If the line was another than it should be.
pub fn check_loss(passed: Passed, percent: u64) -> Result<()> {
    let Passed { datagrams, lost, .. } = passed;
    ensure!(datagrams > 0 && lost * 100 >= datagrams * percent / 2, "{lost} of {datagrams} were lost, not {percent}%");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_frame_does_not_depend_on_what_else_has_passed() {
        let (initiation, response, quic) = ([FRAME; 156], [FRAME; 100], [0x40; 156]);
        let mut alone = Chances::new(7);
        let expected = [(); 8].map(|()| alone.of(&initiation).next());
        let mut among_others = Chances::new(7);
        let drawn = [(); 8].map(|()| {
            let others = [response.as_slice(), &quic, &[]].map(|other| among_others.of(other).next());
            let drawn = among_others.of(&initiation).next();
            assert!(!others.contains(&drawn), "two kinds share their chances");
            drawn
        });
        assert_eq!(drawn, expected);
        assert_ne!(Chances::new(8).of(&initiation).next(), expected[0]);
    }

    #[test]
    fn a_seed_decides_and_chances_come_out_as_asked() {
        let draw = |seed: u64| {
            let mut chance = Chance(seed);
            [(); 8].map(|()| chance.next())
        };
        assert!(draw(7) == draw(7) && draw(7) != draw(8));
        let mut chance = Chance(7);
        let so = (0..10_000).filter(|_| chance.is_so(20)).count();
        assert!((1_800..2_200).contains(&so), "{so} of 10,000 at 20%");
        assert!((0..1_000).all(|_| !chance.is_so(0) && (0.0..1.0).contains(&chance.fraction())));
    }
}
