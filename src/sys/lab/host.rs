//! A network namespace as a machine: interfaces, cables, and processes that live on it.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::sys::netlink::{Existing, Link, LinkChange, Netlink, Route, RouteTo};
use crate::sys::netns::Netns;

/// A machine with a network of its own. It goes when this is dropped and its last process has ended.
pub struct Host {
    name: String,
    netns: Netns,
    netlink: Netlink,
    /// Where the namespace has been given a name.
    published: Option<PathBuf>,
}

impl Host {
    /// A new one, with `lo` up. Needs CAP_SYS_ADMIN, which an [`Enclosure`](super::Enclosure) has.
    pub fn create(name: &str) -> io::Result<Self> {
        let netns = Netns::create().map_err(io::Error::other)?;
        let mut netlink = Netlink::open_in(&netns)?;
        netlink.raise_loopback()?;
        Ok(Self { name: name.to_owned(), netns, netlink, published: None })
    }

    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The kernel's tables, to look at or to change by hand.
    pub fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }

    /// Gives the namespace a path, as `ip netns add` does, until this is dropped.
    pub fn publish(&mut self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::options().write(true).create_new(true).open(path)?;
        mount_bind(self.netns.path(), path).inspect_err(|_| {
            // The file is ours and of no use without the mount.
            let _ = fs::remove_file(path);
        })?;
        self.published = Some(path.to_owned());
        Ok(())
    }

    /// Lays a cable to `other` and brings both ends up.
    pub fn cable(&mut self, ifname: &str, other: &mut Self, other_ifname: &str) -> io::Result<()> {
        self.netlink.add_veth(ifname, &other.netns, other_ifname)?;
        self.raise(ifname)?;
        other.raise(other_ifname)
    }

    /// Makes a bridge, up: a switch for this host's ends of cables.
    pub fn bridge(&mut self, ifname: &str) -> io::Result<()> {
        self.netlink.add_bridge(ifname)?;
        self.raise(ifname)
    }

    /// Plugs an interface into a bridge.
    pub fn plug(&mut self, ifname: &str, bridge: &str) -> io::Result<()> {
        let (port, bridge) = (self.link(ifname)?.index, self.link(bridge)?.index);
        self.netlink.set_link(port, LinkChange { bridge: Some(bridge), ..LinkChange::default() })
    }

    /// Gives an interface an address.
    pub fn address(&mut self, ifname: &str, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        let ifindex = self.link(ifname)?.index;
        self.netlink.add_address(ifindex, address, prefix_len)
    }

    /// Brings an interface up.
    pub fn raise(&mut self, ifname: &str) -> io::Result<()> {
        let index = self.link(ifname)?.index;
        self.netlink.set_link(index, LinkChange { up: true, ..LinkChange::default() })
    }

    /// Sets an interface's MTU.
    pub fn mtu(&mut self, ifname: &str, mtu_bytes: u32) -> io::Result<()> {
        let index = self.link(ifname)?.index;
        self.netlink.set_link(index, LinkChange { mtu_bytes: Some(mtu_bytes), ..LinkChange::default() })
    }

    /// Adds a route by way of `gateway`, which an interface of this host reaches directly.
    pub fn route(&mut self, destination: IpAddr, prefix_len: u8, ifname: &str, gateway: IpAddr) -> io::Result<()> {
        let ifindex = self.link(ifname)?.index;
        let to = RouteTo::Link { ifindex, gateway: Some(gateway), source: None };
        self.netlink.add_route(&Route { destination, prefix_len, to, metric: 0 }, Existing::Refuse)
    }

    /// Starts `command` on this host.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // A child begins in the namespace of the thread that started it.
        self.netns.inside(|| command.spawn())?
    }

    fn link(&mut self, ifname: &str) -> io::Result<Link> {
        self.netlink
            .link(ifname)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has no interface {ifname}", self.name)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(path) = &self.published {
            // Errors mean that somebody has removed the name before, which is where this leads.
            let _ = unmount(path, UnmountFlags::DETACH);
            let _ = fs::remove_file(path);
        }
    }
}
