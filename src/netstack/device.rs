//! What smoltcp takes for a device: the two queues of a stack, and the port through which a dialler's flows have their turn.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::packet::IPV4_HEADER_LEN;

/// Packets on their way out. What does not fit stays in its stream until there is room.
const OUT_LEN_MAX: usize = 128;
const TCP_HEADER_LEN: usize = 20;

/// One packet in at most, a bounded number out.
pub(super) struct Queues {
    pub(super) incoming: Option<Vec<u8>>,
    pub(super) outgoing: VecDeque<Vec<u8>>,
    mtu_bytes: u16,
}

impl Queues {
    pub(super) fn new(mtu_bytes: u16) -> Self {
        Self { incoming: None, outgoing: VecDeque::new(), mtu_bytes }
    }
}

impl phy::Device for Queues {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let packet = self.incoming.take()?;
        Some((RxToken(packet), TxToken(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (self.outgoing.len() < OUT_LEN_MAX).then_some(TxToken(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu_bytes);
        // What came in crossed a device of this host: the kernel vouches for it, or left the sum undone.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

pub(super) struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

pub(super) struct TxToken<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}

/// The longest packet.
pub(super) const PACKET_LEN_MAX: usize = 65_535;

/// One packet in or one out, and no copy of either: TCP may be longer than the MTU and without its checksum, both ways.
pub(super) struct Port<'p> {
    pub(super) incoming: Option<&'p [u8]>,
    /// Where what goes out is written to.
    pub(super) buffer: &'p mut [u8],
    /// The length of what went out.
    pub(super) written: Option<usize>,
    pub(super) mtu_bytes: u16,
}

impl phy::Device for Port<'_> {
    type RxToken<'a>
        = PortRx<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = PortTx<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(PortRx<'_>, PortTx<'_>)> {
        let packet = self.incoming.take()?;
        Some((PortRx(packet), PortTx { buffer: self.buffer, written: &mut self.written }))
    }

    fn transmit(&mut self, _: Instant) -> Option<PortTx<'_>> {
        let free = self.written.is_none();
        free.then_some(PortTx { buffer: self.buffer, written: &mut self.written })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu_bytes);
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::None;
        // Whole segments only, so that cutting leaves no short one amid a stream.
        let headers_len = IPV4_HEADER_LEN + TCP_HEADER_LEN;
        let segment_bytes = usize::from(self.mtu_bytes).saturating_sub(headers_len).max(1);
        let segments = (PACKET_LEN_MAX - headers_len) / segment_bytes;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(headers_len + segments * segment_bytes);
        capabilities
    }
}

pub(super) struct PortRx<'p>(&'p [u8]);

impl phy::RxToken for PortRx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(self.0)
    }
}

pub(super) struct PortTx<'p> {
    buffer: &'p mut [u8],
    written: &'p mut Option<usize>,
}

impl phy::TxToken for PortTx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        // smoltcp keeps to the capabilities; if it did not, what is too long would be lost rather than this process.
        *self.written = Some(len.min(self.buffer.len()));
        match self.buffer.get_mut(..len) {
            Some(room) => write(room),
            None => write(&mut vec![0; len]),
        }
    }
}
