//! Who is at the other end of a unix socket.
#![allow(unsafe_code)] // rustix's process id cannot be the 0 that a process of another process namespace has

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// A process's credentials at the time it connected, as the kernel vouches for them (unix(7), SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerCred {
    pub uid: u32,
    pub gid: u32,
    /// `None` for a process that this process's namespace cannot see.
    pub pid: Option<u32>,
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl PeerCred {
    /// Of the process that connected `socket`.
    pub fn of<S: AsFd>(socket: S) -> io::Result<Self> {
        let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `len` bytes into `cred`, which outlives the call.
        let result =
            unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut cred).cast(), &raw mut len) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { uid: cred.uid, gid: cred.gid, pid: u32::try_from(cred.pid).ok().filter(|pid| *pid != 0) })
    }

    /// Whether this is root, or the user that this process runs as.
    pub fn is_owner_or_root(&self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (a, _b) = UnixStream::pair().expect("a pair");
        let cred = PeerCred::of(&a).expect("credentials");
        assert_eq!(cred.pid, Some(std::process::id()));
        assert!(cred.is_owner_or_root());
    }
}
