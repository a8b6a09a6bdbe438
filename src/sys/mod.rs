//! The operating system: sockets, devices, clocks. All `unsafe` of the house is in here.
//!
//! Thin: a call here is a system call or two. What to do with them is decided above.

pub mod clock;
pub mod tun_io;
pub mod udp;
