//! Leave: the node ends its membership, and itself.

use super::Answer;
use super::detach::take_off;
use super::failures::operation;
use crate::control::{ExitStatus, Failure, Left};
use crate::daemon::control::Progress;
use crate::daemon::node::Node;
use crate::gossip::Done;
use crate::sys::clock;

pub async fn leave(node: &Node, release: bool, progress: &Progress) -> Result<Answer, Failure> {
    let what = "cannot leave";
    let before = node.membership();
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
