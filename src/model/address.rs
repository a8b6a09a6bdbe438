//! The addresses of a private network, and ranges of them.

use std::fmt;
use std::net::Ipv4Addr;

use minicbor::{Decode, Encode};

/// Every private network's prefix: 10.240.0.0/22.
pub const CONTAINER_PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 240, 0, 0), 22);
/// The containers' addresses: 10.240.0.1 to 10.240.3.254.
pub const CONTAINERS: Ipv4Range =
    Ipv4Range { first: Ipv4Addr::new(10, 240, 0, 1), last: Ipv4Addr::new(10, 240, 3, 254) };
/// How many containers a network has at most.
pub const CONTAINER_COUNT_MAX: usize = 1022;
/// Where the resolver and the gateways live, outside the containers' prefix: 169.254.240.0/20.
pub const LINK_LOCAL_PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 240, 0), 20);
/// The resolver, as every container sees it.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 240, 53);
/// The addresses of gateways and stock clients: 169.254.241.1 to 169.254.255.254.
pub const EXTRAS: Ipv4Range =
    Ipv4Range { first: Ipv4Addr::new(169, 254, 241, 1), last: Ipv4Addr::new(169, 254, 255, 254) };

/// A range of addresses, both ends included; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Range {
    first: Ipv4Addr,
    last: Ipv4Addr,
}

/// Two addresses that are no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} comes after {1}")]
pub struct RangeError(pub Ipv4Addr, pub Ipv4Addr);

impl Ipv4Range {
    /// The range from `first` to `last`, both included.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Result<Self, RangeError> {
        if first > last { Err(RangeError(first, last)) } else { Ok(Self { first, last }) }
    }

    /// The range of one address.
    pub fn one(address: Ipv4Addr) -> Self {
        Self { first: address, last: address }
    }

    /// The lowest address.
    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> Ipv4Addr {
        self.last
    }

    /// How many addresses there are, at least 1.
    pub fn count(self) -> u64 {
        u64::from(self.last.to_bits()) - u64::from(self.first.to_bits()) + 1
    }

    /// Whether `address` lies within.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.first <= address && address <= self.last
    }

    /// Whether all of `other` lies within.
    pub fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    /// What the two have in common.
    pub fn overlap(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last)).ok()
    }

    /// The addresses, upwards.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Ipv4Addr> {
        (self.first.to_bits()..=self.last.to_bits()).map(Ipv4Addr::from_bits)
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl fmt::Debug for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<C> Encode<C> for Ipv4Range {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(2)?.u32(self.first.to_bits())?.u32(self.last.to_bits())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Ipv4Range {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        if d.array()? != Some(2) {
            return Err(minicbor::decode::Error::message("a range has two ends"));
        }
        let (first, last) = (Ipv4Addr::from_bits(d.u32()?), Ipv4Addr::from_bits(d.u32()?));
        Self::new(first, last).map_err(minicbor::decode::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_1022_container_addresses_and_nothing_of_ours_is_one() {
        assert_eq!(CONTAINERS.count(), CONTAINER_COUNT_MAX as u64);
        assert!(!CONTAINERS.contains(RESOLVER));
        assert_eq!(CONTAINERS.overlap(EXTRAS), None);
        assert!(!EXTRAS.contains(RESOLVER));
    }

    #[test]
    fn a_range_with_its_ends_swapped_is_refused() {
        let (a, b) = (Ipv4Addr::new(10, 240, 0, 2), Ipv4Addr::new(10, 240, 0, 1));
        assert_eq!(Ipv4Range::new(a, b), Err(RangeError(a, b)));
        let swapped = minicbor::to_vec([a.to_bits(), b.to_bits()]).expect("encodes");
        assert!(minicbor::decode::<Ipv4Range>(&swapped).is_err());
    }
}
