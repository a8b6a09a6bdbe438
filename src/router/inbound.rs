//! From the wire: a frame selects a tunnel, the tunnel decrypts it, and the packet is checked against both ends.

use std::net::SocketAddr;
use std::time::Instant;

use crate::packet::{
    Batch, Class, FRAME_HEADER_LEN, FrameError, FrameHeader, FrameType, Ipv4View, Offload, complete_checksum,
    partial_checksum, read_quench, runs,
};

use super::noise::{Message, RESULT_LEN_MIN, Step};
use super::peer::canonical;
use super::tunnel::{News, TunnelSlot};
use super::{DropReason, Router};

/// No frame is longer: the longest packet, 65,535 bytes, with what a tunnel adds.
const MESSAGE_LEN_MAX: usize = 65_535 + 32;

impl Router {
    /// Datagrams came to the port. QUIC is told apart before, by [`crate::packet::runs`].
    pub fn handle_wire(&mut self, now: Instant, from: SocketAddr, batch: Batch<'_>) {
        let from = canonical(from);
        for (class, run) in runs(batch) {
            match class {
                Class::Frame => {
                    for frame in run.iter() {
                        if let Err(reason) = self.inbound(now, from, frame) {
                            self.drops.count(reason);
                        }
                    }
                }
                Class::Quic => self.drops.add(DropReason::MisplacedQuic, run.count() as u64),
                Class::WireguardClient => self.drops.add(DropReason::WireguardClient, run.count() as u64),
                Class::Unknown => self.drops.add(DropReason::UnknownDatagram, run.count() as u64),
            }
        }
    }

    /// One frame.
    pub(super) fn inbound(&mut self, now: Instant, from: SocketAddr, frame: &[u8]) -> Result<(), DropReason> {
        let (header, message) = FrameHeader::decode(frame).map_err(|error| match error {
            FrameError::Version(_) => DropReason::UnknownVersion,
            FrameError::Type(_) => DropReason::UnknownFrameType,
            FrameError::Short(_) | FrameError::Flags(_) | FrameError::Vni => DropReason::MalformedFrame,
        })?;
        if message.len() > MESSAGE_LEN_MAX {
            return Err(DropReason::MessageTooLong);
        }
        match Message::parse(message).ok_or(DropReason::MalformedMessage)? {
            Message::Data { receiver, counter } => {
                let slot = self.selected(header, receiver)?;
                self.data(now, from, slot, header.kind, message, (receiver, counter))
            }
            // There is no packet in it to say anything of.
            _ if header.kind != FrameType::Plain => Err(DropReason::MalformedFrame),
            Message::Initiation => self.initiation(now, from, header, frame),
            Message::Response { receiver } => {
                let slot = self.selected(header, receiver)?;
                self.response(now, from, slot, message)
            }
            Message::Cookie { receiver } => {
                let slot = self.tunnels.by_receiver(receiver).ok_or(DropReason::UnknownTunnel)?;
                self.cookie(now, from, slot, message)
            }
        }
    }

    /// The tunnel that a message is for, if the frame's header says the same VNI and generation.
    fn selected(&self, header: FrameHeader, receiver: u32) -> Result<TunnelSlot, DropReason> {
        let slot = self.tunnels.by_receiver(receiver).ok_or(DropReason::UnknownTunnel)?;
        let identity = &self.tunnels[slot].identity;
        if (identity.vni, identity.generation) == (header.vni, header.generation) {
            Ok(slot)
        } else {
            Err(DropReason::ForeignVni)
        }
    }

    /// A data message: a packet for the local attachment, or a keepalive.
    fn data(
        &mut self,
        now: Instant,
        from: SocketAddr,
        slot: TunnelSlot,
        kind: FrameType,
        message: &[u8],
        number: (u32, u64),
    ) -> Result<(), DropReason> {
        let tunnel = &mut self.tunnels[slot];
        let out = self.out.device_spare();
        if out.len() < message.len().max(RESULT_LEN_MIN) {
            return Err(DropReason::OutboxFull);
        }
        let Ok(step) = tunnel.noise.open(from.ip(), message, out) else {
            self.close_tunnel(now, slot);
            return Err(DropReason::TunnelPanicked);
        };
        let len = match step {
            Step::Packet(len) => len,
            Step::Nothing => 0,
            Step::Send(_) | Step::Refused | Step::Expired => return Err(DropReason::ReplayedOrForged),
        };
        let (news, peer) = (tunnel.heard(now, number.0, number.1), tunnel.peer);
        self.peers.heard(now, peer, (news != News::None).then_some(from));
        let delivered = if len == 0 { Ok(()) } else { self.deliver(now, slot, kind, len) };
        if news == News::Session {
            self.established(now, slot);
            self.confirmed(now, slot);
        }
        delivered
    }

    /// A decrypted packet stands in the device arena: it must be from exactly the remote end, for exactly the local one.
    ///
    /// What the frame says of its checksum stands outside of the encryption, so the packet itself must say the same.
    fn deliver(&mut self, now: Instant, slot: TunnelSlot, kind: FrameType, len: usize) -> Result<(), DropReason> {
        let tunnel = &mut self.tunnels[slot];
        let attachment = &mut self.attachments[tunnel.attachment];
        let view = Ipv4View::parse(self.out.device_written(len)).map_err(|_| DropReason::MalformedInner)?;
        if view.destination() != attachment.address {
            return Err(DropReason::ForeignInnerDestination);
        }
        if view.source() != tunnel.identity.address {
            let pause = read_quench(&view).ok_or(DropReason::SpoofedInnerSource)?;
            self.pressure.pause(now, tunnel.peer, pause);
            return Ok(());
        }
        let mut work = match kind {
            FrameType::Plain => Offload::NONE,
            FrameType::PartialChecksum => partial_checksum(&view).ok_or(DropReason::NoPartialChecksum)?,
        };
        if let Some((start, offset)) = work.checksum
            && !attachment.device.takes(work)
        {
            complete_checksum(&mut self.out.device_spare()[..len], start, offset);
            work = Offload::NONE;
        }
        tunnel.last_data = now;
        self.peers[tunnel.peer].rx_bytes += len as u64;
        self.pressure.received(tunnel.peer, slot, len);
        attachment.traffic.received(len);
        self.out.commit_device(attachment.id, attachment.device.accepts(), work, len);
        Ok(())
    }

    /// An answer to an initiation of ours.
    fn response(&mut self, now: Instant, from: SocketAddr, slot: TunnelSlot, message: &[u8]) -> Result<(), DropReason> {
        let tunnel = &mut self.tunnels[slot];
        let out = self.out.wire_spare();
        if out.len() < FRAME_HEADER_LEN + RESULT_LEN_MIN {
            return Err(DropReason::OutboxFull);
        }
        match tunnel.noise.open(from.ip(), message, &mut out[FRAME_HEADER_LEN..]) {
            Ok(Step::Send(len)) => {
                tunnel.last_heard = Some(now);
                let peer = tunnel.peer;
                // The answer is to a secret of ours that is seconds old: its source is where the peer is.
                self.peers.heard(now, peer, Some(from));
                self.send_frame(slot, from, len);
                self.established(now, slot);
                self.reschedule(slot);
                Ok(())
            }
            Ok(_) => Err(DropReason::BadHandshake),
            Err(_) => {
                self.close_tunnel(now, slot);
                Err(DropReason::TunnelPanicked)
            }
        }
    }

    /// The peer is under load: the next initiation carries its cookie, and goes at once.
    fn cookie(&mut self, now: Instant, from: SocketAddr, slot: TunnelSlot, message: &[u8]) -> Result<(), DropReason> {
        let mut out = [0; RESULT_LEN_MIN];
        match self.tunnels[slot].noise.open(from.ip(), message, &mut out) {
            Ok(Step::Nothing) => {
                if self.tunnels[slot].schedule.next.is_some() {
                    self.initiate(now, slot);
                    self.reschedule(slot);
                }
                Ok(())
            }
            Ok(_) => Err(DropReason::BadHandshake),
            Err(_) => {
                self.close_tunnel(now, slot);
                Err(DropReason::TunnelPanicked)
            }
        }
    }
}
