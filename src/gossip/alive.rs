//! Who is heard: one node's own evidence about the others, and what follows from it.
//!
//! A node watches those that it shares a network with. Whatever is authenticated counts as life: any message, any
//! datagram, any frame of the data plane. Twice a second it asks one of those it has a connection to, and that were silent
//! for a moment, whether they are there. Who does not answer is asked again and again, and is *down* when nothing was heard of it
//! for [`SILENCE`] and several questions went unanswered. Then a few others are told. What they are told is a rumour: it makes
//! them ask for themselves, and has no other effect, so that a liar costs its victims some questions and removes nobody.
//!
//! A node that is down is asked on, slowly. It is back as soon as anything is heard of it.
//!
//! The machine reads no clock and sends nothing: [`Alive::tick`] says whom to ask.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand_core::RngCore;

use super::turns::Turns;
use crate::model::NodeId;

/// Nothing was heard of a node for so long, and it did not answer: it is down.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How often one of those that are watched gets its turn.
const TURN_EVERY: Duration = Duration::from_millis(500);
/// Who was heard so recently need not be asked.
const FRESH: Duration = Duration::from_secs(1);
/// How often a node is asked that does not answer. Of a question and its answer 36 in a hundred are lost where a line loses 20%
/// each way: twelve in a row are then one in 200,000.
const ASK_EVERY: Duration = Duration::from_millis(150);
/// How often one is asked that is down.
const ASK_DOWN_EVERY: Duration = Duration::from_secs(2);
/// How many questions go unanswered before a node is down, over how long: without a connection each is a part of one dial.
const UNANSWERED_MIN: u32 = 12;
const CHECK_MIN: Duration = Duration::from_secs(2);
/// How far the first questions after a rumour are apart, so that its hearers do not all ask at once.
const JITTER_MS: u64 = 500;
/// When this machine was called so late, the process stood still: what it did not hear meanwhile says nothing.
const STOOD_STILL: Duration = Duration::from_millis(1500);

/// How a node is, by this node's own evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    Heard,
    /// It has not answered yet, and was heard a moment ago.
    Suspect,
    /// Its containers are hidden from names, and packets for them are refused.
    Down {
        /// When it was last heard.
        heard: Instant,
    },
}

/// What to do about a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Ask(NodeId),
    /// It is down from now on.
    Lost(NodeId),
}

struct Watch {
    heard: Instant,
    check: Option<Check>,
    is_down: bool,
}

/// A node is being asked.
struct Check {
    since: Instant,
    next: Instant,
    asked: u32,
}

/// The nodes that are watched.
pub(super) struct Alive {
    watched: BTreeMap<NodeId, Watch>,
    /// Whose turn it is; made anew when all had theirs.
    turns: Turns,
    next_turn: Instant,
    last_tick: Instant,
}

impl Alive {
    pub(super) fn new(now: Instant) -> Self {
        Self { watched: BTreeMap::new(), turns: Turns::default(), next_turn: now, last_tick: now }
    }

    /// Watches these nodes and no others. Who is new has a moment to be heard. Whether a node is not down any more, since it
    /// is nobody's business any more.
    pub(super) fn watch(&mut self, nodes: &BTreeSet<NodeId>, now: Instant) -> bool {
        let gone = self.watched.extract_if(.., |node, _| !nodes.contains(node));
        let shown = gone.fold(false, |shown, (_, watch)| shown | watch.is_down);
        for node in nodes {
            self.watched.entry(*node).or_insert(Watch { heard: now, check: None, is_down: false });
        }
        shown
    }

    /// Watches nobody.
    pub(super) fn forget(&mut self) {
        self.watched.clear();
    }

    /// Something authenticated of this node came at `at`; whether it was down and is not any more.
    pub(super) fn heard(&mut self, node: NodeId, at: Instant, now: Instant) -> bool {
        let Some(watch) = self.watched.get_mut(&node) else { return false };
        watch.heard = watch.heard.max(at);
        if now.saturating_duration_since(watch.heard) >= SILENCE {
            return false;
        }
        if watch.check.as_ref().is_some_and(|check| watch.is_down || watch.heard >= check.since) {
            watch.check = None;
        }
        std::mem::take(&mut watch.is_down)
    }

    /// Somebody says that it does not hear this node: it is asked, unless it was heard here.
    pub(super) fn rumour(&mut self, node: NodeId, now: Instant, rng: &mut impl RngCore) {
        let Some(watch) = self.watched.get_mut(&node) else { return };
        if watch.check.is_none() && now.saturating_duration_since(watch.heard) >= SILENCE {
            let next = now + Duration::from_millis(rng.next_u64() % JITTER_MS);
            watch.check = Some(Check { since: next, next, asked: 0 });
        }
    }

    /// When [`Alive::tick`] is to be called.
    pub(super) fn due(&self) -> Instant {
        let checks = self.watched.values().filter_map(|watch| watch.check.as_ref().map(|check| check.next));
        checks.min().map_or(self.next_turn, |next| next.min(self.next_turn))
    }

    /// Whether all had their turns, so that the next [`Alive::tick`] wants to know who gets some.
    pub(super) fn wants_turns(&self, now: Instant) -> bool {
        self.turns.are_over() && self.next_turn <= now
    }

    /// Time has passed. `near` are the nodes that have, or are to have, a connection: they get turns, if that is wanted.
    pub(super) fn tick(&mut self, near: Vec<NodeId>, now: Instant, rng: &mut impl RngCore) -> Vec<Step> {
        if now.saturating_duration_since(self.last_tick) >= STOOD_STILL {
            self.watched.values_mut().for_each(|watch| watch.check = None);
        }
        self.last_tick = now;
        if self.next_turn <= now {
            self.next_turn = now + TURN_EVERY;
            self.take_turn(near, now, rng);
        }
        let mut steps = Vec::new();
        for (node, watch) in &mut self.watched {
            let Some(check) = watch.check.as_mut().filter(|check| check.next <= now) else { continue };
            let silent = now.saturating_duration_since(watch.heard) >= SILENCE;
            let unanswered = check.asked >= UNANSWERED_MIN && now.saturating_duration_since(check.since) >= CHECK_MIN;
            if silent && unanswered && !watch.is_down {
                watch.is_down = true;
                steps.push(Step::Lost(*node));
            }
            check.asked = check.asked.saturating_add(1);
            check.next = now + if watch.is_down { ASK_DOWN_EVERY } else { ASK_EVERY };
            steps.push(Step::Ask(*node));
        }
        steps
    }

    /// Begins to ask the next node that was silent for a moment, and every node that is down and not asked.
    fn take_turn(&mut self, near: Vec<NodeId>, now: Instant, rng: &mut impl RngCore) {
        let begin = || Some(Check { since: now, next: now, asked: 0 });
        for watch in self.watched.values_mut().filter(|watch| watch.is_down && watch.check.is_none()) {
            watch.check = begin();
        }
        if self.turns.are_over() {
            self.turns.begin(near, rng);
        }
        while let Some(node) = self.turns.next() {
            let Some(watch) = self.watched.get_mut(&node) else { continue };
            if watch.check.is_none() && now.saturating_duration_since(watch.heard) >= FRESH {
                watch.check = begin();
                return;
            }
        }
    }

    /// Whether any node is being asked: then what the data plane heard counts.
    pub(super) fn is_asking(&self) -> bool {
        self.watched.values().any(|watch| watch.check.is_some())
    }

    /// The nodes that are down.
    pub(super) fn down(&self) -> BTreeSet<NodeId> {
        self.watched.iter().filter(|(_, watch)| watch.is_down).map(|(node, _)| *node).collect()
    }

    /// `None` of a node that is not watched: it shares no network with this one.
    pub(super) fn state(&self, node: NodeId) -> Option<Liveness> {
        let watch = self.watched.get(&node)?;
        Some(match &watch.check {
            _ if watch.is_down => Liveness::Down { heard: watch.heard },
            // The first question may still be answered.
            Some(check) if check.asked > 1 => Liveness::Suspect,
            _ => Liveness::Heard,
        })
    }
}

#[cfg(test)]
mod tests;
