//! Which container a caller was given, so that it gets the same again.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::model::{AttachmentId, Label};

/// Asked again within this time of its last answer, a caller gets the same container.
const KEPT: Duration = Duration::from_secs(60);
/// How many names' containers are kept for one caller.
const NAMES_MAX: usize = 256;

/// The containers that every attachment of this node was given; bounded by their number.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    callers: BTreeMap<AttachmentId, HashMap<(Label, Box<str>), Given>>,
}

#[derive(Debug)]
struct Given {
    container: AttachmentId,
    answered: Instant,
}

impl Sticky {
    /// The container that the caller was given under this name within the last minute, if it is among the `candidates`; else
    /// `fresh`. Whichever it is counts as given now.
    pub(super) fn pick(
        &mut self,
        caller: AttachmentId,
        (app, name): (&Label, &str),
        now: Instant,
        candidates: &[AttachmentId],
        fresh: impl FnOnce() -> AttachmentId,
    ) -> AttachmentId {
        let names = self.callers.entry(caller).or_default();
        let key = (app.clone(), name.into());
        let kept = names.get(&key).filter(|given| now.saturating_duration_since(given.answered) <= KEPT);
        let kept = kept.map(|given| given.container).filter(|kept| candidates.contains(kept));
        if names.len() >= NAMES_MAX && !names.contains_key(&key) {
            names.retain(|_, given| now.saturating_duration_since(given.answered) <= KEPT);
            if names.len() >= NAMES_MAX {
                names.clear();
            }
        }
        let container = kept.unwrap_or_else(fresh);
        names.insert(key, Given { container, answered: now });
        container
    }

    pub(super) fn forget(&mut self, caller: AttachmentId) {
        self.callers.remove(&caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::tests::start;

    const CALLER: AttachmentId = AttachmentId([1; 8]);
    const A: AttachmentId = AttachmentId([10; 8]);
    const B: AttachmentId = AttachmentId([11; 8]);

    #[test]
    fn the_minute_slides_and_what_is_gone_is_given_no_more() {
        let (mut sticky, app) = (Sticky::default(), "shop".parse::<Label>().expect("a label"));
        let mut now = start();
        let mut pick = |after_s, candidates: &[AttachmentId], fresh| {
            now += Duration::from_secs(after_s);
            sticky.pick(CALLER, (&app, "api"), now, candidates, || fresh)
        };
        assert_eq!(pick(0, &[A, B], A), A);
        // 50 s after each answer, for longer than a minute in all.
        assert_eq!([pick(50, &[A, B], B), pick(50, &[A, B], B), pick(60, &[A, B], B)], [A, A, A]);
        assert_eq!(pick(61, &[A, B], B), B, "a minute without a question is over");
        assert_eq!(pick(1, &[A], A), A, "it drained");
        assert_eq!(pick(1, &[A, B], B), A, "and what came instead is kept");
    }

    #[test]
    fn what_is_kept_for_a_caller_is_bounded_and_goes_with_it() {
        let (mut sticky, app, now) = (Sticky::default(), "shop".parse::<Label>().expect("a label"), start());
        for n in 0..10 * NAMES_MAX {
            sticky.pick(CALLER, (&app, &format!("s{n}")), now, &[A], || A);
        }
        assert!(sticky.callers[&CALLER].len() <= NAMES_MAX);
        sticky.forget(CALLER);
        assert!(sticky.callers.is_empty());
    }
}
