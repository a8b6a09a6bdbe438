//! The shell: it wires the machines to sockets, clocks and devices.

pub mod config;
pub mod quic;
