//! Whole clusters in one thread and virtual time.

mod addresses;
mod compromised;
mod definitions;
mod gate;
mod harness;
mod joining;
mod leaving;
mod liveness;
mod networks;
mod removal;
mod revocations;
mod signers;
mod storage;
mod wire;
