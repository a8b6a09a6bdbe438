//! The way in: which services the outside reaches, by which containers, and the text that tells nginx so.
//!
//! Everything here is a function of values. [`Plan::of`] reads the membership and says what is to be served on this node:
//! web routes, which nginx serves; host ports and loopback ports, which the gateway serves itself. [`configuration`] writes the
//! routes down for nginx. No file is opened, no process started, no clock read.
//!
//! What a person wrote into a service file reaches the text in three forms only: a port, a [`Label`](crate::model::Label) and a
//! [`ServerPattern`](crate::model::ServerPattern). None of them can hold a character that means something to nginx.

mod certificate;
mod nginx;
mod plan;
mod subnet;
#[cfg(test)]
mod tests;

pub use certificate::Certificate;
pub use nginx::{Http2, Layout, UPSTREAM_DIR, configuration};
pub use plan::{Endpoint, HostPort, LoopbackPort, Plan, Route, ServiceKey, Transport, Web, holds_host_port};
pub use subnet::{Subnet, SubnetError};
