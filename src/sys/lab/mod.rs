//! Machines out of namespaces: several nodes and containers on one computer, without root and without any tool.
//!
//! [`Enclosure::spawn`] starts a command in namespaces in which it may do everything and from which nothing leaves;
//! inside, [`Host`]s are network namespaces, joined by cables and bridges, in which commands run and
//! [`Capture`]s listen. What is made there goes with the enclosure's first process.
//!
//! `peerctl demo` and the namespace tests are built of this; the daemon never uses it.

mod capture;
mod enclosure;
mod host;

pub use capture::{Capture, Captured};
pub use enclosure::{EncloseError, Enclosure};
pub(super) use enclosure::{First, Order, run, run_first};
pub use host::Host;
