//! Reading from and writing to a TUN device that somebody else has opened.
//!
//! tun-rs makes devices, but refuses one with IFF_VNET_HDR that comes as a descriptor; the hot path needs no more than this.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::OFlags;

use crate::packet::{Gather, OFFLOAD_HEADER_LEN, Offload, Superpacket};

/// Where a packet is read to: the offload header and the longest packet.
pub const READ_LEN: usize = OFFLOAD_HEADER_LEN + 65_535;
/// Pieces that one write takes.
const PIECES_MAX: usize = 128;

/// An open TUN device (IFF_TUN, IFF_NO_PI), which does not block.
#[derive(Debug)]
pub struct TunDevice {
    fd: OwnedFd,
    offload: bool,
    uso: bool,
}

/// A device that will never work again: its interface was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the interface is gone")]
pub struct Gone;

impl TunDevice {
    /// Takes an open device. `offload` says whether it was opened with IFF_VNET_HDR, `uso` whether the kernel takes UDP
    /// superpackets as well.
    pub fn new(fd: OwnedFd, offload: bool, uso: bool) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, offload, uso: offload && uso })
    }

    /// Whether packets come and go with work left undone.
    pub fn offload(&self) -> bool {
        self.offload
    }

    /// Whether UDP superpackets come and go.
    pub fn uso(&self) -> bool {
        self.uso
    }

    /// How many bytes stand in front of a packet in the buffer that it was read into.
    pub fn header_len(&self) -> usize {
        if self.offload { OFFLOAD_HEADER_LEN } else { 0 }
    }

    /// The descriptor. To close it takes the kernel 17 ms.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Reads one packet; `None` if there is none.
    ///
    /// # Errors
    /// [`Gone`], after which there is no use in asking again. Whatever else goes wrong counts as no packet.
    pub fn read<'a>(&self, buffer: &'a mut [u8; READ_LEN]) -> Result<Option<Superpacket<'a>>, Gone> {
        let len = loop {
            match rustix::io::read(&self.fd, &mut buffer[..]) {
                Ok(0) => return Ok(None),
                Ok(len) => break len,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::BADFD | rustix::io::Errno::BADF) => return Err(Gone),
                Err(_) => return Ok(None),
            }
        };
        if !self.offload {
            return Ok(Some(Superpacket::complete(&mut buffer[..len])));
        }
        let Some((header, packet)) = buffer[..len].split_first_chunk_mut::<OFFLOAD_HEADER_LEN>() else {
            return Ok(None);
        };
        Ok(Some(Superpacket::new(Offload::decode(header), packet)))
    }

    /// Writes a packet that another device gave, with the work that is undone in it.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn pass(&self, packet: &Superpacket<'_>) -> io::Result<()> {
        self.write(&packet.gather(&(0..packet.bytes().len() as u32)))
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// The packet is lost: the interface is down, its queue is full, or the kernel does not like it.
    pub fn write(&self, packet: &Gather<'_>) -> io::Result<()> {
        let header = packet.offload().encode();
        let mut slices = std::array::from_fn::<_, { PIECES_MAX + 1 }, _>(|_| IoSlice::new(&[]));
        let mut count = 0;
        if self.offload {
            slices[0] = IoSlice::new(&header);
            count = 1;
        }
        for piece in packet.pieces() {
            let slice = slices.get_mut(count).ok_or(io::ErrorKind::InvalidInput)?;
            *slice = IoSlice::new(piece);
            count += 1;
        }
        loop {
            match rustix::io::writev(&self.fd, &slices[..count]) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for TunDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Gso;

    fn pair(offload: bool) -> (TunDevice, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        // A pair of sockets that keep boundaries behaves as a device does.
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).expect("a pair");
        (TunDevice::new(a, offload, false).expect("a device"), b)
    }

    #[test]
    fn a_packet_is_written_behind_its_offload_header_in_one_piece() {
        let (device, kernel) = pair(true);
        let offload =
            Offload { gso: Gso::Tcp { segment_bytes: 9, ecn: false }, checksum: Some((20, 16)), headers_len: 40 };
        device.write(&Gather::new(offload, b"__head_body_", &[2..6, 7..11])).expect("writes");
        let mut bytes = [0; 100];
        let len = rustix::io::read(&kernel, &mut bytes).expect("reads");
        assert_eq!(bytes[..len], [&offload.encode()[..], b"headbody"].concat());
    }

    #[test]
    fn a_read_splits_the_offload_header_off_and_an_idle_device_gives_nothing() {
        let (device, kernel) = pair(true);
        let mut buffer = Box::new([0; READ_LEN]);
        assert!(device.read(&mut buffer).expect("alive").is_none());
        let offload = Offload { gso: Gso::Udp { segment_bytes: 5 }, checksum: None, headers_len: 28 };
        rustix::io::write(&kernel, &[&offload.encode()[..], b"packet"].concat()).expect("writes");
        let packet = device.read(&mut buffer).expect("alive").expect("a packet");
        assert_eq!((packet.offload(), packet.bytes()), (offload, &b"packet"[..]));
        rustix::io::write(&kernel, b"short").expect("writes");
        assert!(device.read(&mut buffer).expect("alive").is_none());
    }
}
