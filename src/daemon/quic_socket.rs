//! QUIC's part of the shared UDP port, as quinn wants it.
//!
//! Received QUIC packets come from the data thread over a bounded channel. Sending goes straight to the socket, from whatever
//! task has something to send: no lock, no wake-up of the data thread, and so never behind the data that it has queued.
//!
//! The endpoint must be configured with `grease_quic_bit(false)`: quinn's default clears the bit 0x40 in half of its
//! packets, and that bit tells QUIC from everything else on this port.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc;

use crate::packet::Batch;
use crate::sys::udp::UdpSocket;

/// Batches that may wait for QUIC, of up to 64 KiB each; what comes then is dropped and counted, and QUIC sends it again.
const QUEUE_LEN_MAX: usize = 128;

/// Packets of one peer as they were received.
#[derive(Debug)]
pub struct QuicDatagrams {
    from: SocketAddr,
    to: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
    segment_len: usize,
    /// How many bytes have been handed on.
    taken: usize,
}

impl QuicDatagrams {
    /// A copy of a batch with what is known of its way.
    pub fn new(from: SocketAddr, to: Option<IpAddr>, ecn: Option<EcnCodepoint>, batch: Batch<'_>) -> Self {
        let (bytes, segment_len) = (batch.bytes().to_vec(), batch.segment_len());
        Self { from, to, ecn, bytes, segment_len, taken: 0 }
    }

    fn next(&mut self) -> Option<&[u8]> {
        let rest = &self.bytes[self.taken..];
        let next = &rest[..rest.len().min(self.segment_len)];
        self.taken += next.len();
        Some(next).filter(|next| !next.is_empty())
    }
}

/// The data thread's end.
#[derive(Debug)]
pub struct QuicSender(mpsc::Sender<QuicDatagrams>);

impl QuicSender {
    /// Hands packets on; `false` if too many wait already.
    pub fn try_send(&self, datagrams: QuicDatagrams) -> bool {
        self.0.try_send(datagrams).is_ok()
    }
}

/// The socket that quinn takes.
pub struct QuicSocket {
    socket: Arc<UdpSocket>,
    inbox: Mutex<Inbox>,
}

struct Inbox {
    receiver: mpsc::Receiver<QuicDatagrams>,
    /// Received in one batch, and not all handed on yet.
    current: Option<QuicDatagrams>,
}

/// Both ends of QUIC's part of `socket`.
pub fn pair(socket: Arc<UdpSocket>) -> (QuicSender, QuicSocket) {
    let (sender, receiver) = mpsc::channel(QUEUE_LEN_MAX);
    (QuicSender(sender), QuicSocket { socket, inbox: Mutex::new(Inbox { receiver, current: None }) })
}

impl fmt::Debug for QuicSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Inbox {
    /// Puts the next packet into `buffer`; one that is longer than QUIC takes is none of QUIC's.
    fn poll_next(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<RecvMeta>> {
        loop {
            let Some(current) = &mut self.current else {
                match ready!(self.receiver.poll_recv(cx)) {
                    Some(next) => self.current = Some(next),
                    // The data plane has stopped: the node is about to end, and to QUIC it is merely quiet.
                    None => return Poll::Pending,
                }
                continue;
            };
            let (addr, dst_ip, ecn) = (current.from, current.to, current.ecn);
            let Some(packet) = current.next() else {
                self.current = None;
                continue;
            };
            if let Some(place) = buffer.get_mut(..packet.len()) {
                place.copy_from_slice(packet);
                return Poll::Ready(Ok(RecvMeta { addr, len: packet.len(), stride: packet.len(), ecn, dst_ip }));
            }
        }
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritePoller { socket: self.socket.clone(), waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.send_quic(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            match inbox.poll_next(cx, buffer) {
                Poll::Ready(Ok(received)) => *meta = received,
                Poll::Ready(Err(error)) if count == 0 => return Poll::Ready(Err(error)),
                Poll::Pending if count == 0 => return Poll::Pending,
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.capabilities().send_segments
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// Waits until the socket takes more.
///
/// It watches the socket only while somebody waits, through a descriptor of its own: the runtime would be woken by every
/// packet of the data thread otherwise.
#[derive(Debug)]
struct WritePoller {
    socket: Arc<UdpSocket>,
    waiting: Option<tokio::net::UdpSocket>,
}

impl UdpPoller for WritePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            self.waiting = Some(tokio::net::UdpSocket::from_std(self.socket.duplicate()?)?);
        }
        if let Some(socket) = &self.waiting {
            ready!(socket.poll_send_ready(cx))?;
        }
        self.waiting = None;
        Poll::Ready(Ok(()))
    }
}
