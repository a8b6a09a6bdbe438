//! Back-pressure between nodes: one whose socket fills faster than it decrypts asks those who fill it to pause.
//!
//! Nothing else would slow them down. A TCP connection's window would wait in the receiving node's socket, a few
//! milliseconds of it, with everybody's packets in one line behind it, and what does not fit there would be lost. After a
//! pause it waits in the sending node's fair queue, where the others pass it.
//!
//! A pause is short, [`PAUSE_MAX`] at most, and as long as the receiver needs to come down to [`LOW_BYTES`], as fast as it was
//! last time: on a path where it comes late it slows the sender down all the same, and nobody for long. It is sealed in a
//! tunnel (see [`crate::packet::write_quench`]), so that a node can ask only for a pause of what is sent to itself.

use std::time::{Duration, Instant};

use crate::model::AttachmentId;
use crate::packet::{FRAME_HEADER_LEN, Superpacket, write_quench};

use super::Router;
use super::noise::Step;
use super::outbound::pad;
use super::peer::PeerSlot;
use super::tunnel::TunnelSlot;

/// When more than this waits in the socket, whoever sends it is asked to pause,
const HIGH_BYTES: usize = 128 << 10;
/// until this is left: enough to be busy with until more comes.
const LOW_BYTES: usize = 64 << 10;
/// The longest pause that is asked for or granted.
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// Who sent less than this at a time has no part in it.
const SHARE_BYTES: usize = 16 << 10;
/// Senders that are asked, and pauses that are granted, at once.
const PEERS_MAX: usize = 64;

/// What was received in one go, and what is left.
#[derive(Debug, Clone, Copy)]
pub struct Intake {
    pub received_bytes: usize,
    /// How long it took to decrypt and deliver it.
    pub took: Duration,
    /// What waits in the socket.
    pub queued_bytes: usize,
}

/// How often other nodes were asked to pause, and how often this one was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pauses {
    pub asked_for: u64,
    pub kept: u64,
}

impl std::fmt::Display for Pauses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} asked for, {} kept", self.asked_for, self.kept)
    }
}

#[derive(Default)]
pub(super) struct Pressure {
    /// Who sent how much of what was received last, and a tunnel that leads there.
    senders: Vec<(PeerSlot, TunnelSlot, usize)>,
    /// How long 64 KiB take, smoothed.
    pace: Option<Duration>,
    /// Who asked for a pause, and until when.
    pauses: Vec<(PeerSlot, Instant)>,
    count: Pauses,
}

impl Pressure {
    /// A peer sent an authenticated packet.
    pub(super) fn received(&mut self, peer: PeerSlot, tunnel: TunnelSlot, len: usize) {
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.0 == peer) {
            (sender.1, sender.2) = (tunnel, sender.2 + len);
        } else if self.senders.len() < PEERS_MAX {
            self.senders.push((peer, tunnel, len));
        }
    }

    /// A peer asks for a pause.
    pub(super) fn pause(&mut self, now: Instant, peer: PeerSlot, pause: Duration) {
        self.pauses.retain(|(paused, until)| *paused != peer && *until > now);
        if self.pauses.len() < PEERS_MAX {
            self.pauses.push((peer, now + pause.min(PAUSE_MAX)));
            self.count.kept += 1;
        }
    }

    /// How long senders are to pause, if they are.
    fn measure(&mut self, intake: Intake) -> Option<Duration> {
        let took = intake.took.mul_f64(65_536.0 / intake.received_bytes.max(1) as f64);
        let pace = self.pace.map_or(took, |pace| (pace * 7 + took) / 8);
        self.pace = Some(pace);
        let excess = intake.queued_bytes.checked_sub(LOW_BYTES)?;
        (intake.queued_bytes > HIGH_BYTES).then(|| pace.mul_f64(excess as f64 / 65_536.0).min(PAUSE_MAX))
    }
}

impl Router {
    /// Datagrams have been received, decrypted and delivered: whoever sent a large part of them is asked to pause if more
    /// wait than should. `None`: they were too few for others to stand behind them.
    pub fn handle_intake(&mut self, intake: Option<Intake>) {
        if let Some(pause) = intake.and_then(|intake| self.pressure.measure(intake)) {
            for at in 0..self.pressure.senders.len() {
                let (_, tunnel, bytes) = self.pressure.senders[at];
                if bytes >= SHARE_BYTES {
                    self.quench(tunnel, pause);
                }
            }
        }
        self.pressure.senders.clear();
    }

    /// Whether the node that a container's packet is for has asked for a pause.
    pub fn is_paused(&self, now: Instant, id: AttachmentId, packet: &Superpacket<'_>) -> bool {
        let find = || {
            let attachment = &self.attachments[self.attachments.by_id(id)?];
            let tunnel = attachment.routes.get(&packet.view().ok()?.destination())?.sending?;
            let peer = self.tunnels.get(tunnel)?.peer;
            self.pressure.pauses.iter().find(|(paused, until)| *paused == peer && *until > now)
        };
        !self.pressure.pauses.is_empty() && find().is_some()
    }

    /// When the next pause ends, if there is any.
    pub fn next_resume(&mut self, now: Instant) -> Option<Instant> {
        self.pressure.pauses.retain(|(_, until)| *until > now);
        self.pressure.pauses.iter().map(|(_, until)| *until).min()
    }

    /// How often anybody was asked to pause.
    pub fn pauses(&self) -> Pauses {
        self.pressure.count
    }

    fn quench(&mut self, slot: TunnelSlot, pause: Duration) {
        let Some(tunnel) = self.tunnels.get_mut(slot) else { return };
        let Some(endpoint) = self.peers[tunnel.peer].endpoint else { return };
        let Some(message) = self.out.wire_spare().get_mut(FRAME_HEADER_LEN..) else { return };
        let mtu_bytes = usize::from(self.attachments[tunnel.attachment].mtu_bytes);
        let packet = write_quench(tunnel.identity.address, pause);
        // Without a session there is nobody to ask; a tunnel that fails is closed by the next packet.
        if let Ok(Step::Send(len)) = tunnel.noise.seal(pad(&packet, mtu_bytes, &mut self.padded), message) {
            self.send_frame(slot, endpoint, len);
            self.pressure.count.asked_for += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake(queued_bytes: usize) -> Intake {
        Intake { received_bytes: 128 << 10, took: Duration::from_micros(200), queued_bytes }
    }

    #[test]
    fn a_pause_is_asked_for_above_the_mark_only_and_lasts_until_little_is_left() {
        let mut pressure = Pressure::default();
        assert_eq!(pressure.measure(intake(HIGH_BYTES)), None);
        assert_eq!(pressure.measure(intake(LOW_BYTES + (256 << 10))), Some(Duration::from_micros(400)));
        assert_eq!(pressure.measure(intake(1 << 30)), Some(PAUSE_MAX));
        assert_eq!(pressure.measure(Intake { received_bytes: 0, ..intake(0) }), None);
    }
}
