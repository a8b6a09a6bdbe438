//! How much of what it ever signed in a shard a node remembers, over all its lives.
//!
//! A life that starts from an older disk signs under a far later boot, so between what it remembered and that boot there may be
//! things that another life signed and only others know. That gap stays until they are heard, however often the node starts
//! again meanwhile: so it is written with the log.

use minicbor::{Decode, Encode};

use crate::membership::Stamp;
use crate::model::{Boot, Seq};

/// How many gaps are kept. Each takes a disk that was set back; the oldest one is forgotten first.
const GAP_COUNT_MAX: usize = 16;

/// Stamps later than `after`, of boots before `before`: what was signed there, if anything was, is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(super) struct Gap {
    #[n(0)]
    after: Stamp,
    #[n(1)]
    before: Boot,
}

impl Gap {
    fn has(self, stamp: Stamp) -> bool {
        self.after < stamp && stamp.boot < self.before
    }
}

/// What of one's own log is remembered: everything up to a stamp, but for gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lives {
    upto: Stamp,
    gaps: Vec<Gap>,
    /// Whether there may be more than that, signed by another life before this one.
    is_in_doubt: bool,
}

impl Lives {
    /// A log that goes as far as `upto`, with gaps that are known.
    pub(super) fn new(upto: Stamp, gaps: Vec<Gap>) -> Self {
        Self { upto, gaps, is_in_doubt: false }
    }

    /// This life may have begun from a disk that was older than what this node signed.
    pub(super) fn doubt(&mut self) {
        self.is_in_doubt = true;
    }

    /// Whether what was signed then is remembered, if anything was.
    pub(super) fn has(&self, stamp: Stamp) -> bool {
        stamp <= self.upto && !self.gaps.iter().any(|gap| gap.has(stamp))
    }

    /// A log that ends with `stamp` was taken up: nothing before it is missing any more.
    pub(super) fn take_up(&mut self, stamp: Stamp) {
        for gap in self.gaps.iter_mut().filter(|gap| gap.has(stamp)) {
            gap.after = stamp;
        }
        self.upto = self.upto.max(stamp);
    }

    /// Something that was signed then is not here, though it may seem so: two machines wrote the log, and one took up what the
    /// other had said until then, but not what came after.
    pub(super) fn miss(&mut self, stamp: Stamp) {
        if !self.has(stamp) {
            return;
        }
        let after = Stamp { seq: Seq(stamp.seq.0.saturating_sub(1)), ..stamp };
        let before = Boot(stamp.boot.0.saturating_add(1));
        match self.gaps.iter_mut().find(|gap| gap.before == before) {
            Some(gap) => gap.after = gap.after.min(after),
            None => self.gaps.push(Gap { after, before }),
        }
        self.gaps.drain(..self.gaps.len().saturating_sub(GAP_COUNT_MAX));
    }

    /// All that was signed under `boot` up to `stamp` is remembered too, which says nothing about what came before that boot.
    pub(super) fn go_on(&mut self, boot: Boot, stamp: Stamp) {
        self.gaps = self.gaps_before(boot);
        self.upto = self.upto.max(stamp);
    }

    /// The gaps of a log whose newest records are of `boot`.
    pub(super) fn gaps_before(&self, boot: Boot) -> Vec<Gap> {
        let mut gaps = self.gaps.clone();
        if self.is_in_doubt && self.upto.boot < boot {
            gaps.push(Gap { after: self.upto, before: boot });
        }
        gaps.drain(..gaps.len().saturating_sub(GAP_COUNT_MAX));
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u64, seq: u64) -> Stamp {
        Stamp { boot: Boot(boot), seq: Seq(seq) }
    }

    #[test]
    fn what_another_life_signed_is_missing_until_it_is_taken_up_however_often_the_node_starts() {
        let mut lives = Lives::new(at(1, 40), Vec::new());
        assert!(lives.has(at(1, 40)) && !lives.has(at(1, 90)));
        // It signs under boot 500, ends, and starts again.
        lives.doubt();
        lives = Lives::new(at(500, 14), lives.gaps_before(Boot(500)));
        assert!(!lives.has(at(1, 90)) && lives.has(at(1, 40)));
        assert!(lives.has(at(500, 14)) && !lives.has(at(500, 15)));
        lives.take_up(at(1, 90));
        assert!(lives.has(at(1, 90)) && !lives.has(at(1, 91)) && lives.has(at(500, 14)));
    }

    #[test]
    fn what_turns_out_to_be_missing_is_a_gap_until_a_log_that_goes_beyond_it_is_taken_up() {
        let mut lives = Lives::new(at(1, 40), Vec::new());
        lives.take_up(at(9, 2));
        lives.miss(at(8, 12));
        assert!(lives.has(at(8, 11)) && !lives.has(at(8, 12)) && !lives.has(at(8, 40)) && lives.has(at(9, 1)));
        for seq in (5..12).rev() {
            lives.miss(at(8, seq));
        }
        assert_eq!(lives.gaps.len(), 1);
        lives.take_up(at(8, 14));
        assert!(lives.has(at(8, 12)) && !lives.has(at(8, 15)));
    }

    #[test]
    fn a_later_boot_in_the_same_life_leaves_the_gap_before_it() {
        let mut lives = Lives::new(at(1, 40), Vec::new());
        lives.doubt();
        lives.go_on(Boot(500), at(500, 3));
        assert!(!lives.has(at(1, 41)) && lives.has(at(500, 3)));
    }

    #[test]
    fn a_node_that_starts_from_its_newest_disk_has_no_gaps() {
        let lives = Lives::new(at(1, 40), Vec::new());
        assert!(lives.gaps_before(Boot(7)).is_empty());
    }

    #[test]
    fn a_node_that_is_set_back_for_ever_keeps_no_more_gaps_than_it_may() {
        let mut lives = Lives::new(at(1, 1), Vec::new());
        for boot in 2..100 {
            lives.doubt();
            lives = Lives::new(at(boot * 10, 1), lives.gaps_before(Boot(boot * 10)));
        }
        assert_eq!(lives.gaps.len(), GAP_COUNT_MAX);
        assert!(!lives.has(at(975, 1)), "the newest one is there");
    }
}
