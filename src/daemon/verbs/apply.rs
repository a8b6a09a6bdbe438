//! Service files: applied, refused where somebody else holds what they say, and taken back.

use std::sync::Arc;

use super::Answer;
use super::failures::{label, operation};
use crate::control::{Applied, ChangeRow, ExitStatus, Failure};
use crate::daemon::node::Node;
use crate::gossip::OperationError;
use crate::membership::Network;
use crate::model::AppDef;
use crate::services::file::{self, Options, Parsed, Problems};
use crate::services::{Change, Leftover, Op, diff, disputes, leftovers};
use crate::sys::clock;

/// Defines an application as its service file says, or tells what would change.
///
/// The text comes from peerctl, which has read it already: it is read again here, since anybody may speak on the socket.
pub async fn apply(
    node: &Node,
    network: Option<&str>,
    app: Option<&str>,
    text: &str,
    dry_run: bool,
) -> Result<Answer, Failure> {
    let app = app.map(|app| label("an application", app)).transpose()?;
    let Parsed { def, warnings } = file::parse(text.as_bytes(), &Options { app }).map_err(|found| invalid(&found))?;
    let network = node.network(network)?;
    let what = format!("cannot define application {} in network {}", def.id, network.display_name());
    let refuse = |error| operation(&what, &error, &node.membership());
    let (id, checked) = (network.id.clone(), def.clone());
    node.call(move |engine| engine.gossip.check_app(&id, &checked)).await?.map_err(refuse)?;
    check_ports(&network, &def, &what)?;

    let before = network.definition(def.id.as_str()).map(Arc::as_ref);
    let applied = applied(&network, &def, diff(before, Some(&def)), dry_run);
    let left = before.map_or_else(Vec::new, |before| leftovers(&network, before, Some(&def)));
    if !dry_run && !applied.changes.is_empty() {
        let id = network.id.clone();
        let done = node.operate(move |gossip| gossip.define_app(&id, def, clock::now()), None).await?;
        done.map_err(refuse)?;
    }
    let answer = warnings.iter().fold(Answer::of(applied), |answer, warning| {
        answer.warn("service-file", format!("{}: {}: {}", warning.at, warning.what, warning.why))
    });
    Ok(tell_left(answer, &left))
}

/// Takes back what a service file said of an application, or tells what would change. Containers stay as they are.
pub async fn remove(node: &Node, network: Option<&str>, app: &str, dry_run: bool) -> Result<Answer, Failure> {
    let app = label("an application", app)?;
    let network = node.network(network)?;
    let what = format!("cannot remove the services of application {app} from network {}", network.display_name());
    let refuse = |error| operation(&what, &error, &node.membership());
    let id = network.id.clone();
    node.call(move |engine| engine.gossip.check_owner(&id)).await?.map_err(refuse)?;
    let Some(def) = network.definition(app.as_str()) else { return Err(refuse(OperationError::NoDefinition(app))) };

    let applied = applied(&network, def, diff(Some(def), None), dry_run);
    let left = leftovers(&network, def, None);
    if !dry_run {
        let id = network.id.clone();
        let done = node.operate(move |gossip| gossip.undefine_app(&id, app, clock::now()), None).await?;
        done.map_err(refuse)?;
    }
    Ok(tell_left(Answer::of(applied), &left))
}

fn applied(network: &Network, def: &AppDef, changes: Vec<Change>, dry_run: bool) -> Applied {
    Applied {
        network: network.display_name().to_owned(),
        app: def.id.to_string(),
        namespace: def.namespace.to_string(),
        dry_run,
        changes: changes
            .into_iter()
            .map(|change| ChangeRow { op: word(change.op).to_owned(), subject: change.subject, detail: change.detail })
            .collect(),
    }
}

/// Adds which containers go on without what is said of them no more.
fn tell_left(answer: Answer, left: &[Leftover]) -> Answer {
    left.iter().fold(answer, |answer, Leftover { name, containers, is_named }| {
        let names = match is_named {
            true => "its name leads to them as it does without a service file",
            false => "no name leads to them any more",
        };
        let stay = format!("{name}: {containers} container(s) stay, and {names}");
        answer.warn("containers-left", format!("{stay}; peerctl detach ID --drain 30s takes one away"))
    })
}

fn invalid(problems: &Problems) -> Failure {
    let first = problems.first();
    let what = format!("cannot use the service file: {}: {}", first.at, first.what);
    let why = match problems.iter().len() - 1 {
        0 => first.why.clone(),
        more => format!("{}; and {more} more", first.why),
    };
    Failure::new(ExitStatus::InvalidFile, what, why, &first.hint)
}

/// Refuses ports and server names that other applications of the network hold. Another node may say the same at this moment:
/// then both stand, and the one that was said first is heeded.
fn check_ports(network: &Network, def: &AppDef, what: &str) -> Result<(), Failure> {
    let found = disputes(def, network.definitions().map(AsRef::as_ref));
    let Some(first) = found.first() else { return Ok(()) };
    let why = match found.len() - 1 {
        0 => first.to_string(),
        more => format!("{first}; and {more} more"),
    };
    Err(Failure::new(ExitStatus::Conflict, what, why, first.kind.hint()))
}

fn word(op: Op) -> &'static str {
    match op {
        Op::Add => "add",
        Op::Remove => "remove",
        Op::Change => "change",
    }
}
