//! The daemon: `peerctl` called as `peerd` is the same program.

fn main() -> std::process::ExitCode {
    peerd::sys::helper::run_if_asked();
    peerd::daemon::main(&peerd::daemon::usage::parse())
}
