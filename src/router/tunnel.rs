//! A tunnel: one WireGuard session pair between a local attachment and a remote one, and when it asks for a handshake.
//!
//! A tunnel is (VNI, generation, local public key, remote public key). Another key or generation is another tunnel, beside it.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::model::{Generation, Vni, WgPublicKey};
use crate::packet::FrameHeader;

use super::attachment::AttachmentSlot;
use super::noise::Noise;
use super::peer::PeerSlot;

/// How long an index rests after its tunnel is closed, so that late messages of the old tunnel meet nobody: as long as a
/// session may live.
const INDEX_REST: Duration = Duration::from_secs(180);
/// Time moves for boringtun this often.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// How far apart the first handshakes are. Then each wait is longer than the one before by [`RETRY_GROWTH`], up to
/// [`RETRY_SLOW`]: on a line that loses 20% each way a try fails with 36%, so that it takes ten within 4 s to leave one pair of
/// ten thousand without.
const RETRY_FAST: Duration = Duration::from_millis(300);
const RETRY_FAST_COUNT: u32 = 6;
const RETRY_GROWTH: f64 = 1.3;
/// The growth has reached [`RETRY_SLOW`] by then.
const RETRY_GROWTH_COUNT: u32 = 12;
/// Less than boringtun's own five seconds even with the jitter taken off, so that its clock never runs out beside ours.
const RETRY_SLOW: Duration = Duration::from_millis(4_900);
const RETRY_JITTER_MS: u64 = 900;
/// Beside a live session no more go unanswered: each takes one of the eight places where boringtun keeps sessions.
const UNANSWERED_MAX: u32 = 6;
/// A session is live while its peer was heard so recently: a peer that receives answers every 10 s at least.
const LIVE: Duration = Duration::from_secs(15);
/// Nobody has sent anything for so long: there is nothing to hand-shake for.
const WANTED: Duration = Duration::from_secs(15);

/// A tunnel's place in the table. Masked, it is the index in the messages' receiver fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TunnelSlot(u32);

/// What a tunnel is: between which keys, and for which of the addresses that are said to have the remote one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) vni: Vni,
    pub(super) generation: Generation,
    pub(super) local: WgPublicKey,
    pub(super) remote: WgPublicKey,
    pub(super) address: Ipv4Addr,
}

/// What is new about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It comes after newer ones.
    None,
    /// It is the newest of its session, which is the newest.
    Message,
    /// It is the first of a newer session.
    Session,
}

pub(super) struct Tunnel {
    pub(super) identity: Identity,
    pub(super) noise: Noise,
    pub(super) attachment: AttachmentSlot,
    pub(super) peer: PeerSlot,
    /// The header of the frames that it sends, while nothing is to be said of the packets in them.
    pub(super) header: FrameHeader,
    /// Whether it can encrypt for a peer that is known to have the session.
    pub(super) established: bool,
    pub(super) schedule: Schedule,
    /// Sessions that the peer was offered since it last used a new one.
    pub(super) offered: u32,
    /// The receiver index and counter of the newest authenticated message: only a newer one moves the endpoint.
    newest: Option<(u32, u64)>,
    pub(super) last_data: Instant,
    pub(super) last_sent: Instant,
    pub(super) last_heard: Option<Instant>,
    pub(super) last_tick: Instant,
    /// A better tunnel has taken over: it receives until then, and sends nothing.
    pub(super) retires: Option<Instant>,
    /// One of its keys has been replaced: it goes on until then at most.
    pub(super) ends: Option<Instant>,
    /// When it wants attention; the timer with another time is an old one.
    pub(super) due: Instant,
}

impl Tunnel {
    pub(super) fn new(
        identity: Identity,
        noise: Noise,
        attachment: AttachmentSlot,
        peer: PeerSlot,
        now: Instant,
    ) -> Self {
        Self {
            identity,
            noise,
            attachment,
            peer,
            header: FrameHeader::new(identity.address, identity.vni, identity.generation),
            established: false,
            schedule: Schedule::default(),
            offered: 0,
            newest: None,
            last_data: now,
            last_sent: now,
            last_heard: None,
            last_tick: now,
            retires: None,
            ends: None,
            due: now,
        }
    }

    /// Takes note of an authenticated message, and says what is new about it.
    pub(super) fn heard(&mut self, now: Instant, receiver: u32, counter: u64) -> News {
        let silent = self.last_heard.replace(now).is_none_or(|heard| now.saturating_duration_since(heard) >= LIVE);
        let news = match self.newest {
            // The last 8 bits of the index count a tunnel's sessions, and wrap: within a silence they may do so.
            Some((index, highest)) if !silent => match (receiver as u8).wrapping_sub(index as u8) as i8 {
                1.. => News::Session,
                0 if counter > highest => News::Message,
                _ => News::None,
            },
            _ => News::Session,
        };
        if news != News::None {
            self.newest = Some((receiver, counter));
        }
        news
    }

    /// Whether it has a session over which the peer was heard just now.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.established && self.last_heard.is_some_and(|heard| now.saturating_duration_since(heard) < LIVE)
    }

    /// Whether somebody sends, or has a session to keep.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.retires.is_none() && (self.established || now.saturating_duration_since(self.last_sent) < WANTED)
    }

    /// Whether another initiation may be sent without danger to a live session.
    pub(super) fn may_initiate(&self, now: Instant) -> bool {
        !self.is_live(now) || self.schedule.unanswered + self.offered < UNANSWERED_MAX
    }

    /// Whether another initiation may be answered without danger to a live session.
    pub(super) fn may_answer(&self, now: Instant) -> bool {
        !self.is_live(now) || self.schedule.unanswered + self.offered <= UNANSWERED_MAX
    }

    /// When it is closed in any case.
    pub(super) fn end(&self) -> Option<Instant> {
        self.retires.into_iter().chain(self.ends).min()
    }

    /// When it wants attention next.
    pub(super) fn deadline(&self) -> Instant {
        let tick = self.last_tick + TICK;
        let at = self.schedule.next.map_or(tick, |next| next.min(tick));
        self.end().map_or(at, |end| end.min(at))
    }
}

/// When a handshake is tried again: at 0, 0.3, 0.6, 0.9, 1.2 and 1.5 s, then at 1.9, 2.4, 3.1, 3.9, 5.0, 6.5 and 8.4 s, then about
/// every 5 s.
///
/// boringtun itself would try again after 5 s only, and not at all after a cookie.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// When the next initiation is due; `None` while no handshake is wanted.
    pub(super) next: Option<Instant>,
    /// Initiations since a session was last made.
    pub(super) unanswered: u32,
    /// The next one has its turn booked (see [`super::gate::Pacer`]).
    pub(super) booked: bool,
}

impl Schedule {
    /// Wants a handshake from now on, unless one is under way.
    pub(super) fn begin(&mut self, now: Instant) {
        self.next.get_or_insert(now);
    }

    /// An initiation was sent; `jitter` is any random number.
    pub(super) fn sent(&mut self, now: Instant, jitter: u64) {
        self.unanswered += 1;
        self.booked = false;
        let grown = (self.unanswered + 1).saturating_sub(RETRY_FAST_COUNT).min(RETRY_GROWTH_COUNT);
        let wait = RETRY_FAST.mul_f64(RETRY_GROWTH.powi(grown as i32));
        self.next = Some(now + wait.min(RETRY_SLOW - Duration::from_millis(jitter % RETRY_JITTER_MS)));
    }

    /// Its turn is kept, and comes later.
    pub(super) fn book(&mut self, at: Instant) {
        (self.next, self.booked) = (Some(at), true);
    }

    /// A session was made.
    pub(super) fn done(&mut self) {
        *self = Self::default();
    }

    /// Nothing more is tried until a handshake is wanted anew.
    pub(super) fn stop(&mut self) {
        self.next = None;
    }
}

/// All tunnels, by slot and by identity.
pub(super) struct Tunnels {
    slots: Vec<Option<Box<Tunnel>>>,
    resting: VecDeque<(Instant, TunnelSlot)>,
    by_identity: HashMap<Identity, TunnelSlot>,
    /// Hides the slots, so that a stranger who guesses an index finds a tunnel by chance only. 24 bits.
    mask: u32,
}

impl std::ops::Index<TunnelSlot> for Tunnels {
    type Output = Tunnel;

    fn index(&self, slot: TunnelSlot) -> &Tunnel {
        self.get(slot).expect("whoever keeps a slot forgets it when the tunnel is closed")
    }
}

impl std::ops::IndexMut<TunnelSlot> for Tunnels {
    fn index_mut(&mut self, slot: TunnelSlot) -> &mut Tunnel {
        self.get_mut(slot).expect("whoever keeps a slot forgets it when the tunnel is closed")
    }
}

impl Tunnels {
    pub(super) fn new(mask: u32) -> Self {
        Self { slots: Vec::new(), resting: VecDeque::new(), by_identity: HashMap::new(), mask: mask & 0xff_ffff }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_identity.len()
    }

    /// A free slot and the index that goes with it. `None` when all 2^24 are in use or resting.
    pub(super) fn reserve(&mut self, now: Instant) -> Option<(TunnelSlot, u32)> {
        let slot = match self.resting.front() {
            Some((freed, slot)) if now.saturating_duration_since(*freed) >= INDEX_REST => {
                let slot = *slot;
                self.resting.pop_front();
                slot
            }
            _ if self.slots.len() < 1 << 24 => {
                self.slots.push(None);
                TunnelSlot(self.slots.len() as u32 - 1)
            }
            _ => return None,
        };
        Some((slot, slot.0 ^ self.mask))
    }

    /// Puts a tunnel into its reserved slot.
    pub(super) fn insert(&mut self, slot: TunnelSlot, tunnel: Tunnel) {
        self.by_identity.insert(tunnel.identity, slot);
        self.slots[slot.0 as usize] = Some(Box::new(tunnel));
    }

    /// Takes a tunnel out; its index rests.
    pub(super) fn remove(&mut self, now: Instant, slot: TunnelSlot) -> Option<Box<Tunnel>> {
        let tunnel = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.by_identity.remove(&tunnel.identity);
        self.resting.push_back((now, slot));
        Some(tunnel)
    }

    pub(super) fn get(&self, slot: TunnelSlot) -> Option<&Tunnel> {
        self.slots.get(slot.0 as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: TunnelSlot) -> Option<&mut Tunnel> {
        self.slots.get_mut(slot.0 as usize)?.as_deref_mut()
    }

    /// The tunnel that a message's receiver field names.
    pub(super) fn by_receiver(&self, receiver: u32) -> Option<TunnelSlot> {
        let slot = TunnelSlot((receiver >> 8) ^ self.mask);
        self.get(slot).map(|_| slot)
    }

    pub(super) fn by_identity(&self, identity: &Identity) -> Option<TunnelSlot> {
        self.by_identity.get(identity).copied()
    }

    /// The longest idle of a few slots that `random` picks: what gives way when there are too many.
    pub(super) fn idle_sample(&self, mut random: impl FnMut() -> u32) -> Option<TunnelSlot> {
        (0..8)
            .map(|_| TunnelSlot(random() % (self.slots.len().max(1) as u32)))
            .filter_map(|slot| self.get(slot).map(|tunnel| (tunnel.last_data, slot)))
            .min()
            .map(|(_, slot)| slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TunnelSlot, &Tunnel)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((TunnelSlot(i as u32), slot.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::start;

    #[test]
    fn the_retries_come_fast_and_then_ever_slower_within_boringtuns_own_five_seconds() {
        let (mut schedule, begun) = (Schedule::default(), start());
        schedule.begin(begun);
        let mut sent = Vec::new();
        for jitter in 0..40 {
            let at = schedule.next.expect("wanted");
            sent.push((at - begun).as_millis());
            schedule.sent(at, jitter * 899);
        }
        assert_eq!(sent[..6], [0, 300, 600, 900, 1200, 1500]);
        assert_eq!(sent.iter().filter(|at| **at <= 4_000).count(), 10, "{sent:?}");
        assert!(sent.windows(2).all(|pair| (300..5_000).contains(&(pair[1] - pair[0]))), "{sent:?}");
        assert!(sent.windows(2).skip(20).all(|pair| pair[1] - pair[0] >= 4_000), "{sent:?}");
    }

    #[test]
    fn a_freed_index_rests_180_seconds() {
        let (mut tunnels, now) = (Tunnels::new(0x1234_5678), start());
        let (first, index) = tunnels.reserve(now).expect("free");
        assert!(index < 1 << 24);
        tunnels.resting.push_back((now, first));
        assert_ne!(tunnels.reserve(now + Duration::from_secs(179)).expect("free").0, first);
        assert_eq!(tunnels.reserve(now + Duration::from_secs(180)).expect("free").0, first);
    }
}
