//! The requests that change nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Answer, health};
use crate::control::{
    ContainerDetail, ContainerRow, DomainNames, DropRow, ExitStatus, Failure, GrantRow, LocalDetail, NetworkDetail,
    NetworkRow, NodeRow, NodeSelf, PeerRow, Status,
};
use crate::daemon::node::Node;
use crate::gossip::Liveness;
use crate::membership::{Container, Membership, Network, Role, State};
use crate::model::{AttachmentId, NodeId};
use crate::sys::clock;
use crate::sys::netns::Origin;

/// The node's own inner MTU, as long as no path has lowered it.
pub const INNER_MTU_BYTES: u32 = 1408;

fn network_row(node: &Node, membership: &Membership, network: &Network) -> NetworkRow {
    NetworkRow {
        id: network.id.to_string(),
        name: network.name.as_ref().map(ToString::to_string),
        vni: network.vni.get(),
        internal: network.internal,
        granted: network.grants.keys().map(|id| node.node_name(membership, *id)).collect(),
        containers: network.containers().len(),
    }
}

pub fn networks(node: &Node) -> Answer {
    let membership = node.membership();
    let rows: Vec<NetworkRow> = membership.networks().map(|network| network_row(node, &membership, network)).collect();
    Answer::of(rows)
}

pub async fn network(node: &Node, text: Option<&str>) -> Result<Answer, Failure> {
    let network = node.network(text)?;
    let membership = node.membership();
    let (id, vni) = (network.id.clone(), network.vni);
    let (addresses, held) = node
        .call(move |engine| {
            (engine.gossip.addresses_held(&id), engine.generations.get(&vni).cloned().unwrap_or_default())
        })
        .await?;
    let mut apps: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for container in network.containers() {
        *apps.entry(container.app.to_string()).or_default().entry(container.kind.to_string()).or_default() += 1;
    }
    let generation = network.secret.map(|(generation, _)| generation);
    Ok(Answer::of(NetworkDetail {
        row: network_row(node, &membership, &network),
        creator: node.node_name(&membership, network.creator),
        generation: generation.map(|generation| generation.0),
        secret_held: generation.is_some_and(|generation| held.contains(&generation)),
        addresses_used: network.containers().len(),
        grants: network
            .grants
            .iter()
            .map(|(id, role)| GrantRow {
                node: id.to_string(),
                name: membership.node(*id).map(|node| node.name.to_string()),
                role: match role {
                    Role::Host => "host".to_owned(),
                    Role::Owner => "owner".to_owned(),
                },
                addresses: addresses.get(id).copied().unwrap_or(0),
            })
            .collect(),
        apps,
    }))
}

/// How the nodes are that share a network with this one.
async fn liveness(node: &Node) -> Result<BTreeMap<NodeId, Liveness>, Failure> {
    node.call(|engine| {
        let membership = engine.gossip.membership();
        membership.nodes().filter_map(|other| Some((other.id, engine.gossip.liveness(other.id)?))).collect()
    })
    .await
}

/// How another node is; `dialled` says whether this one dials it of its own accord.
fn peer_state(linked: bool, dialled: bool, liveness: Option<&Liveness>) -> &'static str {
    match liveness {
        Some(Liveness::Down { .. }) => "down",
        Some(Liveness::Suspect) => "suspect",
        _ if linked => "connected",
        _ if dialled => "unreachable",
        _ => "undialled",
    }
}

pub async fn nodes(node: &Node) -> Result<Answer, Failure> {
    let (linked, undialled) = node
        .call(|engine| {
            let linked: Vec<NodeId> = engine.links().map(|link| link.peer()).collect();
            (linked, engine.gossip.undialled())
        })
        .await?;
    let alive = liveness(node).await?;
    let membership = node.membership();
    let rows: Vec<NodeRow> = membership
        .nodes()
        .map(|other| NodeRow {
            id: other.id.to_string(),
            name: other.name.to_string(),
            signer: other.signer,
            state: if other.id == node.id {
                "self"
            } else {
                peer_state(linked.contains(&other.id), !undialled.contains(&other.id), alive.get(&other.id))
            }
            .to_owned(),
            endpoints: other.endpoints.iter().map(ToString::to_string).collect(),
        })
        .collect();
    Ok(Answer::of(rows))
}

pub(super) fn container_row(
    node: &Node,
    membership: &Membership,
    network: &Network,
    container: &Container,
) -> ContainerRow {
    ContainerRow {
        id: container.id.to_string(),
        network: network.display_name().to_owned(),
        vni: network.vni.get(),
        node: node.node_name(membership, container.node),
        address: container.address.to_string(),
        app: container.app.to_string(),
        kind: container.kind.to_string(),
        number: container.number,
        version: container.version.clone(),
        service: container.service.to_string(),
        server: container.server.as_ref().map(ToString::to_string),
        state: match container.state {
            // Until its node is heard again, or other nodes know that it is gone.
            _ if membership.is_silent(container.node) => "gone".to_owned(),
            state => state.to_string(),
        },
        public_key: container.public_key.to_string(),
    }
}

pub fn containers(node: &Node, text: Option<&str>) -> Result<Answer, Failure> {
    let only = text.map(|text| node.network(Some(text))).transpose()?;
    Ok(Answer::of(container_rows(node, only.as_deref())))
}

/// The containers of one network, or of all that this node holds.
pub(super) fn container_rows(node: &Node, only: Option<&Network>) -> Vec<ContainerRow> {
    let membership = node.membership();
    membership
        .networks()
        .filter(|network| only.is_none_or(|only| only.id == network.id))
        .flat_map(|network| network.containers().map(|c| container_row(node, &membership, network, c)))
        .collect()
}

/// The container with this id in the networks that this node holds.
pub(super) fn find_container(membership: &Membership, id: &str) -> Result<(Arc<Network>, Arc<Container>), Failure> {
    let wanted = id.parse::<AttachmentId>().ok();
    let of = |network: &Arc<Network>| {
        let found = network.containers().find(|container| Some(container.id) == wanted)?;
        Some((network.clone(), found.clone()))
    };
    membership.networks().find_map(of).ok_or_else(|| {
        let what = format!("there is no container {}", id.chars().take(120).collect::<String>());
        let why = "no network that this node holds has a container of that id";
        Failure::new(ExitStatus::NotFound, what, why, "peerctl container ls")
    })
}

pub async fn container(node: &Node, id: &str) -> Result<Answer, Failure> {
    let membership = node.membership();
    let (network, container) = find_container(&membership, id)?;
    let local = match node.attachments.of_id(container.id) {
        None => None,
        Some(local) => {
            let stats = node.data.stats().await.ok_or_else(crate::daemon::node::stopping)?;
            let (netns, pid) = match &local.anchor.origin {
                Origin::Path(path) => (path.display().to_string(), None),
                Origin::Pid(pid) => (format!("/proc/{pid}/ns/net"), Some(*pid)),
                Origin::Own => (String::new(), None),
            };
            let condition = local.ready_when.filter(|_| container.state == State::Starting);
            let drained_at = node.attachments.drained_at(local.id);
            let traffic = stats.attachments.get(&local.id).map(|status| status.traffic).unwrap_or_default();
            Some(LocalDetail {
                netns,
                pid,
                ifname: local.ifname,
                mtu_bytes: local.mtu_bytes,
                rx_bytes: traffic.rx_bytes,
                rx_packets: traffic.rx_packets,
                tx_bytes: traffic.tx_bytes,
                tx_packets: traffic.tx_packets,
                not_ready: condition.as_ref().and_then(|_| node.readiness.reason(local.id)),
                waits_for: condition.map(|condition| condition.when.to_string()),
                detached_in_s: drained_at.map(|at| at.saturating_duration_since(clock::now()).as_secs()),
            })
        }
    };
    Ok(Answer::of(ContainerDetail {
        row: container_row(node, &membership, &network, &container),
        network_id: network.id.to_string(),
        hostname: crate::dns::hostname(&container, &network.id),
        local,
    }))
}

pub fn domain_names(node: &Node, app: Option<&str>, network: Option<&str>) -> Result<Answer, Failure> {
    let network = node.network(network)?;
    let app = app.map(str::to_ascii_lowercase);
    let apps: Vec<String> = match app {
        Some(app) if network.kinds(&app).next().is_some() => vec![app],
        Some(app) => {
            let what = format!("there is no application {app} in network {}", network.display_name());
            let why = "no container of it is attached";
            return Err(Failure::new(ExitStatus::NotFound, what, why, "peerctl container ls"));
        }
        None => network.apps().map(ToString::to_string).collect(),
    };
    let names = apps.iter().flat_map(|app| crate::dns::domain_names(&network, app)).collect();
    Ok(Answer::of(DomainNames { names }))
}

pub async fn drops(node: &Node) -> Result<Answer, Failure> {
    let stats = node.data.stats().await.ok_or_else(crate::daemon::node::stopping)?;
    let rows: Vec<DropRow> = stats
        .drops
        .iter()
        .map(|(reason, packets)| DropRow {
            reason: reason.to_string(),
            packets: *packets,
            explanation: reason.explanation().to_owned(),
        })
        .collect();
    Ok(Answer::of(rows))
}

pub async fn status(node: &Node) -> Result<Answer, Failure> {
    status_of(node).await.map(Answer::of)
}

pub(super) async fn status_of(node: &Node) -> Result<Status, Failure> {
    let (links, undialled): (HashMap<NodeId, (String, f64)>, _) = node
        .call(|engine| {
            let row = |link: &crate::daemon::quic::Link| (link.remote().to_string(), link.rtt().as_secs_f64() * 1e3);
            (engine.links().map(|link| (link.peer(), row(link))).collect(), engine.gossip.undialled())
        })
        .await?;
    let stats = node.data.stats().await.ok_or_else(crate::daemon::node::stopping)?;
    let alive = liveness(node).await?;
    let membership = node.membership();
    let peers: Vec<PeerRow> = membership
        .nodes()
        .filter(|other| other.id != node.id)
        .map(|other| {
            let link = links.get(&other.id);
            let traffic = stats.peers.get(&other.id);
            PeerRow {
                node: other.id.to_string(),
                name: other.name.to_string(),
                state: peer_state(link.is_some(), !undialled.contains(&other.id), alive.get(&other.id)).to_owned(),
                path: link.map(|(path, _)| path.clone()),
                rtt_ms: link.map(|(_, rtt)| (rtt * 1e3).round() / 1e3),
                mtu_bytes: INNER_MTU_BYTES,
                rx_bytes: traffic.map_or(0, |traffic| traffic.rx_bytes),
                tx_bytes: traffic.map_or(0, |traffic| traffic.tx_bytes),
            }
        })
        .collect();
    let mut data_plane = node.facts.clone();
    data_plane.insert("container devices".to_owned(), stats.devices.to_string());
    data_plane.insert("tunnels".to_owned(), stats.tunnels.to_string());
    data_plane.insert("pauses".to_owned(), stats.pauses.to_string());
    let health = health::rows(node, &membership, &peers, &alive).await?;
    Ok(Status {
        node: NodeSelf {
            id: node.id.to_string(),
            name: node.node_name(&membership, node.id),
            listen: node.listen.to_string(),
            uptime_s: node.started.elapsed().as_secs(),
        },
        cluster: membership.cluster().map(|cluster| cluster.to_string()),
        networks: membership.networks().map(|network| network_row(node, &membership, network)).collect(),
        peers,
        data_plane,
        health,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_this_one_dials_is_unreachable_without_a_connection() {
        assert_eq!(peer_state(false, true, None), "unreachable");
        assert_eq!(peer_state(false, false, None), "undialled");
        assert_eq!(peer_state(false, false, Some(&Liveness::Heard)), "undialled");
        let down = Liveness::Down { heard: clock::now() };
        assert_eq!(peer_state(false, false, Some(&down)), "down", "it owes this node an answer all the same");
        assert_eq!(peer_state(true, false, None), "connected");
    }
}
