//! Services: what a service file says, and how one definition differs from another.
//!
//! Everything here is a function of values: no file is opened, no clock is read, nothing is sent. What a person wrote comes
//! in as bytes and goes out as an [`AppDef`](crate::model::AppDef), or as a list of what is wrong with it and where.
//!
//! This room imports `model` and `membership`.

mod claims;
mod diff;
pub mod file;
mod leftover;
mod namespace;
mod select;

pub use claims::{Claim, Dispute, DisputeKind, Front, Ledger, claims, disputes, disputes_among};
pub use diff::{Change, Op, diff};
pub use leftover::{Leftover, leftovers};
pub use namespace::is_public_suffix;
pub use select::{Asker, ByPlace, ByVersion, Service, What, Why};
