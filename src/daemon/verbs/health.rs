//! Health: what needs attention, a row each with what to do about it.

use std::collections::{BTreeMap, BTreeSet};

use crate::control::{Failure, HealthRow, PeerRow};
use crate::daemon::attachments::Unserved;
use crate::daemon::node::Node;
use crate::daemon::watches::Fault;
use crate::gossip::{Liveness, Waiting};
use crate::membership::{Container, Membership, Network};
use crate::model::{AttachmentId, NetworkId, NodeId};
use crate::services::disputes_among;
use crate::sys::clock;

/// So many conflicts of a network are told, of each kind.
const CONFLICTS_SHOWN_MAX: usize = 16;

/// What is known of this node's own log, and of others'.
struct Logs {
    unwritten: bool,
    waiting: Option<Waiting>,
    unconfirmed: Vec<NetworkId>,
    equivocators: BTreeSet<NodeId>,
    /// Who says that this node was expelled.
    refused_by: Option<NodeId>,
}

/// All that needs attention as this node sees it.
pub(super) async fn rows(
    node: &Node,
    membership: &Membership,
    peers: &[PeerRow],
    alive: &BTreeMap<NodeId, Liveness>,
) -> Result<Vec<HealthRow>, Failure> {
    let logs = node
        .call(|engine| Logs {
            unwritten: engine.is_unwritten(),
            waiting: engine.gossip.waiting(),
            unconfirmed: engine.gossip.unconfirmed().cloned().collect(),
            equivocators: engine.gossip.equivocators(),
            refused_by: engine.gossip.refused_by(),
        })
        .await?;
    let mut rows = Vec::new();
    rows.extend(peers.iter().filter(|peer| peer.state == "unreachable").map(peer_unreachable));
    rows.extend(own(node, membership));
    for (id, liveness) in alive {
        if let Liveness::Down { heard } = liveness {
            let silent_s = clock::now().saturating_duration_since(*heard).as_secs();
            rows.push(about(id, node_down(&node.node_name(membership, *id), silent_s)));
        }
    }
    rows.extend(logs.waiting.map(|waiting| about(node.id, own_log_awaited(node, membership, &waiting))));
    rows.extend(logs.unconfirmed.iter().map(|id| about(id, own_log_unconfirmed(membership, id))));
    rows.extend(logs.refused_by.map(|id| about(node.id, expelled(&node.node_name(membership, id)))));
    rows.extend(logs.equivocators.into_iter().map(|id| about(id, equivocation(&node.node_name(membership, id)))));
    for network in membership.networks() {
        rows.extend(number_conflicts(network));
        rows.extend(definition_conflicts(network));
    }
    rows.extend(node.watches.faults().iter().map(|(id, fault)| about(id, interface_fault(node, *id, fault))));
    rows.extend(node.attachments.unserved().into_iter().map(|(id, reason)| about(id, container_unserved(id, reason))));
    rows.extend(logs.unwritten.then(state_unwritten));
    rows.extend(ingress(node));
    Ok(rows)
}

fn error(code: &str, message: String, hint: impl Into<String>) -> HealthRow {
    HealthRow { code: code.to_owned(), severity: "error".to_owned(), subject: None, message, hint: hint.into() }
}

fn warning(code: &str, message: String, hint: impl Into<String>) -> HealthRow {
    HealthRow { code: code.to_owned(), severity: "warning".to_owned(), subject: None, message, hint: hint.into() }
}

/// What a row is about: with the code it tells whether two rows, of two moments, are one.
fn about(subject: impl ToString, row: HealthRow) -> HealthRow {
    HealthRow { subject: Some(subject.to_string()), ..row }
}

/// What the outside does not reach.
fn ingress(node: &Node) -> Vec<HealthRow> {
    let shown = node.ingress.show();
    let fault = shown.fault.map(|fault| {
        error("ingress-fault", format!("nginx does not serve as it should: {fault}"), "the daemon's log tells more")
    });
    let left_out = shown.problems.into_iter().take(CONFLICTS_SHOWN_MAX).map(|problem| {
        warning("ingress-left-out", format!("not served: {problem}"), "peerctl ingress status, peerctl ingress routes")
    });
    fault.into_iter().chain(left_out).collect()
}

fn peer_unreachable(peer: &PeerRow) -> HealthRow {
    let message = format!("node {} is unreachable", peer.name);
    about(&peer.node, error("peer-unreachable", message, "does UDP reach its endpoints? peerctl node ls"))
}

/// What is to be said of the cluster's signers and of this node itself.
fn own(node: &Node, membership: &Membership) -> Vec<HealthRow> {
    let mut rows = Vec::new();
    let signers = membership.nodes().filter(|node| node.signer.is_some()).count();
    if membership.cluster().is_some() && signers == 1 {
        let message = "the cluster has one signer: while it is away, nobody can join".to_owned();
        rows.push(warning("one-signer", message, "peerctl invite --signer, where the root key is"));
    }
    if node.state_dir.join("root.key").exists() {
        let message = "the root key lies on this node".to_owned();
        rows.push(warning("root-key-online", message, "move root.key from the state folder to a safe place"));
    }
    if let Some(fact) = node.facts.get("socket buffers").filter(|fact| fact.contains("below")) {
        let hint = "sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304";
        rows.push(warning("socket-buffer-small", format!("socket buffers: {fact}"), hint));
    }
    rows
}

/// Something was done to a container's interface from inside.
fn interface_fault(node: &Node, id: AttachmentId, fault: &Fault) -> HealthRow {
    let ifname = node.attachments.of_id(id).map_or_else(|| "its interface".to_owned(), |local| local.ifname);
    let (code, hint) = match fault {
        // The kernel took its routes away when it went down.
        Fault::Down => ("interface-down", format!("peerctl detach {id}, and attach it again")),
        Fault::Mtu { was, .. } => ("interface-mtu", format!("in the container: ip link set {ifname} mtu {was}")),
        Fault::Renamed(_) => {
            ("interface-renamed", format!("name it {ifname} again: the next start of the node looks for that"))
        }
    };
    warning(code, format!("interface {ifname} of container {id} was changed from inside: {fault}"), hint)
}

/// A node that this one does not hear.
fn node_down(name: &str, silent_s: u64) -> HealthRow {
    let message = format!(
        "node {name} is down: not heard for {silent_s} s; its containers have left the names, and packets for them are refused"
    );
    let hint = format!(
        "is its host up, does peerd run there, does UDP pass between the two? for good: peerctl node expel {name}"
    );
    error("node-down", message, hint)
}

/// The state folder may be older than what the node signed: it asks before it signs anything.
fn own_log_awaited(node: &Node, membership: &Membership, waiting: &Waiting) -> HealthRow {
    let nodes: Vec<String> = waiting.nodes.iter().map(|id| node.node_name(membership, *id)).collect();
    let left_s = waiting.until.saturating_duration_since(clock::now()).as_secs();
    let message = format!(
        "the state folder may be an older copy: nothing new is attached or granted until {} said what this node did last",
        nodes.join(", ")
    );
    let hint = format!("does one of them run? it goes on without them in {left_s} s at most");
    warning("own-log-awaited", message, hint)
}

/// Nobody could be asked.
fn own_log_unconfirmed(membership: &Membership, network: &NetworkId) -> HealthRow {
    let name = membership.network(network).map_or_else(|| network.as_str(), |network| network.display_name());
    let message = format!(
        "no node of network {name} could say what this node did last: if the state folder is an older copy, an address may have two holders"
    );
    warning("own-log-unconfirmed", message, "it ends when one of them is heard: peerctl node ls")
}

/// Who was expelled hears so from those whom it dials.
fn expelled(by: &str) -> HealthRow {
    let message = format!("node {by} says that this node was expelled: nobody who knows of it speaks with it");
    error("expelled", message, "an expelled key stays out: join again with an empty --state-dir")
}

/// A node that signed two things in the place of one.
fn equivocation(name: &str) -> HealthRow {
    let message =
        format!("node {name} has signed two different things with one number: its key is used twice, or stolen");
    error("equivocation", message, "is its state folder a copy of another node's? stop one of them")
}

fn container_unserved(id: AttachmentId, unserved: Unserved) -> HealthRow {
    error(
        "container-unserved",
        format!("container {id} of the last run is not served: {}", unserved.why),
        unserved.hint,
    )
}

fn state_unwritten() -> HealthRow {
    let message = "the disk refuses this node's state: nothing new is attached, granted or joined".to_owned();
    error("state-unwritten", message, "make room, or make the state folder writable; the log says why")
}

/// Containers that both have a number since two parts of the cluster met again: the one that was there first answers.
fn number_conflicts(network: &Network) -> Vec<HealthRow> {
    let mut rows = Vec::new();
    for container in network.containers() {
        let Container { app, kind, number, .. } = container.as_ref();
        let holder = network.container_numbered(app.as_str(), kind.as_str(), *number);
        if let Some(holder) = holder.filter(|holder| holder.id != container.id) {
            let message = format!(
                "{number}.{kind}.{app} of network {} is container {} and container {}: the name leads to the first",
                network.display_name(),
                holder.id,
                container.id
            );
            let hint = format!("attach the second again: peerctl detach {}", container.id);
            rows.push(about(container.id, warning("number-conflict", message, hint)));
        }
    }
    rows
}

/// What applications hold twice since two parts of the cluster met again.
fn definition_conflicts(network: &Network) -> Vec<HealthRow> {
    let row = |message: String, hint: String| {
        warning("definition-conflict", format!("network {}: {message}", network.display_name()), hint)
    };
    let namespaces = network.definitions().filter_map(|def| {
        let holder = network.app_of_namespace(def.namespace.as_str()).filter(|holder| **holder != def.id)?;
        let message = format!("the namespace {} of application {} is application {holder}'s", def.namespace, def.id);
        Some(row(message, format!("give application {} another namespace, and apply its file again", def.id)))
    });
    let disputes = disputes_among(network.definitions().map(AsRef::as_ref));
    let ports =
        disputes.iter().take(CONFLICTS_SHOWN_MAX).map(|found| row(found.to_string(), found.kind.hint().to_owned()));
    namespaces.take(CONFLICTS_SHOWN_MAX).chain(ports).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::membership::testing;
    use crate::model::{Rev, Vni};
    use crate::services::file::{self, Options};

    #[test]
    fn of_two_containers_with_one_number_the_later_is_reported() {
        let mut network =
            Network::new("pn-a".parse().expect("an id"), Vni::try_from(1).expect("a VNI"), NodeId([1; 32]));
        for (last, number, rev) in [(1, 1, 5), (2, 1, 3), (3, 2, 9)] {
            let made = testing::container(Ipv4Addr::new(10, 240, 0, last));
            let (id, node) = (AttachmentId([last; 8]), NodeId([last; 32]));
            network.insert_container(Arc::new(Container { id, node, number, rev: Rev(rev), ..made }));
        }
        let rows = number_conflicts(&network);
        assert_eq!(rows.len(), 1);
        assert!(rows[0].message.contains(&format!("{} and container {}", AttachmentId([2; 8]), AttachmentId([1; 8]))));
    }

    #[test]
    fn what_two_applications_hold_since_a_merge_is_told_with_who_has_it() {
        let vni = Vni::try_from(7).expect("a VNI");
        let mut network = Network::new("pn-a".parse().expect("an id"), vni, NodeId([1; 32]));
        let define = |network: &mut Network, since: u64, app: &str, text: &str| {
            let options = Options { app: Some(app.parse().expect("a label")) };
            let def = file::parse(text.as_bytes(), &options).expect(text).def;
            network.define_app((Rev(1), NodeId([1; 32])), Rev(since), Arc::new(def));
        };
        define(&mut network, 2, "a", "application: { namespace: front }\nservices: { web: { ports: ['1:80'] } }");
        assert_eq!(definition_conflicts(&network), []);
        define(&mut network, 1, "b", "application: { namespace: front }\nservices: { api: { ports: ['1::80'] } }");
        let told: Vec<String> = definition_conflicts(&network).into_iter().map(|row| row.message).collect();
        assert_eq!(
            told,
            [
                "network pn-a: the namespace front of application a is application b's",
                "network pn-a: port 80 is http of service web of application a and https of service api of application b",
            ]
        );
    }
}
