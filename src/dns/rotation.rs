//! Whose turn it is: each caller sees the addresses of a name begin one further with every query.

use std::collections::{BTreeMap, HashMap};

use crate::model::{AttachmentId, Label};

/// How many names' turns are kept for one caller.
const NAMES_MAX: usize = 256;

/// By what kind of name the addresses are asked for: a type and a service may be called alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum View {
    Type,
    Service,
}

/// The turns of every attachment of this node; bounded by their number.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    callers: BTreeMap<AttachmentId, Turns>,
}

#[derive(Debug, Default)]
struct Turns {
    by_name: HashMap<(View, Label, Box<str>), u32>,
    /// Turns taken under any name. A name that is new here starts from it, so that forgetting does not mean
    /// that the same address is first again.
    taken: u32,
}

impl Rotation {
    /// The turn of this query for the containers of a type or of a service.
    pub(super) fn next(&mut self, caller: AttachmentId, view: View, (app, name): (&Label, &str)) -> u32 {
        let turns = self.callers.entry(caller).or_default();
        turns.taken = turns.taken.wrapping_add(1);
        let key = (view, app.clone(), name.into());
        if turns.by_name.len() >= NAMES_MAX && !turns.by_name.contains_key(&key) {
            turns.by_name.clear();
        }
        let turn = turns.by_name.entry(key).or_insert(turns.taken);
        let this = *turn;
        *turn = this.wrapping_add(1);
        this
    }

    pub(super) fn forget(&mut self, caller: AttachmentId) {
        self.callers.remove(&caller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLER: AttachmentId = AttachmentId([1; 8]);

    fn label(text: &str) -> Label {
        text.parse().expect("a label")
    }

    #[test]
    fn two_names_asked_in_turn_each_advance_by_one() {
        let (mut rotation, app) = (Rotation::default(), label("shop"));
        let mut turns = |kind: &str| rotation.next(CALLER, View::Type, (&app, kind));
        let web = [
            turns("web"),
            {
                turns("db");
                turns("web")
            },
            {
                turns("db");
                turns("web")
            },
        ];
        assert_eq!((web[1], web[2]), (web[0] + 1, web[0] + 2));
    }

    #[test]
    fn what_is_kept_for_a_caller_is_bounded_and_goes_with_it() {
        let (mut rotation, app) = (Rotation::default(), label("shop"));
        for n in 0..10 * NAMES_MAX {
            rotation.next(CALLER, View::Service, (&app, &format!("type{n}")));
        }
        assert!(rotation.callers[&CALLER].by_name.len() <= NAMES_MAX);
        rotation.forget(CALLER);
        assert!(rotation.callers.is_empty());
    }

    #[test]
    fn more_names_than_are_kept_still_rotate() {
        let (mut rotation, app) = (Rotation::default(), label("shop"));
        let mut firsts = [0; 2];
        for _ in 0..20 {
            for n in 0..=NAMES_MAX {
                let turn = rotation.next(CALLER, View::Service, (&app, &format!("type{n}")));
                if n == 0 {
                    firsts[turn as usize % 2] += 1;
                }
            }
        }
        assert!(firsts.iter().all(|&count| count > 0), "{firsts:?}");
    }
}
