//! The shell: it wires the machines to sockets, clocks and devices, and decides nothing that a machine could.
//!
//! Three threads of ours do the work. The data thread owns the UDP socket, every TUN and the router ([`data`]); the
//! runtime carries QUIC, the gossip machine ([`engine`]) and the control socket ([`control`]); the store thread writes
//! to disk ([`writer`]).

mod addresses;
mod attachments;
pub mod config;
mod control;
pub mod data;
mod engine;
mod forward;
pub mod gateway;
mod gateways;
mod ingress;
mod mailbox;
mod node;
mod quic;
pub mod quic_socket;
mod readiness;
mod resolver;
mod start;
mod tasks;
pub mod usage;
mod verbs;
mod watches;
mod writer;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

pub use verbs::status_of_io;

/// Runs the node until it is told to stop.
pub fn main(args: &config::Args) -> ExitCode {
    if args.print_default_config {
        print!("{}", config::DEFAULT_CONFIG);
        return ExitCode::SUCCESS;
    }
    match start::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where it cannot be written the status alone says it.
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.status.code())
        }
    }
}

/// Where this user's node has its control socket unless told otherwise.
pub fn default_socket() -> PathBuf {
    crate::sys::socket::default_socket()
}
