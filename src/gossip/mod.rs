//! How the cluster's records spread: hello, join, push, sync, and the local operations that write records.
//!
//! [`Gossip`] is a machine. Call one `handle_*` method or one operation, then drain [`Gossip::poll_output`] until it is
//! `None`, and wake it again no later than [`Gossip::next_timeout`]. It opens no socket, reads no clock and no file.
//!
//! What it asks of the shell, per connection between two nodes (mutual TLS on ed25519 keys):
//! - A **push** is one uni stream with one message, ended by FIN.
//! - An **exchange** is one bi stream with one request and one reply, each ended by FIN.
//! - Every message that arrives is first given to a [`Verifier`], on whatever thread the shell likes: signatures are
//!   checked there, never in the machine. It is refused above [`Gossip::message_len_max`] bytes.
//! - A **datagram** may be lost, and is then forgotten. It holds at most [`DATAGRAM_LEN_MAX`] bytes.
//! - A [`Output::Persist`] is written to disk as [`crate::gossip::store`] says, then confirmed. What this node itself
//!   signed leaves it only after that. Its mark is kept beside the disk, for [`Config::kept`] of the next start.

mod agree;
mod alive;
mod api;
mod attach;
mod capacity;
mod claim;
mod define;
mod exchange;
mod files;
mod gate;
mod hearing;
mod hello;
mod home;
pub mod identity;
mod join;
mod leave;
mod lives;
mod machine;
mod message;
mod offers;
mod operations;
mod peers;
mod persist;
mod push;
mod redeem;
mod removal;
mod restore;
mod revocations;
mod secret;
mod settle;
mod space;
pub mod store;
mod supply;
mod sync;
mod timers;
mod token;
mod turns;
mod unsaved;
mod unwritten;

pub use alive::{Liveness, SILENCE};
pub use api::{
    AttachSpec, Attached, Config, ConnectionId, Done, ExchangeId, Invited, JoinError, JoinStep, OperationError,
    OperationId, Output, PersistToken, Space,
};
pub use gate::{ALONE, HeadMark, HeadMarkError, Waiting};
pub use hearing::DATAGRAM_LEN_MAX;
pub use identity::Identity;
pub use machine::Gossip;
pub use message::{MESSAGE_LEN_MAX, MessageError, MessageVerifier, VerifiedMessage};
pub use store::{FileKind, StoreError, Stored, Write};
pub use token::{InviteSpec, Token, TokenError};

#[cfg(test)]
mod tests;
