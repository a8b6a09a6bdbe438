//! `exec ID -- CMD`: a command beside the one that `run` started.

use peerd::control::{ContainerDetail, ExitStatus, Failure, Request};
use peerd::sys::sandbox;

use super::Session;
use super::run::{NOT_STARTED, causes, environment};
use crate::cli::Exec;

/// Becomes the command; its exit code is the command's.
pub fn exec(session: &Session, exec: Exec) -> Result<u8, Failure> {
    match begin(session, &exec) {
        Ok(never) => match never {},
        Err((code, failure)) => {
            eprintln!("{failure}");
            Ok(code)
        }
    }
}

fn begin(session: &Session, exec: &Exec) -> Result<std::convert::Infallible, (u8, Failure)> {
    let before = |failure| (NOT_STARTED, failure);
    let answer = session.client.ask(&Request::ContainerInspect { id: exec.id.clone() }).map_err(before)?;
    let detail: ContainerDetail = answer.parse().map_err(before)?;
    let row = &detail.row;
    let Some(pid) = detail.local.as_ref().and_then(|local| local.pid) else {
        let what = format!("cannot run a command in container {}", row.id);
        let (why, hint) = match &detail.local {
            None => (format!("node {} hosts it", row.node), "run it there".to_owned()),
            Some(local) => {
                let hint = format!("nsenter --net={} -- CMD", local.netns);
                ("it is a namespace that `run` did not start".to_owned(), hint)
            }
        };
        return Err(before(Failure::new(ExitStatus::NotFound, what, why, hint)));
    };
    let number = row.number.to_string();
    let values = [&detail.network_id, &detail.hostname, &row.address, &row.app, &row.kind, &number];
    let environment = environment(&exec.env_prefix, values.map(String::as_str));
    let command: Vec<_> = exec.command.iter().map(Into::into).collect();
    let error = sandbox::enter(pid, &command, &environment);
    let hint = error.advice().unwrap_or("is the command there, and may it be executed?").to_owned();
    let code = u8::try_from(error.exit_code()).unwrap_or(NOT_STARTED);
    Err((code, Failure::new(ExitStatus::Failure, "cannot run the command", causes(&error), hint)))
}
