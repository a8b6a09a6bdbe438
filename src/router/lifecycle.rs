//! How tunnels come, take over from each other, and go.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use rand_core::RngCore;

use crate::membership::Network;
use crate::model::{Generation, NodeId};
use crate::packet::{FRAME_HEADER_LEN, Superpacket, Unreachable};

use super::attachment::{AttachmentSlot, Remote, Route};
use super::gate::Turn;
use super::noise::{Noise, Step};
use super::tunnel::{Identity, TICK, Tunnel, TunnelSlot};
use super::{DropReason, Router};

/// A packet waits for a tunnel no longer: whoever sent it has sent it again.
const QUEUE_AGE_MAX: Duration = Duration::from_secs(5);
/// What a better tunnel has replaced still receives for so long what was on its way.
const LINGER: Duration = Duration::from_secs(3);
/// A tunnel that makes way for a new one has been idle for so long.
const EVICTION_IDLE: Duration = Duration::from_secs(10);
/// After so many initiations without an answer a first session is tried with the older secret as well.
const FALLBACK_ATTEMPTS: u32 = 2;
/// An initiation that found the wire arena full is tried again so soon: a socket that was full takes more within that.
const FULL_WAIT: Duration = Duration::from_millis(10);

impl Router {
    /// Time has passed: retries, keepalives, the end of what is idle.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.drop_waiting(now);
        while let Some((at, slot)) = self.timers.pop(now) {
            if self.tunnels.get(slot).is_some_and(|tunnel| tunnel.due == at) {
                self.tunnel_due(now, slot);
            }
            if !self.has_room_outbound() {
                break;
            }
        }
    }

    /// Whether membership lets a node host containers of a network.
    pub(super) fn may_host(&self, network: &Network, node: NodeId) -> bool {
        self.node != Some(node)
            && self.membership.node(node).is_some()
            && (network.creator == node || network.grants.contains_key(&node))
    }

    /// The tunnel that a route shall use, made if there is none, with a handshake begun if it has no session. `None` if there
    /// is no place for it, or if it failed at once: then the route may be gone as well.
    pub(super) fn prefer(&mut self, now: Instant, slot: AttachmentSlot, to: Ipv4Addr) -> Option<TunnelSlot> {
        let generation = self.keys.get(&self.attachments[slot].vni)?.first()?.0;
        let remote = self.attachments[slot].routes.get(&to)?.remote;
        let tunnel = self.tunnel_to(now, slot, to, remote, generation)?;
        if !self.tunnels[tunnel].established {
            self.begin_handshake(now, tunnel);
        }
        self.tunnels.get(tunnel).map(|_| tunnel)
    }

    /// A packet waits: some tunnel of the route must be on its way.
    pub(super) fn want_handshake(&mut self, now: Instant, slot: AttachmentSlot, to: Ipv4Addr) {
        if let Some(tunnel) = self.prefer(now, slot, to) {
            self.tunnels[tunnel].last_sent = now;
        }
    }

    /// The tunnel of this identity, made if there is none; `None` when there is no place, or no such key.
    pub(super) fn tunnel_to(
        &mut self,
        now: Instant,
        slot: AttachmentSlot,
        address: Ipv4Addr,
        remote: Remote,
        generation: Generation,
    ) -> Option<TunnelSlot> {
        let attachment = &self.attachments[slot];
        let (vni, local) = (attachment.vni, attachment.key.public());
        let identity = Identity { vni, generation, local, remote: remote.key, address };
        if let Some(tunnel) = self.tunnels.by_identity(&identity) {
            return Some(tunnel);
        }
        if self.tunnels.len() >= self.config.tunnels_max {
            let idlest = self.tunnels.idle_sample(|| self.rng.next_u32())?;
            if now.saturating_duration_since(self.tunnels[idlest].last_data) < EVICTION_IDLE {
                return None;
            }
            self.close_tunnel(now, idlest);
        }
        let (_, psk) = self.keys.get(&identity.vni)?.iter().find(|(held, _)| *held == generation)?;
        let (tunnel, index) = self.tunnels.reserve(now)?;
        let noise = Noise::new(&self.attachments[slot].key, remote.key, psk, index);
        let peer = self.peers.slot(remote.node);
        self.tunnels.insert(tunnel, Tunnel::new(identity, noise, slot, peer, now));
        let route = self.attachments[slot].routes.entry(address).or_insert_with(|| Route::new(remote));
        route.tunnels.push(tunnel);
        self.reschedule(tunnel);
        Some(tunnel)
    }

    /// Sends an initiation now, unless a handshake is under way already.
    pub(super) fn begin_handshake(&mut self, now: Instant, slot: TunnelSlot) {
        let tunnel = &mut self.tunnels[slot];
        if tunnel.schedule.next.is_none() && tunnel.retires.is_none() {
            tunnel.last_sent = now;
            tunnel.schedule.begin(now);
            self.initiate(now, slot);
            self.reschedule(slot);
        }
    }

    /// Sends one initiation and sets the time of the next.
    pub(super) fn initiate(&mut self, now: Instant, slot: TunnelSlot) {
        let tunnel = &mut self.tunnels[slot];
        if !tunnel.is_wanted(now) {
            tunnel.schedule.done();
            return;
        }
        if !tunnel.may_initiate(now) {
            tunnel.schedule.stop();
            return;
        }
        if !tunnel.schedule.booked {
            match self.pacer.book(now) {
                Turn::Now => {}
                Turn::At(at) => return tunnel.schedule.book(at),
                Turn::Never => return tunnel.schedule.stop(),
            }
        }
        let jitter = self.rng.next_u64();
        let tunnel = &mut self.tunnels[slot];
        let out = self.out.wire_spare();
        if out.len() < 2 * (FRAME_HEADER_LEN + super::noise::RESULT_LEN_MIN) {
            // Its turn is kept. The time must move: a timer that has come is set again for another time only.
            return tunnel.schedule.book(now + FULL_WAIT);
        }
        let step = tunnel.noise.initiate(&mut out[FRAME_HEADER_LEN..]);
        let (to, other) = self.peers[tunnel.peer].candidates(tunnel.schedule.unanswered);
        tunnel.schedule.sent(now, jitter);
        match (step, to) {
            (Ok(Step::Send(len)), Some(to)) => {
                let end = FRAME_HEADER_LEN + len;
                self.out.wire_spare().copy_within(FRAME_HEADER_LEN..end, end + FRAME_HEADER_LEN);
                self.send_frame(slot, to, len);
                if let Some(other) = other {
                    self.send_frame(slot, other, len);
                }
            }
            (Ok(_), Some(_)) => {}
            (Ok(_), None) => self.drops.count(DropReason::NoEndpoint),
            (Err(_), _) => self.close_panicked(now, slot),
        }
    }

    /// What stands behind the room for a header in the wire arena is a message of this tunnel.
    pub(super) fn send_frame(&mut self, slot: TunnelSlot, to: std::net::SocketAddr, len: usize) {
        self.out.wire_spare()[..FRAME_HEADER_LEN].copy_from_slice(&self.tunnels[slot].header.encode());
        self.out.commit_wire(to, FRAME_HEADER_LEN + len);
    }

    /// A tunnel's deadline has come.
    fn tunnel_due(&mut self, now: Instant, slot: TunnelSlot) {
        let idle_timeout = self.config.idle_timeout;
        let tunnel = &mut self.tunnels[slot];
        let idle = now.saturating_duration_since(tunnel.last_data) >= idle_timeout;
        if tunnel.end().is_some_and(|at| at <= now) || idle {
            self.close_tunnel(now, slot);
            return;
        }
        if now.saturating_duration_since(tunnel.last_tick) >= TICK {
            tunnel.last_tick = now;
            self.tick(now, slot);
            self.age_queue(now, slot);
        }
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        if tunnel.schedule.next.is_some_and(|next| next <= now) {
            self.initiate(now, slot);
            self.fall_back(now, slot);
        }
        self.reschedule(slot);
    }

    /// Lets boringtun's time pass, and does what it asks for.
    fn tick(&mut self, now: Instant, slot: TunnelSlot) {
        let tunnel = &mut self.tunnels[slot];
        let out = self.out.wire_spare();
        if out.len() < FRAME_HEADER_LEN + super::noise::RESULT_LEN_MIN {
            return;
        }
        let Ok(step) = tunnel.noise.tick(&mut out[FRAME_HEADER_LEN..]) else {
            self.close_panicked(now, slot);
            return;
        };
        let is_initiation = out[FRAME_HEADER_LEN] == 1;
        if let (Step::Send(len), Some(to)) = (step, self.peers[tunnel.peer].endpoint) {
            // An initiation beside our own schedule is boringtun's retry of ours, or one too many: it is not sent.
            let begins = tunnel.schedule.next.is_none() && tunnel.is_wanted(now) && tunnel.may_initiate(now);
            if is_initiation && begins {
                tunnel.schedule.sent(now, 0);
            }
            if !is_initiation && tunnel.retires.is_none() || begins {
                self.send_frame(slot, to, len);
            }
        }
        let tunnel = &mut self.tunnels[slot];
        if tunnel.established && !tunnel.noise.has_session() {
            tunnel.established = false;
            let (attachment, address) = (tunnel.attachment, tunnel.identity.address);
            self.choose(now, attachment, address);
        }
    }

    /// The newest secret finds no answer: the other node may not have it yet.
    fn fall_back(&mut self, now: Instant, slot: TunnelSlot) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let (attachment, address) = (tunnel.attachment, tunnel.identity.address);
        let Identity { vni, generation, .. } = tunnel.identity;
        let older = match self.keys.get(&vni).map(Vec::as_slice) {
            Some([(newest, _), (older, _)]) if *newest == generation => *older,
            _ => return,
        };
        if tunnel.established || tunnel.schedule.unanswered < FALLBACK_ATTEMPTS {
            return;
        }
        let Some(route) = self.attachments[attachment].routes.get(&address) else { return };
        let remote = route.remote;
        if route.sending.is_none()
            && let Some(fallback) = self.tunnel_to(now, attachment, address, remote, older)
        {
            self.begin_handshake(now, fallback);
        }
    }

    /// A tunnel can encrypt, for a peer that has the session.
    pub(super) fn established(&mut self, now: Instant, slot: TunnelSlot) {
        let tunnel = &mut self.tunnels[slot];
        tunnel.established = true;
        tunnel.schedule.done();
        tunnel.offered = 0;
        let (peer, attachment, address) = (tunnel.peer, tunnel.attachment, tunnel.identity.address);
        self.peers[peer].last_handshake = Some(now);
        self.choose(now, attachment, address);
    }

    /// The first packet came through a tunnel: what it replaces sends no more, and soon receives no more.
    pub(super) fn confirmed(&mut self, now: Instant, slot: TunnelSlot) {
        // What waited for it may have been its end.
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let (attachment, address) = (tunnel.attachment, tunnel.identity.address);
        let Some(route) = self.attachments[attachment].routes.get(&address) else { return };
        let rank = self.rank(attachment, route, slot);
        let worse: Vec<_> =
            route.tunnels.iter().copied().filter(|other| self.rank(attachment, route, *other) > rank).collect();
        for other in worse {
            let tunnel = &mut self.tunnels[other];
            tunnel.schedule.stop();
            tunnel.retires.get_or_insert(now + LINGER);
            self.reschedule(other);
        }
        self.choose(now, attachment, address);
    }

    /// Picks the best tunnel of a route that can encrypt, and gives it what waits.
    pub(super) fn choose(&mut self, now: Instant, slot: AttachmentSlot, to: Ipv4Addr) {
        let Some(route) = self.attachments[slot].routes.get(&to) else { return };
        let usable = |tunnel: &TunnelSlot| self.tunnels[*tunnel].established && self.tunnels[*tunnel].retires.is_none();
        let best = route.tunnels.iter().copied().filter(usable).min_by_key(|tunnel| self.rank(slot, route, *tunnel));
        let Some(route) = self.attachments[slot].routes.get_mut(&to) else { return };
        route.sending = best;
        let Some(tunnel) = best else { return };
        for queued in std::mem::take(&mut route.queue) {
            self.queued_bytes -= queued.packet.len();
            if self.tunnels.get(tunnel).is_some() {
                self.seal_queued(now, tunnel, queued);
            } else {
                self.drops.count(DropReason::HandshakeTimeout);
            }
        }
    }

    /// How far a tunnel is from what its route shall use: the newest secret, then the current keys of both ends.
    fn rank(&self, slot: AttachmentSlot, route: &Route, tunnel: TunnelSlot) -> (usize, bool) {
        let Identity { vni, generation, local, remote, .. } = self.tunnels[tunnel].identity;
        let keys = self.keys.get(&vni).map_or(&[][..], Vec::as_slice);
        let age = keys.iter().position(|(held, _)| *held == generation).unwrap_or(usize::MAX);
        (age, local != self.attachments[slot].key.public() || remote != route.remote.key)
    }

    /// Sets the timer of a tunnel, if it is still there and its deadline has moved.
    pub(super) fn reschedule(&mut self, slot: TunnelSlot) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let at = tunnel.deadline();
        if tunnel.due != at {
            tunnel.due = at;
            self.timers.set(at, slot);
        }
    }

    /// Drops what has waited too long on the route of a tunnel.
    fn age_queue(&mut self, now: Instant, slot: TunnelSlot) {
        let Some(tunnel) = self.tunnels.get(slot) else { return };
        let Some(route) = self.attachments[tunnel.attachment].routes.get_mut(&tunnel.identity.address) else { return };
        while let Some(oldest) = route.queue.front()
            && now.saturating_duration_since(oldest.at) >= QUEUE_AGE_MAX
        {
            self.queued_bytes -= oldest.packet.len();
            route.queue.pop_front();
            self.drops.count(DropReason::HandshakeTimeout);
        }
    }

    pub(super) fn close_panicked(&mut self, now: Instant, slot: TunnelSlot) {
        self.drops.count(DropReason::TunnelPanicked);
        self.close_tunnel(now, slot);
    }

    /// Forgets a tunnel, and its route if it was the last one.
    pub(super) fn close_tunnel(&mut self, now: Instant, slot: TunnelSlot) {
        let Some(tunnel) = self.tunnels.remove(now, slot) else { return };
        let Some(route) = self.attachments[tunnel.attachment].routes.get_mut(&tunnel.identity.address) else { return };
        route.tunnels.retain(|other| *other != slot);
        if route.sending == Some(slot) {
            route.sending = None;
        }
        if route.tunnels.is_empty() {
            self.close_route(now, tunnel.attachment, tunnel.identity.address, DropReason::HandshakeTimeout);
        } else {
            self.choose(now, tunnel.attachment, tunnel.identity.address);
        }
    }

    /// Forgets a route with its tunnels; what waited is dropped for `reason`, and refused if nobody is there any more.
    pub(super) fn close_route(&mut self, now: Instant, slot: AttachmentSlot, to: Ipv4Addr, reason: DropReason) {
        let Some(route) = self.attachments[slot].routes.remove(&to) else { return };
        self.drops.add(reason, route.queue.len() as u64);
        for mut queued in route.queue {
            self.queued_bytes -= queued.packet.len();
            if reason == DropReason::UnknownDestination {
                self.refuse(now, slot, &Superpacket::complete(&mut queued.packet), Unreachable::Host);
            }
        }
        for tunnel in route.tunnels {
            self.tunnels.remove(now, tunnel);
        }
    }
}
