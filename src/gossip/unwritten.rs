//! What follows when the disk refuses: whoever waits hears why at once, and what nobody was promised is undone.

use std::time::Instant;

use super::api::{Done, JoinError, OperationError, PersistToken};
use super::files::BOOT;
use super::identity::NODE_KEY;
use super::machine::Gossip;
use super::message::{JoinRefusal, Message};
use super::peers::Peers;
use super::persist::Waiter;
use super::store::Write;
use crate::membership::{Membership, Shard};

impl Gossip {
    /// The files of this token could not be written. They are tried again; what waited for them fails.
    pub fn handle_persist_failed(&mut self, token: PersistToken, now: Instant) {
        for waiter in self.persister.fail(token, now) {
            self.disappoint(waiter, now);
        }
        self.settle(now);
    }

    fn disappoint(&mut self, waiter: Waiter, now: Instant) {
        match waiter {
            Waiter::Done(operation, done) => {
                match &done {
                    Done::Attached(attached) => drop(self.remove_container(attached.id, now)),
                    // Nobody has heard of it, and nobody will.
                    Done::NetworkCreated { id, .. } => self.lose_network(id, now),
                    Done::Initialised(_) => self.unenter(),
                    _ => {}
                }
                self.finished.push((operation, Err(OperationError::NotStored)));
            }
            Waiter::Certify(redemption) | Waiter::Admit(redemption) => {
                let (connection, exchange) = redemption.asked();
                self.reply(connection, exchange, &Message::JoinRefused(JoinRefusal::NotStored));
                self.close(connection, "the disk takes nothing");
            }
            Waiter::Joined => {
                self.unenter();
                if let Some(joining) = &mut self.joining {
                    joining.not_admitted();
                }
                self.join_failed(JoinError::NotStored);
            }
            Waiter::Reply(connection, exchange, _) => self.reply(connection, exchange, &Message::Unknown),
            Waiter::Withdrawn(operation) => self.leave_failed(operation, OperationError::NotStored),
            Waiter::Revoked => self.fail_leaving(OperationError::NotStored),
        }
    }

    /// This node is in no cluster after all. What was written of it is taken away as soon as the disk lets it.
    fn unenter(&mut self) {
        for name in self.persister.abandon() {
            if name != BOOT && name != NODE_KEY {
                self.persister.write(Write::remove(name));
            }
        }
        self.forget_membership();
        self.boot.member = false;
        self.persister.write(self.boot.write());
    }

    /// Forgets, in memory, that this node was ever in a cluster.
    pub(super) fn forget_membership(&mut self) {
        self.logs.drop_shard(&Shard::Cluster);
        (self.belonging, self.root_key) = (None, None);
        self.authors.clear();
        self.pens.clear();
        self.lives.clear();
        self.invites.clear();
        self.unsaved.clear();
        self.changed.clear();
        self.rumours.forget(&Shard::Cluster);
        self.announce_at = None;
        for connection in self.peers.connections().collect::<Vec<_>>() {
            self.close(connection, "this node is in no cluster");
        }
        self.peers = Peers::default();
        self.alive.forget();
        self.membership = Membership::default().into();
        self.membership_changed = true;
    }
}
