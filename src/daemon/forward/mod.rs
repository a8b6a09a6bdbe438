//! Questions for names outside: from memory while it holds, else from the node's upstreams.
//!
//! One task owns the memory and what is under way; each question that needs an upstream has a task of its own. Containers of
//! a network that ask the same at once wait for one answer, so a question that came back to where it began waits for itself
//! until its time is up, and no circle of resolvers grows.
//!
//! Nothing here can hold up a private name: the data thread hands questions over and goes on.

mod exchange;
#[cfg(test)]
mod tests;
mod upstreams;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::resolver::{Allowance, Answer, Outside, Question};
use crate::dns::{Cache, Foreign, ForeignKey, Found, Transport};
use crate::model::{AttachmentId, NetworkId};
use crate::sys::clock;

pub use exchange::ask;
pub use upstreams::Upstreams;

/// Where the host says whom it asks; it is read only.
pub const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// About how much memory the answers of all networks take.
const CACHE_BYTES: usize = 8 << 20;
/// Questions at upstreams at once. A further one fails.
const UNDER_WAY_MAX: usize = 1024;
/// A container may have one part in so many of what is free of that: those who ask for names whose servers never answer
/// leave places to one that has none there, and the more of them there are, the fewer each has.
const FREE_PARTS: usize = 8;
/// How many questions of one container go to an upstream in a second.
const UPSTREAM_PER_SECOND: u32 = 200;
/// How often the allowances of containers that have gone are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

type Key = (NetworkId, ForeignKey);

/// Who waits for an answer.
struct Waiting {
    question: Question,
    foreign: Foreign,
}

struct Forwarder<W> {
    outside: Outside,
    upstreams: Arc<Upstreams>,
    cache: Cache,
    under_way: HashMap<Key, Vec<Waiting>>,
    exchanges: JoinSet<(Key, Option<Found>)>,
    allowances: BTreeMap<AttachmentId, Allowance>,
    wake: W,
}

/// Forwards questions until the resolver is gone; `wake` tells it that there are answers.
pub async fn run(outside: Outside, upstreams: Upstreams, wake: impl Fn()) {
    let forwarder = Forwarder {
        outside,
        upstreams: Arc::new(upstreams),
        cache: Cache::new(CACHE_BYTES),
        under_way: HashMap::new(),
        exchanges: JoinSet::new(),
        allowances: BTreeMap::new(),
        wake,
    };
    forwarder.run().await;
}

impl<W: Fn()> Forwarder<W> {
    async fn run(mut self) {
        let mut tidied = clock::now();
        loop {
            tokio::select! {
                question = self.outside.questions.recv() => match question {
                    Some(question) => self.take(question).await,
                    None => return,
                },
                Some(done) = self.exchanges.join_next() => {
                    // An exchange that failed in any other way than by its time limit has a fault of its own.
                    if let Ok((key, found)) = done {
                        self.finish(&key, found).await;
                    }
                }
            }
            let now = clock::now();
            if now.saturating_duration_since(tidied) >= TIDY_INTERVAL {
                tidied = now;
                self.allowances.retain(|_, allowance| !allowance.is_whole(now));
            }
        }
    }

    async fn take(&mut self, question: Question) {
        let transport = question.place.transport();
        let Some(foreign) = Foreign::decode(&question.query, transport) else {
            return self.say(question, Vec::new(), false).await;
        };
        let now = clock::now();
        let key = (question.network.clone(), foreign.key());
        if let Some((found, age_s)) = self.cache.find(&key.0, &key.1, now) {
            let message = foreign.reply(&found, age_s);
            return self.say(question, message, false).await;
        }
        if !self.allow(question.attachment, &key, now) {
            let message = foreign.failure();
            return self.say(question, message, true).await;
        }
        let Some(waiting) = self.under_way.get_mut(&key) else {
            let upstreams = self.upstreams.clone();
            let asked = Foreign::decode(&question.query, Transport::Udp);
            self.under_way.insert(key.clone(), vec![Waiting { question, foreign }]);
            self.exchanges.spawn(async move {
                let found = match asked {
                    Some(asked) => exchange::ask(&upstreams, &asked).await,
                    None => None,
                };
                (key, found)
            });
            return;
        };
        // Each container may have so many under way, so this list is bounded by the number of containers.
        waiting.push(Waiting { question, foreign });
    }

    /// Whether a container may ask; if nobody of its network asks the same, the place is its own until [`Self::finish`].
    fn allow(&mut self, container: AttachmentId, key: &Key, now: Instant) -> bool {
        let allowance =
            self.allowances.entry(container).or_insert_with(|| Allowance::new(now, UPSTREAM_PER_SECOND, u32::MAX));
        let is_asked = self.under_way.contains_key(key);
        let free = UNDER_WAY_MAX.saturating_sub(self.under_way.len());
        let has_place = is_asked || (allowance.under_way() as usize) < free.div_ceil(FREE_PARTS);
        let allowed = has_place && allowance.begin(now);
        if allowed && is_asked {
            allowance.end();
        }
        allowed
    }

    async fn finish(&mut self, key: &Key, found: Option<Found>) {
        let waiting = self.under_way.remove(key).unwrap_or_default();
        let first = waiting.first().and_then(|first| self.allowances.get_mut(&first.question.attachment));
        if let Some(allowance) = first {
            allowance.end();
        }
        let found = found.map(Arc::new);
        if let Some(found) = &found {
            self.cache.insert(&key.0, &key.1, found, clock::now());
        }
        for Waiting { question, foreign } in waiting {
            let message = match &found {
                Some(found) => foreign.reply(found, 0),
                None => foreign.failure(),
            };
            self.say(question, message, false).await;
        }
    }

    async fn say(&self, question: Question, message: Vec<u8>, refused: bool) {
        let Question { attachment, place, .. } = question;
        // The resolver takes answers as fast as it is woken; gone, it needs none.
        if self.outside.answers.send(Answer { attachment, place, message, refused }).await.is_ok() {
            (self.wake)();
        }
    }
}
