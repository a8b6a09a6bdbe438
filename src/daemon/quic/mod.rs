//! QUIC between nodes: who is at the other end is proven by TLS, what they say is bounded.
//!
//! [`Endpoint`] dials and accepts; a [`Link`] is a connection whose peer has proven its node key. Membership is not
//! decided here: a proven key may still be a stranger.

mod endpoint;
mod link;
mod tls;

pub use endpoint::{DialError, Endpoint};
pub use link::{Link, LinkError, MESSAGE_LEN_MAX, PushStream, ReplyStream};
pub use tls::Identity;
