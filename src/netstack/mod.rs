//! TCP in userspace: packets in, streams out.
//!
//! A [`Stack`] listens: one address with one port. A [`Dialler`] dials: one address with streams to whom it likes, and
//! datagrams. Both are machines: they open no socket and read no clock, and no bytes make them panic or grow beyond their
//! bounds. smoltcp is named here alone.

mod device;
mod dialler;
mod flow;
mod pool;
mod resting;
mod segment;
mod stack;
mod stream;

pub use dialler::{CannotDial, Dialler, DiallerConfig};
pub use flow::{Ending, StreamState};
pub use stack::{Config, Stack};
pub use stream::{Stream, StreamId};
