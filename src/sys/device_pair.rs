//! A device without a kernel behind it: two sockets that keep boundaries.
//!
//! What one end writes the other reads as a packet of a TUN that was opened with IFF_VNET_HDR, see [`super::tun_io`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

/// What may wait in either direction, as the kernel counts. An ordinary user gets twice `net.core.wmem_max`, which is
/// 425,984 by default: six packets of 64 KiB, or hundreds of small ones.
const WAITING_BYTES: usize = 4 << 20;

/// Makes the two ends, which are alike. Neither blocks, and no child gets them.
pub fn device_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    widen(&one)?;
    widen(&other)?;
    Ok((one, other))
}

/// Has the socket hold as much as this user may.
fn widen(socket: impl AsFd) -> io::Result<()> {
    if sockopt::set_socket_send_buffer_size_force(&socket, WAITING_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, WAITING_BYTES)?;
    }
    Ok(())
}
