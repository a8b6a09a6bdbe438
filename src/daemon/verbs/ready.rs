//! A container that is starting is looked at until it serves; then names lead to it, for good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::daemon::attachments::{Condition, Local};
use crate::daemon::node::Node;
use crate::membership::{Membership, State};
use crate::sys::clock;

/// How soon is looked again at first, how fast that grows, and how long it takes at last.
const INTERVAL: Duration = Duration::from_millis(200);
const GROWTH: f64 = 1.25;
const INTERVAL_MAX: Duration = Duration::from_secs(2);

/// Looks at the containers that are starting, until the node stops.
pub async fn make_ready(node: &Arc<Node>) {
    let mut at_work = BTreeMap::new();
    // They end with this.
    let mut tasks = JoinSet::new();
    loop {
        at_work.retain(|_, task: &mut tokio::task::AbortHandle| !task.is_finished());
        let membership = node.membership();
        for local in node.attachments.conditional() {
            if !at_work.contains_key(&local.id)
                && is_starting(&membership, &local)
                && let Some(condition) = local.ready_when.clone()
            {
                let id = local.id;
                at_work.insert(id, tasks.spawn(follow(node.clone(), local, condition)));
            }
        }
        tokio::select! {
            () = node.readiness.changed() => {}
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Whether the container's own record says that it is starting. It may be gone, or draining already.
fn is_starting(membership: &Membership, local: &Local) -> bool {
    let network = membership.network(&local.network);
    let container = network.and_then(|network| network.container_at(local.address));
    container.is_some_and(|container| container.id == local.id && container.state == State::Starting)
}

/// Looks at one until it is starting no more.
async fn follow(node: Arc<Node>, local: Local, condition: Condition) {
    let mut membership = node.membership.clone();
    let over = async {
        // An error is the node's end.
        let _ = membership.wait_for(|membership| !is_starting(membership, &local)).await;
    };
    tokio::select! {
        () = over => {}
        () = look_until_ready(&node, &local, &condition) => {}
    }
    node.readiness.forget(local.id);
}

/// Never returns: its record says at last that it is ready, and that ends it.
async fn look_until_ready(node: &Node, local: &Local, condition: &Condition) {
    let (id, began) = (local.id, clock::now());
    let mut interval = INTERVAL;
    loop {
        match node.readiness.look(local, condition).await {
            Ok(()) => {
                let done = node.operate(move |gossip| gossip.set_container_state(id, State::Ready, clock::now()), None);
                match done.await {
                    Ok(Ok(_)) => {
                        let waited_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                        tracing::info!(attachment = %id, condition = %condition.when, waited_ms, "ready");
                        std::future::pending().await
                    }
                    Ok(Err(error)) => node.readiness.note(id, format!("it serves, but {error}")),
                    Err(failure) => node.readiness.note(id, failure.why),
                }
            }
            Err(reason) => {
                tracing::debug!(attachment = %id, condition = %condition.when, reason, "not ready");
                node.readiness.note(id, reason);
            }
        }
        tokio::time::sleep(interval).await;
        interval = interval.mul_f64(GROWTH).min(INTERVAL_MAX);
    }
}
