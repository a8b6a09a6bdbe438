//! Drain: no name leads to a container any more, its connections live on, and it is detached when its time is over.
//!
//! Once begun, a drain is the node's own business: it ends on time whether the caller waits for it or has left, and after a
//! restart of the node too.

use std::time::{Duration, Instant};

use super::attach::blocking;
use super::detach::take_off;
use super::failures::with_causes;
use crate::control::{ExitStatus, Failure};
use crate::daemon::attachments::{Claim, ClaimError, Local};
use crate::daemon::control::Progress;
use crate::daemon::node::Node;
use crate::membership::State;
use crate::model::AttachmentId;
use crate::sys::clock;

/// The longest drain.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);
/// The time that is left is told so often, and every second when no more than that is left.
const TELL_INTERVAL_S: u64 = 5;
/// How often is looked whether all have gone before their time.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The time that a person means to drain for.
pub(super) fn time(what: &str, drain_s: u64) -> Result<Duration, Failure> {
    let time = Duration::from_secs(drain_s);
    if time <= DRAIN_MAX {
        return Ok(time);
    }
    let why = format!("it would drain for {drain_s} s, and at most a day is possible");
    Err(Failure::new(ExitStatus::Usage, what, why, "--drain 30s: as long as an answer of DNS may be kept"))
}

/// Has a container drain from now on. The caller holds its claim.
///
/// # Errors
/// When the disk refuses the note of it. Then it does not drain.
pub(super) async fn begin(
    node: &Node,
    what: &str,
    _claim: Claim,
    local: &Local,
    time: Duration,
) -> Result<(), Failure> {
    let (attachments, id) = (node.attachments.clone(), local.id);
    // The note first: what drains is sure to end.
    let noted = blocking(move || attachments.drain(id, time, clock::now(), clock::unix_ms())).await;
    noted.map_err(|error| {
        let hint = error.advice().unwrap_or("the daemon's log tells more");
        Failure::new(ExitStatus::Failure, what, with_causes(&error), hint)
    })?;
    publish(node, id).await;
    tracing::info!(attachment = %id, time_s = time.as_secs(), "draining");
    Ok(())
}

/// Takes a container that drains out of the names. If the record cannot be written, its time goes on all the same.
pub(super) async fn publish(node: &Node, id: AttachmentId) {
    let done = node.operate(move |gossip| gossip.set_container_state(id, State::Draining, clock::now()), None).await;
    let error = match done {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(failure) => failure.why,
    };
    tracing::warn!(attachment = %id, error, "a container that drains is still named for now");
}

/// Waits until these containers have drained, tells the time that is left, and detaches each; whether the caller was there to
/// the end.
pub(super) async fn follow(node: &Node, ids: &[AttachmentId], progress: &Progress) -> bool {
    let told = tokio::select! {
        () = wait(node, ids, progress) => true,
        // The sweep ends what was begun.
        () = progress.left() => false,
    };
    if told {
        end(node, ids).await;
    }
    told
}

/// Waits until none of these drains, or the last one's time is over.
pub(super) async fn wait(node: &Node, ids: &[AttachmentId], progress: &Progress) {
    let mut told_s: Option<u64> = None;
    loop {
        let last: Option<Instant> = ids.iter().filter_map(|id| node.attachments.drained_at(*id)).max();
        let left = last.map(|last| last.saturating_duration_since(clock::now()));
        let Some(left) = left.filter(|left| !left.is_zero()) else { return };
        // Upwards: what drains for 30 s has 30 s left at first.
        let left_s = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let step_s = if left_s > TELL_INTERVAL_S { TELL_INTERVAL_S } else { 1 };
        if told_s.is_none_or(|told_s| left_s + step_s <= told_s) {
            told_s = Some(left_s);
            progress.step(format!("draining: {left_s} s left")).await;
        }
        tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
    }
}

/// Detaches these, which have drained. What somebody else is detaching is waited for: afterwards all of them have gone.
pub(super) async fn end(node: &Node, ids: &[AttachmentId]) {
    for id in ids {
        while let Err(ClaimError::Busy) = let_go(node, *id).await {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Detaches what has drained, whoever had it drain.
pub(super) async fn let_go_drained(node: &Node) {
    for id in node.attachments.drained(clock::now()) {
        // What is being detached needs nobody else for it.
        let _ = let_go(node, id).await;
    }
}

/// Detaches one unless it drains on: somebody may have given it more time.
async fn let_go(node: &Node, id: AttachmentId) -> Result<(), ClaimError> {
    let (_claim, local) = node.attachments.claim_held(id)?;
    if node.attachments.drained_at(id).is_some_and(|at| at <= clock::now()) {
        take_off(node, &local).await;
    }
    Ok(())
}
