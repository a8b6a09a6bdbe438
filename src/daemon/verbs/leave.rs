//! Leave: the node ends its membership, and itself.

use std::time::Duration;

use super::Answer;
use super::detach::take_off;
use super::drain;
use super::failures::operation;
use crate::control::{ExitStatus, Failure, Left};
use crate::daemon::control::Progress;
use crate::daemon::node::Node;
use crate::gossip::{Done, OperationError};
use crate::sys::clock;

pub async fn leave(node: &Node, release: bool, drain_s: Option<u64>, progress: &Progress) -> Result<Answer, Failure> {
    let what = "cannot leave";
    let before = node.membership();
    let time = drain_s.map(|drain_s| drain::time(what, drain_s)).transpose()?;
    // Nothing is drained or withdrawn for a leave that is refused.
    node.call(|engine| engine.gossip.check_leave()).await?.map_err(|error| operation(what, &error, &before))?;
    if let Some(time) = time {
        drain_all(node, what, time, progress).await?;
    }
    let done = {
        let _leaving = node.leaving.begin();
        node.operate(|gossip| gossip.leave(clock::now()), None).await?
    };
    let cut_short = |error: OperationError| {
        let failure = operation(what, &error, &before);
        let hint =
            format!("{}; its containers are withdrawn already, and leaving again goes on from there", failure.hint);
        Failure { hint, ..failure }
    };
    match done.map_err(cut_short)? {
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
    drain::end(node, &draining).await;
    Ok(())
}
