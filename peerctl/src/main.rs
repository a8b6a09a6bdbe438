//! `peerctl` drives a peerd node, and is the node itself when called as `peerd`.

mod cli;
mod client;
mod demo;
mod qr;
mod render;
mod verbs;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use peerd::control::{ExitStatus, Failure};

use cli::{Cli, Verb};

fn main() -> ExitCode {
    // Helpers that must be single-threaded are this program, called again.
    peerd::sys::helper::run_if_asked();
    let called_as = std::env::args_os().next();
    if called_as.as_deref().and_then(|path| Path::new(path).file_name()) == Some(OsStr::new("peerd")) {
        return peerd::daemon::main(&peerd::daemon::usage::parse());
    }
    let cli: Cli = peerd::daemon::usage::parse();
    match cli.verb {
        Verb::Daemon(args) => peerd::daemon::main(&args),
        Verb::Demo(demo) => finish(demo::run(&demo, cli.global.json, render::Paint::new(cli.global.color))),
        Verb::DemoPart { page } => finish(demo::play(page).map(|()| 0).map_err(|error| {
            Failure::new(
                ExitStatus::Failure,
                "a container of the demo ended",
                format_args!("{error:#}"),
                "peerctl demo",
            )
        })),
        Verb::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "peerctl", &mut script);
            finish(verbs::print(&script).map(|()| 0))
        }
        verb => finish(verbs::carry_out(&cli.global, verb)),
    }
}

fn broken_output(error: std::io::Error) -> Failure {
    Failure::new(ExitStatus::Failure, "cannot write the answer", error, "look at where standard output goes")
}

fn finish(result: Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.status.code())
        }
    }
}
