//! Whom this node asks: the nameservers of the host's own resolv.conf, as it is at the moment.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::daemon::node::lock;
use crate::model::{CONTAINER_PREFIX, LINK_LOCAL_PREFIX};
use crate::sys::clock;

const DNS_PORT: u16 = 53;
/// As many as the C library takes (resolv.conf(5), MAXNS).
const COUNT_MAX: usize = 3;
/// How long what was read is believed.
const FRESH: Duration = Duration::from_secs(2);
/// More than any resolv.conf has.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// The upstreams, read again when somebody asks and a moment has passed.
#[derive(Debug)]
pub struct Upstreams {
    path: PathBuf,
    port: u16,
    read: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
}

impl Upstreams {
    /// Those that this file names.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), port: DNS_PORT, read: Mutex::new(None) }
    }

    /// The same on another port.
    #[cfg(test)]
    pub(super) fn on_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The upstreams in their order; none if the file names none or cannot be read.
    pub async fn list(&self) -> Arc<[SocketAddr]> {
        let now = clock::now();
        if let Some((since, list)) = &*lock(&self.read)
            && now.saturating_duration_since(*since) < FRESH
        {
            return list.clone();
        }
        let (path, port) = (self.path.clone(), self.port);
        let text = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            let file = std::fs::File::open(&path);
            let read = file.and_then(|file| {
                std::io::Read::read_to_string(&mut std::io::Read::take(file, FILE_LEN_MAX), &mut text)
            });
            if let Err(error) = read {
                tracing::debug!(path = %path.display(), %error, "no upstreams");
            }
            text
        });
        let text = text.await.unwrap_or_default();
        let list: Arc<[SocketAddr]> = nameservers(&text).map(|ip| SocketAddr::new(ip, port)).take(COUNT_MAX).collect();
        *lock(&self.read) = Some((now, list.clone()));
        list
    }
}

/// The addresses that a resolv.conf names, but for ours: asked there, a question would come back to this node.
fn nameservers(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        address.parse().ok().filter(|ip| !is_ours(*ip))
    })
}

fn is_ours(ip: IpAddr) -> bool {
    let IpAddr::V4(ip) = ip.to_canonical() else { return false };
    [CONTAINER_PREFIX, LINK_LOCAL_PREFIX].iter().any(|(first, len)| {
        let mask = u32::MAX << (32 - u32::from(*len));
        ip.to_bits() & mask == first.to_bits()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nameservers_are_those_of_the_file_without_our_own() {
        let text = "# comment\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # one\nnameservers 192.0.2.9\n\
            nameserver fe80::1%eth0\nnameserver 169.254.240.53\nnameserver ::ffff:10.240.1.1\nnameserver nobody\nnameserver";
        let found: Vec<String> = nameservers(text).map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["192.0.2.1", "2001:db8::1"]);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_names_none() {
        assert!(Upstreams::of("/nonexistent/resolv.conf").list().await.is_empty());
    }
}
