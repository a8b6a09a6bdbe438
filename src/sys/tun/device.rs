//! The ioctls of `/dev/net/tun` (Linux Documentation/networking/tuntap.rst).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::Offloads;

/// The length of `struct virtio_net_hdr`: the kernel's default for a TUN, and what an adopted one is put back to.
static VNET_HDR_LEN: libc::c_int = 10;

const CSUM: libc::c_uint = 0x01;
const TSO4: libc::c_uint = 0x02;
const TSO6: libc::c_uint = 0x04;
const USO4: libc::c_uint = 0x20;
const USO6: libc::c_uint = 0x40;

/// Opens the driver; the device will be in the network namespace of the calling thread.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/net/tun", flags, Mode::empty())?)
}

/// Makes the device `ifname`, or takes over the one that nobody holds.
pub(super) fn bind(fd: BorrowedFd<'_>, ifname: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is plain data for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the ioctl reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    // SAFETY: the ioctl reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const VNET_HDR_LEN) })
}

/// Asks for the most offloads that this kernel has.
pub(super) fn set_offloads(fd: BorrowedFd<'_>) -> Offloads {
    for flags in [CSUM | TSO4 | TSO6 | USO4 | USO6, CSUM | TSO4 | TSO6, CSUM] {
        // SAFETY: the ioctl takes its flags by value.
        if check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) }).is_ok() {
            return Offloads { checksum: flags & CSUM != 0, tso: flags & TSO4 != 0, uso: flags & USO4 != 0 };
        }
    }
    Offloads { checksum: false, tso: false, uso: false }
}

/// Whether the device stays when its last descriptor is closed. Needs no capability.
pub(super) fn set_persistent(fd: BorrowedFd<'_>, persistent: bool) -> io::Result<()> {
    // SAFETY: the ioctl takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETPERSIST as _, libc::c_ulong::from(persistent)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
