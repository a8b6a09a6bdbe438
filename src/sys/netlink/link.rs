//! Links: interfaces, cables and bridges.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::Netlink;
use crate::sys::netns::Netns;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The kernel's word for what it is: `tun`, `veth`, `bridge`; empty for hardware and `lo`.
    pub kind: String,
    /// The free text that its maker put on it.
    pub alias: Option<String>,
    pub mtu_bytes: u32,
    pub up: bool,
    pub loopback: bool,
    /// Whether IPv6 is switched off on it, and asks for no routers should it be switched on. Also where the kernel has no IPv6.
    pub ipv6_off: bool,
}

/// What to change about a link; what is `None` or false stays.
#[derive(Debug, Clone, Default)]
pub struct LinkChange {
    pub up: bool,
    pub mtu_bytes: Option<u32>,
    pub alias: Option<String>,
    /// The bridge that it becomes a port of.
    pub bridge: Option<u32>,
}

impl Netlink {
    /// All links.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(Link::from(link)),
            _ => None,
        })
    }

    /// The link of this name.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        Ok(self.links()?.into_iter().find(|link| link.name == name))
    }

    /// Changes a link, all at once or not at all.
    pub fn set_link(&mut self, index: u32, change: LinkChange) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if change.up {
            message.header.flags |= LinkFlags::Up;
            message.header.change_mask |= LinkFlags::Up;
        }
        message.attributes.extend(change.mtu_bytes.map(LinkAttribute::Mtu));
        message.attributes.extend(change.alias.map(LinkAttribute::IfAlias));
        message.attributes.extend(change.bridge.map(LinkAttribute::Controller));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Removes a link, with its addresses and routes.
    pub fn remove_link(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.change(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// Brings up `lo`.
    pub fn raise_loopback(&mut self) -> io::Result<()> {
        let lo = self.links()?.into_iter().find(|link| link.loopback).ok_or(io::ErrorKind::NotFound)?;
        self.set_link(lo.index, LinkChange { up: true, ..LinkChange::default() })
    }

    /// Makes a bridge.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        self.add_link(name, vec![LinkInfo::Kind(InfoKind::Bridge)])
    }

    /// Makes a cable from `name` here to `peer_name` in `peer`.
    pub fn add_veth(&mut self, name: &str, peer: &Netns, peer_name: &str) -> io::Result<()> {
        let mut other_end = LinkMessage::default();
        other_end.attributes.push(LinkAttribute::IfName(peer_name.to_owned()));
        other_end.attributes.push(LinkAttribute::NetNsFd(peer.as_fd().as_raw_fd()));
        let cable = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other_end)))];
        self.add_link(name, cable)
    }

    fn add_link(&mut self, name: &str, info: Vec<LinkInfo>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            alias: None,
            mtu_bytes: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            ipv6_off: true,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu_bytes) => link.mtu_bytes = mtu_bytes,
                LinkAttribute::LinkInfo(info) => {
                    if let Some(kind) =
                        info.into_iter().find_map(|i| if let LinkInfo::Kind(k) = i { Some(k) } else { None })
                    {
                        link.kind = kind.to_string();
                    }
                }
                LinkAttribute::AfSpecUnspec(families) => link.ipv6_off = is_ipv6_off(&families),
                _ => {}
            }
        }
        link
    }
}

fn is_ipv6_off(families: &[AfSpecUnspec]) -> bool {
    let has_it_on = |attribute: &AfSpecInet6| match attribute {
        AfSpecInet6::DevConf(settings) => settings.disable_ipv6 == 0 || settings.accept_ra != 0,
        _ => false,
    };
    !families.iter().any(|family| matches!(family, AfSpecUnspec::Inet6(inet6) if inet6.iter().any(has_it_on)))
}
