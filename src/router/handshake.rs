//! Initiations: the one thing that somebody without a session can make this node work for.
//!
//! The order is by cost: the destination bits of the header select one key; the message's length, its mac1, under load its
//! cookie; then the expensive part that tells the initiator's key; then membership; and only then a tunnel.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::packet::{FRAME_HEADER_LEN, FrameHeader};

use super::noise::{InitiationError, RESULT_LEN_MIN, Step};
use super::{DropReason, Event, Router};

/// How long an initiation by an unknown key waits for the key's record.
const RECORD_WAIT: Duration = Duration::from_secs(1);
const WAITING_MAX: usize = 64;

/// Initiations by keys that no record names yet, oldest first.
#[derive(Default)]
pub(super) struct Waiting(VecDeque<WaitingInitiation>);

struct WaitingInitiation {
    until: Instant,
    from: SocketAddr,
    frame: Box<[u8]>,
}

impl Waiting {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.0.front().map(|oldest| oldest.until)
    }
}

impl Router {
    /// An initiation of 148 bytes behind its header.
    pub(super) fn initiation(
        &mut self,
        now: Instant,
        from: SocketAddr,
        header: FrameHeader,
        frame: &[u8],
    ) -> Result<(), DropReason> {
        let message = &frame[FRAME_HEADER_LEN..];
        let FrameHeader { vni, generation, destination, .. } = header;
        let slot = self.attachments.selected(vni, destination).ok_or(DropReason::UnknownInitiationDestination)?;
        match self.attachments[slot].key.check(now, from.ip(), message) {
            Ok(()) => {}
            Err(InitiationError::Mac) => return Err(DropReason::BadMac),
            Err(InitiationError::UnderLoad(cookie)) => {
                self.send_cookie(from, header, &cookie);
                return Err(DropReason::HandshakeUnderLoad);
            }
        }
        if !self.peers.is_endpoint(from) && !self.strangers.admit(now, from.ip()) {
            return Err(DropReason::HandshakeFlood);
        }
        if !self.keys.get(&vni).is_some_and(|keys| keys.iter().any(|(held, _)| *held == generation)) {
            self.out.push_event(Event::MissingKey { vni, generation: Some(generation) });
            return Err(DropReason::UnknownGeneration);
        }
        let key = self.attachments[slot].key.initiator(message).ok_or(DropReason::BadHandshake)?;
        let network = self.membership.network_by_vni(vni);
        let known = network.and_then(|network| {
            let claims = network.containers_by_key(key);
            let claims = claims.filter_map(|said| Some((said, self.remote_at(network, said.address)?)));
            // Who says another's key completes no handshake with it, and shall cost the other none either.
            let (said, remote) =
                claims.min_by_key(|(said, remote)| (self.peers.nearness(remote.node, from), said.rev, said.node))?;
            Some((said.address, remote))
        });
        let Some((address, remote)) = known else {
            if !self.peers.is_endpoint(from) {
                return Err(DropReason::UnknownPeer);
            }
            self.out.push_event(Event::UnknownPeer { vni, key, from });
            return self.wait(now, from, frame);
        };
        let tunnel = self.tunnel_to(now, slot, address, remote, generation).ok_or(DropReason::TunnelsFull)?;
        let out = self.out.wire_spare();
        if out.len() < FRAME_HEADER_LEN + RESULT_LEN_MIN {
            return Err(DropReason::OutboxFull);
        }
        let entry = &mut self.tunnels[tunnel];
        if !entry.may_answer(now) {
            return Err(DropReason::TooManyHandshakes);
        }
        match entry.noise.open(from.ip(), message, &mut out[FRAME_HEADER_LEN..]) {
            Ok(Step::Send(len)) => {
                // The source is not believed yet: an initiation can be a copy. The session's first message moves the endpoint.
                entry.offered += 1;
                self.send_frame(tunnel, from, len);
                Ok(())
            }
            Ok(_) => Err(DropReason::BadHandshake),
            Err(_) => {
                self.close_tunnel(now, tunnel);
                Err(DropReason::TunnelPanicked)
            }
        }
    }

    /// Answers with a cookie, which is shorter than what it answers.
    fn send_cookie(&mut self, from: SocketAddr, header: FrameHeader, cookie: &[u8]) {
        let header = FrameHeader::new(Ipv4Addr::UNSPECIFIED, header.vni, header.generation).encode();
        let len = header.len() + cookie.len();
        let Some(out) = self.out.wire_spare().get_mut(..len) else { return };
        out[..FRAME_HEADER_LEN].copy_from_slice(&header);
        out[FRAME_HEADER_LEN..].copy_from_slice(cookie);
        self.out.commit_wire(from, len);
    }

    fn wait(&mut self, now: Instant, from: SocketAddr, frame: &[u8]) -> Result<(), DropReason> {
        if self.waiting.0.len() >= WAITING_MAX {
            return Err(DropReason::InitiationQueueFull);
        }
        self.waiting.0.push_back(WaitingInitiation { until: now + RECORD_WAIT, from, frame: frame.into() });
        Ok(())
    }

    /// Membership has changed: what waited may be known now. What is not waits on, no longer than before.
    pub(super) fn retry_waiting(&mut self, now: Instant) {
        for waiting in std::mem::take(&mut self.waiting.0) {
            let before = self.waiting.0.len();
            if let Err(reason) = self.inbound(now, waiting.from, &waiting.frame) {
                self.drops.count(reason);
            }
            if self.waiting.0.len() > before
                && let Some(again) = self.waiting.0.back_mut()
            {
                again.until = waiting.until;
            }
        }
    }

    pub(super) fn drop_waiting(&mut self, now: Instant) {
        while self.waiting.next_timeout().is_some_and(|until| until <= now) {
            self.waiting.0.pop_front();
            self.drops.count(DropReason::UnknownPeer);
        }
    }
}
