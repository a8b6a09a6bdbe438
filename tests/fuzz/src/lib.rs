//! What bytes of a stranger reach, as functions of bytes: `cargo fuzz` calls them with what it makes up, `tests/corpus`
//! with the files in `corpus/`.
//!
//! Each checks what must hold for any bytes, and says whether it took these for something.

mod cluster;
mod dialled;
mod member;
mod names;
mod packets;
mod records;
mod texts;

pub use cluster::Cluster;
pub use dialled::{dialled, dialling};
pub use member::member;
pub use names::{tcp, upstream};
pub use packets::{datagram, device, dns, frame, pair_of_routers};
pub use records::{message, record, state};
pub use texts::{control, service_file, token};

/// A function that is fuzzed, and the folder of its corpus.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const TARGETS: [Target; 14] = [
    ("control", control),
    ("datagram", datagram),
    ("device", device),
    ("dialled", dialled),
    ("dns", dns),
    ("frame", frame),
    ("member", member),
    ("message", message),
    ("record", record),
    ("service_file", service_file),
    ("state", state),
    ("tcp", tcp),
    ("token", token),
    ("upstream", upstream),
];
