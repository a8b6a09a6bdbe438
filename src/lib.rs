//! peerd: private networks for containers, in userspace.
//!
//! The rooms and which may use which are drawn in `docs/architecture.md`; `tests/tidy.rs` holds the code to it.

#[cfg(all(feature = "keyed-hash", any(feature = "daemon", not(debug_assertions))))]
compile_error!("keyed-hash takes the place of signatures in the simulator: nothing that runs is built with it");

pub mod control;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod dns;
pub mod gossip;
pub mod ingress;
pub mod membership;
pub mod model;
pub mod netstack;
pub mod packet;
pub mod router;
pub mod services;
#[cfg(feature = "daemon")]
pub mod sys;
