//! From a container: its packet is checked, and goes to another container of this node, to the resolver, or into a tunnel.

use std::net::Ipv4Addr;
use std::time::Instant;

use crate::membership::Network;
use crate::model::{AttachmentId, CONTAINER_PREFIX, CONTAINERS, EXTRAS, RESOLVER};
use crate::packet::{
    FRAME_HEADER_LEN, FrameHeader, FrameType, ICMP_ERROR_LEN_MAX, Ipv4Error, Offload, Protocol, Superpacket, UdpView,
    Unreachable, write_unreachable,
};

use super::attachment::{AttachmentSlot, Queued, Remote, Route};
use super::noise::{DATA_OVERHEAD, RESULT_LEN_MIN, Step};
use super::tunnel::TunnelSlot;
use super::{DropReason, Event, Router};

const DNS_PORT: u16 = 53;
const PADDING: usize = 16;

impl Router {
    /// A container sent a packet through its device.
    ///
    /// If it is for another container of this node whose device takes it as it is, nothing is made of it: the answer is whom
    /// the caller is to write it to, with the work that is undone.
    #[must_use = "a packet between containers of this node is written by the caller"]
    pub fn handle_device(
        &mut self,
        now: Instant,
        id: AttachmentId,
        packet: &mut Superpacket<'_>,
    ) -> Option<AttachmentId> {
        self.outbound(now, id, packet).unwrap_or_else(|reason| {
            self.drops.count(reason);
            None
        })
    }

    /// Whether a container's packet is for the resolver or for another container of this node, and so needs no socket.
    pub fn is_local(&self, id: AttachmentId, packet: &Superpacket<'_>) -> bool {
        let Some(slot) = self.attachments.by_id(id) else { return false };
        packet.view().is_ok_and(|view| match Destination::of(view.destination()) {
            Destination::Resolver => true,
            Destination::Container => self.attachments.at(self.attachments[slot].vni, view.destination()).is_some(),
            Destination::Multicast | Destination::Outside => false,
        })
    }

    /// A packet of this node's own, such as the resolver's answer, goes to a container's device.
    pub fn handle_local(&mut self, id: AttachmentId, packet: &[u8]) {
        match self.attachments.by_id(id) {
            None => self.drops.count(DropReason::UnknownAttachment),
            Some(slot) if self.out.push_device(id, Offload::NONE, packet) => {
                self.attachments[slot].traffic.received(packet.len());
            }
            Some(_) => self.drops.count(DropReason::OutboxFull),
        }
    }

    fn outbound(
        &mut self,
        now: Instant,
        id: AttachmentId,
        packet: &mut Superpacket<'_>,
    ) -> Result<Option<AttachmentId>, DropReason> {
        let slot = self.attachments.by_id(id).ok_or(DropReason::UnknownAttachment)?;
        let view = packet.view().map_err(|error| match error {
            Ipv4Error::Version(_) => DropReason::NotIpv4,
            Ipv4Error::Header | Ipv4Error::Length { .. } => DropReason::MalformedPacket,
        })?;
        let attachment = &mut self.attachments[slot];
        if view.source() != attachment.address {
            return Err(DropReason::SpoofedSource);
        }
        attachment.traffic.sent(view.total_len());
        let (vni, to) = (attachment.vni, view.destination());
        match Destination::of(to) {
            Destination::Multicast => Err(DropReason::Multicast),
            Destination::Resolver => self.for_resolver(now, slot, packet).map(|()| None),
            Destination::Outside => {
                self.refuse(now, slot, packet, Unreachable::Prohibited);
                Err(DropReason::OutsideDestination)
            }
            Destination::Container => match self.attachments.at(vni, to) {
                Some(other) => self.for_neighbour(other, packet),
                None => self.for_peer(now, slot, to, packet).map(|()| None),
            },
        }
    }

    /// To the resolver: whole UDP datagrams and TCP segments for its port only.
    fn for_resolver(
        &mut self,
        now: Instant,
        slot: AttachmentSlot,
        packet: &mut Superpacket<'_>,
    ) -> Result<(), DropReason> {
        let whole = packet.offload().gso == Offload::NONE.gso;
        let asks = packet.view().is_ok_and(|view| match view.protocol() {
            Protocol::Udp => {
                whole && UdpView::parse(&view).is_some_and(|datagram| datagram.destination.port() == DNS_PORT)
            }
            Protocol::Tcp => !view.is_fragment() && view.payload().get(2..4) == Some(&DNS_PORT.to_be_bytes()),
            _ => false,
        });
        if !asks {
            self.refuse(now, slot, packet, Unreachable::Port);
            return Err(DropReason::NoService);
        }
        let id = self.attachments[slot].id;
        let mut segments = packet.segments().map_err(|_| DropReason::UnsupportedOffload)?;
        while let Some(segment) = segments.next() {
            if !self.out.push_resolver(id, segment) {
                return Err(DropReason::OutboxFull);
            }
        }
        Ok(())
    }

    /// To another container of this node: no cipher, no copy, and the kernel's undone work stays undone where it can.
    fn for_neighbour(
        &mut self,
        other: AttachmentSlot,
        packet: &mut Superpacket<'_>,
    ) -> Result<Option<AttachmentId>, DropReason> {
        packet.check().map_err(|_| DropReason::UnsupportedOffload)?;
        let attachment = &mut self.attachments[other];
        attachment.traffic.received(packet.bytes().len());
        if attachment.device.takes(packet.offload()) {
            return Ok(Some(attachment.id));
        }
        let mut segments = packet.segments().map_err(|_| DropReason::UnsupportedOffload)?;
        while let Some(segment) = segments.next() {
            if !self.out.push_device(attachment.id, Offload::NONE, segment) {
                return Err(DropReason::OutboxFull);
            }
        }
        Ok(None)
    }

    /// To a container of another node, through its tunnel; or into the queue for it.
    fn for_peer(
        &mut self,
        now: Instant,
        slot: AttachmentSlot,
        to: Ipv4Addr,
        packet: &mut Superpacket<'_>,
    ) -> Result<(), DropReason> {
        let mtu_bytes = self.attachments[slot].mtu_bytes;
        if packet.check().map_err(|_| DropReason::UnsupportedOffload)? > usize::from(mtu_bytes) {
            self.refuse(now, slot, packet, Unreachable::FragmentationNeeded { mtu_bytes });
            return Err(DropReason::PacketTooBig);
        }
        if !self.attachments[slot].routes.contains_key(&to) {
            self.open_route(now, slot, to, packet)?;
        }
        let route = &self.attachments[slot].routes[&to];
        let is_down = match route.sending {
            Some(tunnel) => self.peers[self.tunnels[tunnel].peer].is_down,
            None => self.membership.is_silent(route.remote.node),
        };
        let sending = route.sending;
        if is_down {
            // The tunnel stays: should the node be back in a moment, its connections go on.
            self.refuse(now, slot, packet, Unreachable::Host);
            return Err(DropReason::NodeDown);
        }
        match sending {
            Some(tunnel) => self.seal(now, tunnel, packet),
            None => self.enqueue(now, slot, to, packet),
        }
    }

    /// Encrypts a packet's segments, one frame each, into the outbox. Checksums that the kernel has left undone stay so, and the
    /// frames say it.
    fn seal(&mut self, now: Instant, slot: TunnelSlot, packet: &mut Superpacket<'_>) -> Result<(), DropReason> {
        let tunnel = &mut self.tunnels[slot];
        let peer = &mut self.peers[tunnel.peer];
        let endpoint = peer.endpoint.ok_or(DropReason::NoEndpoint)?;
        let mtu_bytes = usize::from(self.attachments[tunnel.attachment].mtu_bytes);
        (tunnel.last_data, tunnel.last_sent) = (now, now);
        let mut segments = packet.partial_segments().map_err(|_| DropReason::UnsupportedOffload)?;
        let kind = if segments.are_partial() { FrameType::PartialChecksum } else { FrameType::Plain };
        let frame_header = FrameHeader { kind, ..tunnel.header }.encode();
        while let Some(segment) = segments.next() {
            let packet = pad(segment, mtu_bytes, &mut self.padded);
            let out = self.out.wire_spare();
            if out.len() < FRAME_HEADER_LEN + (packet.len() + DATA_OVERHEAD).max(RESULT_LEN_MIN) {
                return Err(DropReason::OutboxFull);
            }
            let (header, message) = out.split_at_mut(FRAME_HEADER_LEN);
            match tunnel.noise.seal(packet, message) {
                Ok(Step::Send(len)) => {
                    header.copy_from_slice(&frame_header);
                    peer.tx_bytes += segment.len() as u64;
                    self.out.commit_wire(endpoint, FRAME_HEADER_LEN + len);
                }
                // The session ended since the last tick, which brings the next one about.
                Ok(_) => return Err(DropReason::HandshakeTimeout),
                Err(_) => {
                    self.close_tunnel(now, slot);
                    return Err(DropReason::TunnelPanicked);
                }
            }
        }
        Ok(())
    }

    /// Encrypts a packet that waited.
    pub(super) fn seal_queued(&mut self, now: Instant, slot: TunnelSlot, mut queued: Queued) {
        if let Err(reason) = self.seal(now, slot, &mut Superpacket::complete(&mut queued.packet)) {
            self.drops.count(reason);
        }
    }

    /// Keeps a packet's segments until a tunnel is open, and sees to it that one is being opened.
    fn enqueue(
        &mut self,
        now: Instant,
        slot: AttachmentSlot,
        to: Ipv4Addr,
        packet: &mut Superpacket<'_>,
    ) -> Result<(), DropReason> {
        self.want_handshake(now, slot, to);
        let Some(route) = self.attachments[slot].routes.get_mut(&to) else { return Err(DropReason::TunnelsFull) };
        let mut segments = packet.segments().map_err(|_| DropReason::UnsupportedOffload)?;
        while let Some(segment) = segments.next() {
            if route.queue.len() >= self.config.queue_len_max
                || self.queued_bytes + segment.len() > self.config.queue_bytes_max
            {
                return Err(DropReason::HandshakeQueueFull);
            }
            self.queued_bytes += segment.len();
            route.queue.push_back(Queued { at: now, packet: segment.into() });
        }
        Ok(())
    }

    /// Makes the route to `to`, if membership says that a container of another node holds that address.
    fn open_route(
        &mut self,
        now: Instant,
        slot: AttachmentSlot,
        to: Ipv4Addr,
        packet: &Superpacket<'_>,
    ) -> Result<(), DropReason> {
        let vni = self.attachments[slot].vni;
        let network = self.membership.network_by_vni(vni);
        let Some(remote) = network.and_then(|network| self.remote_at(network, to)) else {
            self.refuse(now, slot, packet, Unreachable::Host);
            return Err(DropReason::UnknownDestination);
        };
        if self.membership.is_silent(remote.node) {
            self.refuse(now, slot, packet, Unreachable::Host);
            return Err(DropReason::NodeDown);
        }
        if self.keys.get(&vni).is_none_or(Vec::is_empty) {
            self.out.push_event(Event::MissingKey { vni, generation: None });
            return Err(DropReason::NoNetworkKey);
        }
        self.attachments[slot].routes.insert(to, Route::new(remote));
        if self.prefer(now, slot, to).is_none() {
            self.attachments[slot].routes.remove(&to);
            return Err(DropReason::TunnelsFull);
        }
        Ok(())
    }

    /// Who holds an address of a network, if it is a container of another node that may host there.
    pub(super) fn remote_at(&self, network: &Network, address: Ipv4Addr) -> Option<Remote> {
        let container = network.container_at(address)?;
        let remote = Remote { id: container.id, node: container.node, key: container.public_key };
        self.may_host(network, remote.node).then_some(remote)
    }

    /// Tells a container that its packet goes nowhere, unless it has been told often enough.
    pub(super) fn refuse(&mut self, now: Instant, slot: AttachmentSlot, packet: &Superpacket<'_>, why: Unreachable) {
        let Ok(original) = packet.view() else { return };
        let attachment = &mut self.attachments[slot];
        let mut error = [0; ICMP_ERROR_LEN_MAX];
        let Some(len) = write_unreachable(&mut error, why, &original, RESOLVER) else { return };
        if attachment.icmp.admit(now) {
            let id = attachment.id;
            self.handle_local(id, &error[..len]);
        }
    }
}

/// Pads a packet to a multiple of 16 bytes, but not beyond the MTU, so that its length says less (WireGuard §5.4.6). The
/// receiver cuts it to its IP length.
pub(super) fn pad<'a>(packet: &'a [u8], mtu_bytes: usize, padded: &'a mut Vec<u8>) -> &'a [u8] {
    let len = packet.len().next_multiple_of(PADDING).min(mtu_bytes.max(packet.len()));
    if len == packet.len() {
        return packet;
    }
    padded.clear();
    padded.extend_from_slice(packet);
    padded.resize(len, 0);
    padded
}

/// What kind of address a container sends to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Container,
    Resolver,
    Multicast,
    Outside,
}

impl Destination {
    fn of(address: Ipv4Addr) -> Self {
        if CONTAINERS.contains(address) || EXTRAS.contains(address) {
            Self::Container
        } else if address == RESOLVER {
            Self::Resolver
        } else if address.is_multicast() || address.is_broadcast() || is_network_broadcast(address) {
            Self::Multicast
        } else {
            Self::Outside
        }
    }
}

/// The first and the last address of the containers' prefix.
fn is_network_broadcast(address: Ipv4Addr) -> bool {
    let (first, len) = CONTAINER_PREFIX;
    let hosts = u32::MAX >> len;
    address == first || address.to_bits() == first.to_bits() | hosts
}

impl super::Traffic {
    fn sent(&mut self, bytes: usize) {
        self.tx_bytes += bytes as u64;
        self.tx_packets += 1;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.rx_bytes += bytes as u64;
        self.rx_packets += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_told_apart() {
        let of = |text: &str| Destination::of(text.parse().expect("an address"));
        assert_eq!(of("10.240.0.1"), Destination::Container);
        assert_eq!(of("10.240.3.254"), Destination::Container);
        assert_eq!(of("169.254.241.1"), Destination::Container);
        assert_eq!(of("169.254.240.53"), Destination::Resolver);
        for multicast in ["10.240.0.0", "10.240.3.255", "224.0.0.1", "255.255.255.255"] {
            assert_eq!(of(multicast), Destination::Multicast);
        }
        for outside in ["10.240.4.1", "127.0.0.1", "0.0.0.0", "8.8.8.8", "169.254.240.54"] {
            assert_eq!(of(outside), Destination::Outside);
        }
    }
}
