//! The local attachments, and their routes: which remote attachment a container talks to, over which tunnel.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Instant;

use crate::model::{AttachmentId, NodeId, Vni, WgPublicKey, WgSecret};
use crate::packet::{Accepts, Gso, Offload, low_bits};

use super::gate::TokenBucket;
use super::noise::LocalKey;
use super::tunnel::TunnelSlot;

/// ICMP errors that a container gets per second at most.
const ICMP_PER_SECOND: u32 = 100;

/// What the router is told of an attachment.
pub struct AttachmentSpec {
    pub id: AttachmentId,
    pub vni: Vni,
    /// The only address that it may send from.
    pub address: Ipv4Addr,
    /// Its key, made for this attachment at this start.
    pub secret: WgSecret,
    /// The longest packet that goes to another node. Range 576 to 65,535; the interface's own MTU by default.
    pub mtu_bytes: u16,
    pub device: DeviceKind,
}

/// What a container's packets come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A TUN device. `offload`: it takes and gives packets with work left undone ([`crate::packet::Offload`]); `uso`: UDP
    /// superpackets as well.
    Tun { offload: bool, uso: bool },
}

impl DeviceKind {
    /// Which superpackets it takes.
    pub(super) fn accepts(self) -> Accepts {
        let Self::Tun { offload, uso } = self;
        Accepts { tcp: offload, udp: offload && uso }
    }

    /// Whether it takes a packet with this work undone.
    pub(super) fn takes(self, work: Offload) -> bool {
        let Self::Tun { offload, uso } = self;
        match work.gso {
            Gso::None => offload || work.checksum.is_none(),
            Gso::Tcp { .. } => offload,
            Gso::Udp { .. } => offload && uso,
            Gso::Other(_) => false,
        }
    }
}

/// Why an attachment was not taken. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    #[error("attachment {0} is there already")]
    Id(AttachmentId),
    #[error("{1} of VNI {0} is held by another attachment of this node")]
    Address(Vni, Ipv4Addr),
}

/// An attachment's place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AttachmentSlot(u32);

pub(super) struct Attachment {
    pub(super) id: AttachmentId,
    pub(super) vni: Vni,
    pub(super) address: Ipv4Addr,
    pub(super) key: LocalKey,
    pub(super) mtu_bytes: u16,
    pub(super) device: DeviceKind,
    pub(super) icmp: TokenBucket,
    pub(super) routes: HashMap<Ipv4Addr, Route>,
    pub(super) traffic: Traffic,
}

/// What an attachment sent and got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_packets: u64,
    pub tx_packets: u64,
}

/// The way from a local attachment to a remote one.
pub(super) struct Route {
    pub(super) remote: Remote,
    /// Few: one, and beside it another while keys change.
    pub(super) tunnels: Vec<TunnelSlot>,
    /// The best of them that can encrypt.
    pub(super) sending: Option<TunnelSlot>,
    /// Packets that wait for it, oldest first.
    pub(super) queue: VecDeque<Queued>,
}

/// The remote attachment as membership says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Remote {
    pub(super) id: AttachmentId,
    pub(super) node: NodeId,
    pub(super) key: WgPublicKey,
}

pub(super) struct Queued {
    pub(super) at: Instant,
    pub(super) packet: Box<[u8]>,
}

impl Route {
    pub(super) fn new(remote: Remote) -> Self {
        Self { remote, tunnels: Vec::new(), sending: None, queue: VecDeque::new() }
    }
}

/// All local attachments.
#[derive(Default)]
pub(super) struct Attachments {
    slots: Vec<Option<Attachment>>,
    by_id: HashMap<AttachmentId, AttachmentSlot>,
    by_address: HashMap<(Vni, Ipv4Addr), AttachmentSlot>,
    by_low_bits: HashMap<(Vni, u16), AttachmentSlot>,
}

impl std::ops::Index<AttachmentSlot> for Attachments {
    type Output = Attachment;

    fn index(&self, slot: AttachmentSlot) -> &Attachment {
        self.slots[slot.0 as usize].as_ref().expect("a detached attachment's slot is kept by nobody")
    }
}

impl std::ops::IndexMut<AttachmentSlot> for Attachments {
    fn index_mut(&mut self, slot: AttachmentSlot) -> &mut Attachment {
        self.slots[slot.0 as usize].as_mut().expect("a detached attachment's slot is kept by nobody")
    }
}

impl Attachments {
    pub(super) fn insert(&mut self, now: Instant, spec: AttachmentSpec) -> Result<AttachmentSlot, AttachError> {
        if self.by_id.contains_key(&spec.id) {
            return Err(AttachError::Id(spec.id));
        }
        let by_low_bits = (spec.vni, low_bits(spec.address));
        if self.by_low_bits.contains_key(&by_low_bits) {
            return Err(AttachError::Address(spec.vni, spec.address));
        }
        let attachment = Attachment {
            id: spec.id,
            vni: spec.vni,
            address: spec.address,
            key: LocalKey::new(spec.secret, now),
            mtu_bytes: spec.mtu_bytes,
            device: spec.device,
            icmp: TokenBucket::new(now, ICMP_PER_SECOND),
            routes: HashMap::new(),
            traffic: Traffic::default(),
        };
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if free == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[free] = Some(attachment);
        let slot = AttachmentSlot(free as u32);
        self.by_id.insert(spec.id, slot);
        self.by_address.insert((spec.vni, spec.address), slot);
        self.by_low_bits.insert(by_low_bits, slot);
        Ok(slot)
    }

    pub(super) fn remove(&mut self, slot: AttachmentSlot) -> Option<Attachment> {
        let attachment = self.slots.get_mut(slot.0 as usize)?.take()?;
        self.by_id.remove(&attachment.id);
        self.by_address.remove(&(attachment.vni, attachment.address));
        self.by_low_bits.remove(&(attachment.vni, low_bits(attachment.address)));
        Some(attachment)
    }

    pub(super) fn by_id(&self, id: AttachmentId) -> Option<AttachmentSlot> {
        self.by_id.get(&id).copied()
    }

    /// The attachment at exactly this address.
    pub(super) fn at(&self, vni: Vni, address: Ipv4Addr) -> Option<AttachmentSlot> {
        self.by_address.get(&(vni, address)).copied()
    }

    /// The attachment that a frame's header selects.
    pub(super) fn selected(&self, vni: Vni, low_bits: u16) -> Option<AttachmentSlot> {
        self.by_low_bits.get(&(vni, low_bits)).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AttachmentSlot, &Attachment)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((AttachmentSlot(i as u32), slot.as_ref()?)))
    }
}
