//! Wait: for something to be so, as this node sees it.

use std::time::Duration;

use super::Answer;
use super::look::find_container;
use super::services;
use crate::control::{Awaited, ExitStatus, Failure, Waited};
use crate::daemon::control::Progress;
use crate::daemon::node::{Node, stopping};
use crate::sys::clock;

/// How often is looked at what no new membership tells.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often nodes are asked whether they hold the same records.
const COMPARE_INTERVAL: Duration = Duration::from_secs(1);

/// Waits until it is so, or the caller has left.
pub async fn wait(node: &Node, awaited: Awaited, timeout_s: u64, progress: &Progress) -> Result<Answer, Failure> {
    let began = clock::now();
    let timeout = Duration::from_secs(timeout_s);
    let mut membership = node.membership.clone();
    let mut compared = None;
    loop {
        membership.mark_unchanged();
        let now = clock::now();
        if awaited == Awaited::Converged && compared.is_none_or(|at| now >= at + COMPARE_INTERVAL) {
            compared = Some(now);
            node.call(|engine| engine.gossip.compare_with_all(clock::now())).await?;
        }
        let Some(why) = missing(node, &awaited, began).await? else {
            let waited_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            return Ok(Answer::of(Waited { waited_ms }));
        };
        if began.elapsed() >= timeout {
            let what = format!("{awaited} is not there after {timeout_s} s");
            return Err(Failure::new(ExitStatus::Timeout, what, why, hint(&awaited)));
        }
        let rest = timeout.saturating_sub(began.elapsed()).min(LOOK_INTERVAL);
        tokio::select! {
            changed = tokio::time::timeout(rest, membership.changed()) => {
                if matches!(changed, Ok(Err(_))) {
                    return Err(stopping());
                }
            }
            // Its place among the conversations is for others.
            () = progress.left() => return Ok(Answer::nothing()),
        }
    }
}

fn hint(awaited: &Awaited) -> &'static str {
    match awaited {
        Awaited::Converged => "peerctl status",
        Awaited::Network(_) => "was it granted to this node? peerctl network grant N NODE, on a node that owns it",
        Awaited::Container(_) | Awaited::Service { .. } => "peerctl container ls",
    }
}

/// What is still missing, if anything.
async fn missing(node: &Node, awaited: &Awaited, since: std::time::Instant) -> Result<Option<String>, Failure> {
    let membership = node.membership();
    Ok(match awaited {
        Awaited::Network(network) => match membership.network_by_text(network) {
            None => Some("this node holds no network of that name or id".to_owned()),
            Some(network) => {
                let vni = network.vni;
                let held = node.call(move |engine| engine.generations.get(&vni).is_some_and(|g| !g.is_empty())).await?;
                (!held).then(|| "its records are here, its secret is not".to_owned())
            }
        },
        Awaited::Container(id) => match find_container(&membership, id) {
            Ok((_, container)) if membership.is_found(&container) => None,
            Ok((_, container)) if membership.is_silent(container.node) => Some("its node is down".to_owned()),
            Ok((_, container)) => Some(format!("it is {}", container.state)),
            Err(failure) => Some(failure.why),
        },
        Awaited::Service { service, network, app } => match node.network(network.as_deref()) {
            Ok(network) => {
                let found = services::find(&network, service, app.as_deref())?;
                let serves = found.is_some_and(|service| !service.ready(&membership, &network).is_empty());
                (!serves).then(|| "no container that is ready serves it".to_owned())
            }
            // A network that is not there may come; which one of several is meant will not.
            Err(failure) if failure.status == ExitStatus::Usage => return Err(failure),
            Err(failure) => Some(failure.why),
        },
        Awaited::Converged if membership.cluster().is_none() => Some("this node is in no cluster".to_owned()),
        Awaited::Converged => {
            let (connected, undialled, disagreeing, unwritten) = node
                .call(move |engine| {
                    let connected: Vec<_> = engine.links().map(|link| link.peer()).collect();
                    let gossip = &engine.gossip;
                    (connected, gossip.undialled(), gossip.disagreeing_since(since), engine.is_unwritten())
                })
                .await?;
            let others = || membership.nodes().map(|other| other.id).filter(|id| *id != node.id);
            let names = |ids: Vec<_>| {
                let names: Vec<String> = ids.into_iter().map(|id| node.node_name(&membership, id)).collect();
                names.join(", ")
            };
            let away: Vec<_> = others().filter(|id| !connected.contains(id) && !undialled.contains(id)).collect();
            if !away.is_empty() {
                Some(format!("not connected: {}", names(away)))
            } else if !disagreeing.is_empty() {
                Some(format!("not found to hold the same records: {}", names(disagreeing)))
            } else {
                unwritten.then(|| "this node's disk refuses its state".to_owned())
            }
        }
    })
}
