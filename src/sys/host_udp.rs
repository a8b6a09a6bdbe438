//! A UDP port of the host for strangers: who asks at one of the host's addresses is answered from that one.
//!
//! A plain socket that is bound to no address answers from the one that the routing table gives, and a client that asked another
//! one takes no such answer. quinn-udp reads and writes the packet's own address (IP_PKTINFO).

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

use super::udp::set_option;
use crate::packet::Batch;

/// The port.
#[derive(Debug)]
pub struct HostUdp {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// What one client sent.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub from: SocketAddr,
    /// At which of the host's addresses.
    pub at: Option<IpAddr>,
    pub batch: Batch<'a>,
}

impl HostUdp {
    /// Takes over a bound socket. It does not block from now on.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        // Answers are a service's, and not QUIC's, which finds the path's MTU by itself: the kernel cuts them where they are too long.
        set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)?;
        if socket.local_addr()?.is_ipv6() {
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)?;
        }
        Ok(Self { socket, state })
    }

    /// What one client sent, one or several datagrams; [`io::ErrorKind::WouldBlock`] if nothing is there. The buffer should have
    /// room for 64 KiB.
    pub fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Asked<'a>> {
        let mut meta = [RecvMeta::default()];
        self.state.recv((&self.socket).into(), &mut [IoSliceMut::new(buffer)], &mut meta)?;
        let [RecvMeta { addr, len, stride, dst_ip, .. }] = meta;
        Ok(Asked { from: addr, at: dst_ip, batch: Batch::new(&buffer[..len.min(buffer.len())], stride) })
    }

    /// Answers one client from the address that it asked.
    pub fn send(&self, payload: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let transmit = Transmit { destination: to, ecn: None, contents: payload, segment_size: None, src_ip: from };
        match self.state.try_send((&self.socket).into(), &transmit) {
            // It asked at a broadcast address, or at one that the host has lost.
            Err(error) if from.is_some() && error.kind() != io::ErrorKind::WouldBlock => {
                self.state.try_send((&self.socket).into(), &Transmit { src_ip: None, ..transmit })
            }
            sent => sent,
        }
    }
}

impl AsRawFd for HostUdp {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::sys::process::poll_readable;

    /// What arrives: who sent it, at which address, and the datagrams.
    fn next(port: &HostUdp) -> (SocketAddr, Option<IpAddr>, Vec<Vec<u8>>) {
        assert!(poll_readable(port.socket.as_fd(), Duration::from_secs(5)).expect("polls"));
        let mut buffer = vec![0; 1 << 16];
        let asked = port.recv(&mut buffer).expect("something is there");
        (asked.from, asked.at, asked.batch.iter().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn who_asks_at_an_address_is_answered_from_it() {
        for bound in ["0.0.0.0:0", "[::]:0", "127.0.0.3:0"] {
            let Ok(socket) = UdpSocket::bind(bound) else { continue };
            let number = socket.local_addr().expect("bound").port();
            let port = HostUdp::new(socket).expect("a bound socket");
            // Not the address from which the host itself would send there.
            let at = SocketAddr::from(([127, 0, 0, 3], number));
            let client = UdpSocket::bind("127.0.0.1:0").expect("binds");
            client.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
            client.connect(at).expect("connects");
            client.send(b"question").expect("sends");
            let (from, asked_at, said) = next(&port);
            assert_eq!(said, [b"question"]);
            port.send(b"answer", from, asked_at).expect("sends");
            let mut answer = [0; 16];
            let len = client.recv(&mut answer).expect("a connected socket takes it from nobody else");
            assert_eq!(&answer[..len], b"answer", "{bound}");
            // An address that is not the host's keeps nobody from answering.
            port.send(b"answer", from, Some([192, 0, 2, 1].into())).expect("sends");
        }
    }

    #[test]
    fn datagrams_that_the_kernel_gathered_are_told_apart_and_nothing_there_is_said() {
        let port = HostUdp::new(UdpSocket::bind("127.0.0.1:0").expect("binds")).expect("a bound socket");
        let to = port.socket.local_addr().expect("bound");
        let client = HostUdp::new(UdpSocket::bind("127.0.0.1:0").expect("binds")).expect("a bound socket");
        assert_eq!(port.recv(&mut [0; 100]).map(|_| ()).map_err(|e| e.kind()), Err(io::ErrorKind::WouldBlock));
        let batch = Transmit { destination: to, ecn: None, contents: b"aabbc", segment_size: Some(2), src_ip: None };
        client.state.try_send((&client.socket).into(), &batch).expect("sends");
        let mut said = Vec::new();
        while said.len() < 3 {
            said.extend(next(&port).2);
        }
        assert_eq!(said, [&b"aa"[..], b"bb", b"c"]);
    }
}
