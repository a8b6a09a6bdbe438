//! What happens because time passes.

use std::time::{Duration, Instant};

use super::api::Output;
use super::machine::Gossip;
use super::secret::SEEK_EVERY;

/// How often housekeeping is done that nothing else brings about.
const TICK: Duration = Duration::from_millis(250);

impl Gossip {
    /// Time has passed: call it when [`Gossip::next_timeout`] is reached; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_housekeeping <= now {
            self.next_housekeeping = now + TICK;
            self.expire_exchanges(now);
            self.expire_wanted(now);
            self.tend_connections(now);
            self.tend_join(now);
            self.tend_leave(now);
            self.sync_round(now);
            self.tend_gates(now);
            if self.announce_at.is_some_and(|at| at <= now) {
                self.announce();
            }
            if self.next_seek <= now {
                self.next_seek = now + SEEK_EVERY;
                self.seek_secrets(now);
                self.tend_rotations(now);
                self.top_up(now);
                self.save_foreign_logs();
            }
            if let Some((token, writes)) = self.persister.retry(now) {
                let mark = self.head_mark(self.boot.boot);
                self.outputs.push_back(Output::Persist { token, writes, mark });
            }
        }
        if self.alive.due() <= now {
            self.tend_alive(now);
        }
        if self.next_ask().is_some_and(|at| at <= now) {
            self.tend_attach_waits(now);
        }
        self.settle(now);
    }

    /// When to call [`Gossip::handle_timeout`] if nothing else happens first.
    pub fn next_timeout(&self) -> Instant {
        let rumours = self.rumours.due().unwrap_or(self.next_housekeeping);
        self.next_housekeeping.min(self.alive.due()).min(rumours).min(self.next_ask().unwrap_or(rumours))
    }
}
