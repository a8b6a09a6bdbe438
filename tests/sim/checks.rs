//! What must hold: at every step nothing acknowledged is lost, held twice, overtaken or seen by others than it is for; and
//! 30 seconds after the last fault all see the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use minicbor::Decode;
use peerd::gossip::store::FileKind;
use peerd::gossip::{Attached, Write};
use peerd::membership::{CheckSignatures, Delta, Membership, Network};
use peerd::model::{AttachmentId, NetworkId, NodeId, WgPublicKey};

use crate::book::{Phase, Promise};
use crate::signatures::Signatures;
use crate::world::World;

/// How long after the last fault all views may differ.
pub const LIVENESS: Duration = Duration::from_secs(30);
/// How long a freed address rests; what is stored of it counts whole seconds.
const REST: Duration = Duration::from_secs(59);

/// What the checks read of a log's file.
#[derive(Decode)]
#[cbor(map, context_bound = "CheckSignatures")]
struct LogFile {
    #[n(0)]
    delta: Delta,
}

/// An attach is acknowledged: nobody else has the address, and nobody had it lately.
pub fn attached(world: &mut World, at: usize, attached: &Attached) {
    let Some(promise) = world.book.attachments.get(&attached.id) else { return };
    let network = promise.network.clone();
    alone(world, at, attached.id, &network, attached.address);
    let freed = world.book.freed.get(&(network.clone(), attached.address)).copied();
    let rested = freed.is_none_or(|freed| world.now - freed >= REST);
    if !rested && !world.book.excused.contains(&network) && !world.nodes.iter().any(|node| node.tainted) {
        world.broken(format!("node {at} uses {} of {network} again, freed a moment ago", attached.address));
    }
}

fn alone(world: &mut World, at: usize, id: AttachmentId, network: &NetworkId, address: Ipv4Addr) {
    if world.book.excused.contains(network) {
        return;
    }
    let Some(other) = world.book.holder(network, address, id) else { return };
    let host = world.book.attachments[&other].host;
    let node = world.nodes[host].id();
    if !world.book.expelled.contains_key(&node) && !world.book.with_their_signer.contains(&node) {
        let phase = world.book.attachments[&other].phase;
        world.broken(format!("{address} of {network} is {id}'s on node {at} and {other}'s ({phase:?}) on node {host}"));
    }
}

/// A node starts: what it acknowledged is there, as new as it was acknowledged, and what it ended stays away.
pub fn started(world: &mut World, at: usize) {
    if world.nodes[at].clone_of.is_none() && !world.nodes[at].is_set_back {
        keeps_its_word(world, at, |_| true);
    }
}

/// What became of detaches that the disk refused at first, and of what was attached while the grant was taken back. `false` where
/// the node does not run.
pub fn settle_endings(world: &mut World, at: usize) -> bool {
    let Some(machine) = &world.nodes[at].machine else { return false };
    let there: BTreeSet<AttachmentId> = machine.attachments().into_iter().map(|(_, container)| container.id).collect();
    let node = world.nodes[at].id();
    let withdrawn = |promise: &Promise| world.book.perhaps_ungranted.contains(&(promise.network.clone(), node));
    let ending = |id: &AttachmentId, promise: &Promise| match promise.phase {
        Phase::Ending(_) => true,
        Phase::Live => !there.contains(id) && withdrawn(promise),
        _ => false,
    };
    let hosted = world.book.attachments.iter().filter(|(_, promise)| promise.host == at);
    let ids: Vec<AttachmentId> = hosted.filter(|(id, promise)| ending(id, promise)).map(|(id, _)| *id).collect();
    for id in ids {
        if !there.contains(&id) {
            world.book.end(id, world.now);
        } else if let Some(promise) = world.book.attachments.get_mut(&id) {
            promise.phase = Phase::Live;
        }
    }
    true
}

/// A node that was set back has asked the others: the same must hold in these networks as if it had not been.
pub fn taken_up(world: &mut World, at: usize, networks: &[NetworkId]) {
    if world.nodes[at].machine.is_some() {
        keeps_its_word(world, at, |network| networks.contains(network));
    }
}

fn keeps_its_word(world: &mut World, at: usize, of: impl Fn(&NetworkId) -> bool) {
    let node = &world.nodes[at];
    let (tainted, id) = (node.tainted, node.id());
    let Some(machine) = &node.machine else { return };
    let there: BTreeMap<AttachmentId, (Ipv4Addr, WgPublicKey)> =
        machine.attachments().into_iter().map(|(_, c)| (c.id, (c.address, c.public_key))).collect();
    let hosted: Vec<AttachmentId> =
        world.book.attachments.iter().filter(|(_, p)| p.host == at && of(&p.network)).map(|(id, _)| *id).collect();
    for attachment in hosted {
        let promise = &world.book.attachments[&attachment];
        let (phase, acknowledged, network) = (promise.phase, promise.acknowledged, promise.network.clone());
        // A home whose disk was copied may have given the address to somebody else: one of the two is detached.
        let withdrawn =
            world.book.perhaps_ungranted.contains(&(network.clone(), id)) || world.book.excused.contains(&network);
        // An expelled node may hear that its addresses are another's before it hears what has become of itself.
        let expelled = world.book.perhaps_expelled.contains(&id);
        match (phase, there.get(&attachment)) {
            (Phase::Ended, None) => {}
            // It ended with a grant that came back: the others tell what they remember of it, and the shell takes it out.
            (Phase::Ended, Some(_)) if withdrawn => {}
            (Phase::Ended, Some(_)) if !tainted => {
                world.broken(format!("node {at} hosts {attachment} again, which was ended"));
            }
            (Phase::Live, None) if !tainted && !withdrawn && !expelled => {
                world.broken(format!("node {at} has lost {attachment}, which was acknowledged"));
            }
            (Phase::Ending(asked), None) => world.book.end(attachment, asked),
            (_, None) => world.book.end(attachment, world.now),
            (_, Some((address, key))) => {
                let edition = world.book.edition(attachment, key);
                if !tainted && edition.is_none_or(|edition| edition + 1 < acknowledged) {
                    world.broken(format!("node {at} has an older key of {attachment} than it acknowledged"));
                }
                alone(world, at, attachment, &network, *address);
                if let Some(promise) = world.book.attachments.get_mut(&attachment) {
                    (promise.address, promise.phase) = (Some(*address), Phase::Live);
                }
            }
        }
    }
}

/// Bytes came to a node: nothing in them names a network that it was never granted.
pub fn received(world: &mut World, at: usize, bytes: &[u8]) {
    let node = world.nodes[at].id();
    let hidden = |network: &&NetworkId| !world.book.ever_granted.contains(&((*network).clone(), node));
    let named = |network: &&NetworkId| memchr::memmem::find(bytes, network.as_str().as_bytes()).is_some();
    if let Some(network) = world.book.networks.iter().filter(hidden).find(named).cloned() {
        world.broken(format!("node {at} is told of {network}, which it was never granted"));
    }
}

/// A file was written: what it holds of others is signed, and of no network that is not for this node. When its own log of a
/// network is removed, what it hosted there has ended.
pub fn wrote(world: &mut World, at: usize, write: &Write) {
    if write.content.is_none() && write.name.starts_with("own-") {
        end_lost(world, at, &write.name);
    }
    let (Some(_), true) = (&write.content, write.name.starts_with("log-")) else { return };
    let node = &world.nodes[at];
    let Some(cluster) = node.machine.as_ref().and_then(peerd::gossip::Gossip::cluster) else { return };
    let payload = match node.disk.files.open(&write.name, FileKind::ForeignLog) {
        Ok(Some(payload)) => payload,
        other => return world.broken(format!("node {at} writes {} as {:?}", write.name, other.err())),
    };
    let mut signatures = Signatures { cluster, found: &world.found };
    let log: LogFile = match minicbor::decode_with(payload, &mut signatures) {
        Ok(log) => log,
        Err(error) => return world.broken(format!("node {at} stores what nobody signed, in {}: {error}", write.name)),
    };
    let network = log.delta.head.head().shard.network().cloned();
    let id = node.id();
    if let Some(network) = network.filter(|network| !world.book.ever_granted.contains(&(network.clone(), id))) {
        world.broken(format!("node {at} stores records of {network}, which it was never granted"));
    }
}

/// A node's view changed: nobody expelled is back, no network is there that is not for it, nothing is older than it was.
pub fn changed(world: &mut World, at: usize, membership: Arc<Membership>) {
    let before = world.nodes[at].seen.membership.replace(membership.clone());
    members(world, at, before.as_deref(), &membership);
    for network in membership.networks() {
        let known = before.as_ref().and_then(|before| before.network(&network.id));
        if !known.is_some_and(|known| Arc::ptr_eq(known, network)) {
            containers(world, at, network);
        }
    }
    let lost = before.iter().flat_map(|before| before.networks()).filter(|n| membership.network(&n.id).is_none());
    for network in lost {
        forget(world, at, &network.id);
    }
}

fn members(world: &mut World, at: usize, before: Option<&Membership>, membership: &Membership) {
    let now_in: BTreeSet<NodeId> = membership.nodes().map(|node| node.id).collect();
    let was_in: BTreeSet<NodeId> = before.iter().flat_map(|before| before.nodes()).map(|node| node.id).collect();
    // Whose certificate went with the log of a copied disk is back by its next Hello: that is no expulsion.
    let expelled = |node: &&NodeId| {
        world.book.perhaps_expelled.contains(*node)
            && world.nodes[at].machine.as_ref().is_some_and(|machine| machine.is_expelled(**node))
    };
    let gone: Vec<NodeId> = was_in.difference(&now_in).filter(expelled).copied().collect();
    let seen = &mut world.nodes[at].seen;
    seen.gone.extend(gone);
    let back = seen.gone.intersection(&now_in).next().copied();
    let by_me = world
        .book
        .expelled
        .iter()
        .filter(|(_, by)| **by == at && !world.nodes[at].tainted && !world.nodes[at].is_set_back);
    let kept = by_me.map(|(node, _)| *node).find(|node| now_in.contains(node));
    if let Some(node) = back.or(kept) {
        world.broken(format!("node {at} sees the expelled {node} as a member again"));
    }
}

fn containers(world: &mut World, at: usize, network: &Network) {
    let viewer = world.nodes[at].id();
    if network.creator != viewer && !world.book.ever_granted.contains(&(network.id.clone(), viewer)) {
        world.broken(format!("node {at} sees {}, which it was never granted", network.id));
    }
    let mut gone: BTreeMap<AttachmentId, Option<usize>> = BTreeMap::new();
    let of_network = |key: &(NetworkId, AttachmentId)| key.0 == network.id;
    for ((_, id), edition) in world.nodes[at].seen.containers.iter().filter(|(key, _)| of_network(key)) {
        gone.insert(*id, *edition);
    }
    for container in network.attachments() {
        let was = gone.remove(&container.id);
        let Some(promise) = world.book.attachments.get(&container.id) else {
            return world.broken(format!("node {at} sees {}, which nobody attached", container.id));
        };
        let host = &world.nodes[promise.host];
        let (host_id, tainted) = (host.id(), host.tainted);
        let edition = world.book.edition(container.id, &container.public_key);
        if host_id != container.node || edition.is_none() {
            return world.broken(format!("node {at} sees {} as its host never said it", container.id));
        }
        // Who drops a node's log with its grant hears an older state of it first, perhaps, when there is another grant: what is
        // newest is for the host to say. That it is all that stays is seen at the end. A copied disk loses grants too.
        let withdrawn = world.book.perhaps_ungranted.contains(&(network.id.clone(), host_id))
            || world.book.excused.contains(&network.id);
        match was {
            Some(None) if !tainted && !withdrawn && promise.phase == Phase::Ended => {
                return world.broken(format!("node {at} sees {} again, which had gone", container.id));
            }
            Some(was) if !tainted && was > edition => {
                return world.broken(format!("node {at} sees an older key of {} than before", container.id));
            }
            _ => {}
        }
        world.nodes[at].seen.containers.insert((network.id.clone(), container.id), edition);
    }
    for id in gone.into_keys() {
        world.nodes[at].seen.containers.insert((network.id.clone(), id), None);
    }
}

/// A node has lost a network: what it hosted there ends, and has ended once that is on disk.
fn forget(world: &mut World, at: usize, network: &NetworkId) {
    world.nodes[at].seen.containers.retain(|(of, _), _| of != network);
    if world.nodes[at].clone_of.is_some() {
        return;
    }
    let now = world.now;
    let hosted = |promise: &&mut Promise| promise.host == at && promise.network == *network;
    for promise in world.book.attachments.values_mut().filter(hosted) {
        if promise.phase == Phase::Live {
            promise.phase = Phase::Ending(now);
        }
    }
}

fn end_lost(world: &mut World, at: usize, name: &str) {
    let ending = |promise: &Promise| match promise.phase {
        Phase::Ending(since) if promise.host == at && name.contains(promise.network.as_str()) => Some(since),
        _ => None,
    };
    let lost: Vec<_> =
        world.book.attachments.iter().filter_map(|(id, promise)| Some((*id, ending(promise)?))).collect();
    for (id, since) in lost {
        world.book.end(id, since);
    }
}

/// Whether all see the same, and what the book says; what differs if not.
pub fn agreement(world: &World) -> Result<(), String> {
    let Some(reference) = world.nodes[0].machine.as_ref().map(|machine| machine.membership()) else {
        return Err("node 0 does not run".to_owned());
    };
    for (at, node) in world.nodes.iter().enumerate().filter(|(_, node)| node.is_member()) {
        let Some(machine) = &node.machine else { continue };
        let id = node.id();
        if reference.node(id).is_none() {
            if !world.book.perhaps_expelled.contains(&id) {
                return Err(format!("node {at} is no member any more"));
            }
            continue;
        }
        let view = machine.membership();
        if world.book.named.contains(&id) && has_nobody_to_ask(world, &view, &reference, id) {
            continue;
        }
        if !view.nodes().eq(reference.nodes()) {
            let said = |membership: &Membership| -> BTreeSet<(String, u64, usize)> {
                membership.nodes().map(|node| (node.name.to_string(), node.boot.0, node.endpoints.len())).collect()
            };
            let (theirs, ours) = (said(&view), said(&reference));
            return Err(format!(
                "node {at} sees members {:?}, node 0 {:?}",
                theirs.difference(&ours).collect::<Vec<_>>(),
                ours.difference(&theirs).collect::<Vec<_>>()
            ));
        }
        if let Some(expelled) = machine.connected().into_iter().find(|peer| reference.node(*peer).is_none()) {
            return Err(format!("node {at} has a connection with {expelled}, which is no member"));
        }
        for network in reference.networks() {
            match (network.grants.contains_key(&id), view.network(&network.id)) {
                (true, None) => return Err(format!("node {at} has not got {}", network.id)),
                (false, Some(_)) => return Err(format!("node {at} still has {}", network.id)),
                (false, None) => {}
                (true, Some(seen)) => {
                    same(network, seen).map_err(|what| {
                        let counts = (network.attachments().count(), seen.attachments().count());
                        format!("node {at}: {what} of {} are not node 0's: {counts:?} containers", network.id)
                    })?;
                    let newest = machine.network_keys(&network.id).first().map(|(g, secret)| (*g, secret.hash()));
                    if newest != network.secret {
                        return Err(format!("node {at} has not the newest secret of {}", network.id));
                    }
                    own(world, at, network)?;
                }
            }
        }
    }
    reference.networks().try_for_each(|network| kept_out(world, network))?;
    let expelled = world.book.expelled.iter().filter(|(_, by)| !world.nodes[**by].tainted);
    if let Some((node, _)) = expelled.clone().find(|(node, _)| reference.node(**node).is_some()) {
        return Err(format!("{node} was expelled and is a member"));
    }
    let unheard = expelled.flat_map(|(signer, _)| world.book.admitted_by(*signer));
    let mut unheard = unheard.filter(|node| !world.book.named.contains(node));
    if let Some(node) = unheard.find(|node| reference.node(*node).is_some()) {
        return Err(format!("{node} was admitted by an expelled signer, unheard of, and is a member"));
    }
    Ok(())
}

/// Whether a node and the members cannot find each other: of those whose addresses it knows none is a member, since it met its signer
/// alone and that one was expelled meanwhile, and nobody knows its address.
fn has_nobody_to_ask(world: &World, view: &Membership, members: &Membership, id: NodeId) -> bool {
    let mut others = view.nodes().filter(|node| node.id != id && !node.endpoints.is_empty());
    let is_met = members.node(id).is_some_and(|node| !node.endpoints.is_empty());
    !is_met && others.all(|node| world.book.perhaps_expelled.contains(&node.id))
}

fn same(one: &Network, other: &Network) -> Result<(), &'static str> {
    if one.grants != other.grants {
        return Err("the grants");
    }
    if one.secret != other.secret {
        return Err("the secrets");
    }
    if one.attachments().eq(other.attachments()) { Ok(()) } else { Err("the containers") }
}

/// Who is granted a network no more does not know its newest secret.
fn kept_out(world: &World, network: &Network) -> Result<(), String> {
    for (at, node) in world.nodes.iter().enumerate().filter(|(_, node)| node.clone_of.is_none()) {
        let key = (network.id.clone(), node.id());
        let is_out = !network.grants.contains_key(&node.id()) && !world.book.perhaps_forgotten.contains(&key);
        let Some(machine) = node.machine.as_ref().filter(|_| is_out) else { continue };
        let mut known = machine.network_keys(&network.id).into_iter();
        if known.any(|(generation, secret)| network.secret == Some((generation, secret.hash()))) {
            let is_member = world.nodes[0].machine.as_ref().is_some_and(|m| m.membership().node(node.id()).is_some());
            return Err(format!(
                "node {at} (member: {is_member}) knows the newest secret {:?} of {}",
                network.secret.map(|s| s.0),
                network.id
            ));
        }
    }
    Ok(())
}

/// What a node hosts is what the others see of it, and what was acknowledged.
fn own(world: &World, at: usize, network: &Network) -> Result<(), String> {
    let node = &world.nodes[at];
    let Some(machine) = node.machine.as_ref().filter(|_| !world.book.excused.contains(&network.id)) else {
        return Ok(());
    };
    let hosted = machine.attachments().into_iter().filter(|(of, _)| *of == network.id);
    let hosted: BTreeMap<AttachmentId, WgPublicKey> = hosted.map(|(_, c)| (c.id, c.public_key)).collect();
    let of_node = network.attachments().filter(|container| container.node == node.id());
    let seen: BTreeMap<AttachmentId, WgPublicKey> = of_node.map(|c| (c.id, c.public_key)).collect();
    if hosted != seen {
        let only = |one: &BTreeMap<_, WgPublicKey>, other: &BTreeMap<_, WgPublicKey>| -> Vec<AttachmentId> {
            one.iter().filter(|(id, key)| other.get(*id) != Some(*key)).map(|(id, _)| *id).collect()
        };
        let (unseen, gone) = (only(&hosted, &seen), only(&seen, &hosted));
        return Err(format!("node {at} hosts {unseen:?} of {} as nobody sees it, and {gone:?} are seen", network.id));
    }
    if node.tainted {
        return Ok(());
    }
    for (id, promise) in world.book.attachments.iter().filter(|(_, p)| p.host == at && p.network == network.id) {
        let there = hosted.contains_key(id);
        let withdrawn = world.book.perhaps_ungranted.contains(&(network.id.clone(), node.id()));
        if promise.phase == Phase::Live && !there && !withdrawn || promise.phase == Phase::Ended && there {
            return Err(format!("node {at}: {id} is {:?}, and hosted: {there}", promise.phase));
        }
    }
    Ok(())
}
