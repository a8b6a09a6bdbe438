//! What has to be on disk before it is true for others: one set of files at a time, and who waits for it.

use std::time::{Duration, Instant};

use super::api::{ConnectionId, Done, ExchangeId, OperationId, PersistToken};
use super::message::Message;
use super::redeem::Redemption;
use super::store::Write;
use crate::membership::{Delta, Shard};

/// How long after a failed write the next try waits.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What happens once the files are written.
pub(super) enum Waiter {
    Done(OperationId, Done),
    /// The invite's consumption is safe: certify the joiner.
    Certify(Redemption),
    /// The certificate is safe: send it.
    Admit(Redemption),
    /// We are in the cluster: go on with Hello.
    Joined,
    /// What a peer asked for is written: tell it.
    Reply(ConnectionId, ExchangeId, Box<Message>),
    /// What we withdraw is safe: tell it, and leave.
    Withdrawn(OperationId),
    /// That we leave is safe: tell it.
    Revoked,
}

/// Files, what they make true, and who waits.
#[derive(Default)]
pub(super) struct Batch {
    pub writes: Vec<Write>,
    /// Written after the others: what says that they must be there.
    last: Vec<Write>,
    /// What we signed: applied to the logs and published afterwards.
    pub deltas: Vec<Delta>,
    pub waiters: Vec<Waiter>,
}

/// Writes batches, one after the other.
#[derive(Default)]
pub(super) struct Persister {
    tokens: u64,
    pending: Batch,
    in_flight: Option<(PersistToken, Batch)>,
    retry_at: Option<Instant>,
}

impl Persister {
    /// Adds a file to the next batch, in the place of an older content. One that is to be written last goes on being so.
    pub fn write(&mut self, write: Write) {
        if let Some(old) = self.pending.last.iter_mut().find(|old| old.name == write.name) {
            *old = write;
            return;
        }
        self.pending.writes.retain(|old| old.name != write.name);
        self.pending.writes.push(write);
    }

    /// Adds a file that is written after those of [`Persister::write`], in the place of an older content.
    pub fn write_last(&mut self, write: Write) {
        self.pending.writes.retain(|old| old.name != write.name);
        self.pending.last.retain(|old| old.name != write.name);
        self.pending.last.push(write);
    }

    /// Publishes `delta` after the next batch.
    pub fn publish(&mut self, delta: Delta) {
        self.pending.deltas.push(delta);
    }

    /// Wakes `waiter` after the next batch.
    pub fn then(&mut self, waiter: Waiter) {
        self.pending.waiters.push(waiter);
    }

    pub fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    pub fn has_pending(&self) -> bool {
        !(self.pending.writes.is_empty() && self.pending.last.is_empty() && self.pending.waiters.is_empty())
    }

    /// Starts the next batch.
    pub fn start(&mut self) -> (PersistToken, Vec<Write>) {
        self.tokens += 1;
        let token = PersistToken(self.tokens);
        let mut batch = std::mem::take(&mut self.pending);
        let last = std::mem::take(&mut batch.last);
        batch.writes.extend(last);
        let writes = batch.writes.clone();
        self.in_flight = Some((token, batch));
        (token, writes)
    }

    /// The batch with this token, once it is on disk; `None` for a token that is not in flight.
    pub fn finish(&mut self, token: PersistToken) -> Option<Batch> {
        self.in_flight.take_if(|(in_flight, _)| *in_flight == token).map(|(_, batch)| batch)
    }

    /// The disk refused: operations of the batch fail, and those that wait behind it, since nobody knows for how long they
    /// would. The files are tried again, for what was signed cannot be unsigned.
    pub fn fail(&mut self, token: PersistToken, now: Instant) -> Vec<Waiter> {
        let Some((_, batch)) = self.in_flight.as_mut().filter(|(in_flight, _)| *in_flight == token) else {
            return Vec::new();
        };
        self.retry_at = Some(now + RETRY_AFTER);
        let mut waiters = std::mem::take(&mut batch.waiters);
        waiters.append(&mut self.pending.waiters);
        waiters
    }

    /// What is to be said in `shard`, in these files, is said no more: they are taken away instead.
    pub fn withdraw(&mut self, shard: &Shard, names: &[String]) {
        self.pending.deltas.retain(|delta| delta.head.head().shard != *shard);
        let Some((_, batch)) = &mut self.in_flight else { return };
        batch.deltas.retain(|delta| delta.head.head().shard != *shard);
        for write in batch.writes.iter_mut().filter(|write| names.contains(&write.name)) {
            *write = Write::remove(write.name.clone());
        }
    }

    /// Gives up all that is to be written; the names of the files of the refused batch, which may be there or not.
    pub fn abandon(&mut self) -> Vec<String> {
        self.retry_at = None;
        self.pending = Batch::default();
        let refused = self.in_flight.take().map(|(_, batch)| batch.writes).unwrap_or_default();
        refused.into_iter().map(|write| write.name).collect()
    }

    /// The files of a failed batch, when it is time to try them again.
    pub fn retry(&mut self, now: Instant) -> Option<(PersistToken, Vec<Write>)> {
        self.retry_at.take_if(|at| *at <= now)?;
        let (token, batch) = self.in_flight.as_ref()?;
        Some((*token, batch.writes.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::store::FileKind;

    #[test]
    fn a_file_is_written_once_with_its_newest_content_and_the_last_stays_last() {
        let write = |name: &str, content: u8| Write::new(name, FileKind::Boot, &[content]);
        let mut persister = Persister::default();
        persister.write(write("boot", 1));
        persister.write_last(write("cluster", 1));
        persister.write_last(write("boot", 2));
        persister.write(write("own-log", 1));
        persister.write(write("boot", 3));
        persister.write_last(write("cluster", 2));
        let (_, writes) = persister.start();
        assert!(writes == [write("own-log", 1), write("boot", 3), write("cluster", 2)]);
        persister.write(write("boot", 4));
        assert!(persister.pending.writes == [write("boot", 4)], "another batch begins anew");
    }
}
