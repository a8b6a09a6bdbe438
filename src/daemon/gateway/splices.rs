//! All splices, and whose turn it is.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::splice::Splice;

struct Placed {
    splice: Splice,
    /// Whether it stands in the line of those that may have something to carry.
    queued: bool,
}

/// Readiness is edge-triggered: a splice has its turn when something happens at either end, and again while it says so.
#[derive(Default)]
pub(super) struct Splices {
    places: Vec<Option<Placed>>,
    free: Vec<usize>,
    line: VecDeque<usize>,
    next_number: u64,
}

impl Splices {
    /// Takes one in; it is the next one's turn.
    pub(super) fn insert(
        &mut self,
        registry: &Registry,
        mut splice: Splice,
        token: impl Fn(usize) -> Token,
    ) -> Result<usize, (io::Error, Splice)> {
        let place = self.free.last().copied().unwrap_or(self.places.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.register(&mut SourceFd(&splice.io().as_raw_fd()), token(place), interest) {
            return Err((error, splice));
        }
        if self.free.pop().is_none() {
            self.places.push(None);
        }
        splice.number = self.next_number;
        self.next_number += 1;
        self.places[place] = Some(Placed { splice, queued: false });
        self.ready(place);
        Ok(place)
    }

    pub(super) fn remove(&mut self, registry: &Registry, place: usize) -> Option<Splice> {
        let placed = self.places.get_mut(place)?.take()?;
        self.free.push(place);
        if let Err(error) = registry.deregister(&mut SourceFd(&placed.splice.io().as_raw_fd())) {
            tracing::debug!(%error, "a socket was not being polled");
        }
        Some(placed.splice)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Splice> {
        self.places.get_mut(place)?.as_mut().map(|placed| &mut placed.splice)
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// It may have something to carry.
    pub(super) fn ready(&mut self, place: usize) {
        if let Some(Some(placed)) = self.places.get_mut(place)
            && !std::mem::replace(&mut placed.queued, true)
        {
            self.line.push_back(place);
        }
    }

    /// How many have a turn in this round.
    pub(super) fn ready_count(&self) -> usize {
        self.line.len()
    }

    /// Whose turn it is. It leaves the line.
    pub(super) fn next(&mut self) -> Option<(usize, &mut Splice)> {
        while let Some(place) = self.line.pop_front() {
            // A place may be empty, or of another, since it was put in line.
            if let Some(placed) = &mut self.places[place] {
                placed.queued = false;
                return self.places[place].as_mut().map(|placed| (place, &mut placed.splice));
            }
        }
        None
    }
}
