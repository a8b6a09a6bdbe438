//! A small rtnetlink client: the links, addresses and routes of one network namespace, read and changed.
//!
//! The socket belongs to the namespace in which it was opened, for ever; so [`Netlink::open_in`] lets one process look
//! after many namespaces. Every call is one question to the kernel and blocks for its answer, which comes at once.

mod inet;
mod link;
mod watch;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use inet::{InterfaceAddress, Route, RouteTo};
pub use link::{Link, LinkChange};
pub use watch::LinkWatch;

use super::netns::Netns;

/// How often a list that changed while it was read is read again.
const DUMP_ATTEMPTS_MAX: u32 = 8;

/// Whether something new may take the place of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// `EEXIST` if there is one.
    Refuse,
    /// The new one counts.
    Replace,
}

/// A socket to the kernel's routing tables of one namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// For the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// For `netns`. Needs CAP_SYS_ADMIN over it.
    pub fn open_in(netns: &Netns) -> io::Result<Self> {
        netns.inside(Self::open)?
    }

    /// Asks for a change, and waits for the kernel to acknowledge it.
    fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_ACK | flags)?;
        self.drain(|_| ()).map(drop)
    }

    /// Asks for a list. What this library cannot decode (a kind of link newer than it) is not in the answer.
    fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            let mut found = Vec::new();
            self.send(request.clone(), NLM_F_DUMP)?;
            if self.drain(|message| found.extend(pick(message)))? == Dump::Whole {
                return Ok(found);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads up to the end of the answer to the last question.
    fn drain(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<Dump> {
        let mut dump = Dump::Whole;
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some((header, bytes)) = split_message(&mut rest) {
                if header.sequence_number != self.sequence {
                    continue;
                }
                if header.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map(|m| m.payload) {
                    Ok(NetlinkPayload::Done(_)) => return Ok(dump),
                    Ok(NetlinkPayload::Error(error)) => match error.raw_code() {
                        0 => return Ok(dump),
                        code => return Err(io::Error::from_raw_os_error(-code)),
                    },
                    Ok(NetlinkPayload::InnerMessage(message)) => each(message),
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Dump {
    Whole,
    /// The tables changed while they were read.
    Interrupted,
}

/// Takes the first message off a datagram, by its own length (aligned to 4, RFC 3549 §2.3.2).
fn split_message<'a>(rest: &mut &'a [u8]) -> Option<(NetlinkHeader, &'a [u8])> {
    use netlink_packet_core::{NetlinkBuffer, Parseable};
    let header = NetlinkHeader::parse(&NetlinkBuffer::new_checked(*rest).ok()?).ok()?;
    let len = header.length as usize;
    let message = rest.get(..len)?;
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((header, message))
}
