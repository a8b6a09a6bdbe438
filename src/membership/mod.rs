//! The cluster's state as a value: records, the laws by which they merge, shares of addresses, and what follows from them.
//!
//! From the bottom up: a [`Record`] is signed and so [`Verified`]; a [`Log`] is the set of records that its newest head
//! covers; [`Logs`] are all that a node holds; [`ClusterState`] and [`NetworkState`] are what follows from them; and
//! [`Membership`] is what the rest of the house sees. What follows never depends on the order in which records came.
//!
//! This room imports `model` only. It does no IO and reads no clock.

mod author;
pub mod body;
mod cluster;
mod delta;
#[cfg(test)]
mod derive_tests;
mod head;
mod log;
mod logs;
mod network;
mod record;
#[cfg_attr(feature = "keyed-hash", path = "keyed_hash.rs")]
mod scheme;
mod shares;
mod signed;
mod taken;
#[cfg(test)]
pub mod testing;
mod view;

pub use author::{OwnLog, Pen};
pub use cluster::ClusterState;
pub use delta::{Delta, Rest, ShortHash};
pub use head::{Head, SetHash};
pub use log::{Applied, ApplyError, Equivocation, LOG_MEMORY_LEN_MAX, LOG_RECORD_COUNT_MAX, Log};
pub use logs::{Logs, ORIGIN_MEMORY_LEN_MAX, PARKED_COUNT_MAX, PROOF_COUNT_MAX};
pub use network::{NetworkState, app_since, container, definition, removal_mark};
pub use record::{KEY_LEN_MAX, Kind, RECORD_LEN_MAX, Record, Shard, Slot, Stamp};
pub use shares::{Holdings, Segment, ranges_of};
pub use signed::{CheckSignatures, SignedHash, SignedHead, SignedRef, Verdicts, Verified, Verifier};
pub use view::{Container, Membership, Network, Node, Order, Role, State};
