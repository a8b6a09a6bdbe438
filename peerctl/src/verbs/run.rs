//! `run -- CMD`: a command in namespaces of its own, on a network.

use peerd::control::{Attached, ExitStatus, Failure, Request, Target};
use peerd::sys::sandbox::{Sandbox, SandboxError, SandboxSpec};
use peerd::sys::userns::UserNamespace;

use super::{Session, attach_request};
use crate::cli::Run;

/// What Docker exits with when it failed before the command began.
const NOT_STARTED: u8 = 125;

/// Runs the command; its exit code is the command's.
pub fn run(session: &Session, run: Run) -> Result<u8, Failure> {
    match begin(session, run) {
        Ok(code) => Ok(code),
        Err((code, failure)) => {
            eprintln!("{failure}");
            Ok(code)
        }
    }
}

fn begin(session: &Session, run: Run) -> Result<u8, (u8, Failure)> {
    let before = |failure| (NOT_STARTED, failure);
    let sandboxed = |error: SandboxError| {
        let hint = error.advice().unwrap_or("is the command there, and may it be executed?").to_owned();
        let code = u8::try_from(error.exit_code()).unwrap_or(NOT_STARTED);
        (code, Failure::new(ExitStatus::Failure, "cannot run the command", causes(&error), hint))
    };
    let command = run.command.iter().map(Into::into).collect();
    let mut sandbox =
        Sandbox::spawn(&SandboxSpec { command, user_namespace: UserNamespace::needed() }).map_err(sandboxed)?;

    let request = attach_request(Target::Pid(sandbox.pid()), run.place);
    let answer = session.client.ask(&Request::Attach(Box::new(request))).map_err(before)?;
    let attached: Attached = answer.parse().map_err(before)?;
    for warning in &answer.warnings {
        session.narrate(&format!("warning: {}", warning.message));
    }
    session.narrate(&format!("{} is {} at {}", attached.id, attached.hostname, attached.address));
    let started = sandbox.start(&environment(&attached, &run.env_prefix)).map_err(sandboxed);
    let code = started.and_then(|()| {
        let waited = sandbox.wait();
        waited.map_err(|error| {
            let hint = "peerctl container ls shows whether it still stands";
            before(Failure::new(ExitStatus::Failure, "cannot wait for the command", error, hint))
        })
    });
    // The node would notice by itself within a second or two; told, it knows at once.
    if let Err(failure) = session.client.ask(&Request::Detach { target: attached.id })
        && failure.status != ExitStatus::NotFound
    {
        session.narrate(&failure.to_string());
    }
    Ok(u8::try_from(code?).unwrap_or(u8::MAX))
}

/// What the command finds in its environment.
fn environment(attached: &Attached, prefix: &str) -> Vec<(String, String)> {
    [
        ("PRIVATE_NETWORK_ID", attached.network.clone()),
        ("PRIVATE_HOSTNAME", attached.hostname.clone()),
        ("PRIVATE_IP", attached.address.clone()),
        ("APP_ID", attached.app.clone()),
        ("CONTAINER_TYPE", attached.kind.clone()),
        ("CONTAINER_NUMBER", attached.number.to_string()),
    ]
    .map(|(name, value)| (format!("{prefix}{name}"), value))
    .to_vec()
}

fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", causes(cause)),
        None => error.to_string(),
    }
}
