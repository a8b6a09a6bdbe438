//! QUIC between nodes: who is at the other end is proven by TLS, what they say is bounded.
//!
//! [`Endpoint`] dials and accepts; a [`Link`] is a connection whose peer has proven its node key. Membership is not
//! decided here: a proven key may still be a stranger.

mod door;
mod endpoint;
mod link;
#[cfg(test)]
mod tests;
mod tls;

pub use endpoint::Endpoint;
pub use link::{Link, LinkError, PushStream, ReplyStream};
