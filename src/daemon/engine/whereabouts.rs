//! Where other nodes are, as far as their links and their own words tell.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::membership::Membership;
use crate::model::NodeId;

/// What the data plane was told of each node, so that it hears of changes only.
#[derive(Debug, Default)]
pub(super) struct Whereabouts(HashMap<NodeId, Known>);

#[derive(Debug)]
struct Known {
    /// The first address at which the node says it listens.
    announced: Option<SocketAddr>,
    told: Option<SocketAddr>,
}

impl Whereabouts {
    /// What is new: a node is where its link comes from; without a link, where it says it listens once it says
    /// something else than before. A link that ends moves nobody, for the node is most likely where it was.
    pub(super) fn update(
        &mut self,
        membership: &Membership,
        links: impl Iterator<Item = (NodeId, SocketAddr)>,
    ) -> Vec<(NodeId, SocketAddr)> {
        let links: HashMap<NodeId, SocketAddr> = links.collect();
        let mut news = Vec::new();
        for node in membership.nodes() {
            let announced = node.endpoints.first().copied();
            let known = self.0.entry(node.id).or_insert(Known { announced: None, told: None });
            let moved = (known.announced != announced).then_some(announced).flatten();
            known.announced = announced;
            if let Some(address) = links.get(&node.id).copied().or(moved)
                && known.told != Some(address)
            {
                known.told = Some(address);
                news.push((node.id, address));
            }
        }
        self.0.retain(|node, _| membership.node(*node).is_some());
        news
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::membership::Node;
    use crate::model::Boot;

    const NODE: NodeId = NodeId([7; 32]);

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn announcing(port: u16) -> Membership {
        let mut membership = Membership::default();
        let name = "a".parse().expect("a label");
        let node = Node { id: NODE, name, endpoints: vec![address(port)], boot: Boot(1), signer: None };
        membership.insert_node(Arc::new(node));
        membership
    }

    #[test]
    fn a_node_is_where_its_link_comes_from_and_stays_there_when_the_link_ends() {
        let mut whereabouts = Whereabouts::default();
        let membership = announcing(1);
        assert_eq!(whereabouts.update(&membership, [].into_iter()), [(NODE, address(1))]);
        assert_eq!(whereabouts.update(&membership, [(NODE, address(2))].into_iter()), [(NODE, address(2))]);
        assert_eq!(whereabouts.update(&membership, [(NODE, address(2))].into_iter()), []);
        assert_eq!(whereabouts.update(&membership, [(NODE, address(3))].into_iter()), [(NODE, address(3))]);
        assert_eq!(whereabouts.update(&membership, [].into_iter()), []);
    }

    #[test]
    fn a_node_without_a_link_is_where_it_says_it_has_gone() {
        let mut whereabouts = Whereabouts::default();
        whereabouts.update(&announcing(1), [(NODE, address(2))].into_iter());
        assert_eq!(whereabouts.update(&announcing(4), [].into_iter()), [(NODE, address(4))]);
        // While it has a link, that counts for more than its words.
        assert_eq!(whereabouts.update(&announcing(5), [(NODE, address(4))].into_iter()), []);
    }

    #[test]
    fn what_is_known_of_a_node_goes_with_it() {
        let mut whereabouts = Whereabouts::default();
        whereabouts.update(&announcing(1), [].into_iter());
        whereabouts.update(&Membership::default(), [].into_iter());
        assert!(whereabouts.0.is_empty());
    }
}
