//! Hello: the first exchange between members, which tells that they are.
//!
//! A node may be certified and unheard of: it brings its certificate along. Revocations go ahead of all else.

use std::time::Instant;

use rand_core::RngCore;

use super::api::{ConnectionId, ExchangeId};
use super::exchange::Asked;
use super::machine::Gossip;
use super::message::{Hello, HelloRefusal, Message, PROTOCOL};
use super::revocations::HEARD_COUNT_MAX;
use crate::membership::body::Body;
use crate::membership::{ClusterState, Shard, Verified};
use crate::model::NodeId;

impl Gossip {
    /// Says who we are; the first exchange on a connection between members.
    pub(super) fn ask_hello(&mut self, connection: ConnectionId, now: Instant) {
        if let Some(hello) = self.hello() {
            self.ask(connection, &Message::Hello(hello), Asked::Hello, now);
        }
    }

    fn hello(&mut self) -> Option<Hello> {
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let belonging = self.belonging.as_ref()?;
        Some(Hello {
            cluster: belonging.id,
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            chain: belonging.chain.clone(),
            boot: self.boot.boot,
            nonce,
        })
    }

    pub(super) fn handle_hello_request(
        &mut self,
        connection: ConnectionId,
        exchange: ExchangeId,
        hello: Hello,
        now: Instant,
    ) {
        let Some(ours) = self.hello() else {
            return self.reply(connection, exchange, &Message::HelloRefused(HelloRefusal::Stranger));
        };
        match self.accept_hello(connection, hello, now) {
            Ok(()) => {
                // Where this connection lost against another one, the peer finds it closed.
                self.reply(connection, exchange, &Message::Hello(ours));
                self.welcome(connection, now);
            }
            Err(refusal) => {
                self.reply(connection, exchange, &Message::HelloRefused(refusal));
                self.peers.refuse(connection);
            }
        }
    }

    pub(super) fn handle_hello_reply(&mut self, connection: ConnectionId, hello: Hello, now: Instant) {
        match self.accept_hello(connection, hello, now) {
            Ok(()) => self.welcome(connection, now),
            Err(_) => self.close(connection, "the peer is no member of this cluster"),
        }
    }

    fn accept_hello(&mut self, connection: ConnectionId, hello: Hello, now: Instant) -> Result<(), HelloRefusal> {
        let Some(node) = self.peers.get(connection).map(|peer| peer.node) else { return Err(HelloRefusal::Stranger) };
        if self.cluster() != Some(hello.cluster) {
            return Err(HelloRefusal::OtherCluster);
        }
        if hello.protocol_min > PROTOCOL || hello.protocol_max < PROTOCOL {
            return Err(HelloRefusal::Protocol);
        }
        let appoints = |record: &Verified| matches!(record.body(), Body::Signer(signer) if signer.node == node);
        let is_news =
            |state: &ClusterState| !state.is_member(node) || !state.is_signer(node) && hello.chain.iter().any(appoints);
        if hello.chain.len() <= 4 && self.state().is_some_and(is_news) {
            // Certified, or appointed a signer, and that has not come here yet: it brings it along.
            let certifies = |record: &Verified| match record.body() {
                Body::Signer(_) => true,
                Body::NodeCert(cert) => cert.node == node,
                _ => false,
            };
            self.hear_chain(hello.chain.into_iter().filter(certifies).collect(), node, now)?;
        }
        match self.state() {
            Some(state) if state.is_revoked(node) => return Err(HelloRefusal::Expelled),
            Some(state) if state.is_member(node) => {}
            _ => return Err(HelloRefusal::Stranger),
        }
        self.peers.accept(connection, hello.boot);
        self.settle_double(connection, node, now);
        Ok(())
    }

    /// A member is here: revocations first, then what we share.
    fn welcome(&mut self, connection: ConnectionId, now: Instant) {
        let Some(peer) = self.peers.member(connection) else { return };
        self.peers.forget_dials(peer);
        self.note_heard(peer, now, now);
        self.tell_revoked(connection, peer);
        self.offer_all(connection, peer);
        self.sync_with(connection, peer, now);
        self.tend_gates(now);
    }

    /// Keeps a certificate chain if it makes `node` a member or a signer that it was not: from here on it is one, also where it was
    /// granted something before.
    ///
    /// # Errors
    /// If it was expelled with the signer that certified it: perhaps nobody here has heard of it before.
    fn hear_chain(&mut self, chain: Vec<Verified>, node: NodeId, now: Instant) -> Result<(), HelloRefusal> {
        let Some(belonging) = &self.belonging else { return Ok(()) };
        let standing = |state: &ClusterState| (state.is_member(node), state.is_signer(node));
        let before = standing(&belonging.state);
        let mut records = self.cluster_records();
        records.extend(&chain);
        let Some(told) = ClusterState::derive(belonging.id, records.into_iter()) else { return Ok(()) };
        if told.is_revoked(node) {
            return Err(HelloRefusal::Expelled);
        }
        let is_news = standing(&told) > before;
        let Some(belonging) = self.belonging.as_mut().filter(|_| is_news) else { return Ok(()) };
        let logs = &self.logs;
        // What has come in its log is kept there.
        belonging.heard.retain(|record| {
            logs.log(&Shard::Cluster, record.origin()).is_none_or(|log| log.record(&record.slot()) != Some(record))
        });
        if belonging.heard.len() + chain.len() <= HEARD_COUNT_MAX {
            belonging.heard.extend(chain.iter().cloned());
            self.changed.insert(Shard::Cluster);
            self.certify_again(&chain);
            self.refresh_all(now);
        }
        Ok(())
    }

    /// Says once more what this node has certified, or the root here appointed, and what went from the log with a copy of the disk:
    /// others are to hear it too.
    fn certify_again(&mut self, chain: &[Verified]) {
        for record in chain {
            self.say_again(record);
        }
    }

    /// Says what was said by a node that this one writes for, if it is said no more.
    pub(super) fn say_again(&mut self, record: &Verified) {
        let said = record.record();
        if let Some((log, pen)) = self.author(record.origin(), &Shard::Cluster)
            && log.record(said.kind, &said.key).is_none()
        {
            log.put(pen, record.body(), said.rev);
        }
    }
}
