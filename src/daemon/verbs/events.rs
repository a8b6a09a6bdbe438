//! Events: what changes, told to who listens, as this node comes to know it.
//!
//! An event is the difference between two looks at the node; so a listener hears what has become of things, and something that
//! came and went between two looks is not told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Answer;
use super::look;
use crate::control::{EventRow, Failure, HealthRow};
use crate::daemon::control::Progress;
use crate::daemon::node::Node;
use crate::sys::clock;

/// How often is looked at what no new membership tells: links and health.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// However fast things change, they are looked at no more often.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Tells `count` events, or all of them until the listener leaves.
pub async fn events(node: &Node, count: Option<u64>, progress: &Progress) -> Result<Answer, Failure> {
    let mut told = 0;
    let mut membership = node.membership.clone();
    let mut seen = Seen::of(node).await?;
    // From here on nothing is missed: whoever hears this may begin with what it wants to hear of.
    let name = node.node_name(&node.membership(), node.id);
    let mut rows = vec![Change::new("listening", node.id.to_string(), format!("node {name}"))];
    loop {
        for change in rows {
            if !progress.event(change.at(clock::unix_ms())).await {
                return Ok(Answer::nothing());
            }
            told += 1;
            if count == Some(told) {
                return Ok(Answer::nothing());
            }
        }
        tokio::time::sleep(LOOK_INTERVAL_MIN).await;
        tokio::select! {
            _ = tokio::time::timeout(LOOK_INTERVAL, membership.changed()) => {}
            () = progress.left() => return Ok(Answer::nothing()),
        }
        let now = Seen::of(node).await?;
        rows = now.changes_since(&seen);
        seen = now;
    }
}

/// An event without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    event: &'static str,
    subject: String,
    message: String,
}

impl Change {
    fn new(event: &'static str, subject: String, message: String) -> Self {
        Self { event, subject, message }
    }

    fn at(self, time_unix_ms: u64) -> EventRow {
        EventRow { time_unix_ms, event: self.event.to_owned(), subject: self.subject, message: self.message }
    }
}

/// What one look saw, each thing by its id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// Name, and whether it is connected; nothing of one that this node does not dial, with which no connection is no news.
    nodes: BTreeMap<String, (String, Option<bool>)>,
    networks: BTreeMap<String, String>,
    containers: BTreeMap<String, SeenContainer>,
    /// By code and what it is about, or else its message; what it says may count seconds.
    health: BTreeMap<(String, String), (String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenContainer {
    /// Address, network and node, in words.
    place: String,
    public_key: String,
    state: String,
}

impl Seen {
    async fn of(node: &Node) -> Result<Self, Failure> {
        let status = look::status_of(node).await?;
        let containers = look::container_rows(node, None).into_iter().map(|row| {
            let place = format!("{} in {} on {}", row.address, row.network, row.node);
            (row.id, SeenContainer { place, public_key: row.public_key, state: row.state })
        });
        Ok(Self {
            nodes: status.peers.into_iter().map(|peer| (peer.node, (peer.name, is_connected(&peer.state)))).collect(),
            networks: status
                .networks
                .into_iter()
                .map(|network| (network.id.clone(), network.name.unwrap_or(network.id)))
                .collect(),
            containers: containers.collect(),
            health: status.health.into_iter().map(health_entry).collect(),
        })
    }

    /// What has become of the things of an earlier look.
    fn changes_since(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, name) in new_in(&self.networks, &before.networks) {
            changes.push(Change::new("network-added", id.clone(), name.clone()));
        }
        for (id, (name, connected)) in &self.nodes {
            let was = before.nodes.get(id).map(|(_, connected)| *connected);
            if was.is_none() {
                changes.push(Change::new("node-joined", id.clone(), name.clone()));
            }
            if let Some(connected) = connected.filter(|_| was.unwrap_or(Some(false)) != *connected) {
                let event = if connected { "node-connected" } else { "node-unreachable" };
                changes.push(Change::new(event, id.clone(), name.clone()));
            }
        }
        for (id, container) in &self.containers {
            let event = match before.containers.get(id) {
                None => "container-attached",
                Some(was) if was.state != container.state => "container-state",
                Some(was) if was.public_key != container.public_key => "container-rekeyed",
                Some(_) => continue,
            };
            changes.push(Change::new(event, id.clone(), format!("{} ({})", container.place, container.state)));
        }
        for (id, container) in new_in(&before.containers, &self.containers) {
            changes.push(Change::new("container-detached", id.clone(), container.place.clone()));
        }
        for (id, (name, _)) in new_in(&before.nodes, &self.nodes) {
            changes.push(Change::new("node-left", id.clone(), name.clone()));
        }
        for (id, name) in new_in(&before.networks, &self.networks) {
            changes.push(Change::new("network-removed", id.clone(), name.clone()));
        }
        for ((code, _), (message, hint)) in new_in(&self.health, &before.health) {
            changes.push(Change::new("health-raised", code.clone(), format!("{message}; try: {hint}")));
        }
        for ((code, _), (message, _)) in new_in(&before.health, &self.health) {
            changes.push(Change::new("health-cleared", code.clone(), message.clone()));
        }
        changes
    }
}

/// A peer that is suspected is still connected: one lost answer is enough for that.
fn is_connected(state: &str) -> Option<bool> {
    match state {
        "undialled" => None,
        state => Some(matches!(state, "connected" | "suspect")),
    }
}

/// What makes it the same row as that of another look, and what is told of it.
fn health_entry(row: HealthRow) -> ((String, String), (String, String)) {
    ((row.code, row.subject.unwrap_or_else(|| row.message.clone())), (row.message, row.hint))
}

/// What the one has and the other has not.
fn new_in<'a, K: Ord, V>(one: &'a BTreeMap<K, V>, other: &'a BTreeMap<K, V>) -> impl Iterator<Item = (&'a K, &'a V)> {
    one.iter().filter(|(key, _)| !other.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(containers: &[(&str, &str)], connected: Option<bool>, health: &[&str]) -> Seen {
        let container = |(id, key): &(&str, &str)| {
            let place = "10.240.0.1 in demo on a".to_owned();
            ((*id).to_owned(), SeenContainer { place, public_key: (*key).to_owned(), state: "ready".to_owned() })
        };
        Seen {
            nodes: connected
                .map(|connected| ("b-id".to_owned(), ("b".to_owned(), Some(connected))))
                .into_iter()
                .collect(),
            networks: BTreeMap::new(),
            containers: containers.iter().map(container).collect(),
            health: health.iter().map(|code| health_entry(health_row(code, None, "m"))).collect(),
        }
    }

    fn health_row(code: &str, subject: Option<&str>, message: &str) -> HealthRow {
        HealthRow {
            code: code.to_owned(),
            severity: "error".to_owned(),
            subject: subject.map(ToOwned::to_owned),
            message: message.to_owned(),
            hint: "h".to_owned(),
        }
    }

    fn events(before: &Seen, now: &Seen) -> Vec<(&'static str, String)> {
        now.changes_since(before).into_iter().map(|change| (change.event, change.subject)).collect()
    }

    #[test]
    fn what_came_changed_and_went_is_told_once_and_what_stayed_is_not() {
        let before = seen(&[("stays", "k"), ("rekeyed", "k"), ("goes", "k")], Some(true), &["old"]);
        let now = seen(&[("stays", "k"), ("rekeyed", "k2"), ("comes", "k")], Some(false), &["new"]);
        let told: Vec<_> = events(&before, &now);
        let expected = [
            ("node-unreachable", "b-id"),
            ("container-attached", "comes"),
            ("container-rekeyed", "rekeyed"),
            ("container-detached", "goes"),
            ("health-raised", "new"),
            ("health-cleared", "old"),
        ];
        assert_eq!(told, expected.map(|(event, subject)| (event, subject.to_owned())));
        assert!(events(&now, &now).is_empty());
    }

    #[test]
    fn a_node_that_joins_is_told_before_it_is_connected_and_one_that_leaves_once() {
        let (nobody, there) = (seen(&[], None, &[]), seen(&[], Some(true), &[]));
        let subject = "b-id".to_owned();
        assert_eq!(events(&nobody, &there), [("node-joined", subject.clone()), ("node-connected", subject.clone())]);
        assert_eq!(events(&there, &nobody), [("node-left", subject)]);
    }

    #[test]
    fn what_only_counts_on_is_no_news() {
        let silent_for = |seconds: u64| {
            let message = format!("node c is down: not heard for {seconds} s");
            let health = health_entry(health_row("node-down", Some("c-id"), &message));
            Seen { health: [health].into_iter().collect(), ..Seen::default() }
        };
        assert_eq!(events(&silent_for(4), &silent_for(5)), []);
        assert_eq!(events(&Seen::default(), &silent_for(4)), [("health-raised", "node-down".to_owned())]);
        assert_eq!(events(&silent_for(4), &Seen::default()), [("health-cleared", "node-down".to_owned())]);
    }

    #[test]
    fn a_lost_answer_and_a_connection_that_nobody_needs_are_no_news() {
        let in_state = |state: &str| {
            let node = ("b-id".to_owned(), ("b".to_owned(), is_connected(state)));
            Seen { nodes: [node].into_iter().collect(), ..Seen::default() }
        };
        let told = |before: &str, now: &str| {
            events(&in_state(before), &in_state(now)).into_iter().map(|(event, _)| event).collect::<Vec<_>>()
        };
        for (before, now) in [("connected", "suspect"), ("suspect", "connected"), ("connected", "undialled")] {
            assert!(told(before, now).is_empty(), "{before} to {now}");
        }
        assert_eq!(told("suspect", "down"), ["node-unreachable"]);
        assert_eq!(told("undialled", "down"), ["node-unreachable"]);
        assert_eq!(told("undialled", "connected"), ["node-connected"]);
        assert_eq!(told("down", "connected"), ["node-connected"]);
    }
}
