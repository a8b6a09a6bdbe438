//! The node's one UDP socket: batches out, batches in.
//!
//! Where the kernel has segmentation offload (UDP_SEGMENT) and receive offload (UDP_GRO), one call moves up to 64 datagrams;
//! where it has not, the same calls move one each. quinn-udp knows the details.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::packet::Batch;

/// What is asked for; the kernel gives at most net.core.rmem_max. The stock 212,992 bytes lose packets in every burst.
const RECV_BUFFER_BYTES: usize = 4 << 20;
/// Enough for a few of the largest batches; what stands here waits in front of everything sent later.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Received buffers per call, each as long as a received batch can be.
const RECV_BUFFERS: usize = 4;
const RECV_BUFFER_LEN: usize = 65_536;

/// The socket. Any thread may send; one receives.
#[derive(Debug)]
pub struct UdpSocket {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// Datagrams that one call sends. quinn-udp counts them too, and counts 1 after any refusal: of an address as well.
    send_segments: AtomicUsize,
    /// Whether segmentation and receive offload are used where the kernel has them.
    offload: bool,
}

/// What the socket can do on this machine, for `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpCapabilities {
    /// Datagrams that one call sends; 1 without segmentation offload.
    pub send_segments: usize,
    /// Datagrams that one buffer receives; 1 without receive offload.
    pub recv_segments: usize,
    /// The receive buffer as granted, as the kernel counts it: twice what was asked for, or twice net.core.rmem_max.
    pub recv_buffer_bytes: usize,
    pub send_buffer_bytes: usize,
    /// Whether the receive buffer is smaller than asked for, so that bursts may be lost.
    pub recv_buffer_short: bool,
}

/// Why datagrams were not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("the send buffer is full, {sent} of the datagrams went")]
    Full { sent: usize },
    #[error("longer than the path takes")]
    TooLong,
    #[error("cannot send")]
    Refused(#[source] io::Error),
}

/// Binds the port. An unspecified IPv6 address serves IPv4 as well, and where there is no IPv6, IPv4 alone.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    match bind_one(address) {
        Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && is_family_missing(&error) => {
            bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(RECV_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    let socket = std::net::UdpSocket::from(socket);
    let state = UdpSocketState::new((&socket).into())?;
    let local = socket.local_addr()?;
    let send_segments = AtomicUsize::new(state.max_gso_segments().max(1));
    Ok(UdpSocket { socket, state, local, send_segments, offload: true })
}

impl UdpSocket {
    /// The bound address, with the port that the kernel chose if 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// The same socket as a kernel without offload would have it: each datagram takes a call.
    ///
    /// # Errors
    /// When the kernel does not let receive offload be switched off.
    pub fn without_offload(mut self) -> io::Result<Self> {
        self.offload = false;
        set_option(&self.socket, libc::SOL_UDP, libc::UDP_GRO, 0)?;
        Ok(self)
    }

    /// What the socket can do here.
    pub fn capabilities(&self) -> UdpCapabilities {
        let socket = SockRef::from(&self.socket);
        let recv_buffer_bytes = socket.recv_buffer_size().unwrap_or(0);
        UdpCapabilities {
            send_segments: self.send_segments_max(),
            recv_segments: if self.offload { self.state.gro_segments() } else { 1 },
            recv_buffer_bytes,
            send_buffer_bytes: socket.send_buffer_size().unwrap_or(0),
            // The kernel counts twice what it grants.
            recv_buffer_short: recv_buffer_bytes < 2 * RECV_BUFFER_BYTES,
        }
    }

    /// Sends a batch to one address.
    ///
    /// # Errors
    /// Of a batch that was cut here, the datagrams before the error are gone.
    pub fn send(&self, to: SocketAddr, batch: Batch<'_>) -> Result<(), SendError> {
        self.send_segments(&Transmit {
            destination: self.reachable(to),
            ecn: None,
            contents: batch.bytes(),
            segment_size: Some(batch.segment_len()).filter(|_| batch.count() > 1),
            src_ip: None,
        })
    }

    /// Sends in one call if the kernel cuts what is longer than a segment, and else in a call for each.
    fn send_segments(&self, transmit: &Transmit<'_>) -> Result<(), SendError> {
        let len = transmit.contents.len();
        let segment_len = transmit.segment_size.unwrap_or(len).max(1);
        let (count, in_one) = (len.div_ceil(segment_len), self.send_segments_max());
        if count <= in_one {
            match self.transmit(transmit) {
                Err(SendError::Refused(error)) if count > 1 && is_offload_suspect(&error) => {}
                result => return result,
            }
        }
        for (sent, contents) in transmit.contents.chunks(segment_len).enumerate() {
            match self.transmit(&Transmit { contents, segment_size: None, ..*transmit }) {
                Err(SendError::Full { .. }) => return Err(SendError::Full { sent }),
                result => result?,
            }
            if sent == 0 && count <= in_one {
                // What went alone was refused in a batch: the network card has no offload.
                self.send_segments.store(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Datagrams that one call sends.
    fn send_segments_max(&self) -> usize {
        if self.offload { self.send_segments.load(Ordering::Relaxed) } else { 1 }
    }

    fn transmit(&self, transmit: &Transmit<'_>) -> Result<(), SendError> {
        self.state.try_send((&self.socket).into(), transmit).map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN) => SendError::Full { sent: 0 },
            Some(libc::EMSGSIZE) => SendError::TooLong,
            _ => SendError::Refused(error),
        })
    }

    /// Sends what QUIC made. Only a full buffer is an error: QUIC finds out about everything else by itself.
    pub fn send_quic(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if transmit.segment_size.is_none() {
            return self.state.send((&self.socket).into(), transmit);
        }
        match self.send_segments(transmit) {
            Err(SendError::Full { .. }) => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    /// Another descriptor of the same socket.
    pub fn duplicate(&self) -> io::Result<std::net::UdpSocket> {
        self.socket.try_clone()
    }

    /// Whether the network may cut a long datagram, instead of refusing it.
    pub fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Receives what is there, up to four buffers; [`io::ErrorKind::WouldBlock`] if nothing is.
    pub fn recv(&self, buffers: &mut RecvBuffers) -> io::Result<()> {
        buffers.filled = 0;
        let mut slices = buffers.bytes.chunks_exact_mut(RECV_BUFFER_LEN).map(IoSliceMut::new);
        let mut slices: [IoSliceMut<'_>; RECV_BUFFERS] =
            std::array::from_fn(|_| slices.next().expect("the bytes are as many buffers long"));
        buffers.filled = self.state.recv((&self.socket).into(), &mut slices, &mut buffers.meta)?;
        Ok(())
    }

    /// How much waits to be received, as the kernel counts it: with its own overhead. 0 if it does not say.
    #[allow(unsafe_code)] // No library wraps SO_MEMINFO.
    pub fn queued_bytes(&self) -> usize {
        // SK_MEMINFO_RMEM_ALLOC is the first of them.
        let mut allocated: u32 = 0;
        let mut len = size_of_val(&allocated) as libc::socklen_t;
        // SAFETY: the descriptor is open, and the value lives through the call and is as long as is said.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                (&raw mut allocated).cast(),
                &raw mut len,
            )
        };
        if result == 0 { allocated as usize } else { 0 }
    }

    /// An IPv4 address as a socket of both families takes it.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match (self.local, to) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            _ => to,
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Sets an option whose value is a number.
#[allow(unsafe_code)] // No library wraps those that are set here.
pub(super) fn set_option(
    socket: &std::net::UdpSocket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the value lives through the call and is as long as is said.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_family_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// What a network card without segmentation offload answers, and what is said of an address that cannot be sent to as well.
fn is_offload_suspect(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

/// Where datagrams are received.
pub struct RecvBuffers {
    bytes: Box<[u8]>,
    meta: [RecvMeta; RECV_BUFFERS],
    filled: usize,
}

/// One received buffer.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// As the socket writes it: IPv4 may be mapped into IPv6.
    pub from: SocketAddr,
    pub batch: Batch<'a>,
    pub ecn: Option<EcnCodepoint>,
    pub to: Option<IpAddr>,
}

impl Default for RecvBuffers {
    fn default() -> Self {
        Self {
            bytes: vec![0; RECV_BUFFERS * RECV_BUFFER_LEN].into_boxed_slice(),
            meta: [RecvMeta::default(); RECV_BUFFERS],
            filled: 0,
        }
    }
}

impl RecvBuffers {
    /// Whether the last call filled every buffer, so that there may be more.
    pub fn is_full(&self) -> bool {
        self.filled == RECV_BUFFERS
    }

    /// What the last call received.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.bytes.chunks_exact(RECV_BUFFER_LEN).zip(&self.meta).take(self.filled).map(|(bytes, meta)| Received {
            from: meta.addr,
            batch: Batch::new(&bytes[..meta.len.min(bytes.len())], meta.stride),
            ecn: meta.ecn,
            to: meta.dst_ip,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UdpSocket, buffers: &mut RecvBuffers, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while all.len() < count {
            match socket.recv(buffers) {
                Ok(()) => {
                    all.extend(buffers.iter().flat_map(|r| r.batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>()))
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        all
    }

    #[test]
    fn a_batch_arrives_as_the_datagrams_that_it_holds() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (a, b) = (bind(loopback).expect("binds"), bind(loopback).expect("binds"));
        let bytes: Vec<u8> = (0..100u8).collect();
        a.send(b.local_addr().expect("bound"), Batch::new(&bytes, 30)).expect("sends");
        let all = received(&b, &mut RecvBuffers::default(), 4);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [30, 30, 30, 10]);
        assert_eq!(all.concat(), bytes);
    }

    #[test]
    fn without_offload_the_same_datagrams_arrive() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let bare = || bind(loopback).and_then(UdpSocket::without_offload).expect("binds");
        let (a, b) = (bare(), bare());
        assert_eq!((a.capabilities().send_segments, b.capabilities().recv_segments), (1, 1));
        let bytes: Vec<u8> = (0..100u8).collect();
        a.send(b.local_addr().expect("bound"), Batch::new(&bytes, 30)).expect("sends");
        let all = received(&b, &mut RecvBuffers::default(), 4);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [30, 30, 30, 10]);
        assert_eq!(all.concat(), bytes);
    }

    #[test]
    fn an_address_that_is_refused_is_not_the_offloads_fault() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (a, b) = (bind(loopback).expect("binds"), bind(loopback).expect("binds"));
        let before = a.capabilities().send_segments;
        for batch in [Batch::one(b"one"), Batch::new(&[7; 100], 30)] {
            assert!(matches!(a.send(loopback, batch), Err(SendError::Refused(_))), "nobody has port 0");
        }
        for segment_size in [None, Some(30)] {
            let transmit =
                Transmit { destination: loopback, ecn: None, contents: &[7; 100], segment_size, src_ip: None };
            a.send_quic(&transmit).expect("QUIC finds out by itself");
        }
        assert_eq!(a.capabilities().send_segments, before);
        a.send(b.local_addr().expect("bound"), Batch::new(&[7; 100], 30)).expect("sends");
        assert_eq!(received(&b, &mut RecvBuffers::default(), 4).len(), 4);
    }

    #[test]
    fn an_offload_that_does_not_work_is_used_no_more_and_nothing_is_lost() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (a, b) = (bind(loopback).expect("binds"), bind(loopback).expect("binds"));
        // The kernel cuts nothing for a socket without checksums, as for a card that cannot compute them.
        set_option(&a.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("every kernel has it");
        for _ in 0..2 {
            a.send(b.local_addr().expect("bound"), Batch::new(&[7; 100], 30)).expect("sends");
            assert_eq!(received(&b, &mut RecvBuffers::default(), 4).len(), 4);
            assert_eq!(a.capabilities().send_segments, 1);
        }
    }

    #[test]
    fn a_full_socket_says_how_many_datagrams_went() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let a = bind(loopback).and_then(UdpSocket::without_offload).expect("binds");
        let (to, one) = (a.local_addr().expect("bound"), vec![0; 60_000]);
        SockRef::from(&a.socket).set_send_buffer_size(1).expect("the smallest there is");
        // Nobody reads: what waits in the receive buffer is charged to the sender.
        let full = (0..1000).find_map(|_| a.send(to, Batch::new(&one, 20_000)).err());
        assert!(matches!(full, Some(SendError::Full { sent: 0..3 }) | None), "{full:?}");
    }

    #[test]
    fn what_waits_to_be_received_is_known() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (a, b) = (bind(loopback).expect("binds"), bind(loopback).expect("binds"));
        assert_eq!(b.queued_bytes(), 0);
        a.send(b.local_addr().expect("bound"), Batch::new(&[7; 30_000], 1_000)).expect("sends");
        assert!((30_000..200_000).contains(&b.queued_bytes()), "{}", b.queued_bytes());
        assert_eq!(received(&b, &mut RecvBuffers::default(), 30).len(), 30);
        assert_eq!(b.queued_bytes(), 0);
    }

    #[test]
    fn a_socket_of_both_families_reaches_ipv4() {
        let a = bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).expect("binds");
        let b = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("binds");
        a.send(b.local_addr().expect("bound"), Batch::one(b"hello")).expect("sends");
        assert_eq!(received(&b, &mut RecvBuffers::default(), 1), [b"hello".to_vec()]);
    }
}
