//! `peerctl demo`: the whole system on this machine, in namespaces of its own, without root.
//!
//! The program starts itself again inside an enclosure, so that everything the demo makes goes with it, also when it is
//! interrupted; only the folder with the nodes' state is made, and removed, outside.

mod part;
mod stage;
mod story;

use std::ffi::OsString;
use std::path::Path;

use peerd::control::{ExitStatus, Failure};
use peerd::sys::lab::{EncloseError, Enclosure};
use peerd::sys::userns::UserNamespace;

use crate::cli::Demo;
use crate::render::Paint;
use crate::verbs::causes;

pub use part::play;

fn failure(why: impl std::fmt::Display, hint: &str) -> Failure {
    Failure::new(ExitStatus::Failure, "the demo cannot run", why, hint)
}

/// Plays the demo in an enclosure and returns its exit code.
pub fn run(demo: &Demo, json: bool, paint: Paint) -> Result<u8, Failure> {
    if let Some(folder) = &demo.inside {
        return inside(demo, folder, json, paint);
    }
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
        let hint = "chmod 0666 /dev/net/tun as root, as distributions do; if it is missing, modprobe tun";
        return Err(Failure::new(
            ExitStatus::Permission,
            "the demo cannot run",
            format_args!("/dev/net/tun: {error}"),
            hint,
        ));
    }
    let folder = tempfile::Builder::new().prefix("peerd-demo-").tempdir();
    let folder = folder.map_err(|error| failure(error, "is there room in the folder for temporary files?"))?;
    let program = std::env::current_exe().map_err(|error| failure(error, "is /proc mounted?"))?;
    let mut command: Vec<OsString> = vec![
        program.into(),
        "demo".into(),
        "--inside".into(),
        folder.path().into(),
        "--nodes".into(),
        demo.nodes.to_string().into(),
    ];
    command.push(format!("--color={}", if paint.is_on() { "always" } else { "never" }).into());
    command.extend(demo.keep.then(|| "--keep".into()));
    command.extend(json.then(|| "--json".into()));
    let enclosure = Enclosure::spawn(&command, UserNamespace::needed()).map_err(|error| {
        let status =
            if matches!(error, EncloseError::Unshare(_)) { ExitStatus::Permission } else { ExitStatus::Failure };
        let hint = error.advice().unwrap_or("run it as root").to_owned();
        Failure::new(status, "the demo cannot run", causes(&error), hint)
    })?;
    let code = enclosure.wait().map_err(|error| failure(error, "try again"))?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

fn inside(demo: &Demo, folder: &Path, json: bool, paint: Paint) -> Result<u8, Failure> {
    end_on_signals().map_err(|error| failure(error, "try again"))?;
    let mut story = story::Story::new(json, paint);
    let told = story.tell(demo, folder);
    if let Err(error) = told {
        story.broke_off(&error);
        return Ok(ExitStatus::Failure.code());
    }
    Ok(story.end())
}

/// The first process of a process namespace has no default for signals: without this it would ignore them.
fn end_on_signals() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupted, mut terminated) = {
        let _within = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupted.recv() => {}, _ = terminated.recv() => {} }
        });
        // All that runs here ends with this process.
        std::process::exit(130);
    })?;
    Ok(())
}
