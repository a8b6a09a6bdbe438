//! The addresses at which other nodes may reach this one, from the host's own interfaces.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use super::netlink::{InterfaceAddress, Netlink};
use crate::model::{CONTAINER_PREFIX, LINK_LOCAL_PREFIX};

/// The addresses of interfaces that are up, in order: no loopback, no link-local, no address that is still being
/// checked or about to go, none of a private network of ours.
///
/// An address behind NAT is here as it is inside: that peers know another one is their business.
pub fn host_addresses() -> io::Result<Vec<IpAddr>> {
    let mut netlink = Netlink::open()?;
    let up: BTreeSet<u32> =
        netlink.links()?.into_iter().filter(|link| link.up && !link.loopback).map(|link| link.index).collect();
    let addresses = netlink.addresses()?;
    let reachable = addresses.iter().filter(|a| up.contains(&a.ifindex) && is_endpoint(a)).map(|a| a.address);
    Ok(reachable.collect::<BTreeSet<_>>().into_iter().collect())
}

fn is_endpoint(address: &InterfaceAddress) -> bool {
    let ours = |(network, prefix_len): (std::net::Ipv4Addr, u8)| match address.address {
        IpAddr::V4(a) => (a.to_bits() ^ network.to_bits()) >> (32 - prefix_len) == 0,
        IpAddr::V6(_) => false,
    };
    address.global
        && address.usable
        && !address.temporary
        && !address.address.is_loopback()
        && !matches!(address.address, IpAddr::V4(a) if a.is_link_local())
        && !ours(CONTAINER_PREFIX)
        && !ours(LINK_LOCAL_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> InterfaceAddress {
        InterfaceAddress {
            ifindex: 2,
            address: address.parse().expect("an address"),
            prefix_len: 24,
            global: true,
            usable: true,
            temporary: false,
        }
    }

    #[test]
    fn an_endpoint_is_neither_local_nor_one_of_a_private_network() {
        assert!(is_endpoint(&at("192.0.2.1")));
        assert!(is_endpoint(&at("10.240.4.1")), "just outside the containers' prefix");
        assert!(is_endpoint(&at("2001:db8::1")));
        for not in ["127.0.0.1", "169.254.3.4", "169.254.240.53", "10.240.0.5", "10.240.3.254"] {
            assert!(!is_endpoint(&at(not)), "{not}");
        }
        assert!(!is_endpoint(&InterfaceAddress { usable: false, ..at("2001:db8::1") }));
        assert!(!is_endpoint(&InterfaceAddress { temporary: true, ..at("2001:db8::1") }));
        assert!(!is_endpoint(&InterfaceAddress { global: false, ..at("fe80::1") }));
    }

    #[test]
    fn the_hosts_addresses_can_be_listed() {
        assert!(!host_addresses().expect("a list").iter().any(IpAddr::is_loopback));
    }
}
