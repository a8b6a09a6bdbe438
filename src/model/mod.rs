//! The nouns: what the rest of the house talks about, and nothing that acts.
//!
//! Every type here is a plain value that is valid by construction: a [`Vni`] has 24 bits, a [`Label`] is a DNS label,
//! a [`WgPublicKey`] is no low-order point. Whoever holds one need not check it again.
//!
//! This room imports no other room.

mod address;
mod id;
mod key;
mod label;
mod service;

pub use address::{
    CONTAINER_COUNT_MAX, CONTAINER_PREFIX, CONTAINERS, EXTRAS, Ipv4Range, LINK_LOCAL_PREFIX, RESOLVER, RangeError,
};
pub use id::{AttachmentId, Boot, ClusterId, Generation, IdError, NetworkId, NodeId, Rev, Seq, Vni, VniError};
pub use key::{KeyError, NetworkSecret, Psk, WgPublicKey, WgSecret};
pub use label::{Label, LabelError};
pub use service::{
    AppDef, DEFAULT_SERVER, DatabaseDef, DnsBehaviour, LoadBalancing, PortDef, ServerPattern, ServerPatternError,
    ServiceDef,
};
