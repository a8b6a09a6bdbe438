//! What changes around the router: members, secrets, attachments, their keys.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::membership::Membership;
use crate::model::{AttachmentId, Generation, NodeId, Psk, Vni, WgSecret};

use super::attachment::AttachmentSlot;
use super::noise::LocalKey;
use super::tunnel::TunnelSlot;
use super::{AttachError, AttachmentSpec, DropReason, Router};

/// A tunnel of a key that has been replaced ends so soon, should no packet come through its successor.
const REPLACED_LINGER: Duration = Duration::from_secs(30);
/// Secrets of a network that are accepted.
const GENERATIONS_MAX: usize = 2;

impl Router {
    /// Says which node this is: no tunnel leads to itself.
    pub fn set_node(&mut self, node: NodeId) {
        self.node = Some(node);
    }

    /// Takes a new view of the cluster.
    ///
    /// Tunnels to what is gone are closed; where a container has a new key and there was traffic, the new tunnel is opened at
    /// once, and the old one goes after its first packet.
    pub fn set_membership(&mut self, now: Instant, membership: Arc<Membership>) {
        let old = std::mem::replace(&mut self.membership, Arc::clone(&membership));
        self.peers.set_membership(&membership);
        let same_nodes = old.nodes().map(|node| node.id).eq(membership.nodes().map(|node| node.id));
        let unchanged = |vni: Vni| match (old.network_by_vni(vni), membership.network_by_vni(vni)) {
            (Some(old), Some(new)) => same_nodes && Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        let routes: Vec<(AttachmentSlot, Ipv4Addr)> = self
            .attachments
            .iter()
            .filter(|(_, attachment)| !unchanged(attachment.vni))
            .flat_map(|(slot, attachment)| attachment.routes.keys().map(move |to| (slot, *to)))
            .collect();
        for (slot, to) in routes {
            self.revise_route(now, slot, to);
        }
        self.retry_waiting(now);
    }

    fn revise_route(&mut self, now: Instant, slot: AttachmentSlot, to: Ipv4Addr) {
        let network = self.membership.network_by_vni(self.attachments[slot].vni);
        let remote = network.and_then(|network| self.remote_at(network, to));
        let Some(route) = self.attachments[slot].routes.get_mut(&to) else { return };
        match remote {
            Some(remote) if remote == route.remote => {}
            // The same attachment with another key, or on another node: the old tunnel may still be good.
            Some(remote) if remote.id == route.remote.id => {
                route.remote = remote;
                let old = route.tunnels.clone();
                self.replace(now, slot, to, old);
            }
            // Nobody, or somebody else: what the old holder says counts no more.
            _ => self.close_route(now, slot, to, DropReason::UnknownDestination),
        }
    }

    /// A tunnel better than these shall be made, and these end.
    fn replace(&mut self, now: Instant, slot: AttachmentSlot, to: Ipv4Addr, old: Vec<TunnelSlot>) {
        let preferred = self.prefer(now, slot, to);
        for tunnel in old.into_iter().filter(|tunnel| Some(*tunnel) != preferred) {
            let Some(entry) = self.tunnels.get_mut(tunnel) else { continue };
            if entry.established {
                entry.ends.get_or_insert(now + REPLACED_LINGER);
                self.reschedule(tunnel);
            } else {
                self.close_tunnel(now, tunnel);
            }
        }
    }

    /// The secrets of a network, newest first; at most two count. Tunnels with any other are closed.
    pub fn set_network_keys(&mut self, now: Instant, vni: Vni, mut keys: Vec<(Generation, Psk)>) {
        keys.truncate(GENERATIONS_MAX);
        let old = self.keys.insert(vni, keys).unwrap_or_default();
        let keys = &self.keys[&vni];
        let gone: BTreeSet<Generation> =
            old.iter().filter(|held| !keys.contains(held)).map(|(generation, _)| *generation).collect();
        let newest_is_new = keys.first().is_some_and(|newest| !old.contains(newest));
        let dead: Vec<_> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.identity.vni == vni && gone.contains(&tunnel.identity.generation))
            .map(|(slot, _)| slot)
            .collect();
        let routes: Vec<_> = self
            .attachments
            .iter()
            .filter(|(_, attachment)| attachment.vni == vni && newest_is_new)
            .flat_map(|(slot, attachment)| attachment.routes.keys().map(move |to| (slot, *to)))
            .collect();
        for (slot, to) in routes {
            self.prefer(now, slot, to);
        }
        for tunnel in dead {
            self.close_tunnel(now, tunnel);
        }
    }

    /// The control plane knows where a node is.
    pub fn set_endpoint(&mut self, now: Instant, node: NodeId, endpoint: SocketAddr) {
        self.peers.set_endpoint(now, node, endpoint);
    }

    /// Adds a local attachment.
    ///
    /// # Errors
    /// When its id or address is there already.
    pub fn attach(&mut self, now: Instant, spec: AttachmentSpec) -> Result<(), AttachError> {
        self.attachments.insert(now, spec).map(|_| ())
    }

    /// Gives an attachment a new key; whether there is such an attachment. Its tunnels go on until the peers, who
    /// learn of the key from the container's record, have opened new ones.
    pub fn rekey(&mut self, now: Instant, id: AttachmentId, secret: WgSecret) -> bool {
        let Some(slot) = self.attachments.by_id(id) else { return false };
        let attachment = &mut self.attachments[slot];
        attachment.key = LocalKey::new(secret, now);
        let routes: Vec<_> = attachment.routes.iter().map(|(to, route)| (*to, route.tunnels.clone())).collect();
        for (to, old) in routes {
            self.replace(now, slot, to, old);
        }
        true
    }

    /// Takes an attachment out with its tunnels; whether there was one.
    pub fn detach(&mut self, now: Instant, id: AttachmentId) -> bool {
        let Some(slot) = self.attachments.by_id(id) else { return false };
        let routes: Vec<_> = self.attachments[slot].routes.keys().copied().collect();
        for to in routes {
            self.close_route(now, slot, to, DropReason::UnknownAttachment);
        }
        self.attachments.remove(slot);
        true
    }
}
