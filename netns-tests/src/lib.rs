//! Hosts, containers and cables in network namespaces, and what the tests do with them.
//!
//! A test is one closure given to [`in_lab`]. It runs in a process of its own inside private network, mount and pid
//! namespaces (inside a user namespace too, unless root runs it), so that nothing of it can be left behind: when the
//! process ends, its daemons, containers, cables and mounts are gone. There a [`Lab`] makes [`Host`]s on one switch, each
//! with the real daemon, and [`Container`]s; they are driven by the commands that people have.
//!
//! Nothing here sleeps to be safe: whoever waits waits for a condition, with a deadline ([`wait`]).

mod background;
mod capture;
mod container;
mod crowd;
mod figures;
mod host;
mod lab;
mod lookup;
pub mod manual;
mod output;
pub mod relay;
mod sandbox;
pub mod site;
pub mod traffic;
pub mod wait;

pub use background::Background;
pub use capture::{Capture, contains};
pub use container::Container;
pub use figures::{Figures, is_soak, repeats};
pub use host::Host;
pub use lab::Lab;
pub use lookup::Lookup;
pub use output::Output;
pub use sandbox::{in_lab, skip};
pub use site::{curl, nginx_master, nginx_workers, serve_site, status};
