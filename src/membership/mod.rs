//! The cluster's state as a value: records, the laws by which they merge, shares of addresses, and what follows from them.
//!
//! This room imports `model` only. It does no IO and reads no clock.

mod view;

pub use view::{Container, Membership, Network, Node, Role, State};
