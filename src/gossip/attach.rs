//! Attachments of this node: their records, and waiting for an address when there is none here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::api::{AttachSpec, Attached, Done, OperationError, OperationId, Space};
use super::machine::Gossip;
use super::message::SpaceAnswer;
use super::persist::Waiter;
use super::space::Pick;
use crate::membership::body::{Body, ContainerBody};
use crate::membership::{Container, Kind, OwnLog, Shard, State, container};
use crate::model::{AttachmentId, NetworkId, NodeId, Rev, WgPublicKey};

/// How long an attach waits for an address from elsewhere.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How many attaches wait for an address.
const WAIT_COUNT_MAX: usize = 1024;

/// An attach that waits for an address.
pub(super) struct AttachWait {
    operation: OperationId,
    spec: AttachSpec,
    until: Instant,
    ask_at: Instant,
    /// What the homes said last.
    answer: Option<SpaceAnswer>,
}

/// The containers that a log of ours states.
pub(super) fn containers(log: &OwnLog) -> impl Iterator<Item = Container> {
    log.records().filter_map(|record| match record.body() {
        Body::Container(body) => Some(container(record.origin(), record.record().rev, body)),
        _ => None,
    })
}

impl Gossip {
    /// Gives an attachment an address and a number, and publishes it. Done once its record is on disk; it waits for no
    /// peer, unless no address is left here.
    pub fn attach(&mut self, spec: AttachSpec, now: Instant) -> OperationId {
        let operation = self.operation();
        self.attach_or_wait(operation, spec, now);
        self.settle(now);
        operation
    }

    fn attach_or_wait(&mut self, operation: OperationId, spec: AttachSpec, now: Instant) {
        match self.try_attach(&spec, now) {
            Ok(Some(attached)) => {
                self.persister.then(Waiter::Done(operation, Done::Attached(attached)));
                self.ask_ahead(&spec.network, spec.space, now);
            }
            Ok(None) if self.attach_waits.len() >= WAIT_COUNT_MAX => {
                self.finished.push((operation, Err(OperationError::Busy)));
            }
            Ok(None) => {
                let until = now + ADDRESS_TIMEOUT;
                self.attach_waits.push(AttachWait { operation, spec, until, ask_at: now, answer: None });
                self.tend_attach_waits(now);
            }
            Err(error) => self.finished.push((operation, Err(error))),
        }
    }

    /// Writes the record, or `None` if no address is free here.
    fn try_attach(&mut self, spec: &AttachSpec, now: Instant) -> Result<Option<Attached>, OperationError> {
        let network = &spec.network;
        let state = self.networks.get(network).ok_or_else(|| OperationError::NoNetwork(network.to_string()))?;
        if self.own_container(spec.id).is_some() {
            return Err(OperationError::AttachmentTaken(spec.id));
        }
        self.check_room_at_all()?;
        if self.is_gated(network) {
            return Ok(None);
        }
        let own = self.authors.get(&(self.me, Shard::Network(network.clone())));
        if spec.alone {
            let of_service = |c: &Container| c.app == spec.app && c.service == spec.service;
            if let Some(holder) = own.into_iter().flat_map(containers).find(of_service) {
                return Err(OperationError::NotAlone { service: spec.service.clone(), holder: holder.id });
            }
        }
        let own = own.into_iter().flat_map(OwnLog::records).filter_map(|record| match record.body() {
            Body::Container(c) if c.app == spec.app && c.kind == spec.kind => Some((c, record.record().rev)),
            _ => None,
        });
        let mut numbers: BTreeMap<u32, AttachmentId> = BTreeMap::new();
        // Later than every container in view, so that of two with one number the one attached first keeps it.
        let mut newest = state.container_rev();
        for (container, rev) in own {
            numbers.insert(container.number, container.id);
            newest = newest.max(rev);
        }
        let holder = |number: u32| {
            let ahead = numbers.get(&number).copied();
            let seen = state.view.container_numbered(spec.app.as_str(), spec.kind.as_str(), number);
            ahead.or_else(|| seen.filter(|c| c.node != self.me).map(|c| c.id))
        };
        let number = match spec.number {
            Some(number) => match holder(number) {
                Some(holder) => {
                    let (app, kind) = (spec.app.clone(), spec.kind.clone());
                    return Err(OperationError::NumberTaken { app, kind, number, holder });
                }
                None => number,
            },
            None => (1..).find(|number| holder(*number).is_none()).unwrap_or(u32::MAX),
        };
        let Pick::Free(address) = self.pick_address(network, spec.space, now) else { return Ok(None) };
        let body = ContainerBody {
            id: spec.id,
            address,
            app: spec.app.clone(),
            kind: spec.kind.clone(),
            number,
            version: spec.version.clone(),
            service: spec.service.clone(),
            server: spec.server.clone(),
            public_key: spec.public_key,
            state: spec.state,
        };
        if let Some((log, pen)) = self.own(&Shard::Network(network.clone())) {
            log.put(pen, &Body::Container(body), newest.next());
        }
        Ok(Some(Attached { id: spec.id, address, number }))
    }

    /// Tries the waiting attaches again.
    pub(super) fn retry_attaches(&mut self, now: Instant) {
        let mut without: Vec<(NetworkId, Space)> = Vec::new();
        for wait in std::mem::take(&mut self.attach_waits) {
            let place = (wait.spec.network.clone(), wait.spec.space);
            if without.contains(&place) {
                self.attach_waits.push(wait);
                continue;
            }
            match self.try_attach(&wait.spec, now) {
                Ok(Some(attached)) => self.persister.then(Waiter::Done(wait.operation, Done::Attached(attached))),
                Ok(None) => {
                    without.push(place);
                    self.attach_waits.push(wait);
                }
                Err(error) => self.finished.push((wait.operation, Err(error))),
            }
        }
    }

    /// When to ask again for a waiting attach.
    pub(super) fn next_ask(&self) -> Option<Instant> {
        self.attach_waits.iter().map(|wait| wait.ask_at).min()
    }

    /// Asks for the waiting attaches, and ends those that cannot be met.
    pub(super) fn tend_attach_waits(&mut self, now: Instant) {
        if self.attach_waits.is_empty() {
            return;
        }
        self.retry_attaches(now);
        for (id, space) in &mut self.spaces {
            space.waiting = self.attach_waits.iter().filter(|wait| wait.spec.network == *id).count();
        }
        for mut wait in std::mem::take(&mut self.attach_waits) {
            match self.tend_attach_wait(&mut wait, now) {
                Some(error) => self.finished.push((wait.operation, Err(error))),
                None => self.attach_waits.push(wait),
            }
        }
    }

    fn tend_attach_wait(&mut self, wait: &mut AttachWait, now: Instant) -> Option<OperationError> {
        let (network, space) = (wait.spec.network.clone(), wait.spec.space);
        if self.is_gated(&network) {
            (wait.ask_at, wait.until) = (now + ASK_EVERY, now + ADDRESS_TIMEOUT);
            return None;
        }
        let homes = self.networks.get(&network)?.holdings.homes(space.range());
        let is_home = homes.contains(&self.me);
        if wait.ask_at <= now {
            wait.ask_at = now + ASK_EVERY;
            let need = self.spaces.get(&network).map_or(1, |memory| memory.waiting as u32);
            if is_home {
                wait.answer = Some(self.reclaim(&network, space, self.me, need, now));
            }
            let others: Vec<NodeId> = homes.iter().filter(|home| **home != self.me).copied().collect();
            if !others.is_empty() && !self.ask_homes(&network, space, need, true, now) && !is_home {
                return Some(OperationError::AddressesUnreachable { network, holders: others });
            }
            if wait.answer == Some(SpaceAnswer::Given) {
                for home in others {
                    self.fetch_log(&network, home, now);
                }
            }
        }
        match &wait.answer {
            Some(SpaceAnswer::Full(free_in_s)) => {
                let first = free_in_s.iter().copied().chain(self.free_in_s(&network, space, now)).min();
                Some(self.full(&network, space, first))
            }
            Some(SpaceAnswer::Unreachable(holders)) => {
                Some(OperationError::AddressesUnreachable { network, holders: holders.clone() })
            }
            _ if wait.until <= now => {
                Some(OperationError::AddressesUnreachable { network, holders: homes.into_iter().collect() })
            }
            _ => None,
        }
    }

    /// A home has written a share for us, or a holder what it releases: its log has it.
    pub(super) fn fetch_log(&mut self, network: &NetworkId, node: NodeId, now: Instant) {
        if let Some(connection) = self.peers.connection(node) {
            self.pull(connection, &Shard::Network(network.clone()), node, now);
        }
    }

    /// A home's answer. What it says to who only looks ahead decides nothing for who waits.
    pub(super) fn take_space_answer(
        &mut self,
        peer: NodeId,
        (network, space, urgent): (&NetworkId, Space, bool),
        answer: SpaceAnswer,
        now: Instant,
    ) {
        if answer == SpaceAnswer::Given {
            self.fetch_log(network, peer, now);
        }
        let asked_for = |wait: &&mut AttachWait| urgent && wait.spec.network == *network && wait.spec.space == space;
        for wait in self.attach_waits.iter_mut().filter(asked_for) {
            wait.answer = Some(answer.clone());
        }
        self.tend_attach_waits(now);
    }

    /// Our container with this id, and its network.
    fn own_container(&self, id: AttachmentId) -> Option<(NetworkId, ContainerBody, Rev)> {
        self.authors.iter().filter(|((origin, _), _)| *origin == self.me).find_map(|((_, shard), log)| {
            let record = log.record(Kind::CONTAINER, &id.0)?;
            match record.body() {
                Body::Container(body) => Some((shard.network()?.clone(), body.clone(), record.record().rev)),
                _ => None,
            }
        })
    }

    /// Ends an attachment. Its address rests from now on.
    pub fn detach(&mut self, id: AttachmentId, now: Instant) -> OperationId {
        self.operate(now, |this| {
            if this.remove_container(id, now) { Ok(Done::Detached) } else { Err(OperationError::NoAttachment(id)) }
        })
    }

    pub(super) fn remove_container(&mut self, id: AttachmentId, now: Instant) -> bool {
        let Some((network, body, _)) = self.own_container(id) else { return false };
        if let Some((log, _)) = self.own(&Shard::Network(network.clone())) {
            log.remove(Kind::CONTAINER, &id.0);
        }
        self.spaces.entry(network).or_default().free(body.address, now);
        true
    }

    /// Publishes a new key of an attachment: the signal for its peers to open a new tunnel.
    pub fn set_container_key(&mut self, id: AttachmentId, key: WgPublicKey, now: Instant) -> OperationId {
        self.change_container(id, now, |body| body.public_key = key)
    }

    /// Publishes new keys of attachments together. One whose record has gone is passed over.
    pub fn set_container_keys(&mut self, keys: &[(AttachmentId, WgPublicKey)], now: Instant) -> OperationId {
        self.operate(now, |this| {
            for (id, key) in keys {
                let Some((network, mut body, rev)) = this.own_container(*id) else { continue };
                body.public_key = *key;
                if let Some((log, pen)) = this.own(&Shard::Network(network)) {
                    log.put(pen, &Body::Container(body), rev);
                }
            }
            Ok(Done::Updated)
        })
    }

    /// Publishes whether an attachment is to be found by name. One that drains goes on draining, whatever is said of it: who
    /// finds it ready may have looked before.
    pub fn set_container_state(&mut self, id: AttachmentId, state: State, now: Instant) -> OperationId {
        self.change_container(id, now, |body| {
            if body.state != State::Draining {
                body.state = state;
            }
        })
    }

    fn change_container(
        &mut self,
        id: AttachmentId,
        now: Instant,
        change: impl FnOnce(&mut ContainerBody),
    ) -> OperationId {
        self.operate(now, |this| {
            let (network, mut body, rev) = this.own_container(id).ok_or(OperationError::NoAttachment(id))?;
            change(&mut body);
            if let Some((log, pen)) = this.own(&Shard::Network(network)) {
                log.put(pen, &Body::Container(body), rev);
            }
            Ok(Done::Updated)
        })
    }
}
