//! Where other nodes can reach this one, followed as the host's addresses come and go.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::node::Node;
use crate::sys::{clock, interfaces};

/// How often the host's addresses are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The address that the node was told to listen on, else all of the host's, with the port that it got.
pub fn endpoints(listen: SocketAddr, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    if !listen.ip().is_unspecified() {
        return Ok(vec![SocketAddr::new(listen.ip(), port)]);
    }
    let fits = |ip: &IpAddr| listen.is_ipv6() || ip.is_ipv4();
    let addresses = interfaces::host_addresses()?.into_iter().filter(fits);
    Ok(addresses.map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Publishes the node's addresses whenever they change, until it stops. `announced` are those of its start.
pub async fn follow(node: &Node, listen: SocketAddr, mut announced: Vec<SocketAddr>) {
    let port = node.listen.port();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let looked = tokio::task::spawn_blocking(move || endpoints(listen, port)).await;
        let Ok(Ok(found)) = looked else { continue };
        // A host that has lost its last address for a moment is not helped by saying so.
        if found == announced || found.is_empty() {
            continue;
        }
        tracing::info!(endpoints = ?found, "this host's addresses have changed");
        announced.clone_from(&found);
        let addresses: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
        if node.call(move |engine| engine.leave_links_without(&addresses)).await.is_err() {
            return;
        }
        if node.operate(move |gossip| gossip.set_endpoints(found, clock::now()), None).await.is_err() {
            return;
        }
    }
}
