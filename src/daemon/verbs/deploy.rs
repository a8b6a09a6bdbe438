//! Deploy: a version of an application is declared live.

use super::Answer;
use super::failures::{self, label};
use crate::control::{Deployed, ExitStatus, Failure};
use crate::daemon::node::Node;
use crate::membership::body::is_version;
use crate::sys::clock;

pub async fn deploy(node: &Node, app: &str, version: String, network: Option<&str>) -> Result<Answer, Failure> {
    let app = label("an application", app)?;
    let what = format!("cannot deploy {app} {}", version.chars().take(80).collect::<String>().escape_debug());
    if !is_version(&version) {
        let why = "a version has 1 to 128 bytes, none of them a control character";
        return Err(Failure::new(ExitStatus::Usage, what, why, format_args!("peerctl deploy {app} v2")));
    }
    let network = node.network(network)?;
    let (id, of, deployed) = (network.id.clone(), app.clone(), version.clone());
    let done = node.operate(move |gossip| gossip.deploy(&id, of, deployed, clock::now()), None).await?;
    let membership = node.membership();
    done.map_err(|error| failures::operation(&what, &error, &membership))?;

    let ready = network.containers().filter(|container| {
        container.app == app && container.version.as_deref() == Some(&*version) && membership.is_found(container)
    });
    let ready = ready.count();
    let answer =
        Answer::of(Deployed { network: network.id.to_string(), app: app.to_string(), version: version.clone(), ready });
    Ok(if ready > 0 {
        answer
    } else {
        let what_now = "names go on leading to the version before until one is";
        answer.warn("no-ready-container", format!("no container of {app} {version} is ready yet: {what_now}"))
    })
}
