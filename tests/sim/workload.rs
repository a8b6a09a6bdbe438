//! What people ask of the cluster, and what the book says of their answers.

use std::time::Duration;

use peerd::gossip::{AttachSpec, Done, InviteSpec, OperationError, Space};
use peerd::membership::{Role, State};
use peerd::model::{AttachmentId, NetworkId, NodeId, WgPublicKey, WgSecret};

use crate::book::{Offered, Phase, Promise};
use crate::checks;
use crate::wires::below;
use crate::world::World;

/// What was asked, so that the answer can be entered.
#[derive(Debug)]
pub enum Intent {
    CreateNetwork,
    Grant,
    Ungrant,
    Invite(Vec<NetworkId>, bool),
    Join,
    Attach(AttachmentId),
    Detach(AttachmentId),
    Rekey(AttachmentId, WgPublicKey),
    Expel(NodeId),
    Init,
}

impl World {
    pub fn init(&mut self, at: usize) {
        self.ask(at, Intent::Init, |machine, now| machine.init(None, now));
    }

    pub fn create_network(&mut self, at: usize, name: &str) {
        let name = name.parse().expect("a label");
        self.ask(at, Intent::CreateNetwork, |machine, now| machine.create_network(Some(name), false, now));
    }

    pub fn invite(&mut self, at: usize, networks: Vec<NetworkId>, signer: bool) {
        let spec = InviteSpec { networks: networks.clone(), ttl: Duration::from_secs(3600), uses: 1, signer };
        self.ask(at, Intent::Invite(networks, signer), |machine, now| machine.invite(spec, now));
    }

    /// A new node joins with the oldest invite that nobody tried.
    pub fn join(&mut self) {
        if self.book.tokens.is_empty() {
            return;
        }
        let Offered { token, networks, signer, by } = self.book.tokens.remove(0);
        let at = self.add();
        let node = self.nodes[at].id();
        for network in networks {
            self.note_granted(network, node);
        }
        self.book.admitted(node, by, signer);
        self.ask(at, Intent::Join, |machine, now| machine.join(token, now));
    }

    pub fn grant(&mut self, at: usize, network: &NetworkId, node: NodeId, role: Role) {
        self.tell(|| format!("{node} is to be granted {network}, {role:?}"));
        if self.nodes.iter().any(|copy| copy.clone_of.is_some() && copy.id() == node) {
            self.book.excused.insert(network.clone());
        }
        self.note_granted(network.clone(), node);
        self.ask(at, Intent::Grant, |machine, now| machine.grant(network, node, role, now));
    }

    fn note_granted(&mut self, network: NetworkId, node: NodeId) {
        if self.nodes.iter().any(|copy| copy.clone_of.is_some()) {
            self.book.perhaps_forgotten.insert((network.clone(), node));
        }
        self.book.ever_granted.insert((network, node));
    }

    pub fn ungrant(&mut self, at: usize, network: &NetworkId, node: NodeId) {
        self.tell(|| format!("{node} is to be granted {network} no more"));
        self.book.perhaps_ungranted.insert((network.clone(), node));
        self.ask(at, Intent::Ungrant, |machine, now| machine.ungrant(network, node, now));
    }

    pub fn expel(&mut self, at: usize, node: NodeId) {
        let Some(machine) = &self.nodes[at].machine else { return };
        let members = machine.membership().nodes().map(|node| node.id).collect();
        self.book.may_expel(node, &members);
        self.ask(at, Intent::Expel(node), |machine, now| machine.expel(node, now));
    }

    pub fn attach(&mut self, at: usize, network: &NetworkId) {
        let id = AttachmentId::random(&mut self.rng);
        let key = WgSecret::random(&mut self.rng).public();
        let space = if below(&mut self.rng, 8) == 0 { Space::Extras } else { Space::Containers };
        let (app, kind) = ("shop".parse().expect("a label"), "web".parse().expect("a label"));
        let service = "web".parse().expect("a label");
        let (number, version) = (None, None);
        let spec = AttachSpec {
            id,
            network: network.clone(),
            app,
            kind,
            number,
            version,
            service,
            server: None,
            state: State::Ready,
            public_key: key,
            space,
            alone: false,
        };
        let promise = Promise {
            host: at,
            network: network.clone(),
            address: None,
            phase: Phase::Open,
            keys: vec![key],
            acknowledged: 0,
        };
        self.book.attachments.insert(id, promise);
        self.ask(at, Intent::Attach(id), |machine, now| machine.attach(spec, now));
    }

    /// Ends one of a node's attachments.
    pub fn detach(&mut self, at: usize) {
        let Some(id) = self.one_of(at) else { return };
        let now = self.now;
        if let Some(promise) = self.book.attachments.get_mut(&id) {
            promise.phase = Phase::Ending(now);
        }
        self.ask(at, Intent::Detach(id), |machine, now| machine.detach(id, now));
    }

    /// Gives one of a node's attachments a new key.
    pub fn rekey(&mut self, at: usize) {
        if let Some(id) = self.one_of(at) {
            self.rekey_one(at, id);
        }
    }

    fn rekey_one(&mut self, at: usize, id: AttachmentId) {
        let key = WgSecret::random(&mut self.rng).public();
        if let Some(promise) = self.book.attachments.get_mut(&id) {
            promise.keys.push(key);
        }
        self.ask(at, Intent::Rekey(id, key), |machine, now| machine.set_container_key(id, key, now));
    }

    fn one_of(&mut self, at: usize) -> Option<AttachmentId> {
        let live = |promise: &Promise| promise.host == at && promise.phase == Phase::Live;
        let ids: Vec<AttachmentId> =
            self.book.attachments.iter().filter(|(_, promise)| live(promise)).map(|(id, _)| *id).collect();
        ids.get(below(&mut self.rng, ids.len() as u64) as usize).copied()
    }
}

/// A node starts: its shell takes its containers up again, each with a new key. One that was ended has no interface any more,
/// also where the disk is older than its end.
pub fn started(world: &mut World, at: usize) {
    if world.nodes[at].clone_of.is_some() {
        return;
    }
    let Some(machine) = &world.nodes[at].machine else { return };
    for (_, container) in machine.attachments() {
        let id = container.id;
        match world.book.attachments.get(&id) {
            Some(Promise { phase: Phase::Ended, .. }) => {
                world.ask(at, Intent::Detach(id), |machine, now| machine.detach(id, now));
            }
            _ => world.rekey_one(at, id),
        }
    }
}

/// A node's view changed: its shell ends what it knows to be gone, which a copy of its log elsewhere may have brought back.
pub fn sweep(world: &mut World, at: usize) {
    let node = &world.nodes[at];
    let Some(machine) = node.machine.as_ref().filter(|_| node.clone_of.is_none()) else { return };
    let is_gone = |id: &AttachmentId| world.book.attachments.get(id).is_some_and(|p| p.phase == Phase::Ended);
    let gone: Vec<AttachmentId> = machine.attachments().iter().map(|(_, c)| c.id).filter(is_gone).collect();
    for id in gone {
        world.ask(at, Intent::Detach(id), |machine, now| machine.detach(id, now));
    }
}

/// An answer goes into the book.
pub fn answered(world: &mut World, at: usize, intent: Intent, result: Result<Done, OperationError>) {
    let now = world.now;
    world.tell(|| format!("node {at} answers: {intent:?}, {:?}", result.as_ref().map(drop)));
    match (intent, result) {
        (Intent::Attach(id), Ok(Done::Attached(attached))) => {
            world.report.attached += 1;
            checks::attached(world, at, &attached);
            if let Some(promise) = world.book.attachments.get_mut(&id) {
                promise.address = Some(attached.address);
                promise.phase = Phase::Live;
                promise.acknowledged = 1;
            }
        }
        // What the disk refused may be there after a crash all the same.
        (Intent::Attach(_), Err(OperationError::NotStored)) => {}
        (Intent::Attach(id), _) => world.book.end(id, now),
        (Intent::Detach(id), Ok(_)) => {
            world.report.detached += 1;
            if let Some(Promise { phase: Phase::Ending(asked), .. }) = world.book.attachments.get(&id) {
                let asked = *asked;
                world.book.end(id, asked);
            }
        }
        (Intent::Rekey(id, key), Ok(_)) => {
            let edition = world.book.edition(id, &key);
            if let (Some(promise), Some(edition)) = (world.book.attachments.get_mut(&id), edition) {
                promise.acknowledged = promise.acknowledged.max(edition + 1);
            }
        }
        (Intent::CreateNetwork, Ok(Done::NetworkCreated { id, .. })) => {
            let creator = world.nodes[at].id();
            world.book.ever_granted.insert((id.clone(), creator));
            world.book.networks.push(id);
        }
        (Intent::Invite(networks, signer), Ok(Done::Invited(invited))) => {
            let token = invited.token.parse().expect("a token that was just made");
            let by = world.nodes[at].id();
            world.book.tokens.push(Offered { token, networks, signer, by });
        }
        (Intent::Join, Ok(_)) => world.report.joined += 1,
        (Intent::Expel(node), Ok(_)) => drop(world.book.expelled.insert(node, at)),
        _ => {}
    }
}
