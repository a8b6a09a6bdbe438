//! Whole clusters in one thread and virtual time.

mod harness;
mod joining;
mod networks;
