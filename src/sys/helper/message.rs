//! Messages between a helper and who asked: one datagram each, JSON, with file descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Far above what any message needs: an environment of a few dozen variables.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// No task has more.
const FD_COUNT_MAX: usize = 4;

/// Sends `message` with `fds`, whole or not at all.
pub(in crate::sys) fn send<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_LEN_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_COUNT_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a message; `None` at the end of the stream.
///
/// # Errors
/// `InvalidData` for bytes that are no such message.
pub(in crate::sys) fn receive<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_LEN_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_COUNT_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let message =
        serde_json::from_slice(&bytes[..received.bytes]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((message, fds)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair")
    }

    #[test]
    fn a_message_arrives_with_its_descriptors_and_they_are_close_on_exec() {
        let (a, b) = pair();
        let (c, _d) = pair();
        send(a.as_fd(), &"hello", &[c.as_fd(), c.as_fd()]).expect("sent");
        let (text, fds): (String, _) = receive(b.as_fd()).expect("received").expect("a message");
        assert_eq!(text, "hello");
        assert_eq!(fds.len(), 2);
        for fd in fds {
            assert!(rustix::io::fcntl_getfd(&fd).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn the_end_and_garbage_are_told_apart() {
        let (a, b) = pair();
        rustix::net::send(&a, b"{", SendFlags::empty()).expect("sent");
        assert_eq!(receive::<String>(b.as_fd()).expect_err("garbage").kind(), io::ErrorKind::InvalidData);
        drop(a);
        assert!(receive::<String>(b.as_fd()).expect("an end").is_none());
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let (a, _b) = pair();
        assert!(send(a.as_fd(), &"x".repeat(MESSAGE_LEN_MAX), &[]).is_err());
    }
}
