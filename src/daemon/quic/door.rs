//! How many strangers may be inside at once, in all and from one place.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Strangers in all: connections that have not shown yet that a member is at the other end.
const STRANGERS_MAX: usize = 256;
/// Strangers from one address, so that one host cannot take every place.
const STRANGERS_PER_SOURCE_MAX: usize = 32;

/// Counts the strangers inside.
#[derive(Debug, Default)]
pub(super) struct Door(Mutex<HashMap<IpAddr, usize>>);

/// A stranger's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    door: Arc<Door>,
    source: IpAddr,
}

impl Door {
    /// Lets one more in, unless all places are taken, or all that its source may have.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Pass> {
        let source = source(from);
        let mut inside = self.lock();
        let here = inside.get(&source).copied().unwrap_or(0);
        if here >= STRANGERS_PER_SOURCE_MAX || inside.values().sum::<usize>() >= STRANGERS_MAX {
            return None;
        }
        inside.insert(source, here + 1);
        Some(Pass { door: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Every change under it is one insert or remove.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.door.lock();
        match inside.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                inside.remove(&self.source);
            }
        }
    }
}

/// Who has one IPv6 address has its whole /64.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0xc000_0200 + last).into()
    }

    #[test]
    fn one_source_cannot_take_every_place() {
        let door = Arc::new(Door::default());
        let mut inside: Vec<Pass> = (0..STRANGERS_PER_SOURCE_MAX).filter_map(|_| door.enter(v4(1))).collect();
        assert_eq!(inside.len(), STRANGERS_PER_SOURCE_MAX);
        assert!(door.enter(v4(1)).is_none());
        let mapped = "::ffff:192.0.2.1".parse().expect("an address");
        assert!(door.enter(mapped).is_none(), "the same source in another spelling");
        assert!(door.enter(v4(2)).is_some());
        inside.pop();
        assert!(door.enter(v4(1)).is_some());
    }

    #[test]
    fn the_addresses_of_one_ipv6_link_are_one_source() {
        let door = Arc::new(Door::default());
        let address = |host: u128| IpAddr::from(Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + host));
        let inside: Vec<Option<Pass>> = (0..40).map(|host| door.enter(address(host))).collect();
        assert_eq!(inside.iter().flatten().count(), STRANGERS_PER_SOURCE_MAX);
    }

    #[test]
    fn there_is_a_limit_for_all_sources_and_nothing_is_kept_of_who_has_left() {
        let door = Arc::new(Door::default());
        let inside: Vec<Option<Pass>> = (0..1000).map(|last| door.enter(v4(last))).collect();
        assert_eq!(inside.iter().flatten().count(), STRANGERS_MAX);
        drop(inside);
        assert!(door.lock().is_empty());
    }
}
