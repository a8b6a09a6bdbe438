//! Whose turn it is: all in random order and then all again, so that each has his within as many turns as there are nodes.

use rand_core::RngCore;

use crate::model::NodeId;

#[derive(Default)]
pub(super) struct Turns(Vec<NodeId>);

impl Turns {
    /// Whether all have had their turns.
    pub(super) fn are_over(&self) -> bool {
        self.0.is_empty()
    }

    /// These get turns, in random order.
    pub(super) fn begin(&mut self, mut nodes: Vec<NodeId>, rng: &mut impl RngCore) {
        for left in (1..nodes.len()).rev() {
            nodes.swap(left, (rng.next_u64() % (left as u64 + 1)) as usize);
        }
        self.0 = nodes;
    }

    /// Who comes next. It may have gone since the turns began.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        self.0.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn each_has_one_turn_and_the_order_is_another_one_each_time() {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let nodes: Vec<NodeId> = (0..20).map(|n| NodeId([n; 32])).collect();
        let mut turns = Turns::default();
        let mut round = || {
            assert!(turns.are_over());
            turns.begin(nodes.clone(), &mut rng);
            std::iter::from_fn(|| turns.next()).collect::<Vec<_>>()
        };
        let (one, other) = (round(), round());
        assert_ne!(one, other);
        for mut had in [one, other] {
            had.sort();
            assert_eq!(had, nodes);
        }
    }
}
