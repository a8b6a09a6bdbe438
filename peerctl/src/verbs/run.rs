//! `run -- CMD`: a command in namespaces of its own, on a network.

use peerd::control::{Attached, ExitStatus, Failure, Request, Target};
use peerd::sys::sandbox::{Sandbox, SandboxError, SandboxSpec};
use peerd::sys::userns::UserNamespace;

use super::Session;
use super::place::attach_request;
use crate::cli::Run;

/// What Docker exits with when it failed before the command began.
pub(super) const NOT_STARTED: u8 = 125;

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

    let request = attach_request(Target::Pid(sandbox.pid()), run.place).map_err(before)?;
    let answer = session.client.ask(&Request::Attach(Box::new(request))).map_err(before)?;
    let attached: Attached = answer.parse().map_err(before)?;
    for warning in &answer.warnings {
        session.narrate(&format!("warning: {}", warning.message));
    }
    session.narrate(&format!("{} is {} at {}", attached.id, attached.hostname, attached.address));
    let started = sandbox.start(&attached_environment(&attached, &run.env_prefix)).map_err(sandboxed);
    let code = started.and_then(|()| {
        let waited = sandbox.wait();
        waited.map_err(|error| {
            let hint = "peerctl container ls shows whether it still stands";
            before(Failure::new(ExitStatus::Failure, "cannot wait for the command", error, hint))
        })
    });
    // The node would notice by itself within a second or two; told, it knows at once.
    if let Err(failure) = session.client.ask(&Request::Detach { target: attached.id, drain_s: None })
        && failure.status != ExitStatus::NotFound
    {
        session.narrate(&failure.to_string());
    }
    Ok(u8::try_from(code?).unwrap_or(u8::MAX))
}

fn attached_environment(attached: &Attached, prefix: &str) -> Vec<(String, String)> {
    let Attached { network, hostname, address, app, kind, number, .. } = attached;
    environment(prefix, [network, hostname, address, app, kind, &number.to_string()])
}

/// What a command finds in its environment: its network's id, its own name and address, application, type and number.
pub(super) fn environment(prefix: &str, values: [&str; 6]) -> Vec<(String, String)> {
    let names =
        ["PRIVATE_NETWORK_ID", "PRIVATE_HOSTNAME", "PRIVATE_IP", "APP_ID", "CONTAINER_TYPE", "CONTAINER_NUMBER"];
    names.into_iter().zip(values).map(|(name, value)| (format!("{prefix}{name}"), value.to_owned())).collect()
}

pub fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", causes(cause)),
        None => error.to_string(),
    }
}
