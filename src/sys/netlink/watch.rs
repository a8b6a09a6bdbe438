//! One interface, watched from the namespace in which it was made: the kernel says when something about it changes.
//!
//! What it says is not read, only that it spoke: a tenant can make it say a thousand things a second, and what counts is how
//! the interface is then. Whoever watches sets the pace.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Link, Netlink};
use crate::sys::OsError;

/// `RTMGRP_LINK` of linux/rtnetlink.h.
const LINK_CHANGES: u32 = 1;
/// What waits is thrown away at once, up to so many messages; the socket's buffer holds about as many.
const UNREAD_MAX: usize = 1024;

/// A socket that becomes readable when an interface of its namespace changes. It does not block.
pub struct LinkWatch {
    netlink: Netlink,
    ifindex: u32,
}

impl LinkWatch {
    /// The socket for such a watch, in the namespace of the calling thread.
    pub fn socket() -> io::Result<OwnedFd> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINK_CHANGES))?;
        socket.set_non_blocking(true)?;
        // SAFETY: the socket gives its descriptor away and closes it no more.
        Ok(unsafe { OwnedFd::from_raw_fd(socket.into_raw_fd()) })
    }

    /// Watches the interface with this index through a [`Self::socket`].
    pub fn new(socket: OwnedFd, ifindex: u32) -> Self {
        // SAFETY: the descriptor is owned, and from here on by the socket alone.
        let socket = unsafe { Socket::from_raw_fd(socket.into_raw_fd()) };
        Self { netlink: Netlink { socket, sequence: 0 }, ifindex }
    }

    /// With the runtime, which says when it is readable. Must be called on the runtime.
    pub fn registered(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `as_raw_fd` is always the one descriptor that this value owns, open until it is dropped.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(io::Error::from)
    }

    /// How the interface is now; `None` once it is not in this namespace any more. Whatever was said before is forgotten.
    ///
    /// # Errors
    /// So much changes that the answer was lost: ask again later.
    pub fn look(&mut self) -> io::Result<Option<Link>> {
        for _ in 0..UNREAD_MAX {
            match self.netlink.socket.recv_from_full() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // More was said than the buffer holds: that too says that something has changed.
                Ok(_) | Err(_) => {}
            }
        }
        let mut asked = LinkMessage::default();
        asked.header.index = self.ifindex;
        self.netlink.send(RouteNetlinkMessage::GetLink(asked), NLM_F_ACK)?;
        let mut found = None;
        let answered = self.netlink.drain(|message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                found = Some(Link::from(link));
            }
        });
        match answered {
            Ok(_) => Ok(found),
            Err(error) if OsError::from(&error) == OsError::NODEV => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netlink.socket.as_fd()
    }
}

impl AsRawFd for LinkWatch {
    fn as_raw_fd(&self) -> RawFd {
        self.netlink.socket.as_raw_fd()
    }
}

impl std::fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkWatch").field("ifindex", &self.ifindex).finish_non_exhaustive()
    }
}
