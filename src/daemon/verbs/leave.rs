//! Leave: the node ends its membership, and itself.

use std::time::Duration;

use super::Answer;
use super::detach::take_off;
use super::drain;
use super::failures::operation;
use crate::control::{ExitStatus, Failure, Left};
use crate::daemon::control::Progress;
use crate::daemon::node::Node;
use crate::gossip::Done;
use crate::sys::clock;

pub async fn leave(node: &Node, release: bool, drain_s: Option<u64>, progress: &Progress) -> Result<Answer, Failure> {
    let what = "cannot leave";
    let before = node.membership();
    if let Some(drain_s) = drain_s {
        let time = drain::time(what, drain_s)?;
        // Nobody drains for a leave that is refused.
        node.call(|engine| engine.gossip.check_leave()).await?.map_err(|error| operation(what, &error, &before))?;
        drain_all(node, what, time, progress).await?;
    }
    let done = node.operate(|gossip| gossip.leave(clock::now()), None).await?;
    match done.map_err(|error| operation(what, &error, &before))? {
        Done::Left => {}
        _ => return Err(Failure::new(ExitStatus::Failure, what, "the node answered something else", "see its log")),
    }
    progress.step("left: this node's containers, addresses and name are given back").await;
    let mut kept = 0;
    for local in node.attachments.list() {
        match node.attachments.claim_held(local.id) {
            Ok((_claim, local)) if release => take_off(node, &local).await,
            _ => kept += 1,
        }
    }
    let answer = Answer::of(Left {
        cluster: before.cluster().map(|cluster| cluster.to_string()).unwrap_or_default(),
        node: node.id.to_string(),
        interfaces_kept: kept,
    });
    Ok(answer.and_stop())
}

/// Drains and detaches what is attached, all at once.
async fn drain_all(node: &Node, what: &str, time: Duration, progress: &Progress) -> Result<(), Failure> {
    let mut draining = Vec::new();
    for local in node.attachments.list() {
        // What somebody else is letting go needs nobody to have it drain.
        if let Ok((claim, local)) = node.attachments.claim_held(local.id) {
            drain::begin(node, what, claim, &local, time).await?;
            draining.push(local.id);
        }
    }
    drain::wait(node, &draining, progress).await;
    drain::let_go_drained(node).await;
    Ok(())
}
