//! The cluster's state as a value: records, the laws by which they merge, shares of addresses, and what follows from them.
//!
//! This room imports `model` only. It does no IO and reads no clock.

pub mod body;
mod delta;
mod head;
mod record;
mod signed;
mod view;

pub use delta::{Delta, Rest, ShortHash};
pub use head::{Head, SetHash};
pub use record::{KEY_LEN_MAX, Kind, RECORD_LEN_MAX, Record, Shard, Slot, Stamp};
pub use signed::{CheckSignatures, SignedHash, SignedHead, SignedRef, Verdicts, Verified, Verifier};
pub use view::{Container, Membership, Network, Node, Role, State};
